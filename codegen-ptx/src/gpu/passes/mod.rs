//! The passes from the tile dialect to the gpu level.

mod allocate_shared;
mod assign_layouts;
mod bulk_stores;
mod compute_ahead;
mod copies;
mod decompose_scaled;
mod defer_sums;
mod fence_operands;
mod fetch_ahead;
mod hoist_loads;
mod join_parts;
mod multicast_copies;
mod overlap_products;
mod persist;
mod pipeline_loads;
mod rewrite;
mod skip_idle;
mod skip_maxima;
mod skip_ones;
mod split_masks;
mod split_tail;
mod start_ahead;
mod stream_loads;
mod take_turns;
mod tensor_maps;
mod two_in_flight;
mod warp_specialize;

pub(super) use allocate_shared::scratch_bytes;
pub(super) use copies::{is_scalar_arithmetic, written_views};

use super::facts::TensorFacts;
use super::verify::{Violation, verify};
use crate::target::Target;
use serde::{Deserialize, Serialize};
use std::fmt;
use tile_ir::Module;
use tile_ir::context::Place;
use tile_lang::{Config, DType};

/// A rewrite of a whole module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pass {
    /// Tile dialect to tile dialect: tensors that a launch reads once are found.
    StreamLoads,
    /// Tile dialect to tile dialect: masks are applied only in iterations that need them.
    SplitMasks,
    /// Tile dialect to tile dialect: products of operands with scales become products of widened operands.
    DecomposeScaled,
    /// Tile dialect to tile dialect: each CTA walks over programs of the grid.
    Persist,
    /// Tile dialect to gpu level: every tile gets a layout, operands of products go through shared memory.
    AssignLayouts,
    /// Parts of sums that are split over CTAs are joined.
    JoinParts,
    /// Sums that lanes share are added up behind loops.
    DeferSums,
    /// Loads that are the same in every iteration are made in front of the loop.
    HoistLoads,
    /// Copies of loops are made by a warp of their own, as bulk copies into rings.
    WarpSpecialize,
    /// Warpgroups whose rows lie outside of the tensor that a loop's results go to skip its products.
    SkipIdle,
    /// A loop's first product is started an iteration ahead.
    StartAhead,
    /// A loop's product runs while the next one's operands are waited for.
    OverlapProducts,
    /// Two warpgroups take turns at starting products.
    TakeTurns,
    /// Copies of loops run ahead in a ring of buffers.
    PipelineLoads,
    /// The CTAs of a cluster share the copies that are the same in all of them.
    MulticastCopies,
    /// Blocks are stored by bulk copies out of shared memory.
    BulkStores,
    /// What threads write to shared memory is made visible to `wgmma`.
    FenceOperands,
    /// Accumulators are multiplied only where a factor is not 1.
    SkipOnes,
    /// Lanes exchange the maxima of rows only where one has grown.
    SkipMaxima,
    /// Every buffer gets its offset.
    AllocateShared,
}

impl Pass {
    /// The passes from the tile dialect to what `lower` takes, in order.
    pub const ALL: [Pass; 20] = [
        Pass::StreamLoads,
        Pass::SplitMasks,
        Pass::DecomposeScaled,
        Pass::Persist,
        Pass::AssignLayouts,
        Pass::JoinParts,
        Pass::DeferSums,
        Pass::HoistLoads,
        Pass::WarpSpecialize,
        Pass::SkipIdle,
        Pass::StartAhead,
        Pass::OverlapProducts,
        Pass::TakeTurns,
        Pass::PipelineLoads,
        Pass::MulticastCopies,
        Pass::BulkStores,
        Pass::FenceOperands,
        Pass::SkipOnes,
        Pass::SkipMaxima,
        Pass::AllocateShared,
    ];

