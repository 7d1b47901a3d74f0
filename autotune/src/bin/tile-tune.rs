//! `tile-tune` over the kernels of `tilegym-kernels`.

use std::process::ExitCode;
// Linking the crate registers its kernels.
use tilegym_kernels as _;

fn main() -> ExitCode {
    autotune::cli::main()
}
