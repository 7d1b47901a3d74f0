//! Applies masks only in the iterations of a loop that need them.
//!
//! Input and output: the tile dialect. The work is [`tile_ir::passes::split_masks`]'s; what it computes of bounds
//! leaves the loops that do not change it, and what only the mask used falls away. Invariant: every value keeps its
//! bits.

use super::{Pass, PassContext};
use tile_ir::Module;
use tile_ir::passes::{CANONICALIZE, CSE, HOIST_INVARIANTS};

/// Runs the pass.
pub(super) fn run<'c>(mut module: Module<'c>, cx: &mut PassContext) -> Module<'c> {
    if !cx.switches.split_masks {
        return module;
    }
    let mut changed = false;
    for (place, outcome) in tile_ir::passes::split_masks(&mut module) {
        let message = match outcome {
            Ok(()) => {
                changed = true;
                "a mask is applied only in iterations that need it".to_owned()
            }
            Err(why) => format!("a mask is applied in every iteration: {why}"),
        };
        cx.remark(Pass::SplitMasks, place, message);
    }
    if changed {
        let cleaned = tile_ir::run_passes(&mut module, &[CANONICALIZE, CSE, HOIST_INVARIANTS]);
        debug_assert!(cleaned.is_ok(), "the tile dialect's rules hold: {cleaned:?}");
    }
    module
}
