//! Checks the structural rules of the tile level that the dialect's definition cannot state.
//!
//! All violations are reported, each with the kernel's source line and the operation. A violation is a mistake
//! of the compiler (or of hand-written IR), never of the kernel's author.

use crate::context::Place;
use crate::module::Module;
use crate::ops::TileOp;
use crate::types::{
    Op, Val, args_of, blocks_of, bool_attr_of_arg, dtype_of, is_tile, name_of, nested_ops, operands_of,
    ops_of, results_of, root_view, shape_of, type_of, view_of,
};
use melior::ir::operation::OperationLike;
use tile_lang::DType;

/// A rule that an operation breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rule {
    /// MLIR's own verifier objects.
    #[error("{0}")]
    Malformed(String),
    /// The operation is not one of the tile level.
    #[error("is not an operation of the tile level")]
    Foreign,
    /// A required attribute is absent or has a wrong value.
    #[error("has missing or malformed attributes")]
    Attributes,
    /// A region has several blocks.
    #[error("has control flow other than loops and branches of one block")]
    Blocks,
    /// A tile dimension is not a power of two, or not static.
    #[error("{value} has shape {shape}; every dimension must be a power of two")]
    PowerOfTwo {
        /// Which operand or result.
        value: String,
        /// Its type's shape.
        shape: String,
    },
    /// A dtype that the operation does not take.
    #[error("{value} has dtype {found}; expected {expected}")]
    DType {
        /// Which operand or result.
        value: String,
        /// Its dtype.
        found: String,
        /// What the operation takes.
        expected: &'static str,
    },
    /// A shape that does not follow from the operands.
    #[error("{value} has shape {found:?}; expected {expected:?}")]
    Shape {
        /// Which operand or result.
        value: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that follows.
        expected: Vec<usize>,
    },
    /// As many indices as the view has dimensions are needed, or a tile of another rank.
    #[error("{what} is {found} for a view of rank {rank}")]
    Rank {
        /// The number of indices or the tile's rank.
        what: &'static str,
        /// What was found.
        found: usize,
        /// The view's rank.
        rank: usize,
    },
    /// An axis beyond the last.
    #[error("axis {axis} is out of range for {limit} dimensions")]
    Axis {
        /// The axis.
        axis: usize,
        /// How many there are.
        limit: usize,
    },
    /// Not a permutation of the dimensions.
    #[error("{perm:?} is not a permutation of {rank} dimensions")]
    Permutation {
        /// What was found.
        perm: Vec<usize>,
        /// The operand's rank.
        rank: usize,
    },
    /// A reshape that changes the number of elements.
    #[error("reshapes {from:?} to {to:?}, which has another number of elements")]
    ElementCount {
        /// The operand's shape.
        from: Vec<usize>,
        /// The result's shape.
        to: Vec<usize>,
    },
    /// The inner dimensions of a product differ.
    #[error("lhs has {lhs} columns, rhs has {rhs} rows")]
    InnerDims {
        /// K of lhs.
        lhs: usize,
        /// K of rhs.
        rhs: usize,
    },
    /// A store to a tensor that the kernel may only read.
    #[error("stores to a tensor that is read-only")]
    ReadOnly,
    /// A view that is neither an argument nor a part of one.
    #[error("a tensor view is neither an argument of the kernel nor a slice of one")]
    View,
    /// A tile where a scalar belongs, or the other way round.
    #[error("{value} must be a {expected}")]
    Kind {
        /// Which operand or result.
        value: String,
        /// `tile` or `scalar`.
        expected: &'static str,
    },
}

/// One operation that breaks one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The kernel's source line that the operation comes from.
    pub place: Option<Place>,
    /// The operation's name.
    pub op: String,
    /// The rule.
    pub rule: Rule,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        write!(f, "{}: {}", self.op, self.rule)
    }
}

/// The IR is broken: a compiler bug.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed IR (a compiler bug):\n{}", .violations.iter().map(Violation::to_string).collect::<Vec<_>>().join("\n"))]
pub struct VerifyError {
    /// Everything that is wrong, in the order of the text.
    pub violations: Vec<Violation>,
}

