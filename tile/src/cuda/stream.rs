//! Streams: queues of work on a device, and the order between them.
//!
//! Work of one stream runs in order, work of two streams at the same time. Tensors keep order between streams by
//! themselves: a launch first has its stream wait for what other streams still do with the same memory.

use super::event::{Event, RawEvent};
use super::graph::{Captured, Graph};
use super::order::{MAX_STREAMS, Slots, slots};
use super::{Gpu, driver_error};
use crate::device::{Device, Inner};
use crate::error::{DeviceError, LaunchError};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// A queue of work on a GPU. Clones are the same queue.
///
/// Dropping the last clone waits for the work in it.
#[derive(Clone)]
pub struct Stream(Arc<StreamInner>);

struct StreamInner {
    gpu: &'static Gpu,
    raw: sys::CUstream,
    slot: u8,
    owned: bool,
    /// What a capture under way has collected.
    captured: Mutex<Option<Captured>>,
    capturing: AtomicBool,
}

// SAFETY: the driver lets every thread use its handles.
unsafe impl Send for StreamInner {}
// SAFETY: as above; what changes is behind a lock or atomic.
unsafe impl Sync for StreamInner {}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stream {} of cuda:{}", self.0.slot, self.0.gpu.index())
    }
}

impl Stream {
    /// A new stream of a GPU.
    ///
    /// # Errors
    /// [`DeviceError::NotAGpu`] on the CPU device, [`DeviceError::TooManyStreams`] when as many are open as can be.
    pub fn new(device: &Device) -> Result<Stream, LaunchError> {
        Stream::of(Gpu::of(device, "a stream")?)
    }

    /// A new stream of a GPU.
    pub(super) fn of(gpu: &'static Gpu) -> Result<Stream, LaunchError> {
        let kind = result::stream::StreamKind::NonBlocking;
        let raw = gpu.call("making a stream", || result::stream::create(kind))?;
        Stream::register(gpu, raw, true)
    }

