//! What the cost model is worth where nothing was measured: its predictions, as a launch makes them without compiling,
//! against every measured trial of the tables.

use crate::support::{repository_ptxas, skipped};
use autotune::choice::{foreseen, model_choice};
use autotune::configs::Configs;
use autotune::measure::stats::rank_correlation;
use autotune::record::{Provenance, Record};
use autotune::subject::{Subject, find_contract, label};
use codegen_ptx::{Ptxas, Target};
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use tile::contract::{Contract, contracts};
use tile_lang::{Config, DType};
// Linking the crate registers its kernels.
use tilegym_kernels as _;

/// The most that the choices of all records together may lose to the fastest trial, on average (a ratchet).
const MEAN_LOSS: f64 = 0.025;
/// The most that the choice of any record may lose (a ratchet).
const MOST_LOSS: f64 = 0.1;
/// The least mean rank correlation of predicted and measured times (a ratchet).
const MEAN_CORRELATION: f64 = 0.68;

/// The farthest that the time predicted for a record's configuration may be from the measured one, as a factor (a
/// ratchet).
const FARTHEST: f64 = 1.8;
/// The most records whose configuration may be taken to spill, or not to fit, though it runs (a ratchet).
const REFUSED: usize = 3;

/// How one record's trials were foreseen.
#[derive(Debug)]
struct Score {
    /// None where the predictions are all alike.
    correlation: Option<f64>,
    /// How much longer the trial with the least predicted time took than the fastest.
    loss: f64,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs")
}

fn configuration(values: &indexmap::IndexMap<String, i64>) -> Config {
    let mut config = Config::default();
    values.iter().for_each(|(name, value)| config.set(name, *value));
    config
}

/// The measured records of a kernel on a target, with their problems.
fn measured(
    configs: &Configs,
    target: &'static Target,
    contract: &'static dyn Contract,
) -> impl Iterator<Item = (Subject, Record)> {
    let any = Subject::new(contract, None, &indexmap::IndexMap::new()).expect("default sizes");
    let records = configs.table(&any, target).expect("a table").records.into_iter();
    records.filter(|record| record.provenance == Provenance::Measured).map(move |record| {
        let subject = Subject::new(contract, record.dtype, &record.tuned_at).expect("its problem");
        (subject, record)
    })
}

fn score(subject: &Subject, target: &'static Target, configs: &Configs, record: &Record) -> Score {
    let platform = configs.platform(target).expect("a platform");
    let (mut measured, mut predicted, mut refused) = (Vec::new(), Vec::new(), 0);
    let mut fastest = f64::INFINITY;
    for trial in &record.trials {
        let (Some(us), Some(_)) = (trial.us, trial.runs) else { continue };
        let config = configuration(&trial.config);
        fastest = fastest.min(us);
        match foreseen(subject, target, platform, &config) {
            Some(time) => {
                measured.push(us);
                predicted.push(time.us);
            }
            None => refused += 1,
        }
    }
    let least = predicted.iter().copied().fold(f64::INFINITY, f64::min);
    // Of equal predictions a launch takes whichever comes first: the slowest counts.
    let chosen = measured.iter().zip(&predicted).filter(|(_, p)| **p <= least * 1.000_001);
    let loss = chosen.map(|(us, _)| us / fastest - 1.0).fold(0.0, f64::max);
    let correlation = rank_correlation(&predicted, &measured);
    println!(
        "{} {:?}: correlation {correlation:.2?}, loss {:.1} %, {} trials, {refused} refused",
        subject.kernel(),
        record.tuned_at.values().collect::<Vec<_>>(),
        loss * 100.0,
        measured.len()
    );
    Score { correlation, loss }
}

#[test]
fn the_model_foresees_the_tables_as_well_as_it_did() {
    let configs = Configs::open(Some(&folder())).expect("tables");
    let target = Target::from_name("sm_90").expect("a target");
    let mut scores = Vec::new();
    for kernel in ["fmha", "matmul", "matmul_batched", "decode_attention"] {
        let contract = find_contract(kernel).expect("a kernel");
        for (subject, record) in measured(&configs, target, contract) {
            scores.push(score(&subject, target, &configs, &record));
        }
    }
    let mean = |of: fn(&Score) -> Option<f64>| {
        let known: Vec<f64> = scores.iter().filter_map(of).collect();
        known.iter().sum::<f64>() / known.len() as f64
    };
    let most = scores.iter().map(|s| s.loss).fold(0.0, f64::max);
    let (loss, correlation) = (mean(|s| Some(s.loss)), mean(|s| s.correlation));
    println!(
        "mean loss {:.1} %, most {:.1} %, mean correlation {correlation:.2}",
        loss * 100.0,
        most * 100.0
    );
    assert!(loss <= MEAN_LOSS && most <= MOST_LOSS, "mean loss {loss}, most {most}: {scores:?}");
    assert!(correlation >= MEAN_CORRELATION, "mean correlation {correlation}: {scores:?}");
}

