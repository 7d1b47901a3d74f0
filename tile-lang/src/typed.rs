//! A checked kernel: every name resolved, every expression typed, helpers inlined.
//!
//! [`crate::check()`] makes it. With every size and dtype bound, all shapes are numbers and all const conditions
//! are folded, and `tile-ir` lowers it without further questions.

use crate::ast::{BinaryOp, UnaryOp};
use crate::diag::Span;
use crate::dim::Dim;
use crate::dtype::DType;

/// A checked kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// The kernel's name.
    pub name: String,
    /// Source files that spans index: the kernel's own first, then those of inlined helpers.
    pub files: Vec<String>,
    /// Arguments in order.
    pub params: Vec<Param>,
    /// Every variable, helpers' included.
    pub vars: Vec<Var>,
    /// The body.
    pub body: Vec<Stmt>,
}

impl Program {
    /// Leaves the checks out, as a launch that is not checked does.
    pub fn without_checks(mut self) -> Program {
        drop_checks(&mut self.body);
        self
    }
}

fn drop_checks(stmts: &mut Vec<Stmt>) {
    stmts.retain(|stmt| !matches!(stmt, Stmt::Check { .. }));
    stmts.iter_mut().flat_map(Stmt::blocks_mut).for_each(drop_checks);
}

/// Index into [`Program::vars`].
pub type VarId = usize;
/// Index into [`Program::params`].
pub type ParamId = usize;

/// A variable.
#[derive(Clone, Debug, PartialEq)]
pub struct Var {
    /// The name in the source, for messages.
    pub name: String,
    /// Its type; an assignment never changes it.
    pub ty: Type,
    /// Where it is bound.
    pub span: Span,
}

/// An argument.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// The name.
    pub name: String,
    /// What it is.
    pub kind: ParamKind,
    /// Where it is declared.
    pub span: Span,
}

/// What an argument is.
#[derive(Clone, Debug, PartialEq)]
pub enum ParamKind {
    /// A tensor view in global memory.
    Tensor {
        /// Element type.
        dtype: TypedDType,
        /// Number of dimensions.
        rank: usize,
        /// May be stored to.
        mutable: bool,
    },
    /// A scalar passed by value.
    Scalar(TypedDType),
}

/// A dtype, or a dtype parameter that is not bound yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TypedDType {
    /// Known.
    Known(DType),
    /// A dtype parameter, inside the macro.
    Param(String),
}

impl TypedDType {
    /// The dtype.
    ///
    /// # Panics
    /// When it is a parameter; a fully bound program has none.
    pub fn known(&self) -> DType {
        match self {
            TypedDType::Known(d) => *d,
            TypedDType::Param(p) => panic!("dtype parameter {p} is not bound"),
        }
    }
}

/// A tensor argument, or the part of one that slices leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The argument.
    pub param: ParamId,
    /// Each narrows what those before it leave.
    pub slices: Vec<Slice>,
}

impl View {
    /// The part that one more slice leaves.
    pub fn sliced(mut self, slice: Slice) -> View {
        self.slices.push(slice);
        self
    }
}

impl From<ParamId> for View {
    fn from(param: ParamId) -> View {
        View { param, slices: Vec::new() }
    }
}

/// `start..start + len` along one axis, cut off at the tensor's own end. The variables are assigned once, where
/// the slice is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The axis.
    pub axis: usize,
    /// The first place, an index scalar.
    pub start: VarId,
    /// How many places, an index scalar.
    pub len: VarId,
}

/// The type of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// A scalar.
    Scalar(TypedDType),
    /// A tile.
    Tile {
        /// Element type.
        dtype: TypedDType,
        /// Size of each dimension.
        shape: Vec<Dim>,
    },
    /// No value: a store, a loop.
    Unit,
}

