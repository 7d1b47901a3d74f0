//! Everything that can be wrong with a launch is found here.

#[cfg(feature = "cuda")]
use super::argument::RawTensor;
use super::argument::{Argument, Kind, is_injective, reach};
use super::on_cpu::run_on_cpu;
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::device::{Device, DeviceKind, Inner};
#[cfg(feature = "jit")]
use crate::dynamic::ScalarValue;
use crate::error::LaunchError;
use crate::registry::KernelDef;
use indexmap::IndexMap;
#[cfg(feature = "cuda")]
use std::sync::Arc;
use tile_lang::ast::{ConstKind, DTypeExpr, Param, TypeExpr};
use tile_lang::{Bindings, Config, DType, Diagnostic, nearest};

/// The largest extent of a tensor: kernels count in 32 bits.
pub(super) const MAX_EXTENT: usize = i32::MAX as usize;
/// The largest grid a GPU takes.
const MAX_GRID: [usize; 3] = [i32::MAX as usize, 65535, 65535];

/// What to do with a kernel of which two programs may store to one element, for all that the analysis can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Unproved {
    /// Refuse it.
    #[default]
    Refuse,
    /// Run it: the caller promises that programs store to disjoint elements.
    Promised,
    /// Run it over tensors that nobody else has: on the CPU looking for races, of which the first stops it; on a
    /// GPU, where a race leaves one of the stored values.
    Watch,
}

/// How a kernel is to be launched.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    /// Look for races while running, instead of asking for a proof.
    pub check_races: bool,
    /// What to do where stores are not proved disjoint.
    pub unproved: Unproved,
    /// Evaluate the kernel's checks.
    pub checked: bool,
}

pub(super) fn allowed_dtypes(kernel: &KernelDef, name: &str) -> String {
    let param = kernel.ast().dtype_params.iter().find(|p| p.name == name);
    let dtypes = param.map_or(&[] as &[DType], |p| p.bound.dtypes());
    dtypes.iter().map(|d| d.name()).collect::<Vec<_>>().join(", ")
}

/// A launch about to be checked.
pub(crate) struct Request<'a> {
    pub kernel: &'static KernelDef,
    pub args: &'a [Argument<'a>],
    pub config: &'a Config,
    pub dtypes: &'a IndexMap<String, DType>,
    pub grid: [usize; 3],
    pub options: Options,
}

/// A kernel that was launched, for launches like it.
#[cfg(feature = "cuda")]
pub(crate) struct Launched {
    pub loaded: Arc<cuda::Loaded>,
    /// The grid axes, as bits, along which stores are not proved to be disjoint.
    pub unproved_axes: u8,
}

impl Request<'_> {
    /// Checks everything that can be known before the kernel is compiled.
    fn check(&self, device: &Device) -> Result<Instance, LaunchError> {
        let Request { kernel, args, config, dtypes, grid, options } = *self;
        check_grid(kernel, grid)?;
        check_config(kernel, config)?;
        check_target(kernel, config, device)?;
        check_arguments(kernel, args, dtypes)?;
        check_locations(kernel, args, device.memory())?;
        check_instance(kernel, config, dtypes, grid, options)
    }

    /// Checks everything and runs the kernel; on a GPU in its default stream.
    pub fn run(&self, device: &Device) -> Result<(), LaunchError> {
        match device.0 {
            Inner::Cpu => {
                let Instance { bindings, is_proved } = self.check(device)?;
                let watch = self.options.unproved == Unproved::Watch && !is_proved;
                let options = Options { check_races: self.options.check_races || watch, ..self.options };
                run_on_cpu(self.kernel, self.args, &bindings, self.grid, options)
            }
            #[cfg(feature = "jit")]
            Inner::Emulated(target, seed) => {
                let bindings = self.check_for_gpu(device)?;
                super::emulated::run(self, &bindings, target, seed)
            }
            #[cfg(feature = "cuda")]
            Inner::Cuda(_, gpu) => self.run_in(gpu.default_stream()).map(drop),
        }
    }

    /// Checks everything and asks a stream to run the kernel; with its checks, waits for it.
    #[cfg(feature = "cuda")]
    pub fn run_in(&self, stream: &cuda::Stream) -> Result<Launched, LaunchError> {
        let device = stream.device();
        let (gpu, bindings) = (cuda::Gpu::of(&device, "a launch")?, self.check_for_gpu(&device)?);
        let args = device_arguments(self.kernel, self.args, &bindings)?;
        let facts: Vec<_> = args.iter().filter_map(cuda::Arg::facts).collect();
        let loaded = gpu.load(self.kernel, &bindings, self.config, &facts, self.options.checked)?;
        cuda::launch(self.kernel.name, &loaded, self.grid, &args, stream)?;
        let instance = self.kernel.instance(&bindings);
        let unproved_axes = instance.unproved.iter().fold(0, |axes, unproved| axes | 1 << unproved.axis);
        Ok(Launched { loaded, unproved_axes })
    }

    /// Checks everything, compiles and loads the kernel, without its checks.
    #[cfg(feature = "cuda")]
    pub fn prepare(&self, device: &Device) -> Result<cuda::Prepared, LaunchError> {
        let (gpu, bindings) = (cuda::Gpu::of(device, "a prepared launch")?, self.check_for_gpu(device)?);
        let args = device_arguments(self.kernel, self.args, &bindings)?;
        gpu.prepare(self.kernel, &bindings, self.config, self.grid, &args)
    }

    #[cfg(feature = "jit")]
    fn check_for_gpu(&self, device: &Device) -> Result<Bindings, LaunchError> {
        match self.options.check_races {
            true => Err(LaunchError::RacesOnGpu { kernel: self.kernel.name }),
            false => self.check(device).map(|instance| instance.bindings),
        }
    }
}

