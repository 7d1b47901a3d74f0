//! Products with a split K for runtimes: typed tensors in, the launches made.

use super::matmul_splitk::{MatmulSplitkContract, default_config, matmul_splitk};
use super::splitk_reduce::splitk_reduce;
use crate::check::shape;
use crate::host::{PreparedError, Queue, sms};
use crate::splits;
use indexmap::indexmap;
use tile::Config;
use tile::contract::{Contract, ContractError, Problem};
#[cfg(feature = "cuda")]
use tile::cuda::Stream;
use tile::launch::TypedConfig;
use tile::prelude::*;

/// The sizes that a product is prepared for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProductSizes {
    /// Rows of lhs and out.
    pub m: usize,
    /// Columns of out.
    pub n: usize,
    /// The summed dimension.
    pub k: usize,
    /// rhs is `[n, k]`, else `[k, n]`.
    pub rhs_is_nk: bool,
}

/// A product with a split K on a device, prepared for some sizes: its configuration and the memory of its parts.
///
/// ```
/// use tile::prelude::*;
/// use tilegym_kernels::{MatmulSplitk, ProductSizes};
/// let sizes = ProductSizes { m: 2, n: 3, k: 2000, rhs_is_nk: true };
/// let mut product = MatmulSplitk::new::<bf16>(&Device::cpu(), sizes)?;
/// let lhs = TensorBuf::full([2, 2000], bf16::from_f32(0.5));
/// let rhs = TensorBuf::full([3, 2000], bf16::from_f32(2.0));
/// let mut out = TensorBuf::<bf16, 2>::zeros([2, 3]);
/// product.launch(&lhs, &rhs, &mut out)?;
/// assert_eq!(out.get([1, 2]).to_f32(), 2000.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct MatmulSplitk {
    device: Device,
    problem: Problem,
    config: Config,
    parts: TensorBuf<f32, 3>,
}

impl MatmulSplitk {
    /// Prepares for operands of `T`, with the configuration and the number of splits that suit the device's SMs.
    ///
    /// # Errors
    /// When the sizes are not what the kernel is written for, or the device has too little memory.
    pub fn new<T: Factor>(device: &Device, sizes: ProductSizes) -> Result<Self, PreparedError> {
        let config = default_config(&problem::<T>(sizes)?, sms(device));
        Self::with_config::<T>(device, sizes, config)
    }

    /// As [`new`](Self::new), with a configuration of [`matmul_splitk()`] that names its tiles and `SPLITS`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_config<T: Factor>(
        device: &Device,
        sizes: ProductSizes,
        mut config: Config,
    ) -> Result<Self, PreparedError> {
        let problem = problem::<T>(sizes)?;
        config.consts.extend(MatmulSplitkContract.consts(&problem));
        let shape = splits::parts(&problem, &config).shape;
        let parts = TensorBuf::zeros_on(device, [shape[0], shape[1], shape[2]])?;
        Ok(MatmulSplitk { device: device.clone(), problem, config, parts })
    }

    /// The configuration, with the number of splits.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Launches on the device.
    ///
    /// # Errors
    /// When a tensor does not fit the sizes, or a launch is refused.
    pub fn launch<T: Factor, O: Float>(
        &mut self,
        lhs: &TensorBuf<T, 2>,
        rhs: &TensorBuf<T, 2>,
        out: &mut TensorBuf<O, 2>,
    ) -> Result<(), PreparedError> {
        let device = self.device.clone();
        self.launch_in(Queue::Device(&device), lhs, rhs, out)
    }

    /// As [`launch`](Self::launch), in a stream.
    ///
    /// # Errors
    /// As [`launch`](Self::launch).
    #[cfg(feature = "cuda")]
    pub fn launch_on<T: Factor, O: Float>(
        &mut self,
        stream: &Stream,
        lhs: &TensorBuf<T, 2>,
        rhs: &TensorBuf<T, 2>,
        out: &mut TensorBuf<O, 2>,
    ) -> Result<(), PreparedError> {
        self.launch_in(Queue::Stream(stream), lhs, rhs, out)
    }

    fn launch_in<T: Factor, O: Float>(
        &mut self,
        queue: Queue<'_>,
        lhs: &TensorBuf<T, 2>,
        rhs: &TensorBuf<T, 2>,
        out: &mut TensorBuf<O, 2>,
    ) -> Result<(), PreparedError> {
        let specs = MatmulSplitkContract.tensors(&self.problem);
        let found = [("lhs", lhs.shape()), ("rhs", rhs.shape()), ("out", out.shape())];
        for ((name, found), spec) in found.iter().zip(specs) {
            shape(name, found, &spec.shape)?;
        }
        let grid = MatmulSplitkContract.grid(&self.problem, &self.config);
        let typed = matmul_splitk::Config::from_config(&self.config);
        let product = matmul_splitk::<T, O>(lhs, rhs, out, &mut self.parts);
        queue.launch(product.grid(grid).config(typed))?;
        if grid[2] > 1 {
            let [rows, columns] = out.shape();
            let (config, programs) = splits::sum_of(grid[2], rows, columns);
            let sum = splitk_reduce::<O>(&self.parts, out).grid([programs]);
            queue.launch(sum.config(splitk_reduce::Config::from_config(&config)))?;
        }
        Ok(())
    }
}

/// The contract's problem for sizes and a dtype.
fn problem<T: Factor>(sizes: ProductSizes) -> Result<Problem, ContractError> {
    let ProductSizes { m, n, k, rhs_is_nk } = sizes;
    let given = indexmap! {
        "m".to_owned() => m as i64, "n".to_owned() => n as i64, "k".to_owned() => k as i64,
        "rhs_is_nk".to_owned() => rhs_is_nk.into(),
    };
    MatmulSplitkContract.problem(T::DTYPE, &given)
}
