//! What the kernels around one matrix product share: dtypes, the reading of inputs, grids, the reference.

use indexmap::{IndexMap, indexmap};
use rayon::prelude::*;
use std::collections::BTreeMap;
use tile::contract::{Contract, ContractError, Found, Problem, Role, SizeSpec, TensorSpec};
use tile::{Config, DType};

/// The dtypes of the operands of products.
pub(crate) const DTYPES: &[DType] = &[DType::BF16, DType::F16, DType::F32, DType::F8E4M3FN];

/// The sizes of one product, `[m, n, k]` unless a user names others.
pub(crate) const fn sizes([m, n, k]: [i64; 3]) -> [SizeSpec; 4] {
    [
        SizeSpec { name: "m", default: m, exact: false, doc: "rows of lhs and out" },
        SizeSpec { name: "n", default: n, exact: false, doc: "columns of out" },
        SizeSpec { name: "k", default: k, exact: false, doc: "columns of lhs, the summed dimension" },
        SizeSpec {
            name: "rhs_is_nk",
            default: 1,
            exact: true,
            doc: "rhs is given as [N, K] (1) or [K, N] (0)",
        },
    ]
}

/// The sizes of one product are those of a product.
pub(crate) fn check(p: &Problem) -> Result<(), ContractError> {
    crate::check::positive(p, &["m", "n", "k"])?;
    crate::check::switches(p, &["rhs_is_nk"])
}

/// Reads one product off its inputs `lhs` and `rhs`.
pub(crate) fn from_inputs(
    contract: &dyn Contract,
    inputs: &BTreeMap<String, Found>,
    given: &IndexMap<String, i64>,
) -> Result<Problem, ContractError> {
    crate::check::input_names(inputs, &[("lhs", "[M, K]"), ("rhs", "[N, K] or [K, N]")])?;
    let Operands { dtype, sizes, .. } = operands::<2>(contract, inputs, given)?;
    crate::check::problem(contract, dtype, sizes, given)
}

/// `RHS_IS_NK`.
pub(crate) fn consts(p: &Problem) -> IndexMap<String, i64> {
    indexmap! { "RHS_IS_NK".to_owned() => p.sizes["rhs_is_nk"] }
}

/// Operations of one product.
pub(crate) fn flops(p: &Problem) -> f64 {
    2.0 * p.size("m") as f64 * p.size("n") as f64 * p.size("k") as f64
}

/// The dtype of a product's result: its operands', bf16 for 8-bit ones.
pub(crate) fn out_dtype(p: &Problem) -> DType {
    if p.dtype == DType::F8E4M3FN { DType::BF16 } else { p.dtype }
}

/// The dtype parameters `T` of the operands and `O` of the result.
pub(crate) fn dtype_bindings(p: &Problem) -> IndexMap<String, DType> {
    indexmap! { "T".to_owned() => p.dtype, "O".to_owned() => out_dtype(p) }
}

/// `TILE_K` before tuning: f32 operands take twice the shared memory of 16-bit ones.
pub(crate) fn default_tile_k(p: &Problem) -> usize {
    if p.dtype == DType::F32 { 32 } else { 64 }
}

/// The configuration of products used before tuning.
pub(crate) fn default_config(p: &Problem) -> Config {
    let tile_k = default_tile_k(p) as i64;
    crate::check::config(&[("TILE_M", 64), ("TILE_N", 64), ("TILE_K", tile_k)], 4, 2, 1)
}

/// The most rows of blocks in a group: with as many columns beside them they occupy every SM of a large GPU.
const MOST_GROUP_ROWS: usize = 20;
/// The fewest rows of blocks that are worth a group.
const FEWEST_GROUP_ROWS: usize = 4;

/// Rows of blocks in a group: a divisor of all rows of blocks, so that no program is left without work.
fn group_rows(down: usize) -> usize {
    let divides = |rows: &usize| down.is_multiple_of(*rows);
    (FEWEST_GROUP_ROWS..=MOST_GROUP_ROWS).rev().find(divides).unwrap_or(down)
}

