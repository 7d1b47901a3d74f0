//! What can go wrong at a launch.

use crate::device::DeviceKind;
use std::borrow::Cow;
use std::fmt;
use tile_lang::{DType, Diagnostic};

/// A place in a kernel's source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The source file, as the compiler names it.
    pub file: Cow<'static, str>,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub col: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.col)
    }
}

impl From<&'static std::panic::Location<'static>> for Place {
    fn from(at: &'static std::panic::Location<'static>) -> Place {
        Place { file: at.file().into(), line: at.line(), col: at.column() }
    }
}

/// Why a program of a kernel stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// A tile dimension is zero or not a power of two.
    #[error("a tile's dimensions are powers of two; found {shape:?}")]
    NotPowerOfTwo {
        /// The shape asked for.
        shape: Vec<usize>,
    },
    /// More dimensions than a tile can have.
    #[error("a tile has at most 8 dimensions; found {rank}")]
    RankTooLarge {
        /// The number of dimensions.
        rank: usize,
    },
    /// Two shapes do not broadcast together.
    #[error("{op}: shapes {lhs:?} and {rhs:?} do not broadcast together")]
    Broadcast {
        /// The operation.
        op: &'static str,
        /// Shape of the left operand.
        lhs: Vec<usize>,
        /// Shape of the right operand.
        rhs: Vec<usize>,
    },
    /// A tile does not broadcast to the shape asked for.
    #[error("{op}: a tile of shape {from:?} does not broadcast to {to:?}")]
    BroadcastTo {
        /// The operation.
        op: &'static str,
        /// The tile's shape.
        from: Vec<usize>,
        /// The shape asked for.
        to: Vec<usize>,
    },
    /// The inner dimensions of a product differ.
    #[error("mma: K of lhs and rhs differ: lhs is {lhs:?}, rhs is {rhs:?}")]
    InnerDims {
        /// Shape of lhs.
        lhs: Vec<usize>,
        /// Shape of rhs.
        rhs: Vec<usize>,
    },
    /// The scales of an operand of `mma_scaled` do not fit it.
    #[error(
        "mma_scaled: an operand is {operand:?}, its scales are {scales:?}; expected one scale for 16 elements of dimension {summed}"
    )]
    Scales {
        /// Shape of the operand.
        operand: Vec<usize>,
        /// Shape of its scales.
        scales: Vec<usize>,
        /// The dimension that is summed over.
        summed: usize,
    },
    /// The accumulator's shape is not that of the product.
    #[error("mma: acc is {acc:?}; the product of {lhs:?} and {rhs:?} is {product:?}")]
    AccShape {
        /// Shape of acc.
        acc: Vec<usize>,
        /// Shape of lhs.
        lhs: Vec<usize>,
        /// Shape of rhs.
        rhs: Vec<usize>,
        /// Shape of the product.
        product: Vec<usize>,
    },
    /// A dtype that the operation does not take.
    #[error("{op} takes {allowed}; found {dtype}")]
    DTypeNotAllowed {
        /// The operation.
        op: &'static str,
        /// The dtype found.
        dtype: DType,
        /// The dtypes there are.
        allowed: &'static str,
    },
    /// A tile of the wrong number of dimensions.
    #[error("{op} takes a tile of {expected} dimensions; found shape {shape:?}")]
    TileRank {
        /// The operation.
        op: &'static str,
        /// The number it takes.
        expected: usize,
        /// The tile's shape.
        shape: Vec<usize>,
    },
    /// A reshape that would change the number of elements.
    #[error("reshape: {from:?} has {} elements, {to:?} has {}", from.iter().product::<usize>(), to.iter().product::<usize>())]
    Reshape {
        /// The tile's shape.
        from: Vec<usize>,
        /// The shape asked for.
        to: Vec<usize>,
    },
    /// An axis beyond the last.
    #[error("{op}: axis {axis} of a value with {rank} dimensions")]
    Axis {
        /// The operation.
        op: &'static str,
        /// The axis.
        axis: usize,
        /// The number of dimensions.
        rank: usize,
    },
    /// A squeeze of a dimension that is not 1.
    #[error("squeeze: dimension {axis} of shape {shape:?} is not 1")]
    Squeeze {
        /// The axis.
        axis: usize,
        /// The tile's shape.
        shape: Vec<usize>,
    },
    /// Not a permutation of the tile's dimensions.
    #[error("permute: {perm:?} is no permutation of the dimensions of shape {shape:?}")]
    Permute {
        /// The permutation asked for.
        perm: Vec<usize>,
        /// The tile's shape.
        shape: Vec<usize>,
    },
    /// An integer division by zero.
    #[error("division by zero")]
    DivisionByZero,
    /// More elements than `iota` can count in i32.
    #[error("iota({len}) does not fit i32")]
    IotaTooLong {
        /// The length asked for.
        len: usize,
    },
    /// A grid axis other than 0, 1 and 2.
    #[error("a grid has axes 0, 1 and 2; found {axis}")]
    GridAxis {
        /// The axis.
        axis: usize,
    },
    /// A use of what only a running kernel has.
    #[error("`{what}` has no meaning outside a running kernel")]
    OutsideKernel {
        /// The function.
        what: &'static str,
    },
    /// A tile kept beyond the loop iteration that made it.
    #[error("a tile is used after the loop iteration that made it has ended")]
    StaleTile,
    /// A condition that the kernel checks is false.
    #[error("check failed: {message}")]
    Check {
        /// What the kernel's author says of it.
        message: String,
    },
    /// Two programs touched one element, and one of them wrote it.
    #[error(
        "programs {first:?} and {second:?} both access element {element:?} of `{tensor}`, and one of them stores"
    )]
    Race {
        /// The tensor.
        tensor: &'static str,
        /// The element's coordinates.
        element: Vec<usize>,
        /// The program that stored first.
        first: [usize; 3],
        /// The other program.
        second: [usize; 3],
    },
    /// A counter of arrivals that is not zero when a program arrives: an earlier launch failed, or it is no counter.
    #[error("the counter at {element:?} holds {found}; counters are zero when a kernel starts")]
    Counter {
        /// The counter's coordinates.
        element: Vec<usize>,
        /// What it holds.
        found: i32,
    },
    /// The kernel's own scalar code panicked: an overflow, a failed conversion.
    #[error("{message}")]
    Panic {
        /// The panic's message.
        message: String,
    },
}

