//! From the gpu level to the LLVM dialect: what one thread does.
//!
//! Each tile becomes as many values as its layout has registers; loops and branches become blocks with those
//! values as arguments. One file lowers one family of operations.

mod arrival;
mod bulk;
mod bulk_store;
mod control;
mod convert_layout;
mod elementwise;
mod emitter;
mod fragment;
mod global;
mod mma;
mod mma_scaled;
mod narrow;
mod parts;
mod policy;
mod reduce;
mod rows;
mod shape;
mod shared;
mod turns;
mod value;
mod view;
mod wgmma;

use crate::error::LowerError;
use crate::gpu::dialect::{Smem, layout_of};
use crate::gpu::facts::TensorFacts;
use crate::gpu::launch::LaunchNeeds;
use crate::gpu::ops::GpuOp;
use crate::gpu::rounding;
use crate::layout::LinearLayout;
use crate::target::Target;
use emitter::Emitter;
use melior::ir::operation::OperationLike;
use melior::ir::{BlockLike, RegionLike, Type, TypeLike, ValueLike};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::rc::Rc;
use tile_ir::TileOp;
use tile_ir::context::Place;
use tile_ir::types::{
    Blk, Op, Val, int_attr, name_of, operands_of, results_of, root_view, str_attr, type_of, view_of,
};
use tile_lang::dtype::DType;
use value::{Lowered, Shared, Tile, View};

/// What lowering needs to know beside the module.
#[derive(Clone, Copy, Debug)]
pub struct LowerOptions<'a> {
    /// The target.
    pub target: &'static Target,
    /// Facts about each tensor argument, in order.
    pub facts: &'a [TensorFacts],
    /// CTAs that must fit on an SM.
    pub occupancy: u32,
}

/// Lowers a module of the gpu level, buffers allocated, to one of the LLVM and NVVM dialects.
///
/// The kernel's parameters are, for each tensor: its address, its extents (i32), its strides in elements (i64);
/// for each scalar: itself, sizes and bools as i32. A persistent one takes the grid's extents next, and the addresses of
/// parts and counters (i64) if it splits sums over CTAs. A kernel with checks takes one more: the address of four zeroed
/// 32-bit words, where the first check that fails leaves its number plus one and the program's ids.
/// The tensor maps come last.
///
/// # Errors
/// [`LowerError::Unsupported`] for what the target lacks, [`LowerError::Internal`] for IR that breaks a rule.
pub fn lower_to_llvm<'c>(
    module: &tile_ir::Module<'c>,
    options: LowerOptions,
) -> Result<LoweredKernel<'c>, LowerError> {
    let function = tile_ir::types::ops_of(module.top())
        .find(|op| name_of(*op) == "func.func")
        .ok_or_else(|| LowerError::Internal { what: "the module has no function".to_owned(), place: None })?;
    let context = module.context();
    melior::dialect::DialectHandle::llvm().load_dialect(context);
    // SAFETY: the function returns the handle of a dialect that is linked in.
    let nvvm = unsafe { melior::dialect::DialectHandle::from_raw(mlir_sys::mlirGetDialectHandle__nvvm__()) };
    nvvm.load_dialect(context);
    let body = tile_ir::types::blocks_of(function).into_iter().next();
    let body = body.ok_or_else(|| internal(function, "the function has no body"))?;
    let arguments = tile_ir::types::args_of(body);
    if let Some((op, error)) = rounding::check(module).into_iter().next() {
        return Err(internal(op, &error.to_string()));
    }
    let needs = LaunchNeeds::of(module);
    let text = skeleton(function, &arguments, &needs, options)?;
    let lowered = melior::ir::Module::parse(context, &text)
        .ok_or_else(|| internal(function, "the kernel's frame does not parse"))?;
    // SAFETY: handles into the new module, none of which outlives it.
    let top = unsafe { Blk::from_raw(lowered.body().to_raw()) };
    let kernel = tile_ir::types::ops_of(top).find(|op| name_of(*op) == "llvm.func");
    let kernel = kernel.ok_or_else(|| internal(function, "the kernel's frame has no function"))?;
    let region = kernel.region(0).map_err(|_| internal(function, "the kernel's frame has no region"))?;
    let entry = region.first_block().ok_or_else(|| internal(function, "the kernel's frame has no block"))?;
    if let Some(terminator) = entry.terminator() {
        tile_ir::types::erase(terminator);
    }
    let emitter = Emitter::new(context, options.target, region, entry);
    let start = emitter.block();
    let mut lowering = Lowering {
        e: emitter,
        values: HashMap::new(),
        layouts: HashMap::new(),
        shared_window: None,
        num_warps: int_attr(function, "tgpu.num_warps").and_then(|w| usize::try_from(w).ok()),
        num_ctas: needs.cluster.unwrap_or(1),
        has_met: false,
        written: HashSet::new(),
        mutated: HashSet::new(),
        record: None,
        checks: Vec::new(),
        tensor_maps: {
            let parameters = tile_ir::types::args_of(entry);
            parameters[parameters.len() - needs.tensor_maps.len()..].to_vec()
        },
        read_in_flight: HashMap::new(),
    };
    lowering.expect_stores_of(function);
    lowering.mutated = std::mem::take(&mut lowering.written);
    lowering.bind_arguments(&arguments, entry, options.facts);
    lowering.bind_policies(function, &arguments)?;
    if has_checks(function) {
        let behind = 1 + lowering.tensor_maps.len();
        lowering.record = tile_ir::types::args_of(entry).into_iter().nth_back(behind - 1);
    }
    lowering.lower_block(body)?;
    lowering.e.finish(start);
    Ok(LoweredKernel { module: lowered, checks: lowering.checks })
}

