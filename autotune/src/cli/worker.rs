//! `tile-tune worker`: the processes that a sweep measures with.

use super::args::{Measuring, WorkerArgs};
use crate::error::TuneError;
use crate::measure::GpuFacts;
use crate::measure::gpu::GpuBench;
use crate::measure::process::{WorkerCommand, find_gpus};
use crate::measure::rehearsal::Rehearsal;
use crate::measure::serve::serve_standard_streams;
use codegen_ptx::Target;

pub fn run(args: &WorkerArgs) -> Result<(), TuneError> {
    match &args.rehearse {
        Some(path) => serve_standard_streams(&mut Rehearsal::load(path)?),
        None => serve_standard_streams(&mut GpuBench::default()),
    }
    Ok(())
}

/// How this program starts its workers.
pub fn command(measuring: &Measuring) -> Result<WorkerCommand, TuneError> {
    let program = std::env::current_exe()
        .map_err(|e| TuneError::Measure { reason: format!("this program's file is not known: {e}") })?;
    let mut args = vec!["worker".into()];
    if let Some(path) = &measuring.rehearse {
        args.extend(["--rehearse".into(), path.into()]);
    }
    Ok(WorkerCommand { program, args })
}

/// The GPUs to measure on, all of one kind, or why the model is asked instead.
///
/// # Errors
/// When measuring was asked for and cannot be.
pub fn gpus(
    measuring: &Measuring,
    command: &WorkerCommand,
    target: &Target,
) -> Result<Result<Vec<GpuFacts>, String>, TuneError> {
    if measuring.no_measure {
        return Ok(Err("as --no-measure asks".to_owned()));
    }
    let is_wanted = |gpu: &GpuFacts| measuring.gpus.is_empty() || measuring.gpus.contains(&gpu.index);
    let of_target = |found: Vec<GpuFacts>| {
        if let Some(absent) = measuring.gpus.iter().find(|&&i| found.iter().all(|gpu| gpu.index != i)) {
            return Err(format!("there is no GPU {absent}"));
        }
        let names: Vec<String> = found.iter().map(|gpu| format!("{} ({})", gpu.name, gpu.part)).collect();
        let mut gpus: Vec<GpuFacts> =
            found.into_iter().filter(|gpu| gpu.part == target.part && is_wanted(gpu)).collect();
        let first = gpus.first().map(|gpu| gpu.name.clone());
        gpus.retain(|gpu| Some(&gpu.name) == first.as_ref());
        match gpus.is_empty() {
            true => Err(format!("there is {}", names.join(", "))),
            false => Ok(gpus),
        }
    };
    let found = find_gpus(command).and_then(of_target);
    let is_asked = measuring.measure || measuring.exhaustive || !measuring.gpus.is_empty();
    match found {
        Err(reason) if is_asked => Err(TuneError::NoGpu { target: target.part.to_owned(), reason }),
        found => Ok(found),
    }
}