/// `[rows of blocks in a group, columns of blocks, groups]`.
pub(crate) fn grouped_grid(p: &Problem, config: &Config) -> [usize; 3] {
    let down = crate::check::blocks(p, "m", config, "TILE_M");
    let group = group_rows(down);
    [group, crate::check::blocks(p, "n", config, "TILE_N"), down / group]
}

/// The tensor specs of lhs, rhs and out, with the extents of `outer` before their own.
pub(crate) fn tensors(p: &Problem, outer: &[usize]) -> [TensorSpec; 3] {
    let (m, n, k) = (p.size("m"), p.size("n"), p.size("k"));
    let rhs = if p.switch("rhs_is_nk") { [n, k] } else { [k, n] };
    let spec = |name, dtype, shape: [usize; 2], role| {
        let shape = [outer, &shape].concat();
        TensorSpec { name, dtype, shape, role }
    };
    [
        spec("lhs", p.dtype, [m, k], Role::Input),
        spec("rhs", p.dtype, rhs, Role::Input),
        spec("out", out_dtype(p), [m, n], Role::Output),
    ]
}

/// What the inputs `lhs` and `rhs` say of a problem.
pub(crate) struct Operands {
    /// Their dtype.
    pub dtype: DType,
    /// The extents they share before the last two.
    pub outer: Vec<usize>,
    /// `m`, `n`, `k` and `rhs_is_nk`.
    pub sizes: IndexMap<&'static str, i64>,
}

/// Reads the inputs `lhs` and `rhs`, of rank `R`.
pub(crate) fn operands<const R: usize>(
    contract: &dyn Contract,
    inputs: &BTreeMap<String, Found>,
    given: &IndexMap<String, i64>,
) -> Result<Operands, ContractError> {
    let dtype = crate::check::common_dtype(contract.dtypes(), inputs, &["lhs", "rhs"])?;
    let is_nk = given.get("rhs_is_nk").copied().unwrap_or(1);
    let (lhs_layout, rhs_layout) =
        (layout::<R>(["M", "K"]), layout::<R>(if is_nk != 0 { ["N", "K"] } else { ["K", "N"] }));
    let lhs = crate::check::extents::<R>(inputs, "lhs", &lhs_layout)?;
    let rhs = crate::check::extents::<R>(inputs, "rhs", &rhs_layout)?;
    let (outer, [m, k]) = (&lhs[..R - 2], [lhs[R - 2], lhs[R - 1]]);
    let (n, rhs_k) = if is_nk != 0 { (rhs[R - 2], rhs[R - 1]) } else { (rhs[R - 1], rhs[R - 2]) };
    if rhs_k != k || rhs[..R - 2] != *outer {
        return Err(ContractError::Shape {
            tensor: "rhs".into(),
            found: rhs.to_vec(),
            expected: format!("{rhs_layout} that goes with lhs {lhs:?}"),
        });
    }
    let sizes = indexmap! { "m" => m as i64, "n" => n as i64, "k" => k as i64, "rhs_is_nk" => is_nk };
    Ok(Operands { dtype, outer: outer.to_vec(), sizes })
}

/// The shape of an operand of rank 2, or of rank 3 with a batch, in words.
fn layout<const R: usize>([rows, cols]: [&str; 2]) -> String {
    format!("[{}{rows}, {cols}]", if R == 3 { "batch, " } else { "" })
}

/// The naive product of one pair of matrices.
pub(crate) fn reference(p: &Problem, lhs: &[f64], rhs: &[f64]) -> Vec<f64> {
    let (n, k) = (p.size("n"), p.size("k"));
    // Rows of [N, K], so that the inner loop runs along both operands.
    let rhs_nk: Vec<f64> = if p.switch("rhs_is_nk") {
        rhs.to_vec()
    } else {
        (0..n * k).map(|i| rhs[(i % k) * n + i / k]).collect()
    };
    let row = |a: &[f64]| -> Vec<f64> { rhs_nk.chunks(k).map(|b| crate::oracle::dot(a, b)).collect() };
    lhs.par_chunks(k).flat_map_iter(row).collect()
}
