//! Graphs: a sequence of work, recorded once and replayed as a whole.

use super::Gpu;
use super::kernels::Loaded;
use super::memory::Allocation;
use super::order::{Access, Uses};
use super::stream::{Stream, same_device};
use crate::error::LaunchError;
use cudarc::driver::result;
use cudarc::driver::sys;
use indexmap::IndexMap;
use std::sync::Arc;

/// Recorded work of one stream, ready to be replayed.
///
/// Replays are ordered with everything else that uses the same tensors, as launches are. A graph's tensors stay
/// where they are and alive; what they hold is read at each replay. Two threads that use a graph's tensors at the same
/// time order their work themselves.
///
/// ```no_run
/// # use tile::{prelude::*, cuda::Stream};
/// # #[tile_kernel(tune(TILE in [64]))]
/// # pub fn step<const TILE: usize>(y: TensorMut<i32, 1>) {
/// #     let i = program_id(0);
/// #     y.store([i], y.load([i], [TILE]) + 1);
/// # }
/// let device = Device::cuda(0)?;
/// let stream = Stream::new(&device)?;
/// let mut y = TensorBuf::<i32, 1>::zeros([64]).to_device(&device)?;
/// let graph = stream.capture(|stream| (0..10).try_for_each(|_| step(&mut y).grid(1).launch_on(stream)))?;
/// graph.launch(&stream)?;
/// graph.launch(&stream)?;
/// assert_eq!(y.to_vec(), [20; 64]);
/// # Ok::<(), LaunchError>(())
/// ```
pub struct Graph {
    gpu: &'static Gpu,
    exec: sys::CUgraphExec,
    /// Each piece of memory once, with the strongest access.
    memory: Vec<(Arc<Allocation>, Access)>,
    _kernels: Vec<Arc<Loaded>>,
    replays: Uses,
}

// SAFETY: the driver lets every thread use its handles, and orders launches of one graph.
unsafe impl Send for Graph {}
// SAFETY: as above.
unsafe impl Sync for Graph {}

/// What a capture has met so far.
#[derive(Default)]
pub(super) struct Captured {
    pub memory: Vec<(Arc<Allocation>, Access)>,
    pub kernels: Vec<Arc<Loaded>>,
}

/// Ends the capture of a stream, also when the captured function panics.
struct Capture<'a>(&'a Stream);

impl Capture<'_> {
    /// The graph, and what it works on.
    fn end(&self) -> (Result<sys::CUgraph, LaunchError>, Captured) {
        let stream = self.0;
        let captured = stream.captured().take().unwrap_or_default();
        // SAFETY: the stream is being captured.
        let graph =
            stream.gpu().call("capturing a graph", || unsafe { result::stream::end_capture(stream.raw()) });
        stream.set_capturing(false);
        (graph, captured)
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        if self.0.is_capturing() {
            destroy(self.0.gpu(), self.end().0.unwrap_or(std::ptr::null_mut()));
        }
    }
}

fn destroy(gpu: &Gpu, graph: sys::CUgraph) {
    if !graph.is_null() {
        // A graph that cannot be destroyed is of a device that is lost.
        // SAFETY: the graph was captured and nobody else knows it.
        let _ = gpu.call("destroying a graph", || unsafe { result::graph::destroy(graph) });
    }
}

impl Graph {
    pub(super) fn capture(
        stream: &Stream,
        f: impl FnOnce(&Stream) -> Result<(), LaunchError>,
    ) -> Result<Graph, LaunchError> {
        stream.refuse_capture("a capture")?;
        let gpu = stream.gpu();
        stream.mark()?;
        *stream.captured() = Some(Captured::default());
        // Others keep to the mark from here on, and this stream's uses of memory go to the graph.
        stream.set_capturing(true);
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream lives as long as its value.
        let begun =
            gpu.call("capturing a graph", || unsafe { result::stream::begin_capture(stream.raw(), mode) });
        if let Err(error) = begun {
            stream.set_capturing(false);
            *stream.captured() = None;
            return Err(error);
        }
        let capture = Capture(stream);
        let asked = f(stream);
        let (graph, captured) = capture.end();
        let graph = match (asked, graph) {
            (Ok(()), graph) => graph?,
            (Err(error), graph) => {
                destroy(gpu, graph.unwrap_or(std::ptr::null_mut()));
                return Err(error);
            }
        };
        let flags = sys::CUgraphInstantiate_flags(0);
        // SAFETY: the graph was just captured.
        let exec = gpu.call("instantiating a graph", || unsafe { result::graph::instantiate(graph, flags) });
        destroy(gpu, graph);
        let exec = exec?;
        let memory = strongest(captured.memory);
        let mut kernels = captured.kernels;
        kernels.sort_by_key(Arc::as_ptr);
        kernels.dedup_by(|a, b| Arc::ptr_eq(a, b));
        Ok(Graph { gpu, exec, memory, _kernels: kernels, replays: Uses::none() })
    }

    /// Replays the recorded work in a stream of the same device.
    ///
    /// # Errors
    /// When the stream is of another device, or is being captured.
    pub fn launch(&self, stream: &Stream) -> Result<(), LaunchError> {
        same_device("a stream", stream.gpu(), self.gpu)?;
        stream.refuse_capture("the replay of a graph")?;
        for (memory, access) in &self.memory {
            memory.acquire(stream, *access)?;
        }
        if !self.replays.covers(stream.slot(), Access::Read) {
            let _table = self.gpu.table();
            self.replays.note(stream.slot(), Access::Read);
        }
        // SAFETY: the graph and the stream live as long as their values; the graph's memory and kernels are kept.
        let launch = || unsafe { result::graph::launch(self.exec, stream.raw()) };
        self.gpu.call("replaying a graph", launch)
    }
}

/// Each allocation once, to write when any use of it writes.
fn strongest(uses: Vec<(Arc<Allocation>, Access)>) -> Vec<(Arc<Allocation>, Access)> {
    let mut kept: IndexMap<*const Allocation, (Arc<Allocation>, Access)> = IndexMap::new();
    for (memory, access) in uses {
        let known = kept.entry(Arc::as_ptr(&memory)).or_insert((memory, access));
        if access == Access::Write {
            known.1 = access;
        }
    }
    kept.into_values().collect()
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "graph of cuda:{} over {} pieces of memory", self.gpu.index(), self.memory.len())
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // Errors mean that the device is lost.
        let _ = self.gpu.wait_for(self.replays.users());
        // SAFETY: no replay is under way, and nobody else has the graph.
        let _ = self.gpu.call("destroying a graph", || unsafe { result::graph::exec_destroy(self.exec) });
    }
}
