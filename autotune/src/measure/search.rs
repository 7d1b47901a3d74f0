//! What is measured, how often, and when it is known well enough.
//!
//! A race: every candidate is timed a few times, and those that may still be the fastest are timed again, more
//! often, in rounds (the racing of Maron and Moore, *Hoeffding Races*, 1994, with the growing effort of successive
//! halving, Jamieson and Talwalkar 2016). Within a round:
//!
//! * Every contender is timed beside one **reference**, the fastest of the round before, run for run in turn. What
//!   counts is the ratio within each [`Pair`], so that a clock that drifts changes nothing.
//! * Its runs stop when the confidence interval of the median ratio ([`median_interval`]) lies above what the
//!   round lets pass, or is narrow; at the latest after the round's number of pairs.
//! * Those whose median ratio is within the round's slack of the best go on to the next. The first round, of few
//!   runs, takes the ratio of the shortest ones instead, since what disturbs a run makes it longer; and at least
//!   [`LEAST_CONTENDERS`] go on from it, in case one was lucky.
//!
//! The reference of the first round, the **anchor**, is the first candidate that agrees with the oracle; the
//! results of all others are compared with its results on the whole problem.

use super::share::{Failure, share, verdict};
use super::stats::{median, median_interval};
use super::{Measurer, Pair};
use crate::error::TuneError;
use crate::journal::Journal;
use crate::subject::{label, values};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tile_lang::Config;

/// A round: at most so many pairs a contender, and how much slower than the best one may be to go on.
struct Round {
    pairs: usize,
    slack: f64,
}

const ROUNDS: [Round; 3] =
    [Round { pairs: 3, slack: 0.10 }, Round { pairs: 16, slack: 0.03 }, Round { pairs: 48, slack: 0.0 }];
/// How many contenders go on from the first round at least.
const LEAST_CONTENDERS: usize = 8;
/// A median ratio whose interval is no wider than this is known.
const PRECISION: f64 = 0.005;
/// Pairs between two looks at the interval: as many as the first needs.
const BATCH: usize = 8;
/// Pairs of the winner beside itself, for the record.
const FINAL_PAIRS: usize = 16;

/// How to search.
pub struct Search<'a> {
    /// Keeps what was measured if the search is interrupted.
    pub journal: Option<&'a Journal>,
    /// What the times hold for beside the journal's key: the GPU and its driver.
    pub place: &'a str,
    /// When no further candidate is begun.
    pub deadline: Option<Instant>,
    /// Whether every candidate is measured as precisely as the winner, to see what the race loses.
    pub exhaustive: bool,
    /// Called after each candidate with what is under way, how many are done and how many there are.
    pub progress: &'a (dyn Fn(&'static str, usize, usize) + Sync),
}

/// What the search found of one candidate.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It is right, and was timed.
    Timed(Timed),
    /// It does not run, or is wrong.
    Refused(String),
    /// The time ran out before its turn.
    Unreached,
}

/// The times of a candidate.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timed {
    /// Its time relative to the reference of each round that it was in; after an exhaustive search relative to the
    /// anchor alone.
    pub ratios: Vec<f64>,
    /// Its times in the last of them, in microseconds.
    pub times_us: Vec<f64>,
    /// How often it was run.
    pub runs: usize,
}

/// What the search found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Of each candidate, in the order given.
    pub verdicts: Vec<Verdict>,
    /// The fastest, with its times beside itself; none when no candidate is right.
    pub winner: Option<Winner>,
}

impl Found {
    /// A candidate's time relative to the winner's, in the last round that it was in; never below 1.
    pub fn relative(&self, index: usize) -> Option<f64> {
        let ratios = |index: usize| match &self.verdicts[index] {
            Verdict::Timed(timed) => Some(&timed.ratios),
            _ => None,
        };
        let (own, best) = (ratios(index)?, ratios(self.winner.as_ref()?.index)?);
        Some(own.last()? / best.get(own.len() - 1)?)
    }
}

