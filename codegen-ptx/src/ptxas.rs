//! NVIDIA's assembler, where it is installed: from PTX to a cubin and a report of what the kernel takes.

use crate::target::Target;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

/// The environment variable that names the assembler; launches take `off` for none.
pub const PTXAS_VARIABLE: &str = "TILEWRIGHT_PTXAS";

/// How deep below a `tools` folder the assembler is looked for.
const TOOLS_DEPTH: usize = 6;

/// An assembler on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ptxas {
    path: PathBuf,
    found_by: FoundBy,
}

/// How an assembler was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundBy {
    /// It was named on the command line.
    Flag,
    /// The environment variable `TILEWRIGHT_PTXAS` names it.
    Environment,
    /// It is on the `PATH`.
    Path,
    /// It is in a `tools` folder of this directory or one above it.
    Tools,
}

/// What a kernel takes, as the assembler reports it, and the assembled code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes that a thread stores because registers ran out.
    pub spill_store_bytes: u32,
    /// Bytes that a thread loads because registers ran out.
    pub spill_load_bytes: u32,
    /// Bytes of local memory of a thread.
    pub stack_bytes: u32,
    /// Bytes of static shared memory; what a launch adds is not known here.
    pub smem_bytes: u32,
    /// Named barriers.
    pub barriers: u32,
    /// The cubin.
    pub cubin: Vec<u8>,
}

/// Why there is no cubin.
#[derive(Debug, thiserror::Error)]
pub enum PtxasError {
    /// No assembler is installed.
    #[error(
        "no ptxas: give its path, set {PTXAS_VARIABLE}, put it on the PATH, or install it with `./x setup` (PyPI package nvidia-cuda-nvcc)"
    )]
    NotFound,
    /// The named assembler does not exist.
    #[error("there is no ptxas at {}", .path.display())]
    Missing {
        /// Where it was said to be.
        path: PathBuf,
    },
    /// No disassembler is installed.
    #[error("no nvdisasm beside {} or on the PATH; install it with `./x setup` (PyPI package nvidia-cuda-nvdisasm)", .ptxas.display())]
    NoDisassembler {
        /// The assembler in use.
        ptxas: PathBuf,
    },
    /// The PTX does not assemble. It is kept, so that the command can be repeated.
    #[error("ptxas refuses the code for {target}:\n{log}\nrepeat with: {command}")]
    Rejected {
        /// What the code is for.
        target: &'static str,
        /// What the assembler says.
        log: String,
        /// The command, on a file that was kept.
        command: String,
    },
    /// The report lacks a line that it should have.
    #[error("ptxas's report does not say how many registers the kernel takes:\n{log}")]
    Report {
        /// The report.
        log: String,
    },
    /// A file could not be written or a program not started.
    #[error("{action}: {source}")]
    Io {
        /// What was attempted.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl fmt::Display for FoundBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FoundBy::Flag => "command line",
            FoundBy::Environment => PTXAS_VARIABLE,
            FoundBy::Path => "PATH",
            FoundBy::Tools => "tools folder",
        })
    }
}

