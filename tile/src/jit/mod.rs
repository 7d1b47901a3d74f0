//! From a kernel to PTX, in process.
//!
//! [`compile`] is the whole way: check, tile dialect, its passes, code generation. [`lower`] stops at the tile
//! dialect. What is assumed of the tensors is stated as [`TensorFacts`]; [`facts_of`] reads them off a tensor.
//! [`obtain`] compiles what no process of this user compiled before, and assembles it where an assembler is found.

mod artifact;
pub mod disk;

pub use artifact::{Artifact, Assembler, obtain};

use crate::error::{KernelError, LaunchError, Place, render};
use crate::registry::KernelDef;
pub use codegen_ptx::Target;
use codegen_ptx::lower::Check;
use codegen_ptx::{CompileOptions, Compiled};
use std::cell::Cell;
use std::time::{Duration, Instant};
pub use tile_ir::{Module, TileContext};
pub use tile_lang::config::TensorFacts;
use tile_lang::typed::{ParamKind, Program};
use tile_lang::{Bindings, Config, DType, Diagnostic};

/// A compiled kernel.
#[derive(Clone, Debug)]
pub struct Jit {
    /// What code generation made: the PTX, and what a launch of it needs.
    pub compiled: Compiled,
    /// The tile dialect after its passes, where stages were kept.
    pub tile: Option<String>,
    /// How long each stage took, first to last: check, ir, passes, then those of code generation.
    pub stages: Vec<(&'static str, Duration)>,
}

/// Why a kernel does not compile.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum JitError {
    /// The configuration and dtypes do not make a kernel.
    #[error("kernel `{kernel}` cannot be instantiated:\n{}", render(diagnostics, files))]
    Check {
        /// The kernel.
        kernel: &'static str,
        /// What is wrong, all of it.
        diagnostics: Vec<Diagnostic>,
        /// The files that the places index.
        files: Vec<String>,
    },
    /// The kernel does something that the tile dialect does not have, or the facts do not fit its tensors.
    #[error("kernel `{kernel}`: {source}")]
    Ir {
        /// The kernel.
        kernel: &'static str,
        /// What is wrong, at the kernel's line.
        source: tile_ir::LowerError,
    },
    /// The tile dialect breaks a rule: a defect of this compiler.
    #[error("compiler bug: kernel `{kernel}`: {source}")]
    Passes {
        /// The kernel.
        kernel: &'static str,
        /// The rule, and the pass after which it is broken.
        source: tile_ir::PassError,
    },
    /// The target cannot run the configuration, or code generation has a defect.
    #[error("kernel `{kernel}` for {target}: {source}")]
    Codegen {
        /// The kernel.
        kernel: &'static str,
        /// The target.
        target: &'static str,
        /// What is wrong.
        source: Box<codegen_ptx::LowerError>,
    },
}

impl JitError {
    /// True when the compiler is at fault, not the kernel, its configuration or the target.
    pub fn is_bug(&self) -> bool {
        match self {
            JitError::Check { .. } => false,
            JitError::Ir { source, .. } => matches!(source, tile_ir::LowerError::Unbound { .. }),
            JitError::Passes { .. } => true,
            JitError::Codegen { source, .. } => source.is_bug(),
        }
    }
}

/// Runs `f`, and notes how long it took.
fn staged<T>(
    stages: &mut Vec<(&'static str, Duration)>,
    name: &'static str,
    f: impl FnOnce() -> Result<T, JitError>,
) -> Result<T, JitError> {
    let start = Instant::now();
    let result = f();
    stages.push((name, start.elapsed()));
    result
}

fn check(kernel: &'static KernelDef, bindings: &Bindings) -> Result<Program, JitError> {
    kernel.instantiate(bindings).map_err(|diagnostics| JitError::Check {
        kernel: kernel.name,
        diagnostics,
        files: kernel.files(),
    })
}

/// Lowers a checked kernel to the tile dialect and optimizes it.
fn lower_checked<'c>(
    kernel: &'static KernelDef,
    program: &Program,
    facts: &[TensorFacts],
    context: &'c TileContext,
    stages: &mut Vec<(&'static str, Duration)>,
) -> Result<Module<'c>, JitError> {
    let kernel = kernel.name;
    let mut module = staged(stages, "ir", || {
        tile_ir::lower_program(program, facts, context).map_err(|source| JitError::Ir { kernel, source })
    })?;
    staged(stages, "passes", || {
        tile_ir::run_passes(&mut module, tile_ir::STANDARD_PASSES)
            .map_err(|source| JitError::Passes { kernel, source })
    })?;
    Ok(module)
}

