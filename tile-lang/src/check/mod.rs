//! Syntax tree to typed program.
//!
//! Input: a function, its helpers, and what is bound. Output: a [`typed::Program`], or every mistake found, each
//! at the place it was made. Names are resolved, literals typed by their use, helpers inlined with their own
//! places kept, broadcasts made explicit. With everything bound, conditions over const parameters are folded
//! and only the live branch is checked.

mod arrivals;
mod calls;
mod elementwise;
mod exprs;
mod konst;
mod methods;
mod settle;
mod shapes;
mod stmts;
mod tensors;
mod value;

use crate::ast::{ConstKind, DTypeBound, DTypeExpr, Function, FunctionKind, Param, TypeExpr};
use crate::config::Bindings;
use crate::diag::{Diagnostic, Span};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::typed::{self, ExprKind, ParamKind, Program, TypedDType, VarId};
use std::collections::HashMap;
use value::{Literal, Ty, Value, unknown_dtype};

/// How much is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Sizes and dtypes may stay parameters, and helpers may be missing: their values are unknown, and no error
    /// follows from them.
    Symbolic,
    /// Every size and dtype is bound and every helper at hand.
    Bound,
}

/// Finds the helper that a caller names by a path.
pub type Helpers<'a> = dyn Fn(&'a Function, &str) -> Option<&'a Function> + 'a;

/// Checks a kernel, or a helper by itself, with its helpers inlined.
///
/// # Errors
/// Every mistake found, in the order of the source.
pub fn check<'a>(
    function: &'a Function,
    helpers: &'a Helpers<'a>,
    bind: &Bindings,
    mode: Mode,
) -> Result<Program, Vec<Diagnostic>> {
    check_among(vec![function.file.clone()], function, helpers, bind, mode)
}

/// [`check`] with the files that places index, the function's own first; helpers in others are added.
pub(crate) fn check_among<'a>(
    files: Vec<String>,
    function: &'a Function,
    helpers: &'a Helpers<'a>,
    bind: &Bindings,
    mode: Mode,
) -> Result<Program, Vec<Diagnostic>> {
    let mut checker = Checker {
        mode,
        helpers,
        diagnostics: Vec::new(),
        files,
        params: Vec::new(),
        vars: Vec::new(),
        frames: Vec::new(),
        out: Vec::new(),
        literals: Vec::new(),
        bounds: function.dtype_params.iter().map(|p| (p.name.clone(), p.bound)).collect(),
    };
    checker.enter(function, bind);
    let value = checker.block(&function.body);
    checker.returned(function, &value);
    checker.finish(function)
}

/// A name in scope.
#[derive(Clone, Debug)]
struct Local {
    value: Value,
    /// The variable that assignments go to.
    var: Option<VarId>,
    span: Span,
}

/// The function being checked: the kernel, or a helper inlined into it.
struct Frame<'a> {
    function: &'a Function,
    file: u32,
    scopes: Vec<HashMap<String, Local>>,
    dtypes: HashMap<String, TypedDType>,
    /// The call, in the caller's file.
    call: Span,
}

struct Checker<'a> {
    mode: Mode,
    helpers: &'a Helpers<'a>,
    diagnostics: Vec<Diagnostic>,
    files: Vec<String>,
    params: Vec<typed::Param>,
    vars: Vec<typed::Var>,
    frames: Vec<Frame<'a>>,
    /// Statements of the block being checked.
    out: Vec<typed::Stmt>,
    literals: Vec<Literal>,
    bounds: HashMap<String, DTypeBound>,
}

impl<'a> Checker<'a> {
    /// Binds the parameters of the outermost function.
    fn enter(&mut self, function: &'a Function, bind: &Bindings) {
        let mut frame = Frame {
            function,
            file: 0,
            scopes: vec![HashMap::new()],
            dtypes: HashMap::new(),
            call: function.span,
        };
        for param in &function.dtype_params {
            let dtype = self.bound_dtype(param, bind);
            frame.dtypes.insert(param.name.clone(), dtype);
        }
        self.frames.push(frame);
        for param in &function.const_params {
            let dtype = const_dtype(param.kind);
            let konst = match bind.consts.get(&param.name) {
                Some(&value) => {
                    self.check_bound_const(param, value);
                    Dim::constant(value)
                }
                None => {
                    if self.mode == Mode::Bound {
                        self.error(param.span, format!("const parameter `{}` has no value", param.name));
                    }
                    Dim::symbol(&param.name)
                }
            };
            let node = ExprKind::Const(param.name.clone());
            let value = Value::scalar(dtype, node, param.span).with_konst(Some(konst));
            self.declare(&param.name, Local { value, var: None, span: param.span });
        }
        if self.mode == Mode::Bound {
            for name in bind.consts.keys().filter(|n| function.const_params.iter().all(|p| p.name != **n)) {
                self.error(function.span, format!("`{}` has no const parameter `{name}`", function.name));
            }
        }
        for param in &function.params {
            self.enter_param(function, param);
        }
        if function.kind == FunctionKind::Kernel {
            self.diagnostics.extend(crate::space::validate(function));
        }
    }

    fn bound_dtype(&mut self, param: &crate::ast::DTypeParam, bind: &Bindings) -> TypedDType {
        let Some(&dtype) = bind.dtypes.get(&param.name) else {
            if self.mode == Mode::Bound {
                let message = format!("dtype parameter `{}` has no value", param.name);
                self.diagnostics.push(Diagnostic::new(param.span, message));
            }
            return TypedDType::Param(param.name.clone());
        };
        let allowed = param.bound.dtypes();
        if !allowed.contains(&dtype) {
            let names: Vec<_> = allowed.iter().map(|d| d.name()).collect();
            let message =
                format!("dtype parameter `{}` is {dtype}; expected one of {}", param.name, names.join(", "));
            self.diagnostics.push(Diagnostic::new(param.span, message));
        }
        dtype.into()
    }

