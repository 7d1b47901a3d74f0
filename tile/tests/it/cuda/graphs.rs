//! Graphs: recorded once, replayed in order with everything else.

use super::streams::slow_copy;
use super::{gpu, step};
use crate::matmul::{matmul, noise};
use tile::cuda::{DeviceBuffer, Event, Stream};
use tile::prelude::*;

#[test]
fn a_graph_of_mixed_kernels_replays() {
    let Some(device) = gpu("a_graph_of_mixed_kernels_replays") else { return };
    let stream = Stream::new(&device).unwrap();
    let a = TensorBuf::from_fn([48, 32], |[i, j]| f16::from_f64(noise(1, i * 32 + j)));
    let b = TensorBuf::from_fn([40, 32], |[i, j]| f16::from_f64(noise(2, i * 32 + j)));
    let (on_a, on_b) = (a.to_device(&device).unwrap(), b.to_device(&device).unwrap());
    let mut c = TensorBuf::<f16, 2>::zeros_on(&device, [48, 40]).unwrap();
    let mut counts = TensorBuf::<i32, 1>::zeros_on(&device, [64]).unwrap();
    let mut copied = TensorBuf::<i32, 1>::zeros_on(&device, [64]).unwrap();
    let config = matmul::Config { tile_m: 16, tile_n: 16, tile_k: 16, ..Default::default() };
    // Nothing of this was compiled before: kernels are loaded while the stream is captured.
    let graph = stream.capture(|stream| {
        matmul(&on_a, &on_b, &mut c).grid([3, 3]).config(config).launch_on(stream)?;
        step(&mut counts).grid(1).launch_on(stream)?;
        step(&mut counts).grid(1).launch_on(stream)?;
        slow_copy(&counts, &mut copied, 10).grid(1).launch_on(stream)
    });
    let graph = graph.unwrap();
    assert_eq!(counts.to_vec(), [0; 64], "a capture runs nothing");
    for replay in 1..=5 {
        graph.launch(&stream).unwrap();
        // Another stream's launch between two replays keeps its place.
        step(&mut counts).grid(1).launch(&device).unwrap();
        assert_eq!(copied.to_vec(), [3 * replay - 1; 64]);
    }
    let mut expected = TensorBuf::<f16, 2>::zeros([48, 40]);
    matmul(&a, &b, &mut expected).grid([3, 3]).config(config).launch(&Device::cpu()).unwrap();
    for (x, y) in c.to_vec().into_iter().zip(expected.to_vec()) {
        assert!((x.to_f64() - y.to_f64()).abs() <= 2e-2, "{x} {y}");
    }
}

#[test]
fn a_graph_keeps_its_tensors() {
    let Some(device) = gpu("a_graph_keeps_its_tensors") else { return };
    let stream = Stream::new(&device).unwrap();
    let mut y = TensorBuf::<i32, 1>::zeros_on(&device, [64]).unwrap();
    let graph = {
        let x = TensorBuf::full([64], 9).to_device(&device).unwrap();
        stream.capture(|stream| slow_copy(&x, &mut y, 100).grid(1).launch_on(stream)).unwrap()
    };
    let junk = TensorBuf::full([64], -1).to_device(&device).unwrap();
    let other = Stream::new(&device).unwrap();
    graph.launch(&other).unwrap();
    assert_eq!(y.to_vec(), [9; 64]);
    drop((graph, junk));
}

#[test]
fn fills_and_copies_are_captured() {
    let Some(device) = gpu("fills_and_copies_are_captured") else { return };
    let stream = Stream::new(&device).unwrap();
    let mut first = DeviceBuffer::from_slice(&device, &[1u8; 256]).unwrap();
    let mut second = DeviceBuffer::from_slice(&device, &[2u8; 256]).unwrap();
    let graph = stream.capture(|stream| {
        second.copy_from(&first, stream)?;
        first.fill(7, stream)
    });
    let graph = graph.unwrap();
    let read = |buffer: &DeviceBuffer| {
        let mut bytes = [0u8; 256];
        buffer.download(&mut bytes).unwrap();
        bytes[255]
    };
    assert_eq!((read(&first), read(&second)), (1, 2));
    graph.launch(&stream).unwrap();
    assert_eq!((read(&first), read(&second)), (7, 1));
    graph.launch(&stream).unwrap();
    assert_eq!((read(&first), read(&second)), (7, 7));
}

#[test]
fn what_cannot_be_captured_is_refused_and_the_stream_goes_on() {
    let Some(device) = gpu("what_cannot_be_captured_is_refused_and_the_stream_goes_on") else { return };
    let stream = Stream::new(&device).unwrap();
    let event = Event::new(&device).unwrap();
    let mut y = TensorBuf::<i32, 1>::zeros_on(&device, [64]).unwrap();
    let error = stream.capture(|stream| stream.synchronize()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cuda:0: waiting for a stream cannot be part of a graph; do it before or after the capture"
    );
    let error = stream.capture(|stream| event.record(stream)).unwrap_err();
    assert!(error.to_string().contains("recording an event cannot"), "{error}");
    let error = stream.capture(|stream| stream.capture(|_| Ok(())).map(drop)).unwrap_err();
    assert!(error.to_string().contains("a capture cannot"), "{error}");
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = stream.capture(|_| panic!("in the middle of a capture"));
    }));
    assert!(panicked.is_err());
    // Other streams work while one is captured.
    let graph = stream.capture(|stream| {
        step(&mut y).grid(1).launch(&device)?;
        assert_eq!(y.to_vec(), [1; 64]);
        step(&mut y).grid(1).launch_on(stream)
    });
    graph.unwrap().launch(&stream).unwrap();
    assert_eq!(y.to_vec(), [2; 64]);
}