    /// The pass's name: `assign-layouts`.
    pub fn name(self) -> &'static str {
        match self {
            Pass::StreamLoads => "stream-loads",
            Pass::SplitMasks => "split-masks",
            Pass::DecomposeScaled => "decompose-scaled",
            Pass::Persist => "persist",
            Pass::AssignLayouts => "assign-layouts",
            Pass::JoinParts => "join-parts",
            Pass::DeferSums => "defer-sums",
            Pass::HoistLoads => "hoist-loads",
            Pass::PipelineLoads => "pipeline-loads",
            Pass::WarpSpecialize => "warp-specialize",
            Pass::SkipIdle => "skip-idle",
            Pass::StartAhead => "start-ahead",
            Pass::OverlapProducts => "overlap-products",
            Pass::TakeTurns => "take-turns",
            Pass::MulticastCopies => "multicast-copies",
            Pass::BulkStores => "bulk-stores",
            Pass::FenceOperands => "fence-operands",
            Pass::SkipOnes => "skip-ones",
            Pass::SkipMaxima => "skip-maxima",
            Pass::AllocateShared => "allocate-shared",
        }
    }

    /// What a kernel lacks that the pass leaves as it is without a word.
    fn idle(self) -> &'static str {
        match self {
            Pass::StreamLoads => "no tensor is read once",
            Pass::DecomposeScaled => "no product has scales",
            Pass::JoinParts => "no sum is split over CTAs",
            Pass::DeferSums => "no loop adds up sums of rows",
            Pass::HoistLoads => "no loop loads the same small block again",
            Pass::WarpSpecialize | Pass::PipelineLoads => "no loop waits for copies",
            Pass::StartAhead => "no loop holds two products of wgmma",
            Pass::SkipIdle | Pass::OverlapProducts => "no loop holds a product of wgmma",
            Pass::FenceOperands => "no wgmma reads what threads write",
            Pass::SkipOnes => "no accumulator is multiplied by a factor a row",
            Pass::SkipMaxima => "no loop keeps a maximum that has grown little",
            _ => "nothing for it to do",
        }
    }

    /// Runs it.
    ///
    /// # Errors
    /// See [`PassError`].
    pub fn run<'c>(self, module: Module<'c>, cx: &mut PassContext) -> Result<Module<'c>, PassError> {
        match self {
            Pass::StreamLoads => Ok(stream_loads::run(module, cx)),
            Pass::SplitMasks => Ok(split_masks::run(module, cx)),
            Pass::DecomposeScaled => Ok(decompose_scaled::run(module, cx)),
            Pass::Persist => Ok(persist::run(module, cx)),
            Pass::AssignLayouts => assign_layouts::run(&module, cx),
            Pass::JoinParts => Ok(join_parts::run(module, cx)),
            Pass::DeferSums => Ok(defer_sums::run(module, cx)),
            Pass::HoistLoads => Ok(hoist_loads::run(module, cx)),
            Pass::PipelineLoads => pipeline_loads::run(module, cx),
            Pass::WarpSpecialize => warp_specialize::run(module, cx),
            Pass::SkipIdle => skip_idle::run(module, cx),
            Pass::StartAhead => start_ahead::run(module, cx),
            Pass::OverlapProducts => overlap_products::run(module, cx),
            Pass::TakeTurns => take_turns::run(module, cx),
            Pass::MulticastCopies => multicast_copies::run(module, cx),
            Pass::BulkStores => bulk_stores::run(module, cx),
            Pass::FenceOperands => fence_operands::run(module, cx),
            Pass::SkipOnes => Ok(skip_ones::run(module, cx)),
            Pass::SkipMaxima => Ok(skip_maxima::run(module, cx)),
            Pass::AllocateShared => allocate_shared::run(module, cx),
        }
    }
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which of the passes that a configuration chooses may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switches {
    /// Copies of loops may have a warp of their own.
    pub warp_specialize: bool,
    /// Masks are applied only in iterations that need them.
    pub split_masks: bool,
    /// Warpgroups take turns at the tensor cores.
    pub ping_pong: bool,
    /// Blocks are stored as bulk copies out of shared memory.
    pub bulk_stores: bool,
    /// As many CTAs as are resident at once walk over all programs.
    pub persistent: bool,
    /// Operands of f32 go to `wgmma` where tensor maps round them.
    pub tf32_wgmma: bool,
    /// A product whose lhs is computed in registers is taken in halves.
    pub compute_ahead: bool,
    /// What a launch reads once leaves L2 first.
    pub stream_loads: bool,
    /// 1 where CTAs that walk split the sums of programs that do not fill a round, 2 where they share out the last whole
    /// round's with them, 0 where they do neither.
    pub split_tail: u32,
}

