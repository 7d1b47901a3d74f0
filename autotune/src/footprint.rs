//! The memory that one program of a kernel cannot do without, read off the kernel alone.

use crate::live::{LiveRegisters, is_load, is_of_loads, live_registers, on_the_way, product_operands};
use crate::work::{bytes_of, elems, operands};
use std::collections::{BTreeSet, HashMap};
use tile_lang::Config;
use tile_lang::typed::{Expr, ExprKind, Program, Stmt, Type, VarId};

/// Memory that one program needs, read off the kernel alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Fewest bytes of shared memory: the buffers of loads in loops that feed products, times the stages.
    pub smem_bytes: usize,
    /// Bytes of loads in loops that scale what feeds products, times the stages: in shared memory beside the buffers, or
    /// in registers.
    pub scales_bytes: usize,
    /// Bytes of loads before loops whose tiles are operands of products: beside the buffers they mostly take shared
    /// memory too.
    pub held_bytes: usize,
    /// Bytes of the largest block that is stored: where CTAs walk, it goes through memory that the buffers of the next
    /// program's loads cannot share.
    pub staged_bytes: usize,
    /// Fewest 32-bit registers of the whole CTA: what a loop carries and the largest product in it beside that.
    pub registers: usize,
    /// Of those, the ones that hold the results of products.
    pub accumulator_registers: usize,
    /// An estimate of the 32-bit registers of the whole CTA that hold tiles at once.
    pub live: LiveRegisters,
}

/// The memory one program cannot do without, with one stage.
pub fn footprint(program: &Program) -> Footprint {
    let (operands, on_the_way) = (product_operands(&program.body), on_the_way(program));
    let held_bytes = held_bytes(&program.body, &operands);
    let staged_bytes = staged_bytes(&program.body);
    let live = live_registers(program, &operands, &on_the_way);
    let mut least = Footprint { held_bytes, staged_bytes, live, ..Footprint::default() };
    for_each_loop(&program.body, &mut |body, carried| {
        let mut scan = LoopScan {
            fed: Vec::new(),
            loads: Vec::new(),
            carried,
            on_the_way: &on_the_way,
            made: HashMap::new(),
            accumulators: Vec::new(),
            product: 0,
        };
        scan.block(body);
        let sum = |vars: &[VarId]| vars.iter().map(|&v| registers_of(&program.vars[v].ty)).sum::<usize>();
        least.registers = least.registers.max(sum(carried) + scan.product);
        least.accumulator_registers = least.accumulator_registers.max(sum(&scan.accumulators) + scan.product);
        let bytes =
            |feeds| scan.loads.iter().filter(|load| load.1 == feeds).map(|load| load.0).sum::<usize>();
        least.smem_bytes = least.smem_bytes.max(bytes(Feeds::Operand));
        least.scales_bytes = least.scales_bytes.max(bytes(Feeds::Scales));
    });
    least
}

fn staged_bytes(stmts: &[Stmt]) -> usize {
    let of = |stmt: &Stmt| match stmt {
        Stmt::Store { value, .. } => bytes_of(&value.ty) as usize,
        Stmt::If { then, otherwise, .. } => staged_bytes(then).max(staged_bytes(otherwise)),
        _ => 0,
    };
    stmts.iter().map(of).max().unwrap_or(0)
}

impl Footprint {
    /// That of as many stages, where this is of one.
    pub fn of_stages(self, num_stages: u32) -> Footprint {
        let stages = num_stages.max(1) as usize;
        let (smem_bytes, scales_bytes) = (self.smem_bytes * stages, self.scales_bytes * stages);
        Footprint { smem_bytes, scales_bytes, ..self }
    }

    /// Bytes of shared memory of a launch with a configuration, all that is foreseen counted.
    pub fn bytes_with(&self, config: &Config) -> usize {
        let walks = config.persistent && config.bulk_stores;
        self.smem_bytes + self.scales_bytes + self.held_bytes + if walks { self.staged_bytes } else { 0 }
    }
}

