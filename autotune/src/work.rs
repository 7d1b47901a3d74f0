//! What one program of a kernel does: products, elementwise work, bytes.
//!
//! The checked program is walked with its scalars evaluated and its tiles left as shapes, so that the count knows
//! of loop bounds that depend on the program id (causal attention), of ragged edges, and of tiles padded beyond
//! the tensor, without running anything.

use std::collections::BTreeMap;
use tile_lang::DType;
use tile_lang::ast::{BinaryOp, UnaryOp};
use tile_lang::typed::{Expr, ExprKind, Program, Stmt, Type, UnaryMath, VarId};

/// An argument of the kernel, as far as the count needs it.
#[derive(Clone, Debug, PartialEq)]
pub enum Argument {
    /// A tensor by its extents.
    Tensor(Vec<usize>),
    /// An integer, size or bool.
    Int(i64),
    /// A float.
    Float(f64),
}

/// What one program does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Work {
    /// Tensor operations (two a multiply-add) by operand dtype.
    pub mma_flops: BTreeMap<DType, f64>,
    /// Elements through arithmetic units.
    pub alu_ops: f64,
    /// Elements through the special function units: exponentials, logarithms, roots, divisions.
    pub sfu_ops: f64,
    /// Bytes loaded from device memory or L2.
    pub load_bytes: f64,
    /// Bytes stored.
    pub store_bytes: f64,
    /// Bytes that warps read from shared memory for the operands of products.
    pub fragment_bytes: f64,
    /// Iterations of loops that load: each waits for memory once.
    pub rounds: f64,
}

impl Work {
    fn add(&mut self, other: &Work, times: f64) {
        for (&dtype, flops) in &other.mma_flops {
            *self.mma_flops.entry(dtype).or_default() += flops * times;
        }
        self.alu_ops += other.alu_ops * times;
        self.sfu_ops += other.sfu_ops * times;
        self.load_bytes += other.load_bytes * times;
        self.store_bytes += other.store_bytes * times;
        self.fragment_bytes += other.fragment_bytes * times;
        self.rounds += other.rounds * times;
    }
}

/// The work of a launch.
#[derive(Clone, Debug, PartialEq)]
pub struct GridWork {
    /// Programs launched.
    pub programs: f64,
    /// The mean over programs.
    pub mean: Work,
    /// The program with most work, relative to the mean: 1 when all are alike.
    pub imbalance: f64,
}

/// Memory that one program needs, read off the kernel alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Fewest bytes of shared memory: the buffers of loads in loops that feed products, times the stages.
    pub smem_bytes: usize,
    /// Fewest 32-bit registers of the whole CTA: what a loop carries and the largest product in it beside that.
    pub registers: usize,
    /// Of those, the ones that hold the results of products.
    pub accumulator_registers: usize,
}

/// Programs sampled along the first axis, whose work may differ; two along the others.
const SAMPLES: usize = 16;

/// The work of a launch, from a sample of its programs.
pub fn count_grid(program: &Program, args: &[Argument], grid: [usize; 3], num_warps: u32) -> GridWork {
    let axes: Vec<Vec<usize>> =
        grid.iter().enumerate().map(|(axis, &n)| sample(n, if axis == 0 { SAMPLES } else { 2 })).collect();
    let mut all = Vec::new();
    for &x in &axes[0] {
        for &y in &axes[1] {
            for &z in &axes[2] {
                all.push(count_program(program, args, grid, [x, y, z], num_warps));
            }
        }
    }
    let share = 1.0 / all.len().max(1) as f64;
    let mut mean = Work::default();
    all.iter().for_each(|work| mean.add(work, share));
    let weight = |work: &Work| work.mma_flops.values().sum::<f64>() + work.alu_ops + work.load_bytes;
    let most = all.iter().map(weight).fold(0.0, f64::max);
    let imbalance = if weight(&mean) > 0.0 { most / weight(&mean) } else { 1.0 };
    GridWork { programs: grid.iter().product::<usize>() as f64, mean, imbalance }
}