impl Type {
    /// The dtype of a scalar or tile of a fully bound program.
    ///
    /// # Panics
    /// For [`Type::Unit`] and unbound dtypes.
    pub fn dtype(&self) -> DType {
        match self {
            Type::Scalar(d) | Type::Tile { dtype: d, .. } => d.known(),
            Type::Unit => panic!("no value has no dtype"),
        }
    }

    /// The shape of a tile of a fully bound program; empty for a scalar.
    ///
    /// # Panics
    /// When a dimension is still symbolic.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Type::Tile { shape, .. } => {
                shape.iter().map(|d| d.as_const().expect("every size is bound") as usize).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// A statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Stmt {
    /// Binds a variable.
    Let {
        /// The variable.
        var: VarId,
        /// Its value.
        value: Expr,
    },
    /// Gives a variable a new value of the same type.
    Assign {
        /// The variable.
        var: VarId,
        /// Its value.
        value: Expr,
    },
    /// Counts `var` from `lo` to `hi` (exclusive) by `step` (positive).
    For {
        /// The loop variable, a scalar of the bounds' type.
        var: VarId,
        /// First value.
        lo: Expr,
        /// One past the last.
        hi: Expr,
        /// The step.
        step: Expr,
        /// The body.
        body: Vec<Stmt>,
        /// Variables of outer blocks that the body assigns, in order of first assignment.
        carried: Vec<VarId>,
        /// Where it is.
        span: Span,
    },
    /// Repeats while the condition holds.
    While {
        /// Statements that the condition needs first (inlined helpers).
        before: Vec<Stmt>,
        /// A scalar bool.
        cond: Expr,
        /// The body.
        body: Vec<Stmt>,
        /// Variables of outer blocks that the body or `before` assigns.
        carried: Vec<VarId>,
        /// Where it is.
        span: Span,
    },
    /// Chooses at run time; a condition over const parameters alone is folded when they are bound.
    If {
        /// A scalar bool.
        cond: Expr,
        /// Taken when true.
        then: Vec<Stmt>,
        /// Taken when false.
        otherwise: Vec<Stmt>,
        /// Variables of outer blocks that either branch assigns; an `if` with a value assigns a fresh one.
        assigned: Vec<VarId>,
        /// Where it is.
        span: Span,
    },
    /// Stores a tile as one block: element `i` of the tile goes to `index * tile shape + i`; what falls outside
    /// the tensor is dropped.
    Store {
        /// A mutable tensor.
        tensor: View,
        /// Block indices, one a dimension, in tiles.
        index: Vec<Expr>,
        /// Rank of the tensor, dtype of the tensor.
        value: Expr,
        /// Where it is.
        span: Span,
    },
    /// Stores element by element: `value[i]` goes to `[index_0[i], index_1[i], ..]`; elements whose mask is
    /// false or whose index is out of bounds are dropped.
    Scatter {
        /// A mutable tensor.
        tensor: View,
        /// i32 tiles, one a dimension, that broadcast to the value's shape.
        index: Vec<Expr>,
        /// The elements.
        value: Expr,
        /// A bool tile that broadcasts to the value's shape.
        mask: Option<Expr>,
        /// Where it is.
        span: Span,
    },
    /// Arrives at a counter after all stores before it, and binds whether this program is the last of `count` to do
    /// so; false where the counter is outside the tensor. The last one sees what the others stored before.
    ArriveLast {
        /// The answer, a scalar bool.
        var: VarId,
        /// A mutable tensor of i32, as long as nothing else uses it: zeros before and after.
        tensor: View,
        /// The counter's coordinates, index scalars, one a dimension.
        index: Vec<Expr>,
        /// How many programs arrive there, an index scalar.
        count: Expr,
        /// Where it is.
        span: Span,
    },
    /// Stops a checked launch where the condition is false.
    Check {
        /// A scalar bool.
        cond: Expr,
        /// What the author says of it.
        message: String,
        /// Where it is.
        span: Span,
    },
}

/// A typed expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// What it computes.
    pub kind: ExprKind,
    /// Its type.
    pub ty: Type,
    /// Where it is.
    pub span: Span,
}

