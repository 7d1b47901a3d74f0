//! What a kernel promises: its problem sizes, tensors, grid, cost and reference.
//!
//! A [`Contract`] lets tools that know nothing of a kernel run, check and tune it: `tile-tune` builds tensors
//! from it, tests compare with its oracle, the cost model reads its operation and byte counts.

use crate::dynamic::DynTensor;
pub use crate::dynamic::ScalarValue;
use crate::registry::KernelDef;
pub use crate::steps::{Step, StepArg, make_tensors, run, run_steps};
use indexmap::IndexMap;
use std::collections::BTreeMap;
use tile_lang::ast::TypeExpr;
use tile_lang::{Bindings, Config, DType};

/// One run of a kernel: a dtype and the value of each size the contract names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The dtype of the kernel's main inputs.
    pub dtype: DType,
    /// Sizes by name in the contract's order; switches are 0 and 1.
    pub sizes: IndexMap<String, i64>,
}

impl Problem {
    /// The size `name`.
    ///
    /// # Panics
    /// When the contract does not name it.
    pub fn size(&self, name: &str) -> usize {
        match self.sizes.get(name) {
            Some(&value) => value as usize,
            None => panic!("the contract has no size named {name}"),
        }
    }

    /// The switch `name`.
    ///
    /// # Panics
    /// When the contract does not name it.
    pub fn switch(&self, name: &str) -> bool {
        self.size(name) != 0
    }
}

/// A size or switch of a contract.
#[derive(Clone, Copy, Debug)]
pub struct SizeSpec {
    /// The name users write: `--shape seq_q=1024`.
    pub name: &'static str,
    /// The value when a user names none.
    pub default: i64,
    /// What is tuned separately for each value (`true`), or in ranges up to the next power of two (`false`).
    pub exact: bool,
    /// One line for `tile-tune list`.
    pub doc: &'static str,
}

/// Whether a kernel reads or writes a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Read only.
    Input,
    /// Written; its contents before the launch do not matter.
    Output,
}

/// A tensor argument of a problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// The kernel parameter's name.
    pub name: &'static str,
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// Input or output.
    pub role: Role,
}

/// Why inputs or sizes do not make a problem.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContractError {
    /// An input the kernel needs is absent.
    #[error("input `{name}` is missing; the kernel takes {expected}")]
    MissingInput {
        /// The absent tensor.
        name: String,
        /// All inputs with their shapes.
        expected: String,
    },
    /// An input no argument of the kernel has the name of.
    #[error("input `{name}` is not an argument of the kernel; it takes {expected}")]
    UnknownInput {
        /// The name found.
        name: String,
        /// All inputs with their shapes.
        expected: String,
    },
    /// An input of the wrong rank or extents.
    #[error("`{tensor}` has shape {found:?}; expected {expected}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its extents.
        found: Vec<usize>,
        /// What the kernel takes.
        expected: String,
    },
    /// An input of the wrong dtype.
    #[error("`{tensor}` has dtype {found}; expected {expected}")]
    DType {
        /// The tensor.
        tensor: String,
        /// Its dtype.
        found: String,
        /// What the kernel takes.
        expected: String,
    },
    /// A size out of range or at odds with another.
    #[error("{name} = {value}: {reason}")]
    Size {
        /// The size.
        name: String,
        /// Its value.
        value: i64,
        /// What is allowed.
        reason: String,
    },
    /// A size the contract does not have.
    #[error("unknown size `{name}`; this kernel has {allowed}")]
    UnknownSize {
        /// The name found.
        name: String,
        /// The names there are.
        allowed: String,
    },
}

/// Dtype and shape of a tensor found in a file.
pub type Found = (DType, Vec<usize>);

/// What a kernel promises. Register one with [`crate::register_contract!`].
pub trait Contract: Send + Sync {
    /// The kernel.
    fn kernel(&self) -> &'static KernelDef;

    /// One line of what it computes.
    fn summary(&self) -> &'static str;

    /// The sizes and switches of a problem, in the order they are printed.
    fn sizes(&self) -> &'static [SizeSpec];

    /// The dtypes that the kernel is written and tested for; the first is the default.
    fn dtypes(&self) -> &'static [DType];

    /// Checks that the sizes fit together.
    fn check(&self, problem: &Problem) -> Result<(), ContractError>;

