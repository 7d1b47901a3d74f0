//! From a kernel's arguments to its programs.

#[cfg(feature = "cuda")]
mod again;
mod argument;
mod check;
#[cfg(feature = "jit")]
mod emulated;
mod on_cpu;

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::device::Device;
#[cfg(feature = "cuda")]
use crate::device::Inner;
use crate::error::LaunchError;
use crate::registry::KernelDef;
use tile_lang::{Config, DType};

pub use argument::Argument;
pub(crate) use argument::reach;
pub(crate) use check::{Options, Request, Unproved};
pub use on_cpu::EagerCall;

/// The configuration type that `#[tile_kernel]` makes: one field a const parameter and launch option.
pub trait TypedConfig: Copy + Default {
    /// The kernel it belongs to.
    fn kernel() -> &'static KernelDef;
    /// By name.
    fn to_config(self) -> Config;
    /// Its values, the same number for every configuration of the kernel, equal for equal configurations only.
    fn values(&self, value: impl FnMut(u64));
    /// From names; what the configuration lacks is zero or false.
    fn from_config(config: &Config) -> Self;
}

/// One to three extents of a grid; those left out are 1.
pub trait IntoGrid {
    /// All three.
    fn into_grid(self) -> [usize; 3];
}

impl IntoGrid for usize {
    fn into_grid(self) -> [usize; 3] {
        [self, 1, 1]
    }
}

impl IntoGrid for [usize; 1] {
    fn into_grid(self) -> [usize; 3] {
        [self[0], 1, 1]
    }
}

impl IntoGrid for [usize; 2] {
    fn into_grid(self) -> [usize; 3] {
        [self[0], self[1], 1]
    }
}

impl IntoGrid for [usize; 3] {
    fn into_grid(self) -> [usize; 3] {
        self
    }
}

