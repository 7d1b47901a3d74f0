//! Tuned configurations for the launches of a program.
//!
//! ```no_run
//! use tile::prelude::*;
//! use tilegym_kernels::matmul;
//!
//! autotune::install(None)?;
//! let device = Device::cuda(0)?;
//! let lhs = TensorBuf::<bf16, 2>::zeros([4096, 4096]);
//! let rhs = TensorBuf::<bf16, 2>::zeros([4096, 4096]);
//! let config = matmul::tuned(&device, &lhs, &rhs)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::bucket::Bucket;
use crate::configs::Configs;
use crate::error::TuneError;
use crate::subject::Subject;
use crate::table::Table;
use codegen_ptx::Target;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tile::contract::{Problem, contracts};
use tile::registry::KernelDef;
use tile::tuning::{ConfigSource, InputDesc, set_source};
use tile::{Config, Device, LaunchError};

/// Problems whose configurations are remembered.
const MAX_REMEMBERED: usize = 4096;

/// Has every launch of this program that asks for its tuned configuration (`matmul::tuned(..)`) look it up in
/// tables: in `folder`, else in that of `$TILEWRIGHT_CONFIGS`, else in the nearest `configs` above the working
/// directory, else in the tables built into the program.
///
/// A configuration is looked for in this order: a record tuned for exactly the problem, one for its bucket, one for
/// any shape, the same of targets of the same family, then the cost model's choice, which is the contract's default
/// where the model sees no clear gain. Records of another version of
/// the kernel are passed over, which is said once on the standard error. Sizes that inputs do not show, such as
/// whether attention is causal, are taken at the contract's default. Kernels without a contract keep their default
/// configuration.
///
/// # Errors
/// When the platforms are no good, or tables are installed already.
pub fn install(folder: Option<&Path>) -> Result<(), TuneError> {
    let source = Source::open(folder, |warning| eprintln!("warning: {warning}"))?;
    set_source(Box::new(source)).map_err(|_| TuneError::Installed)
}

/// Tables as a program's launches see them.
pub struct Source {
    configs: Configs,
    warn: Box<dyn Fn(&str) + Send + Sync>,
    known: Mutex<Known>,
}

/// A kernel by name, on a part.
type Place = (&'static str, &'static str);

#[derive(Default)]
struct Known {
    tables: HashMap<Place, Vec<Table>>,
    chosen: HashMap<(Place, String), Config>,
    said: HashSet<String>,
}

impl Source {
    /// Opens the tables of a folder, as [`install`] finds it; `warn` is told of stale records, of each once.
    ///
    /// # Errors
    /// When the platforms are no good.
    pub fn open(
        folder: Option<&Path>,
        warn: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<Source, TuneError> {
        Ok(Source { configs: Configs::open(folder)?, warn: Box::new(warn), known: Mutex::default() })
    }

    /// The configuration for a problem on a target.
    ///
    /// # Errors
    /// When a table is no good.
    pub fn choose(&self, subject: &Subject, target: &'static Target) -> Result<Config, TuneError> {
        let place = (subject.kernel(), target.part);
        let exact = (place, key(subject, None));
        if let Some(config) = self.known().chosen.get(&exact) {
            return Ok(config.clone());
        }
        let read = self.known().tables.get(&place).cloned();
        let tables = match read {
            Some(tables) => tables,
            None => {
                let tables = self.configs.tables(subject, target)?;
                self.known().tables.insert(place, tables.clone());
                tables
            }
        };
        let (found, warnings) = self.configs.look_up(&tables, subject, target)?;
        for warning in warnings {
            if self.known().said.insert(warning.clone()) {
                (self.warn)(&warning);
            }
        }
        // The model is asked once a bucket, so that lengths that grow cost nothing.
        let bucket = (place, key(subject, Some(subject.bucket())));
        let foreseen = self.known().chosen.get(&bucket).cloned();
        let config = match (found, foreseen) {
            (Some(choice), _) => choice.config,
            (None, Some(config)) => config,
            (None, None) => {
                let config = self.configs.foresee(subject, target)?.config;
                self.known().chosen.insert(bucket, config.clone());
                config
            }
        };
        let mut known = self.known();
        if known.chosen.len() >= MAX_REMEMBERED {
            known.chosen.clear();
        }
        known.chosen.insert(exact, config.clone());
        Ok(config)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A problem, or the bucket that it is in, as a key.
fn key(subject: &Subject, bucket: Option<Bucket>) -> String {
    let Problem { dtype, sizes } = &subject.problem;
    match bucket {
        Some(bucket) => format!("{dtype} {bucket:?}"),
        None => format!("{dtype} {sizes:?}"),
    }
}

impl ConfigSource for Source {
    fn find(
        &self,
        kernel: &'static KernelDef,
        device: &Device,
        inputs: &[InputDesc],
    ) -> Result<Option<Config>, LaunchError> {
        let contract = contracts().into_iter().find(|c| std::ptr::eq(c.kernel(), kernel));
        let (Some(contract), Some(target)) = (contract, device.target()) else { return Ok(None) };
        let found: BTreeMap<_, _> =
            inputs.iter().map(|i| (i.name.to_owned(), (i.dtype, i.shape.clone()))).collect();
        // Inputs that make no problem are refused by the launch, which says more of them.
        let Ok(problem) = contract.from_inputs(&found, &indexmap::IndexMap::new()) else { return Ok(None) };
        let chosen = self.choose(&Subject { contract, problem }, target);
        let failed = |e: TuneError| LaunchError::Tuning { kernel: kernel.name, message: e.to_string() };
        // The order above ends here: what it chose for this target is refused on any other.
        let chosen = chosen.map(|config| Config { tuned_for: Some(target.part), ..config });
        chosen.map(Some).map_err(failed)
    }
}
