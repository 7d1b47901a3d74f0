//! What one program of a kernel does: products, elementwise work, bytes.
//!
//! The checked program is walked with its scalars evaluated and its tiles left as shapes, so that the count knows
//! of loop bounds that depend on the program id (causal attention), of ragged edges, and of tiles padded beyond
//! the tensor, without running anything.

use codegen_ptx::layout::wgmma;
use std::collections::BTreeMap;
use tile_lang::DType;
use tile_lang::ast::{BinaryOp, UnaryOp};
use tile_lang::typed::{Expr, ExprKind, Program, Stmt, Type, UnaryMath, VarId, View};

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
    /// Tensor operations (two a multiply-add) of single warps by operand dtype.
    pub mma_flops: BTreeMap<DType, f64>,
    /// Tensor operations of warpgroups, which reach the peak, by operand dtype.
    pub wgmma_flops: BTreeMap<DType, f64>,
    /// Elements through arithmetic units.
    pub alu_ops: f64,
    /// Elements through the special function units: exponentials, logarithms, roots, divisions.
    pub sfu_ops: f64,
    /// Bytes loaded from device memory or L2.
    pub load_bytes: f64,
    /// Bytes stored.
    pub store_bytes: f64,
    /// Elements stored.
    pub stored_elems: f64,
    /// Bytes that warps read from shared memory for the operands of products.
    pub fragment_bytes: f64,
    /// Iterations of loops that load: each waits for memory once.
    pub rounds: f64,
    /// Loops that load as often as memory says, of which one iteration was counted.
    pub uncounted: f64,
}

