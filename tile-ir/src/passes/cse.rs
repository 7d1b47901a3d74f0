//! `cse`: computes equal values once.
//!
//! Input and output: the tile level. Two operations are equal when name, operands, attributes and result types
//! are; the later one is replaced by the earlier where the earlier dominates it. Loads take part when the kernel
//! writes no tensor of theirs. Invariant: the order of operations stays.

use super::effects::{Effect, effect, raw, written_views};
use crate::module::Module;
use crate::types::{Blk, Op, Val, blocks_of, erase, operands_of, ops_of, replace_uses, results_of, type_of};
use melior::ir::AttributeLike;
use melior::ir::operation::OperationLike;
use melior::ir::r#type::TypeLike;
use std::collections::HashMap;

/// What makes two operations equal; addresses stand for what MLIR keeps once a context.
type Key = (usize, Vec<usize>, Vec<usize>, Vec<(usize, usize)>);

pub(super) fn run(module: &mut Module) {
    let written = written_views(module).into_iter().map(raw).collect();
    let mut cse = Cse { written, scopes: Vec::new() };
    cse.block(module.entry());
}

struct Cse<'c> {
    written: Vec<usize>,
    /// What is available here, by enclosing block.
    scopes: Vec<HashMap<Key, Vec<Val<'c>>>>,
}

impl<'c> Cse<'c> {
    fn block(&mut self, block: Blk<'c>) {
        self.scopes.push(HashMap::new());
        for op in ops_of(block).collect::<Vec<_>>() {
            if self.reusable(op) {
                let key = key(op);
                if let Some(earlier) = self.scopes.iter().find_map(|scope| scope.get(&key)) {
                    for (old, new) in results_of(op).into_iter().zip(earlier) {
                        replace_uses(old, *new);
                    }
                    erase(op);
                    continue;
                }
                let scope = self.scopes.last_mut().expect("inside a block");
                scope.insert(key, results_of(op));
            }
            for inner in blocks_of(op) {
                self.block(inner);
            }
        }
        self.scopes.pop();
    }

    fn reusable(&self, op: Op<'c>) -> bool {
        match effect(op) {
            Effect::Pure | Effect::Guarded => true,
            Effect::Read(view) => !self.written.contains(&raw(view)),
            Effect::Write(_) | Effect::Nested | Effect::Fixed => false,
        }
    }
}

fn key(op: Op) -> Key {
    let mut attributes: Vec<_> = op
        .attributes()
        .map(|(name, value)| (name.as_string_ref().to_raw().data as usize, value.to_raw().ptr as usize))
        .collect();
    attributes.sort_unstable();
    let operands = operands_of(op).into_iter().map(raw).collect();
    let types = results_of(op).into_iter().map(|v| type_of(v).to_raw().ptr as usize).collect();
    (op.name().as_string_ref().to_raw().data as usize, operands, types, attributes)
}
