//! Kernels and tensors whose types are known only at run time: what the command line and tests work with.

#[cfg(feature = "cuda")]
use crate::cuda::{DeviceTensor, Prepared, Stream};
use crate::device::Device;
#[cfg(feature = "cuda")]
use crate::device::DeviceKind;
use crate::eager::{Element, F4E2M1FN, F8E4M3FN};
use crate::error::{LaunchError, TensorError};
use crate::launch::{self, Argument, Options, Request, Unproved};
use crate::registry::KernelDef;
use crate::tensor::{dense_strides, element_count};
use half::{bf16, f16};
use tile_lang::{Bindings, Config, DType};

/// A scalar argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ScalarValue {
    /// `f32`, and the value of a floating-point dtype parameter.
    F32(f32),
    /// `i32`.
    I32(i32),
    /// `i64`.
    I64(i64),
    /// `usize`.
    Index(usize),
    /// `bool`.
    Bool(bool),
}

#[cfg(feature = "jit")]
impl ScalarValue {
    /// The bits that a compiled kernel reads; floating-point values in `float`, the dtype of the parameter, sizes
    /// and truth values in 32 bits. `None` when a size does not fit.
    pub(crate) fn bits(self, float: DType) -> Option<u64> {
        Some(match self {
            ScalarValue::F32(v) => match float {
                DType::F16 => f16::from_f32(v).to_bits().into(),
                DType::BF16 => bf16::from_f32(v).to_bits().into(),
                DType::F8E4M3FN | DType::F4E2M1FN => {
                    DynTensor::from_f64(float, &[1], &[v.into()]).data[0].into()
                }
                _ => v.to_bits().into(),
            },
            ScalarValue::I32(v) => u64::from(v as u32),
            ScalarValue::I64(v) => v as u64,
            ScalarValue::Index(v) => u64::from(u32::try_from(i32::try_from(v).ok()?).ok()?),
            ScalarValue::Bool(v) => v.into(),
        })
    }
}

/// A tensor whose dtype and rank are values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DynTensor {
    /// Element type: one that a tensor can hold.
    pub dtype: DType,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// Strides in elements.
    pub strides: Vec<usize>,
    /// The elements; of 4-bit types two a byte, the first in the low half.
    pub data: Vec<u8>,
}

/// Calls `$body` with `$T` as the element type of a dtype.
macro_rules! with_element {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            DType::F32 => {
                type $T = f32;
                $body
            }
            DType::F16 => {
                type $T = f16;
                $body
            }
            DType::BF16 => {
                type $T = bf16;
                $body
            }
            DType::I32 => {
                type $T = i32;
                $body
            }
            DType::Bool => {
                type $T = bool;
                $body
            }
            DType::F8E4M3FN => {
                type $T = F8E4M3FN;
                $body
            }
            DType::F4E2M1FN => {
                type $T = F4E2M1FN;
                $body
            }
            DType::I64 | DType::Index => panic!("a tensor cannot hold {}", $dtype),
        }
    };
}

/// Bytes that `elements` of a dtype take.
pub(crate) fn byte_count(dtype: DType, elements: usize) -> usize {
    (elements * dtype.bits() as usize).div_ceil(8)
}

impl DynTensor {
    /// A dense tensor of zeros.
    ///
    /// # Panics
    /// When memory cannot hold the shape, or no tensor can hold the dtype (`i64`, `index`).
    pub fn zeros(dtype: DType, shape: &[usize]) -> DynTensor {
        let count = element_count(shape).unwrap_or_else(|error| panic!("{error}"));
        with_element!(dtype, T => { let _: Option<T> = None; });
        let data = vec![0; byte_count(dtype, count)];
        DynTensor { dtype, shape: shape.to_vec(), strides: dense_strides(shape), data }
    }

    /// A dense tensor of these bytes.
    ///
    /// # Errors
    /// When there are too many or too few bytes for the shape; the error counts bytes.
    pub fn from_bytes(dtype: DType, shape: &[usize], data: Vec<u8>) -> Result<DynTensor, TensorError> {
        let expected = byte_count(dtype, element_count(shape)?);
        if data.len() != expected {
            return Err(TensorError::Bytes { shape: shape.to_vec(), dtype, expected, found: data.len() });
        }
        Ok(DynTensor { dtype, shape: shape.to_vec(), strides: dense_strides(shape), data })
    }

