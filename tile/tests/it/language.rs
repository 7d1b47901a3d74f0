//! Control flow, helpers, const parameters, dtype parameters and views, each against plain Rust.

use crate::matmul::noise;
use tile::prelude::*;

fn vector(len: usize, seed: usize) -> TensorBuf<f32, 1> {
    TensorBuf::from_fn([len], |[i]| noise(seed, i) as f32)
}

/// Softmax of each row, whatever its length, in blocks of TILE columns.
#[tile_kernel(tune(TILE in [16]))]
fn softmax<T: Float, const TILE: usize>(x: Tensor<T, 2>, y: TensorMut<T, 2>) {
    let row = program_id(0);
    let blocks = cdiv(x.dim(1), TILE);
    let mut largest = full::<f32>([1, 1], f32::NEG_INFINITY);
    let mut sum = zeros::<f32>([1, 1]);
    for j in 0..blocks {
        let (values, _) = masked_block::<T, TILE>(x, row, j);
        let best = maximum(largest, values.reduce_max(1));
        sum = sum * (largest - best).exp() + (values - best).exp().reduce_sum(1);
        largest = best;
    }
    for j in 0..blocks {
        let (values, _) = masked_block::<T, TILE>(x, row, j);
        y.store([row, j], ((values - largest).exp() / sum).cast::<T>());
    }
}

/// A block of a row in f32, minus infinity beyond its end, and which columns are inside.
#[tile_fn]
fn masked_block<T: Float, const TILE: usize>(
    x: Tensor<T, 2>,
    row: usize,
    j: usize,
) -> (Tile<f32>, Tile<bool>) {
    let cols = iota(TILE).expand_dims(0) + (j * TILE) as i32;
    let inside = cols.lt(x.dim(1) as i32);
    (select(inside, x.load([row, j], [1, TILE]).cast::<f32>(), f32::NEG_INFINITY), inside)
}

