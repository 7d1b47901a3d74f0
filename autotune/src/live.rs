//! How many registers hold tiles at once, read off the kernel alone.
//!
//! Tiles are followed from where they are made to where they are last read. Elementwise chains go element by element
//! and hold no whole tile, so that only places count where one is needed: reductions and products. Tiles that products
//! read out of shared memory take no registers, and neither do constants, which are made again where they are used, nor
//! what is made of loads on the way to a product alone, such as widened weights: of that, warps make a piece at a time,
//! and warpgroups the whole operand.

use crate::footprint::registers_of;
use crate::work::{is_tile, operands};
use codegen_ptx::layout::wgmma;
use std::collections::{BTreeSet, HashMap};
use tile_lang::typed::{Expr, ExprKind, Program, Stmt, VarId};

/// Registers of all threads of a CTA that hold tiles at once, at the place where they are most, by who multiplies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveRegisters {
    /// Where warps do.
    pub by_warps: usize,
    /// Where warpgroups do what they can.
    pub by_groups: usize,
}

/// Counts them, of a program whose products read `operands` as they are and what is [`on_the_way`] to them.
pub(crate) fn live_registers(
    program: &Program,
    operands: &BTreeSet<VarId>,
    on_the_way: &BTreeSet<VarId>,
) -> LiveRegisters {
    let most = |has_wgmma| {
        let mut scan = Scan { registers: HashMap::new(), operands, on_the_way, has_wgmma, most: 0 };
        scan.define(&program.body);
        scan.block(&program.body, &mut BTreeSet::new());
        scan.most
    };
    LiveRegisters { by_warps: most(false), by_groups: most(true) }
}

/// Variables whose tiles are made of loads, and read by nothing but others of them and operands of products.
pub(crate) fn on_the_way(program: &Program) -> BTreeSet<VarId> {
    let mut found = BTreeSet::new();
    for_each_stmt(&program.body, &mut |stmt| match stmt {
        Stmt::Let { var, value } if is_tile(&value.ty) && is_of_loads(value, &found) => {
            found.insert(*var);
        }
        Stmt::Assign { var, .. } => {
            found.remove(var);
        }
        _ => {}
    });
    loop {
        let mut read_otherwise = BTreeSet::new();
        for_each_stmt(&program.body, &mut |stmt| match stmt {
            Stmt::Let { var, .. } if found.contains(var) => {}
            _ => values(stmt).into_iter().for_each(|value| read_apart(value, &found, &mut read_otherwise)),
        });
        let known = found.len();
        found.retain(|var| !read_otherwise.contains(var));
        if found.len() == known {
            return found;
        }
    }
}

/// Whether a value is computed, element by element, of loads and of variables of `made`.
pub(crate) fn is_of_loads(expr: &Expr, made: &BTreeSet<VarId>) -> bool {
    match &expr.kind {
        ExprKind::Reduce(..) | ExprKind::Mma(..) | ExprKind::MmaScaled(_) => false,
        ExprKind::Var(var) => !is_tile(&expr.ty) || made.contains(var),
        _ => operands(expr).into_iter().all(|e| is_of_loads(e, made)),
    }
}

/// The variables that an expression reads apart from operands of products that are computed of `made`.
fn read_apart(expr: &Expr, made: &BTreeSet<VarId>, read: &mut BTreeSet<VarId>) {
    match &expr.kind {
        ExprKind::Var(var) => {
            read.insert(*var);
        }
        ExprKind::Mma(lhs, rhs, acc) => {
            let apart = [lhs, rhs].into_iter().filter(|e| !is_of_loads(e, made));
            apart.chain([acc]).for_each(|e| read_apart(e, made, read));
        }
        _ => operands(expr).into_iter().for_each(|e| read_apart(e, made, read)),
    }
}

