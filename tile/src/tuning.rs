//! Where a launch finds its tuned configuration.
//!
//! A program that has tables (`autotune` reads `configs/`) installs a [`ConfigSource`]; without one every kernel
//! runs with its default configuration.

use crate::device::Device;
use crate::error::LaunchError;
use crate::registry::KernelDef;
use std::sync::OnceLock;
use tile_lang::{Config, DType};

/// Name, dtype and extents of a tensor that a kernel reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputDesc {
    /// The kernel parameter's name.
    pub name: &'static str,
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
}

/// Tables of tuned configurations.
pub trait ConfigSource: Send + Sync {
    /// The configuration for these inputs on this device; `None` when the tables have none.
    ///
    /// # Errors
    /// When the tables hold something for the kernel that does not fit it.
    fn find(
        &self,
        kernel: &'static KernelDef,
        device: &Device,
        inputs: &[InputDesc],
    ) -> Result<Option<Config>, LaunchError>;
}

static SOURCE: OnceLock<Box<dyn ConfigSource>> = OnceLock::new();

/// Installs the tables, once for the life of the program; gives them back if there are some already.
pub fn set_source(source: Box<dyn ConfigSource>) -> Result<(), Box<dyn ConfigSource>> {
    SOURCE.set(source)
}

/// The tuned configuration, or the kernel's default.
///
/// # Errors
/// As [`ConfigSource::find`].
pub fn tuned(
    kernel: &'static KernelDef,
    device: &Device,
    inputs: &[InputDesc],
) -> Result<Config, LaunchError> {
    let found = SOURCE.get().map_or(Ok(None), |source| source.find(kernel, device, inputs))?;
    Ok(found.unwrap_or_else(|| kernel.default_config()))
}