/// Refuses a configuration that was tuned for another SM than the device's.
fn check_target(kernel: &'static KernelDef, config: &Config, device: &Device) -> Result<(), LaunchError> {
    #[cfg(feature = "jit")]
    if let (Some(tuned_for), Some(target)) = (config.tuned_for, device.target())
        && tuned_for != target.part
    {
        return Err(LaunchError::ConfigForOtherTarget {
            kernel: kernel.name,
            tuned_for,
            target: target.part,
        });
    }
    let _ = (kernel, config, device);
    Ok(())
}

/// Checks that the tensors are where the kernel is to run.
fn check_locations(
    kernel: &'static KernelDef,
    args: &[Argument<'_>],
    expected: DeviceKind,
) -> Result<(), LaunchError> {
    for (arg, param) in args.iter().zip(&kernel.ast().params) {
        if let Kind::Tensor(tensor) = &arg.0
            && tensor.location() != expected
        {
            let (name, found) = (param.name.clone(), tensor.location());
            return Err(LaunchError::WrongDevice { kernel: kernel.name, name, found, expected });
        }
    }
    Ok(())
}

/// A kernel with its parameters bound.
struct Instance {
    bindings: Bindings,
    /// No two programs of the grid store to one element.
    is_proved: bool,
}

/// Checks the kernel with its parameters bound, and that its stores are disjoint unless the options waive it.
fn check_instance(
    kernel: &'static KernelDef,
    config: &Config,
    dtypes: &IndexMap<String, DType>,
    grid: [usize; 3],
    options: Options,
) -> Result<Instance, LaunchError> {
    let known = |name: &String| kernel.ast().dtype_params.iter().any(|p| p.name == *name);
    let bindings = Bindings {
        consts: config.consts.clone(),
        dtypes: dtypes.iter().filter(|(name, _)| known(name)).map(|(n, d)| (n.clone(), *d)).collect(),
    };
    let instance = kernel.instance(&bindings);
    let files = || instance.files.clone();
    if !instance.mistakes.is_empty() {
        let diagnostics = instance.mistakes.clone();
        return Err(LaunchError::Check { kernel: kernel.name, diagnostics, files: files() });
    }
    let unproved = instance.unproved.iter().filter(|u| grid[u.axis] > 1);
    let diagnostics: Vec<_> = unproved.map(|u| Diagnostic::new(u.span, u.reason.clone())).collect();
    let is_proved = diagnostics.is_empty();
    if !is_proved && !options.check_races && options.unproved == Unproved::Refuse {
        return Err(LaunchError::StoresNotProved { kernel: kernel.name, diagnostics, files: files() });
    }
    Ok(Instance { bindings, is_proved })
}

/// A scalar argument as a compiled kernel takes it.
#[cfg(feature = "jit")]
pub(super) fn scalar_bits(
    kernel: &'static KernelDef,
    param: &Param,
    value: ScalarValue,
    bindings: &Bindings,
) -> Result<u64, LaunchError> {
    let dtype = match &param.ty {
        TypeExpr::Scalar(DTypeExpr::Param(name)) => bindings.dtypes.get(name).copied(),
        _ => None,
    };
    value.bits(dtype.unwrap_or(DType::F32)).ok_or_else(|| match value {
        ScalarValue::Index(value) => {
            LaunchError::ScalarTooLarge { kernel: kernel.name, name: param.name.clone(), value }
        }
        _ => unreachable!("only sizes can be too large"),
    })
}

/// The arguments as a compiled kernel takes them.
#[cfg(feature = "cuda")]
fn device_arguments<'a>(
    kernel: &'static KernelDef,
    args: &'a [Argument<'_>],
    bindings: &Bindings,
) -> Result<Vec<cuda::Arg<'a>>, LaunchError> {
    let argument = |(arg, param): (&'a Argument<'_>, &Param)| match &arg.0 {
        Kind::Tensor(RawTensor { base, dtype, shape, strides, memory, .. }) => {
            let mutable = matches!(param.ty, TypeExpr::Tensor { mutable: true, .. });
            Ok(cuda::Arg::Tensor {
                dtype: *dtype,
                address: base.addr() as u64,
                shape,
                strides,
                memory: memory.expect("the launch checked where the tensors are"),
                access: if mutable { cuda::Access::Write } else { cuda::Access::Read },
            })
        }
        Kind::Scalar(value, _) => scalar_bits(kernel, param, *value, bindings).map(cuda::Arg::Scalar),
    };
    args.iter().zip(&kernel.ast().params).map(argument).collect()
}

