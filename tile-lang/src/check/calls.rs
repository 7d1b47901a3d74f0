//! Calls: the language's functions, and helpers, which are inlined.

use super::value::{Class, Ty, Value, shape_text, unknown_dtype};
use super::{Checker, Frame, Local, Mode, const_dtype};
use crate::ast::{DTypeExpr, Expr, Function, GenericArg, TypeExpr};
use crate::builtins::{self, Builtin, On};
use crate::diag::{Diagnostic, Span};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::typed::{self, ExprKind, ParamKind, TypedDType};
use std::collections::HashMap;

impl<'a> Checker<'a> {
    /// `path::<generics>(args)`.
    pub(super) fn call(
        &mut self,
        path: &'a str,
        generics: &'a [GenericArg],
        args: &'a [Expr],
        span: Span,
    ) -> Value {
        let name = path.rsplit("::").next().unwrap_or(path);
        let caller = self.frame().function;
        if let Some(helper) = (self.helpers)(caller, path) {
            return self.helper(helper, generics, args, span);
        }
        let qualified = path != name && !path.starts_with("tile::");
        match builtins::find(On::Nothing, name).filter(|_| !qualified) {
            Some(builtin) => {
                if self.counts(builtin, generics, args, span) {
                    self.function(name, generics, args, span)
                } else {
                    Value::unknown(span)
                }
            }
            None => self.unknown_call(path, name, args, span),
        }
    }

    /// A function that is no operation of the language: inside the macro it may be a helper of the user's.
    fn unknown_call(&mut self, path: &str, name: &str, args: &'a [Expr], span: Span) -> Value {
        if self.mode == Mode::Bound {
            let mut diagnostic =
                Diagnostic::new(span, format!("`{path}` is not a function that kernels can call"));
            diagnostic.help =
                builtins::suggest(On::Nothing, name).or_else(|| Some("mark it with #[tile_fn]".to_owned()));
            self.report(diagnostic);
        }
        self.survey(args);
        Value::unknown(span)
    }

    /// Checks the number of arguments and of dtypes.
    pub(super) fn counts(
        &mut self,
        builtin: &Builtin,
        generics: &'a [GenericArg],
        args: &'a [Expr],
        span: Span,
    ) -> bool {
        let signature = builtin.signature();
        if args.len() != builtin.args.len() {
            let (want, found) = (builtin.args.len(), args.len());
            let plural = if want == 1 { "" } else { "s" };
            let message = format!("`{}` takes {want} argument{plural}; found {found}", builtin.name);
            self.error_help(span, message, format!("call it as `{signature}`"));
            self.survey(args);
            return false;
        }
        if !builtin.dtype && !generics.is_empty() {
            let message = format!("`{}` takes nothing between `::<` and `>`", builtin.name);
            self.error_help(span, message, format!("call it as `{signature}`"));
            return false;
        }
        true
    }

    /// The one dtype between `::<` and `>`.
    pub(super) fn generic_dtype(
        &mut self,
        generics: &'a [GenericArg],
        what: &str,
        span: Span,
    ) -> Option<TypedDType> {
        match generics {
            [GenericArg::DType(dtype)] => Some(self.dtype(dtype, span)),
            [GenericArg::Const(Expr { kind: crate::ast::ExprKind::Name(name), .. })] => {
                let known: Vec<&str> = self
                    .frame()
                    .dtypes
                    .keys()
                    .map(String::as_str)
                    .chain(DType::ALL.map(DType::rust_name))
                    .collect();
                let help = crate::nearest(name, known)
                    .map_or("name a dtype or a dtype parameter".to_owned(), |near| {
                        format!("did you mean `{near}`?")
                    });
                self.error_help(span, format!("`{what}`: `{name}` is no dtype"), help);
                None
            }
            _ => {
                let call = if what == "cast" {
                    "`.cast::<f32>()`".to_owned()
                } else {
                    format!("`{what}::<f32>(..)`")
                };
                self.error_help(span, format!("`{what}` needs a dtype"), format!("name it: {call}"));
                None
            }
        }
    }

