//! From the tile language to PTX, in one process: the median for each target, and where the time goes; and what the
//! first launch of each case of `cases.json` takes on the host, choosing its configuration and compiling it.

use autotune::configs::Configs;
use autotune::measure::stats::median;
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
        wholes.push(ms(times.iter().map(|(_, time)| *time).sum()));
        for (stage, time) in times {
            *stages.entry(stage).or_default() += time;
        }
    }
    let sum: f64 = wholes.iter().sum();
    println!("{part}: median {:.2} ms of {BREAKDOWN_RUNS} compilations", median(&wholes));
    for (stage, time) in stages {
        let share = 100.0 * ms(time) / sum;
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
    for (what, times) in [("choosing", choosing), ("compiling", compiling)] {
        let (slowest, name) = times.iter().max_by(|a, b| a.0.total_cmp(&b.0)).expect("there are cases");
        let median = median(&times.iter().map(|(ms, _)| *ms).collect::<Vec<_>>());
        let (part, cases) = (target.part, times.len());
        println!("{part}, {cases} cases, {what}: median {median:.2} ms, at most {slowest:.2} ms, of {name}");
    }
}

/// Runs of each case.
const CASE_RUNS: usize = 5;

/// The median in milliseconds.
fn median_of_runs(run: impl Fn()) -> f64 {
    let time = |_| {
        let start = Instant::now();
        run();
        ms(start.elapsed())
    };
    median(&(0..CASE_RUNS).map(time).collect::<Vec<_>>())
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
