//! The whole way from the tile dialect to PTX.

use crate::error::LowerError;
use crate::gpu::facts::TensorFacts;
use crate::gpu::launch::{LaunchNeeds, TensorMap};
use crate::gpu::passes::{Pass, PassContext, Remark, Switches, run_passes};
use crate::gpu::resources::Resources;
use crate::llvm::LlvmModule;
use crate::lower::{Check, LowerOptions, LoweredKernel, lower_to_llvm};
use crate::target::Target;
use melior::dialect::DialectHandle;
use melior::ir::operation::OperationLike;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use tile_ir::types::{int_attr, name_of, ops_of, str_attr};
use tile_ir::{Module, TileContext};

/// How a kernel is to be compiled.
#[derive(Clone, Debug)]
pub struct CompileOptions {
    /// What for.
    pub target: &'static Target,
    /// Warps of a CTA: a power of two, 1 to 16.
    pub num_warps: u32,
    /// Buffers of a pipelined load; 1 turns pipelining off.
    pub num_stages: u32,
    /// CTAs that are to fit on an SM; bounds the registers of each.
    pub occupancy: u32,
    /// CTAs of a cluster along x: 1, 2, 4 or 8. A kernel that gains nothing by clusters, and does not walk, has none.
    pub num_ctas: u32,
    /// Which passes may run, where the target has them.
    pub switches: Switches,
    /// Facts about each tensor argument in order. A launch must check them.
    pub facts: Vec<TensorFacts>,
    /// Keep the text of every stage.
    pub keep_stages: bool,
}

impl CompileOptions {
    /// The options of a configuration.
    pub fn new(
        target: &'static Target,
        config: &tile_lang::config::Config,
        facts: Vec<TensorFacts>,
    ) -> CompileOptions {
        CompileOptions {
            target,
            num_warps: config.num_warps,
            num_stages: config.num_stages,
            occupancy: config.occupancy,
            num_ctas: config.num_ctas,
            switches: Switches::of(config),
            facts,
            keep_stages: false,
        }
    }

    /// Refuses launch options that no kernel can have.
    fn check(&self) -> Result<(), LowerError> {
        let option = |name, value: u32, allowed, ok| {
            if ok { Ok(()) } else { Err(LowerError::Option { name, value: value.into(), allowed }) }
        };
        let warps = self.num_warps;
        option("num_warps", warps, "1, 2, 4, 8 or 16", warps.is_power_of_two() && warps <= 16)?;
        option("num_stages", self.num_stages, "1 to 8", (1..=8).contains(&self.num_stages))?;
        let ctas = self.num_ctas;
        option("num_ctas", ctas, "1, 2, 4 or 8", ctas.is_power_of_two() && ctas <= 8)?;
        let has_clusters = self.target.has_multicast() && self.target.passes.contains(&Pass::MulticastCopies);
        if ctas > 1 && !has_clusters {
            let what = format!("num_ctas = {ctas}, a cluster of CTAs,");
            return Err(LowerError::Unsupported { what, target: self.target.part, place: None });
        }
        let limits = &self.target.limits;
        let resident = self.occupancy >= 1
            && self.occupancy <= limits.ctas_per_sm
            && self.occupancy * warps * 32 <= limits.threads_per_sm;
        option("occupancy", self.occupancy, "at least 1 and within the target's resident threads", resident)
    }
}

/// A compiled kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compiled {
    /// What it is compiled for.
    #[serde(with = "crate::target::by_name")]
    pub target: &'static Target,
    /// The kernel's name in the PTX.
    pub entry: String,
    /// The code.
    pub ptx: String,
    /// Dynamic shared memory of a CTA, to be given at launch.
    pub smem_bytes: usize,
    /// Threads of a CTA.
    pub num_threads: u32,
    /// What the kernel checks, by number. One that checks anything takes the address of a record after its own
    /// parameters: four zeroed 32-bit words, where the first check to fail leaves its number plus one and the
    /// program's ids.
    pub checks: Vec<Check>,
    /// Maps of tensor arguments, the kernel's last parameters.
    pub tensor_maps: Vec<TensorMap>,
    /// The kernel runs all programs of a grid in any number of CTAs along x. It takes the grid's three extents, i32,
    /// after its arguments; programs and CTAs together are to be fewer than 2^31.
    pub persistent: bool,
    /// Bytes of parts for a CTA, for a kernel that splits sums over CTAs: it takes the addresses of so many for each CTA,
    /// and of a 32-bit counter for each, zero before and after a launch.
    pub part_bytes: Option<usize>,
    /// CTAs of a cluster along x, of which the extents of grid and launch are to be multiples; 1 where they are launched
    /// alone.
    pub num_ctas: u32,
    /// What passes did and did not do.
    pub remarks: Vec<Remark>,
    /// Shared memory by buffer, warps by role.
    pub resources: Resources,
    /// How long each stage took.
    pub timing: Timing,
    /// The gpu level, where stages were kept.
    pub gpu: Option<String>,
    /// Optimized LLVM IR, where stages were kept.
    pub llvm: Option<String>,
}

