//! Root mean square normalization, alone and with the addition that comes before it.

use crate::rows;
use indexmap::IndexMap;
use rayon::prelude::*;
use std::collections::BTreeMap;
use tile::contract::{Contract, ContractError, Found, Problem, Role, ScalarValue, SizeSpec, TensorSpec};
use tile::prelude::*;
use tile::registry::KernelDef;
use tile::{Config, DType};

/// `y[i, :] = weight * x[i, :] / sqrt(mean(x[i, :]²) + eps)`, a block of `ROWS` rows a program, computed in f32.
///
/// A NaN gives NaN in its whole row. An infinity makes the scale of its row 0: finite elements give 0, the infinite
/// one NaN; squares that overflow f32 do the same to a row of finite elements, all of which give 0.
///
/// # Shapes
/// x, y `[rows, columns]`; weight `[columns]`
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
pub fn rms_norm<T: Float, const WIDTH: usize, const ROWS: usize, const TILE_N: usize>(
    x: Tensor<T, 2>,
    weight: Tensor<T, 1>,
    y: TensorMut<T, 2>,
    eps: f32,
) {
    let m = program_id(0);
    let share = 1.0 / (x.dim(1) as f32);
    if WIDTH <= TILE_N {
        let row = x.load([m, 0], [ROWS, TILE_N]).cast::<f32>();
        // Under way while the row is summed.
        let gain = weight.load([0], [TILE_N]);
        let scale = ((row * row).reduce_sum(1) * share + eps).rsqrt();
        y.store([m, 0], (row * scale * gain.cast::<f32>().expand_dims(0)).cast::<T>());
    } else {
        // Summed column by column, so that warps meet once.
        let mut squares = zeros::<f32>([ROWS, TILE_N]);
        for n in 0..cdiv(x.dim(1), TILE_N) {
            let block = x.load([m, n], [ROWS, TILE_N]).cast::<f32>();
            squares += block * block;
        }
        let scale = (squares.reduce_sum(1) * share + eps).rsqrt();
        for n in 0..cdiv(x.dim(1), TILE_N) {
            let block = x.load([m, n], [ROWS, TILE_N]).cast::<f32>();
            let gain = weight.load([n], [TILE_N]).cast::<f32>().expand_dims(0);
            y.store([m, n], (block * scale * gain).cast::<T>());
        }
    }
}

/// `sum = x + residual`, and `y` as [`rms_norm`] makes it of `sum`.
///
/// What is normalized is `sum` as it is stored, rounded to `T`. NaN and infinities do as in [`rms_norm`].
///
/// # Shapes
/// x, residual, y, sum `[rows, columns]`; weight `[columns]`
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
pub fn add_rms_norm<T: Float, const WIDTH: usize, const ROWS: usize, const TILE_N: usize>(
    x: Tensor<T, 2>,
    residual: Tensor<T, 2>,
    weight: Tensor<T, 1>,
    y: TensorMut<T, 2>,
    sum: TensorMut<T, 2>,
    eps: f32,
) {
    let m = program_id(0);
    let share = 1.0 / (x.dim(1) as f32);
    if WIDTH <= TILE_N {
        let total = x.load([m, 0], [ROWS, TILE_N]) + residual.load([m, 0], [ROWS, TILE_N]);
        sum.store([m, 0], total);
        let row = total.cast::<f32>();
        let scale = ((row * row).reduce_sum(1) * share + eps).rsqrt();
        // Loaded last, so that it takes no registers beside the sums: other programs hide the wait.
        let gain = weight.load([0], [TILE_N]).cast::<f32>().expand_dims(0);
        y.store([m, 0], (row * scale * gain).cast::<T>());
    } else {
        let mut squares = zeros::<f32>([ROWS, TILE_N]);
        for n in 0..cdiv(x.dim(1), TILE_N) {
            let total = x.load([m, n], [ROWS, TILE_N]) + residual.load([m, n], [ROWS, TILE_N]);
            sum.store([m, n], total);
            let block = total.cast::<f32>();
            squares += block * block;
        }
        let scale = (squares.reduce_sum(1) * share + eps).rsqrt();
        for n in 0..cdiv(x.dim(1), TILE_N) {
            // Added again: reading back what was stored would wait for the stores.
            let total = x.load([m, n], [ROWS, TILE_N]) + residual.load([m, n], [ROWS, TILE_N]);
            let gain = weight.load([n], [TILE_N]).cast::<f32>().expand_dims(0);
            y.store([m, n], (total.cast::<f32>() * scale * gain).cast::<T>());
        }
    }
}

/// The contract of [`rms_norm`] or [`add_rms_norm`], with `eps = 1e-6`.
pub struct RmsNormContract {
    /// [`add_rms_norm`]'s.
    adds: bool,
}

impl RmsNormContract {
    /// The contract of [`rms_norm`].
    pub const PLAIN: RmsNormContract = RmsNormContract { adds: false };
    /// The contract of [`add_rms_norm`].
    pub const ADDING: RmsNormContract = RmsNormContract { adds: true };
}

tile::register_contract!(RmsNormContract::PLAIN);
tile::register_contract!(RmsNormContract::ADDING);

const EPS: f32 = 1e-6;

impl Contract for RmsNormContract {
    fn kernel(&self) -> &'static KernelDef {
        if self.adds { &add_rms_norm::KERNEL } else { &rms_norm::KERNEL }
    }

    fn summary(&self) -> &'static str {
        match self.adds {
            true => "sum = x + residual, y = weight * sum / sqrt(mean(sum²) + eps), row by row",
            false => "y = weight * x / sqrt(mean(x²) + eps), row by row",
        }
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
        let matrices: &[&str] = if self.adds { &["x", "residual"] } else { &["x"] };
        rows::from_inputs(self, matrices, &["weight"], inputs, given)
    }

    fn tensors(&self, p: &Problem) -> Vec<TensorSpec> {
        let mut tensors = vec![rows::matrix(p, "x", Role::Input)];
        if self.adds {
            tensors.push(rows::matrix(p, "residual", Role::Input));
        }
        tensors.push(rows::per_column(p, "weight"));
        tensors.push(rows::matrix(p, "y", Role::Output));
        if self.adds {
            tensors.push(rows::matrix(p, "sum", Role::Output));
        }
        tensors
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
        (4 + usize::from(self.adds)) as f64 * p.size("rows") as f64 * p.size("columns") as f64
    }

    fn oracle(&self, p: &Problem, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let columns = p.size("columns");
        let weight = &inputs[inputs.len() - 1];
        let normalize = |row: &[f64]| -> Vec<f64> {
            let mean_square = row.iter().map(|v| v * v).sum::<f64>() / columns as f64;
            let root = (mean_square + f64::from(EPS)).sqrt();
            row.iter().zip(weight).map(|(v, w)| w * v / root).collect()
        };
        if !self.adds {
            return vec![inputs[0].par_chunks(columns).flat_map_iter(normalize).collect()];
        }
        let sum: Vec<f64> = inputs[0].iter().zip(&inputs[1]).map(|(x, r)| x + r).collect();
        vec![sum.par_chunks(columns).flat_map_iter(normalize).collect(), sum]
    }

    fn tolerance(&self, dtype: DType, _: bool) -> f64 {
        crate::oracle::rounding_tolerance(dtype)
    }

    fn default_config(&self, p: &Problem) -> Config {
        let config = rows::default_config(p);
        // The weights wait in registers beside the row: f32 ones take as many.
        let occupancy = if p.dtype == DType::F32 { config.occupancy.div_ceil(2) } else { config.occupancy };
        Config { occupancy, ..config }
    }
}
