//! The command line.

use crate::error::{EXIT_CODES, TuneError};
use clap::{Args, Parser, Subcommand, ValueEnum};
use indexmap::IndexMap;
use std::path::PathBuf;
use tile::contract::Contract;
use tile_lang::{DType, nearest};

/// Compiles, assembles, prunes and ranks the configurations of tile kernels.
///
/// Without a command it sweeps: every candidate of the kernel's space is compiled for the target, assembled where
/// ptxas is found, and pruned with a reason or ranked by the cost model. On a machine with a GPU of the target the
/// ranked ones are checked and timed there. The best is written to configs/<target>/<kernel>.toml. A sweep that was
/// interrupted goes on where it was.
#[derive(Parser, Debug)]
#[command(name = "tile-tune", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub sweep: SweepArgs,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Args, Debug)]
pub struct Common {
    /// Print one JSON document instead of tables
    #[arg(long, global = true)]
    pub json: bool,
    /// The folder of tables [default: $TILEWRIGHT_CONFIGS, or the nearest configs/]
    #[arg(long, global = true, value_name = "FOLDER")]
    pub configs: Option<PathBuf>,
    /// The assembler [default: $TILEWRIGHT_PTXAS, PATH, or tools/]
    #[arg(long, global = true, value_name = "FILE")]
    pub ptxas: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Print one stage of a kernel's way to machine code
    Emit(EmitArgs),
    /// Run a kernel on tensors from a safetensors file
    Run(RunArgs),
    /// List the kernels, their sizes and parameters
    List,
    /// List the GPUs that are known, with the source of each figure
    Targets,
    /// Measure for a sweep, which asks on the standard input
    #[command(hide = true)]
    Worker(WorkerArgs),
}

/// The problem and the values of parameters.
#[derive(Args, Debug, Default)]
pub struct Subjects {
    /// Sizes of the problem, such as batch=4,heads=32; others have the contract's defaults
    #[arg(long = "shape", value_name = "NAME=VALUE,..", value_delimiter = ',', value_parser = assignment)]
    shape: Vec<(String, i64)>,
    /// The dtype of the inputs [default: the first that the kernel takes]
    #[arg(long, value_name = "DTYPE")]
    dtype: Option<String>,
    /// Set a const parameter or launch option; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_delimiter = ',', value_parser = assignment)]
    set: Vec<(String, i64)>,
}

#[derive(Args, Debug)]
pub struct SweepArgs {
    /// The target, such as sm_121
    #[arg(long)]
    pub target: Option<String>,
    /// The kernel [default: every kernel]
    #[arg(long)]
    pub kernel: Option<String>,
    /// Write the winner of a part of the space, too: of what `--set` leaves; the record says what was set
    #[arg(long)]
    pub record: bool,
    #[command(flatten)]
    pub measuring: Measuring,
    #[command(flatten)]
    pub subjects: Subjects,
}

