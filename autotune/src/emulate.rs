//! The winner of a sweep that was not measured, executed on an emulated GPU of the target.
//!
//! The cost model knows nothing of whether code is right. Where there is no GPU to ask, the PTX of the first choice runs
//! on `ptx-emu`, on a smaller problem of the same class, and must agree with the kernel's reference; one that does not
//! fails with the reason, and the next takes its place.

use crate::measure::problem::smaller;
use crate::record::Outcome;
use crate::subject::Subject;
use crate::sweep::Sweep;
use codegen_ptx::Target;
use indexmap::IndexMap;
use serde::Serialize;
use tile::contract::{self, random_inputs, relative_error};
use tile::dynamic::DynTensor;
use tile::{Config, Device, LaunchError};

/// What a run may cost, in the operations of [`smaller`]: about a second.
const COST: f64 = 2e8;

/// What became of the winner.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Emulated {
    /// The target whose code was executed.
    pub target: &'static str,
    /// The sizes of the problem.
    pub sizes: IndexMap<String, i64>,
    /// The largest relative error of an output against the reference; nothing where the code has something that is not
    /// emulated.
    pub error: Option<f64>,
}

/// Executes the sweep's winner, and the next one where it fails.
pub fn emulate(subject: &Subject, target: &'static Target, sweep: &mut Sweep) -> Option<Emulated> {
    let problem = smaller(subject.contract, &subject.problem, COST);
    let small = Subject { problem, ..subject.clone() };
    let inputs = random_inputs(small.contract, &small.problem, 1);
    let widened: Vec<_> = inputs.iter().map(DynTensor::to_f64).collect();
    let reference = small.contract.oracle(&small.problem, &widened);
    while let Some(best) = sweep.best() {
        match run(&small, target, &best.config, &inputs, &reference) {
            Ok(error) => {
                return Some(Emulated { target: target.name, sizes: small.problem.sizes.clone(), error });
            }
            Err(reason) => {
                let mut failed = sweep.trials.remove(0);
                (failed.outcome, failed.reason) = (Outcome::Failed, Some(reason));
                sweep.trials.push(failed);
            }
        }
    }
    None
}

/// The largest error of an output, or why the configuration fails.
fn run(
    small: &Subject,
    target: &'static Target,
    config: &Config,
    inputs: &[DynTensor],
    reference: &[Vec<f64>],
) -> Result<Option<f64>, String> {
    let device = Device::emulated(target, 0);
    let found = match contract::run(small.contract, &small.problem, config, &device, inputs) {
        Ok(found) => found,
        Err(LaunchError::NotEmulated { .. }) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let errors =
        found.iter().zip(reference).map(|(found, expected)| relative_error(&found.to_f64(), expected));
    // NaN is larger than any error.
    let worst =
        errors.fold(0.0f64, |worst, error| if error > worst || error.is_nan() { error } else { worst });
    let allowed = small.contract.tolerance(small.problem.dtype, true);
    match worst <= allowed {
        true => Ok(Some(worst)),
        false => Err(format!(
            "differs from the reference by {worst:.2e} on an emulated {}; {allowed:.2e} is allowed",
            target.name
        )),
    }
}
