//! Matrix product.

use indexmap::{IndexMap, indexmap};
use rayon::prelude::*;
use std::collections::BTreeMap;
use tile::contract::{Contract, ContractError, Found, Problem, Role, ScalarValue, SizeSpec, TensorSpec};
use tile::prelude::*;
use tile::registry::KernelDef;
use tile::{Config, DType};

/// `out = lhs rhs`, one `TILE_M x TILE_N` block of `out` a program, accumulated in f32.
///
/// # Shapes
/// lhs `[M, K]`, out `[M, N]`; rhs `[N, K]` with `RHS_IS_NK`, else `[K, N]`.
/// # Grid
/// `[ceil(M / TILE_M), ceil(N / TILE_N)]`
/// # Dtypes
/// f16 | bf16 | f32 (tf32 on tensor cores)
#[tile_kernel(tune(
    TILE_M in [64, 128, 256],
    TILE_N in [64, 128, 256],
    TILE_K in [32, 64],
    num_warps in [4, 8],
    num_stages in [3, 2, 4],
    occupancy in [1, 2]
    where TILE_M * TILE_N <= 32768, TILE_M * TILE_N <= 4096 * num_warps
))]
pub fn matmul<
    T: Float,
    const TILE_M: usize,
    const TILE_N: usize,
    const TILE_K: usize,
    const RHS_IS_NK: bool,
>(
    lhs: Tensor<T, 2>,
    rhs: Tensor<T, 2>,
    out: TensorMut<T, 2>,
) {
    let (m, n) = (program_id(0), program_id(1));
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
    out.store([m, n], acc.cast::<T>());
}

/// The contract of [`matmul`].
pub struct MatmulContract;

tile::register_contract!(MatmulContract);

const SIZES: &[SizeSpec] = &[
    SizeSpec { name: "m", default: 4096, exact: false, doc: "rows of lhs and out" },
    SizeSpec { name: "n", default: 4096, exact: false, doc: "columns of out" },
    SizeSpec { name: "k", default: 4096, exact: false, doc: "columns of lhs, the summed dimension" },
    SizeSpec { name: "rhs_is_nk", default: 1, exact: true, doc: "rhs is given as [N, K] (1) or [K, N] (0)" },
];

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
        &[DType::BF16, DType::F16, DType::F32]
    }

    fn check(&self, problem: &Problem) -> Result<(), ContractError> {
        crate::check::positive(problem, &["m", "n", "k"])?;
        crate::check::switches(problem, &["rhs_is_nk"])
    }

    fn from_inputs(
        &self,
        inputs: &BTreeMap<String, Found>,
        given: &IndexMap<String, i64>,
    ) -> Result<Problem, ContractError> {
        crate::check::input_names(inputs, &[("lhs", "[M, K]"), ("rhs", "[N, K] or [K, N]")])?;
        let dtype = crate::check::common_dtype(self.dtypes(), inputs, &["lhs", "rhs"])?;
        let [m, k] = crate::check::extents(inputs, "lhs", "[M, K]")?;
        let is_nk = given.get("rhs_is_nk").copied().unwrap_or(1);
        let layout = if is_nk != 0 { "[N, K]" } else { "[K, N]" };
        let [rows, cols] = crate::check::extents(inputs, "rhs", layout)?;
        let (n, rhs_k) = if is_nk != 0 { (rows, cols) } else { (cols, rows) };
        if rhs_k != k {
            return Err(ContractError::Shape {
                tensor: "rhs".into(),
                found: vec![rows, cols],
                expected: format!("{layout} with K = {k}, the columns of lhs"),
            });
        }
        let sizes = indexmap! { "m" => m as i64, "n" => n as i64, "k" => k as i64, "rhs_is_nk" => is_nk };
        crate::check::problem(self, dtype, sizes, given)
    }

    fn tensors(&self, p: &Problem) -> Vec<TensorSpec> {
        let (m, n, k) = (p.size("m"), p.size("n"), p.size("k"));
        let rhs = if p.switch("rhs_is_nk") { vec![n, k] } else { vec![k, n] };
        vec![
            TensorSpec { name: "lhs", dtype: p.dtype, shape: vec![m, k], role: Role::Input },
            TensorSpec { name: "rhs", dtype: p.dtype, shape: rhs, role: Role::Input },
            TensorSpec { name: "out", dtype: p.dtype, shape: vec![m, n], role: Role::Output },
        ]
    }

    fn scalars(&self, _: &Problem) -> Vec<ScalarValue> {
        Vec::new()
    }

    fn consts(&self, p: &Problem) -> IndexMap<String, i64> {
        indexmap! { "RHS_IS_NK".to_owned() => p.sizes["rhs_is_nk"] }
    }

    fn dtype_bindings(&self, p: &Problem) -> IndexMap<String, DType> {
        indexmap! { "T".to_owned() => p.dtype }
    }

    fn grid(&self, p: &Problem, config: &Config) -> [usize; 3] {
        [crate::check::blocks(p, "m", config, "TILE_M"), crate::check::blocks(p, "n", config, "TILE_N"), 1]
    }

    fn flops(&self, p: &Problem) -> f64 {
        2.0 * p.size("m") as f64 * p.size("n") as f64 * p.size("k") as f64
    }

    fn oracle(&self, p: &Problem, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let (n, k) = (p.size("n"), p.size("k"));
        let (lhs, rhs) = (&inputs[0], &inputs[1]);
        // Rows of [N, K], so that the inner loop runs along both operands.
        let rhs_nk: Vec<f64> = if p.switch("rhs_is_nk") {
            rhs.clone()
        } else {
            (0..n * k).map(|i| rhs[(i % k) * n + i / k]).collect()
        };
        let row = |a: &[f64]| -> Vec<f64> { rhs_nk.chunks(k).map(|b| crate::oracle::dot(a, b)).collect() };
        vec![lhs.par_chunks(k).flat_map_iter(row).collect()]
    }

    fn tolerance(&self, dtype: DType, gpu: bool) -> f64 {
        crate::oracle::product_tolerance(dtype, gpu)
    }

    fn default_config(&self, p: &Problem) -> Config {
        // f32 operands take twice the shared memory of 16-bit ones.
        let tile_k = if p.dtype == DType::F32 { 32 } else { 64 };
        crate::check::config(&[("TILE_M", 64), ("TILE_N", 64), ("TILE_K", tile_k)], 4, 2, 1)
    }
}
