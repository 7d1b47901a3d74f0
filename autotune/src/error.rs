//! What can go wrong in tuning and in the command, and the exit code of each.

use crate::files::FileError;
use codegen_ptx::target::UnknownTarget;
use codegen_ptx::{LowerError, PtxasError};
use std::path::PathBuf;
use tile::LaunchError;
use tile::contract::ContractError;
use tile_lang::Diagnostic;

/// Why a command could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum TuneError {
    /// A kernel that is not linked in.
    #[error("unknown kernel `{name}`; there are: {known}{}", suggestion(nearest))]
    UnknownKernel {
        /// The name.
        name: String,
        /// All kernels with a contract.
        known: String,
        /// The one that may have been meant.
        nearest: Option<String>,
    },
    /// A target that is not known.
    #[error(transparent)]
    UnknownTarget(#[from] UnknownTarget),
    /// A const parameter or launch option that the kernel does not have.
    #[error("kernel `{kernel}` has no parameter `{name}` to set; it has {known}{}", suggestion(nearest))]
    UnknownParameter {
        /// The kernel.
        kernel: String,
        /// The name.
        name: String,
        /// The names there are.
        known: String,
        /// The one that may have been meant.
        nearest: Option<String>,
    },
    /// A const parameter that the problem decides.
    #[error("`{name}` of kernel `{kernel}` follows from the problem; change it with --shape")]
    FixedParameter {
        /// The kernel.
        kernel: String,
        /// The name.
        name: String,
    },
    /// A value that a parameter cannot have.
    #[error("{name} = {value}; allowed: {allowed}")]
    ParameterValue {
        /// The parameter.
        name: String,
        /// The value.
        value: i64,
        /// What it may be.
        allowed: String,
    },
    /// A dtype that the kernel is not written for.
    #[error("kernel `{kernel}` takes {allowed}; found dtype `{found}`{}", suggestion(nearest))]
    DType {
        /// The kernel.
        kernel: String,
        /// The dtype.
        found: String,
        /// The dtypes it takes.
        allowed: String,
        /// The one that may have been meant.
        nearest: Option<String>,
    },
    /// The command line does not say enough, or says too much.
    #[error("{0}")]
    Usage(String),
    /// Sizes or inputs that do not make a problem of the kernel.
    #[error("{kernel}: {source}")]
    Contract {
        /// The kernel.
        kernel: String,
        /// What is wrong.
        source: ContractError,
    },
    /// A configuration file is no good, or cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file of tensors is no good.
    #[error("{}: {message}", path.display())]
    Tensors {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// No platform of this target is described.
    #[error("{}: no platform has target {target}; add one to predict times for it", path.display())]
    NoPlatform {
        /// The file of platforms.
        path: PathBuf,
        /// The part.
        target: String,
    },
    /// The kernel does not check with these sizes.
    #[error("kernel `{kernel}` does not compile with {config}:\n{messages}")]
    Check {
        /// The kernel.
        kernel: String,
        /// The configuration.
        config: String,
        /// The checker's messages, at the kernel's lines.
        messages: String,
    },
    /// The tile level refuses the kernel.
    #[error("kernel `{kernel}`: {message}")]
    TileIr {
        /// The kernel.
        kernel: String,
        /// What is wrong.
        message: String,
    },
    /// Code generation refuses the configuration.
    #[error("kernel `{kernel}` with {config}: {source}")]
    Lower {
        /// The kernel.
        kernel: String,
        /// The configuration.
        config: String,
        /// What is wrong.
        source: Box<LowerError>,
    },
    /// The assembler is missing or refuses the code.
    #[error(transparent)]
    Ptxas(#[from] PtxasError),
    /// A run on the device failed.
    #[error("{0}")]
    Launch(Box<LaunchError>),
    /// Not one candidate could be used.
    #[error("kernel `{kernel}` on {target}: none of {candidates} candidates can be used; the first: {first}")]
    NoCandidate {
        /// The kernel.
        kernel: String,
        /// The part.
        target: String,
        /// How many were tried.
        candidates: usize,
        /// Why the first one cannot.
        first: String,
    },
    /// No GPU of the target to measure on.
    #[error(
        "no GPU of {target} to measure on: {reason}; without --measure, candidates are ranked by the cost model"
    )]
    NoGpu {
        /// The part.
        target: String,
        /// Why there is none.
        reason: String,
    },
    /// The GPUs, or the processes that measure on them, failed.
    #[error(
        "measuring cannot go on: {reason}; what was measured is kept, and the same command goes on from there"
    )]
    Measure {
        /// The last failure.
        reason: String,
    },
    /// This program has installed tables before.
    #[error("a source of tuned configurations is installed already")]
    Installed,
    /// A result is further from the reference than its dtype explains.
    #[error("output `{tensor}` differs from the reference by {error:.2e}; {tolerance:.2e} is allowed")]
    Disagrees {
        /// The output.
        tensor: String,
        /// The relative error.
        error: f64,
        /// The largest that is allowed.
        tolerance: f64,
    },
}

impl From<LaunchError> for TuneError {
    fn from(error: LaunchError) -> TuneError {
        TuneError::Launch(Box::new(error))
    }
}

fn suggestion(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or(String::new(), |n| format!("; did you mean `{n}`?"))
}

/// The exit codes, as `--help` prints them.
pub const EXIT_CODES: &str = "Exit codes:
  0  done
  1  the kernel does not compile, no candidate can be used, or a result disagrees with the reference
  2  the command line is wrong: an unknown kernel, target, parameter, dtype or option
  3  a file is wrong: configuration, platform table or tensors, or one cannot be read or written
  4  something is missing: ptxas or nvdisasm (`./x setup` installs them), or a GPU to measure on";

impl TuneError {
    /// The exit code of the command.
    pub fn exit_code(&self) -> u8 {
        match self {
            TuneError::UnknownKernel { .. }
            | TuneError::UnknownTarget(_)
            | TuneError::UnknownParameter { .. }
            | TuneError::FixedParameter { .. }
            | TuneError::ParameterValue { .. }
            | TuneError::DType { .. }
            | TuneError::Usage(_) => 2,
            TuneError::Contract {
                source: ContractError::Size { .. } | ContractError::UnknownSize { .. },
                ..
            } => 2,
            TuneError::Contract { .. }
            | TuneError::File(_)
            | TuneError::Tensors { .. }
            | TuneError::NoPlatform { .. } => 3,
            TuneError::NoGpu { .. }
            | TuneError::Ptxas(
                PtxasError::NotFound | PtxasError::Missing { .. } | PtxasError::NoDisassembler { .. },
            ) => 4,
            TuneError::Check { .. }
            | TuneError::TileIr { .. }
            | TuneError::Lower { .. }
            | TuneError::Ptxas(_)
            | TuneError::Launch(_)
            | TuneError::Measure { .. }
            | TuneError::Installed
            | TuneError::NoCandidate { .. }
            | TuneError::Disagrees { .. } => 1,
        }
    }
}

/// Messages of the checker, one a line group, at the kernel's lines.
pub fn render_diagnostics(diagnostics: &[Diagnostic], files: &[String]) -> String {
    diagnostics.iter().map(|d| d.render(files)).collect::<Vec<_>>().join("\n")
}