/// The kernel in the tile dialect, after the passes that every target shares. `facts` has one entry a tensor
/// parameter, in order.
///
/// # Errors
/// When the bindings do not make a kernel, or the facts do not fit its tensors.
pub fn lower<'c>(
    kernel: &'static KernelDef,
    bindings: &Bindings,
    facts: &[TensorFacts],
    context: &'c TileContext,
) -> Result<Module<'c>, JitError> {
    let program = check(kernel, bindings)?.without_checks();
    lower_checked(kernel, &program, facts, context, &mut Vec::new())
}

/// Compiles a kernel to PTX. Const parameters and dtypes come from `bindings`, launch options from `config`;
/// `facts` has one entry a tensor parameter, in order, and whoever launches the result answers for them.
/// `keep_stages` keeps the text of every stage.
///
/// # Errors
/// [`JitError`]; [`JitError::is_bug`] tells the compiler's defects from the user's.
pub fn compile(
    kernel: &'static KernelDef,
    bindings: &Bindings,
    config: &Config,
    target: &'static Target,
    facts: &[TensorFacts],
    keep_stages: bool,
) -> Result<Jit, JitError> {
    let program = |stages: &mut Vec<_>| staged(stages, "check", || check(kernel, bindings));
    compile_program(
        kernel,
        |stages| program(stages).map(Program::without_checks),
        config,
        target,
        facts,
        keep_stages,
    )
}

/// As [`compile`], with the kernel's `check`s kept: a launch passes the address of the record that
/// [`Compiled::checks`] describes.
///
/// # Errors
/// As [`compile`].
pub fn compile_checked(
    kernel: &'static KernelDef,
    bindings: &Bindings,
    config: &Config,
    target: &'static Target,
    facts: &[TensorFacts],
) -> Result<Jit, JitError> {
    let program = |stages: &mut Vec<_>| staged(stages, "check", || check(kernel, bindings));
    compile_program(kernel, program, config, target, facts, false)
}

