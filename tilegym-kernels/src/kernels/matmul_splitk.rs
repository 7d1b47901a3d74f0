//! Matrix product whose summed dimension is split over programs.

use crate::{products, splits};
use indexmap::IndexMap;
use std::collections::BTreeMap;
use tile::contract::{Contract, ContractError, Found, Problem, ScalarValue, SizeSpec, Step, TensorSpec};
use tile::prelude::*;
use tile::registry::KernelDef;
use tile::{Config, DType};

/// `out = lhs rhs`, of which `SPLITS` programs sum one `TILE_M x TILE_N` block, each its run of K's tiles, in f32.
///
/// With more than one split, each program leaves its sum in `parts`, and [`splitk_reduce`](crate::splitk_reduce()) adds
/// them in a second step; with one, it stores the block of `out`. The order of the additions is fixed by the
/// configuration, so that equal inputs give equal bits. A program without a tile of K leaves zeros.
///
/// A NaN or an infinity of an operand gives what IEEE sums of products give in its row or column of `out`.
///
/// # Shapes
/// lhs `[M, K]`, out `[M, N]`; rhs `[N, K]` with `RHS_IS_NK`, else `[K, N]`; parts `[SPLITS, M, N]`, unused with one
/// split, as out is with more
/// # Grid
/// `[ceil(M / TILE_M), ceil(N / TILE_N), SPLITS]`: the programs of a split, which share operands, are neighbours.
/// # Dtypes
/// lhs, rhs f16 | bf16 | f32 (tf32 on tensor cores) | f8E4M3FN; out f16 | bf16 | f32; parts f32
#[tile_kernel(tune(
    TILE_M in [128, 64],
    TILE_N in [128, 256, 64],
    TILE_K in [64, 128, 32],
    SPLITS in [1, 2, 3, 4, 6, 8, 12, 16, 32],
    num_warps in [8, 4],
    num_stages in [3, 4],
    occupancy in [1, 2]
    where TILE_M * TILE_N <= 4096 * num_warps, TILE_M * TILE_N >= 1024 * num_warps,
          num_warps == 4 || TILE_M == 128 && occupancy == 1,
          TILE_K >= 64 || num_stages == 3 && occupancy == 1
))]
pub fn matmul_splitk<
    T: Factor,
    O: Float,
    const TILE_M: usize,
    const TILE_N: usize,
    const TILE_K: usize,
    const SPLITS: usize,
    const RHS_IS_NK: bool,
>(
    lhs: Tensor<T, 2>,
    rhs: Tensor<T, 2>,
    out: TensorMut<O, 2>,
    parts: TensorMut<f32, 3>,
) {
    let (m, n, split) = (program_id(0), program_id(1), program_id(2));
    let blocks = cdiv(lhs.dim(1), TILE_K);
    let share = cdiv(blocks, SPLITS);
    let mut acc = zeros::<f32>([TILE_M, TILE_N]);
    for k in split * share..((split + 1) * share).min(blocks) {
        let a = lhs.load([m, k], [TILE_M, TILE_K]);
        let b = if RHS_IS_NK {
            rhs.load([n, k], [TILE_N, TILE_K]).t()
        } else {
            rhs.load([k, n], [TILE_K, TILE_N])
        };
        acc = mma(a, b, acc);
    }
    if SPLITS == 1 {
        out.store([m, n], acc.cast::<O>());
    } else {
        parts.store([split, m, n], acc.reshape([1, TILE_M, TILE_N]));
    }
}

/// The contract of [`matmul_splitk`](matmul_splitk()); with several splits, the parts in f32 are the workspace.
///
/// It is for products with fewer blocks of `out` than the GPU has SMs and a long K: splitting K gives the other SMs
/// work. The parts cost `8 SPLITS M N` bytes, written and read again in the L2 cache as far as it holds them, and a
/// second launch, which is some microseconds. Where there are blocks for every SM, or only a few tiles of K,
/// [`matmul`](crate::matmul()) is the better one.
///
/// The parts are added in a step of their own, not by the last program of a block to arrive: all SMs read them then,
/// where that program would read `4 SPLITS TILE_M TILE_N` bytes at the rate of one SM while the others are done.
pub struct MatmulSplitkContract;

tile::register_contract!(MatmulSplitkContract);

/// Few blocks and a long K.
const SIZES: &[SizeSpec] = &products::sizes([512, 512, 65536]);
/// Rows or columns of a block before tuning, where there are so many.
const DEFAULT_TILE: usize = 128;
/// Tiles of K that a program should have at least: below, the parts cost more than the split saves.
const LEAST_BLOCKS: usize = 8;

