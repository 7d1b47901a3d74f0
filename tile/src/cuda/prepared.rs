//! Launches: from checked arguments to the driver's call.

use super::Gpu;
use super::buffer::DeviceBuffer;
use super::kernels::Loaded;
use super::memory::Allocation;
use super::order::Access;
use super::params::Params;
use super::stream::{Stream, same_device};
use crate::error::LaunchError;
use crate::jit::{self, TensorFacts, facts_of, fills_clusters};
use crate::registry::KernelDef;
use codegen_ptx::lower::Check;
use cudarc::driver::{result, sys};
use std::sync::Arc;
use tile_lang::{Bindings, Config, DType};

/// An argument of a launch; everything about it has been checked, but for what only the device knows.
#[derive(Clone, Debug)]
pub(crate) enum Arg<'a> {
    /// Extents and strides in elements.
    Tensor {
        dtype: DType,
        address: u64,
        shape: &'a [usize],
        strides: &'a [usize],
        memory: &'a Arc<Allocation>,
        access: Access,
    },
    /// The bits that a parameter of the scalar's type reads.
    Scalar(u64),
}

impl Arg<'_> {
    /// What holds of a tensor; nothing of a scalar.
    pub fn facts(&self) -> Option<TensorFacts> {
        match self {
            Arg::Tensor { dtype, address, shape, strides, .. } => {
                Some(facts_of(*dtype, *address, shape, strides))
            }
            Arg::Scalar(_) => None,
        }
    }
}

/// The parameters of a compiled kernel.
fn params(args: &[Arg<'_>]) -> Params {
    let mut params = Params::default();
    for arg in args {
        match arg {
            Arg::Tensor { address, shape, strides, .. } => params.push_tensor(*address, shape, strides),
            Arg::Scalar(bits) => params.push(*bits),
        }
    }
    params
}

/// The most programs that CTAs of which `resident` run at once can walk over: they count in 32 bits, past the end by
/// as many as there are CTAs.
fn most_programs(resident: u32) -> usize {
    (i32::MAX as usize - 1).saturating_sub(resident as usize)
}

/// Adds what a persistent kernel takes of its grid to the parameters.
fn add_grid(
    kernel: &'static str,
    resident: Option<u32>,
    grid: [usize; 3],
    params: &mut Params,
) -> Result<(), LaunchError> {
    let Some(most) = resident.map(most_programs) else { return Ok(()) };
    if grid.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent)).is_none_or(|n| n > most) {
        return Err(LaunchError::TooManyPrograms { kernel, grid, most });
    }
    grid.iter().for_each(|&extent| params.push(extent as u64));
    Ok(())
}

/// The CTAs to launch for a grid of programs: one for each, or as many as run at once, which walk over them, in whole
/// clusters where the grid fills them; all of these where they split sums. What `add_grid` takes has a product that
/// fits.
fn ctas(resident: Option<u32>, split: bool, grid: [u32; 3]) -> (u32, u32, u32) {
    match resident {
        Some(resident) if split => (resident, 1, 1),
        Some(resident) => (grid.iter().product::<u32>().min(resident), 1, 1),
        None => grid.into(),
    }
}

/// Asks a stream to run a loaded kernel.
fn submit(
    kernel: &'static str,
    loaded: &Arc<Loaded>,
    stream: &Stream,
    grid: [u32; 3],
    params: &Params,
) -> Result<(), LaunchError> {
    if stream.is_capturing()
        && let Some(captured) = &mut *stream.captured()
    {
        captured.kernels.push(loaded.clone());
    }
    let gpu = stream.gpu();
    let mut pointers = params.pointers();
    let block = (loaded.num_threads, 1, 1);
    // SAFETY: the parameters are those of the compiled kernel, in order; the launch's checks hold for the tensors,
    // whose memory the stream may use and is not freed before the stream is done with it.
    let launched = gpu.context().bind_to_thread().and_then(|()| unsafe {
        result::launch_kernel(
            loaded.function,
            ctas(loaded.resident, loaded.workspace.is_some(), grid),
            block,
            loaded.smem_bytes,
            stream.raw(),
            &mut pointers,
        )
    });
    launched.map_err(|error| match error.0 {
        sys::cudaError_enum::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES => {
            LaunchError::OutOfResources { kernel, threads: loaded.num_threads }
        }
        _ => super::driver_error(gpu.index(), "launching a kernel", error),
    })
}