    /// Reads the problem off tensors by name. `given` holds the sizes and switches the user named; those that no
    /// tensor shows take their default.
    #[allow(clippy::wrong_self_convention)]
    fn from_inputs(
        &self,
        inputs: &BTreeMap<String, Found>,
        given: &IndexMap<String, i64>,
    ) -> Result<Problem, ContractError>;

    /// The tensor arguments in the order of the kernel's parameters.
    fn tensors(&self, problem: &Problem) -> Vec<TensorSpec>;

    /// The scalar arguments in the order of the kernel's parameters.
    fn scalars(&self, problem: &Problem) -> Vec<ScalarValue>;

    /// The const parameters that the problem fixes, such as `HEAD_DIM`.
    fn consts(&self, problem: &Problem) -> IndexMap<String, i64>;

    /// The kernel's dtype parameters.
    fn dtype_bindings(&self, problem: &Problem) -> IndexMap<String, DType>;

    /// How many programs to launch along each axis; of several steps, the first's.
    fn grid(&self, problem: &Problem, config: &Config) -> [usize; 3];

    /// Device scratch that the steps hand results through; its contents do not matter before and after, but
    /// integers, which count arrivals: zeros before the first launch, each launch leaves them zeros. None unless a
    /// contract says so.
    fn workspace(&self, problem: &Problem, config: &Config) -> Vec<TensorSpec> {
        let _ = (problem, config);
        Vec::new()
    }

    /// The launches that make the result, in order. Unless a contract says otherwise: the one kernel, with all
    /// tensors and scalars.
    fn steps(&self, problem: &Problem, config: &Config) -> Vec<Step> {
        let kernel = self.kernel();
        let (mut tensors, mut scalars) = (0.., self.scalars(problem).into_iter());
        let args = kernel.ast().params.iter().filter_map(|param| match param.ty {
            TypeExpr::Tensor { .. } => tensors.next().map(StepArg::Tensor),
            _ => scalars.next().map(StepArg::Scalar),
        });
        let (args, bindings) = (args.collect(), self.bindings(problem, config));
        vec![Step { kernel, config: config.clone(), bindings, grid: self.grid(problem, config), args }]
    }

    /// The values of an input that are not normal draws: indices, lengths, scales. Row-major; `None` for normal
    /// draws.
    fn fill(&self, problem: &Problem, tensor: &TensorSpec, seed: u64) -> Option<Vec<f64>> {
        let _ = (problem, tensor, seed);
        None
    }

    /// Useful floating-point operations.
    fn flops(&self, problem: &Problem) -> f64;

    /// Fewest bytes of device memory to move: every input read once, every output written once.
    fn bytes(&self, problem: &Problem) -> f64 {
        let bytes =
            |t: &TensorSpec| t.shape.iter().product::<usize>() as f64 * f64::from(t.dtype.bits()) / 8.0;
        self.tensors(problem).iter().map(bytes).sum()
    }

    /// The naive reference in f64, written apart from the kernel: outputs in the order of the output tensors,
    /// row-major. `inputs` are the input tensors in order, widened to f64.
    fn oracle(&self, problem: &Problem, inputs: &[Vec<f64>]) -> Vec<Vec<f64>>;

    /// Largest relative error (Frobenius norm of the difference over that of the reference) that the dtype
    /// accounts for, the CPU path's or, with `gpu`, the tensor core's (tf32 for f32).
    fn tolerance(&self, dtype: DType, gpu: bool) -> f64;

    /// The configuration to use before anything was tuned.
    fn default_config(&self, problem: &Problem) -> Config;

    /// A problem with every size at its default, overridden by `given`.
    fn problem(&self, dtype: DType, given: &IndexMap<String, i64>) -> Result<Problem, ContractError> {
        let specs = self.sizes();
        if let Some(name) = given.keys().find(|name| specs.iter().all(|s| s.name != name.as_str())) {
            let allowed = specs.iter().map(|s| s.name).collect::<Vec<_>>().join(", ");
            return Err(ContractError::UnknownSize { name: name.clone(), allowed });
        }
        let sizes = specs
            .iter()
            .map(|s| (s.name.to_owned(), given.get(s.name).copied().unwrap_or(s.default)))
            .collect();
        let problem = Problem { dtype, sizes };
        self.check(&problem)?;
        Ok(problem)
    }

    /// Const parameters and dtypes of one configuration: the problem's and the configuration's together.
    fn bindings(&self, problem: &Problem, config: &Config) -> Bindings {
        let mut consts = config.consts.clone();
        consts.extend(self.consts(problem));
        Bindings { consts, dtypes: self.dtype_bindings(problem) }
    }