/// A kernel with its arguments, about to be launched: give it a [`grid`](Self::grid), perhaps a
/// [`config`](Self::config), then [`launch`](Self::launch) it.
#[must_use = "a kernel runs only when it is launched"]
pub struct Launch<'a, C, const ARGS: usize, const DTYPES: usize> {
    args: [Argument<'a>; ARGS],
    dtypes: [(&'static str, DType); DTYPES],
    grid: Option<[usize; 3]>,
    config: Option<C>,
    check_races: bool,
    checked: bool,
}

impl<'a, C: TypedConfig, const ARGS: usize, const DTYPES: usize> Launch<'a, C, ARGS, DTYPES> {
    /// For the macro's use.
    #[doc(hidden)]
    pub fn new(args: [Argument<'a>; ARGS], dtypes: [(&'static str, DType); DTYPES]) -> Self {
        Launch { args, dtypes, grid: None, config: None, check_races: false, checked: false }
    }

    /// How many programs to run along each axis.
    pub fn grid(mut self, grid: impl IntoGrid) -> Self {
        self.grid = Some(grid.into_grid());
        self
    }

    /// The tile sizes and launch options; the kernel's default configuration when it is not called.
    pub fn config(mut self, config: C) -> Self {
        self.config = Some(config);
        self
    }

    /// On the CPU: watch every access to the mutable tensors, and stop when two programs meet at one element and
    /// one of them stores. Slower; asks for no proof that stores are disjoint.
    pub fn check_races(mut self, check: bool) -> Self {
        self.check_races = check;
        self
    }

    /// Evaluate the kernel's `check`s: where one does not hold, the launch, which then waits for the kernel, ends
    /// with [`LaunchError::Kernel`], which names its line, the program and its message. Launches that do not ask
    /// for it leave the checks out, and so do prepared ones.
    pub fn checked(mut self, checked: bool) -> Self {
        self.checked = checked;
        self
    }

    /// Runs the kernel. The CPU has run it when this returns; a GPU runs it after what was launched there before,
    /// and [`Device::synchronize`] or copying a tensor back waits for it. Tensors lie where the kernel runs.
    ///
    /// # Errors
    /// When the grid, the configuration or an argument does not fit the kernel; when stores of two programs are
    /// not proved disjoint; when a program stops, with the kernel's line. The contents of the mutable tensors are
    /// unspecified after an error of a running program, and untouched after any other.
    pub fn launch(self, device: &Device) -> Result<(), LaunchError> {
        self.run_with(device, Unproved::Refuse)
    }

    /// Runs the kernel without a proof that programs store to disjoint elements.
    ///
    /// # Safety
    /// No two programs of the grid may access one element of a mutable tensor if one of them stores to it.
    ///
    /// # Errors
    /// As [`launch`](Self::launch), but for the proof.
    pub unsafe fn launch_unchecked(self, device: &Device) -> Result<(), LaunchError> {
        self.run_with(device, Unproved::Promised)
    }

    /// Asks a stream to run the kernel, on the stream's device; as [`launch`](Self::launch), which uses the
    /// device's default stream.
    ///
    /// # Errors
    /// As [`launch`](Self::launch).
    #[cfg(feature = "cuda")]
    pub fn launch_on(self, stream: &cuda::Stream) -> Result<(), LaunchError> {
        self.run_in(stream, Unproved::Refuse)
    }

    /// Asks a stream to run the kernel without a proof that programs store to disjoint elements.
    ///
    /// # Safety
    /// As for [`launch_unchecked`](Self::launch_unchecked).
    ///
    /// # Errors
    /// As [`launch`](Self::launch), but for the proof.
    #[cfg(feature = "cuda")]
    pub unsafe fn launch_unchecked_on(self, stream: &cuda::Stream) -> Result<(), LaunchError> {
        self.run_in(stream, Unproved::Promised)
    }

    /// Checks, compiles and loads the kernel for a GPU, to launch it often.
    ///
    /// # Errors
    /// As [`launch`](Self::launch); [`DeviceError::NotAGpu`](crate::DeviceError::NotAGpu) on the CPU device.
    #[cfg(feature = "cuda")]
    pub fn prepare(self, device: &Device) -> Result<cuda::Prepared, LaunchError> {
        self.request(Unproved::Refuse, |request| request.prepare(device))
    }

    fn run_with(self, device: &Device, unproved: Unproved) -> Result<(), LaunchError> {
        match device.0 {
            #[cfg(feature = "cuda")]
            Inner::Cuda(_, gpu) => self.run_in(gpu.default_stream(), unproved),
            _ => self.request(unproved, |request| request.run(device)),
        }
    }

    /// Asks a stream to run the kernel: the short way when this thread launched its like before.
    #[cfg(feature = "cuda")]
    fn run_in(self, stream: &cuda::Stream, unproved: Unproved) -> Result<(), LaunchError> {
        let (kernel, config) = (C::kernel(), self.config.unwrap_or_default());
        let grid = self.grid.ok_or(LaunchError::NoGrid { kernel: kernel.name })?;
        let key = again::key(&config, &self.dtypes, &self.args, stream)
            .filter(|_| !self.check_races && !self.checked);
        let known = key.as_ref().and_then(again::find);
        if let Some(known) = known
            && let Some(launched) =
                again::launch(kernel, &known, &self.args, grid, unproved != Unproved::Refuse, stream)
        {
            return launched;
        }
        let launched = self.request(unproved, |request| request.run_in(stream))?;
        if let Some(key) = key {
            again::remember(key, &launched);
        }
        Ok(())
    }

    fn request<R>(
        self,
        unproved: Unproved,
        run: impl FnOnce(Request<'_>) -> Result<R, LaunchError>,
    ) -> Result<R, LaunchError> {
        let kernel = C::kernel();
        let grid = self.grid.ok_or(LaunchError::NoGrid { kernel: kernel.name })?;
        let options = Options { check_races: self.check_races, unproved, checked: self.checked };
        let config = self.config.unwrap_or_default().to_config();
        let dtypes = self.dtypes.iter().map(|(name, dtype)| ((*name).to_owned(), *dtype)).collect();
        run(Request { kernel, args: &self.args, config: &config, dtypes: &dtypes, grid, options })
    }
}
