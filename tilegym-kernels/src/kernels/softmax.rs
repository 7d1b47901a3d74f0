//! Softmax over rows.

use crate::rows;
use indexmap::IndexMap;
use rayon::prelude::*;
use std::collections::BTreeMap;
use tile::contract::{Contract, ContractError, Found, Problem, Role, ScalarValue, SizeSpec, TensorSpec};
use tile::prelude::*;
use tile::registry::KernelDef;
use tile::{Config, DType};

/// `y[i, :] = exp(x[i, :] - max) / sum(exp(x[i, :] - max))`, a block of `ROWS` rows a program, in f32.
///
/// Rows longer than a block keep a running maximum and a sum that is rescaled when the maximum grows (Milakov and
/// Gimelshein, 2018). An element of -inf gives 0. A NaN, an element of +inf, or a row of nothing but -inf gives NaN
/// in the whole row.
///
/// # Shapes
/// x, y `[rows, columns]`
/// # Grid
/// `[ceil(rows / ROWS)]`
/// # Dtypes
/// f16 | bf16 | f32
#[tile_kernel(tune(
    ROWS in [1, 2, 4, 8],
    TILE_N in [64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384],
    num_warps in [4, 1, 2, 8, 16],
    num_stages in [1],
    occupancy in [2, 1, 4, 3, 5]
    where TILE_N == WIDTH || TILE_N < WIDTH && TILE_N >= 2048,
          ROWS * TILE_N <= 2048 * num_warps, ROWS * TILE_N >= 256 * num_warps || num_warps == 1
))]
pub fn softmax<T: Float, const WIDTH: usize, const ROWS: usize, const TILE_N: usize>(
    x: Tensor<T, 2>,
    y: TensorMut<T, 2>,
) {
    let m = program_id(0);
    let columns = x.dim(1) as i32;
    let hidden = full::<f32>([ROWS, TILE_N], f32::NEG_INFINITY);
    let places = iota(TILE_N).expand_dims(0).broadcast_to([ROWS, TILE_N]);
    if WIDTH <= TILE_N {
        let row = x.load([m, 0], [ROWS, TILE_N]).cast::<f32>() * std::f32::consts::LOG2_E;
        let shown = select(places.lt(columns), row, hidden);
        let weights = (shown - shown.reduce_max(1)).exp2();
        y.store([m, 0], (weights * (1.0 / weights.reduce_sum(1))).cast::<T>());
    } else {
        let mut row_max = full::<f32>([ROWS, 1], f32::NEG_INFINITY);
        let mut base = zeros::<f32>([ROWS, 1]);
        let mut row_sum = zeros::<f32>([ROWS, 1]);
        for n in 0..cdiv(x.dim(1), TILE_N) {
            let block = x.load([m, n], [ROWS, TILE_N]).cast::<f32>() * std::f32::consts::LOG2_E;
            let shown = select(places.lt(columns - (n * TILE_N) as i32), block, hidden);
            let new_max = maximum(row_max, shown.reduce_max(1));
            // Before the first finite element the maximum is -inf; subtracting 0 instead keeps weights at 0.
            base = select(new_max.eq(f32::NEG_INFINITY), zeros::<f32>([ROWS, 1]), new_max);
            row_sum = row_sum * (row_max - base).exp2() + (shown - base).exp2().reduce_sum(1);
            row_max = new_max;
        }
        let share = 1.0 / row_sum;
        for n in 0..cdiv(x.dim(1), TILE_N) {
            let block = x.load([m, n], [ROWS, TILE_N]).cast::<f32>() * std::f32::consts::LOG2_E;
            y.store([m, n], ((block - base).exp2() * share).cast::<T>());
        }
    }
}

/// The contract of [`softmax`].
pub struct SoftmaxContract;

tile::register_contract!(SoftmaxContract);

impl Contract for SoftmaxContract {
    fn kernel(&self) -> &'static KernelDef {
        &softmax::KERNEL
    }

    fn summary(&self) -> &'static str {
        "y = exp(x - max) / sum(exp(x - max)), row by row"
    }

    fn sizes(&self) -> &'static [SizeSpec] {
        rows::SIZES
    }

    fn dtypes(&self) -> &'static [DType] {
        rows::DTYPES
    }

    fn check(&self, problem: &Problem) -> Result<(), ContractError> {
        rows::check(problem)
    }

    fn from_inputs(
        &self,
        inputs: &BTreeMap<String, Found>,
        given: &IndexMap<String, i64>,
    ) -> Result<Problem, ContractError> {
        rows::from_inputs(self, &["x"], &[], inputs, given)
    }

    fn tensors(&self, p: &Problem) -> Vec<TensorSpec> {
        vec![rows::matrix(p, "x", Role::Input), rows::matrix(p, "y", Role::Output)]
    }

    fn scalars(&self, _: &Problem) -> Vec<ScalarValue> {
        Vec::new()
    }

    fn consts(&self, p: &Problem) -> IndexMap<String, i64> {
        rows::consts(p)
    }

    fn dtype_bindings(&self, p: &Problem) -> IndexMap<String, DType> {
        rows::dtype_bindings(p)
    }

    fn grid(&self, p: &Problem, config: &Config) -> [usize; 3] {
        rows::grid(p, config)
    }

    fn flops(&self, p: &Problem) -> f64 {
        5.0 * p.size("rows") as f64 * p.size("columns") as f64
    }

    fn oracle(&self, p: &Problem, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let normalize = |row: &[f64]| -> Vec<f64> {
            let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = row.iter().map(|v| (v - largest).exp()).collect();
            let total: f64 = weights.iter().sum();
            weights.into_iter().map(|w| w / total).collect()
        };
        vec![inputs[0].par_chunks(p.size("columns")).flat_map_iter(normalize).collect()]
    }

    fn tolerance(&self, dtype: DType, _: bool) -> f64 {
        crate::oracle::rounding_tolerance(dtype)
    }

    fn default_config(&self, p: &Problem) -> Config {
        rows::default_config(p)
    }
}
