//! How long a launch should take on a GPU that is not at hand.
//!
//! A program's [`Work`](crate::work::Work) is turned into cycles on each resource of an SM: tensor cores, arithmetic units, special
//! functions, shared memory, and the path from L2. From those:
//!
//! * **Roofline.** `a` CTAs on an SM take no less than `a` times the busiest resource, and the launch no less than
//!   its fewest bytes of device memory at the bandwidth it reaches. Where the two are close they contend: the time
//!   is a soft maximum of both.
//! * **Bytes in flight.** Full bandwidth takes a latency's worth of bytes under way (Little's law); a launch whose
//!   CTAs keep fewer under way reaches only its share.
//! * **Latency hiding.** The warps of a CTA wait for one another, so that its demands on different resources add up;
//!   other CTAs overlap with it: `T(a) = a * busiest + (sum - busiest) + exposed`.
//! * **Pipeline depth.** A loop that loads waits a memory latency an iteration, less what `num_stages - 1`
//!   iterations of work cover, and for its warps to meet. Where warps of their own copy, a slot comes round in a
//!   latency, its transfer and its use, and `num_stages` slots in that time are the pace; the path from L2 is
//!   then beside the other demands, and what is left is waiting for barriers. Where CTAs walk, a program's first
//!   copies are made under the one before.
//! * **Warpgroups.** Products of warpgroups stream operands out of shared memory as they multiply, and a CTA's
//!   groups go their own way: one takes exponentials while another multiplies.
//! * **Occupancy.** `a` is what the registers and shared memory in the assembler's report allow, whatever the
//!   configuration asked for.
//! * **Wave quantization.** `programs / (SMs * a)` full waves and a tail, which takes as long as its fullest SM;
//!   the heaviest program, not the mean, closes the launch. Where the tail's sums are split over all CTAs, it takes its
//!   share of a wave, and the time to hand parts of sums on through memory.
//!
//! The two ends of the estimate are everything overlapped and nothing overlapped. The model ranks configurations;
//! its absolute times are rough. Constants that say so are fitted to measured sweeps of six kernels on an H200, the
//! rest are of the hardware; every measured sweep scores the model again.

use crate::platform::Platform;
use crate::work::GridWork;
use codegen_ptx::gpu::resources::LEAST_PART_ITERATIONS;
use serde::{Deserialize, Serialize};

/// Cycles from a load to its data, from device memory under load.
const MEMORY_LATENCY_CYCLES: f64 = 800.0;
/// Elementwise operations of an SM a cycle: 32 lanes on each of four schedulers, and two instructions an operation,
/// with its masks, conversions and addresses (fitted).
const ALU_PER_CYCLE: f64 = 64.0;
/// Special functions of an SM a cycle.
const SFU_PER_CYCLE: f64 = 16.0;
/// Bytes an SM reads from shared memory a cycle: 32 banks of 4 bytes.
const SMEM_BYTES_PER_CYCLE: f64 = 128.0;
/// Bytes an SM takes from L2 a cycle.
const L2_BYTES_PER_CYCLE: f64 = 64.0;
/// Cycles that each warp adds to an iteration of a loop that loads, for barriers and addresses (fitted).
const ROUND_CYCLES_PER_WARP: f64 = 16.0;
/// The share of an iteration's work that the next one's loads are under way beside (fitted).
const COVERED_SHARE: f64 = 0.5;
/// Cycles from a bulk copy's start to its first bytes, the SMs being busy with others, and its barrier (fitted).
const RING_LATENCY_CYCLES: f64 = 1000.0;
/// Cycles of an iteration on the barriers of a ring (fitted).
const RING_CYCLES: f64 = 100.0;
/// Bytes of parts of sums that an SM stores a cycle while all do (measured on an H200).
const PART_STORE_BYTES_PER_CYCLE: f64 = 33.0;
/// Bytes of parts of sums that an SM loads a cycle while all do (measured on an H200).
const PART_LOAD_BYTES_PER_CYCLE: f64 = 27.0;
/// Warp schedulers of an SM.
const SCHEDULERS: f64 = 4.0;
/// Cycles to start a CTA, and to drain its last stores, while no other CTA runs (fitted).
const CTA_OVERHEAD_CYCLES: f64 = 300.0;
/// Microseconds to launch a kernel.
const LAUNCH_US: f64 = 3.0;