impl Contract for MatmulSplitkContract {
    fn kernel(&self) -> &'static KernelDef {
        &matmul_splitk::KERNEL
    }

    fn summary(&self) -> &'static str {
        "out = lhs rhs, accumulated in f32, with K split over programs"
    }

    fn sizes(&self) -> &'static [SizeSpec] {
        SIZES
    }

    fn dtypes(&self) -> &'static [DType] {
        products::DTYPES
    }

    fn check(&self, problem: &Problem) -> Result<(), ContractError> {
        products::check(problem)
    }

    fn from_inputs(
        &self,
        inputs: &BTreeMap<String, Found>,
        given: &IndexMap<String, i64>,
    ) -> Result<Problem, ContractError> {
        products::from_inputs(self, inputs, given)
    }

    fn tensors(&self, p: &Problem) -> Vec<TensorSpec> {
        products::tensors(p, &[]).to_vec()
    }

    fn scalars(&self, _: &Problem) -> Vec<ScalarValue> {
        Vec::new()
    }

    fn consts(&self, p: &Problem) -> IndexMap<String, i64> {
        products::consts(p)
    }

    fn dtype_bindings(&self, p: &Problem) -> IndexMap<String, DType> {
        products::dtype_bindings(p)
    }

    fn grid(&self, p: &Problem, config: &Config) -> [usize; 3] {
        let blocks = |size, tile| crate::check::blocks(p, size, config, tile);
        [blocks("m", "TILE_M"), blocks("n", "TILE_N"), splits::of(config)]
    }

    fn workspace(&self, p: &Problem, config: &Config) -> Vec<TensorSpec> {
        vec![splits::parts(p, config)]
    }

    fn steps(&self, p: &Problem, config: &Config) -> Vec<Step> {
        splits::steps(self, p, config, products::out_dtype(p))
    }

    fn flops(&self, p: &Problem) -> f64 {
        products::flops(p)
    }

    fn oracle(&self, p: &Problem, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
        vec![products::reference(p, &inputs[0], &inputs[1])]
    }

    fn tolerance(&self, dtype: DType, gpu: bool) -> f64 {
        crate::oracle::product_tolerance(dtype, gpu)
    }

    fn default_config(&self, p: &Problem) -> Config {
        default_config(p, crate::host::DEFAULT_SMS)
    }
}

/// The configuration to use on so many SMs before anything was tuned: all programs of all splits run at once.
pub(crate) fn default_config(p: &Problem, sms: usize) -> Config {
    let tile = |size| if p.size(size) <= DEFAULT_TILE / 2 { DEFAULT_TILE / 2 } else { DEFAULT_TILE };
    let (tile_m, tile_n, tile_k) = (tile("m"), tile("n"), products::default_tile_k(p));
    let programs = p.size("m").div_ceil(tile_m) * p.size("n").div_ceil(tile_n);
    let blocks = p.size("k").div_ceil(tile_k);
    let splits = splits::few((sms / programs).min(blocks / LEAST_BLOCKS));
    let tiles = [("TILE_M", tile_m), ("TILE_N", tile_n), ("TILE_K", tile_k), ("SPLITS", splits)];
    // A warpgroup for each 64 rows of a block, as `wgmma` takes them.
    let num_warps = (tile_m / 16) as u32;
    crate::check::config(&tiles.map(|(name, value)| (name, value as i64)), num_warps, 3, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiles_and_splits(m: i64, n: i64, k: i64, sms: usize) -> [i64; 3] {
        let sizes = [("m", m), ("n", n), ("k", k)].map(|(name, value)| (name.to_owned(), value));
        let problem = MatmulSplitkContract.problem(DType::BF16, &sizes.into_iter().collect()).unwrap();
        ["TILE_M", "TILE_N", "SPLITS"].map(|name| default_config(&problem, sms).consts[name])
    }

    #[test]
    fn k_is_split_where_blocks_are_fewer_than_sms() {
        assert_eq!(tiles_and_splits(512, 512, 65536, 132), [128, 128, 8]);
        assert_eq!(tiles_and_splits(512, 512, 65536, 48), [128, 128, 3]);
        assert_eq!(tiles_and_splits(16, 4096, 16384, 132), [64, 128, 4]);
        // A block, and few tiles of K.
        assert_eq!(tiles_and_splits(1, 1, 1 << 20, 132), [64, 64, 128]);
        assert_eq!(tiles_and_splits(128, 128, 2048, 132), [128, 128, 4]);
        assert_eq!(tiles_and_splits(128, 128, 1000, 132), [128, 128, 2]);
        assert_eq!(tiles_and_splits(128, 128, 100, 132), [128, 128, 1]);
        // Blocks enough for every SM.
        assert_eq!(tiles_and_splits(4096, 4096, 65536, 132), [128, 128, 1]);
    }
}