fn held_bytes(stmts: &[Stmt], operands: &BTreeSet<VarId>) -> usize {
    let of = |stmt: &Stmt| match stmt {
        Stmt::Let { var, value } if operands.contains(var) && is_load(value) => bytes_of(&value.ty) as usize,
        Stmt::If { then, otherwise, .. } => held_bytes(then, operands).max(held_bytes(otherwise, operands)),
        _ => 0,
    };
    stmts.iter().map(of).sum()
}

pub(crate) fn registers_of(ty: &Type) -> usize {
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

/// What a load is to products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Feeds {
    /// Nothing.
    Nothing,
    /// An operand, as it is or widened.
    Operand,
    /// What an operand is scaled by.
    Scales,
}

/// Finds the loads of one loop body (not of loops inside it) that products read, as they are or widened, and the largest
/// product that is not itself carried.
struct LoopScan<'a> {
    /// Variables that name a load: the variable and the load's index.
    fed: Vec<(VarId, usize)>,
    /// Bytes of each load, and what it is to products.
    loads: Vec<(usize, Feeds)>,
    carried: &'a [VarId],
    /// Variables that are nothing but on the way from loads to products.
    on_the_way: &'a BTreeSet<VarId>,
    /// What those are computed by, until a product reads them.
    made: HashMap<VarId, &'a Expr>,
    /// Carried variables that products are assigned to.
    accumulators: Vec<VarId>,
    product: usize,
}

