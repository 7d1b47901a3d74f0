//! What an expression is to the checker: its type as far as known, the tree that computes it, its const value.

use super::Checker;
use crate::ast::DTypeBound;
use crate::diag::Span;
use crate::dim::Dim;
use crate::dtype::DType;
use crate::typed::{self, ExprKind, Type, TypedDType, VarId};

/// A type as far as it is known.
#[derive(Clone, Debug)]
pub(super) enum Ty {
    /// Nothing is known: a mistake was reported, or a helper is not at hand. No error follows from it.
    Unknown,
    /// No value.
    Unit,
    /// A scalar.
    Scalar(TypedDType),
    /// A tile; helper arguments have no known shape inside the macro.
    Tile(TypedDType, Option<Vec<Dim>>),
    /// A tensor argument, or a part of one.
    Tensor(typed::View),
    /// Several values.
    Tuple(Vec<Value>),
}

/// A checked expression.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub ty: Ty,
    pub node: ExprKind,
    pub span: Span,
    /// The value, where it depends on const parameters alone; bools are 0 and 1.
    pub konst: Option<Dim>,
}

impl Value {
    pub fn new(ty: Ty, node: ExprKind, span: Span) -> Value {
        Value { ty, node, span, konst: None }
    }

    pub fn unknown(span: Span) -> Value {
        Value::new(Ty::Unknown, ExprKind::Int(0), span)
    }

    pub fn unit(span: Span) -> Value {
        Value::new(Ty::Unit, ExprKind::Int(0), span)
    }

    pub fn scalar(dtype: impl Into<TypedDType>, node: ExprKind, span: Span) -> Value {
        Value::new(Ty::Scalar(dtype.into()), node, span)
    }

    pub fn tile(dtype: impl Into<TypedDType>, shape: Vec<Dim>, node: ExprKind, span: Span) -> Value {
        Value::new(Ty::Tile(dtype.into(), Some(shape)), node, span)
    }

    pub fn with_konst(mut self, konst: Option<Dim>) -> Value {
        self.konst = konst;
        self
    }

    pub fn is_unknown(&self) -> bool {
        matches!(self.ty, Ty::Unknown)
    }

    /// The shape of a tile, where known.
    pub fn shape(&self) -> Option<&[Dim]> {
        match &self.ty {
            Ty::Tile(_, shape) => shape.as_deref(),
            _ => None,
        }
    }

    /// The typed tree; a value that is a number becomes that number.
    pub fn expr(self) -> typed::Expr {
        let number = match self.ty {
            Ty::Scalar(_) => self.konst.as_ref().and_then(Dim::as_const),
            _ => None,
        };
        let kind = number.map_or(self.node, ExprKind::Int);
        typed::Expr { kind, ty: self.ty.typed(), span: self.span }
    }

    pub fn boxed(self) -> Box<typed::Expr> {
        Box::new(self.expr())
    }

    /// A read of a variable that holds this value's type.
    pub fn read(&self, var: VarId, span: Span) -> Value {
        Value { ty: self.ty.clone(), node: ExprKind::Var(var), span, konst: None }
    }
}

impl Ty {
    /// As the typed tree says it; what has no value or no known shape is [`Type::Unit`].
    pub fn typed(&self) -> Type {
        match self {
            Ty::Scalar(dtype) => Type::Scalar(dtype.clone()),
            Ty::Tile(dtype, Some(shape)) => Type::Tile { dtype: dtype.clone(), shape: shape.clone() },
            _ => Type::Unit,
        }
    }
}

impl From<DType> for TypedDType {
    fn from(dtype: DType) -> Self {
        TypedDType::Known(dtype)
    }
}

/// A literal, or an unbound dtype of a helper, until its use decides its dtype. In types it is the dtype
/// parameter `?n`, a name no Rust parameter can have; `?` alone is a dtype nothing is known of.
pub(super) struct Literal {
    /// Written with a point or exponent.
    pub float: bool,
    /// What its use made of it.
    pub decided: Option<TypedDType>,
    pub span: Span,
}

/// The dtype nothing is known of.
pub(super) fn unknown_dtype() -> TypedDType {
    TypedDType::Param("?".to_owned())
}

fn literal_index(dtype: &TypedDType) -> Option<usize> {
    match dtype {
        TypedDType::Param(name) => name.strip_prefix('?')?.parse().ok(),
        TypedDType::Known(_) => None,
    }
}

/// What arithmetic a dtype takes part in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Float,
    Int,
    Bool,
    /// f8, f4, and a dtype parameter bound by `Factor`.
    Storage,
    /// A dtype parameter bound by `Element`.
    Any,
    Unknown,
}