/// How long each stage of a compilation took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// The passes from the tile dialect to the gpu level.
    pub gpu: Duration,
    /// From the gpu level to the LLVM dialect.
    pub lower: Duration,
    /// From the LLVM dialect to LLVM IR.
    pub translate: Duration,
    /// LLVM's passes.
    pub optimize: Duration,
    /// Instruction selection and printing.
    pub emit: Duration,
}

impl Timing {
    /// The stages with their names, in order.
    pub fn stages(&self) -> [(&'static str, Duration); 5] {
        [
            ("gpu", self.gpu),
            ("lower", self.lower),
            ("translate", self.translate),
            ("optimize", self.optimize),
            ("emit", self.emit),
        ]
    }

    /// All stages together.
    pub fn total(&self) -> Duration {
        self.stages().iter().map(|(_, time)| *time).sum()
    }
}

thread_local! {
    static CONTEXT: TileContext = {
        // SAFETY: the function returns the handle of a dialect that is linked in.
        let nvvm = unsafe { DialectHandle::from_raw(mlir_sys::mlirGetDialectHandle__nvvm__()) };
        let context = crate::gpu::dialect::context(&[DialectHandle::llvm(), nvvm]);
        melior::utility::register_all_llvm_translations(&context);
        context
    };
}

/// Runs `f` with this thread's context for code generation, made on first use. Modules that [`compile`] is given
/// live in it.
pub fn with_context<R>(f: impl FnOnce(&TileContext) -> R) -> R {
    CONTEXT.with(f)
}

/// Runs `f` and says how long it took.
fn timed<T>(time: &mut Duration, f: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = f();
    *time = start.elapsed();
    result
}

/// Compiles a kernel of the tile dialect. A module from another context than [`with_context`]'s is first copied
/// there, as text.
///
/// # Errors
/// [`LowerError`]; [`LowerError::is_bug`] tells the compiler's defects from the user's.
pub fn compile(module: &Module, options: &CompileOptions) -> Result<Compiled, LowerError> {
    options.check()?;
    with_context(|context| {
        if module.context().mlir() == context.mlir() {
            return compile_here(module, options);
        }
        let text = module.to_text_with_locations();
        let copy = Module::parse(context, &text)
            .map_err(|error| LowerError::Internal { what: error.to_string(), place: None })?;
        compile_here(&copy, options)
    })
}

/// Compiles a module of the code generation context.
fn compile_here(module: &Module, options: &CompileOptions) -> Result<Compiled, LowerError> {
    let target = options.target;
    let mut timing = Timing::default();
    let mut passes = PassContext {
        target,
        num_warps: options.num_warps as usize,
        num_stages: options.num_stages as usize,
        occupancy: options.occupancy as usize,
        num_ctas: options.num_ctas as usize,
        front_stages: 2,
        switches: options.switches,
        facts: options.facts.clone(),
        remarks: Vec::new(),
    };
    let gpu = timed(&mut timing.gpu, || run_passes(target.passes, module, &mut passes))?;
    let function = ops_of(gpu.top()).find(|op| name_of(*op) == "func.func");
    let missing = |what: &str| LowerError::Internal { what: what.to_owned(), place: None };
    let function = function.ok_or_else(|| missing("the kernel has no function"))?;
    let entry = str_attr(function, "sym_name").ok_or_else(|| missing("the kernel has no name"))?;
    let smem_bytes = int_attr(function, "tgpu.shared_bytes").unwrap_or(0) as usize;

    let needs = LaunchNeeds::of(&gpu);
    let resources = Resources::of(&gpu, options.num_warps as usize);
    let lowering = LowerOptions { target, facts: &options.facts, occupancy: options.occupancy };
    let lowered = timed(&mut timing.lower, || lower_to_llvm(&gpu, lowering))?;
    let LoweredKernel { module: lowered, checks } = lowered;
    if cfg!(debug_assertions) && !lowered.as_operation().verify() {
        let messages = gpu.context().take_messages();
        let what = messages.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        return Err(LowerError::Internal { what, place: None });
    }
    let mut llvm = timed(&mut timing.translate, || LlvmModule::translate(&lowered, target))?;
    timed(&mut timing.optimize, || llvm.optimize())?;
    let (gpu, llvm_text) = match options.keep_stages {
        true => (Some(gpu.to_text()), Some(llvm.to_text())),
        false => (None, None),
    };
    let ptx = timed(&mut timing.emit, || llvm.emit_ptx())?;
    Ok(Compiled {
        target,
        entry,
        ptx,
        smem_bytes,
        num_threads: (options.num_warps + needs.producer_warps as u32) * 32,
        checks,
        tensor_maps: needs.tensor_maps,
        persistent: needs.persistent,
        part_bytes: needs.part_bytes,
        num_ctas: needs.cluster.unwrap_or(1) as u32,
        remarks: passes.remarks,
        resources,
        timing,
        gpu,
        llvm: llvm_text,
    })
}