    /// A dense tensor of values in row-major order, each rounded to the nearest of the dtype.
    ///
    /// # Panics
    /// When the number of values is not that of the shape, or no tensor can hold the dtype.
    pub fn from_f64(dtype: DType, shape: &[usize], values: &[f64]) -> DynTensor {
        let mut tensor = DynTensor::zeros(dtype, shape);
        assert_eq!(values.len(), tensor.len(), "shape {shape:?} and the number of values");
        with_element!(dtype, T => {
            for (i, &value) in values.iter().enumerate() {
                // SAFETY: `zeros` made room for every element.
                unsafe { T::write(tensor.data.as_mut_ptr(), i, <T as Element>::from_f64(value)) };
            }
        });
        tensor
    }

    /// The values in row-major order.
    ///
    /// # Panics
    /// When shape and strides reach beyond the data.
    pub fn to_f64(&self) -> Vec<f64> {
        let reach = launch::reach(&self.shape, &self.strides);
        assert!(byte_count(self.dtype, reach) <= self.data.len(), "shape and strides reach beyond the data");
        let mut values = Vec::with_capacity(self.len());
        let mut coords = vec![0; self.shape.len()];
        for _ in 0..self.len() {
            let place = coords.iter().zip(&self.strides).map(|(c, s)| c * s).sum();
            // SAFETY: `reach` is one past the last place.
            values.push(with_element!(self.dtype, T => unsafe {
                Element::to_f64(T::read(self.data.as_ptr(), place))
            }));
            for axis in (0..coords.len()).rev() {
                coords[axis] += 1;
                if coords[axis] < self.shape[axis] {
                    break;
                }
                coords[axis] = 0;
            }
        }
        values
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An argument of a type-erased call, in the order of the kernel's parameters.
#[derive(Debug)]
pub enum DynArg<'a> {
    /// For a `Tensor` or `TensorMut` parameter.
    Tensor(&'a mut DynTensor),
    /// For a `Tensor` parameter of a kernel on a GPU.
    #[cfg(feature = "cuda")]
    Device(&'a DeviceTensor),
    /// For a `Tensor` or `TensorMut` parameter of a kernel on a GPU.
    #[cfg(feature = "cuda")]
    DeviceMut(&'a mut DeviceTensor),
    /// For a scalar parameter.
    Scalar(ScalarValue),
}

/// What to look for in a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuOptions {
    /// Find programs that access one element, one of them storing, also where stores are proved disjoint. Slower.
    pub check_races: bool,
    /// Evaluate the kernel's checks, and stop where one does not hold.
    pub checked: bool,
}

/// How type-erased launches on GPUs are made.
#[cfg(feature = "cuda")]
const ON_GPU: Options = Options { check_races: false, checked: false, unproved: Unproved::Watch };

impl KernelDef {
    /// Runs the kernel on the CPU.
    ///
    /// Const parameters come from `config`, dtype parameters from `dtypes.dtypes`; `dtypes.consts` adds const
    /// parameters that the configuration lacks.
    ///
    /// # Errors
    /// When an argument, the configuration or the grid does not fit the kernel, or the kernel stops: also where two
    /// programs meet at one element, which is looked for unless stores are proved disjoint.
    pub fn run_cpu(
        &'static self,
        args: &mut [DynArg<'_>],
        config: &Config,
        dtypes: &Bindings,
        grid: [usize; 3],
        options: CpuOptions,
    ) -> Result<(), LaunchError> {
        self.run_here(&Device::cpu(), args, config, dtypes, grid, options)
    }

    /// Runs the kernel over tensors in host memory, on a device that takes them as they are.
    pub(crate) fn run_here(
        &'static self,
        device: &Device,
        args: &mut [DynArg<'_>],
        config: &Config,
        dtypes: &Bindings,
        grid: [usize; 3],
        options: CpuOptions,
    ) -> Result<(), LaunchError> {
        let CpuOptions { check_races, checked } = options;
        let options = Options { check_races, checked, unproved: Unproved::Watch };
        let arguments = args.iter_mut().map(Argument::dynamic);
        self.request(arguments.collect(), config, dtypes, grid, options, |request| request.run(device))
    }

    /// Runs the kernel on a device: on a GPU over copies of the tensors that are in host memory, which are copied
    /// back.
    ///
    /// # Errors
    /// As [`run_cpu`](Self::run_cpu); also when the device fails, or the kernel does not compile for it.
    #[cfg(feature = "cuda")]
    pub fn run_on(
        &'static self,
        device: &Device,
        args: &mut [DynArg<'_>],
        config: &Config,
        dtypes: &Bindings,
        grid: [usize; 3],
    ) -> Result<(), LaunchError> {
        if device.memory() == DeviceKind::Cpu {
            return self.run_here(device, args, config, dtypes, grid, CpuOptions::default());
        }
        let copy = |arg: &DynArg<'_>| match arg {
            DynArg::Tensor(tensor) => DeviceTensor::from_host(device, tensor).map(Some),
            _ => Ok(None),
        };
        let copies = args.iter().map(copy).collect::<Result<Vec<_>, _>>()?;
        let arguments = args.iter_mut().zip(&copies).map(|(arg, copy)| match copy {
            Some(tensor) => Argument::on_device(tensor, true),
            None => Argument::dynamic(arg),
        });
        let run = |request: Request<'_>| request.run(device);
        self.request(arguments.collect(), config, dtypes, grid, ON_GPU, run)?;
        for (arg, copy) in args.iter_mut().zip(&copies) {
            if let (DynArg::Tensor(tensor), Some(copy)) = (arg, copy) {
                copy.buffer().download(&mut tensor.data)?;
            }
        }
        Ok(())
    }

    /// Asks a stream to run the kernel over tensors on its device.
    ///
    /// # Errors
    /// As [`run_on`](Self::run_on), and when a tensor is elsewhere.
    #[cfg(feature = "cuda")]
    pub fn launch_on(
        &'static self,
        stream: &Stream,
        args: &mut [DynArg<'_>],
        config: &Config,
        dtypes: &Bindings,
        grid: [usize; 3],
    ) -> Result<(), LaunchError> {
        self.launch_with(stream, args, config, dtypes, grid, false)
    }

    /// As [`launch_on`](Self::launch_on); with `checked`, waits for the kernel and says which check did not hold.
    #[cfg(feature = "cuda")]
    pub(crate) fn launch_with(
        &'static self,
        stream: &Stream,
        args: &mut [DynArg<'_>],
        config: &Config,
        dtypes: &Bindings,
        grid: [usize; 3],
        checked: bool,
    ) -> Result<(), LaunchError> {
        let arguments = args.iter_mut().map(Argument::dynamic).collect();
        let run = |request: Request<'_>| request.run_in(stream).map(drop);
        self.request(arguments, config, dtypes, grid, Options { checked, ..ON_GPU }, run)
    }

    /// Checks, compiles and loads the kernel over tensors on a GPU, to launch it often.
    ///
    /// # Errors
    /// As [`launch_on`](Self::launch_on).
    #[cfg(feature = "cuda")]
    pub fn prepare(
        &'static self,
        device: &Device,
        args: &mut [DynArg<'_>],
        config: &Config,
        dtypes: &Bindings,
        grid: [usize; 3],
    ) -> Result<Prepared, LaunchError> {
        let arguments = args.iter_mut().map(Argument::dynamic).collect();
        let run = |request: Request<'_>| request.prepare(device);
        self.request(arguments, config, dtypes, grid, ON_GPU, run)
    }

    fn request<R>(
        &'static self,
        args: Vec<Argument<'_>>,
        config: &Config,
        dtypes: &Bindings,
        grid: [usize; 3],
        options: Options,
        run: impl FnOnce(Request<'_>) -> Result<R, LaunchError>,
    ) -> Result<R, LaunchError> {
        let mut config = config.clone();
        for (name, &value) in &dtypes.consts {
            config.consts.entry(name.clone()).or_insert(value);
        }
        run(Request { kernel: self, args: &args, config: &config, dtypes: &dtypes.dtypes, grid, options })
    }
}
