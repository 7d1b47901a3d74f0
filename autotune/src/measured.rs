//! A sweep's ranked candidates measured: from the model's order to the GPU's.

use crate::cost::Timing;
use crate::error::TuneError;
use crate::journal::Journal;
use crate::measure::process::{WorkerCommand, WorkerProcess};
use crate::measure::protocol::Opening;
use crate::measure::search::{Search, Verdict};
use crate::measure::stats::{median, quantile, rank_correlation};
use crate::measure::{GpuFacts, Measurer};
use crate::record::{Measurement, ModelScore, Outcome};
use crate::subject::Subject;
use crate::sweep::{Sweep, Trial};
use serde::Serialize;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tile_lang::Config;

/// Where and how to measure.
pub struct MeasureOptions<'a> {
    /// Starts a process that measures.
    pub command: &'a WorkerCommand,
    /// The GPUs that share the work, all of one kind; at least one.
    pub gpus: &'a [GpuFacts],
    /// How long a candidate may keep a GPU busy.
    pub limit: Duration,
    /// When no further candidate is begun.
    pub deadline: Option<Instant>,
    /// Whether every candidate is measured to the end.
    pub exhaustive: bool,
    /// The configuration in use until now, which is measured first.
    pub incumbent: Option<&'a Config>,
    /// Keeps what was measured if the sweep is interrupted.
    pub journal: Option<&'a Journal>,
    /// Called with what is under way, how many candidates are done and how many there are.
    pub progress: &'a (dyn Fn(&'static str, usize, usize) + Sync),
}

/// The measured time of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Median and middle half of its last runs, had they been beside the winner's last ones: a GPU's clock drifts, so
    /// that times of different moments are compared through what ran beside them.
    pub time: Timing,
    /// How often it was run.
    pub runs: usize,
    /// Its time relative to the winner's.
    pub relative: f64,
}

/// What measuring adds to a sweep.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The kind of GPU.
    pub gpu: GpuFacts,
    /// How many GPUs shared the work.
    pub gpus: usize,
    /// For the record; none when no candidate was right.
    pub measurement: Option<Measurement>,
    /// How well the cost model foresaw the times.
    pub model: Option<ModelScore>,
}

/// Measures the ranked candidates of a sweep, puts their times in and orders the trials by them. A candidate that
/// fails keeps its reason, and fails alone.
///
/// # Errors
/// When every process that measures is lost, or the journal cannot be written.
pub fn measure(subject: &Subject, sweep: &mut Sweep, options: &MeasureOptions) -> Result<Report, TuneError> {
    let opening = |gpu: &GpuFacts| Opening {
        gpu: gpu.index,
        kernel: subject.kernel().to_owned(),
        dtype: subject.problem.dtype,
        sizes: subject.problem.sizes.clone(),
    };
    let process = |gpu: &GpuFacts| WorkerProcess::new(options.command.clone(), opening(gpu), options.limit);
    measure_with(options.gpus.iter().map(process).collect(), sweep, options)
}

