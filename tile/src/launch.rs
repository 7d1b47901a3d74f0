//! From a kernel's arguments to its programs: everything that can be wrong with a launch is found here.

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::device::{Device, DeviceKind, Inner};
use crate::dynamic::{DynArg, DynTensor, ScalarValue};
use crate::eager::{self, Element, Scalar, Shadow, Tensor, TensorMut, View};
use crate::error::LaunchError;
use crate::registry::KernelDef;
use crate::tensor::TensorBuf;
use indexmap::IndexMap;
use std::marker::PhantomData;
use std::ptr::NonNull;
#[cfg(feature = "cuda")]
use std::sync::Arc;
use tile_lang::ast::{ConstKind, DTypeExpr, Param, TypeExpr};
use tile_lang::{Bindings, Config, DType, Diagnostic, nearest};

/// The largest extent of a tensor: kernels count in 32 bits.
const MAX_EXTENT: usize = i32::MAX as usize;
/// The largest grid a GPU takes.
const MAX_GRID: [usize; 3] = [i32::MAX as usize, 65535, 65535];

/// An argument on its way to a kernel.
#[derive(Debug)]
pub struct Argument<'a>(Kind<'a>);

#[derive(Debug)]
enum Kind<'a> {
    Tensor(RawTensor<'a>),
    Scalar(ScalarValue, DType),
}

/// A tensor without its types.
#[derive(Debug)]
struct RawTensor<'a> {
    base: *mut u8,
    /// Elements there are from `base` on.
    len: usize,
    dtype: DType,
    shape: &'a [usize],
    strides: &'a [usize],
    writable: bool,
    /// The device memory that `base` is an address of.
    #[cfg(feature = "cuda")]
    memory: Option<&'a Arc<cuda::Allocation>>,
    borrow: PhantomData<&'a mut u8>,
}

// SAFETY: it stands for a borrow of plain data, shared or exclusive as `writable` says.
unsafe impl Send for RawTensor<'_> {}
// SAFETY: as above; nothing is written through it but by the kernel's own stores.
unsafe impl Sync for RawTensor<'_> {}

impl RawTensor<'_> {
    /// Whose memory `base` is an address of.
    fn location(&self) -> DeviceKind {
        #[cfg(feature = "cuda")]
        if let Some(memory) = self.memory {
            return DeviceKind::Cuda(memory.gpu().index());
        }
        DeviceKind::Cpu
    }
}

impl<'a> Argument<'a> {
    /// A tensor to read.
    pub fn read<T: Element, const R: usize>(tensor: &'a TensorBuf<T, R>) -> Self {
        Self::typed(tensor.raw().cast_mut(), tensor, false)
    }

    /// A tensor to read and write.
    pub fn write<T: Element, const R: usize>(tensor: &'a mut TensorBuf<T, R>) -> Self {
        Self::typed(tensor.raw_mut(), tensor, true)
    }

    fn typed<T: Element, const R: usize>(base: *mut u8, tensor: &'a TensorBuf<T, R>, writable: bool) -> Self {
        let (shape, strides) = tensor.extents();
        Argument(Kind::Tensor(RawTensor {
            base,
            len: tensor.capacity(),
            dtype: T::DTYPE,
            shape,
            strides,
            writable,
            #[cfg(feature = "cuda")]
            memory: tensor.memory(),
            borrow: PhantomData,
        }))
    }

    /// A scalar.
    pub fn scalar<T: Scalar>(value: T) -> Self {
        Argument(Kind::Scalar(value.to_value(), T::SCALAR))
    }

