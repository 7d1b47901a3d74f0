//! Compiled kernels, from the disk where they are, and assembled where there is an assembler.

use super::disk::{DiskCache, Entry};
use super::{Jit, JitError, TensorFacts, compile};
use crate::registry::KernelDef;
use codegen_ptx::{Compiled, Ptxas, PtxasError, Target};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use tile_lang::{Bindings, Config};

/// A kernel ready for a driver.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// What code generation made.
    pub compiled: Compiled,
    /// Machine code, where an assembler took the PTX; the driver assembles it where not.
    pub cubin: Option<Vec<u8>>,
    /// Why something was not done that could have been.
    pub remarks: Vec<String>,
    /// It was on the disk.
    pub cached: bool,
}

impl From<Jit> for Artifact {
    /// The kernel as it was compiled, for the driver to assemble.
    fn from(jit: Jit) -> Artifact {
        Artifact { compiled: jit.compiled, cubin: None, remarks: Vec::new(), cached: false }
    }
}

/// An assembler and its release.
#[derive(Debug)]
pub struct Assembler {
    ptxas: Ptxas,
    version: String,
    /// It refused code that it is too old for, and is not asked again.
    too_old: AtomicBool,
}

impl Assembler {
    /// The assembler of this process: the one that [`Ptxas::find`] finds, looked for once; none when
    /// `TILEWRIGHT_PTXAS` is `off`.
    pub fn of_process() -> Option<&'static Assembler> {
        static FOUND: OnceLock<Option<Assembler>> = OnceLock::new();
        let find = || {
            let off =
                std::env::var_os(codegen_ptx::ptxas::PTXAS_VARIABLE).is_some_and(|value| value == "off");
            let found = if off { None } else { Ptxas::find(None).ok() };
            found.and_then(Assembler::new)
        };
        FOUND.get_or_init(find).as_ref()
    }

    /// An assembler; none when it does not say its release.
    pub fn new(ptxas: Ptxas) -> Option<Assembler> {
        let version = ptxas.version()?;
        Some(Assembler { ptxas, version, too_old: AtomicBool::new(false) })
    }

    fn is_too_old_for(&self, target: &Target) -> String {
        let (major, minor) = target.ptx_version;
        format!("the driver assembles: ptxas {} is too old for {target}, PTX {major}.{minor}", self.version)
    }

    fn assemble(&self, compiled: &Compiled) -> Assembled {
        if self.too_old.load(Ordering::Relaxed) {
            return Assembled::TooOld;
        }
        match self.ptxas.assemble(&compiled.ptx, compiled.target) {
            Ok(report) => Assembled::Code(report.cubin),
            Err(PtxasError::Rejected { log, .. }) if is_version_trouble(&log) => {
                self.too_old.store(true, Ordering::Relaxed);
                Assembled::TooOld
            }
            Err(error) => Assembled::Failed(error),
        }
    }
}

/// What an assembler makes of a kernel.
enum Assembled {
    Code(Vec<u8>),
    TooOld,
    Failed(PtxasError),
}

/// Whether an assembler refuses code for being newer than itself.
fn is_version_trouble(log: &str) -> bool {
    log.contains("Unsupported .version") || log.contains("is not defined for option 'gpu-name'")
}

/// This build of the compiler.
fn build() -> String {
    let (major, minor, patch) = codegen_ptx::llvm::version();
    format!("{} {} LLVM {major}.{minor}.{patch}", env!("CARGO_PKG_VERSION"), env!("TILEWRIGHT_BUILD"))
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("names and numbers have a text")
}

/// Everything that decides which code comes out, a line each.
fn cache_key(
    kernel: &'static KernelDef,
    bindings: &Bindings,
    config: &Config,
    target: &'static Target,
    facts: &[TensorFacts],
    assembler: Option<&Assembler>,
) -> String {
    let (major, minor) = target.ptx_version;
    let assembler = assembler.map_or("driver", |assembler| &assembler.version);
    [
        format!("compiler {}", build()),
        format!("kernel {}::{} {}", kernel.module_path, kernel.name, kernel.library().exact_hash()),
        format!("bindings {}", json(bindings)),
        format!("config {}", json(config)),
        format!("facts {}", json(&facts)),
        format!("target {} ptx {major}.{minor}", target.name),
        format!("assembler {assembler}"),
    ]
    .join("\n")
}

/// The code of a kernel for a target: from the disk, or compiled and kept there.
///
/// # Errors
/// As [`compile`].
pub fn obtain(
    kernel: &'static KernelDef,
    bindings: &Bindings,
    config: &Config,
    target: &'static Target,
    facts: &[TensorFacts],
    disk: Option<&DiskCache>,
    assembler: Option<&Assembler>,
) -> Result<Artifact, JitError> {
    let key = disk.map(|_| cache_key(kernel, bindings, config, target, facts, assembler));
    let kept = disk.zip(key.as_deref()).and_then(|(disk, key)| disk.get::<Compiled>(key));
    if let Some(Entry { kernel: compiled, cubin }) = kept {
        let refused = assembler.filter(|_| cubin.is_none());
        let remarks = refused.map(|assembler| assembler.is_too_old_for(target)).into_iter().collect();
        return Ok(Artifact { compiled, cubin, remarks, cached: true });
    }
    let compiled = compile(kernel, bindings, config, target, facts, false)?.compiled;
    let (mut remarks, mut keep) = (Vec::new(), true);
    let cubin = assembler.and_then(|assembler| match assembler.assemble(&compiled) {
        Assembled::Code(cubin) => Some(cubin),
        Assembled::TooOld => {
            remarks.push(assembler.is_too_old_for(target));
            None
        }
        Assembled::Failed(error) => {
            // What went wrong may not go wrong again.
            keep = false;
            remarks.push(format!("the driver assembles: {error}"));
            None
        }
    });
    let entry = Entry { kernel: compiled, cubin };
    if let Some((disk, key)) = disk.zip(key).filter(|_| keep)
        && let Err(error) = disk.put(&key, &entry)
    {
        remarks.push(format!("not kept in {}: {error}", disk.folder().display()));
    }
    Ok(Artifact { compiled: entry.kernel, cubin: entry.cubin, remarks, cached: false })
}
