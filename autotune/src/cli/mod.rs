//! The `tile-tune` command. A crate with its own kernels gets it with a one-line `main`:
//!
//! ```no_run
//! fn main() -> std::process::ExitCode {
//!     autotune::cli::main()
//! }
//! ```

mod args;
mod emit;
mod list;
mod report;
mod run;
mod sweep;
mod table;
mod targets;
mod worker;

use crate::configs::Configs;
use crate::error::TuneError;
use crate::subject::{Subject, find_contract};
use args::{Cli, Command, Common, Subjects};
use clap::Parser;
use codegen_ptx::{Ptxas, PtxasError};
use std::io::Write;
use std::process::ExitCode;

/// Stack of a worker thread.
const WORKER_STACK_BYTES: usize = 32 << 20;

/// Runs the command on this process's arguments, over every kernel linked into the program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing can be done about a terminal that does not take the message.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let json = cli.common.json;
    // Code generation recurses deeper than the default stack of a worker likes. If the pool exists already, its
    // stacks have to do.
    let _ = rayon::ThreadPoolBuilder::new().stack_size(WORKER_STACK_BYTES).build_global();
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = error.exit_code();
            if json {
                print(&format!("{}\n", serde_json::json!({ "error": error.to_string(), "exit_code": code })));
            } else {
                eprintln!("error: {error}");
            }
            ExitCode::from(code)
        }
    }
}

fn dispatch(cli: Cli) -> Result<(), TuneError> {
    let configs = || Ok::<Configs, TuneError>(Configs::open(cli.common.configs.as_deref())?);
    if cli.command.is_some() && cli.sweep.is_given() {
        return Err(TuneError::Usage(
            "options of the sweep stand before a command; put the command first, such as `tile-tune emit fmha --target ..`"
                .to_owned(),
        ));
    }
    match &cli.command {
        None => sweep::run(&cli.common, &configs()?, &cli.sweep),
        Some(Command::Emit(args)) => emit::run(&cli.common, &configs()?, args),
        Some(Command::Run(args)) => run::run(&cli.common, args),
        Some(Command::List) => list::run(&cli.common),
        Some(Command::Worker(args)) => worker::run(args),
        Some(Command::Targets) => targets::run(&cli.common, &configs()?),
    }
}

/// Writes to standard output; a reader that closes it early, such as `head`, is no error.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn print_json(value: &serde_json::Value) {
    print(&format!("{value:#}\n"));
}

fn warn(messages: &[String]) {
    messages.iter().for_each(|m| eprintln!("warning: {m}"));
}

/// The kernel and problem that arguments name.
fn subject(kernel: &str, args: &Subjects) -> Result<Subject, TuneError> {
    let contract = find_contract(kernel)?;
    Subject::new(contract, args.dtype(contract)?, &args.shape())
}

/// The assembler, if one is installed; one that was named must be there.
fn assembler(common: &Common) -> Result<Option<Ptxas>, TuneError> {
    match Ptxas::find(common.ptxas.as_deref()) {
        Ok(ptxas) => Ok(Some(ptxas)),
        Err(PtxasError::NotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
