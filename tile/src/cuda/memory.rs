//! Memory of a GPU, and when it is free to go.
//!
//! Nothing waits on the host for memory to be freed: the driver frees it in the order of a stream, behind
//! everything that uses it.

use super::Gpu;
use super::event::RawEvent;
use super::order::{Access, Uses};
use super::stream::{Stream, same_device, stream_error};
use crate::error::{DeviceError, LaunchError};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, cudaError_enum::CUDA_ERROR_OUT_OF_MEMORY};
use std::any::Any;
use std::sync::Arc;

/// A piece of a GPU's memory. Whoever has work under way on it keeps it, or leaves a note in [`Uses`].
pub(crate) struct Allocation {
    gpu: &'static Gpu,
    address: u64,
    bytes: usize,
    uses: Uses,
    owner: Owner,
}

/// Who frees memory.
enum Owner {
    /// The driver, in the order of a stream.
    Pool,
    /// The driver, at once.
    Driver,
    /// Somebody else, as soon as the value is dropped; the memory is in use until then.
    Foreign(Option<Box<dyn Any + Send + Sync>>),
}

/// What a program lent, kept until the device is done with it.
pub(super) struct Lent {
    _owner: Box<dyn Any + Send + Sync>,
    until: Vec<Arc<RawEvent>>,
}

impl std::fmt::Debug for Allocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes at {:#x} of cuda:{}", self.bytes, self.address, self.gpu.index())
    }
}

impl Allocation {
    /// New memory that holds anything, for a stream to write first.
    pub fn new(stream: &Stream, bytes: usize) -> Result<Arc<Allocation>, LaunchError> {
        let gpu = stream.gpu();
        let (address, uses) = match allocate(stream, bytes) {
            Err(LaunchError::Device(DeviceError::OutOfMemory { .. })) => {
                // What was freed may still wait for a stream.
                gpu.synchronize()?;
                gpu.trim();
                allocate(stream, bytes)?
            }
            allocated => allocated?,
        };
        let owner = if gpu.has_pool() { Owner::Pool } else { Owner::Driver };
        Ok(Arc::new(Allocation { gpu, address, bytes, uses, owner }))
    }