/// Compiles the program that `program` makes.
fn compile_program(
    kernel: &'static KernelDef,
    program: impl FnOnce(&mut Vec<(&'static str, Duration)>) -> Result<Program, JitError>,
    config: &Config,
    target: &'static Target,
    facts: &[TensorFacts],
    keep_stages: bool,
) -> Result<Jit, JitError> {
    let mut stages = Vec::new();
    let program = program(&mut stages)?;
    let tensors = program.params.iter().filter_map(|param| match &param.kind {
        ParamKind::Tensor { dtype, rank, .. } => Some((dtype.known(), *rank)),
        ParamKind::Scalar(_) => None,
    });
    let known = facts
        .iter()
        .zip(tensors)
        .map(|(facts, (dtype, rank))| codegen_ptx::TensorFacts::known(facts, rank, dtype.bits() as usize));
    let mut options = CompileOptions::new(target, config, known.collect());
    options.keep_stages = keep_stages;
    codegen_ptx::with_context(|context| {
        let module = lower_checked(kernel, &program, facts, context, &mut stages)?;
        let compiled = codegen_ptx::compile(&module, &options).map_err(|source| JitError::Codegen {
            kernel: kernel.name,
            target: target.part,
            source: Box::new(source),
        })?;
        stages.extend(compiled.timing.stages());
        Ok(Jit { compiled, tile: keep_stages.then(|| module.to_text()), stages })
    })
}

/// The largest power of two, at most 16, that divides each of some byte counts given in bits.
fn alignment(bits: impl Iterator<Item = usize>) -> u32 {
    let zeros = bits.filter(|&b| b != 0).map(|b| b.trailing_zeros()).min().unwrap_or(u32::MAX);
    1 << zeros.saturating_sub(3).min(4)
}

/// What holds of a tensor whose first element is at `address`, with extents and strides in elements. Tensors of
/// equal facts share compiled code.
///
/// ```
/// use tile::DType;
/// use tile::jit::{TensorFacts, facts_of};
/// assert_eq!(facts_of(DType::BF16, 0x1000, &[3, 64], &[64, 1]), TensorFacts::ALIGNED);
/// assert_eq!(facts_of(DType::BF16, 0x1000, &[3, 62], &[64, 1]).align_bytes, 4);
/// ```
pub fn facts_of(dtype: DType, address: u64, shape: &[usize], strides: &[usize]) -> TensorFacts {
    let elem_bits = dtype.bits() as usize;
    let contiguous = strides.last() == Some(&1);
    if !contiguous {
        // Nothing is accessed by more than an element then; one variant serves every alignment.
        return TensorFacts { align_bytes: (elem_bits as u32 / 8).max(1), contiguous };
    }
    let outer = strides[..strides.len() - 1].iter().chain(shape.last()).map(|n| n * elem_bits);
    let base = (address % 16) as usize * 8;
    TensorFacts { align_bytes: alignment(outer.chain([base])), contiguous }
}

/// The configuration of a kernel that takes no tensor maps.
pub(crate) fn without_maps(config: &Config) -> Config {
    Config { warp_specialize: false, bulk_stores: false, num_ctas: 1, ..config.clone() }
}

/// The configuration of a kernel whose CTAs are launched alone.
pub(crate) fn without_clusters(config: &Config) -> Config {
    Config { num_ctas: 1, ..config.clone() }
}

/// Whether a grid can be launched in clusters of `num_ctas` along x: there is no CTA that would run no program.
pub(crate) fn fills_clusters(num_ctas: u32, grid: [usize; 3]) -> bool {
    grid[0].is_multiple_of(num_ctas as usize)
}

/// The error of the check that failed first, by the record that a checked kernel leaves.
pub(crate) fn failed_check(
    kernel: &'static str,
    checks: &[Check],
    [number, program @ ..]: [u32; 4],
) -> Result<(), LaunchError> {
    let Some(check) = (number as usize).checked_sub(1).and_then(|index| checks.get(index)) else {
        return Ok(());
    };
    let place = check.place.as_ref();
    let place = Place {
        file: place.map_or("<unknown>".into(), |p| p.file.clone().into()),
        line: place.map_or(0, |p| p.line as u32),
        col: place.map_or(0, |p| p.col as u32),
    };
    let error = Box::new(KernelError::Check { message: check.message.clone() });
    Err(LaunchError::Kernel { kernel, program: program.map(|id| id as usize), place, error })
}

thread_local! {
    static INSTEAD: Cell<Option<&'static Target>> = const { Cell::new(None) };
}

/// Runs `f`, in which this thread compiles kernels for `target` whatever GPU it launches them on: to run a build that
/// stands in for one of another GPU.
pub fn compiling_for<R>(target: &'static Target, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<&'static Target>);
    impl Drop for Restore {
        fn drop(&mut self) {
            INSTEAD.set(self.0);
        }
    }
    let _restore = Restore(INSTEAD.replace(Some(target)));
    f()
}

/// What this thread compiles for on a GPU whose target is `own`.
#[cfg(feature = "cuda")]
pub(crate) fn target_for(own: &'static Target) -> &'static Target {
    INSTEAD.get().unwrap_or(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn align(dtype: DType, address: u64, shape: &[usize], strides: &[usize]) -> (u32, bool) {
        let facts = facts_of(dtype, address, shape, strides);
        (facts.align_bytes, facts.contiguous)
    }

    #[test]
    fn facts_hold_of_base_strides_and_innermost_extent() {
        assert_eq!(align(DType::F32, 0x100, &[5, 8], &[8, 1]), (16, true));
        assert_eq!(align(DType::F32, 0x104, &[5, 8], &[8, 1]), (4, true));
        assert_eq!(align(DType::F32, 0x100, &[5, 7], &[8, 1]), (4, true));
        assert_eq!(align(DType::F32, 0x100, &[5, 8], &[10, 1]), (8, true));
        assert_eq!(align(DType::BF16, 0x100, &[6], &[1]), (4, true));
        assert_eq!(align(DType::BF16, 0x100, &[8, 8], &[1, 8]), (2, false));
        assert_eq!(align(DType::BF16, 0x100, &[4, 0], &[1, 1]), (2, true));
        assert_eq!(align(DType::F4E2M1FN, 0x100, &[2, 33], &[33, 1]), (1, true));
        assert_eq!(align(DType::F4E2M1FN, 0x100, &[2, 32], &[32, 1]), (16, true));
    }
}