/// A predicted or measured time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// The median, or the prediction, in microseconds.
    pub us: f64,
    /// The low end of the spread: everything overlaps.
    pub low_us: f64,
    /// The high end: nothing overlaps.
    pub high_us: f64,
}

impl Timing {
    /// All of it `factor` times as long.
    pub fn scaled(self, factor: f64) -> Timing {
        Timing { us: self.us * factor, low_us: self.low_us * factor, high_us: self.high_us * factor }
    }
}

/// What the model reads of one configuration.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// The work of its launch.
    pub work: &'a GridWork,
    /// Warps of a CTA.
    pub num_warps: u32,
    /// Buffers of a pipelined load.
    pub num_stages: u32,
    /// Whether warps of their own copy.
    pub copies_ahead: bool,
    /// Whether CTAs walk over programs, so that the copies for the next one come while the present one ends.
    pub walks: bool,
    /// Whether the sums of programs that do not fill a round of CTAs are split over all of them.
    pub splits_tail: bool,
    /// CTAs that fit on an SM.
    pub ctas_per_sm: u32,
    /// Bytes each thread spills, stores and reloads together; once an iteration.
    pub spill_bytes: u32,
    /// Fewest bytes of device memory that the problem moves.
    pub dram_bytes: f64,
}

/// What can hold a launch up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Device memory.
    Memory,
    /// The path from L2.
    L2,
    /// Shared memory.
    SharedMemory,
    /// Tensor cores.
    TensorCores,
    /// Arithmetic units.
    Alu,
    /// Special functions: exponentials, reciprocals, roots.
    SpecialFunctions,
    /// Waiting for memory, and the start and end of CTAs.
    Latency,
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Resource::Memory => "device memory",
            Resource::L2 => "L2",
            Resource::SharedMemory => "shared memory",
            Resource::TensorCores => "tensor cores",
            Resource::Alu => "ALU",
            Resource::SpecialFunctions => "special functions",
            Resource::Latency => "latency",
        })
    }
}

/// What a launch would take if nothing but one resource held it up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// The resource.
    pub resource: Resource,
    /// The time in microseconds.
    pub us: f64,
}

/// The resource that takes longest.
pub fn limiter(limits: &[Limit]) -> Option<Resource> {
    limits.iter().max_by(|a, b| a.us.total_cmp(&b.us)).map(|limit| limit.resource)
}

/// Cycles that one program needs of each resource of an SM, were it alone there.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Demand {
    /// What no overlap makes shorter.
    busiest: f64,
    /// Of resources that the warps wait for one after another.
    sum: f64,
    /// What of `sum` is beside `busiest` where other CTAs do not run: the groups of a CTA overlap.
    rest: f64,
    /// The path from L2.
    l2: f64,
}

/// What a launch would take of each resource alone.
pub fn limits(platform: &Platform, candidate: &Candidate) -> Vec<Limit> {
    let (sms, programs) = (f64::from(platform.sms), candidate.work.programs);
    let limit = |resource, cycles: f64| Limit { resource, us: cycles / platform.clock_mhz };
    let demands = demands(platform, candidate);
    let waves = (programs / (sms * f64::from(candidate.ctas_per_sm.max(1)))).ceil();
    let waiting =
        waves * exposed(candidate, &demand(platform, candidate), f64::from(candidate.ctas_per_sm.max(1)));
    let dram_us = candidate.dram_bytes / bandwidth(platform, candidate) * 1e6;
    let of_sms = demands.map(|(resource, cycles)| limit(resource, cycles * programs / sms));
    let others = [Limit { resource: Resource::Memory, us: dram_us }, limit(Resource::Latency, waiting)];
    of_sms.into_iter().chain(others).collect()
}