/// Waits for a checked launch; the error of the check that failed first, if one did.
fn failed_check(kernel: &'static str, checks: &[Check], record: &DeviceBuffer) -> Result<(), LaunchError> {
    let mut words = [0u32; 4];
    record.download(&mut words)?;
    jit::failed_check(kernel, checks, words)
}

/// The kernel to launch for a grid, where it is another one: that of CTAs alone, where clusters would not come out even.
fn for_grid(loaded: &Arc<Loaded>, grid: [usize; 3]) -> Result<Option<Arc<Loaded>>, LaunchError> {
    if fills_clusters(loaded.num_ctas, grid) { Ok(None) } else { loaded.without_clusters().map(Some) }
}

/// The parameters of a launch: the arguments, what a kernel whose CTAs walk takes of its grid and what they split
/// sums by, the record of checks, and tensor maps. Where a tensor has none of these, the kernel that takes none is
/// the one to launch.
fn parameters(
    kernel: &'static str,
    loaded: &Arc<Loaded>,
    grid: [usize; 3],
    args: &[Arg<'_>],
    record: Option<&DeviceBuffer>,
) -> Result<(Params, Arc<Loaded>), LaunchError> {
    let mut words = params(args);
    add_grid(kernel, loaded.resident, grid, &mut words)?;
    loaded.workspace.iter().flatten().chain(record).for_each(|buffer| words.push(buffer.address()));
    match loaded.tensor_maps.push(args, &mut words) {
        true => Ok((words, loaded.clone())),
        false => parameters(kernel, &loaded.without_maps()?, grid, args, record),
    }
}

/// Launches a loaded kernel of a stream's device in that stream; one with checks is waited for.
pub(crate) fn launch(
    kernel: &'static str,
    loaded: &Arc<Loaded>,
    grid: [usize; 3],
    args: &[Arg<'_>],
    stream: &Stream,
) -> Result<(), LaunchError> {
    for arg in args {
        if let Arg::Tensor { memory, access, .. } = arg {
            memory.acquire(stream, *access)?;
        }
    }
    let other = for_grid(loaded, grid)?;
    let loaded = other.as_ref().unwrap_or(loaded);
    let record = match loaded.checks.is_empty() {
        true => None,
        false => Some(DeviceBuffer::from_slice(&stream.device(), &[0u32; 4])?),
    };
    let (words, loaded) = parameters(kernel, loaded, grid, args, record.as_ref())?;
    for buffer in loaded.workspace.iter().flatten().chain(&record) {
        buffer.memory().acquire(stream, Access::Write)?;
    }
    submit(kernel, &loaded, stream, grid.map(|extent| extent as u32), &words)?;
    record.map_or(Ok(()), |record| failed_check(kernel, &loaded.checks, &record))
}

impl Gpu {
    /// Compiles and loads a kernel, and keeps everything that a launch of it needs.
    pub fn prepare(
        &'static self,
        kernel: &'static KernelDef,
        bindings: &Bindings,
        config: &Config,
        grid: [usize; 3],
        args: &[Arg<'_>],
    ) -> Result<Prepared, LaunchError> {
        let facts: Vec<_> = args.iter().filter_map(Arg::facts).collect();
        let loaded = self.load(kernel, bindings, config, &facts, false)?;
        let loaded = for_grid(&loaded, grid)?.unwrap_or(loaded);
        let (words, loaded) = parameters(kernel.name, &loaded, grid, args, None)?;
        let tensors = args.iter().filter_map(|arg| match arg {
            Arg::Tensor { memory, access, .. } => Some(((*memory).clone(), *access)),
            Arg::Scalar(_) => None,
        });
        let shared = loaded.workspace.iter().flatten().map(|buffer| (buffer.memory().clone(), Access::Write));
        let memory = tensors.chain(shared);
        let (memory, grid) = (memory.collect(), grid.map(|extent| extent as u32));
        Ok(Prepared { gpu: self, kernel, loaded, grid, params: words, memory })
    }
}

/// A launch that is checked, compiled and bound to its tensors, to be repeated at the driver's own cost.
///
/// It keeps the tensors' memory alive. Launches of it are ordered with everything else that uses the tensors; two
/// threads that use them at the same time order their work themselves.
pub struct Prepared {
    gpu: &'static Gpu,
    kernel: &'static KernelDef,
    loaded: Arc<Loaded>,
    grid: [u32; 3],
    params: Params,
    memory: Vec<(Arc<Allocation>, Access)>,
}

/// What a compiled kernel takes of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resources {
    /// Registers of a thread.
    pub registers: u32,
    /// Local memory of a thread, where registers ran out.
    pub local_bytes: u32,
    /// Shared memory of a CTA.
    pub smem_bytes: u32,
    /// Threads of a CTA.
    pub threads: u32,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} prepared for cuda:{}, grid {:?}", self.kernel.name, self.gpu.index(), self.grid)
    }
}

