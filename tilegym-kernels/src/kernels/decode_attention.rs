//! Decode attention: one query token a sequence over its cached keys and values.

use tile::prelude::*;

/// `out = softmax(scale q kᵀ) v` for one query token a sequence, over the keys in a cache.
///
/// The query heads that share a kv head are the rows of one tile, so that the cache is read once for all of them.
/// The keys of a sequence are split into `NUM_SPLITS` runs of whole tiles, each a program. With more than one, each
/// leaves its part in `parts` and `parts_lse`, and the last of them to arrive at the counter of its sequence and kv
/// head joins them: their mean, weighted with the exponentials of their `lse`. One pass over a program's keys with the
/// online softmax of Milakov and Gimelshein (2018), as in [`fmha`](crate::fmha); splitting the keys follows
/// Flash-Decoding (Dao et al., 2023).
///
/// A sequence without keys gives zeros, and `-inf` in `lse`. What the cache holds beyond a sequence's length has
/// no influence, whatever it is. With `PAGED`, the keys of a sequence are in the pages that its row of `table`
/// names, `PAGE` to a page; otherwise in one run, and `table` is not read.
///
/// # Shapes
/// q `[batch, kv_heads, group, HEAD_DIM]`, the query heads by the kv head they share; k, v
/// `[pages, PAGE, kv_heads, HEAD_DIM]`, or `[batch, keys, kv_heads, HEAD_DIM]` unless `PAGED` (strides are free, so
/// that a cache with another order of dimensions is a view); lengths `[batch]`; table `[batch, pages of a
/// sequence]`; k_scale, v_scale `[kv_heads]` or `[1]`, what an element of the cache is multiplied with; out
/// like q; lse `[batch, kv_heads, group, 1]`, the natural logarithm of the sum of the exponentials. With more than
/// one split, parts `[batch, kv_heads, group, NUM_SPLITS * HEAD_DIM]`, parts_lse
/// `[batch, kv_heads, group, NUM_SPLITS]` and counters `[batch, kv_heads]`, all zero; otherwise these are not
/// touched. `TILE_G` is at least group, of which `MERGE_G` rows are merged at a time; `TILE_N` divides `PAGE`.
/// # Grid
/// `[kv_heads, batch, NUM_SPLITS]`
/// # Dtypes
/// q `T`, f16 | bf16; k, v `C`, the same or f8E4M3FN; `M`, in which both products are made: `T`, or f16 over
/// f8E4M3FN, which it holds exactly (a query beyond 65504 then overflows)
#[tile_kernel(tune(
    TILE_N in [32, 16, 64, 128],
    NUM_SPLITS in [1, 2, 3, 4, 6, 8, 16, 32, 64],
    num_warps in [1, 2, 4],
    num_stages in [3, 2, 4],
    occupancy in [4, 2, 1]
    where TILE_N <= PAGE, TILE_N >= 16 * num_warps
))]
pub fn decode_attention<
    T: Float,
    C: Element,
    M: Float,
    const HEAD_DIM: usize,
    const TILE_G: usize,
    const TILE_N: usize,
    const NUM_SPLITS: usize,
    const MERGE_G: usize,
    const PAGE: usize,
    const PAGED: bool,