impl Switches {
    /// The switches of a configuration.
    pub fn of(config: &Config) -> Switches {
        let Config {
            warp_specialize,
            split_masks,
            ping_pong,
            bulk_stores,
            persistent,
            tf32_wgmma,
            compute_ahead,
            stream_loads,
            split_tail,
            ..
        } = *config;
        Switches {
            warp_specialize,
            split_masks,
            ping_pong,
            bulk_stores,
            persistent,
            tf32_wgmma,
            compute_ahead,
            stream_loads,
            split_tail,
        }
    }

    /// The switch that keeps a pass from running.
    fn off(&self, pass: Pass) -> Option<&'static str> {
        let (switch, is_on) = match pass {
            Pass::StreamLoads => ("stream_loads", self.stream_loads),
            Pass::SplitMasks => ("split_masks", self.split_masks),
            Pass::Persist => ("persistent", self.persistent),
            Pass::WarpSpecialize => ("warp_specialize", self.warp_specialize),
            Pass::TakeTurns => ("ping_pong", self.ping_pong),
            Pass::BulkStores => ("bulk_stores", self.bulk_stores),
            _ => return None,
        };
        (!is_on).then_some(switch)
    }
}

/// What passes are told, and what they tell.
#[derive(Clone, Debug)]
pub struct PassContext {
    /// What the code is for.
    pub target: &'static Target,
    /// Warps of a CTA, a power of two.
    pub num_warps: usize,
    /// Buffers of the ring in a pipelined loop; 1 for none.
    pub num_stages: usize,
    /// CTAs that are to be resident on an SM.
    pub occupancy: usize,
    /// CTAs of a cluster, a power of two; 1 for none.
    pub num_ctas: usize,
    /// Slots of rings whose copies are made once a program, where CTAs walk over programs; 1 once it is known that
    /// there are none. [`run_passes`] makes do with 1 where shared memory is short.
    pub front_stages: usize,
    /// Which passes may run.
    pub switches: Switches,
    /// Facts about each tensor argument in order.
    pub facts: Vec<TensorFacts>,
    /// What each pass did and did not do.
    pub remarks: Vec<Remark>,
}

impl PassContext {
    /// Adds a remark.
    fn remark(&mut self, pass: Pass, place: Option<Place>, message: impl Into<String>) {
        self.remarks.push(Remark { pass, place, message: message.into(), fired: false });
    }

    /// Notes of all that a pass said, which is what follows `before`, whether it changed the kernel; one that said
    /// nothing is spoken for.
    fn conclude(&mut self, pass: Pass, before: usize, fired: bool) {
        if self.remarks.len() == before {
            let message = match (fired, self.switches.off(pass)) {
                (true, _) => "done".to_owned(),
                (false, Some(switch)) => format!("switched off by {switch}=0"),
                (false, None) => pass.idle().to_owned(),
            };
            self.remark(pass, None, message);
        }
        self.remarks[before..].iter_mut().for_each(|remark| remark.fired = fired);
    }

    /// Shared memory that a CTA may use at the wanted occupancy.
    fn shared_memory_per_cta(&self) -> usize {
        let limits = &self.target.limits;
        let share = limits.smem_per_sm_bytes / self.occupancy.max(1);
        share.saturating_sub(limits.smem_reserved_per_cta_bytes).min(limits.smem_per_cta_bytes)
    }