/// At most `most` of `0..n`, the ends among them, evenly apart.
fn sample(n: usize, most: usize) -> Vec<usize> {
    match n {
        0 => Vec::new(),
        n if n <= most => (0..n).collect(),
        n => (0..most).map(|i| i * (n - 1) / (most - 1)).collect(),
    }
}

/// The work of one program.
pub fn count_program(
    program: &Program,
    args: &[Argument],
    grid: [usize; 3],
    id: [usize; 3],
    num_warps: u32,
) -> Work {
    let mut counter = Counter {
        args,
        grid,
        id,
        num_warps: f64::from(num_warps),
        vars: vec![Scalar::Unknown; program.vars.len()],
        work: Work::default(),
    };
    counter.block(&program.body);
    counter.work
}

/// A scalar's value, where it does not depend on tensor contents.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scalar {
    Int(i64),
    Float(f64),
    Unknown,
}

struct Counter<'a> {
    args: &'a [Argument],
    grid: [usize; 3],
    id: [usize; 3],
    num_warps: f64,
    vars: Vec<Scalar>,
    work: Work,
}

impl Counter<'_> {
    fn block(&mut self, stmts: &[Stmt]) {
        stmts.iter().for_each(|stmt| self.stmt(stmt));
    }

    fn stmt(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::Let { var, value } | Stmt::Assign { var, value } => self.vars[*var] = self.expr(value),
            Stmt::For { var, lo, hi, step, body, carried, .. } => {
                let bounds = (self.expr(lo), self.expr(hi), self.expr(step));
                let (Scalar::Int(lo), Scalar::Int(hi), Scalar::Int(step)) = bounds else {
                    self.iteration(body);
                    self.forget(carried);
                    return;
                };
                let mut value = lo;
                while value < hi {
                    self.vars[*var] = Scalar::Int(value);
                    self.iteration(body);
                    value += step.max(1);
                }
            }
            Stmt::While { before, cond, body, carried, .. } => loop {
                self.block(before);
                match self.expr(cond) {
                    Scalar::Int(0) => return,
                    Scalar::Int(_) => self.iteration(body),
                    _ => {
                        self.iteration(body);
                        return self.forget(carried);
                    }
                }
            },
            Stmt::If { cond, then, otherwise, assigned, .. } => match self.expr(cond) {
                Scalar::Int(0) => self.block(otherwise),
                Scalar::Int(_) => self.block(then),
                _ => {
                    self.block(then);
                    self.block(otherwise);
                    self.forget(assigned);
                }
            },
            Stmt::Store { tensor, index, value, .. } => {
                self.expr(value);
                let bytes = self.inside_bytes(*tensor, index, &value.ty);
                self.work.store_bytes += bytes;
            }
            Stmt::Scatter { index, value, mask, .. } => {
                index.iter().chain(std::iter::once(value)).chain(mask).for_each(|e| {
                    self.expr(e);
                });
                self.work.store_bytes += bytes_of(&value.ty);
            }
        }
    }

    fn iteration(&mut self, body: &[Stmt]) {
        let before = self.work.load_bytes;
        self.block(body);
        if self.work.load_bytes > before {
            self.work.rounds += 1.0;
        }
    }

    fn forget(&mut self, vars: &[VarId]) {
        vars.iter().for_each(|&v| self.vars[v] = Scalar::Unknown);
    }

    /// Bytes of a block that lie inside its tensor; the whole block where its place is not known.
    fn inside_bytes(&mut self, tensor: usize, index: &[Expr], ty: &Type) -> f64 {
        let places: Vec<Scalar> = index.iter().map(|e| self.expr(e)).collect();
        let Some(Argument::Tensor(extents)) = self.args.get(tensor) else { return bytes_of(ty) };
        let mut elems = 1.0;
        for ((place, &tile), &extent) in places.iter().zip(&ty.shape()).zip(extents) {
            elems *= match place {
                Scalar::Int(i) => {
                    let first = i.saturating_mul(tile as i64);
                    (extent as i64).saturating_sub(first).clamp(0, tile as i64) as f64
                }
                _ => tile as f64,
            };
        }
        elems * f64::from(ty.dtype().bits()) / 8.0
    }

    /// Counts an expression and gives its value if it is a scalar.
    fn expr(&mut self, expr: &Expr) -> Scalar {
        match &expr.kind {
            ExprKind::Float(value) => Scalar::Float(*value),
            ExprKind::Int(value) => Scalar::Int(*value),
            ExprKind::Const(_) => Scalar::Unknown,
            ExprKind::Var(var) => self.vars[*var],
            ExprKind::Param(param) => match self.args.get(*param) {
                Some(Argument::Int(value)) => Scalar::Int(*value),
                Some(Argument::Float(value)) => Scalar::Float(*value),
                _ => Scalar::Unknown,
            },
            ExprKind::ProgramId(axis) => Scalar::Int(self.id[*axis] as i64),
            ExprKind::NumPrograms(axis) => Scalar::Int(self.grid[*axis] as i64),
            ExprKind::TensorDim(param, axis) => match self.args.get(*param) {
                Some(Argument::Tensor(extents)) => Scalar::Int(extents[*axis] as i64),
                _ => Scalar::Unknown,
            },
            ExprKind::Binary(op, a, b) => {
                let (a, b) = (self.expr(a), self.expr(b));
                self.elementwise(expr, *op == BinaryOp::Div);
                binary(*op, a, b)
            }
            ExprKind::MinMax(max, a, b) => {
                let (a, b) = (self.expr(a), self.expr(b));
                self.elementwise(expr, false);
                match (a, b) {
                    (Scalar::Int(a), Scalar::Int(b)) => Scalar::Int(if *max { a.max(b) } else { a.min(b) }),
                    (Scalar::Float(a), Scalar::Float(b)) => {
                        Scalar::Float(if *max { a.max(b) } else { a.min(b) })
                    }
                    _ => Scalar::Unknown,
                }
            }
            ExprKind::Unary(op, a) => {
                let a = self.expr(a);
                self.elementwise(expr, false);
                match (op, a) {
                    (UnaryOp::Neg, Scalar::Int(a)) => Scalar::Int(a.wrapping_neg()),
                    (UnaryOp::Neg, Scalar::Float(a)) => Scalar::Float(-a),
                    (UnaryOp::Not, Scalar::Int(a)) if expr.ty.dtype() == DType::Bool => Scalar::Int(1 - a),
                    (UnaryOp::Not, Scalar::Int(a)) => Scalar::Int(!a),
                    _ => Scalar::Unknown,
                }
            }
            ExprKind::Math(f, a) => {
                self.expr(a);
                self.elementwise(expr, *f != UnaryMath::Abs);
                Scalar::Unknown
            }
            ExprKind::Fma(a, b, c) | ExprKind::Select(a, b, c) => {
                let values = [self.expr(a), self.expr(b), self.expr(c)];
                self.elementwise(expr, false);
                match (&expr.kind, values) {
                    (ExprKind::Select(..), [Scalar::Int(c), a, b]) => [b, a][usize::from(c != 0)],
                    _ => Scalar::Unknown,
                }
            }
            ExprKind::Cast(a) => {
                let value = self.expr(a);
                self.elementwise(expr, false);
                match (value, expr.ty.dtype().is_float()) {
                    (Scalar::Int(a), true) => Scalar::Float(a as f64),
                    (Scalar::Float(a), false) => Scalar::Int(a as i64),
                    _ => value,
                }
            }
            ExprKind::Full(a) => {
                self.expr(a);
                Scalar::Unknown
            }
            ExprKind::Iota => Scalar::Unknown,
            ExprKind::Reshape(a) | ExprKind::Broadcast(a) | ExprKind::Transpose(a, _) => {
                self.expr(a);
                Scalar::Unknown
            }
            ExprKind::Reduce(_, a, _) => {
                self.expr(a);
                self.work.alu_ops += elems(&a.ty);
                Scalar::Unknown
            }
            ExprKind::Mma(lhs, rhs, acc) => {
                [lhs, rhs, acc].into_iter().for_each(|e| {
                    self.expr(e);
                });
                self.product(lhs, rhs);
                Scalar::Unknown
            }
            ExprKind::Load { tensor, index } => {
                let bytes = self.inside_bytes(*tensor, index, &expr.ty);
                self.work.load_bytes += bytes;
                Scalar::Unknown
            }
            ExprKind::Gather { index, mask, .. } => {
                index.iter().for_each(|e| {
                    self.expr(e);
                });
                mask.iter().for_each(|e| {
                    self.expr(e);
                });
                self.work.load_bytes += bytes_of(&expr.ty);
                Scalar::Unknown
            }
        }
    }

    /// A product: operations, padded to the instruction's 16x8, and the operand bytes that its warps read. Warps
    /// split M first, 16 rows at least each, so that every warp reads the whole rhs.
    fn product(&mut self, lhs: &Expr, rhs: &Expr) {
        let (m, k) = (lhs.ty.shape()[0].max(16) as f64, lhs.ty.shape()[1] as f64);
        let n = rhs.ty.shape()[1].max(8) as f64;
        let dtype = rhs.ty.dtype();
        *self.work.mma_flops.entry(dtype).or_default() += 2.0 * m * n * k;
        let bytes = f64::from(dtype.bits()) / 8.0;
        let warps_m = self.num_warps.min(m / 16.0).max(1.0);
        let warps_n = (self.num_warps / warps_m).max(1.0);
        let lhs_reads = if is_computed(lhs) { 0.0 } else { m * k * bytes * warps_n };
        self.work.fragment_bytes += lhs_reads + n * k * bytes * warps_m;
    }

    fn elementwise(&mut self, expr: &Expr, special: bool) {
        if is_tile(&expr.ty) {
            let count = if special { &mut self.work.sfu_ops } else { &mut self.work.alu_ops };
            *count += elems(&expr.ty);
        }
    }
}