/// A lowered kernel.
#[derive(Debug)]
pub struct LoweredKernel<'c> {
    /// The module of the LLVM and NVVM dialects.
    pub module: melior::ir::Module<'c>,
    /// The kernel's checks, by number.
    pub checks: Vec<Check>,
}

/// A condition that a kernel checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The kernel's line.
    pub place: Option<Place>,
    /// What its author says of it.
    pub message: String,
}

/// True for a kernel that checks anything.
fn has_checks(function: Op) -> bool {
    tile_ir::types::nested_ops(function).into_iter().any(|op| name_of(op) == "tile.check")
}

/// A compiler bug at an operation.
pub(super) fn internal(op: Op, what: &str) -> LowerError {
    LowerError::Internal { what: format!("{}: {what}", name_of(op)), place: Place::of(op.location()) }
}

/// The module with the kernel's signature and attributes, and an empty body.
fn skeleton(
    function: Op,
    arguments: &[Val],
    needs: &LaunchNeeds,
    options: LowerOptions,
) -> Result<String, LowerError> {
    let name =
        str_attr(function, "sym_name").ok_or_else(|| internal(function, "the function has no name"))?;
    let warps = int_attr(function, "tgpu.num_warps")
        .ok_or_else(|| internal(function, "the function does not say how many warps it has"))?;
    let mut parameters: Vec<String> = Vec::new();
    for argument in arguments {
        let ty = type_of(*argument);
        if let Some(view) = view_of(ty) {
            parameters.push("!llvm.ptr<1>".to_owned());
            parameters.extend(std::iter::repeat_n("i32".to_owned(), view.rank));
            parameters.extend(std::iter::repeat_n("i64".to_owned(), view.rank));
        } else {
            let dtype = tile_ir::types::dtype_of(ty);
            parameters.push(
                match dtype {
                    Some(DType::I32 | DType::Index | DType::Bool) => "i32",
                    Some(DType::I64) => "i64",
                    Some(DType::F32) => "f32",
                    Some(DType::F16) => "f16",
                    Some(DType::BF16) => "bf16",
                    _ => return Err(internal(function, "an argument of a type that kernels cannot take")),
                }
                .to_owned(),
            );
        }
    }
    if has_checks(function) {
        parameters.push("!llvm.ptr<1>".to_owned());
    }
    let mut text = String::from("module {\n");
    text += "llvm.mlir.global external @smem() {addr_space = 3 : i32, alignment = 1024 : i64} : !llvm.array<0 x i8>\n";
    let map = "!llvm.ptr {llvm.byval = !llvm.array<128 x i8>, llvm.align = 64 : i64, nvvm.grid_constant}";
    parameters.extend(std::iter::repeat_n(map.to_owned(), needs.tensor_maps.len()));
    let list: Vec<String> = parameters.iter().enumerate().map(|(i, p)| format!("%a{i}: {p}")).collect();
    let cluster = needs.cluster.map(|ctas| format!(", nvvm.cluster_dim = array<i32: {ctas}, 1, 1>"));
    let cluster = cluster.unwrap_or_default();
    let _ = writeln!(
        text,
        "llvm.func @{name}({}) attributes {{nvvm.kernel, nvvm.reqntid = array<i32: {}, 1, 1>, nvvm.minctasm = {} : i32{cluster}}} {{\nllvm.unreachable\n}}\n}}",
        list.join(", "),
        (warps + needs.producer_warps as i64) * 32,
        options.occupancy.max(1),
    );
    Ok(text)
}

