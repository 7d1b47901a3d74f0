//! Where kernels run.

#[cfg(feature = "cuda")]
use crate::cuda::{Gpu, Properties, Stream};
use crate::error::LaunchError;
use std::fmt;

/// Where kernels run.
#[derive(Clone, Debug)]
pub struct Device(pub(crate) Inner);

#[derive(Clone, Copy, Debug)]
pub(crate) enum Inner {
    Cpu,
    #[cfg(feature = "jit")]
    Emulated(&'static codegen_ptx::Target, u64),
    #[cfg(feature = "cuda")]
    Cuda(usize, &'static Gpu),
}

/// What a [`Device`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceKind {
    /// This machine's processor.
    Cpu,
    /// A GPU of a target, such as `sm_121a`, emulated on this machine's processor.
    Emulated(&'static str),
    /// A GPU by number.
    Cuda(usize),
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceKind::Cpu => f.write_str("the CPU"),
            DeviceKind::Emulated(target) => write!(f, "an emulated {target}"),
            DeviceKind::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl Device {
    /// This machine's processor: programs run on all cores, tiles are computed eagerly.
    pub fn cpu() -> Device {
        Device(Inner::Cpu)
    }

    /// A GPU of a target, emulated on this machine's processor: kernels are compiled to PTX as for the real one, and
    /// the PTX is executed, slowly and strictly. [`ptx_emu`] says what it finds; it knows nothing of speed. Tensors lie
    /// in host memory. `seed` decides in which order warps have their turns.
    ///
    /// ```
    /// use tile::Device;
    /// use tile::jit::Target;
    /// let spark = Device::emulated(Target::from_name("sm_121").unwrap(), 0);
    /// assert_eq!(spark.kind().to_string(), "an emulated sm_121a");
    /// ```
    #[cfg(feature = "jit")]
    pub fn emulated(target: &'static codegen_ptx::Target, seed: u64) -> Device {
        Device(Inner::Emulated(target, seed))
    }

    /// The GPU number `index`. What names no [`Stream`] runs in its default stream, in the order it is asked for.
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

    /// Where tensors lie that its kernels use.
    pub(crate) fn memory(&self) -> DeviceKind {
        match self.0 {
            #[cfg(feature = "cuda")]
            Inner::Cuda(index, _) => DeviceKind::Cuda(index),
            _ => DeviceKind::Cpu,
        }
    }

    /// What it is.
    pub fn kind(&self) -> DeviceKind {
        match self.0 {
            Inner::Cpu => DeviceKind::Cpu,
            #[cfg(feature = "jit")]
            Inner::Emulated(target, _) => DeviceKind::Emulated(target.name),
            #[cfg(feature = "cuda")]
            Inner::Cuda(index, _) => DeviceKind::Cuda(index),
        }
    }

    /// The device's name; of a GPU, the driver's.
    pub fn name(&self) -> &str {
        match self.0 {
            Inner::Cpu => "cpu",
            #[cfg(feature = "jit")]
            Inner::Emulated(target, _) => target.name,
            #[cfg(feature = "cuda")]
            Inner::Cuda(_, gpu) => &gpu.properties().name,
        }
    }

    /// What kernels are compiled for; nothing on the CPU, which runs them as they are.
    #[cfg(feature = "jit")]
    pub fn target(&self) -> Option<&'static codegen_ptx::Target> {
        match self.0 {
            Inner::Cpu => None,
            Inner::Emulated(target, _) => Some(target),
            #[cfg(feature = "cuda")]
            Inner::Cuda(_, gpu) => Some(gpu.target()),
        }
    }

    /// What the driver says of a GPU; nothing of the CPU.
    #[cfg(feature = "cuda")]
    pub fn properties(&self) -> Option<&Properties> {
        match self.0 {
            Inner::Cuda(_, gpu) => Some(gpu.properties()),
            _ => None,
        }
    }

    /// The stream where everything of a GPU runs that names none; nothing on the CPU.
    #[cfg(feature = "cuda")]
    pub fn default_stream(&self) -> Option<&Stream> {
        match self.0 {
            Inner::Cuda(_, gpu) => Some(gpu.default_stream()),
            _ => None,
        }
    }

    /// Free and total bytes of a GPU's memory, as the driver counts them; memory that was freed in the order of a
    /// stream counts as free after [`synchronize`](Self::synchronize).
    ///
    /// # Errors
    /// [`DeviceError::NotAGpu`](crate::DeviceError::NotAGpu) on the CPU; when the device failed.
    #[cfg(feature = "cuda")]
    pub fn memory_info(&self) -> Result<(usize, usize), LaunchError> {
        Gpu::of(self, "device memory")?.memory_info()
    }

    /// Waits until everything launched on the device is done.
    ///
    /// # Errors
    /// What went wrong in a kernel launched before.
    pub fn synchronize(&self) -> Result<(), LaunchError> {
        match self.0 {
            #[cfg(feature = "cuda")]
            Inner::Cuda(_, gpu) => gpu.synchronize(),
            _ => Ok(()),
        }
    }
}