fn binary(op: BinaryOp, a: Scalar, b: Scalar) -> Scalar {
    match (a, b) {
        (Scalar::Int(a), Scalar::Int(b)) => op.fold(a, b).map_or(Scalar::Unknown, Scalar::Int),
        (Scalar::Float(a), Scalar::Float(b)) => match op {
            BinaryOp::Add => Scalar::Float(a + b),
            BinaryOp::Sub => Scalar::Float(a - b),
            BinaryOp::Mul => Scalar::Float(a * b),
            BinaryOp::Div => Scalar::Float(a / b),
            BinaryOp::Eq => Scalar::Int((a == b).into()),
            BinaryOp::Ne => Scalar::Int((a != b).into()),
            BinaryOp::Lt => Scalar::Int((a < b).into()),
            BinaryOp::Le => Scalar::Int((a <= b).into()),
            BinaryOp::Gt => Scalar::Int((a > b).into()),
            BinaryOp::Ge => Scalar::Int((a >= b).into()),
            _ => Scalar::Unknown,
        },
        _ => Scalar::Unknown,
    }
}

fn is_tile(ty: &Type) -> bool {
    matches!(ty, Type::Tile { .. })
}

fn elems(ty: &Type) -> f64 {
    ty.shape().iter().product::<usize>() as f64
}

