//! From the tile language to PTX, in one process: the median for each target, and where the time goes.

use autotune::subject::{Subject, find_contract};
use codegen_ptx::Target;
use criterion::Criterion;
use indexmap::IndexMap;
use std::hint::black_box;
use std::time::Duration;
// Linking the crate registers its kernels.
use tilegym_kernels as _;

/// Compilations whose stages are averaged for the breakdown.
const BREAKDOWN_RUNS: u32 = 20;

fn compile(criterion: &mut Criterion) {
    let contract = find_contract("fmha").unwrap_or_else(|e| panic!("{e}"));
    let subject = Subject::new(contract, None, &IndexMap::new()).unwrap_or_else(|e| panic!("{e}"));
    let config = contract.default_config(&subject.problem);
    let build = |target| subject.build(&config, target, false).unwrap_or_else(|e| panic!("{e}"));
    let mut group = criterion.benchmark_group("fmha to PTX");
    for target in Target::all() {
        group.bench_function(target.part, |bencher| bencher.iter(|| black_box(build(target))));
        breakdown(target.part, || build(target).into_iter().flat_map(|jit| jit.stages).collect());
    }
    group.finish();
}

/// Prints the median of the whole and the mean of each stage.
fn breakdown(part: &str, run: impl Fn() -> Vec<(&'static str, Duration)>) {
    let mut stages: IndexMap<&str, Duration> = IndexMap::new();
    let mut wholes = Vec::new();
    for _ in 0..BREAKDOWN_RUNS {
        let times = run();
        wholes.push(times.iter().map(|(_, time)| *time).sum::<Duration>());
        for (stage, time) in times {
            *stages.entry(stage).or_default() += time;
        }
    }
    wholes.sort();
    let sum: Duration = wholes.iter().sum();
    println!("{part}: median {:.2} ms of {BREAKDOWN_RUNS} compilations", ms(wholes[wholes.len() / 2]));
    for (stage, time) in stages {
        let share = 100.0 * time.as_secs_f64() / sum.as_secs_f64();
        println!("  {stage:<10} {:>7.3} ms {share:>4.0} %", ms(time / BREAKDOWN_RUNS));
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    compile(&mut criterion);
    criterion.final_summary();
}