pub(super) fn check_grid(kernel: &'static KernelDef, grid: [usize; 3]) -> Result<(), LaunchError> {
    if grid.contains(&0) {
        return Err(LaunchError::EmptyGrid { kernel: kernel.name, grid });
    }
    let total = grid.iter().try_fold(1usize, |n, &g| n.checked_mul(g));
    let fits = grid.iter().zip(MAX_GRID).all(|(&g, max)| g <= max);
    // Programs are numbered in 32 bits.
    if !fits || total.is_none_or(|n| n >= u32::MAX as usize) {
        return Err(LaunchError::GridTooLarge { kernel: kernel.name, grid });
    }
    Ok(())
}

fn check_config(kernel: &'static KernelDef, config: &Config) -> Result<(), LaunchError> {
    let params = &kernel.ast().const_params;
    let refuse = |name: &str, value: i64, expected: &'static str| {
        Err(LaunchError::ConstValue { kernel: kernel.name, name: name.to_owned(), value, expected })
    };
    for name in config.consts.keys() {
        if params.iter().all(|p| p.name != *name) {
            let names = || params.iter().map(|p| p.name.as_str());
            return Err(LaunchError::UnknownConst {
                kernel: kernel.name,
                name: name.clone(),
                allowed: if params.is_empty() {
                    "none".into()
                } else {
                    names().collect::<Vec<_>>().join(", ")
                },
                nearest: nearest(name, names()).map(str::to_owned),
            });
        }
    }
    for param in params {
        match (param.kind, config.consts.get(&param.name)) {
            (ConstKind::Size, None | Some(0)) => {
                return Err(LaunchError::ConstNotSet { kernel: kernel.name, name: param.name.clone() });
            }
            (ConstKind::Bool, None) => {
                return Err(LaunchError::ConstNotSet { kernel: kernel.name, name: param.name.clone() });
            }
            (ConstKind::Size, Some(&value)) if !(1..=i64::from(i32::MAX)).contains(&value) => {
                return refuse(&param.name, value, "a size from 1 to 2147483647");
            }
            (ConstKind::Bool, Some(&value)) if !(0..=1).contains(&value) => {
                return refuse(&param.name, value, "0 or 1");
            }
            _ => {}
        }
    }
    if !config.num_warps.is_power_of_two() || config.num_warps > 16 {
        return refuse("num_warps", config.num_warps.into(), "1, 2, 4, 8 or 16");
    }
    for (name, value) in
        [("num_stages", config.num_stages), ("occupancy", config.occupancy), ("num_ctas", config.num_ctas)]
    {
        if value == 0 {
            return refuse(name, 0, "at least 1");
        }
    }
    Ok(())
}

