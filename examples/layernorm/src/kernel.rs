//! Layer normalization: the kernel, and the contract by which tools run, check and tune it.

use indexmap::{IndexMap, indexmap};
use std::collections::BTreeMap;
use tile::contract::{Contract, ContractError, Found, Problem, Role, ScalarValue, SizeSpec, TensorSpec};
use tile::prelude::*;
use tile::registry::KernelDef;
use tile::{Config, DType};

/// `y[i, :] = (x[i, :] - mean) / sqrt(variance + eps)`, a block of `ROWS` rows a program.
///
/// `WIDTH` is a power of two that holds a row; what is beyond the row's end loads as zero and does not count.
#[tile_kernel(tune(ROWS in [1, 2, 4, 8, 16], num_warps in [1, 2, 4, 8]))]
pub fn layernorm<T: Float, const WIDTH: usize, const ROWS: usize>(
    x: Tensor<T, 2>,
    y: TensorMut<T, 2>,
    eps: f32,
) {
    let m = program_id(0);
    let columns = x.dim(1) as i32;
    let scale = 1.0 / (columns as f32);
    let inside = iota(WIDTH).expand_dims(0).broadcast_to([ROWS, WIDTH]).lt(columns);
    let rows = x.load([m, 0], [ROWS, WIDTH]).cast::<f32>();
    let mean = rows.reduce_sum(1) * scale;
    let centred = select(inside, rows - mean, zeros::<f32>([ROWS, WIDTH]));
    let variance = (centred * centred).reduce_sum(1) * scale;
    y.store([m, 0], (centred * (variance + eps).rsqrt()).cast::<T>());
}

/// The contract of [`layernorm`], with `eps = 1e-5`.
pub struct LayernormContract;

tile::register_contract!(LayernormContract);

const EPS: f32 = 1e-5;
const MAX_COLUMNS: i64 = 8192;

impl Contract for LayernormContract {
    fn kernel(&self) -> &'static KernelDef {
        &layernorm::KERNEL
    }

    fn summary(&self) -> &'static str {
        "y = (x - mean) / sqrt(variance + eps), row by row"
    }

    fn sizes(&self) -> &'static [SizeSpec] {
        &[
            SizeSpec { name: "rows", default: 4096, exact: false, doc: "rows, each normalized by itself" },
            SizeSpec { name: "columns", default: 1024, exact: false, doc: "elements of a row, at most 8192" },
        ]
    }

    fn dtypes(&self) -> &'static [DType] {
        &[DType::F32, DType::F16, DType::BF16]
    }

    fn check(&self, problem: &Problem) -> Result<(), ContractError> {
        for (name, most) in [("rows", i64::from(i32::MAX)), ("columns", MAX_COLUMNS)] {
            let value = problem.sizes[name];
            if !(1..=most).contains(&value) {
                return Err(ContractError::Size {
                    name: name.to_owned(),
                    value,
                    reason: format!("from 1 to {most}"),
                });
            }
        }
        Ok(())
    }

    fn from_inputs(
        &self,
        inputs: &BTreeMap<String, Found>,
        given: &IndexMap<String, i64>,
    ) -> Result<Problem, ContractError> {
        let expected = "x [rows, columns]".to_owned();
        if let Some(name) = inputs.keys().find(|n| *n != "x") {
            return Err(ContractError::UnknownInput { name: name.clone(), expected });
        }
        let Some((dtype, shape)) = inputs.get("x") else {
            return Err(ContractError::MissingInput { name: "x".to_owned(), expected });
        };
        let &[rows, columns] = shape.as_slice() else {
            return Err(ContractError::Shape { tensor: "x".to_owned(), found: shape.clone(), expected });
        };
        if !self.dtypes().contains(dtype) {
            let expected = "f32, f16 or bf16".to_owned();
            return Err(ContractError::DType { tensor: "x".to_owned(), found: dtype.to_string(), expected });
        }
        let sizes = indexmap! { "rows".to_owned() => rows as i64, "columns".to_owned() => columns as i64 };
        if let Some((name, &value)) =
            given.iter().find(|(name, value)| sizes.get(*name).is_some_and(|v| v != *value))
        {
            let reason = format!("x has {}", sizes[name]);
            return Err(ContractError::Size { name: name.clone(), value, reason });
        }
        self.problem(*dtype, &sizes)
    }

    fn tensors(&self, problem: &Problem) -> Vec<TensorSpec> {
        let shape = vec![problem.size("rows"), problem.size("columns")];
        vec![
            TensorSpec { name: "x", dtype: problem.dtype, shape: shape.clone(), role: Role::Input },
            TensorSpec { name: "y", dtype: problem.dtype, shape, role: Role::Output },
        ]
    }

    fn scalars(&self, _: &Problem) -> Vec<ScalarValue> {
        vec![ScalarValue::F32(EPS)]
    }

    fn consts(&self, problem: &Problem) -> IndexMap<String, i64> {
        indexmap! { "WIDTH".to_owned() => problem.size("columns").next_power_of_two() as i64 }
    }

    fn dtype_bindings(&self, problem: &Problem) -> IndexMap<String, DType> {
        indexmap! { "T".to_owned() => problem.dtype }
    }

    fn grid(&self, problem: &Problem, config: &Config) -> [usize; 3] {
        let rows = config.get("ROWS").unwrap_or(1) as usize;
        [problem.size("rows").div_ceil(rows), 1, 1]
    }

    fn flops(&self, problem: &Problem) -> f64 {
        7.0 * problem.size("rows") as f64 * problem.size("columns") as f64
    }

    fn oracle(&self, problem: &Problem, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let columns = problem.size("columns");
        let normalize = |row: &[f64]| -> Vec<f64> {
            let mean = row.iter().sum::<f64>() / columns as f64;
            let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / columns as f64;
            row.iter().map(|v| (v - mean) / (variance + f64::from(EPS)).sqrt()).collect()
        };
        vec![inputs[0].chunks(columns).flat_map(normalize).collect()]
    }

    fn tolerance(&self, dtype: DType, _: bool) -> f64 {
        match dtype {
            DType::F16 => 1e-3,
            DType::BF16 => 8e-3,
            _ => 1e-5,
        }
    }

    fn default_config(&self, _: &Problem) -> Config {
        let mut config = Config { num_stages: 1, ..Config::default() };
        config.set("ROWS", 4);
        config
    }
}
