//! Kernels on the CPU device: wall time of one launch, every program of the grid.

use criterion::Criterion;
use indexmap::IndexMap;
use tile::DType;
use tile::contract::{Contract, random_inputs};
use tile::dynamic::{CpuOptions, DynArg, DynTensor};
use tilegym_kernels::FmhaContract;

fn fmha(criterion: &mut Criterion) {
    let sizes =
        [("batch", 1), ("heads", 8), ("kv_heads", 8), ("seq_q", 1024), ("seq_k", 1024), ("head_dim", 64)];
    let sizes: IndexMap<_, _> = sizes.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
    let problem = FmhaContract.problem(DType::F32, &sizes).unwrap_or_else(|e| panic!("{e}"));
    let config = FmhaContract.default_config(&problem);
    let bindings = FmhaContract.bindings(&problem, &config);
    let grid = FmhaContract.grid(&problem, &config);
    let mut tensors = random_inputs(&FmhaContract, &problem, 1);
    tensors.push(DynTensor::zeros(DType::F32, &[1, 8, 1024, 64]));
    let mut group = criterion.benchmark_group("CPU device");
    group.sample_size(20);
    group.bench_function("fmha 1x8x1024x64 causal f32", |bencher| {
        bencher.iter(|| {
            let mut args: Vec<DynArg> = tensors.iter_mut().map(DynArg::Tensor).collect();
            args.extend(FmhaContract.scalars(&problem).into_iter().map(DynArg::Scalar));
            let kernel = FmhaContract.kernel();
            kernel
                .run_cpu(&mut args, &config, &bindings, grid, CpuOptions::default())
                .unwrap_or_else(|e| panic!("{e}"));
        });
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    fmha(&mut criterion);
    criterion.final_summary();
}
