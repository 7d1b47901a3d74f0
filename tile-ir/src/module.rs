//! A module that holds one kernel.

use crate::context::{Message, TileContext};
use crate::types::{Blk, Op};
use melior::ir::operation::{OperationLike, OperationPrintingFlags};
use melior::ir::{BlockLike, Location, RegionLike};

/// A text that is not a module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The syntax is wrong, or an operation breaks the rules of its dialect.
    #[error("the text is not valid IR: {}", .0.iter().map(Message::to_string).collect::<Vec<_>>().join("; "))]
    Syntax(Vec<Message>),
    /// There is not exactly one function.
    #[error("the text has {0} functions; a module holds one kernel")]
    Functions(usize),
}

/// One kernel in IR.
#[derive(Debug)]
pub struct Module<'c> {
    context: &'c TileContext,
    mlir: melior::ir::Module<'c>,
}

impl<'c> Module<'c> {
    /// An empty module, to which a builder adds the function.
    pub fn empty(context: &'c TileContext, location: Location<'c>) -> Module<'c> {
        Module { context, mlir: melior::ir::Module::new(location) }
    }

    /// Reads what [`Module::to_text`] or [`Module::to_text_with_locations`] printed, or text in MLIR's syntax.
    pub fn parse(context: &'c TileContext, text: &str) -> Result<Module<'c>, ParseError> {
        context.take_messages();
        let Some(mlir) = melior::ir::Module::parse(context, text) else {
            return Err(ParseError::Syntax(context.take_messages()));
        };
        let module = Module { context, mlir };
        match module.functions().len() {
            1 => Ok(module),
            count => Err(ParseError::Functions(count)),
        }
    }

    /// The context it lives in.
    pub fn context(&self) -> &'c TileContext {
        self.context
    }

    /// The MLIR module.
    pub fn mlir(&self) -> &melior::ir::Module<'c> {
        &self.mlir
    }

    /// The MLIR module, to run MLIR's passes over.
    pub fn mlir_mut(&mut self) -> &mut melior::ir::Module<'c> {
        &mut self.mlir
    }

    /// The block that holds the function.
    pub fn top(&self) -> Blk<'c> {
        // SAFETY: the block lives as long as the module, whose operations are only reached through it.
        unsafe { Blk::from_raw(self.mlir.body().to_raw()) }
    }

    fn functions(&self) -> Vec<Op<'c>> {
        crate::types::ops_of(self.top()).filter(|op| crate::types::name_of(*op) == "func.func").collect()
    }

    /// The kernel's function.
    ///
    /// # Panics
    /// When the module is still empty.
    pub fn function(&self) -> Op<'c> {
        self.functions().first().copied().expect("the module has a function")
    }

    /// The kernel's name.
    pub fn name(&self) -> String {
        crate::types::str_attr(self.function(), "sym_name").unwrap_or_default()
    }

    /// The function's entry block; its arguments are the kernel's.
    pub fn entry(&self) -> Blk<'c> {
        self.function().region(0).ok().and_then(|r| r.first_block()).expect("the function has a body")
    }

    /// The text form, without locations. [`Module::parse`] reads it back.
    pub fn to_text(&self) -> String {
        self.mlir.as_operation().to_string()
    }

    /// The text form with the kernel's source line at each operation.
    pub fn to_text_with_locations(&self) -> String {
        let flags = OperationPrintingFlags::new().enable_debug_info(true, false);
        self.mlir.as_operation().to_string_with_flags(flags).unwrap_or_default()
    }

    /// The text form with every operation in MLIR's generic syntax.
    pub fn to_generic_text(&self) -> String {
        let flags = OperationPrintingFlags::new().print_generic_operation_form();
        self.mlir.as_operation().to_string_with_flags(flags).unwrap_or_default()
    }
}

impl Clone for Module<'_> {
    fn clone(&self) -> Self {
        // SAFETY: the clone is a fresh operation that nothing else owns.
        let copy = unsafe {
            melior::ir::Operation::from_raw(mlir_sys::mlirOperationClone(self.mlir.as_operation().to_raw()))
        };
        let mlir = melior::ir::Module::from_operation(copy).expect("a module's clone is a module");
        Module { context: self.context, mlir }
    }
}