    /// What a type-erased caller passes.
    pub(crate) fn dynamic(arg: &'a mut DynArg<'_>) -> Self {
        match arg {
            DynArg::Tensor(tensor) => {
                let DynTensor { dtype, shape, strides, data } = &mut **tensor;
                Argument(Kind::Tensor(RawTensor {
                    base: data.as_mut_ptr(),
                    len: data.len() * 8 / dtype.bits() as usize,
                    dtype: *dtype,
                    shape,
                    strides,
                    writable: true,
                    #[cfg(feature = "cuda")]
                    memory: None,
                    borrow: PhantomData,
                }))
            }
            #[cfg(feature = "cuda")]
            DynArg::Device(tensor) => Self::on_device(tensor, false),
            #[cfg(feature = "cuda")]
            DynArg::DeviceMut(tensor) => Self::on_device(tensor, true),
            DynArg::Scalar(value) => {
                let dtype = match value {
                    ScalarValue::F32(_) => DType::F32,
                    ScalarValue::I32(_) => DType::I32,
                    ScalarValue::I64(_) => DType::I64,
                    ScalarValue::Index(_) => DType::Index,
                    ScalarValue::Bool(_) => DType::Bool,
                };
                Argument(Kind::Scalar(*value, dtype))
            }
        }
    }

    /// A type-erased tensor on a device.
    #[cfg(feature = "cuda")]
    pub(crate) fn on_device(tensor: &'a cuda::DeviceTensor, writable: bool) -> Self {
        let memory = tensor.memory();
        Argument(Kind::Tensor(RawTensor {
            base: std::ptr::without_provenance_mut(memory.address() as usize),
            len: memory.bytes() * 8 / tensor.dtype().bits() as usize,
            dtype: tensor.dtype(),
            shape: tensor.shape(),
            strides: tensor.strides(),
            writable,
            memory: Some(memory),
            borrow: PhantomData,
        }))
    }
}

/// One past the last element that a shape with these strides reaches.
pub(crate) fn reach(shape: &[usize], strides: &[usize]) -> usize {
    if shape.contains(&0) {
        return 0;
    }
    let last = shape.iter().zip(strides).map(|(d, s)| (d - 1).saturating_mul(*s));
    last.fold(1usize, |sum, term| sum.saturating_add(term))
}

/// True when no two coordinates are one element: each stride steps over all that smaller ones reach.
fn is_injective(shape: &[usize], strides: &[usize]) -> bool {
    let mut axes: Vec<_> = shape.iter().zip(strides).filter(|(d, _)| **d > 1).collect();
    axes.sort_by_key(|(_, s)| **s);
    let mut reached = 1usize;
    axes.iter().all(|&(&extent, &stride)| {
        let fits = stride >= reached;
        reached = (extent - 1).saturating_mul(stride).saturating_add(reached);
        fits
    })
}

/// What a launch may do without.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    /// Look for races while running, instead of asking for a proof.
    pub check_races: bool,
    /// The caller promises that programs store to disjoint elements.
    pub unproved: bool,
}

/// Everything that the type-erased body of a kernel needs.
pub struct EagerCall<'a> {
    kernel: &'static KernelDef,
    args: &'a [Argument<'a>],
    shadows: &'a [Option<Shadow>],
    consts: &'a IndexMap<String, i64>,
    dtypes: &'a IndexMap<String, DType>,
    grid: [usize; 3],
}