impl Checker<'_> {
    /// The dtype of a literal that its use has yet to decide.
    pub fn literal_dtype(&mut self, float: bool, span: Span) -> TypedDType {
        self.literals.push(Literal { float, decided: None, span });
        TypedDType::Param(format!("?{}", self.literals.len() - 1))
    }

    /// Follows literals to what was decided for them.
    pub fn resolve(&self, dtype: &TypedDType) -> TypedDType {
        match literal_index(dtype).and_then(|i| self.literals[i].decided.as_ref()) {
            Some(decided) => self.resolve(decided),
            None => dtype.clone(),
        }
    }

    /// Makes two dtypes one; `None` when they differ.
    pub fn unify(&mut self, a: &TypedDType, b: &TypedDType) -> Option<TypedDType> {
        let (a, b) = (self.resolve(a), self.resolve(b));
        if a == b {
            return Some(a);
        }
        match (literal_index(&a), literal_index(&b)) {
            (Some(i), Some(j)) if self.literals[i].float == self.literals[j].float => {
                self.literals[j].decided = Some(a.clone());
                Some(a)
            }
            (Some(_), Some(_)) => None,
            (Some(i), None) => self.decide(i, b),
            (None, Some(j)) => self.decide(j, a),
            (None, None) if a == unknown_dtype() => Some(b),
            (None, None) if b == unknown_dtype() => Some(a),
            (None, None) => None,
        }
    }

    fn decide(&mut self, literal: usize, dtype: TypedDType) -> Option<TypedDType> {
        let float = self.literals[literal].float;
        let fits = match &dtype {
            TypedDType::Known(d) => {
                if float {
                    *d == DType::F32
                } else {
                    d.is_int()
                }
            }
            TypedDType::Param(p) => p == "?",
        };
        fits.then(|| self.literals[literal].decided = Some(dtype.clone()))?;
        Some(dtype)
    }

    /// What arithmetic a dtype takes part in.
    pub fn class(&self, dtype: &TypedDType) -> Class {
        let dtype = self.resolve(dtype);
        if let Some(i) = literal_index(&dtype) {
            return if self.literals[i].float { Class::Float } else { Class::Int };
        }
        match &dtype {
            TypedDType::Known(d) if d.is_storage_only() => Class::Storage,
            TypedDType::Known(DType::Bool) => Class::Bool,
            TypedDType::Known(d) if d.is_float() => Class::Float,
            TypedDType::Known(_) => Class::Int,
            TypedDType::Param(p) => match self.bounds.get(p) {
                Some(DTypeBound::Float) => Class::Float,
                Some(DTypeBound::Factor) => Class::Storage,
                Some(DTypeBound::Element) => Class::Any,
                None => Class::Unknown,
            },
        }
    }

    /// The dtype of scalars that stand beside tiles of `dtype`.
    pub fn scalar_of(&self, dtype: &TypedDType) -> TypedDType {
        match (self.class(dtype), self.resolve(dtype)) {
            (Class::Float | Class::Storage, _) => DType::F32.into(),
            (Class::Int | Class::Bool, resolved) => resolved,
            _ => unknown_dtype(),
        }
    }

    /// A dtype in the words of the source.
    pub fn dtype_name(&self, dtype: &TypedDType) -> String {
        let dtype = self.resolve(dtype);
        match (&dtype, literal_index(&dtype)) {
            (_, Some(i)) if self.literals[i].float => "a float literal".to_owned(),
            (_, Some(_)) => "an integer literal".to_owned(),
            (TypedDType::Known(d), _) => d.rust_name().to_owned(),
            (TypedDType::Param(p), _) => p.clone(),
        }
    }

    /// A type in the words of the source: `Tile<f32> [TILE_M, 1]`.
    pub fn describe(&self, ty: &Ty) -> String {
        match ty {
            Ty::Unknown => "unknown".to_owned(),
            Ty::Unit => "nothing".to_owned(),
            Ty::Scalar(dtype) => self.dtype_name(dtype),
            Ty::Tile(dtype, None) => format!("Tile<{}>", self.dtype_name(dtype)),
            Ty::Tile(dtype, Some(shape)) => format!("Tile<{}> {}", self.dtype_name(dtype), shape_text(shape)),
            Ty::Tensor(view) => match &self.params[view.param].kind {
                typed::ParamKind::Tensor { dtype, rank, mutable } => {
                    let name = if *mutable { "TensorMut" } else { "Tensor" };
                    format!("{name}<{}, {rank}>", self.dtype_name(dtype))
                }
                typed::ParamKind::Scalar(dtype) => self.dtype_name(dtype),
            },
            Ty::Tuple(parts) => {
                let parts: Vec<_> = parts.iter().map(|p| self.describe(&p.ty)).collect();
                format!("({})", parts.join(", "))
            }
        }
    }
}

/// `[TILE_M, TILE_K]`.
pub(super) fn shape_text(shape: &[Dim]) -> String {
    let dims: Vec<_> = shape.iter().map(Dim::to_string).collect();
    format!("[{}]", dims.join(", "))
}