    fn function(&mut self, name: &str, generics: &'a [GenericArg], args: &'a [Expr], span: Span) -> Value {
        match name {
            "program_id" | "num_programs" => match self.axis(&args[0], 3, name) {
                Some(axis) if name == "program_id" => {
                    Value::scalar(DType::Index, ExprKind::ProgramId(axis), span)
                }
                Some(axis) => Value::scalar(DType::Index, ExprKind::NumPrograms(axis), span),
                None => Value::scalar(DType::Index, ExprKind::Int(0), span),
            },
            "cdiv" => {
                let [a, b] = self.exprs([&args[0], &args[1]]);
                self.ceil_div(name, a, b, span)
            }
            "zeros" | "ones" | "full" => self.filled(name, generics, args, span),
            "iota" => match self.tile_dim(&args[0]) {
                Some(n) => Value::tile(DType::I32, vec![n], ExprKind::Iota, span),
                None => Value::unknown(span),
            },
            "mma" => {
                let [lhs, rhs, acc] = self.exprs([&args[0], &args[1], &args[2]]);
                self.mma(lhs, rhs, acc, span)
            }
            "mma_scaled" => {
                let operands = self.exprs([&args[0], &args[1], &args[2], &args[3], &args[4]]);
                self.mma_scaled(operands, span)
            }
            "div_rn" => {
                let [a, b] = self.exprs([&args[0], &args[1]]);
                self.div_rn(a, b, span)
            }
            "maximum" | "minimum" => {
                let [a, b] = self.exprs([&args[0], &args[1]]);
                self.extremum(name, a, b, span)
            }
            "select" => {
                let [mask, a, b] = self.exprs([&args[0], &args[1], &args[2]]);
                self.select(mask, a, b, span)
            }
            "fma" => {
                let [a, b, c] = self.exprs([&args[0], &args[1], &args[2]]);
                self.fma(vec![("a", a), ("b", b), ("c", c)], span)
            }
            "check" => self.check_call(&args[0], &args[1], span),
            _ => Value::unknown(span),
        }
    }

    /// `check(cond, "message")`.
    fn check_call(&mut self, cond: &'a Expr, message: &'a Expr, span: Span) -> Value {
        let cond = self.condition(cond);
        let crate::ast::ExprKind::Text(message) = &message.kind else {
            let place = self.place(message.span);
            self.error_help(place, "the message of `check` is a string literal", "write it out: `\"..\"`");
            return Value::unit(span);
        };
        if !cond.is_unknown() {
            self.out.push(typed::Stmt::Check { cond: cond.expr(), message: message.clone(), span });
        }
        Value::unit(span)
    }

    /// `zeros`, `ones` and `full`.
    fn filled(&mut self, name: &str, generics: &'a [GenericArg], args: &'a [Expr], span: Span) -> Value {
        let dtype = self.generic_dtype(generics, name, span);
        let shape = self.shape(&args[0], name);
        let value = args.get(1).map(|v| self.expr(v));
        let (Some(dtype), Some(shape)) = (dtype, shape) else { return Value::unknown(span) };
        if matches!(dtype, TypedDType::Known(DType::I64 | DType::Index)) {
            let found = self.dtype_name(&dtype);
            self.error(span, format!("`{name}`: {found} is a type of scalars; tiles of integers are i32"));
            return Value::unknown(span);
        }
        let expected = match self.class(&dtype) {
            Class::Any | Class::Unknown => DType::F32.into(),
            _ => self.scalar_of(&dtype),
        };
        let value = match value {
            Some(value) => {
                let fine = match &value.ty {
                    Ty::Unknown => return Value::new(Ty::Tile(dtype, Some(shape)), ExprKind::Int(0), span),
                    Ty::Scalar(found) => self.unify(found, &expected).is_some(),
                    _ => false,
                };
                if !fine && self.class(&dtype) != Class::Any {
                    let (want, found) = (self.dtype_name(&expected), self.describe(&value.ty));
                    let tile = self.dtype_name(&dtype);
                    let message =
                        format!("`full`: a Tile<{tile}> is filled with a scalar {want}; found {found}");
                    self.error(value.span, message);
                    return Value::unknown(span);
                }
                value
            }
            None => {
                let number = i32::from(name == "ones");
                let node = match self.class(&dtype) {
                    Class::Int | Class::Bool => ExprKind::Int(number.into()),
                    _ => ExprKind::Float(number.into()),
                };
                let dtype = if self.class(&dtype) == Class::Float { dtype.clone() } else { expected };
                Value::scalar(dtype, node, span)
            }
        };
        let some = Some(shape);
        let expr = self.stretch(value, &dtype, &some);
        Value::new(Ty::Tile(dtype, some), expr.kind, span)
    }