/// Whether and how candidates are measured.
#[derive(Args, Debug, Default)]
pub struct Measuring {
    /// Measure, and fail where there is no GPU of the target [default: measure where there is one]
    #[arg(long, conflicts_with = "no_measure")]
    pub measure: bool,
    /// Rank by the cost model, even where there is a GPU of the target
    #[arg(long)]
    pub no_measure: bool,
    /// The GPUs that share the work, by number [default: all of the target's part]
    #[arg(long, value_name = "INDEX,..", value_delimiter = ',')]
    pub gpus: Vec<usize>,
    /// Measure every candidate to the end, and tell what the search without this would have lost
    #[arg(long)]
    pub exhaustive: bool,
    /// How long one candidate may keep a GPU busy before it counts as hung
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, value_parser = seconds)]
    pub time_limit: f64,
    /// Begin no further candidate after this time; those left over are not ranked
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub budget: Option<f64>,
    /// Rehearse on made-up GPUs, which a file describes
    #[arg(long, value_name = "FILE", hide = true)]
    pub rehearse: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct WorkerArgs {
    /// Make the times up as a file says
    #[arg(long, value_name = "FILE")]
    pub rehearse: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct EmitArgs {
    /// The kernel
    pub kernel: String,
    /// The target, such as sm_121; not needed for the stages ast and tile
    #[arg(long)]
    pub target: Option<String>,
    /// The stage; ptx when neither it nor --remarks is given
    #[arg(long, value_enum)]
    pub stage: Option<Stage>,
    /// Tell what each pass did, and of shared memory, registers, occupancy and the predicted limiter: on standard
    /// output, or on standard error beside a stage
    #[arg(long)]
    pub remarks: bool,
    /// Write to a file instead of standard output
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub subjects: Subjects,
}

/// A stage of the way down.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The syntax tree, as JSON
    Ast,
    /// The tile dialect, after its passes
    Tile,
    /// The gpu level: layouts, shared memory, copies, barriers
    Gpu,
    /// Optimized LLVM IR
    Llvm,
    /// PTX
    Ptx,
    /// Machine code, through ptxas and nvdisasm
    Sass,
}

#[derive(Args, Debug)]
pub struct RunArgs {
    /// The kernel
    pub kernel: String,
    /// A safetensors file that holds the inputs by the names of the kernel's parameters
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// Where to write the outputs, as safetensors
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// Where to run: cpu, cuda:<index>, or emulated:<target>, which executes the PTX for a target on the CPU
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Compare with the kernel's reference, and fail when they differ by more than the dtype explains
    #[arg(long)]
    pub check: bool,
    /// Look for programs that touch one element, one of them storing
    #[arg(long)]
    pub check_races: bool,
    #[command(flatten)]
    pub subjects: Subjects,
}

impl Subjects {
    /// The sizes given.
    pub fn shape(&self) -> IndexMap<String, i64> {
        self.shape.iter().cloned().collect()
    }

    /// The parameters given.
    pub fn set(&self) -> IndexMap<String, i64> {
        self.set.iter().cloned().collect()
    }

    /// The dtype given.
    pub fn dtype(&self, contract: &dyn Contract) -> Result<Option<DType>, TuneError> {
        let Some(name) = &self.dtype else { return Ok(None) };
        if let Some(dtype) = DType::from_name(name) {
            return Ok(Some(dtype));
        }
        let names: Vec<&str> = contract.dtypes().iter().map(|d| d.name()).collect();
        Err(TuneError::DType {
            kernel: contract.kernel().name.to_owned(),
            found: name.clone(),
            allowed: names.join(", "),
            nearest: nearest(name, names).map(str::to_owned),
        })
    }
}

impl SweepArgs {
    /// Whether any option of the sweep was given.
    pub fn is_given(&self) -> bool {
        let subjects = &self.subjects;
        self.target.is_some()
            || self.kernel.is_some()
            || !subjects.shape.is_empty()
            || !subjects.set.is_empty()
            || subjects.dtype.is_some()
            || self.measuring.is_given()
    }
}

impl Measuring {
    fn is_given(&self) -> bool {
        self.measure || self.no_measure || self.exhaustive || !self.gpus.is_empty() || self.budget.is_some()
    }
}

/// Reads a time above 0.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 1e9 => Ok(seconds),
        _ => Err(format!("`{text}` is no number of seconds above 0")),
    }
}

/// Reads `NAME=VALUE`; `true` and `false` are 1 and 0.
fn assignment(text: &str) -> Result<(String, i64), String> {
    let Some((name, value)) = text.split_once('=') else {
        return Err("expected NAME=VALUE".to_owned());
    };
    let value = match value.trim() {
        "true" => 1,
        "false" => 0,
        number => number.parse().map_err(|_| format!("`{number}` is no whole number, nor true or false"))?,
    };
    match name.trim() {
        "" => Err("expected NAME=VALUE".to_owned()),
        name => Ok((name.to_owned(), value)),
    }
}
