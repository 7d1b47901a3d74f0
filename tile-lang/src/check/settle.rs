//! The end of a check: literals get their types, and the program is put together.

use super::value::unknown_dtype;
use super::{Checker, Mode};
use crate::ast::Function;
use crate::diag::Diagnostic;
use crate::dtype::DType;
use crate::typed::{self, Program, Stmt, Type, TypedDType};

impl Checker<'_> {
    /// Decides what is undecided, and gives the program or the mistakes.
    pub(super) fn finish(mut self, function: &Function) -> Result<Program, Vec<Diagnostic>> {
        self.default_literals();
        let mut body = std::mem::take(&mut self.out);
        self.check_arrivals(&body);
        for stmt in &mut body {
            self.settle_stmt(stmt);
        }
        let mut vars = std::mem::take(&mut self.vars);
        for var in &mut vars {
            self.settle_type(&mut var.ty);
        }
        if !self.diagnostics.is_empty() {
            self.diagnostics.sort_by_key(|d| d.span);
            return Err(self.diagnostics);
        }
        Ok(Program { name: function.name.clone(), files: self.files, params: self.params, vars, body })
    }

    /// Integers that nothing types are i32, as in Rust; floats would be f64, which kernels do not have.
    fn default_literals(&mut self) {
        // A literal left over by another mistake is no mistake of its own.
        let clean = self.diagnostics.is_empty();
        for i in 0..self.literals.len() {
            if self.literals[i].decided.is_some() {
                continue;
            }
            let float = self.literals[i].float;
            let dtype = if float { DType::F32 } else { DType::I32 };
            self.literals[i].decided = Some(dtype.into());
            if float && clean && self.mode == Mode::Symbolic {
                let span = self.literals[i].span;
                self.diagnostics.push(
                    Diagnostic::new(span, "expected f32; nothing types this literal, and Rust makes it f64")
                        .help("write the type: `1.0f32`, or `let x: f32 = 1.0;`"),
                );
            }
        }
    }

    fn settle_stmt(&self, stmt: &mut Stmt) {
        for expr in stmt.exprs_mut() {
            self.settle_expr(expr);
        }
        for block in stmt.blocks_mut() {
            for stmt in block {
                self.settle_stmt(stmt);
            }
        }
    }

    fn settle_expr(&self, expr: &mut typed::Expr) {
        self.settle_type(&mut expr.ty);
        for child in expr.children_mut() {
            self.settle_expr(child);
        }
    }

    fn settle_type(&self, ty: &mut Type) {
        if let Type::Scalar(dtype) | Type::Tile { dtype, .. } = ty
            && matches!(dtype, TypedDType::Param(p) if p.starts_with('?'))
        {
            *dtype = self.resolve(dtype);
            if matches!(dtype, TypedDType::Param(p) if p.starts_with('?')) {
                *dtype = unknown_dtype();
            }
        }
    }
}
