//! The sum that ends a product whose summed dimension was split.

use indexmap::{IndexMap, indexmap};
use std::collections::BTreeMap;
use tile::contract::{Contract, ContractError, Found, Problem, Role, ScalarValue, SizeSpec, TensorSpec};
use tile::prelude::*;
use tile::registry::KernelDef;
use tile::{Config, DType};

/// `out = sum over s of parts[s]`, rounded once, one `TILE_M x TILE_N` block of `out` a program.
///
/// `SPLITS` parts are loaded at a time. The order of the additions is fixed by the configuration, so that equal
/// inputs give equal bits. NaN and infinities do as in f32 addition.
///
/// # Shapes
/// parts `[splits, rows, columns]`; out `[rows, columns]`
/// # Grid
/// `[ceil(rows / TILE_M) * ceil(columns / TILE_N)]`
/// # Dtypes
/// parts f32; out f16 | bf16 | f32
#[tile_kernel(tune(
    TILE_M in [1, 2, 4],
    TILE_N in [1024, 256, 512, 2048],
    SPLITS in [4, 1, 2, 8],
    num_warps in [4, 2, 8],
    num_stages in [1],
    occupancy in [2, 4]
    where TILE_M * TILE_N >= 128 * num_warps, TILE_M * TILE_N * SPLITS <= 1024 * num_warps
))]
pub fn splitk_reduce<T: Float, const TILE_M: usize, const TILE_N: usize, const SPLITS: usize>(
    parts: Tensor<f32, 3>,
    out: TensorMut<T, 2>,
) {
    let blocks = cdiv(out.dim(1), TILE_N);
    let (m, n) = (program_id(0) / blocks, program_id(0) % blocks);
    let mut sum = zeros::<f32>([TILE_M, TILE_N]);
    for s in 0..cdiv(parts.dim(0), SPLITS) {
        let some = parts.load([s, m, n], [SPLITS, TILE_M, TILE_N]);
        sum += some.reduce_sum(0).reshape([TILE_M, TILE_N]);
    }
    out.store([m, n], sum.cast::<T>());
}

/// The contract of [`splitk_reduce`].
pub struct SplitkReduceContract;

tile::register_contract!(SplitkReduceContract);

const SIZES: &[SizeSpec] = &[
    SizeSpec { name: "splits", default: 8, exact: false, doc: "parts to add" },
    SizeSpec { name: "rows", default: 512, exact: false, doc: "rows of out" },
    SizeSpec { name: "columns", default: 4096, exact: false, doc: "columns of out" },
];

const PARTS_SHAPE: &str = "[splits, rows, columns]";

impl Contract for SplitkReduceContract {
    fn kernel(&self) -> &'static KernelDef {
        &splitk_reduce::KERNEL
    }

    fn summary(&self) -> &'static str {
        "out = sum of f32 parts over their first dimension"
    }

    fn sizes(&self) -> &'static [SizeSpec] {
        SIZES
    }

    /// The dtypes of `out`.
    fn dtypes(&self) -> &'static [DType] {
        crate::rows::DTYPES
    }

    fn check(&self, problem: &Problem) -> Result<(), ContractError> {
        crate::check::positive(problem, &["splits", "rows", "columns"])
    }

    fn from_inputs(
        &self,
        inputs: &BTreeMap<String, Found>,
        given: &IndexMap<String, i64>,
    ) -> Result<Problem, ContractError> {
        crate::check::input_names(inputs, &[("parts", PARTS_SHAPE)])?;
        crate::check::common_dtype(&[DType::F32], inputs, &["parts"])?;
        let [splits, rows, columns] = crate::check::extents(inputs, "parts", PARTS_SHAPE)?;
        let sizes =
            indexmap! { "splits" => splits as i64, "rows" => rows as i64, "columns" => columns as i64 };
        // No input shows the dtype of the output.
        crate::check::problem(self, DType::F32, sizes, given)
    }

    fn tensors(&self, p: &Problem) -> Vec<TensorSpec> {
        let shape = vec![p.size("splits"), p.size("rows"), p.size("columns")];
        vec![
            TensorSpec { name: "parts", dtype: DType::F32, shape, role: Role::Input },
            crate::rows::matrix(p, "out", Role::Output),
        ]
    }

    fn scalars(&self, _: &Problem) -> Vec<ScalarValue> {
        Vec::new()
    }

    fn consts(&self, _: &Problem) -> IndexMap<String, i64> {
        IndexMap::new()
    }

    fn dtype_bindings(&self, p: &Problem) -> IndexMap<String, DType> {
        crate::rows::dtype_bindings(p)
    }

    fn grid(&self, p: &Problem, config: &Config) -> [usize; 3] {
        crate::rows::grid_of_blocks(p, config)
    }

    fn flops(&self, p: &Problem) -> f64 {
        (p.size("splits") * p.size("rows") * p.size("columns")) as f64
    }

    fn oracle(&self, p: &Problem, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let count = p.size("rows") * p.size("columns");
        let sum = |i: usize| inputs[0].iter().skip(i).step_by(count).sum();
        vec![(0..count).map(sum).collect()]
    }

    fn tolerance(&self, dtype: DType, _: bool) -> f64 {
        crate::oracle::rounding_tolerance(dtype)
    }

    fn default_config(&self, p: &Problem) -> Config {
        let config = crate::rows::block_config(p);
        let tile_n = config.consts["TILE_N"].min(512);
        crate::check::config(
            &[("TILE_M", 1), ("TILE_N", tile_n), ("SPLITS", 4)],
            config.num_warps.min(4),
            1,
            2,
        )
    }
}
