//! `tile-tune` over this crate's kernel: `cargo run -p layernorm -- --target sm_121`.

mod kernel;

use std::process::ExitCode;

fn main() -> ExitCode {
    autotune::cli::main()
}
