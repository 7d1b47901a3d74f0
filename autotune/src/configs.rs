//! The `configs/` folder: where it is, the platforms in it, the tables of each kernel.

use crate::choice::model_choice;
use crate::error::TuneError;
use crate::files::{FileError, Source};
use crate::footprint::footprint;
use crate::platform::{BUILT_IN, Platform, parse_platforms, platform_of};
use crate::record::{Found, Match, Record, complete, lookup};
use crate::subject::{Subject, label};
use crate::sweep::obstacle;
use crate::table::{Misfit, Table};
use codegen_ptx::Target;
use std::path::{Path, PathBuf};
use tile_lang::Config;

include!(concat!(env!("OUT_DIR"), "/built_in_tables.rs"));

/// The environment variable that names the folder.
pub const CONFIGS_VARIABLE: &str = "TILEWRIGHT_CONFIGS";

/// A `configs/` folder and the platforms it describes.
#[derive(Clone, Debug)]
pub struct Configs {
    folder: PathBuf,
    /// Whether the folder was named or found; otherwise the tables built into this program are read.
    is_there: bool,
    platforms_file: PathBuf,
    platforms: Vec<Platform>,
}

/// How a configuration was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The configuration.
    pub config: Config,
    /// Where it is from, in words.
    pub origin: String,
    /// What a user should know, such as stale records that were passed over.
    pub warnings: Vec<String>,
}

impl Configs {
    /// Opens the folder: the one named, or that of the environment variable, or the `configs` of this directory or
    /// the nearest above it that has platforms. Where there is none, the tables and platforms built into this program
    /// are read; a folder without `platforms.toml` uses the built-in platforms.
    ///
    /// # Errors
    /// When `platforms.toml` is no good.
    pub fn open(named: Option<&Path>) -> Result<Configs, FileError> {
        let found = named.map(Path::to_owned).or_else(default_folder);
        let is_there = found.is_some();
        let folder = found.unwrap_or_else(|| "configs".into());
        let file = folder.join("platforms.toml");
        let source = if file.exists() { Source::read(&file)? } else { Source::new(&file, BUILT_IN) };
        Ok(Configs { platforms: parse_platforms(&source)?, folder, is_there, platforms_file: file })
    }

    /// Every platform.
    pub fn platforms(&self) -> &[Platform] {
        &self.platforms
    }

    /// The platform that stands for a target.
    ///
    /// # Errors
    /// [`TuneError::NoPlatform`].
    pub fn platform(&self, target: &Target) -> Result<&Platform, TuneError> {
        platform_of(&self.platforms, target.part).ok_or_else(|| TuneError::NoPlatform {
            path: self.platforms_file.clone(),
            target: target.part.to_owned(),
        })
    }

    /// The table of a kernel on a part.
    pub fn table_path(&self, part: &str, kernel: &str) -> PathBuf {
        self.folder.join(part).join(format!("{kernel}.toml"))
    }

    /// The journal of a sweep that is under way.
    pub fn journal_path(&self, part: &str, kernel: &str) -> PathBuf {
        self.folder.join(part).join(format!(".{kernel}.journal"))
    }

    /// Reads the table of a kernel on a target; where there is no folder, the one built into this program.
    ///
    /// # Errors
    /// With file and line, when something in it cannot be, tiles that the target has no room for among it.
    pub fn table(&self, subject: &Subject, target: &'static Target) -> Result<Table, TuneError> {
        let platform = self.platform(target)?;
        let candidates = subject.candidates()?;
        let fits = |record: &Record| {
            let config = complete(&record.config, &candidates, |_| ())?;
            misfit(subject, platform, record, &config)
        };
        let (schema, kernel) = (subject.schema(), subject.kernel());
        let built_in = BUILT_IN_TABLES.iter().find(|(part, name, _)| (*part, *name) == (target.part, kernel));
        let path = self.table_path(target.part, kernel);
        if let (false, Some((_, _, text))) = (self.is_there || path.exists(), built_in) {
            let file = Source::new(format!("built-in configs/{}/{kernel}.toml", target.part), *text);
            return Ok(Table::parse(&file, target.part, &schema, &fits)?);
        }
        Ok(Table::load(&path, target.part, &schema, &fits)?)
    }

    /// The tables that may have a kernel's configuration for a target: its own, then those of its family.
    ///
    /// # Errors
    /// When one is no good.
    pub fn tables(&self, subject: &Subject, target: &'static Target) -> Result<Vec<Table>, TuneError> {
        let family = Target::all().iter().copied().filter(|t| t.same_family(target) && t.part != target.part);
        std::iter::once(target).chain(family).map(|target| self.table(subject, target)).collect()
    }