/// Checks a module of the tile level.
///
/// # Errors
/// With every violation found.
pub fn verify(module: &Module) -> Result<(), VerifyError> {
    let context = module.context();
    context.take_messages();
    let mut check = Check { op: module.function(), violations: Vec::new() };
    if !module.mlir().as_operation().verify() {
        for message in context.take_messages() {
            let (op, text) = split_message(&message.text);
            check.violations.push(Violation { place: message.place, op, rule: Rule::Malformed(text) });
        }
    }
    check.one_block();
    for op in nested_ops(module.function()) {
        check.op = op;
        check.operation();
    }
    match check.violations.is_empty() {
        true => Ok(()),
        false => Err(VerifyError { violations: check.violations }),
    }
}

/// MLIR's messages begin with the operation's name: `'arith.addf' op requires ..`.
fn split_message(text: &str) -> (String, String) {
    let quoted = text.strip_prefix('\'').and_then(|rest| rest.split_once("' op "));
    match quoted {
        Some((op, rule)) => (op.to_owned(), rule.to_owned()),
        None => ("operation".to_owned(), text.to_owned()),
    }
}

struct Check<'c> {
    op: Op<'c>,
    violations: Vec<Violation>,
}

/// A value and what to call it.
#[derive(Clone, Copy)]
struct Named<'c> {
    value: Val<'c>,
    name: &'static str,
}

impl<'c> Check<'c> {
    fn report(&mut self, rule: Rule) {
        let (place, op) = (Place::of(self.op.location()), name_of(self.op));
        self.violations.push(Violation { place, op, rule });
    }

    fn one_block(&mut self) {
        let (regions, blocks) = (self.op.region_count(), blocks_of(self.op).len());
        // An `if` without an else has an empty second region.
        if blocks > regions {
            self.report(Rule::Blocks);
        }
    }

    fn operation(&mut self) {
        let name = name_of(self.op);
        let (dialect, short) = name.split_once('.').unwrap_or(("", &name));
        self.values();
        match dialect {
            "tile" => match TileOp::of(self.op) {
                Some(op) => self.tile_op(op),
                None => self.report(Rule::Attributes),
            },
            "arith" => self.arith(short),
            "math" => self.no_storage_types(),
            "scf" if matches!(short, "for" | "if" | "while" | "yield" | "condition") => self.one_block(),
            "func" if short == "return" => {}
            _ => self.report(Rule::Foreign),
        }
    }

    /// What holds for every result and block argument.
    fn values(&mut self) {
        let arguments = blocks_of(self.op).into_iter().flat_map(args_of);
        let values: Vec<_> = results_of(self.op).into_iter().chain(arguments).collect();
        for value in values {
            let ty = type_of(value);
            if view_of(ty).is_some() {
                if !matches!(TileOp::of(self.op), Some(TileOp::Slice { .. })) {
                    self.report(Rule::View);
                }
            } else if is_tile(ty) {
                self.tile_type(Named { value, name: "the result" });
            }
        }
    }

    fn tile_type(&mut self, tile: Named<'c>) {
        let ty = type_of(tile.value);
        let shape = shape_of(ty);
        if !shape.as_ref().is_some_and(|s| s.iter().all(|d| d.is_power_of_two())) {
            let shape = shape.map_or_else(|| ty.to_string(), |s| format!("{s:?}"));
            self.report(Rule::PowerOfTwo { value: tile.name.to_owned(), shape });
        }
        if dtype_of(ty).is_none_or(|d| matches!(d, DType::I64 | DType::Index)) {
            self.dtype_error(tile, "a tile's dtype");
        }
    }

    fn dtype_error(&mut self, value: Named<'c>, expected: &'static str) {
        let found = dtype_of(type_of(value.value))
            .map_or_else(|| type_of(value.value).to_string(), |d| d.to_string());
        self.report(Rule::DType { value: value.name.to_owned(), found, expected });
    }

