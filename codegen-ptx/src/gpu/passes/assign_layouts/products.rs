//! How warps split each product.

use super::graph::{Graph, Key, Kind, carried, key, loaded_operand, op_key, tile_of};
use super::{LayoutId, Layouts, PASS, PassContext, PassError, Rounding};
use crate::layout::mma::KOrder;
use crate::layout::{SharedLayout, mma, wgmma};
use melior::ir::operation::OperationLike;
use std::collections::{HashMap, HashSet};
use tile_ir::TileOp;
use tile_ir::context::Place;
use tile_ir::types::{Op, Val, defining_op, is_tile, operands_of, results_of, type_of};
use tile_lang::DType;

/// What multiplies, and how its parts split the accumulator, as rows by columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Split {
    /// Warps, by `mma.sync`.
    Warps([usize; 2]),
    /// Warpgroups, by `wgmma`, which reads the rhs, and a loaded lhs, from shared memory.
    Groups([usize; 2]),
}

/// One product.
#[derive(Clone, Debug)]
pub(super) struct Product {
    /// The instruction, and its part of the accumulator.
    pub split: Split,
    /// The dtype that is multiplied: the operands', or f16 for f8 where no instruction takes it.
    pub dtype: DType,
    /// Which part of K each position of the instruction stands for.
    pub order: KOrder,
    /// Layout of the accumulator.
    pub acc: LayoutId,
    /// Layout of the lhs when it is in registers.
    pub lhs: LayoutId,
    /// Layout of the rhs when it is in registers.
    pub rhs: LayoutId,
    /// Layouts of the scales of lhs and rhs, of a product that has them.
    pub scales: Option<[LayoutId; 2]>,
}

/// The products by operation.
pub(super) type Products = HashMap<Key, Product>;

/// Plans every product of the kernel; `rounding` says whether `wgmma` would find operands of f32 rounded.
pub(super) fn plan(
    graph: &Graph,
    cx: &mut PassContext,
    layouts: &mut Layouts,
    rounding: Rounding,
) -> Result<Products, PassError> {
    let mut found = Vec::new();
    for (op, kind, _) in &graph.ops {
        let (Kind::Tile(TileOp::Mma { lhs, rhs, acc }) | Kind::Tile(TileOp::MmaScaled { lhs, rhs, acc, .. })) =
            kind
        else {
            continue;
        };
        let place = Place::of(op.location());
        let ((acc_shape, _), (lhs_shape, dtype), (rhs_shape, _)) =
            (tile_of(*acc), tile_of(*lhs), tile_of(*rhs));
        debug_assert_eq!(rhs_shape[0], lhs_shape[1]);
        let loaded = dtype;
        let dtype = match dtype {
            DType::F8E4M3FN if !cx.target.has_fp8_mma_sync() => DType::F16,
            other => other,
        };
        if mma::depth(dtype).is_none() {
            return Err(PassError::MmaDType { dtype, place });
        }
        let by_rows = needs_whole_rows(graph, results_of(*op)[0]);
        let order = k_order(graph, (*lhs, *rhs), lhs_shape[1], dtype, cx);
        found.push((*op, place, [acc_shape[0], acc_shape[1], lhs_shape[1]], (loaded, dtype, order), by_rows));
    }
    // Row statistics of one product scale another of as many rows, and should be where its rows are.
    let by_rows: HashSet<usize> = found.iter().filter(|f| f.4).map(|f| f.2[0]).collect();
    let mut products = Products::new();
    for (op, place, [m, n, k], (loaded, dtype, order), own_rows) in found {
        // What lies in shared memory cannot be read by `wgmma` in another order. Where a computed operand is used
        // for many columns, the product outweighs what the plain order costs.
        if cx.target.has_wgmma() && (order == KOrder::default() || n >= MANY_COLUMNS) {
            match warpgroups(graph, op, [m, n, k], (loaded, own_rows, rounding), cx.num_warps) {
                Ok(groups) => {
                    let [groups_m, groups_n] = groups;
                    let message =
                        format!("mma {m}x{n}x{k} of {loaded}: wgmma by warpgroups {groups_m}x{groups_n}");
                    cx.remark(PASS, place, message);
                    let product = Product {
                        split: Split::Groups(groups),
                        dtype: loaded,
                        acc: layouts.id(wgmma::acc(m, n, groups)),
                        lhs: layouts.id(wgmma::lhs(m, k, groups, loaded)),
                        // Never in registers.
                        rhs: layouts.id(mma::rhs(k, n, [1, cx.num_warps], loaded)),
                        scales: None,
                        order: KOrder::default(),
                    };
                    products.insert(op_key(op), product);
                    continue;
                }
                Err(why) => {
                    cx.remark(PASS, place.clone(), format!("mma {m}x{n}x{k} of {loaded} is no wgmma: {why}"));
                }
            }
        }
        let rows = by_rows.contains(&m);
        let warps = if rows { split_rows(m, cx.num_warps) } else { split_evenly(m, n, cx.num_warps) };
        let why = if rows { "its rows are reduced or multiplied again" } else { "least operand traffic" };
        let [warps_m, warps_n] = warps;
        cx.remark(PASS, place, format!("mma {m}x{n}x{k} of {dtype}: warps {warps_m}x{warps_n}, since {why}"));
        if order != KOrder::default() {
            cx.remark(
                PASS,
                Place::of(op.location()),
                "K is summed in the order in which narrow operands lie",
            );
        }
        let product = Product {
            split: Split::Warps(warps),
            dtype,
            acc: layouts.id(mma::acc(m, n, warps)),
            lhs: layouts.id(order.apply(mma::lhs(m, k, warps, dtype), 1)),
            rhs: layouts.id(order.apply(mma::rhs(k, n, warps, dtype), 0)),
            scales: (dtype == DType::F4E2M1FN).then(|| {
                [layouts.id(mma::lhs_scales(m, k, warps)), layouts.id(mma::rhs_scales(k, n, warps))]
            }),
            order,
        };
        products.insert(op_key(op), product);
    }
    Ok(products)
}

