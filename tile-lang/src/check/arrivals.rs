//! What holds of arrivals: a program makes at most one, and nothing else touches the counters.
//!
//! A second arrival of one program would be taken for another program's. Kernels that keep to this leave every
//! counter at zero, as they found it.

use super::Checker;
use crate::diag::{Diagnostic, Span};
use crate::typed::{Expr, ExprKind, ParamId, Stmt, View};

/// Where a kernel arrives and what else it does to tensors.
#[derive(Default)]
struct Uses {
    arrivals: Vec<(ParamId, Span)>,
    others: Vec<(ParamId, Span)>,
    mistakes: Vec<Diagnostic>,
}

impl Checker<'_> {
    /// Reports arrivals that break the rules.
    pub(super) fn check_arrivals(&mut self, body: &[Stmt]) {
        let mut uses = Uses::default();
        uses.block(body, false);
        let mut mistakes = uses.mistakes;
        if let [(_, first), second @ ..] = &uses.arrivals[..] {
            mistakes.extend(second.iter().map(|(_, span)| {
                Diagnostic::new(*span, "a kernel arrives once; this is another `arrive_last`")
                    .note(*first, "the first is here")
            }));
        }
        for (counters, arrival) in &uses.arrivals {
            let name = &self.params[*counters].name;
            mistakes.extend(uses.others.iter().filter(|(param, _)| param == counters).map(|(_, span)| {
                Diagnostic::new(
                    *span,
                    format!("`{name}` counts arrivals; a kernel does nothing else with such a tensor"),
                )
                .note(*arrival, "its programs arrive here")
            }));
        }
        for mistake in mistakes {
            self.report(mistake);
        }
    }
}

impl Uses {
    fn block(&mut self, stmts: &[Stmt], in_loop: bool) {
        for stmt in stmts {
            self.stmt(stmt, in_loop);
        }
    }

    fn stmt(&mut self, stmt: &Stmt, in_loop: bool) {
        match stmt {
            Stmt::Let { value, .. } | Stmt::Assign { value, .. } => self.expr(value),
            Stmt::For { lo, hi, step, body, .. } => {
                [lo, hi, step].into_iter().for_each(|e| self.expr(e));
                self.block(body, true);
            }
            Stmt::While { before, cond, body, .. } => {
                self.block(before, true);
                self.expr(cond);
                self.block(body, true);
            }
            Stmt::If { cond, then, otherwise, .. } => {
                self.expr(cond);
                self.block(then, in_loop);
                self.block(otherwise, in_loop);
            }
            Stmt::Store { tensor, index, value, span } => {
                self.others.push((tensor.param, *span));
                index.iter().chain([value]).for_each(|e| self.expr(e));
            }
            Stmt::Scatter { tensor, index, value, mask, span } => {
                self.others.push((tensor.param, *span));
                index.iter().chain([value]).chain(mask).for_each(|e| self.expr(e));
            }
            Stmt::ArriveLast { tensor, index, count, span, .. } => {
                self.arrival(tensor, in_loop, *span);
                index.iter().chain([count]).for_each(|e| self.expr(e));
            }
            Stmt::Check { cond, .. } => self.expr(cond),
        }
    }

    fn arrival(&mut self, tensor: &View, in_loop: bool, span: Span) {
        self.arrivals.push((tensor.param, span));
        if in_loop {
            self.mistakes.push(
                Diagnostic::new(span, "`arrive_last` is in a loop; a program arrives once")
                    .help("arrive behind the loop, when everything is stored"),
            );
        }
        if !tensor.slices.is_empty() {
            self.mistakes.push(Diagnostic::new(
                span,
                "`arrive_last` takes the tensor of counters itself, not a part of it",
            ));
        }
    }

    fn expr(&mut self, expr: &Expr) {
        if let ExprKind::Load { tensor, .. } | ExprKind::At { tensor, .. } | ExprKind::Gather { tensor, .. } =
            &expr.kind
        {
            self.others.push((tensor.param, expr.span));
        }
        expr.children().into_iter().for_each(|e| self.expr(e));
    }
}
