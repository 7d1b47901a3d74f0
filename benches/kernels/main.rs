//! The kernels of the library on a GPU: the time of one run by the device's events, caches cleared before each.
//!
//! Without arguments it benches `../cases.json` with criterion; where `$TILEWRIGHT_BENCH_JSON` names a file, one
//! line of JSON a figure is added to it. With `--serve` it runs and times what the standard input asks for, a line
//! of JSON each way: `peers/peers.py` has our kernels measured so, beside others in one run.

mod gpu;
mod serve;

use autotune::measure::gpu::GpuBench;
use autotune::measure::problem::whole_input;
use autotune::measure::protocol::Opening;
use autotune::measure::stats::median;
use autotune::measure::{Bench, Fault};
use benches::cases::{Case, Per, cases};
use criterion::{Criterion, SamplingMode};
use gpu::{Ready, Session};
use serde_json::json;
use std::cell::RefCell;
use std::error::Error;
use std::io::Write;
use std::time::Duration;
/// The environment variable that names the file of figures.
const JSON_VARIABLE: &str = "TILEWRIGHT_BENCH_JSON";
/// The seed of the inputs.
const SEED: u64 = 7;
/// Bytes of the copy whose rate no kernel that streams can pass.
const COPY_BYTES: usize = 1 << 30;

fn main() {
    let session = match Session::open() {
        Ok(session) => session,
        Err(error) => {
            writeln!(std::io::stderr(), "SKIPPED kernels: {error}").expect("standard error is writable");
            return;
        }
    };
    if std::env::args().any(|arg| arg == "--serve") {
        return serve::serve(&session);
    }
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    copy(&mut criterion, &session);
    for case in cases() {
        if let Err(error) = kernel(&mut criterion, &session, &case) {
            println!("{}/{}: not measured: {error}", case.op, case.case);
        }
    }
    criterion.final_summary();
}

/// The ceiling of kernels that stream.
fn copy(criterion: &mut Criterion, session: &Session) {
    let mut time = |runs| session.time_copy(COPY_BYTES, runs).unwrap_or_else(|e| panic!("{e}"));
    if let Some(ms) = bench(criterion, "copy", "1 GiB", &mut time) {
        let rate = 2.0 * COPY_BYTES as f64 / ms / 1e6;
        figure(
            &json!({ "op": "copy", "case": "1 GiB", "ms": ms, "rate": rate, "unit": "GB/s", "device": session.name() }),
        );
    }
}

fn kernel(criterion: &mut Criterion, session: &Session, case: &Case) -> Result<(), Box<dyn Error>> {
    let subject = case.subject()?;
    let (contract, problem) = (subject.contract, &subject.problem);
    let choice = session.choose(&subject)?;
    let ready: RefCell<Option<Ready>> = RefCell::new(None);
    // Made when the first run is asked for: a filter may leave the case out.
    let mut time = |runs| -> Vec<f64> {
        let mut ready = ready.borrow_mut();
        let ready = ready.get_or_insert_with(|| {
            admit(case, &choice.config).unwrap_or_else(|e| panic!("{}/{}: {e}", case.op, case.case));
            let input = |spec: &_| whole_input(contract, problem, spec, SEED);
            session.prepare(&subject, &choice.config, input).unwrap_or_else(|e| panic!("{e}"))
        });
        session.time(ready, runs).unwrap_or_else(|e| panic!("{}/{}: {e}", case.op, case.case))
    };
    if let Some(ms) = bench(criterion, &case.op, &case.case, &mut time) {
        let (rate, unit) = match case.per {
            Per::Flop => (contract.flops(problem) / ms / 1e9, "TFLOP/s"),
            Per::Byte => (contract.bytes(problem) / ms / 1e6, "GB/s"),
        };
        figure(&json!({
            "op": case.op, "case": case.case, "ms": ms, "rate": rate, "unit": unit, "kernel": case.kernel,
            "config": autotune::subject::label(&choice.config), "origin": choice.origin, "device": session.name(),
        }));
    }
    Ok(())
}

/// The configuration's results agree with the kernel's reference, on a problem that the reference is quick on.
fn admit(case: &Case, config: &tile::Config) -> Result<(), String> {
    let opening =
        Opening { gpu: 0, kernel: case.kernel.clone(), dtype: case.dtype, sizes: case.sizes.clone() };
    let mut bench = GpuBench::default();
    let admitted = bench.open(&opening).and_then(|()| bench.admit(config, None));
    admitted.map_err(|fault| match fault {
        Fault::Candidate(reason) | Fault::Context(reason) | Fault::Bench(reason) => reason,
    })
}

/// Has criterion bench what `time` runs so many times, and gives the median of all runs in milliseconds; none when
/// nothing ran.
fn bench(
    criterion: &mut Criterion,
    op: &str,
    case: &str,
    time: &mut dyn FnMut(u64) -> Vec<f64>,
) -> Option<f64> {
    let mut all = Vec::new();
    let mut group = criterion.benchmark_group(op);
    group.sampling_mode(SamplingMode::Flat);
    group.bench_function(case, |bencher| {
        bencher.iter_custom(|runs| {
            let times = time(runs);
            all.extend_from_slice(&times);
            Duration::from_secs_f64(times.iter().sum::<f64>() / 1e3)
        });
    });
    group.finish();
    (!all.is_empty()).then(|| median(&all))
}

/// Prints a figure, and adds it to the file of figures where there is one.
fn figure(line: &serde_json::Value) {
    println!("{line}");
    let Some(path) = std::env::var_os(JSON_VARIABLE) else { return };
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
    if let Err(error) = file.and_then(|mut file| writeln!(file, "{line}")) {
        println!("{}: not written: {error}", path.to_string_lossy());
    }
}
