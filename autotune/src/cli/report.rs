//! A sweep's table on the terminal.

use super::table::{bytes, table, time};
use crate::emulate::Emulated;
use crate::explain::registers_by_role;
use crate::measured::Report;
use crate::platform::Platform;
use crate::record::Outcome;
use crate::subject::{Subject, label};
use crate::sweep::{COMPILER, Sweep, Trial};
use codegen_ptx::{Ptxas, Target};
use std::path::Path;

/// A sweep that is done.
pub struct Swept<'a> {
    pub subject: &'a Subject,
    pub target: &'a Target,
    pub platform: &'a Platform,
    pub ptxas: Option<&'a Ptxas>,
    pub sweep: &'a Sweep,
    /// What measuring found, where it was measured.
    pub report: Option<&'a Report>,
    /// Why it was not.
    pub unmeasured: Option<&'a str>,
    /// What an emulated GPU said of the winner, where it was not.
    pub emulated: Option<&'a Emulated>,
    /// Where the record is.
    pub written: Option<&'a Path>,
    /// Whether the winner was to be written.
    pub recorded: bool,
}

pub fn render(swept: &Swept) -> String {
    let Swept { subject, target, sweep, report, .. } = swept;
    let sizes: Vec<String> =
        subject.problem.sizes.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let assembler = match swept.ptxas {
        Some(ptxas) => format!(
            "ptxas {} ({})",
            ptxas.version().unwrap_or_else(|| "of unknown version".to_owned()),
            ptxas.found_by()
        ),
        None => "no assembler".to_owned(),
    };
    let how = match (report, swept.unmeasured) {
        (Some(report), _) => {
            let others = if report.gpus > 1 { format!(", {} of them", report.gpus) } else { String::new() };
            format!("measured on {} (driver {}){others}", report.gpu.name, report.gpu.driver)
        }
        (None, Some(reason)) => format!("not measured ({reason}): times are predicted by the cost model"),
        (None, None) => "nothing to measure".to_owned(),
    };
    let mut text = format!(
        "{} for {} ({}), {} {}\n{COMPILER}, {assembler}; {how}\n",
        subject.kernel(),
        target.part,
        swept.platform.name,
        subject.problem.dtype,
        sizes.join(" "),
    );
    let best = sweep.best();
    let times: &[&str] = match report {
        Some(_) => &["measured", "middle half", "runs", "predicted"],
        None => &["predicted", "spread"],
    };
    let fixed = ["configuration", "registers", "smem", "spills", "occupancy"];
    let header = [&fixed, times, &["limiter", "verdict"]].concat();
    let rows = sweep.trials.iter().map(|trial| row(trial, best, report.is_some())).collect();
    text += &table(&header, rows, 1..header.len() - 2);
    text += &summary(swept);
    text
}

/// The lines below the table.
fn summary(swept: &Swept) -> String {
    let sweep = swept.sweep;
    let count = |outcome| sweep.trials.iter().filter(|t| t.outcome == outcome).count();
    let mut text = format!(
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
    if let Some(score) = swept.report.and_then(|report| report.model) {
        text += &format!(
            "cost model: rank correlation {:.2} with the measured times, its first choice {:.1} % slower than the best\n",
            score.rank_correlation,
            100.0 * score.first_choice_loss,
        );
    }
    let measurement = swept.report.and_then(|report| report.measurement.as_ref());
    if let Some(regret) = measurement.and_then(|m| m.regret) {
        text += &format!(
            "exhaustive: the choice without --exhaustive is {:.2} % slower than the best\n",
            100.0 * regret
        );
    }
    if let Some(best) = sweep.best() {
        text += &portrait(best);
    }
    if let Some(Emulated { target, sizes, error }) = swept.emulated {
        let sizes: Vec<String> = sizes.iter().map(|(name, value)| format!("{name}={value}")).collect();
        text += &match error {
            Some(error) => format!(
                "the best agrees with its reference on an emulated {target}: error {error:.2e} at {}\n",
                sizes.join(" ")
            ),
            None => {
                format!("the best was not checked: its code has what an emulated {target} does not know\n")
            }
        };
    }
    match (sweep.best(), swept.written) {
        (Some(best), Some(path)) => {
            text += &format!("best: {}, written to {}\n", label(&best.config), path.display());
        }
        (Some(_), None) if swept.recorded => {
            text += "not written: the table has a measured record of this bucket\n";
        }
        _ => {}
    }
    text
}

/// What holds the winner up, and the passes that did not fire for it, a line each.
fn portrait(best: &Trial) -> String {
    let mut text = String::new();
    if let Some(limiter) = best.limiter {
        text += &format!("the best is predicted to be limited by {limiter}");
        text += &match (best.resources, best.fit_limiter) {
            (Some(resources), Some(fit)) => {
                format!("; {} CTAs fit on an SM, more do not for want of {fit}\n", resources.ctas_per_sm)
            }
            _ => "\n".to_owned(),
        };
    }
    for note in best.passes.iter().filter(|note| !note.fired) {
        text += &format!("  {} did not fire: {}\n", note.pass, note.remarks.join("; "));
    }
    text
}

fn row(trial: &Trial, best: Option<&Trial>, is_measured: bool) -> Vec<String> {
    let unknown = || "-".to_owned();
    let us = |t: &Trial| t.measured.map_or(t.time, |m| Some(m.time)).map(|time| time.us);
    let resources = trial.resources;
    let verdict = match (trial.outcome, &trial.reason) {
        (Outcome::Ranked, _) if best == Some(trial) => "best".to_owned(),
        (Outcome::Ranked, _) => {
            let ratio = best.and_then(|b| Some(us(trial)? / us(b)?));
            ratio.map_or_else(|| "ranked".to_owned(), |r| format!("{r:.2}x the best"))
        }
        (Outcome::Pruned, Some(reason)) => format!("pruned: {reason}"),
        (Outcome::AwaitsTcgen05, Some(reason)) => format!("awaits tcgen05: {reason}"),
        (Outcome::Failed, Some(reason)) => format!("failed: {}", reason.lines().next().unwrap_or_default()),
        (_, None) => unknown(),
    };
    let vendor = if trial.vendor { "vendor table; " } else { "" };
    let spread = |t: crate::cost::Timing| format!("{} .. {}", time(t.low_us), time(t.high_us));
    let mut cells = vec![
        label(&trial.config),
        resources.map_or_else(unknown, |r| registers_by_role(r.registers, &trial.roles)),
        trial.smem_bytes.map_or_else(unknown, bytes),
        resources.map_or_else(unknown, |r| format!("{} B", r.spill_bytes)),
        resources.map_or_else(
            || format!("-/{}", trial.config.occupancy),
            |r| format!("{}/{}", r.ctas_per_sm, trial.config.occupancy),
        ),
    ];
    let predicted = trial.time.map_or_else(unknown, |t| time(t.us));
    match (is_measured, trial.measured) {
        (true, Some(m)) => cells.extend([time(m.time.us), spread(m.time), m.runs.to_string(), predicted]),
        (true, None) => cells.extend([unknown(), unknown(), unknown(), predicted]),
        (false, _) => cells.extend([predicted, trial.time.map_or_else(unknown, spread)]),
    }
    cells.push(trial.limiter.map_or_else(unknown, |limiter| limiter.to_string()));
    cells.push(format!("{vendor}{verdict}"));
    cells
}
