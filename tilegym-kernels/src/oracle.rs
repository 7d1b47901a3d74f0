//! What the naive references share. They are written apart from the kernels and compute in f64.

use tile::DType;

/// The dot product, in four running sums.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 4];
    let (a4, b4) = (a.chunks_exact(4), b.chunks_exact(4));
    let tail: f64 = a4.remainder().iter().zip(b4.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a4.zip(b4) {
        for i in 0..4 {
            sums[i] += x[i] * y[i];
        }
    }
    sums.iter().sum::<f64>() + tail
}

/// Relative Frobenius error of a product of inputs rounded to `dtype`, accumulated in f32 and stored as `dtype`:
/// the rounding of the output dominates for 16-bit types, tf32's of the inputs on the tensor cores for f32.
pub(crate) fn product_tolerance(dtype: DType, gpu: bool) -> f64 {
    match dtype {
        DType::F32 if gpu => 1e-3,
        DType::F32 => 1e-5,
        DType::F16 => 1e-3,
        _ => 6e-3,
    }
}

/// Relative Frobenius error of what is computed in f32 of inputs in `dtype` and rounded to `dtype` once or twice.
pub(crate) fn rounding_tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 1e-5,
        DType::F16 => 1e-3,
        _ => 6e-3,
    }
}
