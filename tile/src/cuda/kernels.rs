//! Compiled kernels on a device: made once for each instance, kept while there is room.

use super::Gpu;
use super::buffer::DeviceBuffer;
use super::module::{Image, Module};
use super::once_map::OnceMap;
use super::tensor_map::TensorMaps;
use crate::device::{Device, Inner};
use crate::error::{DeviceError, LaunchError};
use crate::jit::disk::DiskCache;
use crate::jit::{self, Artifact, Assembler, TensorFacts};
use crate::registry::KernelDef;
use codegen_ptx::lower::Check;
use cudarc::driver::{result, sys};
use std::sync::{Arc, OnceLock};
use tile_lang::{Bindings, Config};

/// Kernels that a device keeps loaded; beyond that, the one launched longest ago goes.
const MAX_KERNELS: usize = 1024;

/// Where kernels are kept between processes.
static DISK: OnceLock<Option<DiskCache>> = OnceLock::new();

/// The kernels of a device.
pub(super) struct Kernels(OnceMap<String, Arc<Loaded>, LaunchError>);

/// A kernel on a device. Whoever launches it keeps it until the launch call is over; graphs keep it.
pub(crate) struct Loaded {
    pub function: sys::CUfunction,
    pub num_threads: u32,
    pub smem_bytes: u32,
    /// For a kernel whose CTAs walk over the programs of a grid: how many CTAs the device runs at once, as the driver
    /// says of the loaded code.
    pub resident: Option<u32>,
    /// For one that splits sums over CTAs: a part for each CTA that runs at once, and a counter for each, zero between
    /// launches.
    pub workspace: Option<[DeviceBuffer; 2]>,
    /// CTAs of a cluster along x, of which the grid's extent has to be a multiple; 1 where they are launched alone.
    pub num_ctas: u32,
    /// Why something was not done that could have been.
    pub remarks: Vec<String>,
    /// What a checked kernel checks; others nothing.
    pub checks: Vec<Check>,
    pub(super) tensor_maps: TensorMaps,
    /// What it was made of.
    source: Source,
    _module: Module,
}

/// What a kernel is compiled from.
struct Source {
    gpu: &'static Gpu,
    kernel: &'static KernelDef,
    bindings: Bindings,
    config: Config,
    facts: Vec<TensorFacts>,
    checked: bool,
}

impl Loaded {
    /// The same kernel without tensor maps.
    pub fn without_maps(&self) -> Result<Arc<Loaded>, LaunchError> {
        let Source { gpu, kernel, bindings, config, facts, checked } = &self.source;
        gpu.load(kernel, bindings, &jit::without_maps(config), facts, *checked)
    }

    /// The same kernel for CTAs that are launched alone.
    pub fn without_clusters(&self) -> Result<Arc<Loaded>, LaunchError> {
        let Source { gpu, kernel, bindings, config, facts, checked } = &self.source;
        gpu.load(kernel, bindings, &jit::without_clusters(config), facts, *checked)
    }
}

// SAFETY: the driver lets every thread use its handles.
unsafe impl Send for Loaded {}
// SAFETY: as above; it is never changed.
unsafe impl Sync for Loaded {}

impl Kernels {
    pub fn new() -> Kernels {
        Kernels(OnceMap::new(MAX_KERNELS))
    }
}

impl Gpu {
    /// The kernel on the device: compiled by whoever asks first, while others wait for it. Errors are not kept.
    pub fn load(
        &'static self,
        kernel: &'static KernelDef,
        bindings: &Bindings,
        config: &Config,
        facts: &[TensorFacts],
        checked: bool,
    ) -> Result<Arc<Loaded>, LaunchError> {
        let address = std::ptr::from_ref(kernel).addr();
        // For which SM a configuration was tuned does not change its code.
        let config = &Config { tuned_for: None, ..config.clone() };
        let target = std::ptr::from_ref(jit::target_for(self.target())).addr();
        let key = format!("{address:x} {target:x} {bindings:?} {config:?} {facts:?} {checked}");
        let compile = || self.compile(kernel, bindings, config, facts, checked).map(Arc::new);
        self.kernels().0.get_or_make(&key, compile)
    }