>(
    q: Tensor<T, 4>,
    k: Tensor<C, 4>,
    v: Tensor<C, 4>,
    lengths: Tensor<i32, 1>,
    table: Tensor<i32, 2>,
    k_scale: Tensor<f32, 1>,
    v_scale: Tensor<f32, 1>,
    out: TensorMut<T, 4>,
    lse: TensorMut<f32, 4>,
    parts: TensorMut<f32, 4>,
    parts_lse: TensorMut<f32, 4>,
    counters: TensorMut<i32, 2>,
    scale: f32,
) {
    let kv_head = program_id(0);
    let batch = program_id(1);
    let split = program_id(2);
    let capacity = if PAGED { table.dim(1) * PAGE } else { k.dim(1) };
    let asked = lengths.at([batch]);
    check(asked >= 0, "a length is negative");
    check(asked <= capacity as i32, "a length is beyond the cache");
    let length = (asked.max(0) as usize).min(capacity);
    let blocks = cdiv(length, TILE_N);
    let share = cdiv(blocks, NUM_SPLITS);
    let first = split * share;
    let scale_log2 = scale * std::f32::consts::LOG2_E * k_scale.at([kv_head % k_scale.dim(0)]);
    let out_scale = v_scale.at([kv_head % v_scale.dim(0)]);

    let queries = q.load([batch, kv_head, 0, 0], [1, 1, TILE_G, HEAD_DIM]).reshape([TILE_G, HEAD_DIM]);
    let queries = queries.cast::<M>();
    let mut row_max = full::<f32>([TILE_G, 1], f32::NEG_INFINITY);
    let mut row_sum = zeros::<f32>([TILE_G, 1]);
    let mut acc = zeros::<f32>([TILE_G, HEAD_DIM]);
    for j in first..(first + share).min(blocks) {
        // Where the tile's keys are: a page, the tile in it, and how many keys the page has.
        let ordinal = if PAGED { j / (PAGE / TILE_N) } else { 0 };
        let page = if PAGED { table.at([batch, ordinal]) as usize } else { batch };
        let block = if PAGED { j % (PAGE / TILE_N) } else { j };
        let here = if PAGED { length - ordinal * PAGE } else { length };
        check(page < k.dim(0), "a page index is out of range");
        let keys = k
            .slice(1, 0, here)
            .load([page, block, kv_head, 0], [1, TILE_N, 1, HEAD_DIM])
            .reshape([TILE_N, HEAD_DIM]);
        let dots = mma(queries, keys.cast::<M>().t(), zeros::<f32>([TILE_G, TILE_N]));
        let places = (iota(TILE_N) + (j * TILE_N) as i32).expand_dims(0);
        let hidden = full::<f32>([TILE_G, TILE_N], f32::NEG_INFINITY);
        let scores = select(places.lt(length as i32), dots * scale_log2, hidden);

        let new_max = maximum(row_max, scores.reduce_max(1));
        // With a maximum of -inf every weight is to be 0, and -inf less -inf is not.
        let base = select(new_max.eq(f32::NEG_INFINITY), zeros::<f32>([TILE_G, 1]), new_max);
        let weights = (scores - base).exp2();
        let rescale = (row_max - base).exp2();
        row_sum = row_sum * rescale + weights.reduce_sum(1);
        let values = v
            .slice(1, 0, here)
            .load([page, block, kv_head, 0], [1, TILE_N, 1, HEAD_DIM])
            .reshape([TILE_N, HEAD_DIM]);
        acc = mma(weights.cast::<M>(), values.cast::<M>(), acc * rescale);
        row_max = new_max;
    }
    let empty = row_sum.eq(0.0);
    let total = select(empty, full::<f32>([TILE_G, 1], 1.0), row_sum);
    let result = acc * out_scale / total;
    let nothing = full::<f32>([TILE_G, 1], f32::NEG_INFINITY);
    let log_sum = select(empty, nothing, row_max * std::f32::consts::LN_2 + total.log());
    let log_sum = log_sum.reshape([1, 1, TILE_G, 1]);
    if NUM_SPLITS == 1 {
        out.store([batch, kv_head, 0, 0], result.cast::<T>().reshape([1, 1, TILE_G, HEAD_DIM]));
        lse.store([batch, kv_head, 0, 0], log_sum);
    } else {
        parts.store([batch, kv_head, 0, split], result.reshape([1, 1, TILE_G, HEAD_DIM]));
        parts_lse.store([batch, kv_head, 0, split], log_sum);
        if counters.arrive_last([batch, kv_head], num_programs(2)) {
            for rows in 0..cdiv(q.dim(2), MERGE_G) {
                // Parts of no keys have `-inf` there and count nothing.
                let mut max = full::<f32>([MERGE_G, 1], f32::NEG_INFINITY);
                let mut sum = zeros::<f32>([MERGE_G, 1]);
                let mut acc = zeros::<f32>([MERGE_G, HEAD_DIM]);
                for s in 0..cdiv(NUM_SPLITS, TILE_N / 4) {
                    let part = parts
                        .load([batch, kv_head, rows, s], [1, 1, MERGE_G, TILE_N / 4 * HEAD_DIM])
                        .reshape([MERGE_G, TILE_N / 4, HEAD_DIM]);
                    let logs = parts_lse
                        .load([batch, kv_head, rows, s], [1, 1, MERGE_G, TILE_N / 4])
                        .reshape([MERGE_G, TILE_N / 4]);
                    let places = (iota(TILE_N / 4) + (s * (TILE_N / 4)) as i32).expand_dims(0);
                    let none = full::<f32>([MERGE_G, TILE_N / 4], f32::NEG_INFINITY);
                    let logs = select(places.lt(NUM_SPLITS as i32), logs, none);
                    let new_max = maximum(max, logs.reduce_max(1));
                    let base = select(new_max.eq(f32::NEG_INFINITY), zeros::<f32>([MERGE_G, 1]), new_max);
                    let weights = (logs - base).exp();
                    let rescale = (max - base).exp();
                    sum = sum * rescale + weights.reduce_sum(1);
                    acc = acc * rescale + (part * weights.expand_dims(2)).reduce_sum(1).squeeze(1);
                    max = new_max;
                }
                let empty = sum.eq(0.0);
                let total = select(empty, ones::<f32>([MERGE_G, 1]), sum);
                let merged = (acc / total).cast::<T>().reshape([1, 1, MERGE_G, HEAD_DIM]);
                out.store([batch, kv_head, rows, 0], merged);
                let none = full::<f32>([MERGE_G, 1], f32::NEG_INFINITY);
                let log_sum = select(empty, none, max + total.log()).reshape([1, 1, MERGE_G, 1]);
                lse.store([batch, kv_head, rows, 0], log_sum);
            }
        }
    }
}

