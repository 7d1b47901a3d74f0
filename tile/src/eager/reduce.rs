//! Reductions along one dimension, which stays with size 1.

use super::arena::Output;
use super::element::Numeric;
use super::fault::fault;
use super::tile::Tile;
use crate::error::KernelError;

/// Independent partial results of a row, so that the loop is one of vectors.
const LANES: usize = 8;

impl<T: Numeric> Tile<T> {
    /// The sum along `axis`; f16 and bf16 are added in f32 and rounded once, i32 wraps.
    #[track_caller]
    pub fn reduce_sum(self, axis: usize) -> Tile<T> {
        self.reduce("reduce_sum", axis, T::ZERO, T::accumulate, T::join, T::round)
    }

    /// The largest along `axis`; NaN when any is NaN.
    #[track_caller]
    pub fn reduce_max(self, axis: usize) -> Tile<T> {
        self.reduce("reduce_max", axis, T::LOWEST, T::max_nan, T::max_nan, |v| v)
    }

    /// The smallest along `axis`; NaN when any is NaN.
    #[track_caller]
    pub fn reduce_min(self, axis: usize) -> Tile<T> {
        self.reduce("reduce_min", axis, T::HIGHEST, T::min_nan, T::min_nan, |v| v)
    }

    #[track_caller]
    fn reduce<A: Copy>(
        self,
        op: &'static str,
        axis: usize,
        start: A,
        accumulate: impl Fn(A, T) -> A,
        join: impl Fn(A, A) -> A,
        finish: impl Fn(A) -> T,
    ) -> Tile<T> {
        let from = self.read();
        if axis >= from.shape.len() {
            fault(KernelError::Axis { op, axis, rank: from.shape.len() });
        }
        let len = from.shape[axis];
        let inner: usize = from.shape[axis + 1..].iter().product();
        let mut out = Output::<T>::new(from.shape.with(axis, 1));
        if inner == 1 {
            for (o, row) in out.iter_mut().zip(from.chunks_exact(len)) {
                let mut lanes = [start; LANES];
                let chunks = row.chunks_exact(LANES);
                let rest = chunks.remainder();
                for chunk in chunks {
                    for (lane, &v) in lanes.iter_mut().zip(chunk) {
                        *lane = accumulate(*lane, v);
                    }
                }
                for (lane, &v) in lanes.iter_mut().zip(rest) {
                    *lane = accumulate(*lane, v);
                }
                *o = finish(lanes.into_iter().reduce(&join).expect("lanes"));
            }
        } else {
            for (i, o) in out.iter_mut().enumerate() {
                let base = i / inner * inner * len + i % inner;
                let column = from[base..].iter().step_by(inner).take(len);
                *o = finish(column.fold(start, |acc, &v| accumulate(acc, v)));
            }
        }
        out.finish()
    }
}
