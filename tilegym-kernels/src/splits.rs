//! What kernels share that split a summed dimension over programs: how far to split, the parts, the step that adds
//! them.

use crate::kernels::splitk_reduce::splitk_reduce;
use indexmap::indexmap;
use tile::contract::{Contract, Problem, Role, Step, StepArg, TensorSpec};
use tile::{Bindings, Config, DType};

/// The largest of 1, 2, 3, 4, 6, 8, 12, 16, .. that is at most `wanted`: a kernel is compiled for each number, and
/// sizes that grow should meet few.
pub(crate) fn few(wanted: usize) -> usize {
    let wanted = wanted.max(1);
    let power = 1 << wanted.ilog2();
    if wanted >= power + power / 2 { power + power / 2 } else { power }
}

/// Programs that share a block of the result `[m, n]`.
pub(crate) fn of(config: &Config) -> usize {
    config.consts["SPLITS"].max(1) as usize
}

/// The sums of the programs that share a block; with one split, which stores the result itself, as good as nothing.
pub(crate) fn parts(p: &Problem, config: &Config) -> TensorSpec {
    let shape = match of(config) {
        1 => vec![1, 1, 1],
        splits => vec![splits, p.size("m"), p.size("n")],
    };
    TensorSpec { name: "parts", dtype: DType::F32, shape, role: Role::Output }
}

/// The configuration of [`splitk_reduce`] for the parts of a result `[rows, columns]`, and its programs.
pub(crate) fn sum_of(splits: usize, rows: usize, columns: usize) -> (Config, usize) {
    // Parts mostly come from the L2 cache: many at once, so that its latency is waited for once or twice.
    let (tile_m, tile_n, at_once) =
        (1, 512.min(columns.next_power_of_two()), splits.min(8).next_power_of_two());
    let tiles = [("TILE_M", tile_m), ("TILE_N", tile_n), ("SPLITS", at_once)];
    let config = crate::check::config(&tiles.map(|(name, value)| (name, value as i64)), 4, 1, 2);
    (config, rows.div_ceil(tile_m) * columns.div_ceil(tile_n))
}

/// The product, whose tensors end with the result of dtype `out` and the parts, and with more than one split their
/// sum.
pub(crate) fn steps(contract: &dyn Contract, p: &Problem, config: &Config, out: DType) -> Vec<Step> {
    let parts_at = contract.tensors(p).len();
    let product = Step {
        kernel: contract.kernel(),
        config: config.clone(),
        bindings: contract.bindings(p, config),
        grid: contract.grid(p, config),
        args: (0..=parts_at).map(StepArg::Tensor).collect(),
    };
    if of(config) == 1 {
        return vec![product];
    }
    let (config, programs) = sum_of(of(config), p.size("m"), p.size("n"));
    let dtypes = indexmap! { "T".to_owned() => out };
    let sum = Step {
        kernel: &splitk_reduce::KERNEL,
        bindings: Bindings { consts: config.consts.clone(), dtypes },
        config,
        grid: [programs, 1, 1],
        args: vec![StepArg::Tensor(parts_at), StepArg::Tensor(parts_at - 1)],
    };
    vec![product, sum]
}