/// Variables that products read as they are, but for their shape.
pub(crate) fn product_operands(stmts: &[Stmt]) -> BTreeSet<VarId> {
    let mut found = BTreeSet::new();
    for_each_expr(stmts, &mut |expr| {
        if let ExprKind::Mma(lhs, rhs, _) = &expr.kind {
            found.extend([lhs, rhs].into_iter().filter_map(|operand| variable(operand)));
        }
    });
    found
}

struct Scan<'a> {
    /// What each variable takes at most.
    registers: HashMap<VarId, usize>,
    /// Variables that products read as they are.
    operands: &'a BTreeSet<VarId>,
    /// Variables that are nothing but on the way from loads to products.
    on_the_way: &'a BTreeSet<VarId>,
    /// Whether warpgroups multiply what they can.
    has_wgmma: bool,
    most: usize,
}

impl Scan<'_> {
    /// What each variable takes, from all that is assigned to it.
    fn define(&mut self, stmts: &[Stmt]) {
        for stmt in stmts {
            match stmt {
                Stmt::Let { var, value } | Stmt::Assign { var, value } => {
                    let in_smem = is_load(value) && self.operands.contains(var);
                    let taken = if in_smem || self.on_the_way.contains(var) { 0 } else { self.taken(value) };
                    let most = self.registers.entry(*var).or_default();
                    *most = taken.max(*most);
                }
                _ => bodies(stmt).into_iter().for_each(|body| self.define(body)),
            }
        }
    }

    /// Registers of an expression's value, were it kept.
    fn taken(&self, expr: &Expr) -> usize {
        match &expr.kind {
            ExprKind::Reshape(a) | ExprKind::Broadcast(a) | ExprKind::Transpose(a, _) => self.taken(a),
            ExprKind::Var(var) => self.registers.get(var).copied().unwrap_or_default(),
            _ if self.is_constant(expr) => 0,
            _ => registers_of(&expr.ty),
        }
    }

    /// True for what is cheaper to make again than to keep.
    fn is_constant(&self, expr: &Expr) -> bool {
        match &expr.kind {
            _ if !is_tile(&expr.ty) => true,
            ExprKind::Full(_) | ExprKind::Iota => true,
            ExprKind::Var(var) => {
                let is_made = self.operands.contains(var) || self.on_the_way.contains(var);
                self.registers.get(var) == Some(&0) && !is_made
            }
            ExprKind::Load { .. } | ExprKind::Gather { .. } => false,
            _ => expr.children().into_iter().all(|e| self.is_constant(e)),
        }
    }

    fn held(&mut self, live: &BTreeSet<VarId>, beside: usize) {
        let held: usize = live.iter().filter_map(|var| self.registers.get(var)).sum();
        self.most = self.most.max(held + beside);
    }

    /// Goes through a block from its end, `live` being what is read after it, then what is read from its start on.
    fn block(&mut self, stmts: &[Stmt], live: &mut BTreeSet<VarId>) {
        for stmt in stmts.iter().rev() {
            match stmt {
                Stmt::Let { var, value } | Stmt::Assign { var, value } => {
                    live.insert(*var);
                    if needs_whole_tiles(value) {
                        self.held(live, 0);
                    }
                    live.remove(var);
                    self.read(value, live);
                }
                Stmt::Store { .. } | Stmt::Scatter { .. } => {
                    values(stmt).into_iter().for_each(|e| self.read(e, live));
                }
                Stmt::For { body, carried, .. } | Stmt::While { body, carried, .. } => {
                    // What an iteration reads first is live at the end of the one before: the second time knows.
                    live.extend(carried);
                    for _ in 0..2 {
                        let mut inner = live.clone();
                        self.block(body, &mut inner);
                        live.extend(inner);
                    }
                }
                Stmt::If { then, otherwise, .. } => {
                    let mut other = live.clone();
                    self.block(otherwise, &mut other);
                    self.block(then, live);
                    live.extend(other);
                }
                Stmt::Check { .. } | Stmt::ArriveLast { .. } => {}
            }
        }
    }

    /// Whether warpgroups multiply by a lhs that they widen in registers: for few columns it does not pay.
    fn by_groups(&self, lhs: &Expr, rhs: &Expr) -> bool {
        self.has_wgmma && lhs.ty.shape()[0] >= wgmma::M && rhs.ty.shape()[1] >= wgmma::MANY_COLUMNS
    }

    /// Adds what an expression reads; what a product holds of its operands and sums is
    /// beside what they are computed from.
    fn read(&mut self, expr: &Expr, live: &mut BTreeSet<VarId>) {
        let (mut read, mut beside) = (Vec::new(), 0);
        within(expr, &mut |e| match &e.kind {
            ExprKind::Var(var) => read.push(*var),
            ExprKind::Mma(lhs, rhs, _) => {
                let is_computed = variable(lhs).is_none() && !is_load(lhs);
                let in_pieces = is_of_loads(lhs, self.on_the_way) && !self.by_groups(lhs, rhs);
                let operand = if is_computed && !in_pieces { registers_of(&lhs.ty) } else { 0 };
                // Products of 8 bits are summed apart before they are added, and fragments of 32 bits are large.
                let sums = match lhs.ty.dtype().bits() {
                    8 => registers_of(&e.ty),
                    32 => registers_of(&e.ty) / 4,
                    _ => 0,
                };
                beside = beside.max(operand + sums);
            }
            _ => {}
        });
        live.extend(read);
        if needs_whole_tiles(expr) {
            self.held(live, beside);
        }
    }
}