/// Why a device cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// A CUDA device was asked for; this build has no support for them.
    #[error(
        "cuda:{index}: this build of `tile` cannot launch on GPUs; build it with its feature `cuda`, or use Device::cpu()"
    )]
    CudaNotBuilt {
        /// The device asked for.
        index: usize,
    },
    /// There is no driver.
    #[error(
        "cuda:{index}: the CUDA driver's library (libcuda) is not found; install NVIDIA's driver (no toolkit is needed), or use Device::cpu()"
    )]
    NoDriver {
        /// The device asked for.
        index: usize,
    },
    /// The driver knows fewer devices.
    #[error("cuda:{index}: the driver shows {count} devices; see `nvidia-smi` and CUDA_VISIBLE_DEVICES")]
    NoSuchDevice {
        /// The device asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// No code can be generated for the device.
    #[error(
        "cuda:{index} ({name}) has SM {}.{}, for which there is no code generation; there is for {known}",
        capability.0,
        capability.1
    )]
    Unsupported {
        /// The device asked for.
        index: usize,
        /// Its name.
        name: String,
        /// Its compute capability.
        capability: (u32, u32),
        /// The targets there are.
        known: String,
    },
    /// The driver lacks calls that launches need.
    #[error(
        "cuda:{index}: the driver is of CUDA {}.{}; launches need one of CUDA {}.{} or later",
        found.0,
        found.1,
        needed.0,
        needed.1
    )]
    OldDriver {
        /// The device asked for.
        index: usize,
        /// The driver's CUDA version.
        found: (u32, u32),
        /// The oldest that will do.
        needed: (u32, u32),
    },
    /// The driver is older than the code.
    #[error(
        "cuda:{index}: the driver is too old for PTX {}.{}; install one of CUDA 13.0 or later",
        ptx_version.0,
        ptx_version.1
    )]
    DriverTooOld {
        /// The device.
        index: usize,
        /// The PTX version of the kernel.
        ptx_version: (u32, u32),
    },
    /// The device has too little free memory.
    #[error("cuda:{index}: out of device memory: {bytes} bytes were asked for")]
    OutOfMemory {
        /// The device.
        index: usize,
        /// Bytes asked for.
        bytes: usize,
    },
    /// Something that only GPUs have was asked of the CPU.
    #[error("{what} is of a GPU; the CPU device has none")]
    NotAGpu {
        /// What was asked for.
        what: &'static str,
    },
    /// Things of two devices that do not work together.
    #[error("{what} of cuda:{found} is used for cuda:{expected}")]
    OtherDevice {
        /// What is of another device.
        what: &'static str,
        /// Its device.
        found: usize,
        /// The device it is used for.
        expected: usize,
    },
    /// More streams than a device can tell apart.
    #[error("cuda:{index}: {limit} streams are open, which is as many as can be; drop some, or share them")]
    TooManyStreams {
        /// The device.
        index: usize,
        /// How many there can be.
        limit: usize,
    },
    /// An event that marks nothing yet.
    #[error("cuda:{index}: the event was not recorded; call `record` first")]
    EventNotRecorded {
        /// The device.
        index: usize,
    },
    /// Something that cannot be part of a graph, while one is captured.
    #[error("cuda:{index}: {what} cannot be part of a graph; do it before or after the capture")]
    Captured {
        /// The device.
        index: usize,
        /// What was asked for.
        what: &'static str,
    },
    /// A copy between buffers of different sizes.
    #[error("cuda:{index}: a copy between a device buffer of {expected} bytes and {found} bytes")]
    BufferSize {
        /// The device.
        index: usize,
        /// Bytes of the device buffer.
        expected: usize,
        /// Bytes of the other side.
        found: usize,
    },
    /// A running kernel went wrong: the device's context is lost, and every later call on it fails the same way.
    #[error(
        "cuda:{index}: {doing}: a kernel that ran before went wrong: {message} ({code}); this process can use the device no more"
    )]
    Fault {
        /// The device.
        index: usize,
        /// What was being done when it showed.
        doing: &'static str,
        /// The driver's name of the error.
        code: String,
        /// The driver's words.
        message: String,
    },
    /// A call of the driver failed.
    #[error("cuda:{index}: {doing}: {message} ({code})")]
    Driver {
        /// The device.
        index: usize,
        /// What was being done.
        doing: &'static str,
        /// The driver's name of the error.
        code: String,
        /// The driver's words.
        message: String,
    },
}