/// The predicted time of a launch.
pub fn predict(platform: &Platform, candidate: &Candidate) -> Timing {
    let demand = demand(platform, candidate);
    let wave = |ctas: f64, overlap: f64| {
        ctas * demand.busiest + overlap * (demand.rest + exposed(candidate, &demand, ctas))
    };
    let launch = |overlap: f64, serial: bool| {
        let serially = |ctas: f64| ctas * demand.sum.max(demand.busiest) + exposed(candidate, &demand, 1.0);
        let time =
            |ctas: f64| if serial { serially(ctas).max(wave(ctas, overlap)) } else { wave(ctas, overlap) };
        let (sms, fit) = (f64::from(platform.sms), f64::from(candidate.ctas_per_sm.max(1)));
        let programs = candidate.work.programs;
        let full = (programs / (sms * fit)).floor();
        let rest = programs - full * sms * fit;
        let tail = match rest {
            0.0 => 0.0,
            _ if candidate.splits_tail => {
                let share = (rest / (sms * fit))
                    .max(LEAST_PART_ITERATIONS as f64 / candidate.work.mean.rounds.max(1.0))
                    .min(1.0);
                share * time(fit) + join_cycles(candidate)
            }
            _ => time((rest / sms).ceil()),
        };
        // Programs start as others end, so that only the last ones to run are longer than the mean.
        let last = (candidate.work.imbalance - 1.0) * time(1.0);
        let cycles = full * time(fit) + tail + last;
        let dram_us = candidate.dram_bytes / bandwidth(platform, candidate) * 1e6;
        soft_max(cycles / platform.clock_mhz, dram_us) + LAUNCH_US
    };
    Timing { us: launch(1.0, false), low_us: launch(0.0, false), high_us: launch(1.0, true) }
}

/// Cycles to leave the part of a split program's sum in memory, and to fetch and add up another's.
fn join_cycles(candidate: &Candidate) -> f64 {
    let part_bytes = candidate.work.mean.stored_elems * 4.0 * f64::from(candidate.ctas_per_sm.max(1));
    part_bytes * (1.0 / PART_STORE_BYTES_PER_CYCLE + 1.0 / PART_LOAD_BYTES_PER_CYCLE)
        + 2.0 * MEMORY_LATENCY_CYCLES
}

/// Cycles that one of `ctas` CTAs on an SM waits for memory, and for its start and end.
fn exposed(candidate: &Candidate, demand: &Demand, ctas: f64) -> f64 {
    let rounds = candidate.work.mean.rounds;
    if candidate.copies_ahead {
        let per_round = (ctas * demand.busiest + demand.rest) / rounds.max(1.0);
        let of_slot = RING_LATENCY_CYCLES + demand.l2 / rounds.max(1.0) + per_round;
        let late = soft_max(of_slot / f64::from(candidate.num_stages.max(1)), per_round) - per_round;
        let start = if candidate.walks { 0.0 } else { MEMORY_LATENCY_CYCLES + CTA_OVERHEAD_CYCLES };
        return rounds * (late + RING_CYCLES) + start;
    }
    let per_round = demand.sum / rounds.max(1.0);
    let covered = f64::from(candidate.num_stages.max(1) - 1) * per_round * COVERED_SHARE;
    let meeting = f64::from(candidate.num_warps) * ROUND_CYCLES_PER_WARP;
    let of_round = (MEMORY_LATENCY_CYCLES - covered).max(0.0) + meeting;
    rounds * of_round + MEMORY_LATENCY_CYCLES + CTA_OVERHEAD_CYCLES
}

/// Bytes a second that the CTAs' loads under way keep coming: one round of each, or all stages but the one in use.
/// Nothing waits for stores, so that a launch without loads has all there is.
fn bandwidth(platform: &Platform, candidate: &Candidate) -> f64 {
    let work = &candidate.work.mean;
    if work.load_bytes == 0.0 {
        return platform.dram_bytes_per_s;
    }
    let stages = f64::from(candidate.num_stages.saturating_sub(1).max(1));
    let of_cta = work.load_bytes / work.rounds.max(1.0) * if work.rounds > 0.0 { stages } else { 1.0 };
    let ctas =
        (f64::from(platform.sms) * f64::from(candidate.ctas_per_sm.max(1))).min(candidate.work.programs);
    let latency_s = MEMORY_LATENCY_CYCLES / (platform.clock_mhz * 1e6);
    platform.dram_bytes_per_s.min((ctas * of_cta / latency_s).max(1.0))
}

/// Within a tenth above the greater of two times; the nearer they are, the higher.
fn soft_max(a: f64, b: f64) -> f64 {
    (a.powi(8) + b.powi(8)).powf(0.125)
}