#[test]
fn loops_helpers_and_masks() {
    for (rows, cols) in [(3, 16), (5, 37), (1, 1), (2, 100)] {
        let x = TensorBuf::from_fn([rows, cols], |[i, j]| noise(3, i * cols + j) as f32 * 4.0);
        let mut y = TensorBuf::zeros([rows, cols]);
        softmax(&x, &mut y).grid([rows]).launch(&Device::cpu()).unwrap();
        for i in 0..rows {
            let weights: Vec<f64> = (0..cols).map(|j| f64::from(x.get([i, j])).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for (j, w) in weights.iter().enumerate() {
                assert!((f64::from(y.get([i, j])) - w / sum).abs() < 1e-6, "{rows}x{cols} at {i},{j}");
            }
        }
    }
}

/// Collatz-like counting: a while loop with a scalar condition, if with and without a value, shadowing.
#[tile_kernel]
fn steps<const TILE: usize, const DOUBLE: bool>(y: TensorMut<i32, 1>, start: usize, scale: i32) {
    let i = program_id(0);
    let mut n = start + i;
    let mut count = 0;
    let mut tile = zeros::<i32>([TILE]);
    while n != 1 && count < 1000 {
        let odd = n % 2 == 1;
        n = if odd { 3 * n + 1 } else { n / 2 };
        if odd {
            tile += 1;
        }
        count += 1;
    }
    let tile = if DOUBLE { tile * 2 } else { tile };
    y.store([i], tile * scale + count);
}

#[test]
fn while_loops_branches_and_switches() {
    let mut y = TensorBuf::<i32, 1>::zeros([40]);
    let config = steps::Config { tile: 4, double: true, ..Default::default() };
    steps(&mut y, 1, 100).grid([10]).config(config).launch(&Device::cpu()).unwrap();
    for program in 0..10usize {
        let (mut n, mut count, mut odd) = (1 + program, 0, 0);
        while n != 1 {
            odd += (n % 2) as i32;
            n = if n % 2 == 1 { 3 * n + 1 } else { n / 2 };
            count += 1;
        }
        for lane in 0..4 {
            assert_eq!(y.get([4 * program + lane]), 200 * odd + count, "program {program}");
        }
    }
}

/// y[i] = x[table[i]], and 0 where the mask or the bounds say so; z is the inverse.
#[tile_kernel(tune(TILE in [8]))]
fn permute<T: Element, const TILE: usize>(
    table: Tensor<i32, 1>,
    x: Tensor<T, 1>,
    y: TensorMut<T, 1>,
    z: TensorMut<T, 1>,
) {
    let i = program_id(0);
    let at = table.load([i], [TILE]);
    let lane = iota(TILE) + (i * TILE) as i32;
    let inside = lane.lt(table.dim(0) as i32);
    y.store([i], x.gather_masked([at], inside & at.ne(3)));
    z.scatter_masked([at], x.gather([lane]), inside);
}

fn permuted<T: Element>(make: impl Fn(usize) -> T) {
    let n = 21;
    let table = TensorBuf::from_fn([n], |[i]| ((i * 8 + 5) % n) as i32);
    let x = TensorBuf::from_fn([n], |[i]| make(i));
    let (mut y, mut z) = (TensorBuf::zeros([n]), TensorBuf::zeros([n]));
    let launch = permute(&table, &x, &mut y, &mut z).grid([3]);
    launch.check_races(true).launch(&Device::cpu()).unwrap();
    for i in 0..n {
        let at = table.get([i]) as usize;
        let expected = if at == 3 { T::default() } else { x.get([at]) };
        assert_eq!(y.get([i]), expected, "{} gather {i}", T::DTYPE);
        assert_eq!(z.get([at]), x.get([i]), "{} scatter {i}", T::DTYPE);
    }
}

#[test]
fn gather_and_scatter_move_every_dtype() {
    permuted::<f32>(|i| i as f32 + 0.5);
    permuted::<f16>(|i| f16::from_f32(i as f32));
    permuted::<bf16>(|i| bf16::from_f32(i as f32));
    permuted::<i32>(|i| i as i32 - 4);
    permuted::<bool>(|i| i % 3 == 0);
    permuted::<F8E4M3FN>(|i| F8E4M3FN::from_f32(i as f32));
    permuted::<F4E2M1FN>(|i| F4E2M1FN::from_bits(i as u8));
}

/// A transposed copy, with a loop in steps.
#[tile_kernel(tune(TILE in [4]))]
fn transposed<const TILE: usize>(x: Tensor<f32, 2>, y: TensorMut<f32, 2>) {
    let i = program_id(0);
    for start in (0..x.dim(1)).step_by(TILE) {
        let j = start / TILE;
        y.store([j, i], x.load([i, j], [TILE, TILE]).t());
    }
}

#[test]
fn strided_tensors_read_and_write_through() {
    let x = TensorBuf::from_fn([7, 10], |[i, j]| (10 * i + j) as f32);
    let mut y = TensorBuf::zeros([10, 7]);
    transposed(&x, &mut y).grid([2]).launch(&Device::cpu()).unwrap();
    assert_eq!(y, x.clone().transpose());
    // Both sides in the other order: a plain copy.
    let mut z = TensorBuf::zeros([10, 7]).transpose();
    transposed(&x.clone().transpose(), &mut z).grid([3]).launch(&Device::cpu()).unwrap();
    assert_eq!(z, x);
    assert!(z.as_slice().is_none() && x.as_slice().is_some());
}

/// Doubles a tensor of three dimensions block by block.
#[tile_kernel(tune(TILE in [4], COLS in [8]))]
fn doubled<T: Float, const TILE: usize, const COLS: usize>(x: Tensor<T, 3>, y: TensorMut<T, 3>) {
    let (i, j) = (program_id(0), program_id(1));
    for k in 0..cdiv(x.dim(2), COLS) {
        let block = x.load([i, j, k], [2, TILE, COLS]);
        y.store([i, j, k], block + block);
    }
}

/// Every order of three dimensions, on both sides, with edges that no tile divides.
fn doubled_in_every_order<T: Float>() {
    const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let shape = [3, 9, 13];
    // A tensor of `shape` whose memory is in the given order.
    let ordered = |order: [usize; 3], value: &dyn Fn([usize; 3]) -> T| {
        let stored = TensorBuf::from_fn(order.map(|axis| shape[axis]), |at| {
            let mut coords = [0; 3];
            (0..3).for_each(|i| coords[order[i]] = at[i]);
            value(coords)
        });
        let back = [0, 1, 2].map(|axis| order.iter().position(|&o| o == axis).unwrap());
        stored.permute(back).unwrap()
    };
    let value = |[i, j, k]: [usize; 3]| T::from_f64(noise(5, (i * 9 + j) * 13 + k));
    for order in ORDERS {
        let x = ordered(order, &value);
        assert_eq!(x.shape(), shape);
        let other = ORDERS[(order[0] * 2 + order[1]) % 6];
        let mut y = ordered(other, &|_| T::from_f64(9.0));
        doubled(&x, &mut y).grid([2, 3]).launch(&Device::cpu()).unwrap();
        let expected = TensorBuf::from_fn(shape, |at| T::from_f64(2.0 * value(at).to_f64()));
        assert_eq!(y, expected, "{order:?} to {other:?}");
    }
}

#[test]
fn every_order_of_dimensions_loads_and_stores() {
    doubled_in_every_order::<f32>();
    doubled_in_every_order::<bf16>();
}

/// What a loop carries: an alias, a swap, and a name that the body shadows.
#[tile_kernel(tune(TILE in [4]))]
fn carried<const TILE: usize>(x: Tensor<f32, 1>, y: TensorMut<f32, 1>) {
    let one = x.load([0], [TILE]);
    let mut a = one;
    let mut b = one + 1.0;
    let mut last = a;
    for i in 0..6 {
        let next = a + b;
        (a, b) = (b, next);
        last = b;
        for _ in 0..2 {
            last *= 1.0;
        }
        let a = last + i as f32;
        let mut last = a;
        last += 100.0;
        let _ = last;
    }
    y.store([0], a);
    y.store([1], b);
    y.store([2], last);
}

#[test]
fn loops_release_what_they_do_not_carry_and_keep_the_rest() {
    let x = TensorBuf::from_vec([4], vec![1.0, 2.0, 3.0, 4.0]).unwrap();
    let mut y = TensorBuf::zeros([12]);
    carried(&x, &mut y).grid(1).launch(&Device::cpu()).unwrap();
    for lane in 0..4 {
        let (mut a, mut b) = (x.get([lane]), x.get([lane]) + 1.0);
        for _ in 0..6 {
            (a, b) = (b, a + b);
        }
        assert_eq!([y.get([lane]), y.get([4 + lane]), y.get([8 + lane])], [a, b, b]);
    }
}

/// Parameters with the names that an expansion might use itself.
#[tile_kernel(tune(TILE in [4]))]
fn named<T: Float, const TILE: usize>(call: Tensor<T, 1>, device: TensorMut<T, 1>, args: usize, config: f32) {
    let i = program_id(0);
    device.store([i], call.load([i], [TILE]) * (args as f32 * config));
}

#[test]
fn parameters_may_have_any_name() {
    let x = vector(6, 1);
    let mut y = vector(6, 2);
    let config = named::tuned(&Device::cpu(), &x).unwrap();
    named(&x, &mut y, 3, 0.5).grid(2).config(config).launch(&Device::cpu()).unwrap();
    assert!((0..6).all(|i| y.get([i]) == 1.5 * x.get([i])));
}

#[test]
fn a_kernel_may_be_defined_inside_a_function() {
    #[tile_kernel(tune(TILE in [8]))]
    fn double<const TILE: usize>(x: Tensor<f32, 1>, y: TensorMut<f32, 1>) {
        #[allow(clippy::let_and_return)]
        let i = program_id(0);
        y.store([i], 2.0 * x.load([i], [TILE]));
    }
    let x = vector(13, 1);
    let mut y = vector(13, 2);
    double(&x, &mut y).grid(2).launch(&Device::cpu()).unwrap();
    assert!((0..13).all(|i| y.get([i]) == 2.0 * x.get([i])));
}