fn check_arguments(
    kernel: &'static KernelDef,
    args: &[Argument<'_>],
    dtypes: &IndexMap<String, DType>,
) -> Result<(), LaunchError> {
    let ast = kernel.ast();
    for param in &ast.dtype_params {
        if dtypes.get(&param.name).is_none_or(|d| !param.bound.dtypes().contains(d)) {
            let (kernel_name, name) = (kernel.name, param.name.clone());
            let allowed = allowed_dtypes(kernel, &param.name);
            return Err(match dtypes.get(&param.name) {
                Some(&found) => {
                    LaunchError::ArgumentDType { kernel: kernel_name, name, found, expected: allowed }
                }
                None => LaunchError::DTypeNotBound { kernel: kernel_name, name, allowed },
            });
        }
    }
    if args.len() != ast.params.len() {
        return Err(LaunchError::ArgumentCount {
            kernel: kernel.name,
            expected: ast.params.len(),
            found: args.len(),
        });
    }
    args.iter().zip(&ast.params).try_for_each(|(arg, param)| check_argument(kernel, arg, param, dtypes))
}

fn check_argument(
    kernel: &'static KernelDef,
    arg: &Argument<'_>,
    param: &Param,
    dtypes: &IndexMap<String, DType>,
) -> Result<(), LaunchError> {
    let (kernel, name) = (kernel.name, param.name.clone());
    let bound = |expr: &DTypeExpr| match expr {
        DTypeExpr::Known(dtype) => *dtype,
        DTypeExpr::Param(param) => dtypes[param.as_str()],
    };
    match (&arg.0, &param.ty) {
        (Kind::Tensor(tensor), TypeExpr::Tensor { dtype, rank, mutable }) => {
            let expected = bound(dtype);
            if tensor.dtype != expected {
                let (found, expected) = (tensor.dtype, expected.to_string());
                return Err(LaunchError::ArgumentDType { kernel, name, found, expected });
            }
            if tensor.shape.len() != *rank || tensor.strides.len() != *rank {
                let shape = tensor.shape.to_vec();
                return Err(LaunchError::ArgumentRank { kernel, name, shape, expected: *rank });
            }
            if let Some(axis) = tensor.shape.iter().position(|&d| d > MAX_EXTENT) {
                let extent = tensor.shape[axis];
                return Err(LaunchError::ExtentTooLarge { kernel, name, axis, extent });
            }
            let (shape, strides) = (tensor.shape, tensor.strides);
            if reach(shape, strides) > tensor.len {
                let (shape, strides) = (shape.to_vec(), strides.to_vec());
                return Err(LaunchError::OutOfBounds { kernel, name, shape, strides, len: tensor.len });
            }
            if *mutable && !tensor.writable {
                return Err(LaunchError::NotWritable { kernel, name });
            }
            if *mutable && !is_injective(shape, strides) {
                let (shape, strides) = (shape.to_vec(), strides.to_vec());
                return Err(LaunchError::Overlap { kernel, name, shape, strides });
            }
            Ok(())
        }
        (Kind::Scalar(_, found), TypeExpr::Scalar(dtype)) => {
            let expected = bound(dtype);
            // A floating-point dtype parameter travels as f32.
            let matches = *found == expected || (expected.is_float() && *found == DType::F32);
            if matches {
                return Ok(());
            }
            let expected = expected.to_string();
            Err(LaunchError::ArgumentDType { kernel, name, found: *found, expected })
        }
        (Kind::Tensor(tensor), _) => {
            let found = format!("a tensor of shape {:?}", tensor.shape);
            Err(LaunchError::ArgumentKind { kernel, name, found, expected: "a scalar".into() })
        }
        (Kind::Scalar(_, found), _) => {
            let found = format!("a scalar ({found})");
            Err(LaunchError::ArgumentKind { kernel, name, found, expected: "a tensor".into() })
        }
    }
}