/// How warpgroups split a product of a dtype, or why `wgmma` cannot compute it. `by_rows` says that its rows are
/// reduced or multiplied again, `rounding` whether operands of f32 are rounded.
fn warpgroups<'c>(
    graph: &Graph<'c>,
    op: Op<'c>,
    shape: [usize; 3],
    (dtype, by_rows, rounding): (DType, bool, Rounding),
    num_warps: usize,
) -> Result<[usize; 2], String> {
    let no = |why: &str| Err(why.to_owned());
    let Kind::Tile(TileOp::Mma { lhs, rhs, .. }) = graph.kind(op) else { return no("it is no product") };
    let is_wide = matches!(dtype, DType::F16 | DType::BF16);
    if !is_wide && dtype != DType::F8E4M3FN && dtype != DType::F32 {
        return no("it takes no such operands");
    }
    if !is_wide && by_rows {
        // What reads its rows would be multiplied by other warps, with an rhs that has no descriptor.
        return no("its operands are not of 16 bits, and its rows are reduced or multiplied again");
    }
    if dtype == DType::F32 {
        let cuts =
            |why: &str| format!("it would cut f32 operands to tf32, where they are to be rounded: {why}");
        rounding.map_err(cuts)?;
        let rounded = |operand: &Val<'c>| {
            loaded_operand(graph, *operand).is_none_or(|l| is_only_multiplied(graph, results_of(l.load)[0]))
        };
        if ![lhs, rhs].into_iter().all(rounded) {
            return Err(cuts("something else needs an operand as it is"));
        }
    }
    let groups = wgmma::split(shape, num_warps, dtype)
        .ok_or("it takes 64 rows and 8 to 256 columns a warpgroup of 4 warps")?;
    let [_, n, _] = shape;
    let described = |operand: Val<'c>, is_rhs: bool, extent: usize| {
        let loaded = loaded_operand(graph, operand).filter(|_| tile_of(operand).1 == dtype)?;
        let (shape, element) = tile_of(results_of(loaded.load)[0]);
        let cols = *shape.last()?;
        let rows = shape.iter().product::<usize>() / cols;
        let layout = SharedLayout::panels(rows, cols, element.bits() as usize / 8);
        let described = wgmma::Operand::new(layout, dtype, loaded.transposed == is_rhs, extent).is_some();
        Some(described)
    };
    match described(*rhs, true, n / groups[1]) {
        None => return no("its rhs is not a load's tile"),
        Some(false) => return no("no descriptor describes its rhs"),
        Some(true) => {}
    }
    match described(*lhs, false, wgmma::M) {
        Some(false) => no("no descriptor describes its lhs"),
        None if !is_wide => no("its lhs is not of 16 bits, nor a load's tile"),
        _ => Ok(groups),
    }
}

