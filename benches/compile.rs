//! From the tile language to PTX, in one process: the median for each target, and where the time goes; and what the
//! first launch of each case of `cases.json` takes on the host, choosing its configuration and compiling it.

use autotune::configs::Configs;
use autotune::subject::{Subject, find_contract, label};
use benches::cases::cases;
use codegen_ptx::Target;
use criterion::Criterion;
use indexmap::IndexMap;
use std::hint::black_box;
use std::time::{Duration, Instant};
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

/// Prints what choosing the configuration of each case takes and what compiling it does, medians of a few runs: the
/// median case, and the slowest.
fn first_launches(target: &'static Target) {
    let configs = Configs::open(None).unwrap_or_else(|e| panic!("{e}"));
    let (mut choosing, mut compiling) = (Vec::new(), Vec::new());
    for case in cases() {
        let subject = case.subject().unwrap_or_else(|e| panic!("{e}"));
        let choose = || configs.choose(&subject, target).unwrap_or_else(|e| panic!("{e}"));
        let choice = choose();
        let name = format!("{} {}: {} ({})", case.op, case.case, label(&choice.config), choice.origin);
        let build = || subject.build(&choice.config, target, false).unwrap_or_else(|e| panic!("{e}"));
        choosing.push((median_of_runs(|| drop(black_box(choose()))), name.clone()));
        compiling.push((median_of_runs(|| drop(black_box(build()))), name));
    }
    for (what, mut times) in [("choosing", choosing), ("compiling", compiling)] {
        times.sort();
        let (slowest, name) = times.last().expect("there are cases");
        let median = times[times.len() / 2].0;
        println!(
            "{}, {} cases, {what}: median {:.2} ms, at most {:.2} ms, of {name}",
            target.part,
            times.len(),
            ms(median),
            ms(*slowest)
        );
    }
}

/// Runs of each case.
const CASE_RUNS: usize = 5;

fn median_of_runs(run: impl Fn()) -> Duration {
    let time = |_| {
        let start = Instant::now();
        run();
        start.elapsed()
    };
    let mut times: Vec<Duration> = (0..CASE_RUNS).map(time).collect();
    times.sort();
    times[CASE_RUNS / 2]
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    compile(&mut criterion);
    Target::all().iter().for_each(|target| first_launches(target));
    criterion.final_summary();
}
