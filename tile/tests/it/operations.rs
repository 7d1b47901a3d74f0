//! Tile operations by themselves: outside a kernel a tile works the same.

use tile::prelude::*;

fn row(values: [f32; 4]) -> Tile<f32> {
    Tile::from_slice(&values, [1, 4])
}

fn column(values: [f32; 2]) -> Tile<f32> {
    Tile::from_slice(&values, [2, 1])
}

#[test]
fn operators_broadcast_as_numpy_does() {
    let (x, y) = (row([1.0, 2.0, 3.0, 4.0]), column([10.0, 20.0]));
    let sum = x + y;
    assert_eq!(sum.shape(), [2, 4]);
    assert_eq!(sum.to_vec(), [11.0, 12.0, 13.0, 14.0, 21.0, 22.0, 23.0, 24.0]);
    assert_eq!((y - x).to_vec(), [9.0, 8.0, 7.0, 6.0, 19.0, 18.0, 17.0, 16.0]);
    assert_eq!((sum * y).to_vec()[4..], [420.0, 440.0, 460.0, 480.0]);
    let vector = Tile::from_slice(&[1.0f32, 2.0, 3.0, 4.0], [4]);
    assert_eq!((vector + sum).to_vec()[..4], [12.0, 14.0, 16.0, 18.0]);
    assert_eq!((1.0 - vector).to_vec(), [0.0, -1.0, -2.0, -3.0]);
    assert_eq!((vector / 2.0 % 1.0).to_vec(), [0.5, 0.0, 0.5, 0.0]);
    let mut counter = iota(4);
    counter += 1;
    counter *= counter;
    assert_eq!((-counter).to_vec(), [-1, -4, -9, -16]);
    assert_eq!((7 / counter).to_vec(), [7, 1, 0, 0]);
    assert_eq!((counter & 12 | 1 ^ counter).to_vec(), [0, 5, 8, 17]);
}

#[test]
fn higher_ranks_broadcast_and_move() {
    let x = iota(8).reshape([2, 1, 4]);
    let y = (iota(2) * 100).reshape([2, 1]);
    let sum = x + y;
    assert_eq!(sum.shape(), [2, 2, 4]);
    assert_eq!(sum.to_vec(), [0, 1, 2, 3, 100, 101, 102, 103, 4, 5, 6, 7, 104, 105, 106, 107]);
    let moved = sum.permute([2, 0, 1]);
    assert_eq!(moved.shape(), [4, 2, 2]);
    assert_eq!(moved.to_vec()[..8], [0, 100, 4, 104, 1, 101, 5, 105]);
    assert_eq!(y.squeeze(1).to_vec(), [0, 100]);
    assert_eq!(y.broadcast_to([2, 4]).to_vec(), [0, 0, 0, 0, 100, 100, 100, 100]);
    assert_eq!(iota(2).expand_dims(1).expand_dims(0).shape(), [1, 2, 1]);
    assert_eq!(iota(4).reshape([2, 2]).t().to_vec(), [0, 2, 1, 3]);
}

#[test]
fn reductions_keep_the_dimension() {
    let x = Tile::from_slice(&(0..64).map(|i| (i * 7 % 13) as f32).collect::<Vec<_>>(), [4, 16]);
    let values = x.to_vec();
    let sums = x.reduce_sum(1);
    assert_eq!(sums.shape(), [4, 1]);
    for (i, chunk) in values.chunks(16).enumerate() {
        assert_eq!(sums.to_vec()[i], chunk.iter().sum::<f32>());
        assert_eq!(x.reduce_max(1).to_vec()[i], chunk.iter().copied().fold(f32::MIN, f32::max));
    }
    for j in 0..16 {
        let column = || (0..4).map(|i| values[16 * i + j]);
        assert_eq!(x.reduce_sum(0).to_vec()[j], column().sum::<f32>());
        assert_eq!(x.reduce_min(0).to_vec()[j], column().fold(f32::MAX, f32::min));
    }
    // 1 + 2048 times 2^-11 in f16: every partial sum would round back to 1 if it were kept in f16.
    let mut small = vec![f16::from_f32(0.5f32.powi(11)); 2048];
    small[0] = f16::ONE;
    let sum = Tile::from_slice(&small, [2048]).reduce_sum(0).to_vec()[0];
    assert_eq!(sum.to_f32(), 2.0);
}

#[test]
fn nan_wins_and_zeros_are_ordered() {
    let x = Tile::from_slice(&[1.0, f32::NAN, 0.0, -0.0], [4]);
    let y = Tile::from_slice(&[f32::NAN, 1.0, -0.0, 0.0], [4]);
    let bits = |tile: Tile<f32>| tile.to_vec().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    for tile in [maximum(x, y), minimum(x, y)] {
        assert!(tile.to_vec()[..2].iter().all(|v| v.is_nan()));
    }
    assert_eq!(bits(maximum(x, y))[2..], [0, 0]);
    assert_eq!(bits(minimum(x, y))[2..], [1 << 31, 1 << 31]);
    assert!(x.reduce_max(0).to_vec()[0].is_nan() && x.reduce_min(0).to_vec()[0].is_nan());
    assert_eq!(maximum(0.5, row([0.0, 1.0, 0.25, 2.0])).to_vec(), [0.5, 1.0, 0.5, 2.0]);
    assert_eq!(x.eq(x).to_vec(), [true, false, true, true]);
    assert_eq!(x.ne(y).to_vec(), [true, true, false, false]);
}

