//! Target-independent passes over the tile level: one file, one verb each.

mod canonicalize;
mod cse;
mod effects;
mod hoist_invariants;
mod split_masks;
mod unused_carried;

use crate::module::Module;
use crate::verify::{VerifyError, verify};
pub use canonicalize::int_constant;
pub use effects::{Effect, effect, written_views};
pub use split_masks::split_masks;

/// A rewriting of a module that keeps its meaning.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// Its name, as filetests and `--stage` listings spell it.
    pub name: &'static str,
    run: fn(&mut Module),
}

/// Simplifies: folds shape operations and constants, removes what is unused.
pub const CANONICALIZE: Pass = Pass { name: "canonicalize", run: canonicalize::run };
/// Computes equal values once.
pub const CSE: Pass = Pass { name: "cse", run: cse::run };
/// Moves what does not change out of loops.
pub const HOIST_INVARIANTS: Pass = Pass { name: "hoist-invariants", run: hoist_invariants::run };

/// Applies masks only in the iterations of a loop that need them.
pub const SPLIT_MASKS: Pass = Pass { name: "split-masks", run: split_masks::run };

/// Every pass.
pub const ALL_PASSES: &[Pass] = &[CANONICALIZE, CSE, HOIST_INVARIANTS, SPLIT_MASKS];

/// The passes that every compilation runs, in order.
pub const STANDARD_PASSES: &[Pass] = &[CANONICALIZE, CSE, HOIST_INVARIANTS];

/// A pass broke the IR: a compiler bug.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("after {pass}: {error}")]
pub struct PassError {
    /// The pass, or the lowering before the first.
    pub pass: &'static str,
    /// What is wrong.
    pub error: VerifyError,
}

/// Runs passes in order. The module is verified first and, in builds with debug assertions, after each pass.
///
/// # Errors
/// When the module given, or what a pass made of it, breaks a rule.
pub fn run_passes(module: &mut Module, passes: &[Pass]) -> Result<(), PassError> {
    let checked = |module: &Module, pass| verify(module).map_err(|error| PassError { pass, error });
    checked(module, "lowering")?;
    for pass in passes {
        (pass.run)(module);
        if cfg!(debug_assertions) {
            checked(module, pass.name)?;
        }
    }
    Ok(())
}