impl EagerCall<'_> {
    /// The dtype of a dtype parameter.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        self.dtypes.get(name).copied()
    }

    /// The error of a dtype that the parameter's bound does not allow.
    pub fn refuse_dtype(&self, name: &str) -> LaunchError {
        let allowed = allowed_dtypes(self.kernel, name);
        match self.dtype(name) {
            Some(found) => LaunchError::ArgumentDType {
                kernel: self.kernel.name,
                name: name.to_owned(),
                found,
                expected: allowed,
            },
            None => LaunchError::DTypeNotBound { kernel: self.kernel.name, name: name.to_owned(), allowed },
        }
    }

    /// A size parameter.
    pub fn size(&self, name: &str) -> usize {
        self.consts.get(name).map_or(0, |&v| v as usize)
    }

    /// A switch.
    pub fn flag(&self, name: &str) -> bool {
        self.size(name) != 0
    }

    /// The view of a tensor argument.
    fn view<T: Element, const R: usize>(&self, index: usize) -> View<T, R> {
        let Kind::Tensor(tensor) = &self.args[index].0 else {
            unreachable!("the launch checked the kinds of the arguments");
        };
        assert_eq!(tensor.dtype, T::DTYPE, "the launch checked the dtypes of the arguments");
        let extents = |values: &[usize]| values.try_into().expect("the launch checked the ranks");
        View {
            base: tensor.base,
            shape: extents(tensor.shape),
            strides: extents(tensor.strides),
            shadow: self.shadows[index].as_ref().map(NonNull::from),
            dtype: PhantomData,
        }
    }

    /// A tensor argument to read.
    pub fn tensor<T: Element, const R: usize>(&self, index: usize) -> Tensor<T, R> {
        Tensor::new(self.view(index))
    }

    /// A tensor argument to read and write.
    pub fn tensor_mut<T: Element, const R: usize>(&self, index: usize) -> TensorMut<T, R> {
        TensorMut::new(self.view(index))
    }

    /// A scalar argument.
    pub fn scalar<T: Scalar>(&self, index: usize) -> T {
        let value = match &self.args[index].0 {
            Kind::Scalar(value, _) => T::from_value(*value),
            Kind::Tensor(_) => None,
        };
        value.expect("the launch checked the types of the scalars")
    }

    /// Runs the body once for each program.
    pub fn run(&self, body: impl Fn() + Sync) -> Result<(), LaunchError> {
        eager::run_grid(self.kernel.name, self.grid, body)
    }
}

