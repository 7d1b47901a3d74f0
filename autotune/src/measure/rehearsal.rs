//! Made-up GPUs whose times and mishaps are in a file: a sweep is rehearsed on them where there is no GPU.

use super::protocol::Opening;
use super::{Bench, Fault, GpuFacts, Pair};
use crate::files::FileError;
use serde::Deserialize;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tile::contract::Draws;
use tile_lang::Config;

/// What a rehearsal's file holds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Script {
    /// The GPUs.
    gpu: Vec<GpuFacts>,
    /// What a configuration takes that no rule names, in microseconds.
    us: f64,
    /// Spread of the times around the true ones, as a share.
    #[serde(default)]
    noise: f64,
    /// What changes the time, or ends the process.
    #[serde(default)]
    rule: Vec<Rule>,
    /// A line is added to this file for each request.
    #[serde(default)]
    log: Option<PathBuf>,
    /// How long a request takes, in milliseconds.
    #[serde(default)]
    pause_ms: u64,
}

/// Holds for the configurations with all of `when`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    when: indexmap::IndexMap<String, i64>,
    /// How many times as long they take.
    #[serde(default)]
    times: Option<f64>,
    /// What becomes of those who run them.
    #[serde(default)]
    mishap: Option<Mishap>,
    /// On this GPU alone.
    #[serde(default)]
    gpu: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mishap {
    /// The result is wrong.
    Disagrees,
    /// The kernel never ends.
    Hangs,
    /// The kernel takes the context with it.
    BreaksContext,
    /// The process is killed.
    Crashes,
    /// The device is gone.
    LosesDevice,
}

/// A [`Bench`] that makes its times up.
pub struct Rehearsal {
    script: Script,
    gpu: usize,
    draws: Draws,
}

impl Rehearsal {
    /// Reads a rehearsal's file, TOML.
    ///
    /// # Errors
    /// When it cannot be read, or something in it is not known.
    pub fn load(path: &Path) -> Result<Rehearsal, FileError> {
        let script = crate::files::Source::read(path)?.parse()?;
        Ok(Rehearsal { script, gpu: 0, draws: Draws::new(std::process::id().into()) })
    }

    fn rules<'a>(&'a self, config: &'a Config) -> impl Iterator<Item = &'a Rule> {
        let holds = |rule: &&Rule| rule.when.iter().all(|(name, v)| config.get(name) == Some(*v));
        self.script.rule.iter().filter(holds).filter(|rule| rule.gpu.is_none_or(|gpu| gpu == self.gpu))
    }

    fn suffer(&self, config: &Config, request: &str) -> Result<(), Fault> {
        std::thread::sleep(Duration::from_millis(self.script.pause_ms));
        if let Some(path) = &self.script.log {
            let failed = |e: std::io::Error| Fault::Bench(format!("{}: {e}", path.display()));
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            let line = format!("{} {request} {}\n", self.gpu, crate::subject::label(config));
            file.and_then(|mut file| file.write_all(line.as_bytes())).map_err(failed)?;
        }
        match self.rules(config).find_map(|rule| rule.mishap) {
            None => Ok(()),
            Some(Mishap::Disagrees) => Err(Fault::Candidate("differs from the reference".to_owned())),
            Some(Mishap::BreaksContext) => Err(Fault::Context("an illegal memory access".to_owned())),
            Some(Mishap::LosesDevice) => Err(Fault::Bench("the device has fallen off the bus".to_owned())),
            Some(Mishap::Crashes) => std::process::abort(),
            Some(Mishap::Hangs) => loop {
                std::thread::sleep(Duration::from_secs(3600));
            },
        }
    }

    fn run_us(&mut self, config: &Config) -> f64 {
        let factor: f64 = self.rules(config).filter_map(|rule| rule.times).product();
        self.script.us * factor * (self.script.noise * self.draws.normal()).exp()
    }
}

impl Bench for Rehearsal {
    fn gpus(&mut self) -> Result<Vec<GpuFacts>, Fault> {
        Ok(self.script.gpu.clone())
    }

    fn open(&mut self, opening: &Opening) -> Result<(), Fault> {
        self.gpu = opening.gpu;
        Ok(())
    }

    fn admit(&mut self, config: &Config, _: Option<&Config>) -> Result<(), Fault> {
        self.suffer(config, "admit")
    }

    fn time(&mut self, config: &Config, reference: &Config, pairs: usize) -> Result<Vec<Pair>, Fault> {
        self.suffer(config, "time")?;
        let pair = |_| Pair { candidate_us: self.run_us(config), reference_us: self.run_us(reference) };
        Ok((0..pairs).map(pair).collect())
    }
}
