//! What the kernels over the rows of a matrix share: sizes, tiles, grids, the reading of inputs.
//!
//! Such a kernel has two const parameters for its columns. `WIDTH`, which the problem fixes, is a power of two that
//! holds a row; `TILE_N`, which is tuned, is the columns of one block. Where `WIDTH <= TILE_N` a program reads its
//! rows once and keeps them in registers; else it walks over blocks of columns twice.

use indexmap::{IndexMap, indexmap};
use std::collections::BTreeMap;
use tile::contract::{Contract, ContractError, Found, Problem, Role, SizeSpec, TensorSpec};
use tile::{Config, DType};

/// The sizes of a kernel over rows.
pub(crate) const SIZES: &[SizeSpec] = &[
    SizeSpec { name: "rows", default: 8192, exact: false, doc: "rows, each by itself" },
    SizeSpec { name: "columns", default: 8192, exact: false, doc: "elements of a row" },
];

/// The dtypes of a kernel over rows.
pub(crate) const DTYPES: &[DType] = &[DType::BF16, DType::F16, DType::F32];

/// The least `WIDTH`, so that narrow rows share compiled code.
const LEAST_WIDTH: usize = 64;
/// Columns of a block of rows too long for registers.
const LONG_TILE: i64 = 4096;
/// The widest row that the configuration used before tuning keeps in registers.
const LONGEST_KEPT: i64 = 16384;
/// Elements of a block that the configuration used before tuning gives a thread.
const THREAD_ELEMS: i64 = 32;
/// Warps of all CTAs on an SM that keep rows: each thread has 64 registers then, and enough loads are under way.
const RESIDENT_WARPS: u32 = 32;

/// Both sizes are at least 1.
pub(crate) fn check(problem: &Problem) -> Result<(), ContractError> {
    crate::check::positive(problem, &["rows", "columns"])
}

/// The power of two that holds a row.
fn width(problem: &Problem) -> i64 {
    problem.size("columns").next_power_of_two().max(LEAST_WIDTH) as i64
}

/// `WIDTH`.
pub(crate) fn consts(problem: &Problem) -> IndexMap<String, i64> {
    indexmap! { "WIDTH".to_owned() => width(problem) }
}

/// The dtype parameter `T`.
pub(crate) fn dtype_bindings(problem: &Problem) -> IndexMap<String, DType> {
    indexmap! { "T".to_owned() => problem.dtype }
}

/// A matrix of the problem's rows and columns.
pub(crate) fn matrix(problem: &Problem, name: &'static str, role: Role) -> TensorSpec {
    let shape = vec![problem.size("rows"), problem.size("columns")];
    TensorSpec { name, dtype: problem.dtype, shape, role }
}

/// An input with one element a column.
pub(crate) fn per_column(problem: &Problem, name: &'static str) -> TensorSpec {
    TensorSpec { name, dtype: problem.dtype, shape: vec![problem.size("columns")], role: Role::Input }
}

/// `ceil(rows / ROWS)` programs.
pub(crate) fn grid(problem: &Problem, config: &Config) -> [usize; 3] {
    [crate::check::blocks(problem, "rows", config, "ROWS"), 1, 1]
}

/// Reads the problem off the matrix `matrices[0]`, which the other matrices equal in shape, and `per_column` inputs.
pub(crate) fn from_inputs(
    contract: &dyn Contract,
    matrices: &[&str],
    per_column: &[&str],
    inputs: &BTreeMap<String, Found>,
    given: &IndexMap<String, i64>,
) -> Result<Problem, ContractError> {
    const MATRIX: &str = "[rows, columns]";
    let names = [matrices, per_column].concat();
    let expected = matrices.iter().map(|name| (*name, MATRIX));
    let expected: Vec<_> = expected.chain(per_column.iter().map(|name| (*name, "[columns]"))).collect();
    crate::check::input_names(inputs, &expected)?;
    let dtype = crate::check::common_dtype(contract.dtypes(), inputs, &names)?;
    let [rows, columns] = crate::check::extents(inputs, matrices[0], MATRIX)?;
    for (names, shape) in [(&matrices[1..], vec![rows, columns]), (per_column, vec![columns])] {
        for name in names {
            let found = &inputs[*name].1;
            if *found != shape {
                let expected = format!("{shape:?}, as `{}` has it", matrices[0]);
                return Err(ContractError::Shape {
                    tensor: (*name).to_owned(),
                    found: found.clone(),
                    expected,
                });
            }
        }
    }
    crate::check::problem(
        contract,
        dtype,
        indexmap! { "rows" => rows as i64, "columns" => columns as i64 },
        given,
    )
}

/// The configuration used before tuning: whole rows in registers as far as they fit, short rows several a program.
pub(crate) fn default_config(problem: &Problem) -> Config {
    let width = width(problem);
    let tile_n = if width <= LONGEST_KEPT { width } else { LONG_TILE };
    let rows = (1024 / tile_n).clamp(1, 8);
    let num_warps = (rows * tile_n / (32 * THREAD_ELEMS)).clamp(1, 16) as u32;
    // Loops over blocks need more registers.
    let resident = if tile_n == width { RESIDENT_WARPS } else { RESIDENT_WARPS / 2 };
    let occupancy = (resident / num_warps).min(8);
    crate::check::config(&[("ROWS", rows), ("TILE_N", tile_n)], num_warps, 1, occupancy)
}

/// `ceil(rows / TILE_M) * ceil(columns / TILE_N)` programs, those of a row of blocks side by side.
pub(crate) fn grid_of_blocks(problem: &Problem, config: &Config) -> [usize; 3] {
    let down = crate::check::blocks(problem, "rows", config, "TILE_M");
    let across = crate::check::blocks(problem, "columns", config, "TILE_N");
    [down * across, 1, 1]
}

/// The configuration used before tuning by kernels that go over a matrix block by block.
pub(crate) fn block_config(problem: &Problem) -> Config {
    let tile_n = (problem.size("columns").next_power_of_two() as i64).clamp(128, 2048);
    crate::check::config(&[("TILE_M", 1), ("TILE_N", tile_n)], (tile_n / 512).clamp(1, 4) as u32, 1, 2)
}