    /// A stream that the program got elsewhere: a `CUstream` or `cudaStream_t` of the device's primary context.
    /// Keep it as long as the foreign stream is in use: dropping it waits for the stream's work.
    ///
    /// # Safety
    /// `raw` is a stream of this device, and is not destroyed before the last clone of this value.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub unsafe fn from_raw(device: &Device, raw: *mut std::ffi::c_void) -> Result<Stream, LaunchError> {
        Stream::register(Gpu::of(device, "a stream")?, raw.cast(), false)
    }

    fn register(gpu: &'static Gpu, raw: sys::CUstream, owned: bool) -> Result<Stream, LaunchError> {
        let entered = RawEvent::new(gpu, false).and_then(|mark| {
            let mut table = gpu.table();
            let free = table.slots.iter().position(Option::is_none);
            let slot = free.ok_or(DeviceError::TooManyStreams { index: gpu.index(), limit: MAX_STREAMS })?;
            table.slots[slot] = Some(Slot { raw, mark: Arc::new(mark), capturing: false });
            Ok(slot as u8)
        });
        let slot = entered.inspect_err(|_| {
            if owned {
                // SAFETY: the stream was just made and nobody else knows it. That it cannot be destroyed is no
                // news beside the error at hand.
                let _ = gpu.call("destroying a stream", || unsafe { result::stream::destroy(raw) });
            }
        })?;
        let (captured, capturing) = (Mutex::default(), AtomicBool::new(false));
        Ok(Stream(Arc::new(StreamInner { gpu, raw, slot, owned, captured, capturing })))
    }

    /// The device that it is of.
    pub fn device(&self) -> Device {
        Device(Inner::Cuda(self.0.gpu.index(), self.0.gpu))
    }

    /// Waits until everything asked of the stream is done.
    ///
    /// # Errors
    /// What went wrong in a kernel launched before.
    pub fn synchronize(&self) -> Result<(), LaunchError> {
        self.refuse_capture("waiting for a stream")?;
        // SAFETY: the stream lives as long as this value.
        self.gpu().call("waiting for a stream", || unsafe { result::stream::synchronize(self.raw()) })
    }

    /// Has what is asked of the stream from now on wait for an event, of this or another device.
    ///
    /// # Errors
    /// [`DeviceError::EventNotRecorded`] when there is nothing to wait for yet; when the stream is being captured.
    pub fn wait(&self, event: &Event) -> Result<(), LaunchError> {
        self.refuse_capture("waiting for an event")?;
        event.require_recorded()?;
        let wait = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: stream and event live as long as their values.
        let wait = || unsafe { result::stream::wait_event(self.raw(), event.raw(), wait) };
        self.gpu().call("having a stream wait", wait)
    }

    /// Records what `f` asks of this stream as a graph, instead of doing it. Launches, fills and copies between
    /// device memory can be captured; kernels are compiled and loaded as they are met.
    ///
    /// The graph keeps the memory it works on alive. A tensor over memory that the program lent without an owner
    /// has to outlive the graph's last replay.
    ///
    /// # Errors
    /// What `f` returns, [`DeviceError::Captured`] for something that cannot be captured.
    pub fn capture(&self, f: impl FnOnce(&Stream) -> Result<(), LaunchError>) -> Result<Graph, LaunchError> {
        Graph::capture(self, f)
    }

    /// The driver's handle, to hand to other libraries. Work that they put there is not known to tensors.
    pub fn as_raw(&self) -> *mut std::ffi::c_void {
        self.0.raw.cast()
    }

    pub(crate) fn gpu(&self) -> &'static Gpu {
        self.0.gpu
    }

    pub(super) fn raw(&self) -> sys::CUstream {
        self.0.raw
    }

    pub(super) fn slot(&self) -> u8 {
        self.0.slot
    }

    pub(super) fn is_capturing(&self) -> bool {
        self.0.capturing.load(Ordering::Acquire)
    }

    /// Refuses what cannot be part of a graph while one is captured.
    pub(super) fn refuse_capture(&self, what: &'static str) -> Result<(), LaunchError> {
        match self.is_capturing() {
            true => Err(DeviceError::Captured { index: self.gpu().index(), what }.into()),
            false => Ok(()),
        }
    }

    /// What the capture under way has collected.
    pub(super) fn captured(&self) -> MutexGuard<'_, Option<Captured>> {
        self.0.captured.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Tells others whether the stream is being captured.
    pub(super) fn set_capturing(&self, capturing: bool) {
        self.0.capturing.store(capturing, Ordering::Release);
        if let Some(slot) = &mut self.gpu().table().slots[usize::from(self.slot())] {
            slot.capturing = capturing;
        }
    }

    /// Marks the work before a capture, which stands for the stream while it is captured.
    pub(super) fn mark(&self) -> Result<(), LaunchError> {
        let table = self.gpu().table();
        let slot = table.slots[usize::from(self.slot())].as_ref().expect("an open stream has a slot");
        self.gpu().call("marking a stream", || slot.record())
    }
}

impl Drop for StreamInner {
    fn drop(&mut self) {
        // Errors mean that the device is lost, and its streams with it.
        // SAFETY: the stream is valid until it is destroyed below.
        let _ = self.gpu.call("waiting for a stream", || unsafe { result::stream::synchronize(self.raw) });
        let mut table = self.gpu.table();
        table.slots[usize::from(self.slot)] = None;
        if self.owned {
            // SAFETY: no value and no slot names the stream any more.
            let _ = self.gpu.call("destroying a stream", || unsafe { result::stream::destroy(self.raw) });
        }
    }
}

/// The streams of a device by slot.
pub(super) struct Table {
    slots: [Option<Slot>; MAX_STREAMS],
}