/// The variable that an expression is, but for its shape.
fn variable(expr: &Expr) -> Option<VarId> {
    match &expr.kind {
        ExprKind::Reshape(a) | ExprKind::Transpose(a, _) => variable(a),
        ExprKind::Cast(a) if a.ty.dtype() == expr.ty.dtype() => variable(a),
        ExprKind::Var(var) => Some(*var),
        _ => None,
    }
}

/// True for a load, or for another load's tile in another shape.
pub(crate) fn is_load(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::Reshape(a) | ExprKind::Transpose(a, _) => is_load(a),
        ExprKind::Load { .. } | ExprKind::Var(_) => true,
        _ => false,
    }
}

fn needs_whole_tiles(expr: &Expr) -> bool {
    let mut found = false;
    within(expr, &mut |e| {
        found |= matches!(e.kind, ExprKind::Reduce(..) | ExprKind::Mma(..) | ExprKind::MmaScaled(_));
    });
    found
}

fn within<'a>(expr: &'a Expr, visit: &mut dyn FnMut(&'a Expr)) {
    visit(expr);
    operands(expr).into_iter().for_each(|e| within(e, visit));
}

fn bodies(stmt: &Stmt) -> Vec<&[Stmt]> {
    match stmt {
        Stmt::For { body, .. } => vec![body],
        Stmt::While { before, body, .. } => vec![before, body],
        Stmt::If { then, otherwise, .. } => vec![then, otherwise],
        _ => Vec::new(),
    }
}

fn for_each_expr<'a>(stmts: &'a [Stmt], visit: &mut dyn FnMut(&'a Expr)) {
    for_each_stmt(stmts, &mut |stmt| values(stmt).into_iter().for_each(|value| within(value, visit)));
}

fn for_each_stmt<'a>(stmts: &'a [Stmt], visit: &mut dyn FnMut(&'a Stmt)) {
    for stmt in stmts {
        visit(stmt);
        bodies(stmt).into_iter().for_each(|body| for_each_stmt(body, visit));
    }
}

/// The expressions of a statement that may hold tiles.
fn values(stmt: &Stmt) -> Vec<&Expr> {
    match stmt {
        Stmt::Let { value, .. } | Stmt::Assign { value, .. } | Stmt::Store { value, .. } => vec![value],
        Stmt::Scatter { index, value, mask, .. } => index.iter().chain([value]).chain(mask).collect(),
        _ => Vec::new(),
    }
}