/// The state of a lowering.
struct Lowering<'c> {
    e: Emitter<'c>,
    values: HashMap<usize, Lowered<'c>>,
    layouts: HashMap<usize, Rc<LinearLayout>>,
    /// Address of the CTA's dynamic shared memory, i32.
    shared_window: Option<Val<'c>>,
    num_warps: Option<usize>,
    /// CTAs of a cluster; 1 where there is none.
    num_ctas: usize,
    /// All threads, those of other CTAs too, have met behind the setting up of barriers.
    has_met: bool,
    /// Tensors that some thread may have written since the CTA last met.
    written: HashSet<usize>,
    /// Tensors that the kernel writes anywhere.
    mutated: HashSet<usize>,
    /// Where failed checks are recorded, in kernels that have any.
    record: Option<Val<'c>>,
    checks: Vec<Check>,
    /// Addresses of the tensor maps among the parameters.
    tensor_maps: Vec<Val<'c>>,
    /// The registers of their lhs that products in flight read, by the product's result.
    read_in_flight: HashMap<usize, Rc<[Val<'c>]>>,
}

impl<'c> Lowering<'c> {
    fn set(&mut self, value: Val<'c>, lowered: Lowered<'c>) {
        self.values.insert(value.to_raw().ptr as usize, lowered);
    }

    /// Sets the only result of an operation.
    fn set_result(&mut self, op: Op<'c>, lowered: Lowered<'c>) {
        if let Some(&result) = results_of(op).first() {
            self.set(result, lowered);
        }
    }