/// Whether products alone use a tile, as it is, reshaped or transposed.
fn is_only_multiplied<'c>(graph: &Graph<'c>, tile: Val<'c>) -> bool {
    graph.uses(tile).iter().all(|used| match graph.kind(used.op) {
        Kind::Tile(TileOp::Mma { .. }) => used.operand < 2,
        Kind::Tile(TileOp::Reshape { .. } | TileOp::Transpose { .. }) => {
            is_only_multiplied(graph, results_of(used.op)[0])
        }
        _ => false,
    })
}

/// Each warp gets whole rows, as far as there are 16 for each.
fn split_rows(m: usize, num_warps: usize) -> [usize; 2] {
    let rows = (m / mma::M).clamp(1, num_warps);
    [rows, num_warps / rows]
}

/// The split in which warps repeat the least work, then read the fewest operand elements.
fn split_evenly(m: usize, n: usize, num_warps: usize) -> [usize; 2] {
    let splits = (0..=num_warps.trailing_zeros()).map(|bits| [num_warps >> bits, 1 << bits]);
    let cost = |[warps_m, warps_n]: &[usize; 2]| {
        let (rows, cols) = ((m / warps_m).max(mma::M), (n / warps_n).max(mma::N));
        (rows * cols, rows + cols)
    };
    splits.min_by_key(cost).unwrap_or([num_warps, 1])
}

/// Columns of a product for which an operand is computed in the order of K that `wgmma` has, though another order
/// would be cheaper.
const MANY_COLUMNS: usize = 64;

/// Bytes of a wide operand that each thread holds in a row: two accesses, which neighbours alternate with their own
/// so that no two meet in a bank.
const RUN_BYTES: usize = 32;

/// The order of K that suits operands which are computed from narrower tiles: each thread then holds longer runs of
/// the narrow tile, and converts them where they are. The plain order where an operand is computed
/// otherwise, since it would have to move between threads.
fn k_order(graph: &Graph, (lhs, rhs): (Val, Val), k: usize, dtype: DType, cx: &PassContext) -> KOrder {
    let sources = [operand_source(graph, lhs, 1, dtype), operand_source(graph, rhs, 0, dtype)];
    let narrow = sources.iter().filter_map(|source| match source {
        Source::Narrow(narrow) => Some(*narrow),
        _ => None,
    });
    let narrowest = narrow.min_by_key(|narrow| narrow.bits());
    let Some(narrow) = narrowest.filter(|_| !sources.contains(&Source::Other)) else {
        return KOrder::default();
    };
    // Without an instruction, 4-bit elements half a word apart are converted together.
    let by_instruction = narrow == DType::F8E4M3FN || cx.target.has_fp4_conversions() && dtype == DType::F16;
    let pair = if by_instruction { 1 } else { 4 };
    KOrder::runs(k, dtype, RUN_BYTES * 8 / dtype.bits() as usize, pair)
}

/// Where an operand comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// Computed element by element from a loaded tile of a narrower dtype, in which K is contiguous.
    Narrow(DType),
    /// A loaded tile.
    Loaded,
    /// Anything else.
    Other,
}

