//! The sweep, `tile-tune` without a command.

use super::args::{Common, SweepArgs};
use super::table::{bytes, table, time};
use super::{assembler, print, print_json, subject, warn};
use crate::configs::{Configs, stale_warning};
use crate::error::TuneError;
use crate::journal::Journal;
use crate::platform::Platform;
use crate::record::{Outcome, Provenance, complete};
use crate::subject::{Subject, label};
use crate::sweep::{COMPILER, Sweep, SweepOptions, Trial, obstacle, sweep, to_record};
use codegen_ptx::{Ptxas, Target};
use indexmap::IndexMap;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::path::Path;
use std::time::Duration;
use tile::contract::contracts;
use tile_lang::Config;

pub fn run(common: &Common, configs: &Configs, args: &SweepArgs) -> Result<(), TuneError> {
    let Some(name) = &args.target else {
        return Err(TuneError::Usage("name a target to sweep for, such as --target sm_121; `tile-tune targets` lists them, `tile-tune --help` the commands".to_owned()));
    };
    let target = Target::from_name(name)?;
    let kernels: Vec<String> = match &args.kernel {
        Some(kernel) => vec![kernel.clone()],
        None => contracts().iter().map(|c| c.kernel().name.to_owned()).collect(),
    };
    if args.kernel.is_none() && (!args.subjects.shape().is_empty() || !args.subjects.set().is_empty()) {
        return Err(TuneError::Usage(
            "--shape and --set belong to one kernel; name it with --kernel".to_owned(),
        ));
    }
    let subjects: Result<Vec<Subject>, TuneError> =
        kernels.iter().map(|k| subject(k, &args.subjects)).collect();
    let ptxas = assembler(common)?;
    let mut documents = Vec::new();
    for subject in subjects? {
        documents.push(tune(common, configs, &subject, target, ptxas.as_ref(), &args.subjects.set())?);
    }
    if common.json {
        let document =
            if documents.len() == 1 { documents.remove(0) } else { json!({ "sweeps": documents }) };
        print_json(&document);
    }
    Ok(())
}

/// Sweeps one kernel, prints the table and writes the record.
fn tune(
    common: &Common,
    configs: &Configs,
    subject: &Subject,
    target: &'static Target,
    ptxas: Option<&Ptxas>,
    set: &IndexMap<String, i64>,
) -> Result<serde_json::Value, TuneError> {
    // Values are judged before anything runs; the result is of no further use.
    subject.set(&mut Config::default(), set)?;
    let platform = configs.platform(target)?;
    let path = configs.table_path(target.part, subject.kernel());
    let mut records = configs.table(subject, target)?;
    let hash = subject.source_hash();
    let stale = records.records.iter().filter(|r| r.is_stale(&hash));
    warn(&stale.map(|r| stale_warning(subject, r)).collect::<Vec<_>>());
    if ptxas.is_none() && !common.json {
        eprintln!(
            "warning: no ptxas found: registers and spills are unknown, ranking by the model alone; `./x setup` installs it"
        );
    }
    let space = subject.candidates()?;
    let dtype_fits = |d: Option<tile_lang::DType>| d.is_none_or(|d| d == subject.problem.dtype);
    let vendor = records
        .records
        .iter()
        .filter(|r| r.provenance == Provenance::VendorTable && dtype_fits(r.dtype))
        .filter_map(|r| complete(&r.config, &space, |c| obstacle(subject, target, platform, c)))
        .collect();

    // Values set by hand make a sweep of a part of the space, which is no record of the whole.
    let journal = match set.is_empty() {
        true => Some(Journal::open(
            configs.journal_path(target.part, subject.kernel()),
            key(subject, target, ptxas),
        )?),
        false => None,
    };
    let bar = progress_bar(common.json);
    let progress = |done: usize, total: usize| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    };
    bar.set_message(format!("{} for {}", subject.kernel(), target.part));
    let options = SweepOptions {
        target,
        platform,
        ptxas,
        vendor,
        pinned: set.clone(),
        journal: journal.as_ref(),
        progress: &progress,
    };
    let result = sweep(subject, &options)?;
    bar.finish_and_clear();

    let written = match (to_record(subject, &result, ptxas), set.is_empty()) {
        (Some(record), true) => {
            records.put(record);
            records.save(&path)?;
            Some(path.as_path())
        }
        _ => None,
    };
    if let Some(journal) = journal {
        journal.finish()?;
    }
    if !common.json {
        print(&render(subject, target, platform, ptxas, &result, written));
    }
    if result.best().is_none() {
        let first = result.trials.first();
        let reason = first.and_then(|t| Some(format!("{}: {}", label(&t.config), t.reason.as_ref()?)));
        return Err(TuneError::NoCandidate {
            kernel: subject.kernel().to_owned(),
            target: target.part.to_owned(),
            candidates: result.trials.len(),
            first: reason.unwrap_or_else(|| "the space is empty".to_owned()),
        });
    }
    Ok(json!({
        "kernel": subject.kernel(), "target": target.part, "platform": platform.name, "compiler": COMPILER,
        "assembler": ptxas.map(|p| p.version()), "dtype": subject.problem.dtype, "sizes": subject.problem.sizes,
        "bucket": subject.bucket(), "source_hash": hash, "seconds": result.elapsed.as_secs_f64(),
        "resumed": result.resumed, "best": result.best(), "record": written, "trials": result.trials,
    }))
}

