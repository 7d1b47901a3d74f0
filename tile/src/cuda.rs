//! GPUs through the driver: memory, compiled kernels, launches. The driver's library is loaded on first use, so
//! that everything else works where there is none.
//!
//! **All work of a device is in one stream**: launches and copies happen in the order they are asked for, and
//! memory is freed only when what uses it is done. That is what makes asynchronous launches safe over borrows
//! that end with the launch.

use crate::error::{DeviceError, LaunchError};
use crate::jit::{self, TensorFacts};
use crate::registry::KernelDef;
use codegen_ptx::{Compiled, Target};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::{CudaContext, CudaStream, sys};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, OnceLock};
use tile_lang::{Bindings, Config, DType};

/// A GPU that this program uses; each is opened once and kept.
pub(crate) struct Gpu {
    index: usize,
    name: String,
    target: &'static Target,
    /// The most dynamic shared memory of one CTA, in bytes.
    smem_bytes: usize,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    kernels: Mutex<HashMap<Key, Entry>>,
}

/// A compilation, perhaps under way: whoever meets an empty one makes it, others wait.
type Entry = Arc<OnceLock<Result<Loaded, LaunchError>>>;

/// What compiled code depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    /// Address of the kernel's definition, which is static.
    kernel: usize,
    consts: Vec<(String, i64)>,
    dtypes: Vec<(String, DType)>,
    options: [u32; 4],
    facts: Vec<TensorFacts>,
}

/// A kernel on the device. It stays until the program ends.
#[derive(Clone, Copy, Debug)]
struct Loaded {
    function: sys::CUfunction,
    num_threads: u32,
    smem_bytes: u32,
}

// SAFETY: the driver lets every thread use its handles.
unsafe impl Send for Loaded {}
// SAFETY: as above; it is never changed.
unsafe impl Sync for Loaded {}

/// An argument of a launch.
#[derive(Clone, Debug)]
pub(crate) enum Arg<'a> {
    /// Address, extents and strides in elements.
    Tensor { dtype: DType, address: u64, shape: &'a [usize], strides: &'a [usize] },
    /// The bits that a parameter of the scalar's type reads.
    Scalar(u64),
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cuda:{} ({}, {})", self.index, self.name, self.target)
    }
}

static GPUS: Mutex<Vec<&'static Gpu>> = Mutex::new(Vec::new());