/// Why a launch was refused or stopped.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The device is not there, or failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Extents and strides that make no tensor.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A configuration that was tuned for another SM.
    #[error(
        "kernel `{kernel}`: the configuration was tuned for {tuned_for}, the device is {target}; look one up for the device, or tune on it"
    )]
    ConfigForOtherTarget {
        /// The kernel.
        kernel: &'static str,
        /// The SM it was tuned for.
        tuned_for: &'static str,
        /// The device's.
        target: &'static str,
    },
    /// The compiled kernel takes more registers than the device has for a CTA.
    #[error(
        "kernel `{kernel}`: a CTA of {threads} threads takes more registers than the device has; choose smaller tiles or fewer warps"
    )]
    OutOfResources {
        /// The kernel.
        kernel: &'static str,
        /// Threads of the CTA.
        threads: u32,
    },
    /// A tensor to store to that was given for reading only.
    #[error("kernel `{kernel}`: `{name}` is stored to, but was given for reading only")]
    NotWritable {
        /// The kernel.
        kernel: &'static str,
        /// The parameter.
        name: String,
    },
    /// A tensor that lies elsewhere than the kernel is to run.
    #[error(
        "kernel `{kernel}` is launched on {expected}, but `{name}` is on {found}; move it there with `to_device`"
    )]
    WrongDevice {
        /// The kernel.
        kernel: &'static str,
        /// The parameter.
        name: String,
        /// Where the tensor is.
        found: DeviceKind,
        /// Where the kernel is to run.
        expected: DeviceKind,
    },
    /// A check for races on a device that cannot make it.
    #[error("kernel `{kernel}`: check_races works on the CPU only")]
    RacesOnGpu {
        /// The kernel.
        kernel: &'static str,
    },
    /// A `usize` beyond what a compiled kernel counts in 32 bits.
    #[error("kernel `{kernel}`: `{name}` is {value}; the largest on a GPU is 2147483647")]
    ScalarTooLarge {
        /// The kernel.
        kernel: &'static str,
        /// The parameter.
        name: String,
        /// Its value.
        value: usize,
    },
    /// An emulated GPU found that the compiled kernel does what it must not.
    #[cfg(feature = "jit")]
    #[error("kernel `{kernel}` on an emulated {target}: {fault}")]
    Emulated {
        /// The kernel.
        kernel: &'static str,
        /// What it was compiled for.
        target: &'static str,
        /// What it did, and where.
        fault: Box<ptx_emu::Fault>,
    },
    /// Compiled code has something that is not emulated.
    #[cfg(feature = "jit")]
    #[error("kernel `{kernel}` for {target}: {source}")]
    NotEmulated {
        /// The kernel.
        kernel: &'static str,
        /// What it was compiled for.
        target: &'static str,
        /// The instruction.
        source: ptx_emu::ParseError,
    },
    /// The kernel does not compile for the device.
    #[cfg(feature = "jit")]
    #[error(transparent)]
    Jit(Box<crate::jit::JitError>),
    /// The configuration needs more shared memory than the device has.
    #[error(
        "kernel `{kernel}` needs {needed} bytes of shared memory a CTA; the device has {available}; choose smaller tiles or fewer stages"
    )]
    SharedMemory {
        /// The kernel.
        kernel: &'static str,
        /// Bytes it needs.
        needed: usize,
        /// Bytes there are.
        available: usize,
    },
    /// The driver does not take the generated code: a defect of this compiler.
    #[error("compiler bug: kernel `{kernel}`: the driver refuses its PTX: {log}")]
    RefusedPtx {
        /// The kernel.
        kernel: &'static str,
        /// What the driver says.
        log: String,
    },
    /// No grid was given.
    #[error("kernel `{kernel}`: no grid; call `.grid([..])` before `.launch(..)`")]
    NoGrid {
        /// The kernel.
        kernel: &'static str,
    },
    /// A grid without programs.
    #[error("kernel `{kernel}`: grid {grid:?} has no programs; every extent is at least 1")]
    EmptyGrid {
        /// The kernel.
        kernel: &'static str,
        /// The grid.
        grid: [usize; 3],
    },
    /// More programs than a grid can have.
    #[error("kernel `{kernel}`: grid {grid:?} is too large; extents go up to [2147483647, 65535, 65535]")]
    GridTooLarge {
        /// The kernel.
        kernel: &'static str,
        /// The grid.
        grid: [usize; 3],
    },
    /// More programs than CTAs that each run several can count.
    #[error(
        "kernel `{kernel}`: grid {grid:?} is too large for persistent = 1, which counts up to {most} programs; \
         launch it with persistent = 0"
    )]
    TooManyPrograms {
        /// The kernel.
        kernel: &'static str,
        /// The grid.
        grid: [usize; 3],
        /// The most programs.
        most: usize,
    },
    /// A const parameter without a value.
    #[error(
        "kernel `{kernel}`: const parameter {name} has no value; it is not tuned, so set it in the configuration"
    )]
    ConstNotSet {
        /// The kernel.
        kernel: &'static str,
        /// The const parameter.
        name: String,
    },
    /// A name in a configuration that the kernel does not have.
    #[error("kernel `{kernel}` has no const parameter `{name}`; it has {allowed}{}", did_you_mean(nearest))]
    UnknownConst {
        /// The kernel.
        kernel: &'static str,
        /// The name found.
        name: String,
        /// The names there are.
        allowed: String,
        /// The name that may have been meant.
        nearest: Option<String>,
    },
    /// A value that a const parameter or launch option cannot have.
    #[error("kernel `{kernel}`: {name} = {value}; expected {expected}")]
    ConstValue {
        /// The kernel.
        kernel: &'static str,
        /// The const parameter or launch option.
        name: String,
        /// Its value.
        value: i64,
        /// What it may be.
        expected: &'static str,
    },
    /// Too few or too many arguments.
    #[error("kernel `{kernel}` takes {expected} arguments; found {found}")]
    ArgumentCount {
        /// The kernel.
        kernel: &'static str,
        /// The number of parameters.
        expected: usize,
        /// The number of arguments.
        found: usize,
    },
    /// A tensor where a scalar belongs, or the other way round.
    #[error("kernel `{kernel}`: argument `{name}` is {found}; expected {expected}")]
    ArgumentKind {
        /// The kernel.
        kernel: &'static str,
        /// The parameter.
        name: String,
        /// What it is.
        found: String,
        /// What the kernel takes.
        expected: String,
    },
    /// An argument of the wrong dtype.
    #[error("kernel `{kernel}`: `{name}` has dtype {found}; expected {expected}")]
    ArgumentDType {
        /// The kernel.
        kernel: &'static str,
        /// The parameter, or the dtype parameter.
        name: String,
        /// Its dtype.
        found: DType,
        /// What the kernel takes.
        expected: String,
    },
    /// A tensor of the wrong rank.
    #[error("kernel `{kernel}`: `{name}` has shape {shape:?}; expected {expected} dimensions")]
    ArgumentRank {
        /// The kernel.
        kernel: &'static str,
        /// The parameter.
        name: String,
        /// Its extents.
        shape: Vec<usize>,
        /// The rank of the parameter.
        expected: usize,
    },
    /// An extent beyond what a kernel counts in 32 bits.
    #[error("kernel `{kernel}`: dimension {axis} of `{name}` is {extent}; the largest is 2147483647")]
    ExtentTooLarge {
        /// The kernel.
        kernel: &'static str,
        /// The parameter.
        name: String,
        /// The dimension.
        axis: usize,
        /// Its extent.
        extent: usize,
    },
    /// A tensor whose shape and strides reach beyond its data.
    #[error(
        "kernel `{kernel}`: shape {shape:?} with strides {strides:?} reaches beyond the {len} elements of `{name}`"
    )]
    OutOfBounds {
        /// The kernel.
        kernel: &'static str,
        /// The parameter.
        name: String,
        /// Its extents.
        shape: Vec<usize>,
        /// Its strides in elements.
        strides: Vec<usize>,
        /// Elements there are.
        len: usize,
    },
    /// A mutable tensor in which two coordinates are one element.
    #[error(
        "kernel `{kernel}`: `{name}` is stored to, but shape {shape:?} with strides {strides:?} has elements that overlap"
    )]
    Overlap {
        /// The kernel.
        kernel: &'static str,
        /// The parameter.
        name: String,
        /// Its extents.
        shape: Vec<usize>,
        /// Its strides in elements.
        strides: Vec<usize>,
    },
    /// A dtype parameter without a dtype.
    #[error("kernel `{kernel}`: dtype parameter {name} is not bound; expected one of {allowed}")]
    DTypeNotBound {
        /// The kernel.
        kernel: &'static str,
        /// The dtype parameter.
        name: String,
        /// The dtypes its bound allows.
        allowed: String,
    },
    /// The configuration and dtypes do not make a kernel.
    #[error("kernel `{kernel}` cannot be instantiated:\n{}", render(diagnostics, files))]
    Check {
        /// The kernel.
        kernel: &'static str,
        /// What is wrong, all of it.
        diagnostics: Vec<Diagnostic>,
        /// The files that the places index.
        files: Vec<String>,
    },
    /// Stores that two programs may both make.
    #[error(
        "kernel `{kernel}`: two programs may store to one element:\n{}\n  help: if the programs of your grid are disjoint for a reason the analysis cannot see, use `unsafe {{ launch_unchecked }}`",
        render(diagnostics, files)
    )]
    StoresNotProved {
        /// The kernel.
        kernel: &'static str,
        /// Each store that is not proved, and why.
        diagnostics: Vec<Diagnostic>,
        /// The files that the places index.
        files: Vec<String>,
    },
    /// A program stopped: on the CPU for any reason, on a GPU because a check failed.
    #[error("{place}: kernel `{kernel}`, program {program:?}: {error}")]
    Kernel {
        /// The kernel.
        kernel: &'static str,
        /// The program.
        program: [usize; 3],
        /// The line of the kernel.
        place: Place,
        /// What happened.
        error: Box<KernelError>,
    },
    /// The tables of tuned configurations could not be read or do not fit the kernel.
    #[error("kernel `{kernel}`: no tuned configuration: {message}")]
    Tuning {
        /// The kernel.
        kernel: &'static str,
        /// What is wrong.
        message: String,
    },
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or(String::new(), |n| format!("; did you mean `{n}`?"))
}