/// Tiles of keys that a program should have at least: below, its part costs more to merge than it saves.
const LEAST_BLOCKS: usize = 2;

/// Into how many runs to split the keys of each sequence.
///
/// Reading the cache at full speed takes a few programs on every SM: `ctas_per_sm` of them. Where
/// `batch * kv_heads` programs are fewer, the keys are split just so far that all of them still run at once, as
/// the planners of FlashInfer and FlashAttention do; but no run is shorter than a few tiles of `tile_n` keys, and
/// none is empty for the longest sequence of `seq_k` keys. Where there are programs enough, 1: no parts to merge.
///
/// The result is one of 1, 2, 3, 4, 6, 8, 12, 16, ..: a kernel is compiled for each number, and lengths that grow
/// by a token at a time should meet few.
pub fn num_splits(
    sms: usize,
    ctas_per_sm: usize,
    batch: usize,
    kv_heads: usize,
    seq_k: usize,
    tile_n: usize,
) -> usize {
    let programs = (batch * kv_heads).max(1);
    let room = sms * ctas_per_sm / programs;
    let blocks = seq_k.div_ceil(tile_n);
    crate::splits::few(room.min(blocks / LEAST_BLOCKS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_split_where_there_are_few_sequences() {
        // Enough sequences and heads to fill the machine.
        assert_eq!(num_splits(132, 4, 64, 8, 4096, 64), 1);
        assert_eq!(num_splits(132, 4, 1000, 8, 4096, 64), 1);
        // One sequence: as many programs as fit at once, as long as there are keys for them.
        assert_eq!(num_splits(132, 4, 1, 8, 131_072, 64), 64);
        assert_eq!(num_splits(132, 4, 1, 8, 8192, 64), 64);
        assert_eq!(num_splits(132, 2, 1, 8, 8192, 64), 32);
        assert_eq!(num_splits(132, 2, 1, 8, 1024, 64), 8);
        assert_eq!(num_splits(132, 2, 16, 4, 2317, 64), 4);
        // Hardly any keys, or none.
        assert_eq!(num_splits(132, 4, 1, 1, 100, 64), 1);
        assert_eq!(num_splits(132, 4, 1, 1, 0, 64), 1);
        assert_eq!(num_splits(132, 4, 0, 0, 0, 64), 1);
    }

    #[test]
    fn few_numbers_of_splits_occur() {
        let mut found: Vec<usize> =
            (0..200_000).step_by(100).map(|n| num_splits(132, 4, 1, 1, n, 64)).collect();
        found.dedup();
        assert!(found.is_sorted() && found.len() <= 20, "{found:?}");
    }
}