#[test]
fn selection_and_logic() {
    let x = row([1.0, -2.0, 3.0, -4.0]);
    let positive = x.gt(0.0);
    assert_eq!(select(positive, x, 0.0).to_vec(), [1.0, 0.0, 3.0, 0.0]);
    assert_eq!(positive.select(column([7.0, 8.0]), x).shape(), [2, 4]);
    let both = positive & x.lt(2.0) | !positive ^ true;
    assert_eq!(both.to_vec(), [true, false, true, false]);
    assert_eq!(fma(x, 2.0, x).to_vec(), [3.0, -6.0, 9.0, -12.0]);
}

#[test]
fn small_floats_round_every_operation() {
    let third = Tile::from_slice(&[f16::from_f32(1.0 / 3.0); 2], [2]);
    let product = (third * third).to_vec()[0];
    let exact = f16::from_f32(1.0 / 3.0).to_f32();
    assert_eq!(product, f16::from_f32(exact * exact));
    // A scalar is rounded to the tile's dtype first.
    assert_eq!((third * 0.1).to_vec()[0], f16::from_f32(exact * f16::from_f32(0.1).to_f32()));
    assert_eq!(full::<f16>([1], 0.1).to_vec(), [f16::from_f32(0.1)]);
    assert_eq!((1.0 - third).maximum(0.5).gt(0.6).to_vec(), [true, true]);
    let x = Tile::from_slice(&[2.0f32, 0.25, 9.0, 1.0], [4]);
    assert_eq!(x.rsqrt().to_vec()[1], 2.0);
    assert_eq!(x.sqrt().to_vec()[2], 3.0);
    assert_eq!(x.exp2().to_vec()[0], 4.0);
    assert_eq!(x.log2().to_vec()[1], -2.0);
    assert_eq!((-x).abs().to_vec(), x.to_vec());
}

#[test]
fn casts_round_once_and_saturate() {
    let x = Tile::from_slice(&[1e9, -3.7, f32::NAN, 2.5], [4]);
    assert_eq!(x.cast::<i32>().to_vec(), [1_000_000_000, -3, 0, 2]);
    assert_eq!(x.cast::<bool>().to_vec(), [true; 4]);
    let eighths = x.cast::<F8E4M3FN>().cast::<f32>().to_vec();
    assert_eq!((eighths[0], eighths[1], eighths[3]), (448.0, -3.75, 2.5));
    assert!(eighths[2].is_nan());
    assert_eq!(x.cast::<F4E2M1FN>().cast::<f32>().to_vec(), [6.0, -4.0, 6.0, 2.0]);
    // 2^24 + 1 has no f32; by way of f32 this would round twice.
    let big = Tile::from_slice(&[16_777_217], [1]);
    assert_eq!(big.cast::<f32>().to_vec(), [16_777_216.0]);
    assert_eq!(Tile::from_slice(&[2049 * 8192 + 1], [1]).cast::<bf16>().to_vec()[0].to_f32(), 16_777_216.0);
    assert_eq!(Tile::from_slice(&[true, false], [2]).cast::<i32>().to_vec(), [1, 0]);
}

#[test]
fn products_of_every_dtype() {
    let lhs = Tile::from_slice(&[1.0f32, 2.0, 3.0, 4.0], [2, 2]);
    let acc = full::<f32>([2, 2], 100.0);
    let expected = [107.0, 110.0, 115.0, 122.0];
    assert_eq!(mma(lhs, lhs, acc).to_vec(), expected);
    assert_eq!(mma(lhs.cast::<f16>(), lhs.cast::<f16>(), acc).to_vec(), expected);
    assert_eq!(mma(lhs.cast::<bf16>(), lhs.cast::<bf16>(), acc).to_vec(), expected);
    assert_eq!(mma(lhs.cast::<F8E4M3FN>(), lhs.cast::<F8E4M3FN>(), acc).to_vec(), expected);
}

#[test]
#[should_panic(expected = "mma: K of lhs and rhs differ: lhs is [2, 2], rhs is [4, 1]")]
fn outside_a_kernel_a_mistake_is_a_panic() {
    let lhs = zeros::<f32>([2, 2]);
    mma(lhs, zeros::<f32>([4, 1]), zeros::<f32>([2, 1]));
}

#[test]
fn a_tile_dropped_by_a_loop_is_not_another_tile() {
    let mark = tile::eager::mark();
    let stale = iota(4);
    tile::eager::release(mark, &mut []);
    let _other = iota(4);
    let message = std::panic::catch_unwind(|| stale.to_vec()).unwrap_err();
    let message = message.downcast_ref::<String>().unwrap();
    assert!(message.contains("after the loop iteration that made it has ended"), "{message}");
}