    fn compile(
        &'static self,
        kernel: &'static KernelDef,
        bindings: &Bindings,
        config: &Config,
        facts: &[TensorFacts],
        checked: bool,
    ) -> Result<Loaded, LaunchError> {
        let target = jit::target_for(self.target());
        let disk = DISK.get_or_init(DiskCache::from_environment).as_ref();
        let assembler = Assembler::of_process();
        let obtained = match checked {
            true => jit::compile_checked(kernel, bindings, config, target, facts).map(Artifact::from),
            // Code that stands in for another target's has its name, but not its place on disk.
            false if !std::ptr::eq(target, self.target()) => {
                jit::compile(kernel, bindings, config, target, facts, false).map(Artifact::from)
            }
            false => jit::obtain(kernel, bindings, config, self.target(), facts, disk, assembler),
        };
        let Artifact { compiled, cubin, mut remarks, .. } =
            obtained.map_err(|error| LaunchError::Jit(Box::new(error)))?;
        let available = self.properties().smem_per_cta_bytes;
        if compiled.smem_bytes > available {
            let needed = compiled.smem_bytes;
            return Err(LaunchError::SharedMemory { kernel: kernel.name, needed, available });
        }
        let ptx = Image::Ptx(&compiled.ptx, compiled.target.ptx_version);
        let assembled = cubin.map(|cubin| Module::load(self, kernel.name, Image::Cubin(&cubin)));
        let module = match assembled {
            Some(Err(error)) if !matches!(error, LaunchError::Device(DeviceError::Fault { .. })) => {
                remarks.push(format!("the driver assembles: it does not take ptxas's code: {error}"));
                Module::load(self, kernel.name, ptx)?
            }
            Some(loaded) => loaded?,
            None => Module::load(self, kernel.name, ptx)?,
        };
        let function = module.function(&compiled.entry, compiled.smem_bytes)?;
        let resident = match compiled.persistent {
            true => {
                let (threads, smem_bytes) = (compiled.num_threads, compiled.smem_bytes);
                Some(match compiled.num_ctas {
                    1 => self.resident_ctas(function, threads, smem_bytes)?,
                    num_ctas => num_ctas * self.resident_clusters(function, num_ctas, threads, smem_bytes)?,
                })
            }
            false => None,
        };
        let workspace = match (compiled.part_bytes, resident) {
            (Some(bytes), Some(ctas)) => {
                let device = Device(Inner::Cuda(self.index(), self));
                let ctas = ctas as usize;
                let counters = DeviceBuffer::from_slice(&device, &vec![0u32; ctas])?;
                Some([DeviceBuffer::new(&device, ctas * bytes)?, counters])
            }
            _ => None,
        };
        Ok(Loaded {
            function,
            resident,
            workspace,
            num_ctas: compiled.num_ctas,
            num_threads: compiled.num_threads,
            smem_bytes: compiled.smem_bytes as u32,
            remarks,
            checks: compiled.checks,
            tensor_maps: TensorMaps::new(compiled.tensor_maps),
            source: Source {
                gpu: self,
                kernel,
                bindings: bindings.clone(),
                config: config.clone(),
                facts: facts.to_vec(),
                checked,
            },
            _module: module,
        })
    }

    /// How many CTAs of a kernel the device runs at once.
    fn resident_ctas(
        &self,
        function: sys::CUfunction,
        num_threads: u32,
        smem_bytes: usize,
    ) -> Result<u32, LaunchError> {
        let ctas = self.call("asking how many CTAs fit", || {
            // SAFETY: the caller keeps the function's module.
            unsafe {
                result::occupancy::max_active_block_per_multiprocessor(
                    function,
                    num_threads as i32,
                    smem_bytes,
                )
            }
        })?;
        // A CTA that does not fit is refused by its launch, with the reason.
        Ok(self.properties().sm_count * (ctas.max(1) as u32))
    }

    /// How many clusters of a kernel the device runs at once; fewer than its SMs would hold, where an SM has no
    /// neighbours left to make one with.
    fn resident_clusters(
        &self,
        function: sys::CUfunction,
        num_ctas: u32,
        num_threads: u32,
        smem_bytes: usize,
    ) -> Result<u32, LaunchError> {
        let clusters = self.call("asking how many clusters fit", || {
            let size = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: num_ctas, y: 1, z: 1 };
            let mut attribute = sys::CUlaunchAttribute {
                id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
                pad: [0; 4],
                value: sys::CUlaunchAttributeValue { clusterDim: size },
            };
            let config = sys::CUlaunchConfig {
                gridDimX: num_ctas,
                gridDimY: 1,
                gridDimZ: 1,
                blockDimX: num_threads,
                blockDimY: 1,
                blockDimZ: 1,
                sharedMemBytes: smem_bytes as u32,
                hStream: std::ptr::null_mut(),
                attrs: &raw mut attribute,
                numAttrs: 1,
            };
            let mut clusters = 0;
            // SAFETY: the caller keeps the function's module; the attribute outlives the call.
            unsafe { sys::cuOccupancyMaxActiveClusters(&mut clusters, function, &config) }.result()?;
            Ok(clusters)
        })?;
        // One that does not fit is refused by its launch, with the reason.
        Ok(clusters.max(1) as u32)
    }

    /// What the driver says of a loaded kernel.
    pub(super) fn attribute(
        &self,
        loaded: &Loaded,
        attribute: sys::CUfunction_attribute,
    ) -> Result<u32, LaunchError> {
        self.call("asking about a kernel", || {
            // SAFETY: the function is loaded as long as its value lives.
            let value = unsafe { result::function::get_function_attribute(loaded.function, attribute) }?;
            Ok(value as u32)
        })
    }
}
