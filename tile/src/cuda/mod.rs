//! GPUs through the driver: streams, memory, compiled kernels, launches, graphs. The driver's library is loaded on
//! first use, so that everything else works where there is none.
//!
//! **Order is kept by the memory**: each allocation knows which streams use it, and a use that conflicts with
//! another stream's first waits for it, on the device. That is what makes asynchronous launches safe over borrows
//! that end with the launch, and lets memory be freed without waiting.

mod buffer;
mod event;
mod graph;
mod kernels;
mod memory;
mod module;
mod once_map;
mod order;
mod params;
mod prepared;
mod stream;
mod tensor;
mod tensor_map;

use crate::device::{Device, Inner};
use crate::error::{DeviceError, LaunchError};
use codegen_ptx::Target;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::{CudaContext, sys};
use kernels::Kernels;
use memory::Lent;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

pub use buffer::{DeviceBuffer, PinnedBuffer};
pub(crate) use buffer::{download_pinned, upload_pinned};
pub use event::Event;
pub use graph::Graph;
pub(crate) use kernels::Loaded;
pub(crate) use memory::Allocation;
pub(crate) use order::Access;
pub(crate) use prepared::{Arg, launch};
pub use prepared::{Prepared, Resources};
pub use stream::Stream;
pub use tensor::DeviceTensor;
pub(crate) use tensor::strided_count;

/// A GPU that this program uses; each is opened once and kept.
pub(crate) struct Gpu {
    index: usize,
    target: &'static Target,
    properties: Properties,
    context: Arc<CudaContext>,
    /// Where work goes that names no stream. Set when the GPU is opened.
    default_stream: OnceLock<Stream>,
    /// Frees memory that several streams used.
    reaper: Handle,
    table: Mutex<stream::Table>,
    lent: Mutex<Vec<Lent>>,
    kernels: Kernels,
}

/// A stream that is not given out.
struct Handle(sys::CUstream);

// SAFETY: the driver lets every thread use its handles.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

/// What a GPU is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Properties {
    /// As the driver names it.
    pub name: String,
    /// Compute capability, major and minor.
    pub compute_capability: (u32, u32),
    /// Multiprocessors.
    pub sm_count: u32,
    /// The highest clock of an SM.
    pub clock_khz: u32,
    /// The L2 cache.
    pub l2_bytes: usize,
    /// Device memory.
    pub memory_bytes: usize,
    /// The most shared memory that one CTA can have.
    pub smem_per_cta_bytes: usize,
    /// The CUDA version of the driver: 13.0 is 13000.
    pub driver_cuda: u32,
    /// The driver's release, such as `580.159.04`; none where the system does not say.
    pub driver_release: Option<String>,
    /// Freed memory goes back to a pool in the order of a stream, instead of after a wait.
    pub memory_pools: bool,
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cuda:{} ({}, {})", self.index, self.properties.name, self.target)
    }
}

/// The oldest driver that has every call used here.
const OLDEST_CUDA: u32 = 12000;

static GPUS: Mutex<Vec<&'static Gpu>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The typed form of an error of the driver.
fn driver_error(index: usize, doing: &'static str, error: DriverError) -> LaunchError {
    let text = |text: Result<&std::ffi::CStr, DriverError>| {
        text.map_or_else(|_| format!("{:?}", error.0), |t| t.to_string_lossy().into_owned())
    };
    let (code, message) = (text(error.error_name()), text(error.error_string()));
    if is_fault(error) {
        return DeviceError::Fault { index, doing, code, message }.into();
    }
    DeviceError::Driver { index, doing, code, message }.into()
}

/// Whether a running kernel went wrong, after which the device's context can do nothing more.
fn is_fault(error: DriverError) -> bool {
    use sys::cudaError_enum::{
        CUDA_ERROR_ASSERT, CUDA_ERROR_CONTEXT_IS_DESTROYED, CUDA_ERROR_ECC_UNCORRECTABLE,
        CUDA_ERROR_HARDWARE_STACK_ERROR, CUDA_ERROR_ILLEGAL_ADDRESS, CUDA_ERROR_ILLEGAL_INSTRUCTION,
        CUDA_ERROR_INVALID_ADDRESS_SPACE, CUDA_ERROR_INVALID_PC, CUDA_ERROR_LAUNCH_FAILED,
        CUDA_ERROR_LAUNCH_TIMEOUT, CUDA_ERROR_MISALIGNED_ADDRESS,
    };
    matches!(
        error.0,
        CUDA_ERROR_ASSERT
            | CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUDA_ERROR_ECC_UNCORRECTABLE
            | CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUDA_ERROR_ILLEGAL_ADDRESS
            | CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUDA_ERROR_INVALID_PC
            | CUDA_ERROR_LAUNCH_FAILED
            | CUDA_ERROR_LAUNCH_TIMEOUT
            | CUDA_ERROR_MISALIGNED_ADDRESS
    )
}

