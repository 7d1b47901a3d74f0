//! The kernel as the pass sees it: operations by kind, uses of each value, and which values a loop carries.

use super::PassError;
use crate::layout::LinearLayout;
use melior::ir::ValueLike;
use melior::ir::operation::OperationLike;
use std::collections::HashMap;
use tile_ir::context::Place;
use tile_ir::passes::{Effect, effect};
use tile_ir::types::{
    Blk, Op, Val, args_of, blocks_of, defining_op, dtype_of, is_tile, name_of, operands_of, ops_of,
    results_of, root_view, shape_of, type_of, view_of,
};
use tile_ir::{Module, TileOp};
use tile_lang::DType;

/// A value by address.
pub(super) type Key = usize;

/// The key of a value.
pub(super) fn key(value: Val) -> Key {
    value.to_raw().ptr as usize
}

/// The key of an operation.
pub(super) fn op_key(op: Op) -> Key {
    op.to_raw().ptr as usize
}

/// What an operation is to the pass.
#[derive(Clone, Debug)]
pub(super) enum Kind<'c> {
    /// An operation of the tile dialect that has to do with tiles.
    Tile(TileOp<'c>),
    /// A constant tile.
    Constant,
    /// An operation on each element.
    Elementwise,
    /// Scalars only.
    Scalar,
    /// `scf.for`.
    For,
    /// `scf.while`.
    While,
    /// `scf.if`.
    If,
    /// `scf.yield`, `scf.condition`, `func.return`.
    Terminator,
}

/// The kind of an operation; none for one that the pass does not know.
fn kind_of(op: Op<'_>) -> Option<Kind<'_>> {
    let name = name_of(op);
    match name.as_str() {
        "scf.for" => return Some(Kind::For),
        "scf.while" => return Some(Kind::While),
        "scf.if" => return Some(Kind::If),
        "scf.yield" | "scf.condition" | "func.return" => return Some(Kind::Terminator),
        _ => {}
    }
    let tiles = op.operands().chain(results_of(op)).any(|v| is_tile(type_of(v)));
    if let Some(tile_op) = TileOp::of(op) {
        return Some(match tile_op {
            TileOp::Cast { .. } if tiles => Kind::Elementwise,
            _ if tiles => Kind::Tile(tile_op),
            _ => Kind::Scalar,
        });
    }
    if !tiles {
        return (op.region_count() == 0).then_some(Kind::Scalar);
    }
    match name.split_once('.') {
        Some(("arith", "constant")) => Some(Kind::Constant),
        Some(("arith" | "math", _)) if op.region_count() == 0 => Some(Kind::Elementwise),
        _ => None,
    }
}

/// A use of a value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use<'c> {
    /// The user.
    pub op: Op<'c>,
    /// Which operand.
    pub operand: usize,
}

/// The kernel.
pub(super) struct Graph<'c> {
    /// Every operation in order, outer before inner, with its kind and how many loops it is in.
    pub ops: Vec<(Op<'c>, Kind<'c>, usize)>,
    kinds: HashMap<Key, usize>,
    uses: HashMap<Key, Vec<Use<'c>>>,
    /// The tensor arguments in order.
    pub views: Vec<Val<'c>>,
    /// The body of the function.
    pub entry: Blk<'c>,
}

