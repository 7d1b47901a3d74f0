//! Matrix products.

use super::arena::{Output, Read};
use super::element::Element;
use super::fault::fault;
use super::shape::Shape;
use super::small_float::{F4E2M1FN, F8E4M3FN};
use super::tile::Tile;
use crate::error::KernelError;
use tile_lang::DType;

/// Multiplies two tiles and adds into `acc`.
///
/// `acc[m, n] += sum over k of lhs[m, k] * rhs[k, n]`, products and sums in f32.
///
/// # Shapes
/// lhs `[M, K]`, rhs `[K, N]`, acc `[M, N]`
///
/// # Dtypes
/// f32, f16, bf16 or f8E4M3FN, the same for both, to f32
///
/// # Example
/// ```
/// use tile::prelude::*;
/// let lhs = Tile::from_slice(&[1.0, 2.0, 3.0, 4.0], [2, 2]);
/// let rhs = Tile::from_slice(&[1.0, 10.0], [2, 1]);
/// assert_eq!(mma(lhs, rhs, zeros::<f32>([2, 1])).to_vec(), [21.0, 43.0]);
/// ```
#[track_caller]
pub fn mma<T: Element>(lhs: Tile<T>, rhs: Tile<T>, acc: Tile<f32>) -> Tile<f32> {
    if !T::DTYPE.is_float() || T::DTYPE == DType::F4E2M1FN {
        let allowed = "f32, f16, bf16 or f8E4M3FN";
        fault(KernelError::DTypeNotAllowed { op: "mma", dtype: T::DTYPE, allowed });
    }
    let (lhs, rhs) = (lhs.read(), rhs.read());
    let (lhs, rhs) = (Widened::of(&lhs), Widened::of(&rhs));
    product("mma", &lhs, &rhs, acc)
}

/// Multiplies two 4-bit tiles with scales and adds into `acc`.
///
/// `acc[m, n] += sum over k of (lhs[m, k] lhs_scales[m, k / 16]) (rhs[k, n] rhs_scales[k / 16, n])`. An element times
/// its scale is exact; products and sums are in f32.
///
/// # Shapes
/// lhs `[M, K]`, lhs_scales `[M, K / 16]`, rhs `[K, N]`, rhs_scales `[K / 16, N]`, acc `[M, N]`
///
/// # Dtypes
/// f4E2M1FN with f8E4M3FN scales, to f32
///
/// # Example
/// ```
/// use tile::prelude::*;
/// let ones = ones::<f32>([1, 16]).cast::<F4E2M1FN>();
/// let twos = full::<f32>([1, 1], 2.0).cast::<F8E4M3FN>();
/// assert_eq!(mma_scaled(ones, twos, ones.t(), twos, zeros::<f32>([1, 1])).to_vec(), [64.0]);
/// ```
#[track_caller]
pub fn mma_scaled(
    lhs: Tile<F4E2M1FN>,
    lhs_scales: Tile<F8E4M3FN>,
    rhs: Tile<F4E2M1FN>,
    rhs_scales: Tile<F8E4M3FN>,
    acc: Tile<f32>,
) -> Tile<f32> {
    let lhs = scaled(&lhs.read(), &lhs_scales.read(), 1);
    let rhs = scaled(&rhs.read(), &rhs_scales.read(), 0);
    product("mma_scaled", &lhs, &rhs, acc)
}

/// Elements that share a scale.
const GROUP: usize = 16;

/// Elements times their scales, of which there is one for 16 elements along dimension `summed`.
#[track_caller]
fn scaled(elements: &Read<F4E2M1FN>, scales: &Read<F8E4M3FN>, summed: usize) -> Widened {
    let mut wide = Widened::of(elements);
    let &[_, columns] = &wide.shape[..] else {
        fault(KernelError::TileRank { op: "mma_scaled", expected: 2, shape: wide.shape.to_vec() });
    };
    let mut expected = wide.shape.to_vec();
    expected[summed] /= GROUP;
    if scales.shape[..] != expected[..] || !wide.shape[summed].is_multiple_of(GROUP) {
        fault(KernelError::Scales { operand: wide.shape.to_vec(), scales: scales.shape.to_vec(), summed });
    }
    let groups = expected[1];
    for (i, value) in wide.values.iter_mut().enumerate() {
        let (row, column) = (i / columns, i % columns);
        let at = if summed == 1 { row * groups + column / GROUP } else { row / GROUP * groups + column };
        *value *= scales[at].to_f32();
    }
    wide
}

/// The elements of an operand in f32.
struct Widened {
    shape: Shape,
    values: Output<f32>,
}

impl Widened {
    fn of<T: Element>(from: &Read<T>) -> Widened {
        let mut values = Output::new(from.shape);
        for (o, v) in values.iter_mut().zip(from.iter()) {
            *o = v.to_f32();
        }
        Widened { shape: from.shape, values }
    }
}

/// `acc + lhs rhs`.
#[track_caller]
fn product(op: &'static str, lhs: &Widened, rhs: &Widened, acc: Tile<f32>) -> Tile<f32> {
    let acc = acc.read();
    for shape in [&lhs.shape, &rhs.shape, &acc.shape] {
        if shape.len() != 2 {
            fault(KernelError::TileRank { op, expected: 2, shape: shape.to_vec() });
        }
    }
    let (m, k, n) = (lhs.shape[0], lhs.shape[1], rhs.shape[1]);
    if rhs.shape[0] != k {
        fault(KernelError::InnerDims { lhs: lhs.shape.to_vec(), rhs: rhs.shape.to_vec() });
    }
    if acc.shape[..] != [m, n] {
        fault(KernelError::AccShape {
            acc: acc.shape.to_vec(),
            lhs: lhs.shape.to_vec(),
            rhs: rhs.shape.to_vec(),
            product: vec![m, n],
        });
    }
    let mut out = Output::<f32>::new(acc.shape);
    out.copy_from_slice(&acc);
    // SAFETY: the three matrices are row-major, of m x k, k x n and m x n elements; `out` overlaps neither.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            true,
            lhs.values.as_ptr(),
            1,
            k as isize,
            rhs.values.as_ptr(),
            1,
            n as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
    out.finish()
}