impl Prepared {
    /// Launches it in a stream of its device.
    ///
    /// # Errors
    /// [`DeviceError::OtherDevice`](crate::DeviceError::OtherDevice); when the device failed.
    pub fn launch(&self, stream: &Stream) -> Result<(), LaunchError> {
        same_device("a stream", stream.gpu(), self.gpu)?;
        for (memory, access) in &self.memory {
            memory.acquire(stream, *access)?;
        }
        submit(self.kernel.name, &self.loaded, stream, self.grid, &self.params)
    }

    /// Why something was not done for the kernel that could have been: code that was assembled by the driver
    /// because the assembler here is too old, a folder that could not be written.
    pub fn remarks(&self) -> &[String] {
        &self.loaded.remarks
    }

    /// The driver's `CUfunction`, to launch by other means while this value lives: with [`Prepared::parameters`],
    /// [`Prepared::ctas`] and what [`Prepared::resources`] says of threads and shared memory.
    pub fn as_raw(&self) -> *mut std::ffi::c_void {
        self.loaded.function.cast()
    }

    /// Where the values of the function's parameters lie, in order, tensor maps among them: `cuLaunchKernel`'s
    /// `kernelParams`. They are valid while this value lives and are not to be written.
    pub fn parameters(&self) -> Vec<*mut std::ffi::c_void> {
        self.params.pointers().into_vec()
    }

    /// The CTAs of a launch, which are fewer than the programs where CTAs walk.
    pub fn ctas(&self) -> [u32; 3] {
        ctas(self.loaded.resident, self.loaded.workspace.is_some(), self.grid).into()
    }

    /// What the kernel takes, as the driver says.
    ///
    /// # Errors
    /// When the device failed.
    pub fn resources(&self) -> Result<Resources, LaunchError> {
        use sys::CUfunction_attribute_enum::{
            CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES, CU_FUNC_ATTRIBUTE_NUM_REGS,
        };
        Ok(Resources {
            registers: self.gpu.attribute(&self.loaded, CU_FUNC_ATTRIBUTE_NUM_REGS)?,
            local_bytes: self.gpu.attribute(&self.loaded, CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)?,
            smem_bytes: self.loaded.smem_bytes,
            threads: self.loaded.num_threads,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctas_that_walk_take_the_grid_as_parameters() {
        let mut params = Params::default();
        add_grid("k", Some(264), [3, 70_000, 2], &mut params).unwrap();
        assert_eq!(params.pointers().len(), 3);
        assert_eq!(ctas(Some(264), false, [3, 70_000, 2]), (264, 1, 1));
        assert_eq!(ctas(Some(264), false, [5, 4, 3]), (60, 1, 1));
        assert_eq!(ctas(Some(264), true, [5, 4, 3]), (264, 1, 1));
        let mut none = Params::default();
        add_grid("k", None, [3, 4, 5], &mut none).unwrap();
        assert!(none.pointers().is_empty());
        assert_eq!(ctas(None, false, [3, 4, 5]), (3, 4, 5));
    }

    #[test]
    fn clusters_take_grids_that_come_out_even() {
        assert!([[1, 3, 5], [7, 1, 1]].iter().all(|grid| fills_clusters(1, *grid)));
        assert!([[2, 3, 5], [64, 1, 1]].iter().all(|grid| fills_clusters(2, *grid)));
        // Only x counts.
        assert!([[1, 2, 2], [63, 2, 1]].iter().all(|grid| !fills_clusters(2, *grid)));
        assert!(fills_clusters(8, [24, 1, 1]) && !fills_clusters(8, [20, 8, 8]));
    }

    #[test]
    fn grids_that_overflow_the_count_are_refused() {
        let most = most_programs(264);
        let refused = |grid| add_grid("k", Some(264), grid, &mut Params::default()).is_err();
        assert!(!refused([most, 1, 1]));
        assert!(
            refused([most + 1, 1, 1]) && refused([i32::MAX as usize, 2, 1]) && refused([usize::MAX, 2, 1])
        );
        // The counter of the last iteration, and the one behind it.
        assert!(most - 1 + 264 <= i32::MAX as usize);
    }
}