    /// Registers that one thread may use at the wanted occupancy.
    fn registers_per_thread(&self) -> usize {
        let limits = &self.target.limits;
        let threads = self.num_warps * 32 * self.occupancy.max(1);
        (limits.registers_per_sm as usize / threads).min(limits.registers_per_thread as usize)
    }
}

/// What a pass did or did not do, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remark {
    /// The pass.
    pub pass: Pass,
    /// The kernel's source line.
    pub place: Option<Place>,
    /// What happened.
    pub message: String,
    /// The pass changed the kernel, though perhaps not here.
    pub fired: bool,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}: {}", self.pass, self.message),
            None => write!(f, "{}: {}", self.pass, self.message),
        }
    }
}

/// Why a pass gives up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PassError {
    /// The kernel's buffers do not fit; smaller tiles or fewer stages do.
    #[error("the kernel needs {needed} bytes of shared memory; {target} has {available} for a CTA")]
    SharedMemory {
        /// What the buffers add up to.
        needed: usize,
        /// What a CTA can have.
        available: usize,
        /// The target.
        target: &'static str,
    },
    /// A product of a dtype that has no tensor-core instruction.
    #[error("{}mma does not take {dtype} operands", At(.place))]
    MmaDType {
        /// The operands' dtype.
        dtype: DType,
        /// The kernel's source line.
        place: Option<Place>,
    },
    /// The number of warps is zero or not a power of two.
    #[error("num_warps is {0}; it must be a power of two")]
    NumWarps(usize),
    /// The module has another number of tensor arguments than there are facts.
    #[error("facts are given for {found} tensors; the kernel takes {expected}")]
    Facts {
        /// How many facts there are.
        found: usize,
        /// How many tensors there are.
        expected: usize,
    },
    /// An operation that the pass does not know: a mistake of the compiler.
    #[error("{}{op} cannot be given a layout", At(.place))]
    UnknownOp {
        /// The operation's name.
        op: String,
        /// The kernel's source line.
        place: Option<Place>,
    },
    /// The module breaks rules after a pass: a mistake of the compiler.
    #[error("after {pass} the module is malformed: {}", .violations.iter().map(Violation::to_string).collect::<Vec<_>>().join("; "))]
    Malformed {
        /// The pass that ran last.
        pass: Pass,
        /// Every broken rule.
        violations: Vec<Violation>,
    },
}

/// A place in front of a message.
struct At<'a>(&'a Option<Place>);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(place) => write!(f, "{place}: "),
            None => Ok(()),
        }
    }
}

/// Runs passes in order over a module of the tile dialect, with the verifier after each in debug builds. Each leaves
/// at least one remark.
///
/// # Errors
/// See [`PassError`].
pub fn run_passes<'c>(
    passes: &[Pass],
    module: &Module<'c>,
    cx: &mut PassContext,
) -> Result<Module<'c>, PassError> {
    let said = cx.remarks.len();
    if !passes.contains(&Pass::WarpSpecialize) {
        cx.front_stages = 1;
    }
    match run_once(passes, module, cx) {
        Err(PassError::SharedMemory { .. }) if cx.front_stages > 1 => {
            cx.remarks.truncate(said);
            cx.front_stages = 1;
            run_once(passes, module, cx)
        }
        done => done,
    }
}

fn run_once<'c>(passes: &[Pass], module: &Module<'c>, cx: &mut PassContext) -> Result<Module<'c>, PassError> {
    let mut module = module.clone();
    let mut text = module.to_text();
    for &pass in passes {
        let before = cx.remarks.len();
        module = pass.run(module, cx)?;
        let changed = module.to_text();
        cx.conclude(pass, before, text != changed);
        text = changed;
        if matches!(pass, Pass::StreamLoads | Pass::SplitMasks | Pass::DecomposeScaled | Pass::Persist) {
            debug_assert!(tile_ir::verify(&module).is_ok(), "the tile dialect's rules hold after {pass}");
        } else if cfg!(debug_assertions) {
            verify(&module).map_err(|violations| PassError::Malformed { pass, violations })?;
        }
    }
    Ok(module)
}