/// Elementwise functions of one operand, scalar or tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum UnaryMath {
    Exp,
    Exp2,
    Log,
    Log2,
    Sqrt,
    Rsqrt,
    Tanh,
    Abs,
}

/// Reductions along one dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum ReduceKind {
    Sum,
    Max,
    Min,
}

/// What an expression computes. Operands of elementwise operations already have one dtype and, except where
/// [`ExprKind::Broadcast`] says so, one shape: the checker inserts the broadcasts that NumPy's rules imply.
#[derive(Clone, Debug, PartialEq)]
pub enum ExprKind {
    /// A number; a float type's bits are those of the nearest value.
    Float(f64),
    /// A number, or a bool as 0 and 1.
    Int(i64),
    /// A const parameter that is not bound yet (inside the macro only).
    Const(String),
    /// A variable.
    Var(VarId),
    /// A scalar argument.
    Param(ParamId),
    /// `program_id(axis)`: index, axis 0 to 2.
    ProgramId(usize),
    /// `num_programs(axis)`: index.
    NumPrograms(usize),
    /// `t.dim(axis)`: index.
    TensorDim(View, usize),
    /// Arithmetic, comparison (bool result), bitwise and logical operators; `min`/`max` are [`ExprKind::MinMax`].
    /// Integer division and remainder truncate, as Rust's.
    Binary(BinaryOp, Box<Expr>, Box<Expr>),
    /// Division of floats, rounded to nearest where [`ExprKind::Binary`]'s may be approximate.
    DivRn(Box<Expr>, Box<Expr>),
    /// `minimum`, `maximum` (`true` for max): a NaN operand gives NaN.
    MinMax(bool, Box<Expr>, Box<Expr>),
    /// Negation or not.
    Unary(UnaryOp, Box<Expr>),
    /// A function of one operand.
    Math(UnaryMath, Box<Expr>),
    /// `a * b + c` rounded once.
    Fma(Box<Expr>, Box<Expr>, Box<Expr>),
    /// Elementwise choice; the condition is bool of the same shape.
    Select(Box<Expr>, Box<Expr>, Box<Expr>),
    /// Value conversion to the expression's dtype: round to nearest even; float to f8 and f4 saturates; float to
    /// int truncates.
    Cast(Box<Expr>),
    /// A tile with every element the scalar.
    Full(Box<Expr>),
    /// `[0, 1, .., n - 1]`, i32, rank 1.
    Iota,
    /// Same elements in row-major order.
    Reshape(Box<Expr>),
    /// NumPy broadcasting to the expression's shape, same rank: sizes of 1 are repeated.
    Broadcast(Box<Expr>),
    /// Dimension `i` of the result is dimension `perm[i]` of the operand.
    Transpose(Box<Expr>, Vec<usize>),
    /// Along `axis`, which stays with size 1. An f16 or bf16 sum is accumulated in f32 and rounded once.
    Reduce(ReduceKind, Box<Expr>, usize),
    /// lhs `[M, K]`, rhs `[K, N]`, acc `[M, N]`; acc is f32 (i32 is not supported).
    Mma(Box<Expr>, Box<Expr>, Box<Expr>),
    /// As [`ExprKind::Mma`], of 4-bit lhs and rhs with one scale for 16 elements along the summed dimension: lhs,
    /// its scales, rhs, its scales, acc.
    MmaScaled(Box<[Expr; 5]>),
    /// A block of a tensor: element `i` is at `index * tile shape + i`; outside the tensor it is zero.
    Load {
        /// The tensor.
        tensor: View,
        /// Block indices in tiles, index scalars, one a dimension.
        index: Vec<Expr>,
    },
    /// One element as a scalar: f32 of every float dtype; 0 outside the tensor.
    At {
        /// The tensor.
        tensor: View,
        /// Its coordinates, index scalars, one a dimension.
        index: Vec<Expr>,
    },
    /// Element by element; masked-off and out-of-bounds elements are zero.
    Gather {
        /// The tensor.
        tensor: View,
        /// i32 tiles of the result's shape, one a dimension.
        index: Vec<Expr>,
        /// A bool tile of the result's shape.
        mask: Option<Box<Expr>>,
    },
}