fn demand(platform: &Platform, candidate: &Candidate) -> Demand {
    let [tensor, alu, special, smem, l2] = demands(platform, candidate).map(|(_, cycles)| cycles);
    let by_groups = !candidate.work.mean.wgmma_flops.is_empty();
    let products = if by_groups { tensor.max(smem) } else { tensor + smem };
    let groups = if by_groups { f64::from(candidate.num_warps) / SCHEDULERS } else { 1.0 };
    let most = [tensor, alu, special, smem].into_iter().fold(0.0, f64::max);
    let sum = products + alu + special;
    if candidate.copies_ahead {
        let rest = (sum - most) / groups.max(1.0);
        let beside = if by_groups && tensor >= smem { smem } else { 0.0 };
        return Demand { busiest: soft_max(soft_max(most, beside), l2), sum, rest, l2 };
    }
    let busiest = most.max(l2);
    Demand { busiest, sum: sum + l2, rest: (sum + l2 - busiest) / groups.max(1.0), l2 }
}

/// Cycles that one program needs of each resource of an SM.
fn demands(platform: &Platform, candidate: &Candidate) -> [(Resource, f64); 5] {
    let work = &candidate.work.mean;
    let by_warps = work.mma_flops.iter().map(|(&dtype, flops)| flops / platform.mma_flops_per_cycle(dtype));
    let by_groups =
        work.wgmma_flops.iter().map(|(&dtype, flops)| flops / platform.peak_flops_per_cycle(dtype));
    let tensor: f64 = by_warps.chain(by_groups).sum();
    let threads = f64::from(candidate.num_warps) * 32.0;
    let spilled = f64::from(candidate.spill_bytes) * threads * work.rounds.max(1.0);
    // A CTA of fewer warps than there are schedulers leaves the others idle.
    let idle = (SCHEDULERS / f64::from(candidate.num_warps.max(1))).max(1.0);
    [
        (Resource::TensorCores, tensor * idle),
        (Resource::Alu, work.alu_ops / ALU_PER_CYCLE * idle),
        (Resource::SpecialFunctions, work.sfu_ops / SFU_PER_CYCLE * idle),
        (Resource::SharedMemory, (work.fragment_bytes + spilled) / SMEM_BYTES_PER_CYCLE),
        (Resource::L2, (work.load_bytes + work.store_bytes) / L2_BYTES_PER_CYCLE),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Source;
    use crate::platform::{BUILT_IN, parse_platforms};
    use crate::work::Work;
    use tile_lang::DType;

    fn platform(part: &str) -> Platform {
        let platforms =
            parse_platforms(&Source::new("p.toml", BUILT_IN)).expect("the built-in table is right");
        platforms.into_iter().find(|p| p.target == part).expect("a known part")
    }

    /// A matmul-like launch: `programs` programs of `rounds` steps over 128x128x64 tiles.
    fn work(programs: f64, rounds: f64) -> GridWork {
        let mean = Work {
            mma_flops: [(DType::BF16, rounds * 2.0 * 128.0 * 128.0 * 64.0)].into(),
            alu_ops: 0.0,
            sfu_ops: 0.0,
            load_bytes: rounds * 32768.0,
            store_bytes: 32768.0,
            fragment_bytes: rounds * 81920.0,
            rounds,
            ..Work::default()
        };
        GridWork { programs, mean, imbalance: 1.0 }
    }

    fn time(part: &str, work: &GridWork, change: impl Fn(&mut Candidate)) -> f64 {
        let mut candidate = Candidate {
            work,
            num_warps: 4,
            num_stages: 2,
            copies_ahead: false,
            walks: false,
            splits_tail: false,
            ctas_per_sm: 1,
            spill_bytes: 0,
            dram_bytes: 1e6,
        };
        change(&mut candidate);
        let timing = predict(&platform(part), &candidate);
        assert!(timing.low_us <= timing.us && timing.us <= timing.high_us, "{timing:?}");
        timing.us
    }

    #[test]
    fn more_stages_and_more_ctas_hide_latency() {
        let work = work(480.0, 64.0);
        let stages = [1, 2, 3].map(|s| time("sm_121", &work, |c| c.num_stages = s));
        assert!(stages[0] > stages[1] && stages[1] >= stages[2], "{stages:?}");
        let ctas = [1, 2].map(|n| time("sm_121", &work, |c| c.ctas_per_sm = n));
        assert!(ctas[0] > ctas[1], "{ctas:?}");
    }

    /// The same by warpgroups, with exponentials of a quarter of the products' time.
    fn work_of_groups(programs: f64, rounds: f64) -> GridWork {
        let mut work = work(programs, rounds);
        work.mean.wgmma_flops = std::mem::take(&mut work.mean.mma_flops);
        work.mean.fragment_bytes /= 4.0;
        work.mean.sfu_ops = rounds * 128.0 * SFU_PER_CYCLE;
        work
    }

    #[test]
    fn warps_that_copy_and_groups_that_take_turns_hide_waiting() {
        let work = work_of_groups(1320.0, 64.0);
        let at = |change: &dyn Fn(&mut Candidate)| time("sm_90", &work, |c| change(c));
        let ahead = |stages| at(&|c| (c.copies_ahead, c.num_stages) = (true, stages));
        assert!(ahead(2) < at(&|_| {}));
        assert!(ahead(2) > ahead(3) && ahead(3) > ahead(4));
        let two_groups = at(&|c| (c.copies_ahead, c.num_stages, c.num_warps) = (true, 4, 8));
        assert!(two_groups < ahead(4), "{two_groups}");
    }

    #[test]
    fn a_wave_more_costs_a_wave() {
        let at = |programs: f64| time("sm_121", &work(programs, 64.0), |c| c.dram_bytes = 0.0);
        assert_eq!(at(1.0), at(48.0));
        assert!(at(49.0) > 1.9 * at(48.0) - LAUNCH_US);
        assert_eq!(at(49.0), at(96.0));
    }

    #[test]
    fn spills_and_imbalance_cost() {
        let even = work(480.0, 64.0);
        assert!(time("sm_80", &even, |c| c.spill_bytes = 128) > time("sm_80", &even, |_| {}));
        let uneven = GridWork { imbalance: 2.0, ..even.clone() };
        assert!(time("sm_80", &uneven, |_| {}) > time("sm_80", &even, |_| {}));
    }

    #[test]
    fn the_limiter_is_what_the_work_is_made_of() {
        let of = |work: &GridWork, dram_bytes| {
            let candidate = Candidate {
                work,
                num_warps: 4,
                num_stages: 4,
                copies_ahead: false,
                walks: false,
                splits_tail: false,
                ctas_per_sm: 2,
                spill_bytes: 0,
                dram_bytes,
            };
            let limits = limits(&platform("sm_121"), &candidate);
            let time = predict(&platform("sm_121"), &candidate);
            assert!(limits.iter().all(|limit| limit.us <= time.high_us), "{limits:?} {time:?}");
            limiter(&limits)
        };
        assert_eq!(of(&work(480.0, 64.0), 1e6), Some(Resource::TensorCores));
        assert_eq!(of(&work(480.0, 64.0), 1e10), Some(Resource::Memory));
        let exponentials = GridWork { mean: Work { sfu_ops: 1e6, ..Work::default() }, ..work(480.0, 0.0) };
        assert_eq!(of(&exponentials, 1e6), Some(Resource::SpecialFunctions));
        assert_eq!(of(&GridWork { mean: Work::default(), ..work(1.0, 0.0) }, 0.0), Some(Resource::Latency));
    }

    #[test]
    fn bandwidth_bounds_a_launch_from_below() {
        let work = work(48.0, 1.0);
        let us = time("sm_121", &work, |c| c.dram_bytes = 2.73e9);
        assert!((us - 10_000.0 - LAUNCH_US).abs() < 1.0, "{us}");
    }

    #[test]
    fn few_bytes_under_way_reach_little_bandwidth() {
        let narrow = GridWork { mean: Work { load_bytes: 512.0, ..Work::default() }, ..work(1e5, 0.0) };
        let at = |ctas| time("sm_80", &narrow, |c| (c.ctas_per_sm, c.dram_bytes) = (ctas, 1e9));
        assert!(at(1) > 1.9 * at(2) && at(2) > 1.9 * at(4), "{} {} {}", at(1), at(2), at(4));
    }

    #[test]
    fn a_larger_gpu_is_faster() {
        let work = work(4096.0, 64.0);
        let times = ["sm_121", "sm_80", "sm_90"].map(|part| time(part, &work, |_| {}));
        assert!(times[0] > times[1] && times[1] > times[2], "{times:?}");
    }

    #[test]
    fn no_prediction_beats_the_tensor_peak() {
        let work = work(4800.0, 64.0);
        let flops = work.programs * work.mean.mma_flops.values().sum::<f64>();
        let platform = platform("sm_121");
        let us = time("sm_121", &work, |c| c.ctas_per_sm = 2);
        assert!(us * 1e-6 * platform.peak_tflops[&DType::BF16] * 1e12 >= flops);
    }
}
