//! The syntax tree that `#[tile_kernel]` and `#[tile_fn]` record.
//!
//! It keeps what the kernel's author wrote, unresolved: names are strings, calls are paths. The macro embeds
//! it as JSON; [`crate::check()`] gives it meaning.

use crate::diag::Span;
use crate::dtype::DType;
use serde::{Deserialize, Serialize};

/// A `#[tile_kernel]` or `#[tile_fn]` function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Function {
    /// The Rust name.
    pub name: String,
    /// The source file, as the compiler names it.
    pub file: String,
    /// Kernel (has tensors and launches) or helper (is inlined).
    pub kind: FunctionKind,
    /// Dtype parameters in order: `T: Float`.
    pub dtype_params: Vec<DTypeParam>,
    /// Const parameters in order: `const TILE_M: usize`.
    pub const_params: Vec<ConstParam>,
    /// Arguments in order.
    pub params: Vec<Param>,
    /// Types of the returned values: none for a kernel, one or more (a tuple) for a helper.
    pub returns: Vec<TypeExpr>,
    /// The body.
    pub body: Block,
    /// The declared tuning space; empty for helpers.
    pub tune: TuneSpace,
    /// The whole item.
    pub span: Span,
}

/// What a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FunctionKind {
    /// `#[tile_kernel]`.
    Kernel,
    /// `#[tile_fn]`.
    Helper,
}

/// `T: Float`, with the dtypes the bound allows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DTypeParam {
    /// The Rust name.
    pub name: String,
    /// `Float` (f32, f16, bf16), `Factor` (those and f8E4M3FN), `Element` (any dtype).
    pub bound: DTypeBound,
    /// Where it is declared.
    pub span: Span,
}

/// The trait that bounds a dtype parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DTypeBound {
    /// f32, f16, bf16.
    Float,
    /// What products multiply: f32, f16, bf16, f8E4M3FN.
    Factor,
    /// Any dtype a tensor can hold: f32, f16, bf16, i32, bool, f8E4M3FN, f4E2M1FN.
    Element,
}

impl DTypeBound {
    /// The dtypes that satisfy the bound.
    pub fn dtypes(self) -> &'static [DType] {
        match self {
            DTypeBound::Float => &[DType::F32, DType::F16, DType::BF16],
            DTypeBound::Factor => &[DType::F32, DType::F16, DType::BF16, DType::F8E4M3FN],
            DTypeBound::Element => &[
                DType::F32,
                DType::F16,
                DType::BF16,
                DType::I32,
                DType::Bool,
                DType::F8E4M3FN,
                DType::F4E2M1FN,
            ],
        }
    }
}

/// `const NAME: usize` or `const NAME: bool`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConstParam {
    /// The Rust name.
    pub name: String,
    /// `usize` or `bool`.
    pub kind: ConstKind,
    /// Where it is declared.
    pub span: Span,
}

/// The type of a const parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConstKind {
    /// A size; a power of two wherever it is a tile dimension.
    Size,
    /// A switch, folded at instantiation.
    Bool,
}

/// An argument.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Param {
    /// The Rust name.
    pub name: String,
    /// Its declared type.
    pub ty: TypeExpr,
    /// Where it is declared.
    pub span: Span,
}

/// A type as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TypeExpr {
    /// `Tensor<T, 2>` or `TensorMut<T, 2>`.
    Tensor {
        /// Element type.
        dtype: DTypeExpr,
        /// Number of dimensions.
        rank: usize,
        /// `TensorMut`.
        mutable: bool,
    },
    /// `Tile<f32>`; its shape is inferred.
    Tile(DTypeExpr),
    /// `f32`, `i32`, `usize`, `bool`, or a dtype parameter as a scalar.
    Scalar(DTypeExpr),
}

/// A dtype as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DTypeExpr {
    /// A dtype by name.
    Known(DType),
    /// A dtype parameter.
    Param(String),
}

/// Statements and, where the block ends without a semicolon, its value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// The statements in order.
    pub stmts: Vec<Stmt>,
    /// The tail expression.
    pub value: Option<Box<Expr>>,
}

/// A statement and its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stmt {
    /// What it does.
    pub kind: StmtKind,
    /// Where it is.
    pub span: Span,
}

/// The statements of the language.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum StmtKind {
    /// `let a = e;`, `let mut a: f32 = e;`, `let (a, b) = e;`; the name `_` binds nothing.
    Let {
        /// Bound names: one, or several for a tuple pattern.
        names: Vec<Binding>,
        /// A declared type.
        ty: Option<TypeExpr>,
        /// The initial value.
        value: Expr,
    },
    /// `a = e;` or, with an operator, `a += e;`; several targets for `(a, b) = e;`.
    Assign {
        /// Assigned variables.
        targets: Vec<(String, Span)>,
        /// The operator of a compound assignment.
        op: Option<BinaryOp>,
        /// The new value.
        value: Expr,
    },
    /// `for v in lo..hi { .. }`, with `.step_by(s)` as the step.
    For {
        /// The loop variable.
        var: Binding,
        /// First value.
        lo: Expr,
        /// One past the last value.
        hi: Expr,
        /// The step, 1 when absent.
        step: Option<Expr>,
        /// The body; it has no value.
        body: Block,
    },
    /// `while c { .. }`.
    While {
        /// Scalar condition.
        cond: Expr,
        /// The body; it has no value.
        body: Block,
    },
    /// An expression for its effect: a store, an `if` without a value, a helper call.
    Expr(Expr),
}

