//! What a compiled configuration is made of: passes, shared memory, registers, occupancy, and what should limit it.

use crate::cost::{Limit, Timing, limiter};
use crate::error::TuneError;
use crate::occupancy::{Occupancy, Usage, occupancy};
use crate::platform::Platform;
use crate::record::Resources;
use crate::subject::Subject;
use crate::sweep::{limits_of, time_of};
use codegen_ptx::gpu::resources::{Buffer, Role};
use codegen_ptx::{Compiled, Ptxas, Remark, Target};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use tile_lang::Config;

/// What a pass did to a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassNote {
    /// The pass's name.
    pub pass: String,
    /// Whether it changed the kernel.
    pub fired: bool,
    /// What it said, each with the kernel's line where there is one.
    pub remarks: Vec<String>,
}

/// The passes of a compiled kernel in the order they ran.
pub fn passes(compiled: &Compiled) -> Vec<PassNote> {
    let of = |remark: &&Remark, pass| remark.pass == pass;
    let said = |remark: &Remark| match &remark.place {
        Some(place) => format!("{place}: {}", remark.message),
        None => remark.message.clone(),
    };
    let note = |&pass: &codegen_ptx::gpu::passes::Pass| {
        let remarks: Vec<&Remark> = compiled.remarks.iter().filter(|r| of(r, pass)).collect();
        let mut messages: Vec<String> = remarks.iter().map(|r| said(r)).collect();
        messages.dedup();
        PassNote { pass: pass.name().to_owned(), fired: remarks.iter().any(|r| r.fired), remarks: messages }
    };
    compiled.target.passes.iter().map(note).collect()
}

/// Registers by role: `168`, or `240+24` for warps that compute and warps that copy.
pub fn registers_by_role(registers: u32, roles: &[Role]) -> String {
    let asked: Option<Vec<String>> = roles.iter().map(|r| Some(r.registers?.to_string())).collect();
    asked.filter(|asked| !asked.is_empty()).map_or_else(|| registers.to_string(), |asked| asked.join("+"))
}

/// What the assembler says of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Assembled {
    /// Registers a thread is launched with.
    pub registers: u32,
    /// Bytes a thread spills, stores and reloads together.
    pub spill_bytes: u32,
    /// CTAs that fit on an SM, and what keeps one more from fitting.
    pub occupancy: Occupancy,
}

/// One launch of a configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explained {
    /// The kernel's name in the PTX.
    pub entry: String,
    /// The passes in the order they ran.
    pub passes: Vec<PassNote>,
    /// Shared memory of a CTA.
    pub smem_bytes: usize,
    /// Shared memory by buffer.
    pub buffers: Vec<Buffer>,
    /// Names of the tensor arguments, which buffers number.
    pub tensors: Vec<String>,
    /// Warps by role, and the registers they ask for.
    pub roles: Vec<Role>,
    /// The assembler's report, where there is one.
    pub assembled: Option<Assembled>,
}

/// A configuration on a GPU.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// Its launches in order.
    pub launches: Vec<Explained>,
    /// CTAs of an SM that it asks for.
    pub occupancy_asked: u32,
    /// The GPU that times are predicted for.
    pub platform: String,
    /// The predicted time of all launches.
    pub predicted: Timing,
    /// What each resource alone would take.
    pub limits: Vec<Limit>,
}

