//! Layer normalization.

use crate::rows;
use indexmap::IndexMap;
use rayon::prelude::*;
use std::collections::BTreeMap;
use tile::contract::{Contract, ContractError, Found, Problem, Role, ScalarValue, SizeSpec, TensorSpec};
use tile::prelude::*;
use tile::registry::KernelDef;
use tile::{Config, DType};

/// `y[i, :] = weight * (x[i, :] - mean) / sqrt(variance + eps) + bias`, a block of `ROWS` rows a program, in f32.
///
/// The variance is that of the row, not an estimate of a population's. Rows longer than a block merge the means and
/// squared deviations of their blocks (Chan, Golub and LeVeque, 1979), so that nothing is lost where the mean is
/// large against the deviation. A NaN or an infinity gives NaN in its whole row.
///
/// # Shapes
/// x, y `[rows, columns]`; weight, bias `[columns]`
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
pub fn layer_norm<T: Float, const WIDTH: usize, const ROWS: usize, const TILE_N: usize>(
    x: Tensor<T, 2>,
    weight: Tensor<T, 1>,
    bias: Tensor<T, 1>,
    y: TensorMut<T, 2>,
    eps: f32,
) {
    let m = program_id(0);
    let columns = x.dim(1) as i32;
    let share = 1.0 / (columns as f32);
    let zero = zeros::<f32>([ROWS, TILE_N]);
    let places = iota(TILE_N).expand_dims(0).broadcast_to([ROWS, TILE_N]);
    if WIDTH <= TILE_N {
        let row = x.load([m, 0], [ROWS, TILE_N]).cast::<f32>();
        let mean = row.reduce_sum(1) * share;
        let centred = select(places.lt(columns), row - mean, zero);
        let scale = ((centred * centred).reduce_sum(1) * share + eps).rsqrt();
        // Loaded last, so that they take no registers beside the sums: other programs hide the wait.
        let gain = weight.load([0], [TILE_N]).cast::<f32>().expand_dims(0);
        let shift = bias.load([0], [TILE_N]).cast::<f32>().expand_dims(0);
        y.store([m, 0], (centred * scale * gain + shift).cast::<T>());
    } else {
        let mut mean = zeros::<f32>([ROWS, 1]);
        let mut deviation = zeros::<f32>([ROWS, 1]);
        for n in 0..cdiv(x.dim(1), TILE_N) {
            let block = x.load([m, n], [ROWS, TILE_N]).cast::<f32>();
            let left = columns - (n * TILE_N) as i32;
            let before = (n * TILE_N) as f32;
            let here = left.min(TILE_N as i32) as f32;
            let block_mean = block.reduce_sum(1) * (1.0 / here);
            let centred = select(places.lt(left), block - block_mean, zero);
            let step = block_mean - mean;
            let part = here / (before + here);
            mean += step * part;
            deviation += (centred * centred).reduce_sum(1) + step * step * (before * part);
        }
        let scale = (deviation * share + eps).rsqrt();
        for n in 0..cdiv(x.dim(1), TILE_N) {
            let block = x.load([m, n], [ROWS, TILE_N]).cast::<f32>();
            let gain = weight.load([n], [TILE_N]).cast::<f32>().expand_dims(0);
            let shift = bias.load([n], [TILE_N]).cast::<f32>().expand_dims(0);
            y.store([m, n], ((block - mean) * scale * gain + shift).cast::<T>());
        }
    }
}

/// The contract of [`layer_norm`], with `eps = 1e-5`.
pub struct LayerNormContract;

tile::register_contract!(LayerNormContract);

const EPS: f32 = 1e-5;

impl Contract for LayerNormContract {
    fn kernel(&self) -> &'static KernelDef {
        &layer_norm::KERNEL
    }

    fn summary(&self) -> &'static str {
        "y = weight * (x - mean) / sqrt(variance + eps) + bias, row by row"
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
        rows::from_inputs(self, &["x"], &["weight", "bias"], inputs, given)
    }

    fn tensors(&self, p: &Problem) -> Vec<TensorSpec> {
        vec![
            rows::matrix(p, "x", Role::Input),
            rows::per_column(p, "weight"),
            rows::per_column(p, "bias"),
            rows::matrix(p, "y", Role::Output),
        ]
    }

    fn scalars(&self, _: &Problem) -> Vec<ScalarValue> {
        vec![ScalarValue::F32(EPS)]
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
        8.0 * p.size("rows") as f64 * p.size("columns") as f64
    }

    fn oracle(&self, p: &Problem, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let columns = p.size("columns");
        let [x, weight, bias] = inputs else { unreachable!("three inputs") };
        let normalize = |row: &[f64]| -> Vec<f64> {
            let mean = row.iter().sum::<f64>() / columns as f64;
            let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / columns as f64;
            let root = (variance + f64::from(EPS)).sqrt();
            let scaled = row.iter().zip(weight).map(|(v, w)| w * (v - mean) / root);
            scaled.zip(bias).map(|(v, b)| v + b).collect()
        };
        vec![x.par_chunks(columns).flat_map_iter(normalize).collect()]
    }

    fn tolerance(&self, dtype: DType, _: bool) -> f64 {
        crate::oracle::rounding_tolerance(dtype)
    }

    fn default_config(&self, p: &Problem) -> Config {
        // Two passes over the row's registers: fewer warps, with 128 registers a thread.
        let config = rows::default_config(p);
        Config { num_warps: (config.num_warps / 2).max(1), ..config }
    }
}