/// What a finding in the journal depends on; another build of this program is another compiler.
fn key(subject: &Subject, target: &Target, ptxas: Option<&Ptxas>) -> String {
    let build = std::env::current_exe().and_then(std::fs::metadata).ok();
    let build = build.map(|m| (m.len(), m.modified().ok()));
    format!(
        "{} {} {:?} {:?} {COMPILER} {:?} {:?}",
        subject.source_hash(),
        target.name,
        subject.problem.dtype,
        subject.problem.sizes,
        build,
        ptxas.and_then(Ptxas::version),
    )
}

fn progress_bar(hidden: bool) -> ProgressBar {
    let bar = ProgressBar::new(0);
    if hidden {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    // The template is a constant; if it were wrong, the bar would keep its default look.
    if let Ok(style) =
        ProgressStyle::with_template("{msg} {bar:40} {pos}/{len} candidates, {elapsed}, {eta} left")
    {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn render(
    subject: &Subject,
    target: &Target,
    platform: &Platform,
    ptxas: Option<&Ptxas>,
    sweep: &Sweep,
    written: Option<&Path>,
) -> String {
    let sizes: Vec<String> =
        subject.problem.sizes.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let assembler = match ptxas {
        Some(ptxas) => format!(
            "ptxas {} ({})",
            ptxas.version().unwrap_or_else(|| "of unknown version".to_owned()),
            ptxas.found_by()
        ),
        None => "no assembler".to_owned(),
    };
    let mut text = format!(
        "{} for {} ({}), {} {}\n{COMPILER}, {assembler}; no GPU of this SM is used: times are predicted by the cost model\n",
        subject.kernel(),
        target.part,
        platform.name,
        subject.problem.dtype,
        sizes.join(" "),
    );
    let header =
        ["configuration", "registers", "smem", "spills", "occupancy", "predicted", "spread", "verdict"];
    let best = sweep.best();
    let rows = sweep.trials.iter().map(|trial| row(trial, best)).collect();
    text += &table(&header, rows, 1..7);
    let count = |outcome| sweep.trials.iter().filter(|t| t.outcome == outcome).count();
    text += &format!(
        "\n{} candidates in {:.1} s: {} ranked, {} pruned, {} await tcgen05, {} failed",
        sweep.trials.len(),
        sweep.elapsed.as_secs_f64(),
        count(Outcome::Ranked),
        count(Outcome::Pruned),
        count(Outcome::AwaitsTcgen05),
        count(Outcome::Failed),
    );
    if sweep.resumed > 0 {
        text += &format!("; {} taken over from an interrupted sweep", sweep.resumed);
    }
    text += "\n";
    if let (Some(best), Some(path)) = (best, written) {
        text += &format!("best: {}, written to {}\n", label(&best.config), path.display());
    }
    text
}

fn row(trial: &Trial, best: Option<&Trial>) -> Vec<String> {
    let unknown = || "-".to_owned();
    let resources = trial.resources;
    let verdict = match (trial.outcome, &trial.reason) {
        (Outcome::Ranked, _) if best == Some(trial) => "best".to_owned(),
        (Outcome::Ranked, _) => {
            let ratio = best.and_then(|b| Some(trial.time?.us / b.time?.us));
            ratio.map_or_else(|| "ranked".to_owned(), |r| format!("{r:.2}x the best"))
        }
        (Outcome::Pruned, Some(reason)) => format!("pruned: {reason}"),
        (Outcome::AwaitsTcgen05, Some(reason)) => format!("awaits tcgen05: {reason}"),
        (Outcome::Failed, Some(reason)) => format!("failed: {}", reason.lines().next().unwrap_or_default()),
        (_, None) => unknown(),
    };
    let vendor = if trial.vendor { "vendor table; " } else { "" };
    vec![
        label(&trial.config),
        resources.map_or_else(unknown, |r| r.registers.to_string()),
        trial.smem_bytes.map_or_else(unknown, bytes),
        resources.map_or_else(unknown, |r| format!("{} B", r.spill_bytes)),
        resources.map_or_else(
            || format!("-/{}", trial.config.occupancy),
            |r| format!("{}/{}", r.ctas_per_sm, trial.config.occupancy),
        ),
        trial.time.map_or_else(unknown, |t| time(t.us)),
        trial.time.map_or_else(unknown, |t| format!("{} .. {}", time(t.low_us), time(t.high_us))),
        format!("{vendor}{verdict}"),
    ]
}