    fn mma(&mut self, lhs: Value, rhs: Value, acc: Value, span: Span) -> Value {
        if lhs.is_unknown() || rhs.is_unknown() || acc.is_unknown() {
            return if matches!(acc.ty, Ty::Tile(..)) { Value { span, ..acc } } else { Value::unknown(span) };
        }
        let (Ty::Tile(a, a_shape), Ty::Tile(b, b_shape), Ty::Tile(c, c_shape)) = (&lhs.ty, &rhs.ty, &acc.ty)
        else {
            let found = [&lhs, &rhs, &acc].map(|v| self.describe(&v.ty));
            let message = format!(
                "`mma` takes three tiles; lhs is {}, rhs is {}, acc is {}",
                found[0], found[1], found[2]
            );
            self.error(span, message);
            return Value::unknown(span);
        };
        let (a, b, c) = (a.clone(), b.clone(), c.clone());
        let (a_name, b_name) = (self.dtype_name(&a), self.dtype_name(&b));
        let Some(dtype) = self.unify(&a, &b) else {
            let message =
                format!("`mma`: lhs is Tile<{a_name}>, rhs is Tile<{b_name}>; both must have one dtype");
            self.error_help(span, message, format!("convert one with `.cast::<{a_name}>()`"));
            return Value::unknown(span);
        };
        if !self.takes("mma", &[Class::Float, Class::Storage], &dtype, span) {
            return Value::unknown(span);
        }
        if self.resolve(&dtype) == DType::F4E2M1FN.into() {
            self.error_help(
                span,
                "`mma` takes f32, f16, bf16 or f8E4M3FN; found f4E2M1FN",
                "convert it first: `.cast::<f16>()`",
            );
            return Value::unknown(span);
        }
        if self.unify(&c, &DType::F32.into()).is_none() {
            let found = self.dtype_name(&c);
            self.error_help(
                acc.span,
                format!("`mma` accumulates in f32; acc is Tile<{found}>"),
                "make it `zeros::<f32>([..])`",
            );
            return Value::unknown(span);
        }
        let (Some(a), Some(b), Some(c)) = (a_shape.clone(), b_shape.clone(), c_shape.clone()) else {
            return Value { span, ..acc };
        };
        let result = Value::tile(DType::F32, c.clone(), ExprKind::Int(0), span);
        if let Some(diagnostic) = mma_mistake(&a, &b, &c, span) {
            self.report(diagnostic);
            return result;
        }
        Value { node: ExprKind::Mma(lhs.boxed(), rhs.boxed(), acc.boxed()), ..result }
    }

    /// `mma_scaled`: lhs, its scales, rhs, its scales, acc.
    fn mma_scaled(&mut self, operands: [Value; 5], span: Span) -> Value {
        const NAMES: [&str; 5] = ["lhs", "lhs_scales", "rhs", "rhs_scales", "acc"];
        const DTYPES: [DType; 5] =
            [DType::F4E2M1FN, DType::F8E4M3FN, DType::F4E2M1FN, DType::F8E4M3FN, DType::F32];
        let acc = &operands[4];
        let unknown =
            if matches!(acc.ty, Ty::Tile(..)) { Value { span, ..acc.clone() } } else { Value::unknown(span) };
        if operands.iter().any(Value::is_unknown) {
            return unknown;
        }
        for ((value, name), dtype) in operands.iter().zip(NAMES).zip(DTYPES) {
            if !self.is_tile_of(value, dtype, &format!("`{name}` of `mma_scaled`")) {
                return unknown;
            }
        }
        let shapes: Option<Vec<Vec<Dim>>> = operands.iter().map(|v| v.shape().map(<[Dim]>::to_vec)).collect();
        let Some(shapes) = shapes else { return unknown };
        let result = Value::tile(DType::F32, shapes[4].clone(), ExprKind::Int(0), span);
        let mistake = mma_mistake(&shapes[0], &shapes[2], &shapes[4], span)
            .or_else(|| scales_mistake(&shapes[0], &shapes[1], 1, "lhs", span))
            .or_else(|| scales_mistake(&shapes[2], &shapes[3], 0, "rhs", span));
        if let Some(diagnostic) = mistake {
            self.report(diagnostic);
            return result;
        }
        Value { node: ExprKind::MmaScaled(Box::new(operands.map(Value::expr))), ..result }
    }