fn measure_with<M: Measurer>(
    mut crew: Vec<M>,
    sweep: &mut Sweep,
    options: &MeasureOptions,
) -> Result<Report, TuneError> {
    let start = Instant::now();
    let gpu = &options.gpus[0];
    let gpus = crew.len();
    // The incumbent first: what is in use is what others are compared with.
    sweep.trials.sort_by_key(|trial| (trial.outcome, Some(&trial.config) != options.incumbent));
    let ranked = sweep.trials.iter().take_while(|t| t.outcome == Outcome::Ranked);
    let candidates: Vec<Config> = ranked.map(|trial| trial.config.clone()).collect();
    let place = format!("on {} {}", gpu.name, gpu.driver);
    let search = Search {
        journal: options.journal,
        place: &place,
        deadline: options.deadline,
        exhaustive: options.exhaustive,
        progress: options.progress,
    };
    let found = search.run(&mut crew, &candidates)?;
    let best_us = found.winner.as_ref().map_or(f64::NAN, |winner| median(&winner.times_us));
    for (index, (trial, verdict)) in sweep.trials.iter_mut().zip(&found.verdicts).enumerate() {
        match verdict {
            Verdict::Timed(timed) => {
                let relative = found.relative(index).unwrap_or(f64::NAN);
                let own = timing(&timed.times_us);
                let time = own.scaled(relative * best_us / own.us);
                trial.measured = Some(Measured { time, runs: timed.runs, relative });
            }
            Verdict::Refused(reason) => {
                (trial.outcome, trial.reason) = (Outcome::Failed, Some(reason.clone()));
            }
            Verdict::Unreached => {
                let reason = "not measured: the time was up before its turn".to_owned();
                (trial.outcome, trial.reason) = (Outcome::Pruned, Some(reason));
            }
        }
    }
    let model = score(&sweep.trials);
    let winner = found.winner.as_ref().map(|winner| sweep.trials.remove(winner.index));
    let relative = |t: &Trial| t.measured.map_or(f64::INFINITY, |m| m.relative);
    sweep.trials.sort_by(|a, b| a.outcome.cmp(&b.outcome).then(relative(a).total_cmp(&relative(b))));
    let measurement = winner.zip(found.winner).map(|(mut trial, winner)| {
        if let Some(measured) = &mut trial.measured {
            measured.time = timing(&winner.times_us);
        }
        sweep.trials.insert(0, trial);
        Measurement {
            date: date(SystemTime::now()),
            runs: winner.times_us.len(),
            candidates: sweep.trials.iter().filter(|t| t.measured.is_some()).count(),
            clock_mhz: gpu.clock_mhz,
            regret: winner.regret,
        }
    });
    sweep.elapsed += start.elapsed();
    Ok(Report { gpu: gpu.clone(), gpus, measurement, model })
}

/// Median and middle half.
fn timing(times_us: &[f64]) -> Timing {
    Timing { us: median(times_us), low_us: quantile(times_us, 0.25), high_us: quantile(times_us, 0.75) }
}

/// How well the predicted times foresaw the measured ones; none for fewer than three candidates.
fn score(trials: &[Trial]) -> Option<ModelScore> {
    let both = trials.iter().filter_map(|t| Some((t.time?.us, t.measured?.relative)));
    let (predicted, measured): (Vec<f64>, Vec<f64>) = both.unzip();
    let rank_correlation = rank_correlation(&predicted, &measured)?;
    let first = (0..predicted.len()).min_by(|&a, &b| predicted[a].total_cmp(&predicted[b]))?;
    let best = measured.iter().copied().fold(f64::INFINITY, f64::min);
    Some(ModelScore { rank_correlation, first_choice_loss: measured[first] / best - 1.0 })
}

/// The day of a time, in UTC.
///
/// # Source
/// Howard Hinnant, *chrono-compatible low-level date algorithms*, `civil_from_days`.
fn date(time: SystemTime) -> String {
    let days = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() / 86_400) + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months count from March.
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!("{:04}-{month:02}-{day:02}", year_of_era + era * 400 + later)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(predicted: f64, relative: Option<f64>) -> Trial {
        let time = |us| Timing { us, low_us: us, high_us: us };
        let measured = |relative| Measured { time: time(1.0), runs: 1, relative };
        Trial {
            config: Config::default(),
            vendor: false,
            outcome: Outcome::Ranked,
            reason: None,
            resources: None,
            smem_bytes: None,
            roles: Vec::new(),
            passes: Vec::new(),
            fit_limiter: None,
            limiter: None,
            time: Some(time(predicted)),
            measured: relative.map(measured),
        }
    }

    #[test]
    fn the_model_is_scored_on_what_was_measured() {
        let trials = [
            trial(5.0, None),
            trial(10.0, Some(1.2)),
            trial(11.0, Some(1.0)),
            trial(12.0, Some(1.3)),
            trial(13.0, Some(1.4)),
        ];
        let score = score(&trials).expect("a score");
        assert!((score.rank_correlation - 0.8).abs() < 1e-9, "{score:?}");
        assert!((score.first_choice_loss - 0.2).abs() < 1e-9, "{score:?}");
        assert_eq!(super::score(&trials[..3]), None);
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        let day = |seconds| date(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(day(0), "1970-01-01");
        assert_eq!(day(951_782_399), "2000-02-28");
        assert_eq!(day(951_782_400), "2000-02-29");
        assert_eq!(day(951_868_800), "2000-03-01");
        assert_eq!(day(1_795_219_200), "2026-11-21");
        assert_eq!(day(4_107_542_400), "2100-03-01");
    }
}
