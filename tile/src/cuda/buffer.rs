//! Plain memory: bytes on a device, and bytes of the host that a device copies while other work goes on.

use super::Gpu;
use super::event::RawEvent;
use super::memory::Allocation;
use super::order::Access;
use super::stream::{Stream, same_device};
use crate::device::{Device, DeviceKind, Inner};
use crate::error::LaunchError;
use bytemuck::Pod;
use cudarc::driver::{result, sys};
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard};

/// Bytes in a GPU's memory.
///
/// ```no_run
/// # use tile::{Device, cuda::{DeviceBuffer, Stream}};
/// let device = Device::cuda(0)?;
/// let stream = Stream::new(&device)?;
/// // Writing as much as the L2 cache holds evicts what was in it.
/// let mut scratch = DeviceBuffer::new(&device, device.properties().expect("a GPU").l2_bytes)?;
/// scratch.fill(0, &stream)?;
/// # Ok::<(), tile::LaunchError>(())
/// ```
#[derive(Debug)]
pub struct DeviceBuffer {
    memory: Arc<Allocation>,
}

impl DeviceBuffer {
    /// New memory; it holds anything until it is written.
    ///
    /// # Errors
    /// [`DeviceError::NotAGpu`](crate::DeviceError::NotAGpu) on the CPU device, [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory).
    pub fn new(device: &Device, bytes: usize) -> Result<DeviceBuffer, LaunchError> {
        let gpu = Gpu::of(device, "device memory")?;
        Allocation::new(gpu.default_stream(), bytes).map(|memory| DeviceBuffer { memory })
    }

    /// A copy of host memory.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn from_slice<P: Pod>(device: &Device, data: &[P]) -> Result<DeviceBuffer, LaunchError> {
        let gpu = Gpu::of(device, "device memory")?;
        Allocation::upload(gpu, data).map(|memory| DeviceBuffer { memory })
    }

    /// Memory that the program has already. It is used until `owner` is dropped, which happens when this value is
    /// gone and the work on it is done; give `()` for memory that outlives all that work anyway.
    ///
    /// # Safety
    /// `bytes` bytes at `address` are memory of this device, which nobody else frees before `owner` is dropped or,
    /// where `owner` has nothing to drop, before all work on this value and on graphs of it is done. A kernel that
    /// scatters 4-bit elements reads and writes the aligned 4-byte words around them, up to three bytes beyond the
    /// memory, which it leaves as they are.
    ///
    /// # Errors
    /// [`DeviceError::NotAGpu`](crate::DeviceError::NotAGpu) on the CPU device.
    pub unsafe fn from_raw<O: Send + Sync + 'static>(
        device: &Device,
        address: u64,
        bytes: usize,
        owner: O,
    ) -> Result<DeviceBuffer, LaunchError> {
        let gpu = Gpu::of(device, "device memory")?;
        // SAFETY: the caller's.
        Ok(DeviceBuffer { memory: unsafe { Allocation::lent(gpu, address, bytes, owner) } })
    }

    /// How large it is.
    pub fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// Its first byte's address, to hand to other libraries. Work that they do there is not known here.
    pub fn address(&self) -> u64 {
        self.memory.address()
    }

    /// Where it is.
    pub fn device(&self) -> Device {
        let gpu = self.memory.gpu();
        Device(Inner::Cuda(gpu.index(), gpu))
    }

    /// Where it is.
    pub fn location(&self) -> DeviceKind {
        DeviceKind::Cuda(self.memory.gpu().index())
    }

    /// Sets every byte, in a stream.
    ///
    /// # Errors
    /// When the stream is of another device.
    pub fn fill(&mut self, byte: u8, stream: &Stream) -> Result<(), LaunchError> {
        self.memory.fill(stream, byte)
    }

    /// Overwrites all of it with another buffer of the same size and device, in a stream.
    ///
    /// # Errors
    /// [`DeviceError::BufferSize`](crate::DeviceError::BufferSize), [`DeviceError::OtherDevice`](crate::DeviceError::OtherDevice).
    pub fn copy_from(&mut self, source: &DeviceBuffer, stream: &Stream) -> Result<(), LaunchError> {
        self.memory.require_bytes(source.bytes())?;
        self.memory.copy_from(&source.memory, stream)
    }

    /// Overwrites all of it with host memory; done when this returns.
    ///
    /// # Errors
    /// [`DeviceError::BufferSize`](crate::DeviceError::BufferSize).
    pub fn upload<P: Pod>(&mut self, data: &[P]) -> Result<(), LaunchError> {
        self.memory.require_bytes(size_of_val(data))?;
        self.memory.write(self.memory.gpu().default_stream(), 0, data)
    }

    /// Copies all of it to host memory, behind everything asked of it before.
    ///
    /// # Errors
    /// [`DeviceError::BufferSize`](crate::DeviceError::BufferSize); what went wrong in a kernel launched before.
    pub fn download<P: Pod>(&self, out: &mut [P]) -> Result<(), LaunchError> {
        self.memory.require_bytes(size_of_val(out))?;
        // SAFETY: initialized memory is fine where uninitialized is, and only plain data is written.
        let out = unsafe { &mut *(std::ptr::from_mut(out) as *mut [MaybeUninit<P>]) };
        // SAFETY: any bytes are plain data.
        unsafe { self.memory.read(self.memory.gpu().default_stream(), 0, out) }
    }

    /// Overwrites all of it with pinned memory, in a stream.
    ///
    /// # Errors
    /// [`DeviceError::BufferSize`](crate::DeviceError::BufferSize), [`DeviceError::OtherDevice`](crate::DeviceError::OtherDevice); when the stream is being captured.
    pub fn upload_async<P: Pod>(
        &mut self,
        source: &PinnedBuffer<P>,
        stream: &Stream,
    ) -> Result<(), LaunchError> {
        upload_pinned(&self.memory, source, stream)
    }

    /// Copies all of it to pinned memory, in a stream.
    ///
    /// # Errors
    /// As [`upload_async`](Self::upload_async).
    pub fn download_async<P: Pod>(
        &self,
        to: &mut PinnedBuffer<P>,
        stream: &Stream,
    ) -> Result<(), LaunchError> {
        download_pinned(&self.memory, to, stream)
    }

    pub(crate) fn memory(&self) -> &Arc<Allocation> {
        &self.memory
    }
}