    /// Inlines a helper: its parameters become variables, its statements go to the current list.
    fn helper(
        &mut self,
        function: &'a Function,
        generics: &'a [GenericArg],
        args: &'a [Expr],
        span: Span,
    ) -> Value {
        if self.frames.iter().any(|f| std::ptr::eq(f.function, function)) {
            self.error(
                span,
                format!("`{}` calls itself; tile functions are inlined and cannot recurse", function.name),
            );
            return Value::unknown(span);
        }
        if args.len() != function.params.len() {
            let (want, found) = (function.params.len(), args.len());
            self.error(span, format!("`{}` takes {want} arguments; found {found}", function.name));
            self.survey(args);
            return Value::unknown(span);
        }
        let values = self.expr_list(args);
        let Some((mut dtypes, consts)) = self.generic_args(function, generics, span) else {
            return Value::unknown(span);
        };
        for (param, value) in function.params.iter().zip(&values) {
            if !self.fits(function, param, value, &mut dtypes) {
                return Value::unknown(span);
            }
        }
        for param in &function.dtype_params {
            dtypes.entry(param.name.clone()).or_insert_with(unknown_dtype);
        }
        let file = self.files.iter().position(|f| *f == function.file).unwrap_or_else(|| {
            self.files.push(function.file.clone());
            self.files.len() - 1
        });
        let scopes = vec![HashMap::new()];
        self.frames.push(Frame { function, file: file as u32, scopes, dtypes, call: span });
        for (param, value) in function.const_params.iter().zip(consts) {
            let span = self.place(param.span);
            self.declare(&param.name, Local { value, var: None, span });
        }
        for (param, value) in function.params.iter().zip(values) {
            let span = self.place(param.span);
            let mut local = self.variable(&param.name, false, value, span);
            local.var = None;
            self.declare(&param.name, local);
        }
        let value = self.block(&function.body);
        self.returned(function, &value);
        self.frames.pop();
        Value { span, ..value }
    }

    /// The dtypes and consts that a call of a helper names.
    fn generic_args(
        &mut self,
        function: &'a Function,
        generics: &'a [GenericArg],
        span: Span,
    ) -> Option<(HashMap<String, TypedDType>, Vec<Value>)> {
        let mut dtypes = HashMap::new();
        let mut consts = Vec::new();
        let mut dtype_params = function.dtype_params.iter();
        for generic in generics {
            match generic {
                GenericArg::DType(dtype) => {
                    let dtype = self.dtype(dtype, span);
                    if let Some(param) = dtype_params.next() {
                        dtypes.insert(param.name.clone(), dtype);
                    }
                }
                GenericArg::Infer => {
                    dtype_params.next();
                }
                GenericArg::Const(expr) => consts.push(self.expr(expr)),
            }
        }
        if consts.len() != function.const_params.len() {
            let (want, found) = (function.const_params.len(), consts.len());
            self.error(
                span,
                format!("`{}` has {want} const parameters; the call names {found}", function.name),
            );
            return None;
        }
        for (param, value) in function.const_params.iter().zip(&consts) {
            let expected = const_dtype(param.kind);
            let fits = match &value.ty {
                Ty::Unknown => return None,
                Ty::Scalar(d) => value.konst.is_some() && self.unify(d, &expected.into()).is_some(),
                _ => false,
            };
            if !fits {
                let found = self.describe(&value.ty);
                let name = expected.rust_name();
                self.error(
                    value.span,
                    format!(
                        "const parameter `{}` takes a {name} known before run time; found {found}",
                        param.name
                    ),
                );
                return None;
            }
        }
        Some((dtypes, consts))
    }