fn bytes_of(ty: &Type) -> f64 {
    elems(ty) * f64::from(ty.dtype().bits()) / 8.0
}

/// True for a tile that arithmetic makes, which stays in registers on its way into a product.
fn is_computed(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::Reshape(a) | ExprKind::Transpose(a, _) | ExprKind::Broadcast(a) => is_computed(a),
        ExprKind::Load { .. } | ExprKind::Var(_) => false,
        _ => true,
    }
}

/// The memory one program cannot do without.
pub fn footprint(program: &Program, num_stages: u32) -> Footprint {
    let mut least = Footprint::default();
    for_each_loop(&program.body, &mut |body, carried| {
        let mut scan =
            LoopScan { fed: Vec::new(), loads: Vec::new(), carried, accumulators: Vec::new(), product: 0 };
        scan.block(body);
        let sum = |vars: &[VarId]| vars.iter().map(|&v| registers_of(&program.vars[v].ty)).sum::<usize>();
        least.registers = least.registers.max(sum(carried) + scan.product);
        least.accumulator_registers = least.accumulator_registers.max(sum(&scan.accumulators) + scan.product);
        let staged: usize = scan.loads.iter().filter(|(_, feeds)| *feeds).map(|(bytes, _)| bytes).sum();
        least.smem_bytes = least.smem_bytes.max(staged * num_stages.max(1) as usize);
    });
    least
}

