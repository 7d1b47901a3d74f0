//! The contract of the gated activations: `y = act(gate) * value`, gates and values side by side in a row.

use indexmap::{IndexMap, indexmap};
use std::collections::BTreeMap;
use tile::contract::{Contract, ContractError, Found, Problem, Role, ScalarValue, SizeSpec, TensorSpec};
use tile::registry::KernelDef;
use tile::{Config, DType};

/// The contract of a gated activation.
///
/// Its input is `[rows, 2, columns]`: of each row the gates, then the values, which in memory is
/// `[rows, 2 * columns]`.
pub struct GatedContract {
    pub(crate) kernel: &'static KernelDef,
    pub(crate) summary: &'static str,
    /// The activation.
    pub(crate) activation: fn(f64) -> f64,
}

const SIZES: &[SizeSpec] = &[
    SizeSpec { name: "rows", default: 8192, exact: false, doc: "rows, such as tokens" },
    SizeSpec {
        name: "columns",
        default: 4096,
        exact: false,
        doc: "elements of a row of y; x has twice as many",
    },
];

const INPUT_SHAPE: &str = "[rows, 2, columns]";

impl Contract for GatedContract {
    fn kernel(&self) -> &'static KernelDef {
        self.kernel
    }

    fn summary(&self) -> &'static str {
        self.summary
    }

    fn sizes(&self) -> &'static [SizeSpec] {
        SIZES
    }

    fn dtypes(&self) -> &'static [DType] {
        crate::rows::DTYPES
    }

    fn check(&self, problem: &Problem) -> Result<(), ContractError> {
        crate::rows::check(problem)
    }

    fn from_inputs(
        &self,
        inputs: &BTreeMap<String, Found>,
        given: &IndexMap<String, i64>,
    ) -> Result<Problem, ContractError> {
        crate::check::input_names(inputs, &[("x", INPUT_SHAPE)])?;
        let dtype = crate::check::common_dtype(self.dtypes(), inputs, &["x"])?;
        let found @ [rows, halves, columns] = crate::check::extents::<3>(inputs, "x", INPUT_SHAPE)?;
        if halves != 2 {
            return Err(ContractError::Shape {
                tensor: "x".to_owned(),
                found: found.to_vec(),
                expected: INPUT_SHAPE.to_owned(),
            });
        }
        let sizes = indexmap! { "rows" => rows as i64, "columns" => columns as i64 };
        crate::check::problem(self, dtype, sizes, given)
    }

    fn tensors(&self, p: &Problem) -> Vec<TensorSpec> {
        let shape = vec![p.size("rows"), 2, p.size("columns")];
        vec![
            TensorSpec { name: "x", dtype: p.dtype, shape, role: Role::Input },
            crate::rows::matrix(p, "y", Role::Output),
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
        6.0 * p.size("rows") as f64 * p.size("columns") as f64
    }

    fn oracle(&self, p: &Problem, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let columns = p.size("columns");
        let row = |row: &[f64]| -> Vec<f64> {
            let (gates, values) = row.split_at(columns);
            gates.iter().zip(values).map(|(g, v)| (self.activation)(*g) * v).collect()
        };
        vec![inputs[0].chunks(2 * columns).flat_map(row).collect()]
    }

    fn tolerance(&self, dtype: DType, _: bool) -> f64 {
        crate::oracle::rounding_tolerance(dtype)
    }

    fn default_config(&self, p: &Problem) -> Config {
        crate::rows::block_config(p)
    }
}