impl Work {
    fn add(&mut self, other: &Work, times: f64) {
        for (&dtype, flops) in &other.mma_flops {
            *self.mma_flops.entry(dtype).or_default() += flops * times;
        }
        for (&dtype, flops) in &other.wgmma_flops {
            *self.wgmma_flops.entry(dtype).or_default() += flops * times;
        }
        self.alu_ops += other.alu_ops * times;
        self.sfu_ops += other.sfu_ops * times;
        self.load_bytes += other.load_bytes * times;
        self.store_bytes += other.store_bytes * times;
        self.stored_elems += other.stored_elems * times;
        self.fragment_bytes += other.fragment_bytes * times;
        self.rounds += other.rounds * times;
        self.uncounted += other.uncounted * times;
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

/// Programs sampled along the first axis, whose work may differ; two along the others.
const SAMPLES: usize = 16;

/// The warps that multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Multipliers {
    /// Warps of a CTA, those that only copy left out.
    pub num_warps: u32,
    /// Whether the target has products of warpgroups.
    pub has_wgmma: bool,
}

/// The work of a launch, from a sample of its programs.
pub fn count_grid(program: &Program, args: &[Argument], grid: [usize; 3], warps: Multipliers) -> GridWork {
    let axes: Vec<Vec<usize>> =
        grid.iter().enumerate().map(|(axis, &n)| sample(n, if axis == 0 { SAMPLES } else { 2 })).collect();
    let mut all = Vec::new();
    for &x in &axes[0] {
        for &y in &axes[1] {
            for &z in &axes[2] {
                all.push(count_program(program, args, grid, [x, y, z], warps));
            }
        }
    }
    let share = 1.0 / all.len().max(1) as f64;
    let mut mean = Work::default();
    all.iter().for_each(|work| mean.add(work, share));
    let flops = |work: &Work| work.mma_flops.values().chain(work.wgmma_flops.values()).sum::<f64>();
    let weight = |work: &Work| flops(work) + work.alu_ops + work.load_bytes;
    let most = all.iter().map(weight).fold(0.0, f64::max);
    let imbalance = if weight(&mean) > 0.0 { most / weight(&mean) } else { 1.0 };
    GridWork { programs: grid.iter().product::<usize>() as f64, mean, imbalance }
}

/// Iterations of a loop that are counted, where none hands on a scalar: long ones are alike but for their ends.
const SAMPLED_ITERATIONS: usize = 16;

/// As [`sample`], with how many of `0..n` each stands for: the ends for themselves, the others for what is between.
fn weighted_sample(n: usize, most: usize) -> impl Iterator<Item = (usize, f64)> {
    let chosen = sample(n, most);
    let inner = chosen.len().saturating_sub(2);
    let times = if inner == 0 { 1.0 } else { (n - 2) as f64 / inner as f64 };
    let is_end = move |at: usize| at == 0 || at + 1 == n;
    chosen.into_iter().map(move |at| (at, if is_end(at) { 1.0 } else { times }))
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
    warps: Multipliers,
) -> Work {
    let mut counter = Counter {
        program,
        args,
        grid,
        id,
        num_warps: warps.num_warps.max(1) as usize,
        has_wgmma: warps.has_wgmma,
        whole_rows: any(&program.body, &wants_whole_rows),
        vars: vec![Scalar::Unknown; program.vars.len()],
        transposed: vec![false; program.vars.len()],
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
    program: &'a Program,
    args: &'a [Argument],
    grid: [usize; 3],
    id: [usize; 3],
    num_warps: usize,
    has_wgmma: bool,
    whole_rows: bool,
    vars: Vec<Scalar>,
    /// Variables that hold loads transposed.
    transposed: Vec<bool>,
    work: Work,
}

impl Counter<'_> {
    fn block(&mut self, stmts: &[Stmt]) {
        stmts.iter().for_each(|stmt| self.stmt(stmt));
    }

    fn stmt(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::Let { var, value } | Stmt::Assign { var, value } => {
                self.vars[*var] = self.expr(value);
                self.transposed[*var] = self.is_transposed(value);
            }
            Stmt::For { var, lo, hi, step, body, carried, .. } => {
                let bounds = (self.expr(lo), self.expr(hi), self.expr(step));
                let (Scalar::Int(lo), Scalar::Int(hi), Scalar::Int(step)) = bounds else {
                    self.only_iteration(body);
                    self.forget(carried);
                    return;
                };
                let step = step.max(1);
                let iterations = hi.max(lo).abs_diff(lo).div_ceil(step as u64) as usize;
                let hands_on_scalars = carried.iter().any(|v| !is_tile(&self.program.vars[*v].ty));
                let most = if hands_on_scalars { iterations } else { SAMPLED_ITERATIONS };
                for (at, times) in weighted_sample(iterations, most) {
                    self.vars[*var] = Scalar::Int(lo + at as i64 * step);
                    let before = std::mem::take(&mut self.work);
                    self.iteration(body);
                    let one = std::mem::replace(&mut self.work, before);
                    self.work.add(&one, times);
                }
            }
            Stmt::While { before, cond, body, carried, .. } => loop {
                self.block(before);
                match self.expr(cond) {
                    Scalar::Int(0) => return,
                    Scalar::Int(_) => self.iteration(body),
                    _ => {
                        self.only_iteration(body);
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
            Stmt::ArriveLast { var, count, .. } => self.vars[*var] = self.arrives_last(count),
            Stmt::Check { .. } => {}
            Stmt::Store { tensor, index, value, .. } => {
                self.expr(value);
                let bytes = self.inside_bytes(tensor, index, &value.ty);
                self.work.store_bytes += bytes;
                self.work.stored_elems += elems(&value.ty);
            }
            Stmt::Scatter { index, value, mask, .. } => {
                index.iter().chain(std::iter::once(value)).chain(mask).for_each(|e| {
                    self.expr(e);
                });
                self.work.store_bytes += bytes_of(&value.ty);
                self.work.stored_elems += elems(&value.ty);
            }
        }
    }

    /// Takes the program at the far end of the axes that share a counter for the last to get there: which axes these
    /// are, their extents say, whose product is the count.
    fn arrives_last(&mut self, count: &Expr) -> Scalar {
        let Scalar::Int(count) = self.expr(count) else { return Scalar::Unknown };
        const SHARED: [&[usize]; 7] = [&[2], &[1], &[0], &[1, 2], &[0, 2], &[0, 1], &[0, 1, 2]];
        let programs = |axes: &[usize]| axes.iter().map(|&a| self.grid[a] as i64).product::<i64>();
        let shared = SHARED.into_iter().find(|axes| programs(axes) == count);
        shared.map_or(Scalar::Unknown, |axes| {
            Scalar::Int(axes.iter().all(|&a| self.id[a] + 1 == self.grid[a]).into())
        })
    }

    fn iteration(&mut self, body: &[Stmt]) {
        let before = self.work.load_bytes;
        self.block(body);
        if self.work.load_bytes > before {
            self.work.rounds += 1.0;
        }
    }

    /// An iteration that stands for as many as are not known.
    fn only_iteration(&mut self, body: &[Stmt]) {
        let before = self.work.rounds;
        self.iteration(body);
        if self.work.rounds > before {
            self.work.uncounted += 1.0;
        }
    }

    fn forget(&mut self, vars: &[VarId]) {
        vars.iter().for_each(|&v| self.vars[v] = Scalar::Unknown);
    }

    /// Bytes of a block that lie inside its tensor; the whole block where its place is not known.
    fn inside_bytes(&mut self, tensor: &View, index: &[Expr], ty: &Type) -> f64 {
        let places: Vec<Scalar> = index.iter().map(|e| self.expr(e)).collect();
        let mut elems = 1.0;
        for (axis, (place, &tile)) in places.iter().zip(&ty.shape()).enumerate() {
            elems *= match (place, self.extent(tensor, axis)) {
                (Scalar::Int(i), Scalar::Int(extent)) => {
                    let first = i.saturating_mul(tile as i64);
                    extent.saturating_sub(first).clamp(0, tile as i64) as f64
                }
                _ => tile as f64,
            };
        }
        elems * f64::from(ty.dtype().bits()) / 8.0
    }

    /// How far a tensor, or a part of one, reaches along an axis.
    fn extent(&self, tensor: &View, axis: usize) -> Scalar {
        let Some(Argument::Tensor(extents)) = self.args.get(tensor.param) else { return Scalar::Unknown };
        let slices = tensor.slices.iter().filter(|slice| slice.axis == axis);
        slices.fold(Scalar::Int(extents[axis] as i64), |extent, slice| {
            match (extent, self.vars[slice.start], self.vars[slice.len]) {
                (Scalar::Int(extent), Scalar::Int(start), Scalar::Int(len)) => {
                    Scalar::Int(extent.saturating_sub(start).clamp(0, len.max(0)))
                }
                _ => Scalar::Unknown,
            }
        })
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
            ExprKind::TensorDim(tensor, axis) => self.extent(tensor, *axis),
            ExprKind::Binary(op, a, b) => {
                let (a, b) = (self.expr(a), self.expr(b));
                self.elementwise(expr, *op == BinaryOp::Div);
                binary(*op, a, b)
            }
            ExprKind::DivRn(a, b) => {
                self.expr(a);
                self.expr(b);
                self.elementwise(expr, true);
                Scalar::Unknown
            }
            ExprKind::MinMax(max, a, b) => {
                let (a, b) = (self.expr(a), self.expr(b));
                self.elementwise(expr, false);
                match (a, b) {
                    (Scalar::Int(a), Scalar::Int(b)) => Scalar::Int(if *max { a.max(b) } else { a.min(b) }),
                    (Scalar::Float(a), Scalar::Float(b)) => {
                        Scalar::Float(if *max { a.max(b) } else { a.min(b) })
                    }
                    // What is read from memory, such as a length, is taken to be as much as it may be.
                    (Scalar::Unknown, Scalar::Int(bound)) | (Scalar::Int(bound), Scalar::Unknown)
                        if !*max =>
                    {
                        Scalar::Int(bound)
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
            ExprKind::MmaScaled(operands) => {
                operands.iter().for_each(|e| {
                    self.expr(e);
                });
                self.product(&operands[0], &operands[2]);
                Scalar::Unknown
            }
            ExprKind::Load { tensor, index } => {
                let bytes = self.inside_bytes(tensor, index, &expr.ty);
                self.work.load_bytes += bytes;
                Scalar::Unknown
            }
            ExprKind::At { index, .. } => {
                index.iter().for_each(|e| {
                    self.expr(e);
                });
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

    /// A product: operations, padded to the 16x8 that each warp multiplies at least, and the operand bytes that
    /// the warps read.
    fn product(&mut self, lhs: &Expr, rhs: &Expr) {
        let (m, k, n) = (lhs.ty.shape()[0], lhs.ty.shape()[1], rhs.ty.shape()[1]);
        if let Some(groups) = self.warpgroups(lhs, rhs) {
            return self.product_of_groups(lhs, rhs, groups);
        }
        let [warps_m, warps_n] = self.split(m, n);
        let (rows, cols) = ((m / warps_m).max(16), (n / warps_n).max(8));
        let dtype = rhs.ty.dtype();
        let warps = (warps_m * warps_n) as f64;
        *self.work.mma_flops.entry(dtype).or_default() += 2.0 * warps * (rows * cols * k) as f64;
        let lhs_elems = if is_computed(lhs) { 0 } else { rows * k };
        self.work.fragment_bytes += warps * (lhs_elems + cols * k) as f64 * f64::from(dtype.bits()) / 8.0;
    }

    /// Whether a tile is a load's, transposed.
    fn is_transposed(&self, expr: &Expr) -> bool {
        match &expr.kind {
            ExprKind::Transpose(a, _) => !is_computed(a) && !self.is_transposed(a),
            ExprKind::Var(var) => self.transposed[*var],
            _ => false,
        }
    }

    /// Warpgroups by rows and columns of a product that they compute: the rhs loaded, and operands of 16 bits, or of
    /// f8 with K along the rows of both in memory; not where a computed lhs is for few columns.
    fn warpgroups(&self, lhs: &Expr, rhs: &Expr) -> Option<[usize; 2]> {
        let dtype = rhs.ty.dtype();
        let fits = match dtype {
            DType::F16 | DType::BF16 => true,
            DType::F8E4M3FN => !self.whole_rows && self.is_transposed(rhs) && !self.is_transposed(lhs),
            _ => false,
        };
        let pays = !is_computed(lhs) || rhs.ty.shape()[1] >= wgmma::MANY_COLUMNS;
        let takes = self.has_wgmma && fits && pays && !is_computed(rhs);
        let shape = [lhs.ty.shape()[0], rhs.ty.shape()[1], lhs.ty.shape()[1]];
        takes.then(|| wgmma::split(shape, self.num_warps, dtype))?
    }

    /// A product of warpgroups: each instruction multiplies 64 rows by all columns of the group, and reads both
    /// from shared memory, a computed lhs excepted.
    fn product_of_groups(&mut self, lhs: &Expr, rhs: &Expr, [groups_m, groups_n]: [usize; 2]) {
        let (m, k, n) = (lhs.ty.shape()[0], lhs.ty.shape()[1], rhs.ty.shape()[1]);
        let dtype = rhs.ty.dtype();
        let (rows, cols) = (m / groups_m, n / groups_n);
        let lhs_elems = if is_computed(lhs) { 0 } else { rows * k };
        let rhs_elems = rows.div_ceil(wgmma::M) * cols * k;
        let groups = (groups_m * groups_n) as f64;
        *self.work.wgmma_flops.entry(dtype).or_default() += 2.0 * groups * (rows * cols * k) as f64;
        if dtype == DType::F8E4M3FN {
            // Sums of f8 products are added to the accumulator outside of the tensor cores, which round them more.
            self.work.alu_ops += (m * n) as f64;
        }
        self.work.fragment_bytes += groups * (lhs_elems + rhs_elems) as f64 * f64::from(dtype.bits()) / 8.0;
    }

    /// Warps by rows and columns of a product, as code generation splits them: whole rows where rows are reduced
    /// or multiplied again, otherwise so that least work is repeated and fewest elements are read.
    fn split(&self, m: usize, n: usize) -> [usize; 2] {
        if self.whole_rows {
            let rows = (m / 16).clamp(1, self.num_warps);
            return [rows, self.num_warps / rows];
        }
        let splits = (0..=self.num_warps.trailing_zeros()).map(|bits| [self.num_warps >> bits, 1 << bits]);
        let cost = |[warps_m, warps_n]: &[usize; 2]| {
            let (rows, cols) = ((m / warps_m).max(16), (n / warps_n).max(8));
            (rows * cols, rows + cols)
        };
        splits.min_by_key(cost).unwrap_or([self.num_warps, 1])
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

pub(crate) fn is_tile(ty: &Type) -> bool {
    matches!(ty, Type::Tile { .. })
}

pub(crate) fn elems(ty: &Type) -> f64 {
    ty.shape().iter().product::<usize>() as f64
}

pub(crate) fn bytes_of(ty: &Type) -> f64 {
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

/// True for what keeps the rows of products in one warp: reductions, and products of computed tiles.
fn wants_whole_rows(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::Reduce(..) => true,
        ExprKind::Mma(lhs, ..) => is_computed(lhs),
        _ => false,
    }
}

/// Whether any expression of a block, or within one, satisfies a condition.
fn any(stmts: &[Stmt], condition: &dyn Fn(&Expr) -> bool) -> bool {
    fn within(expr: &Expr, condition: &dyn Fn(&Expr) -> bool) -> bool {
        condition(expr) || operands(expr).into_iter().any(|e| within(e, condition))
    }
    stmts.iter().any(|stmt| match stmt {
        Stmt::Let { value, .. }
        | Stmt::Assign { value, .. }
        | Stmt::Store { value, .. }
        | Stmt::Scatter { value, .. } => within(value, condition),
        Stmt::For { body, .. } | Stmt::While { body, .. } => any(body, condition),
        Stmt::If { then, otherwise, .. } => any(then, condition) || any(otherwise, condition),
        Stmt::Check { .. } | Stmt::ArriveLast { .. } => false,
    })
}

/// The tiles and scalars that an expression is computed from, indices of loads left out.
pub(crate) fn operands(expr: &Expr) -> Vec<&Expr> {
    match &expr.kind {
        ExprKind::Load { .. } | ExprKind::Gather { .. } | ExprKind::At { .. } => Vec::new(),
        _ => expr.children(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::{Subject, find_contract};
    use indexmap::IndexMap;
    use tile_lang::Config;
    // Linking the crate registers its kernels.
    use tilegym_kernels as _;

    fn subject(kernel: &str, sizes: &[(&str, i64)]) -> Subject {
        let contract = find_contract(kernel).unwrap_or_else(|e| panic!("{e}"));
        let sizes: IndexMap<String, i64> = sizes.iter().map(|(name, v)| ((*name).to_owned(), *v)).collect();
        Subject::new(contract, Some(DType::BF16), &sizes).unwrap_or_else(|e| panic!("{e}"))
    }

    fn config(values: &[(&str, i64)]) -> Config {
        let mut config = Config::default();
        values.iter().for_each(|(name, value)| config.set(name, *value));
        config
    }

    fn attention(seq: i64, causal: i64) -> Subject {
        let sizes =
            [("batch", 1), ("heads", 2), ("kv_heads", 1), ("seq_q", seq), ("seq_k", seq), ("head_dim", 64)];
        subject("fmha", &[&sizes[..], &[("causal", causal)]].concat())
    }

    fn grid_work(subject: &Subject, config: &Config) -> GridWork {
        let launches = subject.programs(config).unwrap_or_else(|e| panic!("{e}"));
        subject.work(&launches[0], config, false)
    }

    /// Operations of attention between one block of 64 queries and one of 64 keys of 64 elements: two products.
    const BLOCK_FLOPS: f64 = 2.0 * 2.0 * 64.0 * 64.0 * 64.0;

    #[test]
    fn causal_programs_differ_and_full_ones_do_not() {
        let config = config(&[("TILE_M", 64), ("TILE_N", 64)]);
        let full = grid_work(&attention(256, 0), &config);
        assert_eq!((full.programs, full.imbalance), (8.0, 1.0));
        assert_eq!(full.mean.mma_flops[&DType::BF16], 4.0 * BLOCK_FLOPS);
        assert_eq!(full.mean.rounds, 4.0);
        let causal = grid_work(&attention(256, 1), &config);
        assert_eq!(causal.mean.mma_flops[&DType::BF16], 2.5 * BLOCK_FLOPS);
        assert!((causal.imbalance - 4.0 / 2.5).abs() < 0.05, "{}", causal.imbalance);
    }

    #[test]
    fn ragged_blocks_multiply_whole_tiles_but_load_what_there_is() {
        let work = grid_work(&attention(65, 0), &config(&[("TILE_M", 64), ("TILE_N", 64)]));
        assert_eq!(work.mean.mma_flops[&DType::BF16], 2.0 * BLOCK_FLOPS);
        // Every program loads 65 keys and values; the two blocks of queries hold 64 and 1.
        assert_eq!(work.mean.load_bytes, (2.0 * 65.0 + 32.5) * 64.0 * 2.0);
        assert_eq!(work.mean.store_bytes, 32.5 * 64.0 * 2.0);
    }

    #[test]
    fn lengths_read_from_memory_count_as_all_there_is_room_for() {
        let sizes = [("batch", 2), ("heads", 4), ("kv_heads", 2), ("seq_k", 256), ("head_dim", 64)];
        for (splits, rounds) in [(1, 8.0), (4, 2.0)] {
            let config = config(&[("TILE_N", 32), ("NUM_SPLITS", splits)]);
            let work = grid_work(&subject("decode_attention", &sizes), &config);
            // Of the two programs sampled along the splits one merges: all rows in one round, all parts in one of that.
            let merging = if splits == 1 { 0.0 } else { 0.5 };
            let mean_rounds = rounds + merging * 2.0;
            assert_eq!((work.programs, work.mean.rounds), (4.0 * splits as f64, mean_rounds));
            // Keys and values of every tile, and one tile of queries a program.
            let bytes = (rounds * 2.0 * 32.0 + 2.0) * 64.0 * 2.0 + merging * 2.0 * 4.0 * (64.0 + 1.0) * 4.0;
            assert_eq!(work.mean.load_bytes, bytes);
        }
    }

    #[test]
    fn warps_that_share_rows_read_the_keys_again() {
        let subject = attention(256, 0);
        let read = |tile_m, num_warps| {
            let config = config(&[("TILE_M", tile_m), ("TILE_N", 64), ("num_warps", num_warps)]);
            grid_work(&subject, &config).mean.fragment_bytes / tile_m as f64
        };
        assert!(read(128, 4) < read(64, 4), "32 rows a warp reuse more than 16");
        assert!(read(128, 8) > read(128, 4));
    }

    #[test]
    fn warpgroups_multiply_64_rows_by_all_columns() {
        let sizes = [("m", 256), ("n", 256), ("k", 256), ("rhs_is_nk", 1)];
        let subject = subject("matmul", &sizes);
        let of = |tile_n, has_wgmma| {
            let values = [("TILE_M", 128), ("TILE_N", tile_n), ("TILE_K", 64), ("num_warps", 4)];
            let config = config(&values);
            let launches = subject.programs(&config).unwrap_or_else(|e| panic!("{e}"));
            subject.work(&launches[0], &config, has_wgmma)
        };
        let flops = |work: &GridWork, by_group: bool| {
            let all = if by_group { &work.mean.wgmma_flops } else { &work.mean.mma_flops };
            all.values().sum::<f64>() * work.programs
        };
        let all = 2.0 * 256.0 * 256.0 * 256.0;
        assert_eq!((flops(&of(128, true), true), flops(&of(128, true), false)), (all, 0.0));
        assert_eq!((flops(&of(128, false), true), flops(&of(128, false), false)), (0.0, all));
        // Four rounds of two instructions, each with its 64 rows and the 128 columns.
        assert_eq!(of(128, true).mean.fragment_bytes, 4.0 * 2.0 * (64.0 + 128.0) * 64.0 * 2.0);
        let read = |tile_n| of(tile_n, true).mean.fragment_bytes * of(tile_n, true).programs;
        assert!(read(64) > read(128), "wide products read their rows less often");
    }

    #[test]
    fn long_loops_are_counted_whole_by_a_sample() {
        // 1008 iterations between the ends, which 14 stand for: a whole number each, so that sums are exact.
        let (k, tile_k) = (64 * 1009 + 8, 64);
        let subject = subject("matmul", &[("m", 128), ("n", 128), ("k", k), ("rhs_is_nk", 1)]);
        let work = grid_work(&subject, &config(&[("TILE_M", 128), ("TILE_N", 128), ("TILE_K", tile_k)]));
        assert_eq!(work.mean.rounds, 1010.0);
        assert_eq!(work.mean.load_bytes, 2.0 * 128.0 * k as f64 * 2.0);
        assert_eq!(weighted_sample(5, 16).collect::<Vec<_>>(), [0, 1, 2, 3, 4].map(|at| (at, 1.0)));
    }

    #[test]
    fn loops_as_long_as_memory_says_are_not_counted() {
        let of = |kernel| {
            let subject = subject(kernel, &[]);
            let config = subject.contract.default_config(&subject.problem);
            let launches = subject.programs(&config).unwrap_or_else(|e| panic!("{e}"));
            subject.work(&launches[0], &config, false).mean.uncounted
        };
        assert!(of("fmha_varlen") > 0.0);
        assert_eq!((of("fmha"), of("decode_attention")), (0.0, 0.0));
    }
}