    fn check_bound_const(&mut self, param: &crate::ast::ConstParam, value: i64) {
        let expected = match param.kind {
            ConstKind::Bool if !(0..=1).contains(&value) => "true or false (1 or 0)",
            ConstKind::Size if value < 0 => "a size of 0 or more",
            _ => return,
        };
        self.error(param.span, format!("const parameter `{}` is {value}; expected {expected}", param.name));
    }

    fn enter_param(&mut self, function: &'a Function, param: &'a Param) {
        let value = match &param.ty {
            TypeExpr::Tensor { dtype, rank, mutable } => {
                let dtype = self.dtype(dtype, param.span);
                let kind = ParamKind::Tensor { dtype, rank: *rank, mutable: *mutable };
                let id = self.push_param(param, kind);
                Value::new(Ty::Tensor(id.into()), ExprKind::Param(id), param.span)
            }
            TypeExpr::Scalar(dtype) => {
                let dtype = self.dtype(dtype, param.span);
                let allowed = [DType::F32, DType::I32, DType::I64, DType::Index, DType::Bool];
                let known = matches!(&dtype, TypedDType::Known(d) if allowed.contains(d));
                if function.kind == FunctionKind::Kernel && !known {
                    let message = format!(
                        "scalar parameter `{}` is `{}`; a kernel's scalars are f32, i32, i64, usize or bool",
                        param.name,
                        self.dtype_name(&dtype)
                    );
                    self.error(param.span, message);
                }
                let id = self.push_param(param, ParamKind::Scalar(dtype.clone()));
                Value::scalar(dtype, ExprKind::Param(id), param.span)
            }
            TypeExpr::Tile(dtype) => {
                let dtype = self.dtype(dtype, param.span);
                let ty = Ty::Tile(dtype, None);
                let var = self.new_var(&param.name, &ty, param.span);
                Value::new(ty, ExprKind::Var(var), param.span)
            }
        };
        self.declare(&param.name, Local { value, var: None, span: param.span });
    }

    fn push_param(&mut self, param: &Param, kind: ParamKind) -> usize {
        self.params.push(typed::Param { name: param.name.clone(), kind, span: param.span });
        self.params.len() - 1
    }

    /// Compares a function's value with its declared return types.
    fn returned(&mut self, function: &'a Function, value: &Value) {
        let parts: Vec<&Value> = match &value.ty {
            Ty::Unknown => return,
            Ty::Unit => Vec::new(),
            Ty::Tuple(parts) => parts.iter().collect(),
            _ => vec![value],
        };
        if parts.len() != function.returns.len() {
            let message = format!(
                "`{}` is declared to return {}; its last expression gives {}",
                function.name,
                count(function.returns.len()),
                self.describe(&value.ty)
            );
            self.error(if parts.is_empty() { self.place(function.span) } else { value.span }, message);
            return;
        }
        for (part, declared) in parts.into_iter().zip(&function.returns) {
            self.expect_type(part, declared, "the returned value");
        }
    }

    /// The dtype that a name of the source stands for in the current function.
    fn dtype(&mut self, dtype: &DTypeExpr, span: Span) -> TypedDType {
        match dtype {
            DTypeExpr::Known(d) => (*d).into(),
            DTypeExpr::Param(name) => match self.frame().dtypes.get(name) {
                Some(dtype) => dtype.clone(),
                None => {
                    self.error(
                        span,
                        format!("`{name}` is no dtype parameter of `{}`", self.frame().function.name),
                    );
                    unknown_dtype()
                }
            },
        }
    }

    fn frame(&self) -> &Frame<'a> {
        self.frames.last().expect("a function is being checked")
    }

    fn frame_mut(&mut self) -> &mut Frame<'a> {
        self.frames.last_mut().expect("a function is being checked")
    }

    /// A place of the current function among all files.
    fn place(&self, span: Span) -> Span {
        Span { file: self.frame().file, ..span }
    }

    fn declare(&mut self, name: &str, local: Local) {
        let scope = self.frame_mut().scopes.last_mut().expect("a scope is open");
        scope.insert(name.to_owned(), local);
    }

    fn new_var(&mut self, name: &str, ty: &Ty, span: Span) -> VarId {
        self.vars.push(typed::Var { name: name.to_owned(), ty: ty.typed(), span });
        self.vars.len() - 1
    }

    /// Reports a mistake; inside a helper, with the calls that lead to it.
    fn report(&mut self, mut diagnostic: Diagnostic) {
        for frame in self.frames.iter().skip(1).rev() {
            diagnostic = diagnostic.note(frame.call, format!("in this call of `{}`", frame.function.name));
        }
        if !self.diagnostics.contains(&diagnostic) {
            self.diagnostics.push(diagnostic);
        }
    }

    fn error(&mut self, span: Span, message: impl Into<String>) {
        self.report(Diagnostic::new(span, message));
    }

    fn error_help(&mut self, span: Span, message: impl Into<String>, help: impl Into<String>) {
        self.report(Diagnostic::new(span, message).help(help));
    }
}

/// The dtype of a const parameter.
fn const_dtype(kind: ConstKind) -> DType {
    match kind {
        ConstKind::Size => DType::Index,
        ConstKind::Bool => DType::Bool,
    }
}

/// `nothing`, `1 value`, `2 values`.
fn count(values: usize) -> String {
    match values {
        0 => "nothing".to_owned(),
        1 => "1 value".to_owned(),
        n => format!("{n} values"),
    }
}
