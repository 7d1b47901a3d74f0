//! The launches that make a problem's result, and running them.

use crate::contract::{Contract, Problem, Role, TensorSpec};
#[cfg(feature = "cuda")]
use crate::cuda::{DeviceTensor, Prepared, Stream};
use crate::device::Device;
#[cfg(feature = "cuda")]
use crate::device::Inner;
use crate::dynamic::{CpuOptions, DynArg, DynTensor, ScalarValue};
use crate::error::LaunchError;
use crate::registry::KernelDef;
#[cfg(feature = "cuda")]
use tile_lang::ast::TypeExpr;
use tile_lang::{Bindings, Config};

/// One launch of the sequence that makes a problem's result.
#[derive(Clone, Debug)]
pub struct Step {
    /// What is launched.
    pub kernel: &'static KernelDef,
    /// Its tile sizes and launch options.
    pub config: Config,
    /// Its const parameters and dtypes: the configuration's and those that the problem fixes.
    pub bindings: Bindings,
    /// How many programs along each axis.
    pub grid: [usize; 3],
    /// Its arguments in the order of its parameters; each tensor at most once.
    pub args: Vec<StepArg>,
}

/// An argument of a [`Step`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StepArg {
    /// The place of a tensor in [`Contract::all_tensors`].
    Tensor(usize),
    /// A scalar.
    Scalar(ScalarValue),
}

impl Step {
    /// The tensors that it takes, in the order of its parameters, as places in [`Contract::all_tensors`].
    pub fn tensors(&self) -> impl Iterator<Item = usize> + '_ {
        self.args.iter().filter_map(|arg| match arg {
            StepArg::Tensor(index) => Some(*index),
            StepArg::Scalar(_) => None,
        })
    }

    /// Its arguments out of all tensors of the problem.
    ///
    /// # Panics
    /// When it names a tensor twice, or one that there is not.
    fn arguments<'a, T>(
        &self,
        tensors: &'a mut [T],
        argument: impl Fn(&'a mut T) -> DynArg<'a>,
    ) -> Vec<DynArg<'a>> {
        let mut tensors: Vec<_> = tensors.iter_mut().map(Some).collect();
        let place = |arg: &StepArg| match *arg {
            StepArg::Tensor(index) => argument(
                tensors[index].take().unwrap_or_else(|| panic!("{}: tensor {index} twice", self.kernel.name)),
            ),
            StepArg::Scalar(value) => DynArg::Scalar(value),
        };
        self.args.iter().map(place).collect()
    }

    /// Asks a stream to run it over the tensors of [`Contract::all_tensors`] on the stream's device.
    ///
    /// # Panics
    /// When it names a tensor twice, or one that there is not.
    ///
    /// # Errors
    /// As [`KernelDef::launch_on`].
    #[cfg(feature = "cuda")]
    pub fn launch_on(&self, stream: &Stream, tensors: &mut [DeviceTensor]) -> Result<(), LaunchError> {
        self.launch_with(stream, tensors, false)
    }

    /// As [`launch_on`](Self::launch_on); with `checked`, waits for the kernel and says which check did not hold.
    #[cfg(feature = "cuda")]
    fn launch_with(
        &self,
        stream: &Stream,
        tensors: &mut [DeviceTensor],
        checked: bool,
    ) -> Result<(), LaunchError> {
        let mut args = self.arguments(tensors, DynArg::DeviceMut);
        self.kernel.launch_with(stream, &mut args, &self.config, &self.bindings, self.grid, checked)
    }

    /// Checks, compiles and loads it over the tensors of [`Contract::all_tensors`] on a GPU, to launch it often.
    ///
    /// # Panics
    /// When it names a tensor twice, or one that there is not.
    ///
    /// # Errors
    /// As [`KernelDef::prepare`].
    #[cfg(feature = "cuda")]
    pub fn prepare(&self, device: &Device, tensors: &mut [DeviceTensor]) -> Result<Prepared, LaunchError> {
        let mut args = self.arguments(tensors, DynArg::DeviceMut);
        self.kernel.prepare(device, &mut args, &self.config, &self.bindings, self.grid)
    }
}

/// The tensors of [`Contract::all_tensors`]: the inputs as given, everything else filled with NaN, so that what no
/// program writes shows. (Integers are zero.)
///
/// # Panics
/// When there are fewer inputs than the contract names.
pub fn make_tensors(
    contract: &dyn Contract,
    problem: &Problem,
    config: &Config,
    inputs: &[DynTensor],
) -> Vec<DynTensor> {
    let mut inputs = inputs.iter().cloned();
    let tensor = |spec: &TensorSpec| match spec.role {
        Role::Input => inputs.next().expect("as many inputs as the contract names"),
        Role::Output => {
            let count = spec.shape.iter().product();
            DynTensor::from_f64(spec.dtype, &spec.shape, &vec![f64::NAN; count])
        }
    };
    contract.all_tensors(problem, config).iter().map(tensor).collect()
}

/// Runs every step of a problem on a device, and gives the output tensors in order.
///
/// # Panics
/// When there are fewer inputs than the contract names.
///
/// # Errors
/// When a launch is refused or a kernel stops.
pub fn run(
    contract: &dyn Contract,
    problem: &Problem,
    config: &Config,
    device: &Device,
    inputs: &[DynTensor],
) -> Result<Vec<DynTensor>, LaunchError> {
    let mut tensors = make_tensors(contract, problem, config, inputs);
    run_steps(&contract.steps(problem, config), device, &mut tensors, CpuOptions::default())?;
    Ok(contract.outputs(problem, tensors))
}

/// Runs steps one after another over the tensors of [`Contract::all_tensors`]; on a GPU over copies there, of
/// which those that a step may write are copied back.
///
/// # Panics
/// When a step names a tensor twice, or one that there is not.
///
/// # Errors
/// When a launch is refused or a kernel stops; finding races takes the CPU.
pub fn run_steps(
    steps: &[Step],
    device: &Device,
    tensors: &mut [DynTensor],
    options: CpuOptions,
) -> Result<(), LaunchError> {
    match device.0 {
        #[cfg(feature = "cuda")]
        Inner::Cuda(_, gpu) => {
            if let Some(step) = steps.first().filter(|_| options.check_races) {
                return Err(LaunchError::RacesOnGpu { kernel: step.kernel.name });
            }
            let copies: Result<Vec<_>, _> =
                tensors.iter().map(|tensor| DeviceTensor::from_host(device, tensor)).collect();
            let mut copies = copies?;
            let (stream, checked) = (gpu.default_stream(), options.checked);
            steps.iter().try_for_each(|step| step.launch_with(stream, &mut copies, checked))?;
            for (index, (tensor, copy)) in tensors.iter_mut().zip(&copies).enumerate() {
                if steps.iter().any(|step| writes(step, index)) {
                    copy.buffer().download(&mut tensor.data)?;
                }
            }
            Ok(())
        }
        _ => steps.iter().try_for_each(|step| {
            let mut args = step.arguments(tensors, DynArg::Tensor);
            step.kernel.run_here(device, &mut args, &step.config, &step.bindings, step.grid, options)
        }),
    }
}

/// True when the step's kernel may write the tensor.
#[cfg(feature = "cuda")]
fn writes(step: &Step, tensor: usize) -> bool {
    let params = step.kernel.ast().params.iter();
    params.zip(&step.args).any(|(param, arg)| {
        *arg == StepArg::Tensor(tensor) && matches!(param.ty, TypeExpr::Tensor { mutable: true, .. })
    })
}