fn allowed_dtypes(kernel: &KernelDef, name: &str) -> String {
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

impl Request<'_> {
    /// Checks everything that can be known before the kernel is compiled.
    fn check(&self, device: &Device) -> Result<Bindings, LaunchError> {
        let Request { kernel, args, config, dtypes, grid, options } = *self;
        check_grid(kernel, grid)?;
        check_config(kernel, config)?;
        check_target(kernel, config, device)?;
        check_arguments(kernel, args, dtypes)?;
        check_locations(kernel, args, device.kind())?;
        check_instance(kernel, config, dtypes, grid, options)
    }

    /// Checks everything and runs the kernel; on a GPU in its default stream.
    pub fn run(&self, device: &Device) -> Result<(), LaunchError> {
        match device.0 {
            Inner::Cpu => {
                let bindings = self.check(device)?;
                run_on_cpu(self.kernel, self.args, &bindings, self.grid, self.options)
            }
            #[cfg(feature = "cuda")]
            Inner::Cuda(_, gpu) => self.run_in(gpu.default_stream()),
        }
    }

    /// Checks everything and asks a stream to run the kernel.
    #[cfg(feature = "cuda")]
    pub fn run_in(&self, stream: &cuda::Stream) -> Result<(), LaunchError> {
        let device = stream.device();
        let (gpu, bindings) = (cuda::Gpu::of(&device, "a launch")?, self.check_for_gpu(&device)?);
        let args = device_arguments(self.kernel, self.args, &bindings)?;
        gpu.launch(self.kernel, &bindings, self.config, self.grid, &args, stream)
    }

    /// Checks everything, compiles and loads the kernel.
    #[cfg(feature = "cuda")]
    pub fn prepare(&self, device: &Device) -> Result<cuda::Prepared, LaunchError> {
        let (gpu, bindings) = (cuda::Gpu::of(device, "a prepared launch")?, self.check_for_gpu(device)?);
        let args = device_arguments(self.kernel, self.args, &bindings)?;
        gpu.prepare(self.kernel, &bindings, self.config, self.grid, &args)
    }

    #[cfg(feature = "cuda")]
    fn check_for_gpu(&self, device: &Device) -> Result<Bindings, LaunchError> {
        match self.options.check_races {
            true => Err(LaunchError::RacesOnGpu { kernel: self.kernel.name }),
            false => self.check(device),
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

/// Checks the kernel with its parameters bound, and that its stores are disjoint unless the options waive it.
fn check_instance(
    kernel: &'static KernelDef,
    config: &Config,
    dtypes: &IndexMap<String, DType>,
    grid: [usize; 3],
    options: Options,
) -> Result<Bindings, LaunchError> {
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
    if !diagnostics.is_empty() && !options.check_races && !options.unproved {
        return Err(LaunchError::StoresNotProved { kernel: kernel.name, diagnostics, files: files() });
    }
    Ok(bindings)
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
        Kind::Scalar(value, _) => {
            let dtype = match &param.ty {
                TypeExpr::Scalar(DTypeExpr::Param(name)) => bindings.dtypes.get(name).copied(),
                _ => None,
            };
            let bits = value.bits(dtype.unwrap_or(DType::F32)).ok_or_else(|| match value {
                ScalarValue::Index(value) => LaunchError::ScalarTooLarge {
                    kernel: kernel.name,
                    name: param.name.clone(),
                    value: *value,
                },
                _ => unreachable!("only sizes can be too large"),
            });
            bits.map(cuda::Arg::Scalar)
        }
    };
    args.iter().zip(&kernel.ast().params).map(argument).collect()
}

/// Runs the kernel's programs on this machine's cores.
fn run_on_cpu(
    kernel: &'static KernelDef,
    args: &[Argument<'_>],
    bindings: &Bindings,
    grid: [usize; 3],
    options: Options,
) -> Result<(), LaunchError> {
    let shadows: Vec<Option<Shadow>> = args
        .iter()
        .zip(&kernel.ast().params)
        .map(|(arg, param)| match (&arg.0, &param.ty) {
            (Kind::Tensor(t), TypeExpr::Tensor { mutable: true, .. }) if options.check_races => {
                let elements = reach(t.shape, t.strides);
                Some(Shadow::new(&param.name, t.shape, t.strides, elements, grid))
            }
            _ => None,
        })
        .collect();
    let Bindings { consts, dtypes } = bindings;
    let call = EagerCall { kernel, args, shadows: &shadows, consts, dtypes, grid };
    (kernel.eager)(&call)
}

fn check_grid(kernel: &'static KernelDef, grid: [usize; 3]) -> Result<(), LaunchError> {
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

/// The configuration type that `#[tile_kernel]` makes: one field a const parameter and launch option.
pub trait TypedConfig: Copy + Default {
    /// The kernel it belongs to.
    fn kernel() -> &'static KernelDef;
    /// By name.
    fn to_config(self) -> Config;
    /// From names; what the configuration lacks is zero or false.
    fn from_config(config: &Config) -> Self;
}

/// One to three extents of a grid; those left out are 1.
pub trait IntoGrid {
    /// All three.
    fn into_grid(self) -> [usize; 3];
}

impl IntoGrid for usize {
    fn into_grid(self) -> [usize; 3] {
        [self, 1, 1]
    }
}

impl IntoGrid for [usize; 1] {
    fn into_grid(self) -> [usize; 3] {
        [self[0], 1, 1]
    }
}

impl IntoGrid for [usize; 2] {
    fn into_grid(self) -> [usize; 3] {
        [self[0], self[1], 1]
    }
}

impl IntoGrid for [usize; 3] {
    fn into_grid(self) -> [usize; 3] {
        self
    }
}

/// A kernel with its arguments, about to be launched: give it a [`grid`](Self::grid), perhaps a
/// [`config`](Self::config), then [`launch`](Self::launch) it.
#[must_use = "a kernel runs only when it is launched"]
pub struct Launch<'a, C> {
    args: Vec<Argument<'a>>,
    dtypes: IndexMap<String, DType>,
    grid: Option<[usize; 3]>,
    config: C,
    check_races: bool,
}

impl<'a, C: TypedConfig> Launch<'a, C> {
    /// For the macro's use.
    #[doc(hidden)]
    pub fn new<const N: usize>(args: Vec<Argument<'a>>, dtypes: [(&'static str, DType); N]) -> Self {
        let dtypes = dtypes.into_iter().map(|(name, dtype)| (name.to_owned(), dtype)).collect();
        Launch { args, dtypes, grid: None, config: C::default(), check_races: false }
    }

    /// How many programs to run along each axis.
    pub fn grid(mut self, grid: impl IntoGrid) -> Self {
        self.grid = Some(grid.into_grid());
        self
    }

    /// The tile sizes and launch options; the kernel's default configuration when it is not called.
    pub fn config(mut self, config: C) -> Self {
        self.config = config;
        self
    }

    /// On the CPU: watch every access to the mutable tensors, and stop when two programs meet at one element and
    /// one of them stores. Slower; asks for no proof that stores are disjoint.
    pub fn check_races(mut self, check: bool) -> Self {
        self.check_races = check;
        self
    }

    /// Runs the kernel. The CPU has run it when this returns; a GPU runs it after what was launched there before,
    /// and [`Device::synchronize`] or copying a tensor back waits for it. Tensors lie where the kernel runs.
    ///
    /// # Errors
    /// When the grid, the configuration or an argument does not fit the kernel; when stores of two programs are
    /// not proved disjoint; when a program stops, with the kernel's line. The contents of the mutable tensors are
    /// unspecified after an error of a running program, and untouched after any other.
    pub fn launch(self, device: &Device) -> Result<(), LaunchError> {
        self.request(false, |request| request.run(device))
    }

    /// Runs the kernel without a proof that programs store to disjoint elements.
    ///
    /// # Safety
    /// No two programs of the grid may access one element of a mutable tensor if one of them stores to it.
    ///
    /// # Errors
    /// As [`launch`](Self::launch), but for the proof.
    pub unsafe fn launch_unchecked(self, device: &Device) -> Result<(), LaunchError> {
        self.request(true, |request| request.run(device))
    }

    /// Asks a stream to run the kernel, on the stream's device; as [`launch`](Self::launch), which uses the
    /// device's default stream.
    ///
    /// # Errors
    /// As [`launch`](Self::launch).
    #[cfg(feature = "cuda")]
    pub fn launch_on(self, stream: &cuda::Stream) -> Result<(), LaunchError> {
        self.request(false, |request| request.run_in(stream))
    }

    /// Asks a stream to run the kernel without a proof that programs store to disjoint elements.
    ///
    /// # Safety
    /// As for [`launch_unchecked`](Self::launch_unchecked).
    ///
    /// # Errors
    /// As [`launch`](Self::launch), but for the proof.
    #[cfg(feature = "cuda")]
    pub unsafe fn launch_unchecked_on(self, stream: &cuda::Stream) -> Result<(), LaunchError> {
        self.request(true, |request| request.run_in(stream))
    }

    /// Checks, compiles and loads the kernel for a GPU, to launch it often.
    ///
    /// # Errors
    /// As [`launch`](Self::launch); [`DeviceError::NotAGpu`](crate::DeviceError::NotAGpu) on the CPU device.
    #[cfg(feature = "cuda")]
    pub fn prepare(self, device: &Device) -> Result<cuda::Prepared, LaunchError> {
        self.request(false, |request| request.prepare(device))
    }

    fn request<R>(
        self,
        unproved: bool,
        run: impl FnOnce(Request<'_>) -> Result<R, LaunchError>,
    ) -> Result<R, LaunchError> {
        let kernel = C::kernel();
        let grid = self.grid.ok_or(LaunchError::NoGrid { kernel: kernel.name })?;
        let options = Options { check_races: self.check_races, unproved };
        let config = self.config.to_config();
        run(Request { kernel, args: &self.args, config: &config, dtypes: &self.dtypes, grid, options })
    }
}