fn registers_of(ty: &Type) -> usize {
    match ty {
        Type::Tile { .. } => (elems(ty) * f64::from(ty.dtype().bits()) / 32.0) as usize,
        _ => 0,
    }
}

fn for_each_loop<'a>(stmts: &'a [Stmt], visit: &mut dyn FnMut(&'a [Stmt], &'a [VarId])) {
    for stmt in stmts {
        match stmt {
            Stmt::For { body, carried, .. } | Stmt::While { body, carried, .. } => {
                visit(body, carried);
                for_each_loop(body, visit);
            }
            Stmt::If { then, otherwise, .. } => {
                for_each_loop(then, visit);
                for_each_loop(otherwise, visit);
            }
            _ => {}
        }
    }
}

/// Finds the loads of one loop body (not of loops inside it) that feed products through nothing but reshapes and
/// transposes, and the largest product that is not itself carried.
struct LoopScan<'a> {
    /// Variables that name a load: the variable and the load's index.
    fed: Vec<(VarId, usize)>,
    /// Bytes of each load, and whether a product uses it.
    loads: Vec<(usize, bool)>,
    carried: &'a [VarId],
    /// Carried variables that products are assigned to.
    accumulators: Vec<VarId>,
    product: usize,
}

impl LoopScan<'_> {
    fn block(&mut self, stmts: &[Stmt]) {
        for stmt in stmts {
            match stmt {
                Stmt::Let { var, value } | Stmt::Assign { var, value } => {
                    if let Some(load) = self.operand(value) {
                        self.fed.push((*var, load));
                    } else {
                        let carried = self.carried.contains(var);
                        if carried
                            && matches!(value.kind, ExprKind::Mma(..))
                            && !self.accumulators.contains(var)
                        {
                            self.accumulators.push(*var);
                        }
                        self.expr(value, carried);
                    }
                }
                Stmt::Store { value, .. } | Stmt::Scatter { value, .. } => self.expr(value, false),
                Stmt::If { then, otherwise, .. } => {
                    self.block(then);
                    self.block(otherwise);
                }
                Stmt::For { .. } | Stmt::While { .. } => {}
            }
        }
    }

    /// The load that an operand is, if nothing but its shape was changed.
    fn operand(&mut self, expr: &Expr) -> Option<usize> {
        match &expr.kind {
            ExprKind::Reshape(a) | ExprKind::Transpose(a, _) => self.operand(a),
            ExprKind::Var(var) => self.fed.iter().rev().find(|(v, _)| v == var).map(|(_, load)| *load),
            ExprKind::Load { .. } => {
                self.loads.push((bytes_of(&expr.ty) as usize, false));
                Some(self.loads.len() - 1)
            }
            _ => None,
        }
    }

    fn expr(&mut self, expr: &Expr, carried: bool) {
        match &expr.kind {
            ExprKind::Mma(lhs, rhs, acc) => {
                for operand in [lhs, rhs] {
                    match self.operand(operand) {
                        Some(load) => self.loads[load].1 = true,
                        None => self.expr(operand, false),
                    }
                }
                self.expr(acc, false);
                if !carried {
                    self.product = self.product.max(registers_of(&expr.ty));
                }
            }
            ExprKind::Binary(_, a, b) | ExprKind::MinMax(_, a, b) => {
                self.expr(a, false);
                self.expr(b, false);
            }
            ExprKind::Fma(a, b, c) | ExprKind::Select(a, b, c) => {
                [a, b, c].into_iter().for_each(|e| self.expr(e, false));
            }
            ExprKind::Unary(_, a)
            | ExprKind::Math(_, a)
            | ExprKind::Cast(a)
            | ExprKind::Full(a)
            | ExprKind::Reshape(a)
            | ExprKind::Broadcast(a)
            | ExprKind::Transpose(a, _)
            | ExprKind::Reduce(_, a, _) => self.expr(a, false),
            _ => {}
        }
    }
}
