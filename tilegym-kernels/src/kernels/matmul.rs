//! Matrix product.

use crate::products;
use indexmap::IndexMap;
use std::collections::BTreeMap;
use tile::contract::{Contract, ContractError, Found, Problem, ScalarValue, SizeSpec, TensorSpec};
use tile::prelude::*;
use tile::registry::KernelDef;
use tile::{Config, DType};

/// `out = lhs rhs`, one `TILE_M x TILE_N` block of `out` a program, accumulated in f32.
///
/// A NaN or an infinity of an operand gives what IEEE sums of products give in its row or column of `out`.
///
/// # Shapes
/// lhs `[M, K]`, out `[M, N]`; rhs `[N, K]` with `RHS_IS_NK`, else `[K, N]`.
/// # Grid
/// `[rows of blocks in a group, ceil(N / TILE_N), groups]`, where all groups together are `ceil(M / TILE_M)` rows of
/// blocks. Programs that run at one time then share operands that the L2 cache holds; a single group is the plain
/// grid `[ceil(M / TILE_M), ceil(N / TILE_N)]`.
/// # Dtypes
/// lhs, rhs f16 | bf16 | f32 (tf32 on tensor cores) | f8E4M3FN; out f16 | bf16 | f32
#[tile_kernel(tune(
    TILE_M in [64, 128, 256],
    TILE_N in [64, 128, 256],
    TILE_K in [32, 64, 128],
    num_warps in [4, 8],
    num_stages in [3, 2, 4],
    occupancy in [1, 2],
    persistent in [0, 1]
    where TILE_M * TILE_N <= 32768, TILE_M * TILE_N <= 4096 * num_warps,
          persistent == 0 || num_warps == 8 && num_stages >= 3 && occupancy == 1
))]
pub fn matmul<
    T: Factor,
    O: Float,
    const TILE_M: usize,
    const TILE_N: usize,
    const TILE_K: usize,
    const RHS_IS_NK: bool,
>(
    lhs: Tensor<T, 2>,
    rhs: Tensor<T, 2>,
    out: TensorMut<O, 2>,
) {
    let m = program_id(2) * num_programs(0) + program_id(0);
    let n = program_id(1);
    let mut acc = zeros::<f32>([TILE_M, TILE_N]);
    for k in 0..cdiv(lhs.dim(1), TILE_K) {
        let a = lhs.load([m, k], [TILE_M, TILE_K]);
        let b = if RHS_IS_NK {
            rhs.load([n, k], [TILE_N, TILE_K]).t()
        } else {
            rhs.load([k, n], [TILE_K, TILE_N])
        };
        acc = mma(a, b, acc);
    }
    out.store([m, n], acc.cast::<O>());
}

/// The contract of [`matmul`].
///
/// Each block of `out` is a program, so that a product with fewer blocks than the GPU has SMs leaves SMs without
/// work; where its K is long, [`matmul_splitk`](crate::matmul_splitk()) is the better one.
pub struct MatmulContract;

tile::register_contract!(MatmulContract);

const SIZES: &[SizeSpec] = &products::sizes([4096; 3]);

impl Contract for MatmulContract {
    fn kernel(&self) -> &'static KernelDef {
        &matmul::KERNEL
    }

    fn summary(&self) -> &'static str {
        "out = lhs rhs, accumulated in f32"
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
        products::grouped_grid(p, config)
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
        products::default_config(p)
    }
}