impl Gpu {
    /// The GPU number `index`, opened when it is first asked for.
    pub fn open(index: usize) -> Result<&'static Gpu, LaunchError> {
        let mut gpus = lock(&GPUS);
        if let Some(&gpu) = gpus.iter().find(|gpu| gpu.index == index) {
            return Ok(gpu);
        }
        let gpu: &'static Gpu = Box::leak(Box::new(Gpu::new(index)?));
        let stream = Stream::of(gpu)?;
        gpu.default_stream.set(stream).expect("the GPU was just made");
        gpus.push(gpu);
        Ok(gpu)
    }

    /// The GPU that a device is; `what` says what for.
    pub fn of(device: &Device, what: &'static str) -> Result<&'static Gpu, LaunchError> {
        match device.0 {
            Inner::Cuda(_, gpu) => Ok(gpu),
            Inner::Cpu | Inner::Emulated(..) => Err(DeviceError::NotAGpu { what }.into()),
        }
    }

    fn new(index: usize) -> Result<Gpu, LaunchError> {
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
        let cuda = driver_cuda().map_err(failed("asking for the driver's version"))?;
        if cuda < OLDEST_CUDA {
            let version = |cuda: u32| (cuda / 1000, cuda % 1000 / 10);
            let (found, needed) = (version(cuda), version(OLDEST_CUDA));
            return Err(DeviceError::OldDriver { index, found, needed }.into());
        }
        let count = result::device::get_count().map_err(failed("counting the devices"))? as usize;
        if index >= count {
            return Err(DeviceError::NoSuchDevice { index, count }.into());
        }
        let properties = properties(index).map_err(failed("reading the device's attributes"))?;
        let (capability, name) = (properties.compute_capability, properties.name.clone());
        let Some(target) = Target::for_device(capability.0, capability.1) else {
            let known = Target::all().iter().map(|t| t.part).collect::<Vec<_>>().join(", ");
            return Err(DeviceError::Unsupported { index, name, capability, known }.into());
        };
        let context = CudaContext::new(index).map_err(failed("opening the device"))?;
        let kind = result::stream::StreamKind::NonBlocking;
        let reaper = Handle(result::stream::create(kind).map_err(failed("making a stream"))?);
        let (table, lent) = (Mutex::new(stream::Table::new()), Mutex::default());
        let (default_stream, kernels) = (OnceLock::new(), Kernels::new());
        Ok(Gpu { index, target, properties, context, default_stream, reaper, table, lent, kernels })
    }

    /// Which one it is.
    pub fn index(&self) -> usize {
        self.index
    }

    /// What its kernels are compiled for.
    pub fn target(&self) -> &'static Target {
        self.target
    }

    /// What it is.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// Free and total bytes of its memory, as the driver counts them.
    pub fn memory_info(&self) -> Result<(usize, usize), LaunchError> {
        self.call("asking for free memory", result::mem_get_info)
    }

    /// Where work goes that names no stream.
    pub fn default_stream(&self) -> &Stream {
        self.default_stream.get().expect("an open GPU has its stream")
    }

    fn context(&self) -> &CudaContext {
        &self.context
    }

    fn has_pool(&self) -> bool {
        self.properties.memory_pools
    }

    fn reaper(&self) -> sys::CUstream {
        self.reaper.0
    }

    fn table(&self) -> MutexGuard<'_, stream::Table> {
        lock(&self.table)
    }

    fn lent(&self) -> MutexGuard<'_, Vec<Lent>> {
        lock(&self.lent)
    }

    fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// Runs driver calls with this device current; `doing` says what for.
    fn call<T>(
        &self,
        doing: &'static str,
        f: impl FnOnce() -> Result<T, DriverError>,
    ) -> Result<T, LaunchError> {
        let done = self.context.bind_to_thread().and_then(|()| f());
        done.map_err(|error| driver_error(self.index, doing, error))
    }
}

/// The CUDA version of the driver: 13.0 is 13000.
fn driver_cuda() -> Result<u32, DriverError> {
    let mut version = 0;
    // SAFETY: it writes one integer.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    Ok(version as u32)
}

fn properties(index: usize) -> Result<Properties, DriverError> {
    use sys::CUdevice_attribute_enum::{
        CU_DEVICE_ATTRIBUTE_CLOCK_RATE, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE,
        CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
    };
    let device = result::device::get(index as i32)?;
    // SAFETY: the driver gave the device.
    let attribute = |attribute| unsafe { result::device::get_attribute(device, attribute) };
    Ok(Properties {
        name: result::device::get_name(device)?,
        compute_capability: (
            attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? as u32,
            attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)? as u32,
        ),
        sm_count: attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32,
        clock_khz: attribute(CU_DEVICE_ATTRIBUTE_CLOCK_RATE)? as u32,
        l2_bytes: attribute(CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as usize,
        // SAFETY: the driver gave the device.
        memory_bytes: unsafe { result::device::total_mem(device) }?,
        smem_per_cta_bytes: attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as usize,
        driver_cuda: driver_cuda()?,
        driver_release: driver_release(),
        memory_pools: attribute(CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? != 0,
    })
}

/// The release that the kernel module states.
fn driver_release() -> Option<String> {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    release_in(&text).map(str::to_owned)
}

/// The first word that is numbers between dots.
fn release_in(text: &str) -> Option<&str> {
    let is_release = |word: &&str| {
        word.contains('.') && word.split('.').all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    text.split_whitespace().find(is_release)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_found() {
        let text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (d)\n\
            GCC version:  gcc version 13.3.0 (Ubuntu)";
        assert_eq!(release_in(text), Some("580.159.04"));
        assert_eq!(release_in("no release"), None);
    }

    #[test]
    fn faults_are_told_from_refusals() {
        use sys::cudaError_enum::{CUDA_ERROR_ILLEGAL_ADDRESS, CUDA_ERROR_INVALID_VALUE};
        assert!(is_fault(DriverError(CUDA_ERROR_ILLEGAL_ADDRESS)));
        assert!(!is_fault(DriverError(CUDA_ERROR_INVALID_VALUE)));
    }
}