    fn get(&self, op: Op, value: Val<'c>) -> Result<&Lowered<'c>, LowerError> {
        let found = self.values.get(&(value.to_raw().ptr as usize));
        found.ok_or_else(|| internal(op, "an operand was not lowered before its use"))
    }

    fn scalar(&self, op: Op, value: Val<'c>) -> Result<Val<'c>, LowerError> {
        match self.get(op, value)? {
            Lowered::Scalar(scalar) => Ok(*scalar),
            _ => Err(internal(op, "an operand is not a scalar")),
        }
    }

    fn tile(&self, op: Op, value: Val<'c>) -> Result<Tile<'c>, LowerError> {
        match self.get(op, value)? {
            Lowered::Tile(tile) => Ok(tile.clone()),
            _ => Err(internal(op, "an operand is not a tile in registers")),
        }
    }

    fn view(&self, op: Op, value: Val<'c>) -> Result<Rc<View<'c>>, LowerError> {
        match self.get(op, value)? {
            Lowered::View(view) => Ok(Rc::clone(view)),
            _ => Err(internal(op, "an operand is not a tensor")),
        }
    }

    fn shared(&self, op: Op, value: Val<'c>) -> Result<Shared<'c>, LowerError> {
        match self.get(op, value)? {
            Lowered::Shared(shared) => Ok(shared.clone()),
            _ => Err(internal(op, "an operand is not in shared memory")),
        }
    }

    /// The layout of a tile's type.
    fn layout(&mut self, op: Op, ty: Type<'c>) -> Result<Rc<LinearLayout>, LowerError> {
        let key = ty.to_raw().ptr as usize;
        if let Some(layout) = self.layouts.get(&key) {
            return Ok(Rc::clone(layout));
        }
        let layout = Rc::new(layout_of(ty).ok_or_else(|| internal(op, "a tile has no layout"))?);
        self.layouts.insert(key, Rc::clone(&layout));
        Ok(layout)
    }

    /// Layout and dtype of an operation's result.
    fn result_tile(&mut self, op: Op<'c>) -> Result<(Rc<LinearLayout>, DType), LowerError> {
        let result = results_of(op).first().copied().ok_or_else(|| internal(op, "no result"))?;
        let ty = type_of(result);
        let dtype = tile_ir::types::dtype_of(ty).ok_or_else(|| internal(op, "a tile of unknown dtype"))?;
        Ok((self.layout(op, ty)?, dtype))
    }

    /// Gives the function's arguments their parameters.
    fn bind_arguments(&mut self, arguments: &[Val<'c>], entry: Blk<'c>, facts: &[TensorFacts]) {
        let parameters = tile_ir::types::args_of(entry);
        let (mut at, mut tensor) = (0, 0);
        for &argument in arguments {
            let ty = type_of(argument);
            let lowered = match view_of(ty) {
                Some(found) => {
                    let none = || TensorFacts::none(found.rank, found.dtype.bits() as usize);
                    let facts = facts.get(tensor).cloned().unwrap_or_else(none);
                    let dims = parameters[at + 1..=at + found.rank].to_vec();
                    let mut strides = parameters[at + 1 + found.rank..=at + 2 * found.rank].to_vec();
                    if let Some(dim) = facts.unit_stride {
                        strides[dim] = self.e.int(1, self.e.types.i64);
                    }
                    let pointer = parameters[at];
                    at += 1 + 2 * found.rank;
                    tensor += 1;
                    let policy = None;
                    Lowered::View(Rc::new(View { dtype: found.dtype, pointer, dims, strides, policy, facts }))
                }
                None => {
                    let parameter = parameters[at];
                    at += 1;
                    if tile_ir::types::dtype_of(ty) == Some(DType::Bool) {
                        let types = self.e.types;
                        Lowered::Scalar(self.e.in_prologue(|e| e.convert("llvm.trunc", parameter, types.i1)))
                    } else {
                        Lowered::Scalar(parameter)
                    }
                }
            };
            self.set(argument, lowered);
        }
    }

    /// Lowers the operations of a block, its terminator included.
    fn lower_block(&mut self, block: Blk<'c>) -> Result<(), LowerError> {
        for op in tile_ir::types::ops_of(block) {
            self.lower_op(op)?;
        }
        Ok(())
    }

    fn lower_op(&mut self, op: Op<'c>) -> Result<(), LowerError> {
        let name = name_of(op);
        match name.split_once('.') {
            Some(("tgpu", _)) => {
                let gpu = GpuOp::of(op).ok_or_else(|| internal(op, "malformed operation"))?;
                self.lower_gpu(op, gpu)
            }
            Some(("scf", kind)) => self.lower_control(op, kind),
            Some(("arith" | "math", _)) | Some(("tile", "cast")) => self.lower_elementwise(op, &name),
            Some(("tile", "program_id")) => self.lower_register(op, "ctaid"),
            Some(("tile", "num_programs")) => self.lower_register(op, "nctaid"),
            Some(("tile", "dim")) => {
                let axis = int_attr(op, "axis").and_then(|a| usize::try_from(a).ok());
                let operand = operands_of(op).first().copied().ok_or_else(|| internal(op, "no operand"))?;
                let view = self.view(op, operand)?;
                let extent = axis.and_then(|a| view.dims.get(a)).copied();
                let extent = extent.ok_or_else(|| internal(op, "no such axis"))?;
                self.set_result(op, Lowered::Scalar(extent));
                Ok(())
            }
            Some(("tile", kind @ ("at" | "slice" | "check" | "arrive_last"))) => match TileOp::of(op) {
                Some(TileOp::At { view, index }) => self.lower_at(op, view, &index),
                Some(TileOp::Slice { view, axis, start, len }) => {
                    self.lower_slice(op, view, axis, start, len)
                }
                Some(TileOp::ArriveLast { view, index, count }) => {
                    self.lower_arrival(op, view, &index, count)
                }
                Some(TileOp::Check { cond, message }) => self.lower_check(op, cond, message),
                _ => Err(internal(op, &format!("malformed {kind}"))),
            },
            Some(("func", "return")) => {
                self.e.op("llvm.return", &[], &[], &[], &[]);
                Ok(())
            }
            _ => Err(internal(op, "not an operation of the gpu level")),
        }
    }

    fn lower_register(&mut self, op: Op<'c>, name: &str) -> Result<(), LowerError> {
        let axis = match int_attr(op, "axis") {
            Some(0) => "x",
            Some(1) => "y",
            Some(2) => "z",
            _ => return Err(internal(op, "no such axis")),
        };
        let value = self.e.in_prologue(|e| e.special_register(&format!("{name}.{axis}")));
        self.set_result(op, Lowered::Scalar(value));
        Ok(())
    }

    fn lower_gpu(&mut self, op: Op<'c>, gpu: GpuOp<'c>) -> Result<(), LowerError> {
        match gpu {
            GpuOp::Alloc { offset } => {
                let offset = offset.ok_or_else(|| internal(op, "shared memory was not allocated"))?;
                let result = results_of(op).first().copied().ok_or_else(|| internal(op, "no result"))?;
                let smem = Smem::of(type_of(result)).ok_or_else(|| internal(op, "not a type of buffer"))?;
                let base = self.shared_address(offset);
                let shared = Shared {
                    dtype: smem.dtype,
                    layout: smem.layout,
                    per_byte: smem.cols() / smem.layout.cols,
                    base,
                    slot_bytes: smem.slot_bytes(),
                };
                self.set(result, Lowered::Shared(shared));
                Ok(())
            }
            GpuOp::AsyncCopy { view, index, smem, slot, tile_shape, vec_bytes } => {
                self.lower_async_copy(op, (view, &index), (smem, slot), &tile_shape, vec_bytes)
            }
            GpuOp::Copy { view, index, smem, slot, tile_shape, vec_bytes } => {
                self.lower_copy(op, (view, &index), (smem, slot), &tile_shape, vec_bytes)
            }
            GpuOp::Commit => {
                self.e.intrinsic("llvm.nvvm.cp.async.commit.group", &[], None);
                Ok(())
            }
            GpuOp::Wait { pending } => {
                self.e.asm(&format!("cp.async.wait_group {pending};"), "~{memory}", &[], &[]);
                Ok(())
            }
            GpuOp::GroupBarrier => {
                self.lower_group_barrier();
                Ok(())
            }
            GpuOp::Barrier => {
                self.barrier();
                Ok(())
            }
            GpuOp::LocalLoad { smem, slot, transposed } => self.lower_local_load(op, smem, slot, transposed),
            GpuOp::LocalStore { tile, smem, slot } => self.lower_local_store(op, tile, smem, slot),
            GpuOp::GlobalLoad { view, index, vec_bytes } => {
                self.lower_global_load(op, view, &index, vec_bytes)
            }
            GpuOp::GlobalStore { view, index, tile, vec_bytes } => {
                self.lower_global_store(op, (view, &index), tile, vec_bytes)
            }
            GpuOp::Gather { view, index, mask } => self.lower_gather(op, view, &index, mask),
            GpuOp::Scatter { view, index, value, mask } => self.lower_scatter(op, view, &index, value, mask),
            GpuOp::ConvertLayout { tile, scratch_offset } => {
                self.lower_convert_layout(op, tile, scratch_offset)
            }
            GpuOp::Wgmma { lhs, rhs, acc, groups, k_first } => {
                self.lower_wgmma(op, lhs, (rhs, k_first), acc, groups)
            }
            GpuOp::WgmmaWait { tiles, pending } => self.lower_wgmma_wait(op, &tiles, pending),
            GpuOp::FenceAsync => {
                self.e.asm("fence.proxy.async.shared::cta;", "~{memory}", &[], &[]);
                Ok(())
            }
            GpuOp::OpenTurns => {
                self.lower_open_turns();
                Ok(())
            }
            GpuOp::TakeTurn => {
                self.lower_take_turn();
                Ok(())
            }
            GpuOp::GiveTurn => {
                self.lower_give_turn();
                Ok(())
            }
            GpuOp::CloseTurns => {
                self.lower_close_turns();
                Ok(())
            }
            GpuOp::BulkStore { index, smem, slot, tile_shape, box_shape, map, groups, .. } => {
                let shapes = (&tile_shape[..], &box_shape[..]);
                self.lower_bulk_store(op, &index, (smem, slot), shapes, (map, groups))
            }
            GpuOp::BulkWait { read, .. } => {
                self.lower_bulk_wait(read);
                Ok(())
            }
            GpuOp::Mbarriers { offset, arrivals } => self.lower_mbarriers(op, offset, arrivals),
            GpuOp::Producer { warps, registers } => {
                self.set_result(op, Lowered::Role { warps, registers });
                Ok(())
            }
            GpuOp::Expect { barriers, slot, bytes } => self.lower_expect(op, barriers, slot, bytes),
            GpuOp::EnterCluster => {
                self.lower_enter_cluster();
                Ok(())
            }
            GpuOp::TmaCopy {
                view, index, smem, barriers, slot, tile_shape, box_shape, map, cluster, ..
            } => {
                let shapes = (&tile_shape[..], &box_shape[..]);
                self.lower_tma_copy(op, (view, &index), [smem, barriers, slot], shapes, (map, cluster))
            }
            GpuOp::Prefetch { view, index, tile_shape, map, .. } => {
                self.lower_prefetch(op, (view, &index), &tile_shape, map)
            }
            GpuOp::MbarrierWait { barriers, slot, parity } => {
                self.lower_mbarrier_wait(op, barriers, [slot, parity])
            }
            GpuOp::MbarrierArrive { barriers, slot, cluster, loaded } => {
                self.lower_mbarrier_arrive(op, barriers, slot, [cluster, loaded])
            }
            GpuOp::HasRows { first, extent, steps } => self.lower_has_rows(op, [first, extent], &steps),
            GpuOp::MmaScaledSync { lhs, rhs, scales, acc, warps } => {
                self.lower_mma_scaled_sync(op, [lhs, rhs], scales, acc, warps)
            }
            GpuOp::MmaSync { lhs, rhs, acc, warps, order } => {
                self.lower_mma_sync(op, lhs, rhs, acc, (warps, &order))
            }
            GpuOp::Reduce { tile, axis, kind, scratch_offset } => {
                self.lower_reduce(op, tile, axis, kind, scratch_offset)
            }
            GpuOp::ReduceRegisters { tile, axis, kind } => self.lower_reduce_registers(op, tile, axis, kind),
            GpuOp::PutPart { tile, parts, slot } => self.lower_put_part(op, tile, [parts, slot]),
            GpuOp::GetPart { parts, slot } => self.lower_get_part(op, [parts, slot]),
            GpuOp::OthersArrived { counters, place, count } => {
                self.lower_others_arrived(op, [counters, place, count])
            }
            GpuOp::ArriveAt { counters, place, count } => self.lower_arrive_at(op, [counters, place, count]),
            GpuOp::Splat { scalar } => self.lower_splat(op, scalar),
            GpuOp::Columns { tile, first } => self.lower_columns(op, tile, first),
            GpuOp::Iota => self.lower_iota(op),
            GpuOp::AllOnes { tile } => self.lower_all_ones(op, tile),
            GpuOp::Broadcast { tile } => self.lower_broadcast(op, tile),
            GpuOp::Reshape { tile } | GpuOp::Transpose { tile, .. } => self.lower_rename(op, tile),
        }
    }

    /// All threads of the CTA meet; what they wrote is seen by all.
    fn barrier(&mut self) {
        self.e.barrier();
        self.written.clear();
    }

    /// Orders an access to a view after this program's earlier stores to it, which other threads may have made.
    fn order_access(&mut self, view: Val<'c>, writes: bool) {
        let key = root_view(view).to_raw().ptr as usize;
        if self.written.contains(&key) {
            self.barrier();
        }
        if writes {
            self.written.insert(key);
        }
    }

    /// Takes the stores of a loop's body as made, since an earlier iteration may have.
    fn expect_stores_of(&mut self, op: Op<'c>) {
        for inner in tile_ir::types::nested_ops(op) {
            if matches!(name_of(inner).as_str(), "tgpu.global_store" | "tgpu.scatter" | "tgpu.bulk_store") {
                let view = operands_of(inner).first().copied().map(root_view);
                self.written.extend(view.map(|v| v.to_raw().ptr as usize));
            }
        }
    }

    /// The address of a byte of the CTA's dynamic shared memory.
    fn shared_address(&mut self, offset: usize) -> Val<'c> {
        let base = match self.shared_window {
            Some(base) => base,
            None => {
                let base = self.e.in_prologue(|e| {
                    let pointer = melior::dialect::llvm::r#type::pointer(e.context, 3);
                    let name = melior::ir::attribute::FlatSymbolRefAttribute::new(e.context, "smem").into();
                    let id = e.id("global_name");
                    let address = e.op("llvm.mlir.addressof", &[], &[(id, name)], &[pointer], &[]);
                    e.convert("llvm.ptrtoint", address.expect("one result"), e.types.i32)
                });
                self.shared_window = Some(base);
                base
            }
        };
        self.e.in_prologue(|e| {
            let offset = e.i32(offset as i64);
            e.add(base, offset)
        })
    }
}