impl<'c> Graph<'c> {
    /// Reads a module.
    pub fn of(module: &Module<'c>) -> Result<Graph<'c>, PassError> {
        let entry = module.entry();
        let views = args_of(entry).into_iter().filter(|a| view_of(type_of(*a)).is_some()).collect();
        let mut graph = Graph { ops: Vec::new(), kinds: HashMap::new(), uses: HashMap::new(), views, entry };
        graph.visit(entry, 0)?;
        Ok(graph)
    }

    fn visit(&mut self, block: Blk<'c>, depth: usize) -> Result<(), PassError> {
        for op in ops_of(block) {
            let Some(kind) = kind_of(op) else {
                return Err(PassError::UnknownOp { op: name_of(op), place: Place::of(op.location()) });
            };
            let inner = depth + usize::from(matches!(kind, Kind::For | Kind::While));
            self.kinds.insert(op_key(op), self.ops.len());
            self.ops.push((op, kind, depth));
            for (operand, value) in op.operands().enumerate() {
                self.uses.entry(key(value)).or_default().push(Use { op, operand });
            }
            for block in blocks_of(op) {
                self.visit(block, inner)?;
            }
        }
        Ok(())
    }

    /// The kind of an operation of the kernel.
    pub fn kind(&self, op: Op<'c>) -> &Kind<'c> {
        &self.ops[self.kinds[&op_key(op)]].1
    }

    /// How many loops an operation is in.
    pub fn depth(&self, op: Op<'c>) -> usize {
        self.ops[self.kinds[&op_key(op)]].2
    }

    /// The uses of a value.
    pub fn uses(&self, value: Val<'c>) -> &[Use<'c>] {
        self.uses.get(&key(value)).map_or(&[], Vec::as_slice)
    }

    /// True when the kernel both reads and writes a tensor, so that threads may see each other's elements.
    pub fn is_updated(&self, view: Val<'c>) -> bool {
        let root = root_view(view);
        let mut touched = [false; 2];
        for (op, ..) in &self.ops {
            match effect(*op) {
                Effect::Read(view) if view == root => touched[0] = true,
                Effect::Write(view) if view == root => touched[1] = true,
                _ => {}
            }
        }
        touched == [true; 2]
    }
}

/// Values that a loop or branch passes on as one variable: they share a layout.
pub(super) struct Carried<'c> {
    /// Block arguments and results: the values that the loop or branch itself makes.
    pub values: Vec<Val<'c>>,
    /// What is passed in from outside or by the end of a block.
    pub sources: Vec<Val<'c>>,
}

/// The variables of a loop or branch that are tiles.
pub(super) fn carried<'c>(op: Op<'c>, kind: &Kind<'c>) -> Vec<Carried<'c>> {
    let end = |block: Blk<'c>| ops_of(block).last().map(operands_of).unwrap_or_default();
    let results = results_of(op);
    let blocks = blocks_of(op);
    let mut found = Vec::new();
    match kind {
        Kind::For => {
            let (args, yields, inits) = (args_of(blocks[0]), end(blocks[0]), operands_of(op));
            for (i, result) in results.iter().enumerate() {
                found.push(Carried {
                    values: vec![*result, args[i + 1]],
                    sources: vec![inits[i + 3], yields[i]],
                });
            }
        }
        Kind::While => {
            let (before, after) = (blocks[0], blocks[1]);
            let (inits, yields, passed) = (operands_of(op), end(after), end(before));
            for (i, arg) in args_of(before).into_iter().enumerate() {
                found.push(Carried { values: vec![arg], sources: vec![inits[i], yields[i]] });
            }
            for (i, arg) in args_of(after).into_iter().enumerate() {
                found.push(Carried { values: vec![arg, results[i]], sources: vec![passed[i + 1]] });
            }
        }
        Kind::If => {
            let ends: Vec<_> = blocks.into_iter().map(end).collect();
            for (i, result) in results.iter().enumerate() {
                found.push(Carried { values: vec![*result], sources: ends.iter().map(|e| e[i]).collect() });
            }
        }
        _ => {}
    }
    found.retain(|c| is_tile(type_of(c.values[0])));
    found
}

/// A load whose tile, seen as a matrix of its last dimension against all others, is an operand or its transpose.
#[derive(Clone, Copy, Debug)]
pub(super) struct LoadedOperand<'c> {
    /// The load.
    pub load: Op<'c>,
    /// The operand is the matrix's transpose.
    pub transposed: bool,
}

/// The load that an operand of a product is, through reshapes and transposes.
pub(super) fn loaded_operand<'c>(graph: &Graph<'c>, operand: Val<'c>) -> Option<LoadedOperand<'c>> {
    let mut chain = Vec::new();
    let mut value = operand;
    let load = loop {
        let op = defining_op(value)?;
        match graph.kind(op) {
            Kind::Tile(TileOp::Load { .. }) => break op,
            Kind::Tile(shape_op @ (TileOp::Reshape { tile } | TileOp::Transpose { tile, .. })) => {
                chain.push((shape_op, value));
                value = *tile;
            }
            _ => return None,
        }
    };
    let shape = shape_of(type_of(value))?;
    let cols = *shape.last()?;
    let element_number = element_numbers(&shape);
    let mapped = chain.into_iter().rev().fold(element_number.clone(), |layout, (op, result)| match op {
        TileOp::Transpose { perm, .. } => layout.transpose(perm),
        _ => layout.reshape(&shape_of(type_of(result)).unwrap_or_default()),
    });
    let to = shape_of(type_of(operand))?;
    let [rows, columns] = to[..] else { return None };
    let straight = element_number.reshape(&to);
    if columns == cols && mapped == straight {
        return Some(LoadedOperand { load, transposed: false });
    }
    let flipped = element_number.reshape(&[columns, rows]).transpose(&[1, 0]);
    (rows == cols && mapped == flipped).then_some(LoadedOperand { load, transposed: true })
}

/// A tile as its elements in row-major order, which reshapes and transposes act on.
fn element_numbers(shape: &[usize]) -> LinearLayout {
    let bits = shape.iter().product::<usize>().trailing_zeros();
    let flat = LinearLayout {
        register: (0..bits).map(|bit| vec![1 << bit]).collect(),
        lane: Vec::new(),
        warp: Vec::new(),
        shape: vec![1 << bits],
    };
    flat.reshape(shape)
}

/// Shape and dtype of a tile.
///
/// # Panics
/// For other values.
pub(super) fn tile_of(value: Val) -> (Vec<usize>, DType) {
    let ty = type_of(value);
    (shape_of(ty).expect("a tile"), dtype_of(ty).expect("a tile"))
}