/// Compiles a configuration and explains it.
///
/// # Errors
/// When it does not compile or assemble.
pub fn explain(
    subject: &Subject,
    config: &Config,
    (target, platform): (&'static Target, &Platform),
    ptxas: Option<&Ptxas>,
) -> Result<Explanation, TuneError> {
    let planned = subject.programs(config)?;
    let specs = subject.contract.all_tensors(&subject.problem, config);
    let mut launches = Vec::new();
    let mut most = Resources { registers: 0, smem_bytes: 0, spill_bytes: 0, ctas_per_sm: config.occupancy };
    for (build, launch) in subject.build(config, target, false)?.into_iter().zip(&planned) {
        let compiled = build.compiled;
        let report = ptxas.map(|ptxas| ptxas.assemble(&compiled.ptx, target)).transpose()?;
        let assembled = report.map(|report| {
            let (registers, smem_bytes) = (report.registers, compiled.smem_bytes);
            let usage = Usage { threads: compiled.num_threads, registers, smem_bytes };
            let spill_bytes = report.spill_store_bytes + report.spill_load_bytes;
            Assembled { registers, spill_bytes, occupancy: occupancy(platform, usage) }
        });
        most.smem_bytes = most.smem_bytes.max(compiled.smem_bytes);
        if let Some(assembled) = assembled {
            most.registers = most.registers.max(assembled.registers);
            most.spill_bytes += assembled.spill_bytes;
        }
        launches.push(Explained {
            passes: passes(&compiled),
            smem_bytes: compiled.smem_bytes,
            buffers: compiled.resources.buffers,
            tensors: launch.step.tensors().map(|index| specs[index].name.to_owned()).collect(),
            roles: compiled.resources.roles,
            assembled,
            entry: compiled.entry,
        });
    }
    Ok(Explanation {
        launches,
        occupancy_asked: config.occupancy,
        platform: platform.name.clone(),
        predicted: time_of(subject, platform, config, &planned, &most),
        limits: limits_of(subject, platform, config, &planned, &most),
    })
}

impl Explanation {
    /// The explanation as lines.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for launch in &self.launches {
            launch.render(self.occupancy_asked, &mut text);
        }
        let limiter = limiter(&self.limits).map_or("nothing".to_owned(), |limit| limit.to_string());
        let us = self.predicted.us;
        // Writing to a string cannot fail.
        let _ =
            writeln!(text, "predicted on {}: {us:.1} us, limited by {limiter}; each alone:", self.platform);
        for limit in self.limits.iter().filter(|limit| limit.us > 0.0) {
            let _ = writeln!(text, "  {:<18} {:>10.1} us", limit.resource.to_string(), limit.us);
        }
        text
    }
}

impl Explained {
    fn render(&self, asked: u32, text: &mut String) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "passes of {}:", self.entry);
        for note in &self.passes {
            let verdict = if note.fired { "fired" } else { "did not fire" };
            let mut name = note.pass.as_str();
            let mut verdict = verdict;
            for remark in &note.remarks {
                let _ = writeln!(text, "  {name:<18} {verdict:<13} {remark}");
                (name, verdict) = ("", "");
            }
        }
        let _ = writeln!(text, "shared memory: {} bytes", self.smem_bytes);
        for buffer in &self.buffers {
            let names: Vec<&str> =
                buffer.tensors.iter().filter_map(|&t| self.tensors.get(t).map(String::as_str)).collect();
            let from = if names.is_empty() { String::new() } else { format!(" from {}", names.join(", ")) };
            let place = buffer.place.as_ref().map_or(String::new(), |place| format!(" ({place})"));
            let (offset, bytes) = (buffer.offset, buffer.bytes);
            let _ = writeln!(text, "  {bytes:>7} at {offset:<7} {}{from}{place}", buffer.purpose);
        }
        let role = |r: &Role| match r.registers {
            Some(registers) => format!("{} warps {}, with {registers} registers a thread", r.warps, r.name),
            None => format!("{} warps {}", r.warps, r.name),
        };
        let _ = writeln!(text, "roles: {}", self.roles.iter().map(role).collect::<Vec<_>>().join("; "));
        match self.assembled {
            Some(Assembled { registers, spill_bytes, occupancy: Occupancy { ctas, limiter } }) => {
                let _ = writeln!(
                    text,
                    "registers: {registers} a thread at launch; {spill_bytes} bytes spilled\noccupancy: {ctas} CTAs on an SM, {asked} asked for; more do not fit for want of {limiter}"
                );
            }
            None => {
                let _ = writeln!(text, "registers: unknown without ptxas");
            }
        }
    }
}
