//! Events: marks in a stream, to wait for and to measure time between.

use super::Gpu;
use super::stream::{Stream, same_device};
use crate::device::Device;
use crate::error::{DeviceError, LaunchError};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use std::sync::atomic::{AtomicBool, Ordering};

/// The driver's event.
pub(super) struct RawEvent {
    gpu: &'static Gpu,
    raw: sys::CUevent,
}

// SAFETY: the driver lets every thread use its handles.
unsafe impl Send for RawEvent {}
// SAFETY: as above.
unsafe impl Sync for RawEvent {}

impl RawEvent {
    /// An event that nothing was recorded in; `timing` has it keep the time.
    pub fn new(gpu: &'static Gpu, timing: bool) -> Result<RawEvent, LaunchError> {
        let flags = match timing {
            true => sys::CUevent_flags::CU_EVENT_DEFAULT,
            false => sys::CUevent_flags::CU_EVENT_DISABLE_TIMING,
        };
        gpu.call("making an event", || result::event::create(flags)).map(|raw| RawEvent { gpu, raw })
    }

    pub fn raw(&self) -> sys::CUevent {
        self.raw
    }

    /// Whether what was recorded is done. A failed device counts as done.
    pub fn is_done(&self) -> bool {
        // SAFETY: the event lives as long as this value.
        let query =
            self.gpu.context().bind_to_thread().and_then(|()| unsafe { result::event::query(self.raw) });
        query != Err(DriverError(sys::cudaError_enum::CUDA_ERROR_NOT_READY))
    }
}

impl Drop for RawEvent {
    fn drop(&mut self) {
        // SAFETY: nobody else has the event; the driver keeps it as long as it needs it.
        let _ = self.gpu.call("destroying an event", || unsafe { result::event::destroy(self.raw) });
    }
}

/// A mark in a stream.
///
/// ```no_run
/// # use tile::{Device, cuda::{Event, Stream}};
/// let device = Device::cuda(0)?;
/// let stream = Stream::new(&device)?;
/// let (start, end) = (Event::new(&device)?, Event::new(&device)?);
/// start.record(&stream)?;
/// // Launches on the stream.
/// end.record(&stream)?;
/// end.synchronize()?;
/// println!("{} ms", start.elapsed_ms(&end)?);
/// # Ok::<(), tile::LaunchError>(())
/// ```
pub struct Event {
    event: RawEvent,
    recorded: AtomicBool,
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let recorded = if self.recorded.load(Ordering::Acquire) { "recorded" } else { "not recorded" };
        write!(f, "event of cuda:{}, {recorded}", self.event.gpu.index())
    }
}

impl Event {
    /// An event of a GPU, not recorded yet.
    ///
    /// # Errors
    /// [`DeviceError::NotAGpu`] on the CPU device.
    pub fn new(device: &Device) -> Result<Event, LaunchError> {
        let event = RawEvent::new(Gpu::of(device, "an event")?, true)?;
        Ok(Event { event, recorded: AtomicBool::new(false) })
    }

    /// Marks the end of what the stream has been asked so far; a mark set before is forgotten.
    ///
    /// # Errors
    /// [`DeviceError::OtherDevice`] for a stream of another device; when the stream is being captured.
    pub fn record(&self, stream: &Stream) -> Result<(), LaunchError> {
        same_device("a stream", stream.gpu(), self.event.gpu)?;
        stream.refuse_capture("recording an event")?;
        // SAFETY: event and stream live as long as their values.
        let record = || unsafe { result::event::record(self.event.raw, stream.raw()) };
        self.event.gpu.call("recording an event", record)?;
        self.recorded.store(true, Ordering::Release);
        Ok(())
    }

    /// Waits until the work before the mark is done.
    ///
    /// # Errors
    /// [`DeviceError::EventNotRecorded`]; what went wrong in a kernel before the mark.
    pub fn synchronize(&self) -> Result<(), LaunchError> {
        self.require_recorded()?;
        // SAFETY: the event lives as long as this value.
        let wait = || unsafe { result::event::synchronize(self.event.raw) };
        self.event.gpu.call("waiting for an event", wait)
    }

    /// True when the work before the mark is done, or failed.
    ///
    /// # Errors
    /// [`DeviceError::EventNotRecorded`].
    pub fn is_done(&self) -> Result<bool, LaunchError> {
        self.require_recorded()?;
        Ok(self.event.is_done())
    }

    /// Milliseconds from this mark to a later one, waited for. The driver resolves about half a microsecond.
    ///
    /// # Errors
    /// [`DeviceError::EventNotRecorded`], [`DeviceError::OtherDevice`]; what went wrong in a kernel before.
    pub fn elapsed_ms(&self, later: &Event) -> Result<f32, LaunchError> {
        same_device("an event", later.event.gpu, self.event.gpu)?;
        self.synchronize()?;
        later.synchronize()?;
        // SAFETY: both events keep the time, and live as long as their values.
        let elapsed = || unsafe { result::event::elapsed(self.event.raw, later.event.raw) };
        self.event.gpu.call("reading events", elapsed)
    }

    pub(super) fn raw(&self) -> sys::CUevent {
        self.event.raw
    }

    /// Refuses an event without a mark.
    pub(super) fn require_recorded(&self) -> Result<(), LaunchError> {
        match self.recorded.load(Ordering::Acquire) {
            true => Ok(()),
            false => Err(DeviceError::EventNotRecorded { index: self.event.gpu.index() }.into()),
        }
    }
}