pub(crate) fn render(diagnostics: &[Diagnostic], files: &[String]) -> String {
    diagnostics.iter().map(|d| d.render(files)).collect::<Vec<_>>().join("\n")
}

/// Why data and a shape do not make a tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The number of elements is not that of the shape.
    #[error("shape {shape:?} has {expected} elements; found {found}")]
    Length {
        /// The shape.
        shape: Vec<usize>,
        /// Elements of the shape.
        expected: usize,
        /// Elements given.
        found: usize,
    },
    /// The number of bytes is not that of the shape and dtype.
    #[error("a {dtype} tensor of shape {shape:?} has {expected} bytes; found {found}")]
    Bytes {
        /// The shape.
        shape: Vec<usize>,
        /// The dtype.
        dtype: DType,
        /// Bytes of the shape.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// As many strides as extents are needed.
    #[error("shape {shape:?} with strides {strides:?}: one stride a dimension is needed")]
    Strides {
        /// The shape.
        shape: Vec<usize>,
        /// The strides.
        strides: Vec<usize>,
    },
    /// The shape has more elements than memory can hold.
    #[error("shape {shape:?} has more elements than memory can hold")]
    TooLarge {
        /// The shape.
        shape: Vec<usize>,
    },
    /// Not a permutation of the dimensions.
    #[error("{perm:?} is no permutation of {rank} dimensions")]
    Permutation {
        /// What was given.
        perm: Vec<usize>,
        /// The number of dimensions.
        rank: usize,
    },
}
