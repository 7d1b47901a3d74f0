//! Matrix products, one for each of a batch.

use crate::products;
use indexmap::{IndexMap, indexmap};
use std::collections::BTreeMap;
use tile::contract::{Contract, ContractError, Found, Problem, ScalarValue, SizeSpec, TensorSpec};
use tile::prelude::*;
use tile::registry::KernelDef;
use tile::{Config, DType};

/// `out[b] = lhs[b] rhs[b]`, one `TILE_M x TILE_N` block of one `out[b]` a program, accumulated in f32.
///
/// A NaN or an infinity of an operand gives what IEEE sums of products give in its row or column of `out[b]`.
///
/// # Shapes
/// lhs `[batch, M, K]`, out `[batch, M, N]`; rhs `[batch, N, K]` with `RHS_IS_NK`, else `[batch, K, N]`. An operand
/// that all products share has a stride of 0 along the batch.
/// # Grid
/// `[ceil(M / TILE_M), ceil(N / TILE_N), batch]`
/// # Dtypes
/// lhs, rhs f16 | bf16 | f32 (tf32 on tensor cores) | f8E4M3FN; out f16 | bf16 | f32
#[tile_kernel(tune(
    TILE_M in [64, 128, 256],
    TILE_N in [64, 128, 256],
    TILE_K in [32, 64],
    num_warps in [4, 8],
    num_stages in [3, 2, 4],
    occupancy in [1, 2],
    persistent in [0, 1]
    where TILE_M * TILE_N <= 32768, TILE_M * TILE_N <= 4096 * num_warps,
          persistent == 0 || num_warps == 8 && num_stages >= 3 && occupancy == 1
))]
pub fn matmul_batched<
    T: Factor,
    O: Float,
    const TILE_M: usize,
    const TILE_N: usize,
    const TILE_K: usize,
    const RHS_IS_NK: bool,
>(
    lhs: Tensor<T, 3>,
    rhs: Tensor<T, 3>,
    out: TensorMut<O, 3>,
) {
    let (m, n, batch) = (program_id(0), program_id(1), program_id(2));
    let mut acc = zeros::<f32>([TILE_M, TILE_N]);
    for k in 0..cdiv(lhs.dim(2), TILE_K) {
        let a = lhs.load([batch, m, k], [1, TILE_M, TILE_K]).reshape([TILE_M, TILE_K]);
        let b = if RHS_IS_NK {
            rhs.load([batch, n, k], [1, TILE_N, TILE_K]).reshape([TILE_N, TILE_K]).t()
        } else {
            rhs.load([batch, k, n], [1, TILE_K, TILE_N]).reshape([TILE_K, TILE_N])
        };
        acc = mma(a, b, acc);
    }
    out.store([batch, m, n], acc.cast::<O>().reshape([1, TILE_M, TILE_N]));
}

/// The contract of [`matmul_batched`].
pub struct MatmulBatchedContract;

tile::register_contract!(MatmulBatchedContract);

const SIZES: &[SizeSpec] = &[
    SizeSpec { name: "batch", default: 8, exact: false, doc: "products" },
    SizeSpec { name: "m", default: 2048, exact: false, doc: "rows of lhs and out" },
    SizeSpec { name: "n", default: 2048, exact: false, doc: "columns of out" },
    SizeSpec { name: "k", default: 2048, exact: false, doc: "columns of lhs, the summed dimension" },
    SizeSpec { name: "rhs_is_nk", default: 1, exact: true, doc: "rhs is given as [N, K] (1) or [K, N] (0)" },
];

impl Contract for MatmulBatchedContract {
    fn kernel(&self) -> &'static KernelDef {
        &matmul_batched::KERNEL
    }

    fn summary(&self) -> &'static str {
        "out[b] = lhs[b] rhs[b], accumulated in f32"
    }

    fn sizes(&self) -> &'static [SizeSpec] {
        SIZES
    }

    fn dtypes(&self) -> &'static [DType] {
        products::DTYPES
    }

    fn check(&self, problem: &Problem) -> Result<(), ContractError> {
        crate::check::positive(problem, &["batch", "m", "n", "k"])?;
        crate::check::switches(problem, &["rhs_is_nk"])
    }

    fn from_inputs(
        &self,
        inputs: &BTreeMap<String, Found>,
        given: &IndexMap<String, i64>,
    ) -> Result<Problem, ContractError> {
        crate::check::input_names(
            inputs,
            &[("lhs", "[batch, M, K]"), ("rhs", "[batch, N, K] or [batch, K, N]")],
        )?;
        let products::Operands { dtype, outer, mut sizes } = products::operands::<3>(self, inputs, given)?;
        sizes.insert("batch", outer[0] as i64);
        crate::check::problem(self, dtype, sizes, given)
    }

    fn tensors(&self, p: &Problem) -> Vec<TensorSpec> {
        products::tensors(p, &[p.size("batch")]).to_vec()
    }

    fn scalars(&self, _: &Problem) -> Vec<ScalarValue> {
        Vec::new()
    }

    fn consts(&self, p: &Problem) -> IndexMap<String, i64> {
        indexmap! { "RHS_IS_NK".to_owned() => p.sizes["rhs_is_nk"] }
    }

    fn dtype_bindings(&self, p: &Problem) -> IndexMap<String, DType> {
        products::dtype_bindings(p)
    }

    fn grid(&self, p: &Problem, config: &Config) -> [usize; 3] {
        let blocks = |size, tile| crate::check::blocks(p, size, config, tile);
        [blocks("m", "TILE_M"), blocks("n", "TILE_N"), p.size("batch")]
    }

    fn flops(&self, p: &Problem) -> f64 {
        2.0 * p.size("batch") as f64 * p.size("m") as f64 * p.size("n") as f64 * p.size("k") as f64
    }

    fn oracle(&self, p: &Problem, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let (m, n, k) = (p.size("m"), p.size("n"), p.size("k"));
        let pairs = inputs[0].chunks(m * k).zip(inputs[1].chunks(n * k));
        vec![pairs.flat_map(|(lhs, rhs)| products::reference(p, lhs, rhs)).collect()]
    }

    fn tolerance(&self, dtype: DType, gpu: bool) -> f64 {
        crate::oracle::product_tolerance(dtype, gpu)
    }

    fn default_config(&self, p: &Problem) -> Config {
        products::default_config(p)
    }
}
