//! The sweep, `tile-tune` without a command.

use super::args::{Common, SweepArgs};
use super::report::{Swept, render};
use super::{assembler, print, print_json, subject, warn, worker};
use crate::configs::{Configs, stale_warning};
use crate::emulate::emulate;
use crate::error::TuneError;
use crate::journal::Journal;
use crate::measure::GpuFacts;
use crate::measure::process::WorkerCommand;
use crate::measured::{MeasureOptions, measure};
use crate::record::{Provenance, complete};
use crate::subject::{Subject, label};
use crate::sweep::{COMPILER, SweepOptions, obstacle, sweep, to_record};
use codegen_ptx::{Ptxas, Target};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::time::{Duration, Instant};
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
    let subjects = subjects?;
    // Values are judged before anything runs; the results are of no further use.
    for subject in &subjects {
        subject.set(&mut Config::default(), &args.subjects.set())?;
    }
    let ptxas = assembler(common)?;
    let command = worker::command(&args.measuring)?;
    let gpus = worker::gpus(&args.measuring, &command, target)?;
    let tools =
        Tools { ptxas: ptxas.as_ref(), command: &command, gpus: gpus.as_deref().map_err(|r| r.as_str()) };
    let mut documents = Vec::new();
    let mut failure = None;
    for subject in &subjects {
        // Of several kernels, one that fails is told of and leaves the others alone.
        match tune(common, configs, subject, target, &tools, args) {
            Ok(document) => documents.push(document),
            Err(error) => {
                if let Some(earlier) = failure.replace(error) {
                    eprintln!("error: {earlier}");
                }
            }
        }
    }
    if let Some(error) = failure {
        return Err(error);
    }
    if common.json {
        let document =
            if documents.len() == 1 { documents.remove(0) } else { json!({ "sweeps": documents }) };
        print_json(&document);
    }
    Ok(())
}

/// What a sweep works with.
struct Tools<'a> {
    ptxas: Option<&'a Ptxas>,
    command: &'a WorkerCommand,
    /// The GPUs to measure on, or why the model is asked.
    gpus: Result<&'a [GpuFacts], &'a str>,
}

/// Sweeps one kernel, prints the table and writes the record.
fn tune(
    common: &Common,
    configs: &Configs,
    subject: &Subject,
    target: &'static Target,
    tools: &Tools,
    args: &SweepArgs,
) -> Result<serde_json::Value, TuneError> {
    let (ptxas, set) = (tools.ptxas, args.subjects.set());
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

    // Values set by hand make a sweep of a part of the space, short enough to be made again.
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
    let mut result = sweep(subject, &options)?;
    let report = match tools.gpus {
        Ok(gpus) if result.best().is_some() => {
            let (now, _) = configs.look_up(std::slice::from_ref(&records), subject, target)?;
            let incumbent = now.map(|choice| choice.config);
            let progress = |phase: &'static str, done: usize, total: usize| {
                bar.set_message(format!("{} on {}: {phase}", subject.kernel(), gpus[0].name));
                bar.set_length(total as u64);
                bar.set_position(done as u64);
            };
            let measuring = &args.measuring;
            let options = MeasureOptions {
                command: tools.command,
                gpus,
                limit: Duration::from_secs_f64(measuring.time_limit),
                deadline: measuring.budget.map(|budget| Instant::now() + Duration::from_secs_f64(budget)),
                exhaustive: measuring.exhaustive,
                incumbent: incumbent.as_ref(),
                journal: journal.as_ref(),
                progress: &progress,
            };
            Some(measure(subject, &mut result, &options)?)
        }
        _ => None,
    };
    let emulated = match report {
        None => {
            bar.set_message(format!("{} on an emulated {}", subject.kernel(), target.name));
            emulate(subject, target, &mut result)
        }
        Some(_) => None,
    };
    bar.finish_and_clear();

    let record = to_record(subject, &result, ptxas, report.as_ref());
    let record = record.filter(|_| set.is_empty() || args.record);
    let is_new = record.is_some_and(|record| records.put(record));
    if is_new {
        records.save(&path)?;
    }
    let written = is_new.then_some(path.as_path());
    if let Some(journal) = journal {
        journal.finish()?;
    }
    if !common.json {
        let swept = Swept {
            subject,
            target,
            platform,
            ptxas,
            sweep: &result,
            report: report.as_ref(),
            unmeasured: tools.gpus.err(),
            emulated: emulated.as_ref(),
            written,
            recorded: set.is_empty() || args.record,
        };
        print(&render(&swept));
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
        "resumed": result.resumed, "measured": report, "not_measured": tools.gpus.err(), "emulated": emulated, "best": result.best(),
        "record": written, "trials": result.trials,
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