/// The time that is predicted for each record's configuration is near the one that was measured.
#[test]
fn the_model_is_near_the_times_of_the_winners() {
    let configs = Configs::open(Some(&folder())).expect("tables");
    let target = Target::from_name("sm_90").expect("a target");
    let (platform, mut farthest) = (configs.platform(target).expect("a platform"), 1.0f64);
    let mut refused = 0;
    for contract in contracts() {
        for (subject, record) in measured(&configs, target, contract) {
            let measured = record.time.expect("a measured record has a time");
            let config = configuration(&record.config);
            let sizes: Vec<_> = record.tuned_at.values().collect();
            let Some(predicted) = foreseen(&subject, target, platform, &config) else {
                println!("{} {sizes:?}: {} is refused", subject.kernel(), label(&config));
                refused += 1;
                continue;
            };
            let factor = predicted.us / measured.us;
            println!("{} {sizes:?}: {:.1} us, {factor:.2} of it predicted", subject.kernel(), measured.us);
            farthest = farthest.max(factor).max(1.0 / factor);
        }
    }
    assert!(farthest <= FARTHEST, "a time is {farthest} times what is predicted, or the other way round");
    assert!(refused <= REFUSED, "{refused} winners are taken not to run");
}

/// What a launch without a record would take compiles, whatever the kernel and the target.
#[test]
fn every_choice_compiles() {
    let configs = Configs::open(Some(&folder())).expect("tables");
    let skinny =
        |m, n, k| ("nvfp4_gemm", vec![("m".to_owned(), m), ("n".to_owned(), n), ("k".to_owned(), k)]);
    let problems: Vec<_> = (contracts().into_iter())
        .map(|contract| (contract.kernel().name, Vec::new()))
        .chain([
            skinny(1, 37888, 3584),
            skinny(8, 3584, 18944),
            skinny(64, 8192, 8192),
            skinny(256, 3584, 18944),
        ])
        .collect();
    let on_targets =
        problems.par_iter().flat_map_iter(|problem| Target::all().iter().map(move |t| (problem, *t)));
    on_targets.for_each(|((kernel, sizes), target)| {
        let contract = find_contract(kernel).expect("a kernel");
        let subject = Subject::new(contract, None, &sizes.iter().cloned().collect()).expect("sizes");
        let choice = model_choice(&subject, target, configs.platform(target).expect("a platform"));
        let config = choice.expect("a space").unwrap_or_else(|| contract.default_config(&subject.problem));
        let built = subject.build(&config, target, false);
        built.unwrap_or_else(|e| panic!("{kernel} {sizes:?} for {target}: {e}"));
    });
}

/// The choice of a launch without a record, and the bytes that its threads spill.
fn assembled(subject: &Subject, target: &'static Target, configs: &Configs, ptxas: &Ptxas) -> (Config, u32) {
    let kernel = subject.kernel();
    let config = model_choice(subject, target, configs.platform(target).expect("a platform"));
    let config = config.expect("a space").expect("a choice");
    let builds = subject.build(&config, target, false).unwrap_or_else(|e| panic!("{kernel}: {e}"));
    let spilled = builds.iter().map(|build| {
        let report = ptxas.assemble(&build.compiled.ptx, target).unwrap_or_else(|e| panic!("{kernel}: {e}"));
        report.spill_store_bytes + report.spill_load_bytes
    });
    (config, spilled.sum())
}

#[test]
fn what_the_model_chooses_does_not_spill() {
    let Some(ptxas) = repository_ptxas() else {
        return skipped("what_the_model_chooses_does_not_spill", "no ptxas");
    };
    let ptxas = Ptxas::find(Some(Path::new(&ptxas))).expect("the assembler");
    let configs = Configs::open(Some(&folder())).expect("tables");
    let of_dtypes = [DType::F32, DType::F8E4M3FN]
        .into_iter()
        .flat_map(|dtype| ["matmul", "linear", "fmha"].map(|kernel| (kernel, Some(dtype), None)));
    let all = [
        ("fmha", None),
        ("fmha", Some(("head_dim", 64))),
        ("fmha", Some(("head_dim", 256))),
        ("fmha_extended", None),
        ("fmha_varlen", None),
        ("decode_attention", None),
        ("matmul", None),
        ("matmul_batched", None),
        ("matmul_splitk", None),
        ("linear", None),
        ("rms_norm", None),
        ("rms_norm", Some(("columns", 1024))),
        ("layer_norm", None),
        ("softmax", None),
        ("rope", None),
        ("silu_and_mul", None),
        ("nvfp4_gemm", None),
        ("nvfp4_gemm", Some(("m", 64))),
        ("nvfp4_gemm", Some(("m", 256))),
    ];
    let all: Vec<_> = all.into_iter().map(|(kernel, size)| (kernel, None, size)).chain(of_dtypes).collect();
    // Attention of f32 is taken to need fewer registers than it does: the choice for sm_80 spills 400 bytes.
    let is_known = |(kernel, dtype, _): &(&str, _, _), part: &str| {
        (*kernel, *dtype, part) == ("fmha", Some(DType::F32), "sm_80")
    };
    let on_targets = (all.par_iter())
        .flat_map_iter(|case| ["sm_80", "sm_90", "sm_121"].map(|part| (case, part)))
        .filter(|(case, part)| !is_known(case, part));
    on_targets.for_each(|((kernel, dtype, size), part)| {
        let sizes = size.iter().map(|(name, value): &(&str, i64)| ((*name).to_owned(), *value)).collect();
        let subject = Subject::new(find_contract(kernel).expect("a kernel"), *dtype, &sizes).expect("sizes");
        let target = Target::from_name(part).expect("a target");
        let (config, spilled) = assembled(&subject, target, &configs, &ptxas);
        assert_eq!(spilled, 0, "{kernel} {dtype:?} {size:?} for {part}: {}", label(&config));
    });
}