/// The fastest candidate.
#[derive(Clone, Debug)]
pub struct Winner {
    /// Which it is.
    pub index: usize,
    /// Its times, in microseconds.
    pub times_us: Vec<f64>,
    /// How much slower the race's choice is than the best of an exhaustive search, as a share.
    pub regret: Option<f64>,
}

/// An admission, as the journal keeps it.
#[derive(Serialize, Deserialize)]
struct Admission {
    refused: Option<String>,
}

impl Search<'_> {
    /// Searches the candidates, those likely to be fast first.
    ///
    /// # Errors
    /// When no measurer is left, or the journal cannot be written.
    pub fn run<M: Measurer>(&self, crew: &mut Vec<M>, candidates: &[Config]) -> Result<Found, TuneError> {
        let mut verdicts = vec![Verdict::Unreached; candidates.len()];
        let Some(anchor) = self.find_anchor(crew, candidates, &mut verdicts)? else {
            return Ok(Found { verdicts, winner: None });
        };
        self.survey(crew, candidates, anchor, &mut verdicts)?;
        let surveyed: Vec<usize> =
            (0..candidates.len()).filter(|&i| matches!(verdicts[i], Verdict::Timed(_))).collect();
        let mut index = self.race(crew, candidates, &surveyed, &mut verdicts)?;
        let mut regret = None;
        if self.exhaustive {
            let ratios = self.measure_all(crew, candidates, &surveyed, anchor, &mut verdicts)?;
            let best = (0..surveyed.len()).min_by(|&a, &b| ratios[a].total_cmp(&ratios[b]));
            if let (Some(best), Some(chosen)) = (best, surveyed.iter().position(|&i| i == index)) {
                regret = Some(ratios[chosen] / ratios[best] - 1.0);
                index = surveyed[best];
            }
        }
        let winner = &candidates[index];
        let finals = share(crew, &[winner], |measurer, winner| {
            self.time(measurer, winner, winner, "final", FINAL_PAIRS, None)
        })?;
        let times_us = match finals.into_iter().next() {
            Some(Ok(pairs)) => pairs.iter().flat_map(|p| [p.candidate_us, p.reference_us]).collect(),
            _ => times_of(&verdicts[index]),
        };
        Ok(Found { verdicts, winner: Some(Winner { index, times_us, regret }) })
    }

    /// The first candidate that agrees with the oracle.
    fn find_anchor<M: Measurer>(
        &self,
        crew: &mut Vec<M>,
        candidates: &[Config],
        verdicts: &mut [Verdict],
    ) -> Result<Option<usize>, TuneError> {
        for (index, config) in candidates.iter().enumerate() {
            if self.is_late() {
                break;
            }
            let admitted = share(crew, &[config], |measurer, config| self.admit(measurer, config, None))?;
            match admitted.into_iter().next() {
                Some(Ok(())) => {
                    verdicts[index] = Verdict::Timed(Timed::default());
                    return Ok(Some(index));
                }
                Some(Err(reason)) => verdicts[index] = Verdict::Refused(reason),
                None => {}
            }
        }
        Ok(None)
    }

    /// The first round: every candidate is admitted and timed beside the anchor.
    fn survey<M: Measurer>(
        &self,
        crew: &mut Vec<M>,
        candidates: &[Config],
        anchor: usize,
        verdicts: &mut [Verdict],
    ) -> Result<(), TuneError> {
        let others: Vec<usize> =
            (0..candidates.len()).filter(|&i| verdicts[i] == Verdict::Unreached).collect();
        let done = AtomicUsize::new(0);
        let beside = Mutex::new(Vec::new());
        let found = share(crew, &others, |measurer, &i| {
            let (config, anchor) = (&candidates[i], &candidates[anchor]);
            let verdict = if self.is_late() {
                Verdict::Unreached
            } else {
                match self.admit(measurer, config, Some(anchor))? {
                    Err(reason) => Verdict::Refused(reason),
                    Ok(()) => match self.time(measurer, config, anchor, "survey", ROUNDS[0].pairs, None)? {
                        Ok(pairs) => {
                            let mut timed = Timed::default();
                            timed.add(least_ratio(&pairs), pairs.iter().map(|p| p.candidate_us).collect());
                            lock(&beside).extend(pairs.iter().map(|p| p.reference_us));
                            Verdict::Timed(timed)
                        }
                        Err(reason) => Verdict::Refused(reason),
                    },
                }
            };
            (self.progress)("survey", done.fetch_add(1, Ordering::Relaxed) + 1, others.len());
            Ok(verdict)
        })?;
        for (i, verdict) in others.into_iter().zip(found) {
            verdicts[i] = verdict;
        }
        if let Verdict::Timed(timed) = &mut verdicts[anchor] {
            timed.add(1.0, lock(&beside).split_off(0));
        }
        Ok(())
    }

    /// The rounds after the first; gives the winner.
    fn race<M: Measurer>(
        &self,
        crew: &mut Vec<M>,
        candidates: &[Config],
        surveyed: &[usize],
        verdicts: &mut [Verdict],
    ) -> Result<usize, TuneError> {
        let mut contenders = surveyed.to_vec();
        for (number, round) in ROUNDS.iter().enumerate().skip(1) {
            let reference = fastest(&contenders, verdicts);
            let most = ratio_of(&verdicts[reference]) * (1.0 + ROUNDS[number - 1].slack);
            contenders.sort_by(|&a, &b| ratio_of(&verdicts[a]).total_cmp(&ratio_of(&verdicts[b])));
            let near = contenders.iter().take_while(|&&i| ratio_of(&verdicts[i]) <= most).count();
            contenders.truncate(if number == 1 { near.max(LEAST_CONTENDERS) } else { near });
            let others: Vec<usize> = contenders.iter().copied().filter(|&i| i != reference).collect();
            if others.is_empty() {
                return Ok(reference);
            }
            let done = AtomicUsize::new(0);
            let timed = share(crew, &others, |measurer, &i| {
                let phase = format!("round {number}");
                let limit = Some(1.0 + round.slack);
                let config = (&candidates[i], &candidates[reference]);
                let pairs = self.time(measurer, config.0, config.1, &phase, round.pairs, limit)?;
                (self.progress)("race", done.fetch_add(1, Ordering::Relaxed) + 1, others.len());
                Ok(pairs)
            })?;
            let mut beside = Vec::new();
            for (&i, pairs) in others.iter().zip(&timed) {
                match (&mut verdicts[i], pairs) {
                    (Verdict::Timed(timed), Ok(pairs)) => {
                        timed.add(median_ratio(pairs), pairs.iter().map(|p| p.candidate_us).collect());
                        beside.extend(pairs.iter().map(|p| p.reference_us));
                    }
                    (verdict, Err(reason)) => *verdict = Verdict::Refused(reason.clone()),
                    _ => {}
                }
            }
            if let Verdict::Timed(timed) = &mut verdicts[reference] {
                timed.add(1.0, beside);
            }
            contenders.retain(|&i| matches!(verdicts[i], Verdict::Timed(_)));
        }
        Ok(fastest(&contenders, verdicts))
    }

    /// Every surveyed candidate beside the anchor, until its ratio is known precisely.
    fn measure_all<M: Measurer>(
        &self,
        crew: &mut Vec<M>,
        candidates: &[Config],
        surveyed: &[usize],
        anchor: usize,
        verdicts: &mut [Verdict],
    ) -> Result<Vec<f64>, TuneError> {
        let most = ROUNDS[ROUNDS.len() - 1].pairs;
        let done = AtomicUsize::new(0);
        let timed = share(crew, surveyed, |measurer, &i| {
            let pairs = self.time(
                measurer,
                &candidates[i],
                &candidates[anchor],
                "exhaustive",
                most,
                Some(f64::INFINITY),
            )?;
            (self.progress)("exhaustive", done.fetch_add(1, Ordering::Relaxed) + 1, surveyed.len());
            Ok(pairs)
        })?;
        let mut ratios = Vec::new();
        for (&i, pairs) in surveyed.iter().zip(timed) {
            let ratio = match (&mut verdicts[i], pairs) {
                (Verdict::Timed(timed), Ok(pairs)) => {
                    let ratio = median_ratio(&pairs);
                    timed.ratios.clear();
                    timed.add(ratio, pairs.iter().map(|p| p.candidate_us).collect());
                    ratio
                }
                (verdict, Err(reason)) => {
                    *verdict = Verdict::Refused(reason);
                    f64::INFINITY
                }
                _ => f64::INFINITY,
            };
            ratios.push(ratio);
        }
        Ok(ratios)
    }

    /// Admits a candidate, unless the journal knows what came of it.
    fn admit<M: Measurer>(
        &self,
        measurer: &mut M,
        config: &Config,
        anchor: Option<&Config>,
    ) -> Result<Result<(), String>, Failure> {
        let stage = format!("admit {}", self.place);
        let known: Vec<Admission> = self.journal.map_or_else(Vec::new, |j| j.find(&stage, &values(config)));
        if let Some(admission) = known.into_iter().next_back() {
            return Ok(admission.refused.map_or(Ok(()), Err));
        }
        let result = verdict(measurer.admit(config, anchor))?;
        if let Some(journal) = self.journal {
            let refused = result.as_ref().err().cloned();
            journal.add(&stage, &values(config), &Admission { refused })?;
        }
        Ok(result)
    }

    /// Pairs of a candidate and a reference, those in the journal among them: `most`, or fewer with a `limit`, when
    /// the ratio is known to be above it or known precisely.
    fn time<M: Measurer>(
        &self,
        measurer: &mut M,
        config: &Config,
        reference: &Config,
        phase: &str,
        most: usize,
        limit: Option<f64>,
    ) -> Result<Result<Vec<Pair>, String>, Failure> {
        let stage = format!("{phase} {} beside {}", self.place, label(reference));
        let known: Vec<Vec<Pair>> = self.journal.map_or_else(Vec::new, |j| j.find(&stage, &values(config)));
        let mut pairs: Vec<Pair> = known.into_iter().flatten().collect();
        while pairs.len() < most && !limit.is_some_and(|limit| is_decided(&pairs, limit)) {
            let batch = match limit {
                Some(_) => BATCH.min(most - pairs.len()),
                None => most - pairs.len(),
            };
            match verdict(measurer.time(config, reference, batch))? {
                Ok(more)
                    if !more.is_empty() && more.iter().all(|p| p.ratio().is_finite() && p.ratio() > 0.0) =>
                {
                    if let Some(journal) = self.journal {
                        journal.add(&stage, &values(config), &more)?;
                    }
                    pairs.extend(more);
                }
                Ok(_) => return Ok(Err("its times make no sense".to_owned())),
                Err(reason) => return Ok(Err(reason)),
            }
        }
        Ok(Ok(pairs))
    }

    fn is_late(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

impl Timed {
    /// Adds a round.
    fn add(&mut self, ratio: f64, times_us: Vec<f64>) {
        self.ratios.push(ratio);
        self.runs += times_us.len();
        self.times_us = times_us;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the median ratio is known to be above `limit`, or known precisely.
fn is_decided(pairs: &[Pair], limit: f64) -> bool {
    let ratios: Vec<f64> = pairs.iter().map(Pair::ratio).collect();
    median_interval(&ratios).is_some_and(|i| i.low > limit || i.high - i.low <= PRECISION)
}

fn median_ratio(pairs: &[Pair]) -> f64 {
    median(&pairs.iter().map(Pair::ratio).collect::<Vec<_>>())
}

/// The shortest time of the candidate relative to the shortest of the reference.
fn least_ratio(pairs: &[Pair]) -> f64 {
    let least = |time: fn(&Pair) -> f64| pairs.iter().map(time).fold(f64::INFINITY, f64::min);
    least(|p| p.candidate_us) / least(|p| p.reference_us)
}

fn ratio_of(verdict: &Verdict) -> f64 {
    match verdict {
        Verdict::Timed(timed) => timed.ratios.last().copied().unwrap_or(f64::INFINITY),
        _ => f64::INFINITY,
    }
}

fn times_of(verdict: &Verdict) -> Vec<f64> {
    match verdict {
        Verdict::Timed(timed) => timed.times_us.clone(),
        _ => Vec::new(),
    }
}

/// The contender with the least ratio of the last round; of equal ones the first.
fn fastest(contenders: &[usize], verdicts: &[Verdict]) -> usize {
    let least = |a: &&usize, b: &&usize| ratio_of(&verdicts[**a]).total_cmp(&ratio_of(&verdicts[**b]));
    contenders.iter().min_by(least).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Refusal;
    use tile::contract::Draws;

    /// A GPU whose times are drawn around true ones, with a clock that drifts and runs that are disturbed.
    struct Simulated {
        draws: Draws,
        true_us: Vec<f64>,
        drift: f64,
        runs: usize,
        wrong: Vec<usize>,
    }

    impl Simulated {
        fn run_us(&mut self, config: &Config) -> f64 {
            self.runs += 1;
            self.drift = (self.drift + 0.002 * self.draws.normal()).clamp(-0.2, 0.2);
            let disturbed = if self.draws.below(40) == 0 { 1.5 } else { 1.0 };
            self.true_us[index(config)] * (1.0 + self.drift) * (0.01 * self.draws.normal()).exp() * disturbed
        }
    }

    impl Measurer for Simulated {
        fn admit(&mut self, config: &Config, anchor: Option<&Config>) -> Result<(), Refusal> {
            assert!(anchor.is_none_or(|a| !self.wrong.contains(&index(a))), "a wrong anchor");
            if self.wrong.contains(&index(config)) {
                return Err(Refusal::Candidate("wrong".to_owned()));
            }
            Ok(())
        }

        fn time(&mut self, config: &Config, reference: &Config, pairs: usize) -> Result<Vec<Pair>, Refusal> {
            assert!(!self.wrong.contains(&index(config)), "what is wrong is not timed");
            let pair = |_| Pair { candidate_us: self.run_us(config), reference_us: self.run_us(reference) };
            Ok((0..pairs).map(pair).collect())
        }
    }

    fn index(config: &Config) -> usize {
        config.get("I").unwrap_or_default() as usize
    }

    fn candidates(count: usize) -> Vec<Config> {
        let config = |i| {
            let mut config = Config::default();
            config.set("I", i as i64);
            config
        };
        (0..count).map(config).collect()
    }

    fn quiet() -> Search<'static> {
        Search { journal: None, place: "", deadline: None, exhaustive: false, progress: &|_, _, _| {} }
    }

    /// A space whose times spread over a factor of four, several of them near the best.
    fn simulated(seed: u64, count: usize) -> Simulated {
        let mut draws = Draws::new(seed);
        let true_us = (0..count).map(|_| 100.0 * (1.0 + 0.6 * draws.normal().abs())).collect();
        Simulated { draws, true_us, drift: 0.0, runs: 0, wrong: Vec::new() }
    }

    #[test]
    fn the_winner_is_within_two_percent_of_the_best_at_a_fraction_of_the_runs() {
        for seed in 0..40 {
            let (mut crew, all) = (vec![simulated(seed, 150)], candidates(150));
            let found = quiet().run(&mut crew, &all).unwrap_or_else(|e| panic!("{e}"));
            let winner = found.winner.as_ref().expect("a winner").index;
            let best = crew[0].true_us.iter().copied().fold(f64::INFINITY, f64::min);
            let regret = crew[0].true_us[winner] / best - 1.0;
            assert!(regret <= 0.02, "seed {seed}: {regret}");
            let exhaustive = 2 * 48 * 150;
            let relative: Vec<f64> = (0..all.len()).filter_map(|i| found.relative(i)).collect();
            assert!(relative.len() == all.len() && relative.iter().all(|&r| r >= 1.0), "seed {seed}");
            assert!(crew[0].runs * 4 < exhaustive, "seed {seed}: {} of {exhaustive}", crew[0].runs);
        }
    }

    #[test]
    fn an_exhaustive_search_tells_the_regret_of_the_race() {
        let (mut crew, all) = (vec![simulated(3, 60), simulated(3, 60)], candidates(60));
        let search = Search { exhaustive: true, ..quiet() };
        let found = search.run(&mut crew, &all).unwrap_or_else(|e| panic!("{e}"));
        let winner = found.winner.expect("a winner");
        let regret = winner.regret.expect("a regret");
        assert!((0.0..0.02).contains(&regret), "{regret}");
        let best = crew[0].true_us.iter().copied().fold(f64::INFINITY, f64::min);
        assert!(crew[0].true_us[winner.index] / best < 1.01);
        assert!(found.verdicts.iter().all(|v| matches!(v, Verdict::Timed(t) if t.runs >= BATCH)));
        assert_eq!(quiet().run(&mut crew, &all).expect("found").winner.expect("a winner").regret, None);
    }

    #[test]
    fn wrong_candidates_never_win_and_are_no_anchor() {
        let mut measurer = simulated(8, 20);
        measurer.true_us[0] = 1.0;
        measurer.true_us[7] = 2.0;
        measurer.wrong = vec![0, 7];
        let (mut crew, all) = (vec![measurer], candidates(20));
        let found = quiet().run(&mut crew, &all).unwrap_or_else(|e| panic!("{e}"));
        let refused: Vec<usize> =
            (0..20).filter(|&i| found.verdicts[i] == Verdict::Refused("wrong".to_owned())).collect();
        assert_eq!(refused, [0, 7]);
        crew[0].wrong = (0..20).collect();
        assert!(quiet().run(&mut crew, &all).expect("found").winner.is_none());
    }

    #[test]
    fn one_candidate_wins_and_no_time_reaches_none() {
        let (mut crew, all) = (vec![simulated(1, 1)], candidates(1));
        let winner = quiet().run(&mut crew, &all).expect("found").winner.expect("a winner");
        assert_eq!((winner.index, winner.times_us.len()), (0, 2 * FINAL_PAIRS));
        let search = Search { deadline: Some(Instant::now()), ..quiet() };
        let found = search.run(&mut crew, &all).expect("found");
        assert!(found.winner.is_none() && found.verdicts == [Verdict::Unreached]);
    }

    #[test]
    fn a_search_that_was_cut_short_is_resumed_without_measuring_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = || Journal::open(folder.path().join("journal"), "key".to_owned()).expect("opens");
        let all = candidates(30);
        let run = |journal: &Journal, crew: &mut Vec<Simulated>| {
            let search = Search { journal: Some(journal), ..quiet() };
            search.run(crew, &all).map(|found| found.winner.expect("a winner").index)
        };
        let mut crew = vec![simulated(4, 30)];
        let winner = run(&open(), &mut crew).expect("a winner");
        let whole = crew[0].runs;

        // What a killed search leaves: any number of whole lines, and perhaps a part of one.
        let text = std::fs::read_to_string(folder.path().join("journal")).expect("text");
        for share in [0.3, 0.8, 1.0] {
            let cut = (text.len() as f64 * share) as usize;
            std::fs::write(folder.path().join("journal"), &text[..cut]).expect("written");
            let mut crew = vec![simulated(4, 30)];
            let again = run(&open(), &mut crew).expect("a winner");
            let left = whole as f64 * (1.0 - share);
            // Bytes of the journal stand for runs roughly.
            assert!(crew[0].runs as f64 <= left * 2.0, "{share}: {} of {whole}", crew[0].runs);
            assert!(share < 1.0 || again == winner);
        }
    }
}