/// An open stream as others see it.
struct Slot {
    raw: sys::CUstream,
    /// Recorded anew for each wait; while the stream is captured, it stays at the work before.
    mark: Arc<RawEvent>,
    capturing: bool,
}

// SAFETY: the driver lets every thread use its handles.
unsafe impl Send for Slot {}

impl Slot {
    /// Moves the mark to the end of the stream.
    fn record(&self) -> Result<(), DriverError> {
        // SAFETY: stream and event are valid while they are in the table.
        unsafe { result::event::record(self.mark.raw(), self.raw) }
    }
}

impl Table {
    /// No streams.
    pub fn new() -> Table {
        Table { slots: [const { None }; MAX_STREAMS] }
    }

    /// The open ones among these streams; the work of closed ones is done.
    pub fn open(&self, set: Slots) -> Slots {
        slots(set).filter(|&slot| self.slots[slot].is_some()).fold(0, |set, slot| set | 1 << slot)
    }

    /// The stream of a slot, unless it is being captured.
    pub fn uncaptured(&self, slot: usize) -> Option<sys::CUstream> {
        self.slots[slot].as_ref().filter(|slot| !slot.capturing).map(|slot| slot.raw)
    }

    /// Has a stream wait for what these have been asked so far. The device is current.
    pub fn wait(&self, waiting: sys::CUstream, set: Slots) -> Result<(), DriverError> {
        for slot in slots(set).filter_map(|slot| self.slots[slot].as_ref()) {
            if !slot.capturing {
                slot.record()?;
            }
            let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
            // SAFETY: the caller's stream is valid, and the event while it is in the table.
            unsafe { result::stream::wait_event(waiting, slot.mark.raw(), flags) }?;
        }
        Ok(())
    }

    /// Events behind what these streams have been asked so far.
    fn marks(&self, gpu: &'static Gpu, set: Slots) -> Result<Vec<Arc<RawEvent>>, LaunchError> {
        let marks = slots(set).filter_map(|slot| self.slots[slot].as_ref()).map(|slot| {
            if slot.capturing {
                return Ok(slot.mark.clone());
            }
            let mark = RawEvent::new(gpu, false)?;
            // SAFETY: stream and event are valid here.
            let record = || unsafe { result::event::record(mark.raw(), slot.raw) };
            gpu.call("marking a stream", record)?;
            Ok(Arc::new(mark))
        });
        marks.collect()
    }
}

impl Gpu {
    /// Waits, on the host, for what these streams have been asked so far.
    pub(super) fn wait_for(&'static self, set: Slots) -> Result<(), LaunchError> {
        if set == 0 {
            return Ok(());
        }
        let marks = self.table().marks(self, set)?;
        marks.iter().try_for_each(|mark| {
            // SAFETY: the event lives as long as its value.
            self.call("waiting for the device", || unsafe { result::event::synchronize(mark.raw()) })
        })
    }

    /// Events behind what these streams have been asked so far.
    pub(super) fn marks(&'static self, set: Slots) -> Result<Vec<Arc<RawEvent>>, LaunchError> {
        self.table().marks(self, set)
    }

    /// Waits until everything asked of any stream is done.
    pub(crate) fn synchronize(&'static self) -> Result<(), LaunchError> {
        self.wait_for(Slots::MAX >> (Slots::BITS as usize - MAX_STREAMS))?;
        self.release_done();
        Ok(())
    }
}

/// The error of a stream of one device used for another.
pub(super) fn same_device(
    what: &'static str,
    found: &'static Gpu,
    expected: &'static Gpu,
) -> Result<(), LaunchError> {
    if std::ptr::eq(found, expected) {
        return Ok(());
    }
    Err(DeviceError::OtherDevice { what, found: found.index(), expected: expected.index() }.into())
}

/// For callers that only have the driver's error.
pub(super) fn stream_error(gpu: &Gpu, error: DriverError) -> LaunchError {
    driver_error(gpu.index(), "ordering streams", error)
}
