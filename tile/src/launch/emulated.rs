//! A checked launch on an emulated GPU.

use super::argument::{Kind, RawTensor, reach};
use super::check::{Request, scalar_bits};
use crate::dynamic::byte_count;
use crate::error::LaunchError;
use crate::jit::{self, TensorFacts, facts_of};
use codegen_ptx::{Compiled, Target};
use ptx_emu::{Launch, Memory, Module, Param, TensorMap};
use tile_lang::ast::TypeExpr;
use tile_lang::{Bindings, Config, DType};

/// CTAs of a kernel that walk over the programs of a grid: few, so that each walks.
const RESIDENT: usize = 3;

/// Compiles the kernel for a target and executes its PTX.
pub(super) fn run(
    request: &Request<'_>,
    bindings: &Bindings,
    target: &'static Target,
    seed: u64,
) -> Result<(), LaunchError> {
    let facts: Vec<_> = request.args.iter().filter_map(|arg| tensor_facts(&arg.0)).collect();
    let mut compiled = compile(request, bindings, request.config, target, &facts)?;
    if !jit::fills_clusters(compiled.num_ctas, request.grid) {
        let alone = jit::without_clusters(request.config);
        compiled = compile(request, bindings, &alone, target, &facts)?;
    }
    let mut tensors: Vec<_> = request.args.iter().filter_map(|arg| Lent::of(&arg.0)).collect();
    match tensor_maps(&tensors, &compiled) {
        Some(maps) => execute(request, bindings, &compiled, (&mut tensors, maps), seed),
        // As on a GPU: where a tensor has no map, the kernel that takes none is launched.
        None => {
            let plain = jit::without_maps(request.config);
            let compiled = compile(request, bindings, &plain, target, &facts)?;
            execute(request, bindings, &compiled, (&mut tensors, Vec::new()), seed)
        }
    }
}

/// A tensor argument, in its own memory or a copy.
struct Lent<'a> {
    tensor: &'a RawTensor<'a>,
    bytes: usize,
    /// Whole words around 4-bit elements that are written: the code writes each in its word, 4 bytes at once, which a
    /// GPU's memory has and that of a host tensor need not have.
    copy: Option<Vec<u128>>,
}

impl<'a> Lent<'a> {
    fn of(arg: &'a Kind<'a>) -> Option<Lent<'a>> {
        let Kind::Tensor(tensor) = arg else { return None };
        let bytes = byte_count(tensor.dtype, reach(tensor.shape, tensor.strides));
        let mut lent = Lent { tensor, bytes, copy: None };
        if tensor.writable && tensor.dtype == DType::F4E2M1FN {
            let mut copy = vec![0u128; (lent.shift() + bytes).div_ceil(16)];
            // SAFETY: the copy has room for the bytes, which the tensor has, as the launch checked.
            unsafe {
                copy.as_mut_ptr().cast::<u8>().add(lent.shift()).copy_from_nonoverlapping(tensor.base, bytes);
            }
            lent.copy = Some(copy);
        }
        Some(lent)
    }

    /// Bytes of a copy before the tensor's: what alignment the tensor has, its copy has, too.
    fn shift(&self) -> usize {
        self.tensor.base.addr() % 16
    }

    fn address(&self) -> u64 {
        match &self.copy {
            Some(copy) => copy.as_ptr().addr() as u64 + self.shift() as u64,
            None => self.tensor.base.addr() as u64,
        }
    }

    fn lend(&mut self, memory: &mut Memory<'_>, writable: bool) -> Param {
        let (shift, bytes) = (self.shift(), self.bytes);
        let Some(copy) = &mut self.copy else {
            // SAFETY: the argument borrows the tensor for the launch, exclusively where the kernel writes it, as
            // the launch checked; it reaches no further than the tensor's memory, which was checked, too.
            return Param::Word(unsafe { memory.lend_raw(self.tensor.base, bytes, writable) });
        };
        let (start, end) = (shift / 4 * 4, (shift + bytes).next_multiple_of(4));
        // SAFETY: the words lie within the copy, which outlives the launch and is read only behind it.
        let first =
            unsafe { memory.lend_raw(copy.as_mut_ptr().cast::<u8>().add(start), end - start, writable) };
        Param::Word(first + (shift - start) as u64)
    }

    /// Writes a copy back.
    fn finish(&self) {
        if let Some(copy) = &self.copy {
            // SAFETY: as in `of`; the argument borrows the tensor exclusively.
            unsafe {
                let bytes = copy.as_ptr().cast::<u8>().add(self.shift());
                self.tensor.base.copy_from_nonoverlapping(bytes, self.bytes);
            }
        }
    }
}