    /// Every tensor that the steps take: those of [`tensors`](Self::tensors), then the workspace.
    fn all_tensors(&self, problem: &Problem, config: &Config) -> Vec<TensorSpec> {
        let mut all = self.tensors(problem);
        all.extend(self.workspace(problem, config));
        all
    }

    /// The outputs out of all tensors.
    fn outputs(&self, problem: &Problem, all: Vec<DynTensor>) -> Vec<DynTensor> {
        let specs = self.tensors(problem);
        all.into_iter().zip(specs).filter(|(_, spec)| spec.role == Role::Output).map(|(t, _)| t).collect()
    }
}

/// A registered contract; made by [`crate::register_contract!`].
pub struct ContractEntry(pub &'static dyn Contract);

inventory::collect!(ContractEntry);

/// Every contract linked into this program, sorted by kernel name.
pub fn contracts() -> Vec<&'static dyn Contract> {
    let mut all: Vec<_> = inventory::iter::<ContractEntry>.into_iter().map(|e| e.0).collect();
    all.sort_by_key(|c| c.kernel().name);
    all
}

/// The contract of the kernel `name`.
pub fn find_contract(name: &str) -> Option<&'static dyn Contract> {
    contracts().into_iter().find(|c| c.kernel().name == name)
}

/// Makes a contract known to `tile-tune` and to [`contracts`]: `register_contract!(MyContract);` with a value
/// that a `static` can hold.
#[macro_export]
macro_rules! register_contract {
    ($contract:expr) => {
        $crate::private::inventory::submit! { $crate::contract::ContractEntry(&$contract) }
    };
}

/// Random inputs of a problem: what the contract [fills](Contract::fill) a tensor with, else standard normal values
/// from a seed; rounded to each tensor's dtype.
pub fn random_inputs(contract: &dyn Contract, problem: &Problem, seed: u64) -> Vec<DynTensor> {
    let mut draws = Draws::new(seed);
    contract
        .tensors(problem)
        .iter()
        .filter(|t| t.role == Role::Input)
        .map(|t| {
            let values = contract.fill(problem, t, seed).unwrap_or_else(|| {
                let count = t.shape.iter().product();
                (0..count).map(|_| draws.normal()).collect()
            });
            DynTensor::from_f64(t.dtype, &t.shape, &values)
        })
        .collect()
}

/// Random values, the same for the same seed.
#[derive(Clone, Debug)]
pub struct Draws {
    state: u64,
}

impl Draws {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Draws {
        Draws { state: seed }
    }

    /// One draw from a standard normal distribution: the sum of twelve uniform draws (Irwin-Hall).
    pub fn normal(&mut self) -> f64 {
        let uniform = |state: &mut u64| (split_mix(state) >> 11) as f64 / (1u64 << 53) as f64;
        (0..12).map(|_| uniform(&mut self.state)).sum::<f64>() - 6.0
    }

    /// One of `0..bound`, all about as likely.
    ///
    /// # Panics
    /// When `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (split_mix(&mut self.state) % bound as u64) as usize
    }
}

/// The next value of SplitMix64 (Steele, Lea and Flood, 2014).
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Frobenius norm of `found - reference` over that of `reference`; NaN where either holds one the other lacks, or
/// an infinity.
pub fn relative_error(found: &[f64], reference: &[f64]) -> f64 {
    let (mut difference, mut norm) = (0.0, 0.0);
    for (&f, &r) in found.iter().zip(reference) {
        if (f.is_nan() && r.is_nan()) || (f.is_infinite() && f == r) {
            continue;
        }
        difference += (f - r) * (f - r);
        norm += r * r;
    }
    if norm == 0.0 { difference.sqrt() } else { (difference / norm).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_relative_and_equal_infinities_are_none() {
        assert_eq!(relative_error(&[3.0, 5.0], &[3.0, 4.0]), 0.2);
        assert_eq!(relative_error(&[f64::NAN, 1.0], &[f64::NAN, 1.0]), 0.0);
        assert_eq!(relative_error(&[f64::NEG_INFINITY, 1.0], &[f64::NEG_INFINITY, 1.0]), 0.0);
        for (found, reference) in [(f64::INFINITY, f64::NEG_INFINITY), (1.0, f64::INFINITY), (f64::NAN, 1.0)]
        {
            assert!(relative_error(&[found, 1.0], &[reference, 1.0]).is_nan(), "{found} {reference}");
        }
    }
}