/// Overwrites device memory with pinned memory, in a stream.
pub(crate) fn upload_pinned<P: Pod>(
    memory: &Arc<Allocation>,
    source: &PinnedBuffer<P>,
    stream: &Stream,
) -> Result<(), LaunchError> {
    memory.require_bytes(source.len() * size_of::<P>())?;
    memory.acquire(stream, Access::Write)?;
    source.copied_in(stream, || {
        // SAFETY: both are as large; the memory lives until the stream is done with it, since dropping pinned memory
        // waits for its copies.
        unsafe {
            let from = std::slice::from_raw_parts(source.data.as_ptr(), source.len);
            result::memcpy_htod_async(memory.address(), from, stream.raw())
        }
    })
}

/// Copies device memory to pinned memory, in a stream.
pub(crate) fn download_pinned<P: Pod>(
    memory: &Arc<Allocation>,
    to: &mut PinnedBuffer<P>,
    stream: &Stream,
) -> Result<(), LaunchError> {
    memory.require_bytes(to.len() * size_of::<P>())?;
    memory.acquire(stream, Access::Read)?;
    let data = to.data.as_ptr().cast();
    to.copied_in(stream, || {
        // SAFETY: as in `upload_pinned`; nobody reads the pinned memory before it has waited for the copy.
        unsafe { sys::cuMemcpyDtoHAsync_v2(data, memory.address(), memory.bytes(), stream.raw()).result() }
    })
}

/// Host memory that stays where it is, so that a device copies to and from it while the host goes on.
///
/// Looking at the contents waits for the copies under way, and so does dropping it.
pub struct PinnedBuffer<P: Pod> {
    gpu: &'static Gpu,
    data: NonNull<P>,
    len: usize,
    /// The end of the last copy, and whether there was one since it was last waited for.
    copied: RawEvent,
    copying: Mutex<bool>,
}

