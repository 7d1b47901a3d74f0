//! What kernels share that are offered to runtimes as a type of their own: where to launch, why not.

use tile::Device;
use tile::LaunchError;
use tile::contract::ContractError;
#[cfg(feature = "cuda")]
use tile::cuda::Stream;
use tile::launch::{Launch, TypedConfig};

/// SMs that default numbers of splits fill: an H200's. A launch on a device asks the device.
pub(crate) const DEFAULT_SMS: usize = 132;

/// Why a prepared kernel is not launched.
#[derive(Debug, thiserror::Error)]
pub enum PreparedError {
    /// The sizes, or the shape of a tensor, are not what it was prepared for.
    #[error(transparent)]
    Sizes(#[from] ContractError),
    /// A launch was refused.
    #[error(transparent)]
    Launch(#[from] LaunchError),
}

/// Where to launch.
#[derive(Clone, Copy)]
pub(crate) enum Queue<'a> {
    Device(&'a Device),
    #[cfg(feature = "cuda")]
    Stream(&'a Stream),
}

impl Queue<'_> {
    pub(crate) fn launch<C: TypedConfig, const ARGS: usize, const DTYPES: usize>(
        self,
        launch: Launch<'_, C, ARGS, DTYPES>,
    ) -> Result<(), LaunchError> {
        match self {
            Queue::Device(device) => launch.launch(device),
            #[cfg(feature = "cuda")]
            Queue::Stream(stream) => launch.launch_on(stream),
        }
    }
}

/// How many SMs to fill.
pub(crate) fn sms(device: &Device) -> usize {
    #[cfg(feature = "cuda")]
    if let Some(properties) = device.properties() {
        return properties.sm_count as usize;
    }
    let _ = device;
    DEFAULT_SMS
}
