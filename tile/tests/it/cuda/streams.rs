//! Streams, events, and the order that tensors keep between streams.

use super::{gpu, step};
use tile::cuda::{DeviceTensor, Event, Stream};
use tile::dynamic::{DynArg, DynTensor, ScalarValue};
use tile::prelude::*;
use tile::{Bindings, DType};

/// y = x, after `spin` useless rounds, so that other streams have time to come first.
#[tile_kernel(tune(TILE in [64]))]
pub fn slow_copy<const TILE: usize>(x: Tensor<i32, 1>, y: TensorMut<i32, 1>, spin: usize) {
    let i = program_id(0);
    let mut drift = zeros::<f32>([TILE]);
    for _ in 0..spin {
        drift = drift * 0.5 + 1.0;
    }
    // The rounds come close to 2: always the tile itself.
    let tile = select(drift.gt(3.0), zeros::<i32>([TILE]), x.load([i], [TILE]));
    y.store([i], tile);
}

#[test]
fn streams_take_turns_over_one_tensor() {
    let Some(device) = gpu("streams_take_turns_over_one_tensor") else { return };
    let streams = [0; 3].map(|_| Stream::new(&device).unwrap());
    let mut y = TensorBuf::<i32, 1>::zeros_on(&device, [1000]).unwrap();
    for i in 0..300 {
        step(&mut y).grid(16).launch_on(&streams[i % 3]).unwrap();
    }
    // Through the default stream.
    step(&mut y).grid(16).launch(&device).unwrap();
    assert_eq!(y.to_vec(), [301; 1000]);
}

#[test]
fn a_reader_waits_for_the_writer_and_a_writer_for_the_readers() {
    let Some(device) = gpu("a_reader_waits_for_the_writer_and_a_writer_for_the_readers") else { return };
    let (first, second) = (Stream::new(&device).unwrap(), Stream::new(&device).unwrap());
    for round in 0..10 {
        let mut x = TensorBuf::full([64], round).to_device(&device).unwrap();
        let mut y = TensorBuf::<i32, 1>::zeros_on(&device, [64]).unwrap();
        let mut z = TensorBuf::<i32, 1>::zeros_on(&device, [64]).unwrap();
        slow_copy(&x, &mut y, 200_000).grid(1).launch_on(&first).unwrap();
        // Reads what the other stream still writes.
        slow_copy(&y, &mut z, 0).grid(1).launch_on(&second).unwrap();
        // Writes what the first stream may still read.
        step(&mut x).grid(1).launch_on(&second).unwrap();
        assert_eq!((y.to_vec(), z.to_vec()), (vec![round; 64], vec![round; 64]));
        assert_eq!(x.to_vec(), [round + 1; 64]);
    }
}

#[test]
fn memory_outlives_the_work_on_it() {
    let Some(device) = gpu("memory_outlives_the_work_on_it") else { return };
    let (first, second) = (Stream::new(&device).unwrap(), Stream::new(&device).unwrap());
    for round in 0..20 {
        let mut y = TensorBuf::<i32, 1>::zeros_on(&device, [64]).unwrap();
        {
            let x = TensorBuf::full([64], round).to_device(&device).unwrap();
            slow_copy(&x, &mut y, 200_000).grid(1).launch_on(&first).unwrap();
            let mut other = TensorBuf::<i32, 1>::zeros_on(&device, [64]).unwrap();
            slow_copy(&x, &mut other, 1).grid(1).launch_on(&second).unwrap();
        }
        // Memory of the same size as what was just let go of, written at once.
        let junk = TensorBuf::full([64], -1).to_device(&device).unwrap();
        assert_eq!(y.to_vec(), [round; 64]);
        drop(junk);
    }
}

#[test]
fn a_dropped_stream_finishes_its_work() {
    let Some(device) = gpu("a_dropped_stream_finishes_its_work") else { return };
    let x = TensorBuf::full([64], 7).to_device(&device).unwrap();
    let mut y = TensorBuf::<i32, 1>::zeros_on(&device, [64]).unwrap();
    slow_copy(&x, &mut y, 200_000).grid(1).launch_on(&Stream::new(&device).unwrap()).unwrap();
    assert_eq!(y.to_vec(), [7; 64]);
}