    fn expect_dtype(&mut self, value: Named<'c>, expected: &'static str, holds: impl Fn(DType) -> bool) {
        if !dtype_of(type_of(value.value)).is_some_and(holds) {
            self.dtype_error(value, expected);
        }
    }

    fn expect_shape(&mut self, value: Named<'c>, expected: &[usize]) {
        let found = shape_of(type_of(value.value)).unwrap_or_default();
        if found != expected {
            self.report(Rule::Shape { value: value.name.to_owned(), found, expected: expected.to_vec() });
        }
    }

    fn result(&self) -> Named<'c> {
        Named { value: results_of(self.op)[0], name: "the result" }
    }

    /// f8 and f4 are storage types: arithmetic is not defined on them.
    fn no_storage_types(&mut self) {
        for value in operands_of(self.op).into_iter().chain(results_of(self.op)) {
            if dtype_of(type_of(value)).is_some_and(DType::is_storage_only) {
                return self.dtype_error(Named { value, name: "an operand" }, "a dtype with arithmetic");
            }
        }
    }

    fn arith(&mut self, name: &str) {
        if !matches!(name, "constant" | "select") {
            self.no_storage_types();
        }
    }

    fn tile_op(&mut self, op: TileOp<'c>) {
        match op {
            TileOp::ProgramId { axis } | TileOp::NumPrograms { axis } => self.axis(axis, 3),
            TileOp::Dim { view, axis } => {
                let rank = self.view(view).rank;
                self.axis(axis, rank);
            }
            TileOp::At { view, index } => {
                let crate::types::View { rank, dtype } = self.view(view);
                if index.len() != rank {
                    self.report(Rule::Rank { what: "the number of indices", found: index.len(), rank });
                }
                let element = self.result();
                if is_tile(type_of(element.value)) {
                    self.report(Rule::Kind { value: "the result".to_owned(), expected: "scalar" });
                }
                self.expect_dtype(element, "the tensor's", |d| d == dtype);
            }
            TileOp::Slice { view, axis, .. } => {
                let rank = self.view(view).rank;
                self.axis(axis, rank);
                if type_of(self.result().value) != type_of(view) {
                    self.dtype_error(self.result(), "the tensor's");
                }
            }
            TileOp::ArriveLast { view, index, .. } => {
                let crate::types::View { rank, dtype } = self.view(view);
                if index.len() != rank {
                    self.report(Rule::Rank { what: "the number of indices", found: index.len(), rank });
                }
                if dtype != DType::I32 {
                    self.report(Rule::DType {
                        value: "the tensor of counters".to_owned(),
                        found: dtype.to_string(),
                        expected: "i32",
                    });
                }
                self.writable(view);
            }
            TileOp::Check { .. } | TileOp::JoinParts { .. } => {}
            TileOp::Load { view, index } => {
                let tile = self.result();
                self.block(view, index.len(), tile);
            }
            TileOp::Store { view, index, value } => {
                self.block(view, index.len(), Named { value, name: "the stored tile" });
                self.writable(view);
            }
            TileOp::Gather { view, index, mask } => {
                let tile = self.result();
                self.elements(view, &index, tile, mask);
            }
            TileOp::Scatter { view, index, value, mask } => {
                self.elements(view, &index, Named { value, name: "the stored tile" }, mask);
                self.writable(view);
            }
            TileOp::Splat { scalar } => {
                if is_tile(type_of(scalar)) || dtype_of(type_of(scalar)).is_none() {
                    return self.report(Rule::Kind { value: "the operand".to_owned(), expected: "scalar" });
                }
                self.same_dtype(scalar);
            }
            TileOp::Iota => {
                let result = self.result();
                self.expect_dtype(result, "i32", |d| d == DType::I32);
                let found = shape_of(type_of(result.value)).unwrap_or_default();
                if found.len() != 1 {
                    let expected = vec![found.iter().product()];
                    self.report(Rule::Shape { value: "the result".to_owned(), found, expected });
                }
            }
            TileOp::Reshape { tile } => {
                self.same_dtype(tile);
                let from = shape_of(type_of(tile)).unwrap_or_default();
                let to = shape_of(type_of(self.result().value)).unwrap_or_default();
                if from.iter().product::<usize>() != to.iter().product::<usize>() {
                    self.report(Rule::ElementCount { from, to });
                }
            }
            TileOp::Broadcast { tile } => {
                self.same_dtype(tile);
                let from = shape_of(type_of(tile)).unwrap_or_default();
                let to = shape_of(type_of(self.result().value)).unwrap_or_default();
                let fits = from.len() == to.len() && from.iter().zip(&to).all(|(f, t)| f == t || *f == 1);
                if !fits {
                    self.report(Rule::Shape { value: "the result".to_owned(), found: to, expected: from });
                }
            }
            TileOp::Transpose { tile, perm } => {
                self.same_dtype(tile);
                let from = shape_of(type_of(tile)).unwrap_or_default();
                let mut sorted = perm.clone();
                sorted.sort_unstable();
                if sorted.into_iter().ne(0..from.len()) {
                    return self.report(Rule::Permutation { perm, rank: from.len() });
                }
                let expected: Vec<usize> = perm.iter().map(|&p| from[p]).collect();
                self.expect_shape(self.result(), &expected);
            }
            TileOp::Reduce { tile, axis, .. } => {
                self.same_dtype(tile);
                let operand = Named { value: tile, name: "the operand" };
                self.expect_dtype(operand, "f32, f16, bf16 or i32", |d| {
                    matches!(d, DType::F32 | DType::F16 | DType::BF16 | DType::I32)
                });
                let mut shape = shape_of(type_of(tile)).unwrap_or_default();
                self.axis(axis, shape.len());
                if let Some(size) = shape.get_mut(axis) {
                    *size = 1;
                    self.expect_shape(self.result(), &shape);
                }
            }
            TileOp::Mma { lhs, rhs, acc } => {
                self.expect_dtype(Named { value: lhs, name: "lhs" }, "f32, f16, bf16 or f8E4M3FN", |d| {
                    matches!(d, DType::F32 | DType::F16 | DType::BF16 | DType::F8E4M3FN)
                });
                self.mma(lhs, rhs, acc);
            }
            TileOp::MmaScaled { lhs, lhs_scales, rhs, rhs_scales, acc } => {
                self.expect_dtype(Named { value: lhs, name: "lhs" }, "f4E2M1FN", |d| d == DType::F4E2M1FN);
                self.mma(lhs, rhs, acc);
                self.scales(Named { value: lhs_scales, name: "lhs_scales" }, lhs, 1);
                self.scales(Named { value: rhs_scales, name: "rhs_scales" }, rhs, 0);
            }
            TileOp::Cast { value } => self.cast(value),
        }
    }

    fn axis(&mut self, axis: usize, limit: usize) {
        if axis >= limit {
            self.report(Rule::Axis { axis, limit });
        }
    }

    /// Rank and dtype of a view operand, which the dialect's definition guarantees.
    fn view(&self, view: Val<'c>) -> crate::types::View {
        view_of(type_of(view)).unwrap_or(crate::types::View { rank: 0, dtype: DType::F32 })
    }

    /// The result has the operand's dtype, and a tile's kind.
    fn same_dtype(&mut self, operand: Val<'c>) {
        if dtype_of(type_of(self.result().value)) != dtype_of(type_of(operand)) {
            self.dtype_error(self.result(), "the operand's");
        }
    }

    /// A block of a view: as many indices and tile dimensions as the view's, of its dtype.
    fn block(&mut self, view: Val<'c>, indices: usize, tile: Named<'c>) {
        let crate::types::View { rank, dtype } = self.view(view);
        if indices != rank {
            self.report(Rule::Rank { what: "the number of indices", found: indices, rank });
        }
        let tile_rank = shape_of(type_of(tile.value)).map_or(0, |s| s.len());
        if tile_rank != rank {
            self.report(Rule::Rank { what: "the tile's rank", found: tile_rank, rank });
        }
        self.expect_dtype(tile, "the tensor's", |d| d == dtype);
    }

    /// Elements of a view: one i32 index tile a dimension and a bool mask, all of the tile's shape.
    fn elements(&mut self, view: Val<'c>, index: &[Val<'c>], tile: Named<'c>, mask: Option<Val<'c>>) {
        let crate::types::View { rank, dtype } = self.view(view);
        if index.len() != rank {
            self.report(Rule::Rank { what: "the number of index tiles", found: index.len(), rank });
        }
        self.expect_dtype(tile, "the tensor's", |d| d == dtype);
        let shape = shape_of(type_of(tile.value)).unwrap_or_default();
        for &value in index {
            let index = Named { value, name: "an index tile" };
            self.expect_dtype(index, "i32", |d| d == DType::I32);
            self.expect_shape(index, &shape);
        }
        if let Some(value) = mask {
            let mask = Named { value, name: "the mask" };
            self.expect_dtype(mask, "bool", |d| d == DType::Bool);
            self.expect_shape(mask, &shape);
        }
    }

    fn writable(&mut self, view: Val<'c>) {
        if bool_attr_of_arg(root_view(view), "tile.mutable") == Some(false) {
            self.report(Rule::ReadOnly);
        }
    }

    fn mma(&mut self, lhs: Val<'c>, rhs: Val<'c>, acc: Val<'c>) {
        let named = [(lhs, "lhs"), (rhs, "rhs"), (acc, "acc")].map(|(value, name)| Named { value, name });
        let dtype = dtype_of(type_of(lhs));
        self.expect_dtype(named[1], "that of lhs", |d| Some(d) == dtype);
        self.expect_dtype(named[2], "f32", |d| d == DType::F32);
        let shapes: Vec<_> = named.iter().filter_map(|v| shape_of(type_of(v.value))).collect();
        let [lhs, rhs, acc] = &shapes[..] else { return };
        for (tile, shape) in named.iter().zip(&shapes) {
            if shape.len() != 2 {
                let expected = vec![1, shape.iter().product()];
                self.report(Rule::Shape { value: tile.name.to_owned(), found: shape.clone(), expected });
            }
        }
        let (&[m, lhs_k], &[rhs_k, n], [_, _]) = (&lhs[..], &rhs[..], &acc[..]) else { return };
        if lhs_k != rhs_k {
            self.report(Rule::InnerDims { lhs: lhs_k, rhs: rhs_k });
        }
        self.expect_shape(named[2], &[m, n]);
    }

    /// The scales of an operand: f8, one for 16 elements along dimension `summed`.
    fn scales(&mut self, scales: Named<'c>, operand: Val<'c>, summed: usize) {
        self.expect_dtype(scales, "f8E4M3FN", |d| d == DType::F8E4M3FN);
        let mut expected = shape_of(type_of(operand)).unwrap_or_default();
        if let Some(size) = expected.get_mut(summed) {
            *size /= 16;
        }
        self.expect_shape(scales, &expected);
    }

    fn cast(&mut self, value: Val<'c>) {
        let (operand, result) = (Named { value, name: "the operand" }, self.result());
        let (from, to) = (dtype_of(type_of(value)), dtype_of(type_of(result.value)));
        let fits = match (from, to) {
            (Some(DType::F32), Some(to)) => to.is_storage_only() || to.is_int(),
            (Some(from), Some(DType::F32 | DType::F16 | DType::BF16)) => from.is_storage_only(),
            _ => false,
        };
        if !fits {
            self.dtype_error(operand, "f32 to f8, f4 or an integer, or f8 or f4 to a wider float");
        }
        if is_tile(type_of(value)) != is_tile(type_of(result.value)) {
            return self
                .report(Rule::Kind { value: "the result".to_owned(), expected: "tile like the operand" });
        }
        self.expect_shape(result, &shape_of(type_of(value)).unwrap_or_default());
    }
}

/// Checks that the function's operations come from somewhere in the kernel's source: none has an unknown location.
pub fn ops_without_place(module: &Module) -> Vec<String> {
    ops_of(module.top())
        .chain(nested_ops(module.function()))
        .filter(|op| Place::of(op.location()).is_none())
        .map(name_of)
        .collect()
}
