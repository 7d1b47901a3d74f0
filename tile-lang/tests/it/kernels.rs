//! Kernels that the checker tests read.

/// The matmul of the README.
pub const MATMUL: &str = "
#[tile_kernel(tune(TILE_M in [64, 128], TILE_N in [64, 128], TILE_K in [32], num_stages in [2, 3]))]
pub fn matmul<T: Float, const TILE_M: usize, const TILE_N: usize, const TILE_K: usize>(
    a: Tensor<T, 2>, b: Tensor<T, 2>, c: TensorMut<T, 2>,
) {
    let (m, n) = (program_id(0), program_id(1));
    let mut acc = zeros::<f32>([TILE_M, TILE_N]);
    for k in 0..cdiv(a.dim(1), TILE_K) {
        let lhs = a.load([m, k], [TILE_M, TILE_K]);
        let rhs = b.load([n, k], [TILE_N, TILE_K]);
        acc = mma(lhs, rhs.t(), acc);
    }
    c.store([m, n], acc.cast::<T>());
}";

/// Attention with an online softmax, grouped queries and a helper.
pub const FMHA: &str = "
fn rescale(acc: Tile<f32>, old: Tile<f32>, new: Tile<f32>) -> (Tile<f32>, Tile<f32>) {
    let alpha = (old - new).exp2();
    (acc * alpha, alpha)
}
#[tile_kernel(tune(TILE_M in [64, 128], TILE_N in [32, 64], occupancy in [1, 2]
                   where TILE_M * HEAD_DIM <= 32768))]
pub fn fmha<T: Float, const TILE_M: usize, const TILE_N: usize, const HEAD_DIM: usize, const CAUSAL: bool>(
    q: Tensor<T, 4>, k: Tensor<T, 4>, v: Tensor<T, 4>, out: TensorMut<T, 4>, scale: f32,
) {
    let (heads, group) = (q.dim(1), q.dim(1) / k.dim(1));
    let (m, bh) = (program_id(0), program_id(1));
    let (b, h) = (bh / heads, bh % heads);
    let kv = h / group;
    let (seq_q, seq_k) = (q.dim(2), k.dim(2));
    let qk_scale = scale * std::f32::consts::LOG2_E;
    let query = q.load([b, h, m, 0], [1, 1, TILE_M, HEAD_DIM]).reshape([TILE_M, HEAD_DIM]);
    let rows = iota(TILE_M).expand_dims(1) + ((m * TILE_M) as i32 + (seq_k as i32 - seq_q as i32));
    let mut max = full::<f32>([TILE_M, 1], f32::NEG_INFINITY);
    let mut sum = zeros::<f32>([TILE_M, 1]);
    let mut acc = zeros::<f32>([TILE_M, HEAD_DIM]);
    let mut end = cdiv(seq_k, TILE_N);
    if CAUSAL {
        end = end.min(cdiv(((m + 1) * TILE_M + seq_k).saturating_sub(seq_q), TILE_N));
    }
    for n in 0..end {
        let key = k.load([b, kv, n, 0], [1, 1, TILE_N, HEAD_DIM]).reshape([TILE_N, HEAD_DIM]);
        let mut scores = mma(query, key.t(), zeros::<f32>([TILE_M, TILE_N])) * qk_scale;
        let cols = iota(TILE_N) + (n * TILE_N) as i32;
        let mut mask = cols.lt(seq_k as i32).broadcast_to([TILE_M, TILE_N]);
        if CAUSAL {
            mask = mask & rows.ge(cols);
        }
        scores = select(mask, scores, -1e30);
        let new_max = maximum(max, scores.reduce_max(1));
        let p = (scores - new_max).exp2();
        let (scaled, alpha) = rescale(acc, max, new_max);
        sum = sum * alpha + p.reduce_sum(1);
        let value = v.load([b, kv, n, 0], [1, 1, TILE_N, HEAD_DIM]).reshape([TILE_N, HEAD_DIM]);
        acc = mma(p.cast::<T>(), value, scaled);
        max = new_max;
    }
    let result = (acc / sum).cast::<T>().reshape([1, 1, TILE_M, HEAD_DIM]);
    out.store([b, h, m, 0], result);
}";
