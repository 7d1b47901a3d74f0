//! Where kernels run.

use crate::error::LaunchError;

/// Where kernels run.
#[derive(Clone, Debug)]
pub struct Device {
    kind: DeviceKind,
}

/// What a [`Device`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceKind {
    /// This machine's processor.
    Cpu,
}

impl Device {
    /// This machine's processor: programs run on all cores, tiles are computed eagerly.
    pub fn cpu() -> Device {
        Device { kind: DeviceKind::Cpu }
    }

    /// The GPU number `index`.
    ///
    /// # Errors
    /// Always [`LaunchError::CudaNotBuilt`]: this version compiles for GPUs but does not launch on them.
    pub fn cuda(index: usize) -> Result<Device, LaunchError> {
        Err(LaunchError::CudaNotBuilt { index })
    }

    /// What it is.
    pub fn kind(&self) -> DeviceKind {
        self.kind
    }
}