#[test]
fn events_order_streams_and_tell_the_time() {
    let Some(device) = gpu("events_order_streams_and_tell_the_time") else { return };
    let (first, second) = (Stream::new(&device).unwrap(), Stream::new(&device).unwrap());
    let event = || Event::new(&device).unwrap();
    let (start, middle, end) = (event(), event(), event());
    assert!(start.is_done().unwrap_err().to_string().contains("was not recorded"));
    assert!(second.wait(&start).unwrap_err().to_string().contains("was not recorded"));
    let x = TensorBuf::full([64], 7).to_device(&device).unwrap();
    let mut y = TensorBuf::<i32, 1>::zeros_on(&device, [64]).unwrap();
    slow_copy(&x, &mut y, 1).grid(1).launch_on(&first).unwrap();
    start.record(&first).unwrap();
    slow_copy(&x, &mut y, 500_000).grid(1).launch_on(&first).unwrap();
    middle.record(&first).unwrap();
    second.wait(&middle).unwrap();
    end.record(&second).unwrap();
    end.synchronize().unwrap();
    assert!(start.is_done().unwrap() && middle.is_done().unwrap());
    let (to_middle, to_end) = (start.elapsed_ms(&middle).unwrap(), start.elapsed_ms(&end).unwrap());
    assert!(to_middle > 0.1 && to_end >= to_middle, "{to_middle} ms, {to_end} ms");
}

#[test]
fn a_prepared_launch_repeats_over_resident_tensors() {
    let Some(device) = gpu("a_prepared_launch_repeats_over_resident_tensors") else { return };
    let (stream, other) = (Stream::new(&device).unwrap(), Stream::new(&device).unwrap());
    let values: Vec<f64> = (0..64).map(f64::from).collect();
    let x = DynTensor::from_f64(DType::I32, &[64], &values);
    let x = DeviceTensor::from_host(&device, &x).unwrap();
    let mut y = DeviceTensor::new(&device, DType::I32, &[64]).unwrap();
    y.buffer_mut().fill(0xff, &stream).unwrap();
    let (config, bindings) = (slow_copy::KERNEL.default_config(), Bindings::default());
    let args = &mut [DynArg::Device(&x), DynArg::DeviceMut(&mut y), DynArg::Scalar(ScalarValue::Index(3))];
    let prepared = slow_copy::KERNEL.prepare(&device, args, &config, &bindings, [1, 1, 1]).unwrap();
    let resources = prepared.resources().unwrap();
    assert!(resources.registers > 0 && resources.threads == 128, "{resources:?}");
    for _ in 0..10 {
        prepared.launch(&stream).unwrap();
        prepared.launch(&other).unwrap();
    }
    assert_eq!(y.to_host().unwrap().to_f64(), values);
    // The memory stays as long as the launch is prepared.
    drop((x, y));
    prepared.launch(&stream).unwrap();
    stream.synchronize().unwrap();
    let mut typed = TensorBuf::<i32, 1>::zeros_on(&device, [100]).unwrap();
    let prepared = step(&mut typed).grid(2).prepare(&device).unwrap();
    (0..5).for_each(|_| prepared.launch(&stream).unwrap());
    assert_eq!(typed.to_vec(), [5; 100]);
}

#[test]
fn an_input_is_not_stored_to() {
    let Some(device) = gpu("an_input_is_not_stored_to") else { return };
    let x = DeviceTensor::new(&device, DType::I32, &[64]).unwrap();
    let (config, bindings) = (step::KERNEL.default_config(), Bindings::default());
    let args = &mut [DynArg::Device(&x)];
    let stream = device.default_stream().unwrap();
    let error = step::KERNEL.launch_on(stream, args, &config, &bindings, [1, 1, 1]).unwrap_err();
    assert_eq!(error.to_string(), "kernel `step`: `y` is stored to, but was given for reading only");
}

#[test]
fn threads_launch_in_streams_of_their_own() {
    let Some(device) = gpu("threads_launch_in_streams_of_their_own") else { return };
    let x = TensorBuf::from_fn([64], |[i]| i as i32).to_device(&device).unwrap();
    let expected = x.to_vec();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let stream = Stream::new(&device).unwrap();
                for round in 0..30 {
                    let mut y = TensorBuf::<i32, 1>::zeros_on(&device, [64]).unwrap();
                    let mut z = TensorBuf::<i32, 1>::zeros_on(&device, [64]).unwrap();
                    slow_copy(&x, &mut y, round).grid(1).launch_on(&stream).unwrap();
                    slow_copy(&y, &mut z, 1).grid(1).launch(&device).unwrap();
                    assert_eq!(z.to_vec(), expected);
                }
            });
        }
    });
}
