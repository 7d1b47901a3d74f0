//! L2 policies of loads: what a launch reads once leaves L2 first.

use super::value::{Lowered, View};
use super::{Lowering, internal};
use crate::error::LowerError;
use crate::gpu::launch::STREAMED;
use std::rc::Rc;
use tile_ir::types::{Op, Val, array_attr};

/// How an instruction of inline assembly names its policy; empty for one that has none.
pub(super) struct Hint<'c> {
    pub modifier: &'static str,
    /// The operand, behind all others.
    pub operand: String,
    pub constraint: &'static str,
    pub policy: Option<Val<'c>>,
}

impl<'c> Hint<'c> {
    /// The policy is the inline assembly's operand of this number.
    pub fn of(policy: Option<Val<'c>>, number: usize) -> Hint<'c> {
        match policy {
            Some(_) => Hint {
                modifier: ".L2::cache_hint",
                operand: format!(", ${number}"),
                constraint: ",l",
                policy,
            },
            None => Hint { modifier: "", operand: String::new(), constraint: "", policy },
        }
    }
}

impl<'c> Lowering<'c> {
    /// Gives the tensors that `stream-loads` has found the policy `evict_first` (PTX ISA 9.0, createpolicy).
    pub(super) fn bind_policies(
        &mut self,
        function: Op<'c>,
        arguments: &[Val<'c>],
    ) -> Result<(), LowerError> {
        let Some(streamed) = array_attr(function, STREAMED) else { return Ok(()) };
        let wide = self.e.types.i64;
        let text = "createpolicy.fractional.L2::evict_first.b64 $0;";
        let policy = Some(self.e.in_prologue(|e| e.pure_asm(text, "=l", &[], wide)));
        for number in streamed {
            let tensor = usize::try_from(number).ok().and_then(|number| arguments.get(number).copied());
            let tensor = tensor.ok_or_else(|| internal(function, "no such argument is read once"))?;
            let view = self.view(function, tensor)?;
            self.set(tensor, Lowered::View(Rc::new(View { policy, ..(*view).clone() })));
        }
        Ok(())
    }
}