impl<'a> LoopScan<'a> {
    fn block(&mut self, stmts: &'a [Stmt]) {
        for stmt in stmts {
            match stmt {
                Stmt::Let { var, value } | Stmt::Assign { var, value } => {
                    if let Some(load) = self.operand(value) {
                        self.fed.push((*var, load));
                    } else if self.on_the_way.contains(var) {
                        self.made.insert(*var, value);
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
                Stmt::For { .. } | Stmt::While { .. } | Stmt::Check { .. } | Stmt::ArriveLast { .. } => {}
            }
        }
    }

    /// The load that an operand is, if nothing but its shape was changed.
    fn operand(&mut self, expr: &Expr) -> Option<usize> {
        match &expr.kind {
            ExprKind::Reshape(a) | ExprKind::Transpose(a, _) => self.operand(a),
            ExprKind::Var(var) => self.fed.iter().rev().find(|(v, _)| v == var).map(|(_, load)| *load),
            ExprKind::Load { .. } => {
                self.loads.push((bytes_of(&expr.ty) as usize, Feeds::Nothing));
                Some(self.loads.len() - 1)
            }
            _ => None,
        }
    }

    /// Counts the loads that an operand is computed from: `as_what`, but what is broadcast as scales.
    fn feed(&mut self, expr: &'a Expr, as_what: Feeds) {
        if let Some(load) = self.operand(expr) {
            self.loads[load].1 = as_what;
            return;
        }
        match &expr.kind {
            ExprKind::Var(var) => {
                let value = self.made.remove(var);
                value.into_iter().for_each(|value| self.feed(value, as_what));
            }
            ExprKind::Broadcast(a) => self.feed(a, Feeds::Scales),
            _ => operands(expr).into_iter().for_each(|e| self.feed(e, as_what)),
        }
    }

    fn expr(&mut self, expr: &'a Expr, carried: bool) {
        match &expr.kind {
            ExprKind::Mma(lhs, rhs, acc) => {
                for operand in [lhs, rhs] {
                    match self.operand(operand) {
                        Some(load) => self.loads[load].1 = Feeds::Operand,
                        None if is_of_loads(operand, self.on_the_way) => self.feed(operand, Feeds::Operand),
                        None => self.expr(operand, false),
                    }
                }
                self.expr(acc, false);
                if !carried {
                    self.product = self.product.max(registers_of(&expr.ty));
                }
            }
            _ => operands(expr).into_iter().for_each(|e| self.expr(e, false)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::{Subject, find_contract};
    use indexmap::IndexMap;
    use tile_lang::{Config, DType};
    // Linking the crate registers its kernels.
    use tilegym_kernels as _;

    #[test]
    fn tiles_are_alive_across_reductions_and_products() {
        let tile = 128 * 64;
        let live = |kernel, sizes: &[_], values: &[_]| footprint_of(kernel, sizes, values, 2).live.by_groups;
        assert_eq!(live("matmul", &[], &[("TILE_M", 128), ("TILE_N", 64), ("TILE_K", 64)]), tile);
        // The sum of values, the scores, and the weights made of them; a few numbers of each row.
        let fmha = live("fmha", &[("head_dim", 64)], &[("TILE_M", 128), ("TILE_N", 64)]);
        assert!((3 * tile..3 * tile + 8 * 128).contains(&fmha), "{fmha}");
        // Rows in f32 while they are summed, beside one gain of 16 bits for all of them.
        let rows = live("rms_norm", &[("columns", 8192)], &[("ROWS", 4), ("TILE_N", 8192)]);
        assert!((4 * 8192..4 * 8192 + 8192 / 2 + 64).contains(&rows), "{rows}");
    }

    #[test]
    fn widened_weights_are_held_by_warpgroups_alone() {
        let live = |values: &[_]| footprint_of("nvfp4_gemm", &[("m", 256)], values, 2).live;
        let tiles = |m, n, k| live(&[("TILE_M", m), ("TILE_N", n), ("TILE_K", k), ("SPLITS", 1)]);
        // Beside the sum: nothing, or the weights in 16 bits; a number of each row.
        let sum = 128 * 8;
        let few = tiles(8, 128, 512);
        assert_eq!((few.by_warps, few.by_groups), (sum, sum));
        let (sum, weights) = (128 * 64, 128 * 256 / 2);
        let many = tiles(64, 128, 256);
        assert_eq!((many.by_warps, many.by_groups), (sum, sum + weights));
        // Both operands wait in shared memory, the weights as narrow as they are.
        let tiles = [("TILE_M", 64), ("TILE_N", 128), ("TILE_K", 256), ("SPLITS", 1)];
        let least = footprint_of("nvfp4_gemm", &[("m", 256)], &tiles, 3);
        assert_eq!(least.smem_bytes, 3 * (64 * 256 * 2 + 128 * 256 / 2));
        assert_eq!(least.scales_bytes, 3 * 128 * 256 / 16);
    }

    fn footprint_of(
        kernel: &str,
        sizes: &[(&str, i64)],
        values: &[(&str, i64)],
        num_stages: u32,
    ) -> Footprint {
        let contract = find_contract(kernel).unwrap_or_else(|e| panic!("{e}"));
        let sizes: IndexMap<String, i64> = sizes.iter().map(|(name, v)| ((*name).to_owned(), *v)).collect();
        let subject = Subject::new(contract, Some(DType::BF16), &sizes).unwrap_or_else(|e| panic!("{e}"));
        let mut config = Config::default();
        values.iter().for_each(|(name, value)| config.set(name, *value));
        let launches = subject.programs(&config).unwrap_or_else(|e| panic!("{e}"));
        footprint(launches[0].program()).of_stages(num_stages)
    }

    #[test]
    fn the_footprint_is_what_stages_and_accumulators_take() {
        let least = footprint_of("matmul", &[], &[("TILE_M", 64), ("TILE_N", 32), ("TILE_K", 32)], 3);
        assert_eq!(least.smem_bytes, 3 * (64 + 32) * 32 * 2);
        assert_eq!((least.registers, least.accumulator_registers), (64 * 32, 64 * 32));
        let least = footprint_of("fmha", &[("head_dim", 64)], &[("TILE_M", 128), ("TILE_N", 32)], 2);
        assert_eq!(least.smem_bytes, 2 * 2 * 32 * 64 * 2);
        assert_eq!(least.accumulator_registers, 128 * 64 + 128 * 32);
        assert_eq!(least.registers, least.accumulator_registers + 2 * 128);
        // The queries, which every iteration multiplies.
        assert_eq!(least.held_bytes, 128 * 64 * 2);
    }
}
