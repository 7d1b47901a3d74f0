//! Why a kernel does not compile.

use crate::gpu::passes::PassError;
use crate::llvm::LlvmError;
use tile_ir::context::Place;

/// Why a kernel does not compile for a target.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LowerError {
    /// A pass gave up: the configuration does not fit, or the compiler has a defect.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// The target, or this compiler for it, lacks something the kernel uses.
    #[error("{}{what} is not supported on {target}", at(.place))]
    Unsupported {
        /// What is lacking.
        what: String,
        /// The target.
        target: &'static str,
        /// The kernel's line.
        place: Option<Place>,
    },
    /// A launch option outside of what any target can run.
    #[error("{name} is {value}; it must be {allowed}")]
    Option {
        /// `num_warps`, `num_stages`, `occupancy` or `num_ctas`.
        name: &'static str,
        /// What it is.
        value: i64,
        /// What it may be.
        allowed: &'static str,
    },
    /// A pass produced IR that breaks a rule: a defect of this compiler.
    #[error("compiler bug: {}{what}", at(.place))]
    Internal {
        /// Which rule, of which operation.
        what: String,
        /// The kernel's line.
        place: Option<Place>,
    },
    /// LLVM refused the generated code: a defect of this compiler.
    #[error("compiler bug: {0}")]
    Llvm(#[from] LlvmError),
}

impl LowerError {
    /// True when the compiler is at fault, not the kernel, its configuration or the target.
    pub fn is_bug(&self) -> bool {
        match self {
            LowerError::Internal { .. } | LowerError::Llvm(_) => true,
            LowerError::Pass(error) => {
                matches!(
                    error,
                    PassError::UnknownOp { .. } | PassError::Malformed { .. } | PassError::Facts { .. }
                )
            }
            LowerError::Unsupported { .. } | LowerError::Option { .. } => false,
        }
    }
}

/// `file:line:col: `, or nothing.
fn at(place: &Option<Place>) -> String {
    place.as_ref().map(|p| format!("{p}: ")).unwrap_or_default()
}