    /// Memory that somebody else made.
    ///
    /// # Safety
    /// `bytes` bytes at `address` may be used by this device until `owner` is dropped and, where `owner` is
    /// nothing to drop, until all work on the memory is done.
    pub unsafe fn lent<O: Send + Sync + 'static>(
        gpu: &'static Gpu,
        address: u64,
        bytes: usize,
        owner: O,
    ) -> Arc<Allocation> {
        let owner = std::mem::needs_drop::<O>().then(|| Box::new(owner) as Box<dyn Any + Send + Sync>);
        Arc::new(Allocation { gpu, address, bytes, uses: Uses::none(), owner: Owner::Foreign(owner) })
    }

    /// A copy of host memory, done when this returns.
    pub fn upload<P: Copy>(gpu: &'static Gpu, data: &[P]) -> Result<Arc<Allocation>, LaunchError> {
        let memory = Allocation::new(gpu.default_stream(), size_of_val(data))?;
        memory.write(gpu.default_stream(), 0, data)?;
        memory.uses.settle();
        Ok(memory)
    }

    /// A copy on the same device.
    pub fn duplicate(self: &Arc<Self>) -> Result<Arc<Allocation>, LaunchError> {
        let stream = self.gpu.default_stream();
        let copy = Allocation::new(stream, self.bytes)?;
        copy.copy_from(self, stream)?;
        Ok(copy)
    }

    /// Overwrites the memory with as many bytes of another piece, in a stream.
    pub fn copy_from(self: &Arc<Self>, source: &Arc<Allocation>, stream: &Stream) -> Result<(), LaunchError> {
        source.require_range(0, self.bytes);
        source.acquire(stream, Access::Read)?;
        self.acquire(stream, Access::Write)?;
        // SAFETY: both are as large, and live until the stream is done with them.
        self.gpu.call("copying in device memory", || unsafe {
            result::memcpy_dtod_async(self.address, source.address, self.bytes, stream.raw())
        })
    }

    /// Sets every byte, in a stream.
    pub fn fill(self: &Arc<Self>, stream: &Stream, byte: u8) -> Result<(), LaunchError> {
        self.acquire(stream, Access::Write)?;
        // SAFETY: the memory is as large, and lives until the stream is done with it.
        self.gpu.call("filling memory", || unsafe {
            result::memset_d8_async(self.address, byte, self.bytes, stream.raw())
        })
    }

    /// Overwrites the memory from byte `start` on; done when this returns.
    pub fn write<P: Copy>(
        self: &Arc<Self>,
        stream: &Stream,
        start: usize,
        data: &[P],
    ) -> Result<(), LaunchError> {
        stream.refuse_capture("copying from host memory")?;
        self.require_range(start, size_of_val(data));
        if data.is_empty() {
            return Ok(());
        }
        self.acquire(stream, Access::Write)?;
        let address = self.address + start as u64;
        // SAFETY: there is room for the data, which outlives the copy: it is waited for.
        self.gpu.call("copying to the device", || unsafe {
            result::memcpy_htod_async(address, data, stream.raw())?;
            result::stream::synchronize(stream.raw())
        })
    }

    /// Copies bytes from byte `start` on back, behind everything that was asked of the memory before.
    ///
    /// # Safety
    /// `out` may take any bytes that are in the memory.
    pub unsafe fn read<P>(
        self: &Arc<Self>,
        stream: &Stream,
        start: usize,
        out: &mut [std::mem::MaybeUninit<P>],
    ) -> Result<(), LaunchError> {
        stream.refuse_capture("copying to host memory")?;
        self.require_range(start, size_of_val(out));
        if out.is_empty() {
            return Ok(());
        }
        self.acquire(stream, Access::Read)?;
        let address = self.address + start as u64;
        // SAFETY: the range is inside the memory, and `out` outlives the copy: it is waited for.
        self.gpu.call("copying from the device", || unsafe {
            result::memcpy_dtoh_async(out, address, stream.raw())?;
            result::stream::synchronize(stream.raw())
        })
    }

    /// Lets a stream use the memory: it waits for the streams whose use this one conflicts with. In a capture,
    /// the graph's replays do.
    #[inline]
    pub fn acquire(self: &Arc<Self>, stream: &Stream, access: Access) -> Result<(), LaunchError> {
        let known = std::ptr::eq(stream.gpu(), self.gpu) && self.uses.covers(stream.slot(), access);
        if known && !stream.is_capturing() {
            return Ok(());
        }
        self.acquire_slowly(stream, access)
    }

    #[cold]
    fn acquire_slowly(self: &Arc<Self>, stream: &Stream, access: Access) -> Result<(), LaunchError> {
        same_device("a stream", stream.gpu(), self.gpu)?;
        if let Some(captured) = &mut *stream.captured() {
            captured.memory.push((self.clone(), access));
            return Ok(());
        }
        self.gpu.context().bind_to_thread().map_err(|error| stream_error(self.gpu, error))?;
        let table = self.gpu.table();
        let waits = self.uses.note(stream.slot(), access);
        table.wait(stream.raw(), waits).map_err(|error| stream_error(self.gpu, error))
    }

    /// Which device it is of.
    pub fn gpu(&self) -> &'static Gpu {
        self.gpu
    }

    /// Its first byte's address.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// How large it is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Refuses a copy of the whole with something of another size.
    pub fn require_bytes(&self, found: usize) -> Result<(), LaunchError> {
        let (index, expected) = (self.gpu.index(), self.bytes);
        if found == expected {
            Ok(())
        } else {
            Err(DeviceError::BufferSize { index, expected, found }.into())
        }
    }

    fn require_range(&self, start: usize, bytes: usize) {
        let end = start.checked_add(bytes);
        assert!(end.is_some_and(|end| end <= self.bytes), "a copy beyond the end of device memory");
    }

    /// Frees the memory behind what its users have been asked so far.
    fn free_in_order(&self) -> Result<(), DriverError> {
        self.gpu.context().bind_to_thread()?;
        let table = self.gpu.table();
        let users = table.open(self.uses.users());
        let only = (users.count_ones() == 1).then(|| table.uncaptured(users.trailing_zeros() as usize));
        let behind = match only.flatten() {
            Some(only) => only,
            None => {
                table.wait(self.gpu.reaper(), users)?;
                self.gpu.reaper()
            }
        };
        // SAFETY: the memory is this value's alone; all work on it is in streams that this one is behind.
        unsafe { result::free_async(self.address, behind) }
    }
}