impl Ptxas {
    /// Looks for an assembler: `flag`, the environment variable `TILEWRIGHT_PTXAS`, the `PATH`, then `tools`
    /// folders from the current directory upward.
    ///
    /// # Errors
    /// [`PtxasError::Missing`] when one was named that is not there, [`PtxasError::NotFound`] when there is none.
    pub fn find(flag: Option<&Path>) -> Result<Ptxas, PtxasError> {
        let named = |path: PathBuf, found_by| {
            if path.is_file() { Ok(Ptxas { path, found_by }) } else { Err(PtxasError::Missing { path }) }
        };
        if let Some(path) = flag {
            return named(path.to_owned(), FoundBy::Flag);
        }
        if let Some(path) = std::env::var_os(PTXAS_VARIABLE).filter(|p| !p.is_empty()) {
            return named(path.into(), FoundBy::Environment);
        }
        if let Some(path) = on_path("ptxas") {
            return Ok(Ptxas { path, found_by: FoundBy::Path });
        }
        let here = std::env::current_dir().unwrap_or_default();
        let tools = here.ancestors().map(|a| a.join("tools")).filter(|t| t.is_dir());
        let found = tools.into_iter().find_map(|t| below(&t, TOOLS_DEPTH));
        found.map(|path| Ptxas { path, found_by: FoundBy::Tools }).ok_or(PtxasError::NotFound)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How it was found.
    pub fn found_by(&self) -> FoundBy {
        self.found_by
    }

    /// Its release, such as `13.0.88`; none when it does not say.
    pub fn version(&self) -> Option<String> {
        let output = Command::new(&self.path).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.split(", V").nth(1)?;
        Some(version.split_whitespace().next()?.to_owned())
    }

    /// Assembles PTX for its target.
    ///
    /// # Errors
    /// [`PtxasError::Rejected`], with the log and the command that repeats it.
    pub fn assemble(&self, ptx: &str, target: &Target) -> Result<Report, PtxasError> {
        let folder = scratch_folder()?;
        let (source, cubin) = (folder.join("kernel.ptx"), folder.join("kernel.cubin"));
        let io = |action: &str, source| PtxasError::Io { action: action.to_owned(), source };
        std::fs::write(&source, ptx).map_err(|e| io("cannot write PTX for the assembler", e))?;
        let mut command = Command::new(&self.path);
        command.arg("-v").arg(format!("-arch={}", target.name)).arg(&source).arg("-o").arg(&cubin);
        let output = command.output().map_err(|e| io(&format!("cannot run {}", self.path.display()), e))?;
        let log = [output.stdout, output.stderr].concat();
        let log = String::from_utf8_lossy(&log).into_owned();
        if !output.status.success() {
            let command = format!(
                "{} -v -arch={} {} -o {}",
                self.path.display(),
                target.name,
                source.display(),
                cubin.display()
            );
            return Err(PtxasError::Rejected { target: target.part, log, command });
        }
        let code = std::fs::read(&cubin).map_err(|e| io("cannot read the assembler's output", e))?;
        let mut report = parse_report(&log).ok_or(PtxasError::Report { log })?;
        report.cubin = code;
        // Nothing depends on the folder any more; one that stays behind does no harm.
        let _ = std::fs::remove_dir_all(&folder);
        Ok(report)
    }

    /// A cubin as machine code, by `nvdisasm`.
    ///
    /// # Errors
    /// [`PtxasError::NoDisassembler`] when it is not installed.
    pub fn disassemble(&self, cubin: &[u8]) -> Result<String, PtxasError> {
        let beside = self.path.with_file_name("nvdisasm");
        let program = if beside.is_file() { Some(beside) } else { on_path("nvdisasm") };
        let program = program.ok_or_else(|| PtxasError::NoDisassembler { ptxas: self.path.clone() })?;
        let folder = scratch_folder()?;
        let file = folder.join("kernel.cubin");
        let io = |action: &str, source| PtxasError::Io { action: action.to_owned(), source };
        std::fs::write(&file, cubin).map_err(|e| io("cannot write the cubin", e))?;
        let output = Command::new(&program).arg("-c").arg(&file).output();
        let output = output.map_err(|e| io(&format!("cannot run {}", program.display()), e))?;
        // As in `assemble`.
        let _ = std::fs::remove_dir_all(&folder);
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(io("nvdisasm failed", io::Error::other(message)))
    }
}

/// A program on the `PATH`.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// `bin/ptxas` somewhere below a folder, in a fixed order.
fn below(folder: &Path, depth: usize) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder).ok()?.flatten().map(|e| e.path()).collect();
    entries.sort();
    let is_bin = folder.file_name() == Some(OsStr::new("bin"));
    if let Some(found) =
        entries.iter().find(|p| is_bin && p.file_name() == Some(OsStr::new("ptxas")) && p.is_file())
    {
        return Some(found.clone());
    }
    if depth == 0 {
        return None;
    }
    entries.iter().filter(|p| p.is_dir() && !p.is_symlink()).find_map(|p| below(p, depth - 1))
}

/// A new folder for one run.
fn scratch_folder() -> Result<PathBuf, PtxasError> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("tilewright-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&folder)
        .map_err(|source| PtxasError::Io { action: format!("cannot create {}", folder.display()), source })?;
    Ok(folder)
}

/// The numbers of a `-v` report.
fn parse_report(log: &str) -> Option<Report> {
    let number_before = |text: &str, what: &str| -> Option<u32> {
        text.split(what)
            .next()
            .filter(|before| before.len() < text.len())?
            .split_whitespace()
            .last()?
            .parse()
            .ok()
    };
    let mut report = Report::default();
    let mut seen = false;
    for line in log.lines() {
        let value = |what| number_before(line, what).unwrap_or(0);
        if line.contains("bytes stack frame") {
            report.stack_bytes = value(" bytes stack frame");
            report.spill_store_bytes = value(" bytes spill stores");
            report.spill_load_bytes = value(" bytes spill loads");
        } else if let Some((_, used)) = line.split_once("Used ") {
            report.registers = number_before(used, " registers")?;
            report.barriers = number_before(used, " barriers").unwrap_or(0);
            report.smem_bytes = number_before(used, " bytes smem").unwrap_or(0);
            seen = true;
        }
    }
    seen.then_some(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read() {
        let log = "ptxas info    : 0 bytes gmem\n\
            ptxas info    : Compiling entry function 'k' for 'sm_80'\n\
            ptxas info    : Function properties for k\n    16 bytes stack frame, 24 bytes spill stores, 28 bytes spill loads\n\
            ptxas info    : Used 168 registers, used 1 barriers, 16 bytes cumulative stack size, 2048 bytes smem, 400 bytes cmem[0]\n";
        let report = parse_report(log).unwrap();
        assert_eq!((report.registers, report.barriers, report.smem_bytes), (168, 1, 2048));
        assert_eq!((report.stack_bytes, report.spill_store_bytes, report.spill_load_bytes), (16, 24, 28));
        assert_eq!(parse_report("ptxas fatal"), None);
    }

    #[test]
    fn a_named_assembler_must_exist() {
        let error = Ptxas::find(Some(Path::new("/no/such/ptxas"))).unwrap_err();
        assert_eq!(error.to_string(), "there is no ptxas at /no/such/ptxas");
    }
}