/// Where an operand whose dimension `dim` is K comes from.
fn operand_source(graph: &Graph, operand: Val, dim: usize, dtype: DType) -> Source {
    if loaded_operand(graph, operand).is_some() {
        return if tile_of(operand).1 == dtype { Source::Loaded } else { Source::Other };
    }
    match narrow_source(graph, operand, dim) {
        Some(narrow) if narrow.bits() < dtype.bits() => Source::Narrow(narrow),
        _ => Source::Other,
    }
}

/// The dtype of the load that a tile is computed from element by element, if its last dimension is `dim` of the
/// tile. Tiles that are broadcast do not count.
fn narrow_source(graph: &Graph, value: Val, dim: usize) -> Option<DType> {
    let op = defining_op(value)?;
    match graph.kind(op) {
        Kind::Elementwise => operands_of(op)
            .into_iter()
            .filter(|operand| is_tile(type_of(*operand)))
            .filter_map(|operand| narrow_source(graph, operand, dim))
            .min_by_key(|dtype| dtype.bits()),
        Kind::Tile(TileOp::Transpose { tile, perm }) => narrow_source(graph, *tile, perm[dim]),
        Kind::Tile(TileOp::Reshape { tile }) => {
            let (to, from) = (tile_of(value).0, tile_of(*tile).0);
            let last = (dim + 1 == to.len() && to.last() == from.last()).then(|| from.len() - 1);
            narrow_source(graph, *tile, last?)
        }
        Kind::Tile(TileOp::Load { .. }) => {
            let (shape, dtype) = tile_of(value);
            (dim + 1 == shape.len()).then_some(dtype)
        }
        _ => None,
    }
}

/// True when what is computed from an accumulator element by element is reduced along its rows, or is the lhs
/// of another product.
fn needs_whole_rows<'c>(graph: &Graph<'c>, acc: Val<'c>) -> bool {
    let mut seen = HashSet::new();
    let mut pending = vec![acc];
    while let Some(value) = pending.pop() {
        if !is_tile(type_of(value)) || !seen.insert(key(value)) {
            continue;
        }
        for used in graph.uses(value) {
            match graph.kind(used.op) {
                Kind::Tile(TileOp::Reduce { axis: 1, .. }) => return true,
                Kind::Tile(TileOp::Mma { .. }) if used.operand == 0 => return true,
                Kind::Tile(TileOp::MmaScaled { .. }) if used.operand == 4 => {
                    pending.extend(results_of(used.op));
                }
                Kind::Tile(TileOp::Mma { .. }) if used.operand == 2 => pending.extend(results_of(used.op)),
                Kind::Elementwise => pending.extend(results_of(used.op)),
                Kind::Terminator => {
                    let parent = used.op.parent_operation();
                    let variables = parent.map(|p| carried(p, graph.kind(p))).unwrap_or_default();
                    let passed = variables.into_iter().filter(|c| c.sources.contains(&value));
                    pending.extend(passed.flat_map(|c| c.values));
                }
                kind @ (Kind::For | Kind::While) => {
                    let passed = carried(used.op, kind).into_iter().filter(|c| c.sources.contains(&value));
                    pending.extend(passed.flat_map(|c| c.values));
                }
                _ => {}
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warps_split_products_evenly() {
        assert_eq!(split_evenly(128, 128, 4), [2, 2]);
        assert_eq!(split_evenly(128, 64, 4), [4, 1]);
        assert_eq!(split_evenly(256, 64, 4), [4, 1]);
        assert_eq!(split_evenly(16, 128, 4), [1, 4]);
        assert_eq!(split_evenly(128, 8, 8), [8, 1]);
    }

    #[test]
    fn rows_stay_whole_while_there_are_enough() {
        assert_eq!(split_rows(64, 4), [4, 1]);
        assert_eq!(split_rows(32, 4), [2, 2]);
        assert_eq!(split_rows(1, 4), [1, 4]);
    }
}
