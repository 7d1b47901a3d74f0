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
    /// Layout of the accumulators of parts of K, where warps with the same part of the accumulator share K out.
    pub parts: Option<LayoutId>,
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
        let ((acc_shape, _), (lhs_shape, loaded), (rhs_shape, _)) =
            (tile_of(*acc), tile_of(*lhs), tile_of(*rhs));
        debug_assert_eq!(rhs_shape[0], lhs_shape[1]);
        let dtype = match loaded {
            DType::F8E4M3FN if !cx.target.has_fp8_mma_sync() => DType::F16,
            other => other,
        };
        let place = Place::of(op.location());
        let Some(depth) = mma::depth(dtype) else { return Err(PassError::MmaDType { dtype, place }) };
        found.push(Wanted {
            op: *op,
            shape: [acc_shape[0], acc_shape[1], lhs_shape[1]],
            loaded,
            dtype,
            depth,
            widened: widened(graph, (*lhs, *rhs), dtype, cx),
            by_rows: needs_whole_rows(graph, results_of(*op)[0]),
        });
    }
    // Row statistics of one product scale another of as many rows, and should be where its rows are.
    let by_rows: HashSet<usize> = found.iter().filter(|f| f.by_rows).map(|f| f.shape[0]).collect();
    let mut products = Products::new();
    for wanted in found {
        let (place, [m, n, k]) = (Place::of(wanted.op.location()), wanted.shape);
        // What lies in shared memory cannot be read by `wgmma` in another order. Where a computed operand is used
        // for many columns, the product outweighs what the plain order costs.
        let in_order = wanted.order(k) == KOrder::default() || n >= wgmma::MANY_COLUMNS;
        let groups = match cx.target.has_wgmma() && in_order {
            true => warpgroups(graph, &wanted, rounding, cx.num_warps).map_err(Some),
            false => Err(None),
        };
        let product = match groups {
            Ok(groups) => {
                let [groups_m, groups_n] = groups;
                let loaded = wanted.loaded;
                let message =
                    format!("mma {m}x{n}x{k} of {loaded}: wgmma by warpgroups {groups_m}x{groups_n}");
                cx.remark(PASS, place, message);
                of_groups(&wanted, groups, cx.num_warps, layouts)
            }
            Err(why) => {
                if let Some(why) = why {
                    let message = format!("mma {m}x{n}x{k} of {} is no wgmma: {why}", wanted.loaded);
                    cx.remark(PASS, place, message);
                }
                of_warps(&wanted, by_rows.contains(&m), cx, layouts)
            }
        };
        products.insert(op_key(wanted.op), product);
    }
    Ok(products)
}

/// A product to plan.
struct Wanted<'c> {
    op: Op<'c>,
    /// M, N and K.
    shape: [usize; 3],
    /// The operands' dtype.
    loaded: DType,
    /// What `mma.sync` would multiply, and how much of K at once.
    dtype: DType,
    depth: usize,
    widened: Option<Widened>,
    /// Its rows are reduced or multiplied again.
    by_rows: bool,
}

impl Wanted<'_> {
    /// The order of `k` positions of K that suits its operands.
    fn order(&self, k: usize) -> KOrder {
        let run = RUN_BYTES * 8 / self.dtype.bits() as usize;
        self.widened.map_or_else(KOrder::default, |w| KOrder::runs(k, self.dtype, run, w.pair))
    }
}

/// A product by `wgmma`.
fn of_groups(wanted: &Wanted, groups: [usize; 2], num_warps: usize, layouts: &mut Layouts) -> Product {
    let ([m, n, k], dtype) = (wanted.shape, wanted.loaded);
    Product {
        split: Split::Groups(groups),
        dtype,
        acc: layouts.id(wgmma::acc(m, n, groups)),
        lhs: layouts.id(wgmma::lhs(m, k, groups, dtype)),
        // Never in registers.
        rhs: layouts.id(mma::rhs(k, n, [1, num_warps], dtype)),
        scales: None,
        order: KOrder::default(),
        parts: None,
    }
}

/// A product by `mma.sync`, each warp with whole rows or not.
fn of_warps(wanted: &Wanted, rows: bool, cx: &mut PassContext, layouts: &mut Layouts) -> Product {
    let ([m, n, k], dtype) = (wanted.shape, wanted.dtype);
    let has_scales = dtype == DType::F4E2M1FN;
    let depths = if has_scales { 1 } else { (k / wanted.depth).max(1) };
    let (warps, parts) = match rows {
        true => (split_rows(m, cx.num_warps), 1),
        false => split_evenly([m, n], cx.num_warps, depths, wanted.widened.map_or([false; 2], |w| w.sides)),
    };
    let why = if rows { "its rows are reduced or multiplied again" } else { "least operand traffic" };
    let [warps_m, warps_n] = warps;
    let by_parts = if parts > 1 { format!(" and {parts} parts of K") } else { String::new() };
    let message = format!("mma {m}x{n}x{k} of {dtype}: warps {warps_m}x{warps_n}{by_parts}, since {why}");
    let place = Place::of(wanted.op.location());
    cx.remark(PASS, place.clone(), message);
    let order = wanted.order(k / parts);
    if order != KOrder::default() {
        cx.remark(PASS, place, "K is summed in the order in which narrow operands lie");
    }
    let extents = [parts, m, n];
    let whole = mma::acc_parts(extents, warps);
    let (acc, parts) = match parts {
        1 => (whole, None),
        _ => (whole.slice(0).reshape(&[m, n]), Some(layouts.id(whole))),
    };
    let [lhs, rhs] = mma::operands(extents, k, warps, dtype, &order);
    Product {
        split: Split::Warps(warps),
        dtype,
        acc: layouts.id(acc),
        lhs: layouts.id(lhs),
        rhs: layouts.id(rhs),
        scales: has_scales
            .then(|| [layouts.id(mma::lhs_scales(m, k, warps)), layouts.id(mma::rhs_scales(k, n, warps))]),
        order,
        parts,
    }
}