impl Expr {
    /// The operands, in order of evaluation.
    pub fn children(&self) -> Vec<&Expr> {
        use ExprKind as K;
        match &self.kind {
            K::Float(_)
            | K::Int(_)
            | K::Const(_)
            | K::Var(_)
            | K::Param(_)
            | K::ProgramId(_)
            | K::NumPrograms(_)
            | K::TensorDim(..)
            | K::Iota => Vec::new(),
            K::Binary(_, a, b) | K::DivRn(a, b) | K::MinMax(_, a, b) => vec![a, b],
            K::Unary(_, a)
            | K::Math(_, a)
            | K::Cast(a)
            | K::Full(a)
            | K::Reshape(a)
            | K::Broadcast(a)
            | K::Transpose(a, _)
            | K::Reduce(_, a, _) => vec![a],
            K::Fma(a, b, c) | K::Select(a, b, c) | K::Mma(a, b, c) => vec![a, b, c],
            K::MmaScaled(operands) => operands.iter().collect(),
            K::Load { index, .. } | K::At { index, .. } => index.iter().collect(),
            K::Gather { index, mask, .. } => index.iter().chain(mask.as_deref()).collect(),
        }
    }

    /// The operands, in order of evaluation.
    pub fn children_mut(&mut self) -> Vec<&mut Expr> {
        use ExprKind as K;
        match &mut self.kind {
            K::Float(_)
            | K::Int(_)
            | K::Const(_)
            | K::Var(_)
            | K::Param(_)
            | K::ProgramId(_)
            | K::NumPrograms(_)
            | K::TensorDim(..)
            | K::Iota => Vec::new(),
            K::Binary(_, a, b) | K::DivRn(a, b) | K::MinMax(_, a, b) => vec![a, b],
            K::Unary(_, a)
            | K::Math(_, a)
            | K::Cast(a)
            | K::Full(a)
            | K::Reshape(a)
            | K::Broadcast(a)
            | K::Transpose(a, _)
            | K::Reduce(_, a, _) => vec![a],
            K::Fma(a, b, c) | K::Select(a, b, c) | K::Mma(a, b, c) => vec![a, b, c],
            K::MmaScaled(operands) => operands.iter_mut().collect(),
            K::Load { index, .. } | K::At { index, .. } => index.iter_mut().collect(),
            K::Gather { index, mask, .. } => index.iter_mut().chain(mask.as_deref_mut()).collect(),
        }
    }
}

impl Stmt {
    /// The expressions of the statement itself, without those of nested blocks.
    pub fn exprs_mut(&mut self) -> Vec<&mut Expr> {
        match self {
            Stmt::Let { value, .. } | Stmt::Assign { value, .. } => vec![value],
            Stmt::For { lo, hi, step, .. } => vec![lo, hi, step],
            Stmt::While { cond, .. } | Stmt::If { cond, .. } | Stmt::Check { cond, .. } => vec![cond],
            Stmt::Store { index, value, .. } => index.iter_mut().chain([value]).collect(),
            Stmt::ArriveLast { index, count, .. } => index.iter_mut().chain([count]).collect(),
            Stmt::Scatter { index, value, mask, .. } => {
                index.iter_mut().chain([value]).chain(mask.as_mut()).collect()
            }
        }
    }

    /// The nested blocks, in order.
    pub fn blocks_mut(&mut self) -> Vec<&mut Vec<Stmt>> {
        match self {
            Stmt::For { body, .. } => vec![body],
            Stmt::While { before, body, .. } => vec![before, body],
            Stmt::If { then, otherwise, .. } => vec![then, otherwise],
            _ => Vec::new(),
        }
    }
}
