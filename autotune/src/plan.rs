//! The launches of configurations, their kernels checked and their work counted: once for configurations that differ in
//! launch options alone.

use crate::error::{TuneError, render_diagnostics};
use crate::footprint::{Footprint, footprint};
use crate::subject::{Subject, label};
use crate::work::{Argument, GridWork, Multipliers, count_grid};
use std::sync::{Arc, Mutex, PoisonError};
use tile::contract::Step;
use tile::registry::KernelDef;
use tile_lang::typed::Program;
use tile_lang::{Bindings, Config};

/// One launch of a configuration, its kernel checked.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The launch.
    pub step: Step,
    /// The memory that a program of it cannot do without.
    pub least: Footprint,
    kernel: Arc<Checked>,
}

/// A kernel with everything bound, its footprint with one stage, and the work of launches of it.
#[derive(Debug)]
struct Checked {
    program: Program,
    least: Footprint,
    counted: Mutex<Vec<(Counted, GridWork)>>,
}

/// What the work of a launch depends on beside the program.
#[derive(Debug, PartialEq)]
struct Counted {
    args: Vec<Argument>,
    grid: [usize; 3],
    warps: Multipliers,
}

impl Planned {
    /// The kernel with everything bound.
    pub fn program(&self) -> &Program {
        &self.kernel.program
    }

    /// The work of the launch with these arguments.
    pub fn work(&self, args: Vec<Argument>, warps: Multipliers) -> GridWork {
        let counted = Counted { args, grid: self.step.grid, warps };
        let mut known = self.kernel.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, work)) = known.iter().find(|(launch, _)| *launch == counted) {
            return work.clone();
        }
        let work = count_grid(self.program(), &counted.args, counted.grid, warps);
        known.push((counted, work.clone()));
        work
    }
}

/// Plans configurations of one kernel and problem, and remembers what they have in common.
pub struct Planner<'a> {
    subject: &'a Subject,
    checked: Vec<(&'static KernelDef, Bindings, Arc<Checked>)>,
}

impl<'a> Planner<'a> {
    /// One that knows nothing yet.
    pub fn new(subject: &'a Subject) -> Planner<'a> {
        Planner { subject, checked: Vec::new() }
    }

    /// The launches of a configuration; there is at least one.
    ///
    /// # Errors
    /// [`TuneError::Check`] with the messages at the kernel's lines.
    pub fn plan(&mut self, config: &Config) -> Result<Vec<Planned>, TuneError> {
        let steps = self.subject.contract.steps(&self.subject.problem, config).into_iter();
        steps
            .map(|step| {
                let kernel = self.check(&step)?;
                Ok(Planned { least: kernel.least.of_stages(step.config.num_stages), step, kernel })
            })
            .collect()
    }

    fn check(&mut self, step: &Step) -> Result<Arc<Checked>, TuneError> {
        let is_same = |kernel: &KernelDef, bindings: &Bindings| {
            std::ptr::eq(step.kernel, kernel) && step.bindings == *bindings
        };
        if let Some((.., checked)) =
            self.checked.iter().find(|(kernel, bindings, _)| is_same(kernel, bindings))
        {
            return Ok(checked.clone());
        }
        let program = step.kernel.instantiate(&step.bindings).map_err(|diagnostics| TuneError::Check {
            kernel: step.kernel.name.to_owned(),
            config: label(&step.config),
            messages: render_diagnostics(&diagnostics, &step.kernel.files()),
        })?;
        let least = footprint(&program);
        let checked = Arc::new(Checked { program, least, counted: Mutex::default() });
        self.checked.push((step.kernel, step.bindings.clone(), checked.clone()));
        Ok(checked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::find_contract;
    use indexmap::IndexMap;
    // Linking the crate registers its kernels.
    use tilegym_kernels as _;

    #[test]
    fn configurations_share_kernels_not_what_options_change() {
        let contract = find_contract("matmul").unwrap_or_else(|e| panic!("{e}"));
        let subject = Subject::new(contract, None, &IndexMap::new()).unwrap_or_else(|e| panic!("{e}"));
        let mut planner = Planner::new(&subject);
        let default = contract.default_config(&subject.problem);
        let mut plan = |tile_k, num_warps, num_stages| {
            let mut config = Config { num_warps, num_stages, ..default.clone() };
            config.set("TILE_K", tile_k);
            let planned = planner.plan(&config).unwrap_or_else(|e| panic!("{e}")).remove(0);
            let work = subject.work(&planned, &config, false);
            (planned, work)
        };
        let [few, many] = [plan(32, 4, 2), plan(32, 8, 3)];
        assert!(Arc::ptr_eq(&few.0.kernel, &many.0.kernel));
        assert_eq!(few.0.least.smem_bytes * 3, many.0.least.smem_bytes * 2);
        assert!(few.1.mean.fragment_bytes < many.1.mean.fragment_bytes);
        assert_eq!(plan(32, 4, 3).1, few.1);
        assert!(!Arc::ptr_eq(&few.0.kernel, &plan(64, 4, 2).0.kernel));
    }
}