/// How warpgroups split a product, or why `wgmma` cannot compute it; `rounding` says whether operands of f32 are
/// rounded.
fn warpgroups<'c>(
    graph: &Graph<'c>,
    wanted: &Wanted<'c>,
    rounding: Rounding,
    num_warps: usize,
) -> Result<[usize; 2], String> {
    let Wanted { op, shape, loaded: dtype, by_rows, .. } = *wanted;
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

/// The most elements of an accumulator that a warp holds of each part of K: 16 registers a thread.
const PART_ELEMENTS: usize = 512;

/// The split in which warps repeat the least work, then widen the fewest elements of lhs and rhs where those are
/// `widened`, then cut K, which has `depths` steps, into the fewest parts, then read the fewest operand elements.
fn split_evenly(
    [m, n]: [usize; 2],
    num_warps: usize,
    depths: usize,
    widened: [bool; 2],
) -> ([usize; 2], usize) {
    let most = depths.min(num_warps).trailing_zeros();
    let splits = (0..=most).map(|bits| (num_warps >> bits, 1 << bits)).flat_map(|(warps, parts)| {
        (0..=warps.trailing_zeros()).map(move |bits| ([warps >> bits, 1 << bits], parts))
    });
    let block = |[warps_m, warps_n]: [usize; 2]| ((m / warps_m).max(mma::M), (n / warps_n).max(mma::N));
    let splits = splits.filter(|(warps, parts)| {
        let (rows, cols) = block(*warps);
        *parts == 1 || rows * cols <= PART_ELEMENTS
    });
    let cost = |(warps, parts): &([usize; 2], usize)| {
        let (rows, cols) = block(*warps);
        let widens = usize::from(widened[0]) * rows + usize::from(widened[1]) * cols;
        (rows * cols / parts, widens / parts, *parts, rows + cols)
    };
    splits.min_by_key(cost).unwrap_or(([num_warps, 1], 1))
}

/// Bytes of a wide operand that each thread holds in a row: two accesses, which neighbours alternate with their own
/// so that no two meet in a bank.
const RUN_BYTES: usize = 32;

/// Operands that are computed from narrower tiles.
#[derive(Clone, Copy, Debug)]
struct Widened {
    /// The lhs, the rhs.
    sides: [bool; 2],
    /// How far apart in K the two elements of a register lie in the order that suits them: each thread then holds
    /// longer runs of the narrow tile, and converts them where they are.
    pair: usize,
}

/// Which operands are computed from narrower tiles; none, for the plain order of K, where one is computed otherwise,
/// since it would have to move between threads.
fn widened(graph: &Graph, (lhs, rhs): (Val, Val), dtype: DType, cx: &PassContext) -> Option<Widened> {
    let sources = [operand_source(graph, lhs, 1, dtype), operand_source(graph, rhs, 0, dtype)];
    let narrow = sources.iter().filter_map(|source| match source {
        Source::Narrow(narrow) => Some(*narrow),
        _ => None,
    });
    let narrow = narrow.min_by_key(|narrow| narrow.bits()).filter(|_| !sources.contains(&Source::Other))?;
    // Without an instruction, 4-bit elements half a word apart are converted together.
    let by_instruction = narrow == DType::F8E4M3FN || cx.target.has_fp4_conversions() && dtype == DType::F16;
    let sides = sources.map(|source| matches!(source, Source::Narrow(_)));
    Some(Widened { sides, pair: if by_instruction { 1 } else { 4 } })
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
        let split = |m, n, warps| split_evenly([m, n], warps, 16, [false; 2]);
        assert_eq!(split(128, 128, 4), ([2, 2], 1));
        assert_eq!(split(128, 64, 4), ([4, 1], 1));
        assert_eq!(split(256, 64, 4), ([4, 1], 1));
        assert_eq!(split(16, 128, 4), ([1, 4], 1));
        assert_eq!(split(128, 8, 8), ([8, 1], 1));
    }

    #[test]
    fn warps_left_over_share_k() {
        let split = |m, n, depths| split_evenly([m, n], 8, depths, [false; 2]);
        assert_eq!(split(64, 8, 16), ([4, 1], 2));
        assert_eq!(split(16, 8, 16), ([1, 1], 8));
        assert_eq!(split(16, 8, 2), ([4, 1], 2));
        assert_eq!(split(64, 8, 1), ([8, 1], 1));
    }

    #[test]
    fn no_warp_widens_what_another_does() {
        let split = |m, n, widened| split_evenly([m, n], 8, 16, widened);
        assert_eq!(split(64, 16, [false; 2]), ([4, 2], 1));
        assert_eq!(split(64, 16, [true, false]), ([4, 1], 2));
        assert_eq!(split(16, 64, [false, true]), ([1, 8], 1));
        assert_eq!(split(256, 16, [true, false]), ([8, 1], 1));
        // Parts of so large an accumulator would fill the registers.
        assert_eq!(split(128, 64, [true, true]), ([4, 2], 1));
    }

    #[test]
    fn rows_stay_whole_while_there_are_enough() {
        assert_eq!(split_rows(64, 4), [4, 1]);
        assert_eq!(split_rows(32, 4), [2, 2]);
        assert_eq!(split_rows(1, 4), [1, 4]);
    }
}
