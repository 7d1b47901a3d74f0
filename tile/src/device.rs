//! Where kernels run.

#[cfg(feature = "cuda")]
use crate::cuda::Gpu;
use crate::error::LaunchError;
use std::fmt;

/// Where kernels run.
#[derive(Clone, Debug)]
pub struct Device(pub(crate) Inner);

#[derive(Clone, Copy, Debug)]
pub(crate) enum Inner {
    Cpu,
    #[cfg(feature = "cuda")]
    Cuda(usize, &'static Gpu),
}

/// What a [`Device`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceKind {
    /// This machine's processor.
    Cpu,
    /// A GPU by number.
    Cuda(usize),
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceKind::Cpu => f.write_str("the CPU"),
            DeviceKind::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl Device {
    /// This machine's processor: programs run on all cores, tiles are computed eagerly.
    pub fn cpu() -> Device {
        Device(Inner::Cpu)
    }

    /// The GPU number `index`. Its kernels and copies run in one stream, in the order they are asked for.
    ///
    /// # Errors
    /// [`LaunchError::Device`] when there is no driver, no such device, or no code generation for its SM.
    #[cfg(feature = "cuda")]
    pub fn cuda(index: usize) -> Result<Device, LaunchError> {
        Gpu::open(index).map(|gpu| Device(Inner::Cuda(index, gpu)))
    }

    /// The GPU number `index`.
    ///
    /// # Errors
    /// Always: this build has no support for GPUs (feature `cuda`).
    #[cfg(not(feature = "cuda"))]
    pub fn cuda(index: usize) -> Result<Device, LaunchError> {
        Err(crate::error::DeviceError::CudaNotBuilt { index }.into())
    }

    /// What it is.
    pub fn kind(&self) -> DeviceKind {
        match self.0 {
            Inner::Cpu => DeviceKind::Cpu,
            #[cfg(feature = "cuda")]
            Inner::Cuda(index, _) => DeviceKind::Cuda(index),
        }
    }

    /// The device's name; of a GPU, the driver's.
    pub fn name(&self) -> &str {
        match self.0 {
            Inner::Cpu => "cpu",
            #[cfg(feature = "cuda")]
            Inner::Cuda(_, gpu) => gpu.name(),
        }
    }

    /// What kernels are compiled for; nothing on the CPU, which runs them as they are.
    #[cfg(feature = "jit")]
    pub fn target(&self) -> Option<&'static codegen_ptx::Target> {
        match self.0 {
            Inner::Cpu => None,
            #[cfg(feature = "cuda")]
            Inner::Cuda(_, gpu) => Some(gpu.target()),
        }
    }

    /// Waits until everything launched on the device is done.
    ///
    /// # Errors
    /// What went wrong in a kernel launched before.
    pub fn synchronize(&self) -> Result<(), LaunchError> {
        match self.0 {
            Inner::Cpu => Ok(()),
            #[cfg(feature = "cuda")]
            Inner::Cuda(_, gpu) => gpu.synchronize(),
        }
    }
}
