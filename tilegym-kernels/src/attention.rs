//! Attention as kernels compute it, block by block of keys, and as their references do.

use std::ops::Range;
use tile::DType;
use tile::contract::Problem;
use tile::prelude::*;

/// One block of the online softmax (Milakov and Gimelshein, 2018) over scores, minus infinity where a key is hidden:
/// the block's weights, by how much what was summed before shrinks, and each row's sum and what its weights are
/// relative to, which is its maximum or one that is not much smaller.
///
/// Scores times `scale` are in base 2, and so is the maximum that is carried. Since `scale` is positive, the largest
/// score is found before it is scaled, and scaling and subtracting are one operation for each score.
#[tile_fn]
pub(crate) fn online_softmax(
    scores: Tile<f32>,
    scale: f32,
    row_max: Tile<f32>,
    row_sum: Tile<f32>,
) -> (Tile<f32>, Tile<f32>, Tile<f32>, Tile<f32>) {
    // Weights may pass 1 by 2^8 until what was summed is brought down to a new maximum: it seldom is (Zadouri et al.,
    // FlashAttention-4). That of a row that has seen no key is -inf, and grows by inf or NaN.
    let grown = maximum(row_max, scores.reduce_max(1) * scale);
    let new_max = select((grown - row_max).le(8.0), row_max, grown);
    // A row that has seen no key yet has a maximum of -inf; subtracting 0 instead keeps its weights 0.
    let base = select(new_max.ne(f32::NEG_INFINITY), new_max, 0.0);
    let weights = fma(scores, scale, -base).exp2();
    let rescale = (row_max - base).exp2();
    (weights, rescale, new_max, row_sum * rescale + weights.reduce_sum(1))
}

/// The weighted values over the sum of the weights; zeros where that is 0.
#[tile_fn]
pub(crate) fn normalize(acc: Tile<f32>, row_sum: Tile<f32>) -> Tile<f32> {
    acc / select(row_sum.ne(0.0), row_sum, 1.0)
}

/// The sizes that a head's elements are padded to: tiles are powers of two.
pub(crate) fn padded_dim(problem: &Problem) -> i64 {
    problem.size("head_dim").next_power_of_two() as i64
}

/// The head sizes that attention is written for.
pub(crate) const HEAD_DIMS: [usize; 4] = [64, 96, 128, 256];

/// Tile sizes, stages and warps that spill on no target, by the head's size and the inputs' dtype.
pub(crate) fn default_config(problem: &Problem) -> tile::Config {
    // f32 fragments take twice the registers, wide heads as many accumulators, and f8 its wider copies: narrower
    // blocks of keys keep them from spilling, and fewer buffers in the shared memory there is.
    let (tile_n, stages) = match (padded_dim(problem), problem.dtype) {
        (256, DType::F32) => (16, 1),
        (256, DType::F8E4M3FN) => (16, 2),
        (256, _) | (128, DType::F8E4M3FN) | (_, DType::F32) => (32, 2),
        _ => (64, 2),
    };
    crate::check::config(&[("TILE_M", 64), ("TILE_N", tile_n)], 4, stages, 1)
}

/// The keys that query `i` sees, queries being aligned to the end of the keys: up to its own place when `causal`, and
/// with a window those less than so many places away.
pub(crate) fn visible(
    i: usize,
    [seq_q, seq_k]: [usize; 2],
    causal: bool,
    window: Option<usize>,
) -> Range<usize> {
    let place = i as i64 + seq_k as i64 - seq_q as i64;
    let reach = window.map(|window| window as i64 - 1);
    let clamp = |at: i64| at.clamp(0, seq_k as i64) as usize;
    let end = match (causal, reach) {
        (true, _) => clamp(place + 1),
        (false, Some(reach)) => clamp(place + reach + 1),
        (false, None) => seq_k,
    };
    let start = reach.map_or(0, |reach| clamp(place - reach));
    start.min(end)..end
}

/// What changes the scores of a row.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scoring {
    /// Scores are squeezed into plus and minus this.
    pub soft_cap: Option<f64>,
    /// A logit that takes its part of the softmax and has no value.
    pub sink: Option<f64>,
}

/// One row of attention in two passes, weights kept whole: the weighted values, and the logarithm of the sum of the
/// scores' exponentials.
pub(crate) fn attend<'a>(
    query: &[f64],
    keys: Range<usize>,
    key: impl Fn(usize) -> &'a [f64],
    value: impl Fn(usize) -> &'a [f64],
    scoring: Scoring,
) -> (Vec<f64>, f64) {
    let scale = 1.0 / (query.len() as f64).sqrt();
    let score = |j: usize| {
        let score = crate::oracle::dot(query, key(j)) * scale;
        scoring.soft_cap.map_or(score, |cap| cap * (score / cap).tanh())
    };
    let scores: Vec<f64> = keys.clone().map(score).collect();
    let max = scores.iter().copied().chain(scoring.sink).fold(f64::NEG_INFINITY, f64::max);
    let mut out = vec![0.0; query.len()];
    let mut total = scoring.sink.map_or(0.0, |sink| (sink - max).exp());
    for (score, j) in scores.iter().zip(keys) {
        let weight = (score - max).exp();
        total += weight;
        for (o, x) in out.iter_mut().zip(value(j)) {
            *o += weight * x;
        }
    }
    if total > 0.0 {
        out.iter_mut().for_each(|o| *o /= total);
    }
    (out, if max == f64::NEG_INFINITY { max } else { max + total.ln() })
}