    /// The configuration for a problem: from the target's table, its family's tables, or the cost model.
    ///
    /// # Errors
    /// When a table is no good.
    pub fn choose(&self, subject: &Subject, target: &'static Target) -> Result<Choice, TuneError> {
        let (found, warnings) = self.look_up(&self.tables(subject, target)?, subject, target)?;
        let choice = match found {
            Some(choice) => choice,
            None => self.foresee(subject, target)?,
        };
        Ok(Choice { warnings, ..choice })
    }

    /// The configuration that tables have for a problem, and what is to be said of stale records.
    ///
    /// # Errors
    /// When the kernel's space is declared wrongly, or no platform stands for the target.
    pub fn look_up(
        &self,
        tables: &[Table],
        subject: &Subject,
        target: &'static Target,
    ) -> Result<(Option<Choice>, Vec<String>), TuneError> {
        let problem = &subject.problem;
        let (found, stale) = lookup(tables, problem.dtype, &problem.sizes, &subject.source_hash());
        let warnings = stale.iter().map(|record| stale_warning(subject, record)).collect();
        let Some(found) = found else { return Ok((None, warnings)) };
        let (candidates, platform) = (subject.candidates()?, self.platform(target)?);
        let obstacle = |config: &Config| obstacle(subject, target, platform, config);
        let choice = complete(&found.record.config, &candidates, obstacle).map(|config| Choice {
            config,
            origin: origin(&found),
            warnings: Vec::new(),
        });
        Ok((choice, warnings))
    }

    /// The cost model's configuration for a problem.
    ///
    /// # Errors
    /// When the kernel's space is declared wrongly, or no platform stands for the target.
    pub fn foresee(&self, subject: &Subject, target: &'static Target) -> Result<Choice, TuneError> {
        let (config, origin) = match model_choice(subject, target, self.platform(target)?)? {
            Some(config) => (config, "cost model"),
            None => (subject.contract.default_config(&subject.problem), "default of the kernel"),
        };
        Ok(Choice { config, origin: origin.to_owned(), warnings: Vec::new() })
    }
}

/// A record that was tuned for another version of the kernel.
pub fn stale_warning(subject: &Subject, record: &Record) -> String {
    let kernel = subject.kernel();
    let found: String = record.source_hash.iter().flat_map(|h| h.chars()).take(12).collect();
    let now: String = subject.source_hash().chars().take(12).collect();
    format!(
        "stale record of {kernel} passed over: tuned for source {found}, the source is now {now}; sweep again"
    )
}

fn origin(found: &Found) -> String {
    let how = match found.how {
        Match::Exact => "this problem",
        Match::Bucket => "its bucket",
        Match::AnyShape => "any shape",
    };
    format!("table of {}, {} record for {how}", found.target, found.record.provenance)
}

/// Why a record's tiles cannot run on the platform however they are compiled. Registers do not count: what they
/// cannot hold, tensor memory may.
fn misfit(subject: &Subject, platform: &Platform, record: &Record, config: &Config) -> Option<Misfit> {
    let mut subject = subject.clone();
    subject.problem.dtype = record.dtype.unwrap_or(subject.problem.dtype);
    for (name, extent) in &record.shape {
        subject.problem.sizes.insert(name.clone(), extent.last);
    }
    if subject.contract.check(&subject.problem).is_err() {
        return None;
    }
    let launches = match subject.programs(config) {
        Ok(launches) => launches,
        Err(error) => {
            let allowed = "a configuration the kernel compiles with".to_owned();
            return Some(Misfit { found: format!("{} ({error})", label(config)), allowed });
        }
    };
    let stages = record.config.get("num_stages").map_or(1, |&s| s as u32);
    let smem = footprint(launches[0].program()).of_stages(stages).smem_bytes;
    (smem > platform.smem_per_cta_bytes).then(|| Misfit {
        found: format!("{}, which needs {smem} bytes of shared memory", label(config)),
        allowed: format!("at most {} bytes for a CTA of {}", platform.smem_per_cta_bytes, platform.target),
    })
}

/// The environment's folder, or the nearest `configs` with tables.
fn default_folder() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os(CONFIGS_VARIABLE).filter(|f| !f.is_empty()) {
        return Some(folder.into());
    }
    let here = std::env::current_dir().unwrap_or_default();
    here.ancestors().map(|a| a.join("configs")).find(|c| c.join("platforms.toml").is_file())
}