    /// Whether an argument fits a helper's parameter; dtype parameters take the argument's dtype.
    fn fits(
        &mut self,
        function: &'a Function,
        param: &'a crate::ast::Param,
        value: &Value,
        dtypes: &mut HashMap<String, TypedDType>,
    ) -> bool {
        let found = match (&param.ty, &value.ty) {
            (_, Ty::Unknown) => return true,
            (TypeExpr::Scalar(_), Ty::Scalar(d)) | (TypeExpr::Tile(_), Ty::Tile(d, _)) => Some(d.clone()),
            (TypeExpr::Tensor { rank, mutable, .. }, Ty::Tensor(view)) => match &self.params[view.param].kind
            {
                ParamKind::Tensor { dtype, rank: r, mutable: m } if r == rank && (*m || !mutable) => {
                    Some(dtype.clone())
                }
                _ => None,
            },
            _ => None,
        };
        let (TypeExpr::Scalar(declared)
        | TypeExpr::Tile(declared)
        | TypeExpr::Tensor { dtype: declared, .. }) = &param.ty;
        let fits = match (found, declared) {
            (None, _) => false,
            (Some(found), DTypeExpr::Known(d)) => self.unify(&found, &(*d).into()).is_some(),
            (Some(found), DTypeExpr::Param(name)) => match dtypes.get(name).cloned() {
                Some(bound) => self.unify(&found, &bound).is_some(),
                None => {
                    dtypes.insert(name.clone(), found);
                    true
                }
            },
        };
        if !fits {
            let found = self.describe(&value.ty);
            let expected = type_text(&param.ty);
            let message =
                format!("`{}`: argument `{}` is {found}; expected {expected}", function.name, param.name);
            self.error(value.span, message);
        }
        fits
    }
}

/// A declared type as written.
fn type_text(ty: &TypeExpr) -> String {
    let dtype = |d: &DTypeExpr| match d {
        DTypeExpr::Known(d) => d.rust_name().to_owned(),
        DTypeExpr::Param(p) => p.clone(),
    };
    match ty {
        TypeExpr::Tensor { dtype: d, rank, mutable: false } => format!("Tensor<{}, {rank}>", dtype(d)),
        TypeExpr::Tensor { dtype: d, rank, mutable: true } => format!("TensorMut<{}, {rank}>", dtype(d)),
        TypeExpr::Tile(d) => format!("Tile<{}>", dtype(d)),
        TypeExpr::Scalar(d) => dtype(d),
    }
}

/// Elements of a 4-bit operand that share a scale.
const SCALED_GROUP: i64 = 16;

/// What is wrong with the shape of an operand's scales, of which there is one for 16 elements along `summed`.
fn scales_mistake(
    operand: &[Dim],
    scales: &[Dim],
    summed: usize,
    name: &str,
    span: Span,
) -> Option<Diagnostic> {
    let other = 1 - summed;
    let fits = |expected: &Dim, found: &Dim| expected == found || expected.is_opaque() || found.is_opaque();
    let rank = scales.len() == 2;
    let groups = |d: &Dim| Dim::constant(SCALED_GROUP) * d.clone();
    if rank && fits(&operand[other], &scales[other]) && fits(&operand[summed], &groups(&scales[summed])) {
        return None;
    }
    let message = format!(
        "`mma_scaled`: {name} is {}, its scales are {}; expected one scale for {SCALED_GROUP} elements of dimension {summed}",
        shape_text(operand),
        shape_text(scales)
    );
    Some(Diagnostic::new(span, message))
}

/// What is wrong with the shapes of an `mma`.
fn mma_mistake(a: &[Dim], b: &[Dim], c: &[Dim], span: Span) -> Option<Diagnostic> {
    let (a_text, b_text, c_text) = (shape_text(a), shape_text(b), shape_text(c));
    let ([m, k], [k2, n], [m2, n2]) = (a, b, c) else {
        let message = format!(
            "`mma`: lhs is {a_text}, rhs is {b_text}, acc is {c_text}; expected three tiles of rank 2"
        );
        return Some(Diagnostic::new(span, message).help("drop dimensions of size 1 with `.reshape([..])`"));
    };
    let differ = |x: &Dim, y: &Dim| x != y && !x.is_opaque() && !y.is_opaque();
    if differ(k, k2) {
        let message =
            format!("`mma`: lhs is {a_text}, rhs is {b_text}; inner dimensions {k} and {k2} differ");
        let help = if k == n {
            format!("transpose the rhs with `.t()`, which makes it [{n}, {k2}]")
        } else if m == k2 {
            format!("transpose the lhs with `.t()`, which makes it [{k}, {m}]")
        } else {
            "the second dimension of the lhs and the first of the rhs are summed over".to_owned()
        };
        return Some(Diagnostic::new(span, message).help(help));
    }
    if differ(m, m2) || differ(n, n2) {
        let message = format!(
            "`mma`: lhs is {a_text}, rhs is {b_text}, acc is {c_text}; expected acc to be [{m}, {n}]"
        );
        return Some(Diagnostic::new(span, message));
    }
    None
}