/// Memory for a stream; elsewhere it is used in the order of the notes.
fn allocate(stream: &Stream, bytes: usize) -> Result<(u64, Uses), LaunchError> {
    let gpu = stream.gpu();
    let bytes_or_one = bytes.max(1);
    let in_order = gpu.has_pool() && !stream.is_capturing();
    let allocated = gpu.context().bind_to_thread().and_then(|()| match (in_order, gpu.has_pool()) {
        // SAFETY: nobody reads the memory before it is written, and only behind this stream.
        (true, _) => unsafe { result::malloc_async(stream.raw(), bytes_or_one) },
        // SAFETY: as above; it is done when the call returns.
        (false, true) => unsafe {
            let address = result::malloc_async(gpu.reaper(), bytes_or_one)?;
            result::stream::synchronize(gpu.reaper())?;
            Ok(address)
        },
        // SAFETY: nobody reads the memory before it is written.
        (false, false) => unsafe { result::malloc_sync(bytes_or_one) },
    });
    let uses = if in_order { Uses::written_by(stream.slot()) } else { Uses::none() };
    match allocated {
        Ok(address) => Ok((address, uses)),
        Err(DriverError(CUDA_ERROR_OUT_OF_MEMORY)) => {
            Err(DeviceError::OutOfMemory { index: gpu.index(), bytes }.into())
        }
        Err(error) => Err(super::driver_error(gpu.index(), "allocating memory", error)),
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // A failure means that the device is lost, and its memory with it.
        match &mut self.owner {
            Owner::Pool => {
                let _ = self.free_in_order();
            }
            Owner::Driver => {
                let waited = self.gpu.wait_for(self.uses.users());
                // SAFETY: the memory is this value's alone, and every use of it is done.
                let free = || unsafe { result::free_sync(self.address) };
                let _ = waited.and_then(|()| self.gpu.call("freeing memory", free));
            }
            Owner::Foreign(None) => {}
            Owner::Foreign(Some(_)) => {
                let Owner::Foreign(Some(owner)) = std::mem::replace(&mut self.owner, Owner::Foreign(None))
                else {
                    unreachable!("the arm's pattern");
                };
                let until = self.gpu.marks(self.uses.users()).unwrap_or_default();
                self.gpu.keep(Lent { _owner: owner, until });
            }
        }
    }
}

impl Gpu {
    /// Keeps what was lent until the device is done with it, and lets go of what it is done with.
    fn keep(&'static self, lent: Lent) {
        self.release_done();
        if lent.is_done() {
            return;
        }
        self.lent().push(lent);
    }

    /// Lets go of what was lent and is not used any more.
    pub(super) fn release_done(&self) {
        let done: Vec<Lent> = {
            let mut lent = self.lent();
            let (done, waiting) = std::mem::take(&mut *lent).into_iter().partition(Lent::is_done);
            *lent = waiting;
            done
        };
        // Outside the lock: owners may do anything when they are dropped.
        drop(done);
    }

    /// Hands memory that is kept for later back to the system.
    fn trim(&self) {
        let device = self.context().cu_device();
        // A pool that cannot be trimmed leaves less memory, which the allocation after this reports.
        // SAFETY: the device is valid; its pool lives as long.
        let _ = self.call("trimming a pool", || unsafe {
            let pool = result::device::get_mem_pool(device)?;
            sys::cuMemPoolTrimTo(pool, 0).result()
        });
    }
}

impl Lent {
    fn is_done(&self) -> bool {
        self.until.iter().all(|mark| mark.is_done())
    }
}