fn tensor_facts(arg: &Kind<'_>) -> Option<TensorFacts> {
    match arg {
        Kind::Tensor(t) => Some(facts_of(t.dtype, t.base.addr() as u64, t.shape, t.strides)),
        Kind::Scalar(..) => None,
    }
}

fn compile(
    request: &Request<'_>,
    bindings: &Bindings,
    config: &Config,
    target: &'static Target,
    facts: &[TensorFacts],
) -> Result<Compiled, LaunchError> {
    let compiled = match request.options.checked {
        true => jit::compile_checked(request.kernel, bindings, config, target, facts),
        false => jit::compile(request.kernel, bindings, config, target, facts, false),
    };
    compiled.map(|jit| jit.compiled).map_err(|error| LaunchError::Jit(Box::new(error)))
}

/// The tensor maps that the kernel takes; none where a tensor has none.
fn tensor_maps(tensors: &[Lent<'_>], compiled: &Compiled) -> Option<Vec<TensorMap>> {
    let encode = |map: &codegen_ptx::TensorMap| {
        let lent = tensors.get(map.tensor)?;
        let tensor = lent.tensor;
        let layout = (tensor.shape, tensor.strides);
        let bits = tensor.dtype.bits();
        let whole =
            TensorMap::of_tensor(lent.address(), bits, layout, &map.box_shape, map.swizzle_bytes).ok()?;
        Some(if map.rounds { whole.rounding_to_tf32() } else { whole })
    };
    compiled.tensor_maps.iter().map(encode).collect()
}

fn execute(
    request: &Request<'_>,
    bindings: &Bindings,
    compiled: &Compiled,
    (tensors, maps): (&mut [Lent<'_>], Vec<TensorMap>),
    seed: u64,
) -> Result<(), LaunchError> {
    let (kernel, target) = (request.kernel, compiled.target.name);
    let module = Module::parse(&compiled.ptx).map_err(|source| LaunchError::NotEmulated {
        kernel: kernel.name,
        target,
        source,
    })?;
    let mut record = [0u8; 16];
    let mut memory = Memory::new();
    let mut params = Vec::new();
    let mut rest = tensors.iter_mut();
    for (arg, param) in request.args.iter().zip(&kernel.ast().params) {
        match &arg.0 {
            Kind::Tensor(tensor) => {
                let writable = matches!(param.ty, TypeExpr::Tensor { mutable: true, .. });
                let lent = rest.next().expect("every tensor argument is lent");
                params.push(lent.lend(&mut memory, writable));
                params.extend(tensor.shape.iter().chain(tensor.strides).map(|&n| Param::Word(n as u64)));
            }
            Kind::Scalar(value, _) => {
                params.push(Param::Word(scalar_bits(kernel, param, *value, bindings)?));
            }
        }
    }
    let mut grid = request.grid.map(|extent| extent as u32);
    let resident = RESIDENT * compiled.num_ctas as usize;
    if compiled.persistent {
        params.extend(request.grid.map(|extent| Param::Word(extent as u64)));
        let programs = request.grid.iter().product::<usize>();
        let ctas = if compiled.part_bytes.is_some() { resident } else { programs.min(resident) };
        grid = [ctas as u32, 1, 1];
    }
    let mut parts = vec![0u8; resident * compiled.part_bytes.unwrap_or(0)];
    let mut counters = vec![0u8; 4 * resident];
    if compiled.part_bytes.is_some() {
        params.extend([&mut parts, &mut counters].map(|shared| Param::Word(memory.lend(shared))));
    }
    if !compiled.checks.is_empty() {
        params.push(Param::Word(memory.lend(&mut record)));
    }
    params.extend(maps.into_iter().map(Param::Map));
    let launch =
        Launch { shared_bytes: compiled.smem_bytes, seed, ..Launch::new(grid, compiled.num_threads) };
    let entry = module.entry(&compiled.entry).expect("the module has the kernel that it was made for");
    let done = entry.run(&launch, &params, &mut memory);
    done.map_err(|fault| LaunchError::Emulated { kernel: kernel.name, target, fault: Box::new(fault) })?;
    drop(memory);
    tensors.iter().for_each(Lent::finish);
    let words = [0, 4, 8, 12].map(|at| u32::from_le_bytes([0, 1, 2, 3].map(|i| record[at + i])));
    jit::failed_check(kernel.name, &compiled.checks, words)
}