// SAFETY: it owns plain data; the driver lets every thread use its handles.
unsafe impl<P: Pod + Send> Send for PinnedBuffer<P> {}
// SAFETY: as above; a shared buffer is only read.
unsafe impl<P: Pod + Sync> Sync for PinnedBuffer<P> {}

impl<P: Pod> std::fmt::Debug for PinnedBuffer<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} pinned values for cuda:{}", self.len, self.gpu.index())
    }
}

impl<P: Pod> PinnedBuffer<P> {
    /// Pinned memory of `len` zeros, to copy to and from one GPU.
    ///
    /// # Errors
    /// [`DeviceError::NotAGpu`](crate::DeviceError::NotAGpu) on the CPU device; when the system has no more memory to pin.
    pub fn zeros(device: &Device, len: usize) -> Result<PinnedBuffer<P>, LaunchError> {
        let gpu = Gpu::of(device, "pinned memory")?;
        let copied = RawEvent::new(gpu, false)?;
        let bytes = (len * size_of::<P>()).max(1);
        // SAFETY: the memory is written below before anybody reads it.
        let data = gpu.call("pinning memory", || unsafe { result::malloc_host(bytes, 0) })?.cast::<P>();
        let data = NonNull::new(data).expect("the driver gives memory or an error");
        for i in 0..len {
            // SAFETY: there is room for `len` values; pinned memory is aligned to pages.
            unsafe { data.add(i).write(P::zeroed()) };
        }
        Ok(PinnedBuffer { gpu, data, len, copied, copying: Mutex::new(false) })
    }

    /// Pinned memory with these values.
    ///
    /// # Errors
    /// As [`zeros`](Self::zeros).
    pub fn from_slice(device: &Device, values: &[P]) -> Result<PinnedBuffer<P>, LaunchError> {
        let mut buffer = PinnedBuffer::zeros(device, values.len())?;
        buffer.as_mut_slice()?.copy_from_slice(values);
        Ok(buffer)
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The values, behind the copies asked for before.
    ///
    /// # Errors
    /// What went wrong in a kernel launched before such a copy.
    pub fn as_slice(&self) -> Result<&[P], LaunchError> {
        self.wait()?;
        // SAFETY: there are `len` values, and copies that write them need the buffer exclusively.
        Ok(unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len) })
    }

    /// The values, to change, behind the copies asked for before.
    ///
    /// # Errors
    /// As [`as_slice`](Self::as_slice).
    pub fn as_mut_slice(&mut self) -> Result<&mut [P], LaunchError> {
        self.wait()?;
        // SAFETY: there are `len` values, and no copy is under way.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.len) })
    }

    fn copying(&self) -> MutexGuard<'_, bool> {
        self.copying.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Asks a stream for a copy, behind those asked for before.
    fn copied_in(
        &self,
        stream: &Stream,
        copy: impl FnOnce() -> Result<(), result::DriverError>,
    ) -> Result<(), LaunchError> {
        same_device("pinned memory", self.gpu, stream.gpu())?;
        stream.refuse_capture("a copy of pinned memory")?;
        let mut copying = self.copying();
        self.gpu.call("copying pinned memory", || {
            if *copying {
                let wait = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
                // SAFETY: stream and event live as long as their values.
                unsafe { result::stream::wait_event(stream.raw(), self.copied.raw(), wait) }?;
            }
            copy()?;
            *copying = true;
            // SAFETY: as above.
            unsafe { result::event::record(self.copied.raw(), stream.raw()) }
        })
    }

    /// Waits for the copies asked for.
    fn wait(&self) -> Result<(), LaunchError> {
        let mut copying = self.copying();
        if std::mem::take(&mut *copying) {
            // SAFETY: the event lives as long as this value.
            let wait = || unsafe { result::event::synchronize(self.copied.raw()) };
            self.gpu.call("waiting for a copy", wait)?;
        }
        Ok(())
    }
}

impl<P: Pod> Drop for PinnedBuffer<P> {
    fn drop(&mut self) {
        // Errors mean that the device is lost; nothing of it writes to the memory any more.
        let _ = self.wait();
        // SAFETY: no copy is under way, and the memory is this value's.
        let free = || unsafe { result::free_host(self.data.as_ptr().cast()) };
        let _ = self.gpu.call("freeing pinned memory", free);
    }
}