fn gpus() -> std::sync::MutexGuard<'static, Vec<&'static Gpu>> {
    GPUS.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn driver_error(index: usize, doing: &'static str, error: DriverError) -> LaunchError {
    let text = |text: Result<&std::ffi::CStr, DriverError>| {
        text.map_or_else(|_| format!("{:?}", error.0), |t| t.to_string_lossy().into_owned())
    };
    let (code, message) = (text(error.error_name()), text(error.error_string()));
    DeviceError::Driver { index, doing, code, message }.into()
}

impl Gpu {
    /// The GPU number `index`, opened when it is first asked for.
    pub fn open(index: usize) -> Result<&'static Gpu, LaunchError> {
        let mut gpus = gpus();
        if let Some(&gpu) = gpus.iter().find(|gpu| gpu.index == index) {
            return Ok(gpu);
        }
        let gpu: &'static Gpu = Box::leak(Box::new(Gpu::new(index)?));
        gpus.push(gpu);
        Ok(gpu)
    }

    fn new(index: usize) -> Result<Gpu, LaunchError> {
        use sys::CUdevice_attribute_enum::{
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
        };
        // SAFETY: it only looks for the driver's library.
        if !unsafe { sys::is_culib_present() } {
            return Err(DeviceError::NoDriver { index }.into());
        }
        let failed = |doing| move |error| driver_error(index, doing, error);
        match result::init() {
            Err(DriverError(sys::cudaError_enum::CUDA_ERROR_NO_DEVICE)) => {
                return Err(DeviceError::NoSuchDevice { index, count: 0 }.into());
            }
            initialized => initialized.map_err(failed("starting the driver"))?,
        }
        let count = result::device::get_count().map_err(failed("counting the devices"))? as usize;
        if index >= count {
            return Err(DeviceError::NoSuchDevice { index, count }.into());
        }
        let device = result::device::get(index as i32).map_err(failed("finding the device"))?;
        let attribute = |attribute| {
            // SAFETY: the driver gave the device.
            let value = unsafe { result::device::get_attribute(device, attribute) };
            value.map_err(failed("reading the device's attributes"))
        };
        let major = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? as u32;
        let minor = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)? as u32;
        let name = result::device::get_name(device).map_err(failed("reading the device's name"))?;
        let Some(target) = Target::for_device(major, minor) else {
            let known = Target::all().iter().map(|t| t.part).collect::<Vec<_>>().join(", ");
            return Err(DeviceError::Unsupported { index, name, capability: (major, minor), known }.into());
        };
        let smem_bytes = attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as usize;
        let context = CudaContext::new(index).map_err(failed("opening the device"))?;
        let stream = context.new_stream().map_err(failed("making a stream"))?;
        Ok(Gpu { index, name, target, smem_bytes, context, stream, kernels: Mutex::default() })
    }

    /// What its kernels are compiled for.
    pub fn target(&self) -> &'static Target {
        self.target
    }

    /// As the driver names it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs driver calls with this device current; `doing` says what for.
    fn call<T>(
        &self,
        doing: &'static str,
        f: impl FnOnce(sys::CUstream) -> Result<T, DriverError>,
    ) -> Result<T, LaunchError> {
        let done = self.context.bind_to_thread().and_then(|()| f(self.stream.cu_stream()));
        done.map_err(|error| driver_error(self.index, doing, error))
    }

    /// Waits until everything asked for is done.
    pub fn synchronize(&self) -> Result<(), LaunchError> {
        // SAFETY: the stream lives as long as the device.
        self.call("waiting for the device", |stream| unsafe { result::stream::synchronize(stream) })
    }

    /// Launches a kernel; the arguments have been checked, but for what only the device knows.
    pub fn launch(
        &'static self,
        kernel: &'static KernelDef,
        bindings: &Bindings,
        config: &Config,
        grid: [usize; 3],
        args: &[Arg<'_>],
    ) -> Result<(), LaunchError> {
        let facts = args.iter().filter_map(|arg| match arg {
            Arg::Tensor { dtype, address, shape, strides } => {
                Some(jit::facts_of(*dtype, *address, shape, strides))
            }
            Arg::Scalar(_) => None,
        });
        let loaded = self.load(kernel, bindings, config, facts.collect())?;
        // The kernel's parameters, each in the low bytes of its slot.
        let mut slots: Vec<u64> = Vec::new();
        for arg in args {
            match arg {
                Arg::Tensor { address, shape, strides, .. } => {
                    slots.push(*address);
                    slots.extend(shape.iter().chain(*strides).map(|&n| n as u64));
                }
                Arg::Scalar(bits) => slots.push(bits.to_le()),
            }
        }
        let mut params: Vec<*mut c_void> =
            slots.iter_mut().map(|slot| std::ptr::from_mut(slot).cast()).collect();
        let [x, y, z] = grid.map(|extent| extent as u32);
        // SAFETY: the parameters are those of the compiled kernel, in order; the launch's checks hold for the
        // tensors, which live on this device until everything in the stream before their release is done.
        self.call("launching a kernel", |stream| unsafe {
            let block = (loaded.num_threads, 1, 1);
            result::launch_kernel(loaded.function, (x, y, z), block, loaded.smem_bytes, stream, &mut params)
        })
    }

    /// The kernel on the device: compiled by whoever asks first, while others wait for it. Errors are not kept.
    fn load(
        &self,
        kernel: &'static KernelDef,
        bindings: &Bindings,
        config: &Config,
        facts: Vec<TensorFacts>,
    ) -> Result<Loaded, LaunchError> {
        let kernels = || self.kernels.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let key = Key {
            kernel: std::ptr::from_ref(kernel).addr(),
            consts: bindings.consts.iter().map(|(name, value)| (name.clone(), *value)).collect(),
            dtypes: bindings.dtypes.iter().map(|(name, dtype)| (name.clone(), *dtype)).collect(),
            options: [config.num_warps, config.num_stages, config.occupancy, config.num_ctas],
            facts,
        };
        let entry = kernels().entry(key.clone()).or_default().clone();
        let loaded = entry.get_or_init(|| self.compile(kernel, bindings, config, &key.facts)).clone();
        if loaded.is_err() {
            let mut kernels = kernels();
            if kernels.get(&key).is_some_and(|current| Arc::ptr_eq(current, &entry)) {
                kernels.remove(&key);
            }
        }
        loaded
    }

    fn compile(
        &self,
        kernel: &'static KernelDef,
        bindings: &Bindings,
        config: &Config,
        facts: &[TensorFacts],
    ) -> Result<Loaded, LaunchError> {
        let jit = jit::compile(kernel, bindings, config, self.target, facts, false);
        let compiled = jit.map_err(|error| LaunchError::Jit(Box::new(error)))?.compiled;
        if compiled.smem_bytes > self.smem_bytes {
            return Err(LaunchError::SharedMemory {
                kernel: kernel.name,
                needed: compiled.smem_bytes,
                available: self.smem_bytes,
            });
        }
        let module = self.load_module(kernel.name, &compiled)?;
        let entry = CString::new(compiled.entry.as_str()).expect("a Rust name holds no zero");
        let smem = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let function = self.call("finding a kernel in its module", |_| {
            // SAFETY: the module was just loaded and is never unloaded.
            let function = unsafe { result::module::get_function(module, entry) }?;
            // SAFETY: the function is of that module.
            unsafe { result::function::set_function_attribute(function, smem, compiled.smem_bytes as i32) }?;
            Ok(function)
        })?;
        Ok(Loaded { function, num_threads: compiled.num_threads, smem_bytes: compiled.smem_bytes as u32 })
    }

    /// Has the driver assemble the PTX.
    fn load_module(&self, kernel: &'static str, compiled: &Compiled) -> Result<sys::CUmodule, LaunchError> {
        use sys::CUjit_option_enum::{CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
        let image = CString::new(compiled.ptx.as_str()).expect("PTX is text");
        let mut log = vec![0u8; 4096];
        let mut options = [CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(log.len() - 1)];
        let mut module = std::ptr::null_mut();
        self.call("making the device current", |_| Ok(()))?;
        // SAFETY: image and log outlive the call; the log's last byte stays zero.
        let loaded = unsafe {
            let image = image.as_ptr().cast();
            sys::cuModuleLoadDataEx(&mut module, image, 2, options.as_mut_ptr(), values.as_mut_ptr())
        };
        let (major, minor) = compiled.target.ptx_version;
        match loaded.result() {
            Ok(()) => Ok(module),
            Err(DriverError(sys::cudaError_enum::CUDA_ERROR_UNSUPPORTED_PTX_VERSION)) => {
                Err(DeviceError::DriverTooOld { index: self.index, ptx_version: (major, minor) }.into())
            }
            Err(DriverError(sys::cudaError_enum::CUDA_ERROR_INVALID_PTX)) => {
                let end = log.iter().position(|&b| b == 0).unwrap_or(log.len());
                let log = String::from_utf8_lossy(&log[..end]).trim().to_owned();
                Err(LaunchError::RefusedPtx { kernel, log })
            }
            Err(error) => Err(driver_error(self.index, "loading a kernel", error)),
        }
    }
}

/// Memory of a GPU.
pub(crate) struct DeviceMemory {
    gpu: &'static Gpu,
    address: u64,
    bytes: usize,
}

impl DeviceMemory {
    fn new(gpu: &'static Gpu, bytes: usize) -> Result<DeviceMemory, LaunchError> {
        // SAFETY: nobody reads the memory before it is written.
        let allocated =
            gpu.context.bind_to_thread().and_then(|()| unsafe { result::malloc_sync(bytes.max(1)) });
        match allocated {
            Ok(address) => Ok(DeviceMemory { gpu, address, bytes }),
            Err(DriverError(sys::cudaError_enum::CUDA_ERROR_OUT_OF_MEMORY)) => {
                Err(DeviceError::OutOfMemory { index: gpu.index, bytes }.into())
            }
            Err(error) => Err(driver_error(gpu.index, "allocating memory", error)),
        }
    }

    /// A copy of host memory, done when this returns.
    pub fn upload<P: Copy>(gpu: &'static Gpu, data: &[P]) -> Result<DeviceMemory, LaunchError> {
        let memory = DeviceMemory::new(gpu, size_of_val(data))?;
        if memory.bytes == 0 {
            return Ok(memory);
        }
        // SAFETY: there is room for the data, which outlives the copy: it is waited for.
        gpu.call("copying to the device", |stream| unsafe {
            result::memcpy_htod_async(memory.address, data, stream)?;
            result::stream::synchronize(stream)
        })?;
        Ok(memory)
    }

    /// Copies elements from place `first` on back, after everything asked for before.
    pub fn download<P: Copy>(&self, first: usize, out: &mut [P]) -> Result<(), LaunchError> {
        let start = first * size_of::<P>();
        assert!(start + size_of_val(out) <= self.bytes, "a copy from beyond the end of device memory");
        if out.is_empty() {
            return Ok(());
        }
        // SAFETY: the range is inside the memory, and `out` outlives the copy: it is waited for. Every bit pattern
        // that a kernel stores is one of the element type.
        self.gpu.call("copying from the device", |stream| unsafe {
            result::memcpy_dtoh_async(out, self.address + start as u64, stream)?;
            result::stream::synchronize(stream)
        })
    }

    /// Where it is.
    pub fn gpu(&self) -> &'static Gpu {
        self.gpu
    }

    /// Which device it is of.
    pub fn device(&self) -> usize {
        self.gpu.index
    }

    /// Its first byte's address.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// How large it is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // A failure means that the device is lost, and its memory with it.
        // SAFETY: the memory is this value's alone, and waiting for the stream first ends every use of it.
        let _ = self.gpu.call("freeing memory", |stream| unsafe {
            let finished = result::stream::synchronize(stream);
            result::free_sync(self.address).and(finished)
        });
    }
}
