//! Matrix products.

use super::arena::{Output, Read};
use super::element::Element;
use super::fault::fault;
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
    let (lhs, rhs, acc) = (lhs.read(), rhs.read(), acc.read());
    for shape in [&lhs.shape, &rhs.shape, &acc.shape] {
        if shape.len() != 2 {
            fault(KernelError::TileRank { op: "mma", expected: 2, shape: shape.to_vec() });
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
    let (lhs, rhs) = (widened(&lhs), widened(&rhs));
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
            lhs.as_ptr(),
            1,
            k as isize,
            rhs.as_ptr(),
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

/// The elements in f32.
fn widened<T: Element>(from: &Read<T>) -> Output<f32> {
    let mut out = Output::new(from.shape);
    for (o, v) in out.iter_mut().zip(from.iter()) {
        *o = v.to_f32();
    }
    out
}