/// A name bound by `let` or `for`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The name.
    pub name: String,
    /// `let mut`.
    pub mutable: bool,
    /// Where it is.
    pub span: Span,
}

/// An expression and its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expr {
    /// What it computes.
    pub kind: ExprKind,
    /// Where it is.
    pub span: Span,
}

/// The expressions of the language.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ExprKind {
    /// `1`, `1usize`, `0x10i32`.
    Int(i64, Option<DType>),
    /// `1.0`, `1.0f32`, and paths such as `f32::NEG_INFINITY`, `std::f32::consts::LOG2_E`.
    Float(#[serde(with = "exact_float")] f64, Option<DType>),
    /// `true`.
    Bool(bool),
    /// `"a message"`.
    Text(String),
    /// A variable, parameter or const parameter.
    Name(String),
    /// `a + b`.
    Binary(BinaryOp, Box<Expr>, Box<Expr>),
    /// `-a`, `!a`.
    Unary(UnaryOp, Box<Expr>),
    /// `e as usize`.
    Cast(Box<Expr>, DTypeExpr),
    /// `zeros::<f32>([M, N])`, `cdiv(a, b)`, `helper::<64>(x)`.
    Call {
        /// The called path, as written.
        path: String,
        /// Dtype and const arguments between `::<` and `>`.
        generics: Vec<GenericArg>,
        /// Arguments.
        args: Vec<Expr>,
    },
    /// `a.load([m, k], [TILE_M, TILE_K])`, `x.cast::<T>()`.
    Method {
        /// The receiver.
        receiver: Box<Expr>,
        /// The method's name.
        name: String,
        /// Where the name is.
        name_span: Span,
        /// Dtype and const arguments.
        generics: Vec<GenericArg>,
        /// Arguments without the receiver.
        args: Vec<Expr>,
    },
    /// `[a, b]`.
    Array(Vec<Expr>),
    /// `(a, b)`.
    Tuple(Vec<Expr>),
    /// `if c { .. } else { .. }`, as a statement or a value.
    If {
        /// Scalar condition.
        cond: Box<Expr>,
        /// Taken when true.
        then: Block,
        /// Taken when false; empty when absent.
        otherwise: Block,
    },
    /// `{ .. }`.
    Block(Block),
}

/// A generic argument of a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum GenericArg {
    /// A dtype.
    DType(DTypeExpr),
    /// A const expression: a literal, a const parameter, or a braced expression.
    Const(Expr),
    /// `_`, for a dtype that a helper's arguments show.
    Infer,
}

/// Binary operators; `And`, `Or`, `Xor` are bitwise on integers and logical on bools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Rem,
    And,
    Or,
    Xor,
    Shl,
    Shr,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// `&&`: scalars only.
    AndAnd,
    /// `||`: scalars only.
    OrOr,
}

impl BinaryOp {
    /// The result on numbers, bools as 0 and 1; `None` on overflow and division by zero.
    pub fn fold(self, a: i64, b: i64) -> Option<i64> {
        Some(match self {
            BinaryOp::Add => a.checked_add(b)?,
            BinaryOp::Sub => a.checked_sub(b)?,
            BinaryOp::Mul => a.checked_mul(b)?,
            BinaryOp::Div => a.checked_div(b)?,
            BinaryOp::Rem => a.checked_rem(b)?,
            BinaryOp::And | BinaryOp::AndAnd => a & b,
            BinaryOp::Or | BinaryOp::OrOr => a | b,
            BinaryOp::Xor => a ^ b,
            BinaryOp::Shl => a.checked_shl(b.try_into().ok()?)?,
            BinaryOp::Shr => a.checked_shr(b.try_into().ok()?)?,
            BinaryOp::Eq => (a == b).into(),
            BinaryOp::Ne => (a != b).into(),
            BinaryOp::Lt => (a < b).into(),
            BinaryOp::Le => (a <= b).into(),
            BinaryOp::Gt => (a > b).into(),
            BinaryOp::Ge => (a >= b).into(),
        })
    }
}

/// Unary operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum UnaryOp {
    /// `-a`.
    Neg,
    /// `!a`.
    Not,
}

/// The declared tuning space of a kernel: `tune(TILE_M in [64, 128], num_stages in [2, 3] where TILE_M <= 128)`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TuneSpace {
    /// Each axis: a const parameter or a launch option, and its candidates.
    pub axes: Vec<TuneAxis>,
    /// Scalar conditions over axes and const parameters; a candidate must satisfy all.
    pub constraints: Vec<Expr>,
}

/// One axis of a tuning space.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TuneAxis {
    /// A const parameter (`TILE_M`) or a launch option, one of [`Config::LAUNCH_OPTIONS`](crate::Config).
    pub name: String,
    /// Candidates in the order written; bools are 0 and 1. The first is the default.
    pub values: Vec<i64>,
    /// Where it is declared.
    pub span: Span,
}

/// Floats as strings: JSON numbers can neither say infinity nor promise to come back bit for bit.
mod exact_float {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
