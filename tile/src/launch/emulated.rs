//! A checked launch on an emulated GPU.

use super::argument::{Kind, reach};
use super::check::{Request, scalar_bits};
use crate::dynamic::byte_count;
use crate::error::LaunchError;
use crate::jit::{self, TensorFacts, facts_of};
use codegen_ptx::{Compiled, Target};
use ptx_emu::{Launch, Memory, Module, Param, TensorMap};
use tile_lang::ast::TypeExpr;
use tile_lang::{Bindings, Config};

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
    if !request.grid[0].is_multiple_of(compiled.num_ctas as usize) {
        let alone = Config { num_ctas: 1, ..request.config.clone() };
        compiled = compile(request, bindings, &alone, target, &facts)?;
    }
    match tensor_maps(request, &compiled) {
        Some(maps) => execute(request, bindings, &compiled, maps, seed),
        // As on a GPU: where a tensor has no map, the kernel that takes none is launched.
        None => {
            let plain = jit::without_maps(request.config);
            let compiled = compile(request, bindings, &plain, target, &facts)?;
            execute(request, bindings, &compiled, Vec::new(), seed)
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
fn tensor_maps(request: &Request<'_>, compiled: &Compiled) -> Option<Vec<TensorMap>> {
    let tensors = request.args.iter().filter_map(|arg| match &arg.0 {
        Kind::Tensor(tensor) => Some(tensor),
        Kind::Scalar(..) => None,
    });
    let tensors: Vec<_> = tensors.collect();
    let encode = |map: &codegen_ptx::TensorMap| {
        let tensor = tensors.get(map.tensor)?;
        let bits = u64::from(tensor.dtype.bits());
        // Innermost first; of 4-bit elements, bytes of two.
        let per_byte = 8 / bits.min(8);
        let mut shape: Vec<u64> = tensor.shape.iter().rev().map(|&n| n as u64).collect();
        shape[0] /= per_byte;
        let strides: Vec<u64> = tensor.strides.iter().rev().skip(1).map(|&n| n as u64 * bits / 8).collect();
        let block: Vec<u64> = map.box_shape.iter().rev().map(|&n| n as u64).collect();
        let address = tensor.base.addr() as u64;
        let whole =
            TensorMap::new(address, bits.div_ceil(8), &shape, &strides, &block, map.swizzle_bytes as u64)
                .ok()?;
        Some(if map.rounds { whole.rounding_to_tf32() } else { whole })
    };
    compiled.tensor_maps.iter().map(encode).collect()
}

fn execute(
    request: &Request<'_>,
    bindings: &Bindings,
    compiled: &Compiled,
    maps: Vec<TensorMap>,
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
    for (arg, param) in request.args.iter().zip(&kernel.ast().params) {
        match &arg.0 {
            Kind::Tensor(tensor) => {
                let bytes = byte_count(tensor.dtype, reach(tensor.shape, tensor.strides));
                let writable = matches!(param.ty, TypeExpr::Tensor { mutable: true, .. });
                // SAFETY: the argument borrows the tensor for the launch, exclusively where the kernel writes it, as
                // the launch checked; it reaches no further than the tensor's memory, which was checked, too.
                params.push(Param::Word(unsafe { memory.lend_raw(tensor.base, bytes, writable) }));
                params.extend(tensor.shape.iter().chain(tensor.strides).map(|&n| Param::Word(n as u64)));
            }
            Kind::Scalar(value, _) => {
                params.push(Param::Word(scalar_bits(kernel, param, *value, bindings)?));
            }
        }
    }
    let mut grid = request.grid.map(|extent| extent as u32);
    if compiled.persistent {
        params.extend(request.grid.map(|extent| Param::Word(extent as u64)));
        let resident = RESIDENT * compiled.num_ctas as usize;
        grid = [request.grid.iter().product::<usize>().min(resident) as u32, 1, 1];
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
    let words = [0, 4, 8, 12].map(|at| u32::from_le_bytes([0, 1, 2, 3].map(|i| record[at + i])));
    jit::failed_check(kernel.name, &compiled.checks, words)
}
