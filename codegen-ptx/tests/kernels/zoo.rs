// Kernels of every shape the language allows; each test picks some by name.

#[tile_kernel]
fn matmul<T: Float, const TILE_M: usize, const TILE_N: usize, const TILE_K: usize, const RHS_IS_NK: bool>(
    lhs: Tensor<T, 2>,
    rhs: Tensor<T, 2>,
    out: TensorMut<T, 2>,
) {
    let (m, n) = (program_id(0), program_id(1));
    let mut acc = zeros::<f32>([TILE_M, TILE_N]);
    for k in 0..cdiv(lhs.dim(1), TILE_K) {
        let a = lhs.load([m, k], [TILE_M, TILE_K]);
        let b = if RHS_IS_NK {
            rhs.load([n, k], [TILE_N, TILE_K]).t()
        } else {
            rhs.load([k, n], [TILE_K, TILE_N])
        };
        acc = mma(a, b, acc);
    }
    out.store([m, n], acc.cast::<T>());
}

#[tile_kernel]
fn fmha<T: Float, const HEAD_DIM: usize, const TILE_M: usize, const TILE_N: usize, const CAUSAL: bool>(
    q: Tensor<T, 4>,
    k: Tensor<T, 4>,
    v: Tensor<T, 4>,
    out: TensorMut<T, 4>,
    scale: f32,
) {
    let m = program_id(0);
    let head = program_id(1);
    let batch = program_id(2);
    let kv_head = head / (q.dim(1) / k.dim(1));
    let seq_k = k.dim(2) as i32;
    let offset = seq_k - q.dim(2) as i32;
    let queries = q.load([batch, head, m, 0], [1, 1, TILE_M, HEAD_DIM]).reshape([TILE_M, HEAD_DIM]);
    let last_key = full::<i32>([TILE_M, 1], seq_k - 1);
    let place = (iota(TILE_M) + ((m * TILE_M) as i32 + offset)).expand_dims(1);
    let limit = if CAUSAL { minimum(place, last_key) } else { last_key };
    let end = if CAUSAL { (((m + 1) * TILE_M) as i32 + offset).min(seq_k).max(0) } else { seq_k };
    let mut row_max = full::<f32>([TILE_M, 1], f32::NEG_INFINITY);
    let mut row_sum = zeros::<f32>([TILE_M, 1]);
    let mut acc = zeros::<f32>([TILE_M, HEAD_DIM]);
    for j in 0..cdiv(end as usize, TILE_N) {
        let keys = k.load([batch, kv_head, j, 0], [1, 1, TILE_N, HEAD_DIM]).reshape([TILE_N, HEAD_DIM]);
        let dots = mma(queries, keys.t(), zeros::<f32>([TILE_M, TILE_N]));
        let cols = (iota(TILE_N) + (j * TILE_N) as i32).expand_dims(0);
        let hidden = full::<f32>([TILE_M, TILE_N], f32::NEG_INFINITY);
        let scores = select(cols.le(limit), dots * scale, hidden);
        let new_max = maximum(row_max, scores.reduce_max(1));
        let base = select(new_max.eq(f32::NEG_INFINITY), zeros::<f32>([TILE_M, 1]), new_max);
        let weights = (scores - base).exp2();
        let rescale = (row_max - base).exp2();
        row_sum = row_sum * rescale + weights.reduce_sum(1);
        let values = v.load([batch, kv_head, j, 0], [1, 1, TILE_N, HEAD_DIM]).reshape([TILE_N, HEAD_DIM]);
        acc = mma(weights.cast::<T>(), values, acc * rescale);
        row_max = new_max;
    }
    let total = select(row_sum.eq(0.0), full::<f32>([TILE_M, 1], 1.0), row_sum);
    out.store([batch, head, m, 0], (acc / total).cast::<T>().reshape([1, 1, TILE_M, HEAD_DIM]));
}

// Scales the lhs before the product: a computed operand that is invariant in the loop.
#[tile_kernel]
fn scaled_lhs<T: Float, const TILE: usize>(a: Tensor<T, 2>, b: Tensor<T, 2>, out: TensorMut<f32, 2>) {
    let m = program_id(0);
    let lhs = a.load([m, 0], [TILE, TILE]) * 2.0;
    let mut acc = zeros::<f32>([TILE, TILE]);
    for n in 0..cdiv(b.dim(1), TILE) {
        acc = mma(lhs, b.load([0, n], [TILE, TILE]), acc);
    }
    out.store([m, 0], acc);
}

// The product of two products' results, one as the rhs.
#[tile_kernel]
fn computed_rhs<T: Float, const TILE: usize>(a: Tensor<T, 2>, b: Tensor<T, 2>, out: TensorMut<f32, 2>) {
    let zero = zeros::<f32>([TILE, TILE]);
    let (x, y) = (a.load([0, 0], [TILE, TILE]), b.load([0, 0], [TILE, TILE]));
    let inner = mma(x, y, zero).cast::<T>();
    out.store([0, 0], mma(y, inner, zero));
}

// Weights stored in 8 bits, widened on the way.
#[tile_kernel]
fn widened_rhs<T: Float, const TILE: usize>(a: Tensor<T, 2>, b: Tensor<f8E4M3FN, 2>, out: TensorMut<f32, 2>) {
    let (m, n) = (program_id(0), program_id(1));
    let mut acc = zeros::<f32>([TILE, TILE]);
    for k in 0..cdiv(a.dim(1), TILE) {
        acc = mma(a.load([m, k], [TILE, TILE]), b.load([n, k], [TILE, TILE]).cast::<T>().t(), acc);
    }
    out.store([m, n], acc);
}

#[tile_kernel]
fn fp8_matmul<const TILE: usize>(a: Tensor<f8E4M3FN, 2>, b: Tensor<f8E4M3FN, 2>, out: TensorMut<f32, 2>) {
    let (m, n) = (program_id(0), program_id(1));
    let mut acc = zeros::<f32>([TILE, TILE]);
    for k in 0..cdiv(a.dim(1), TILE) {
        acc = mma(a.load([m, k], [TILE, TILE]), b.load([n, k], [TILE, TILE]).t(), acc);
    }
    out.store([m, n], acc);
}

// Several output blocks a program: a product's loop inside of another loop.
#[tile_kernel]
fn persistent<T: Float, const TILE: usize>(a: Tensor<T, 2>, b: Tensor<T, 2>, bias: Tensor<f32, 1>, out: TensorMut<T, 2>) {
    for block in (program_id(0)..cdiv(a.dim(0), TILE)).step_by(num_programs(0)) {
        let mut acc = zeros::<f32>([TILE, TILE]);
        for k in 0..cdiv(a.dim(1), TILE) {
            acc = mma(a.load([block, k], [TILE, TILE]), b.load([k, 0], [TILE, TILE]), acc);
        }
        acc = maximum(acc + bias.load([0], [TILE]).expand_dims(0), 0.0);
        out.store([block, 0], acc.cast::<T>());
    }
}

#[tile_kernel]
fn softmax<T: Float, const ROWS: usize, const COLS: usize>(x: Tensor<T, 2>, out: TensorMut<T, 2>) {
    let row = program_id(0);
    let values = x.load([row, 0], [ROWS, COLS]).cast::<f32>();
    let inside = iota(COLS).expand_dims(0).lt(x.dim(1) as i32);
    let shown = select(inside, values, full::<f32>([ROWS, COLS], f32::NEG_INFINITY));
    let weights = (shown - shown.reduce_max(1)).exp();
    out.store([row, 0], (weights / weights.reduce_sum(1)).cast::<T>());
}

// Sums of powers of 2 a row, relative to a base that follows the row's maximum only where that is far ahead.
#[tile_kernel]
fn power_sums<T: Float, const ROWS: usize, const COLS: usize>(
    x: Tensor<T, 2>,
    sums: TensorMut<f32, 2>,
    bases: TensorMut<f32, 2>,
    scale: f32,
) {
    let m = program_id(0);
    let mut base = full::<f32>([ROWS, 1], f32::NEG_INFINITY);
    let mut sum = zeros::<f32>([ROWS, 1]);
    for i in 0..cdiv(x.dim(1), COLS) {
        let inside = (iota(COLS) + (i * COLS) as i32).expand_dims(0).lt(x.dim(1) as i32);
        let hidden = full::<f32>([ROWS, COLS], f32::NEG_INFINITY);
        let shown = select(inside, x.load([m, i], [ROWS, COLS]).cast::<f32>(), hidden);
        let greater = maximum(base, shown.reduce_max(1) * scale);
        let kept = select((greater - base).le(8.0), base, greater);
        sum = sum * (base - kept).exp2() + (shown * scale - kept).exp2().reduce_sum(1);
        base = kept;
    }
    sums.store([m, 0], sum);
    bases.store([m, 0], base);
}

#[tile_kernel]
fn column_means<T: Float, const ROWS: usize, const COLS: usize>(x: Tensor<T, 2>, out: TensorMut<f32, 1>) {
    let column = program_id(0);
    let mut sum = zeros::<f32>([1, COLS]);
    for row in 0..cdiv(x.dim(0), ROWS) {
        sum += x.load([row, column], [ROWS, COLS]).cast::<f32>().reduce_sum(0);
    }
    out.store([column], (sum / (x.dim(0) as f32)).reshape([COLS]));
}

#[tile_kernel]
fn add<T: Float, const N: usize>(x: Tensor<T, 1>, y: Tensor<f32, 1>, out: TensorMut<T, 1>) {
    let i = program_id(0);
    out.store([i], (x.load([i], [N]).cast::<f32>() + y.load([i], [N])).cast::<T>());
}

#[tile_kernel]
fn swap_axes<T: Float, const A: usize, const B: usize, const C: usize>(x: Tensor<T, 3>, out: TensorMut<T, 3>) {
    let (i, j, k) = (program_id(0), program_id(1), program_id(2));
    out.store([k, j, i], x.load([i, j, k], [A, B, C]).permute([2, 1, 0]));
}

#[tile_kernel]
fn embed<T: Float, const N: usize, const D: usize>(ids: Tensor<i32, 1>, table: Tensor<T, 2>, out: TensorMut<T, 2>) {
    let i = program_id(0);
    let rows = ids.load([i], [N]).expand_dims(1).broadcast_to([N, D]);
    let cols = iota(D).expand_dims(0).broadcast_to([N, D]);
    out.store([i, 0], table.gather_masked([rows, cols], rows.ge(0)));
}

#[tile_kernel]
fn spread<T: Float, const N: usize>(ids: Tensor<i32, 1>, x: Tensor<T, 1>, out: TensorMut<T, 1>) {
    let i = program_id(0);
    let at = ids.load([i], [N]);
    out.scatter_masked([at], x.load([i], [N]), at.ge(0));
}

#[tile_kernel]
fn newton<T: Float, const N: usize>(x: Tensor<T, 1>, out: TensorMut<T, 1>, rounds: i32) {
    let i = program_id(0);
    let a = x.load([i], [N]).cast::<f32>();
    let mut y = full::<f32>([N], 1.0);
    let mut count = iota(N);
    let mut left = rounds;
    while left > 0 {
        y = (y + a / y) * 0.5;
        count = count + 1;
        left = left - 1;
    }
    if rounds > 8 {
        y = y + count.cast::<f32>();
    } else {
        y = full::<f32>([N], 0.0);
    }
    out.store([i], y.cast::<T>());
}

// Reads back what it wrote: powers of a matrix, in place.
#[tile_kernel]
fn powers<T: Float, const TILE: usize>(x: TensorMut<T, 2>, rounds: i32) {
    let mut left = rounds;
    for i in 0..(rounds as usize) {
        let a = x.load([0, 0], [TILE, TILE]);
        let b = x.load([i - i, 0], [TILE, TILE]).t();
        x.store([0, 0], mma(a, b, zeros::<f32>([TILE, TILE])).cast::<T>());
        left = left - 1;
    }
}

// An operand loaded in an outer loop and multiplied in an inner one.
#[tile_kernel]
fn outer_operand<T: Float, const TILE: usize, const DEPTH: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    out: TensorMut<f32, 2>,
) {
    for m in program_id(0)..cdiv(a.dim(0), TILE) {
        let lhs = a.load([m, 0], [TILE, DEPTH]);
        let mut sum = zeros::<f32>([TILE, TILE]);
        for n in 0..cdiv(b.dim(1), TILE) {
            sum = mma(lhs, b.load([0, n], [DEPTH, TILE]), sum);
        }
        out.store([m, 0], sum);
    }
}

// Products in a while loop, and in one branch of an if in it.
#[tile_kernel]
fn branching<T: Float, const TILE: usize>(a: Tensor<T, 2>, b: Tensor<T, 2>, out: TensorMut<f32, 2>, steps: i32) {
    let mut acc = zeros::<f32>([TILE, TILE]);
    let mut step = 0;
    while step < steps {
        if step % 2 == 0 {
            acc = mma(a.load([0, step as usize], [TILE, TILE]), b.load([step as usize, 0], [TILE, TILE]), acc);
        } else {
            acc = acc * 0.5;
        }
        step = step + 1;
    }
    for k in 0..cdiv(a.dim(1), TILE) {
        let x = a.load([0, k], [TILE, TILE]);
        if (k as i32) < steps {
            acc = mma(x, b.load([k, 0], [TILE, TILE]), acc);
        }
        acc = acc + x.cast::<f32>();
    }
    out.store([0, 0], acc);
}

// A product over pages that a table names, of a sequence that ends where another tensor says.
#[tile_kernel]
fn paged<T: Float, const TILE: usize>(
    a: Tensor<T, 2>,
    pages: Tensor<T, 3>,
    table: Tensor<i32, 2>,
    ends: Tensor<i32, 1>,
    gain: Tensor<T, 1>,
    out: TensorMut<f32, 2>,
) {
    let b = program_id(0);
    let end = ends.at([b]);
    check(end >= 0, "a length");
    let lhs = a.slice(0, end as usize, TILE);
    let mut acc = zeros::<f32>([TILE, TILE]);
    for j in 0..cdiv(end as usize, TILE) {
        let page = table.at([b, j]) as usize;
        let rows = pages.load([page, 0, 0], [1, TILE, TILE]).reshape([TILE, TILE]);
        acc = mma(lhs.load([0, j], [TILE, TILE]), rows, acc);
    }
    out.slice(0, 1, out.dim(0)).store([b, 0], acc * gain.at([b]));
}

// Weights of 4 bits with a scale for each 16, widened on the way.
#[tile_kernel]
fn narrow_weights<T: Float, const M: usize, const N: usize, const K: usize>(
    x: Tensor<T, 2>,
    w: Tensor<f4E2M1FN, 2>,
    scales: Tensor<f8E4M3FN, 2>,
    out: TensorMut<f32, 2>,
) {
    let (n, m) = (program_id(0), program_id(1));
    let mut acc = zeros::<f32>([N, M]);
    for k in 0..cdiv(x.dim(1), K) {
        let groups = scales.load([n, k], [N, K / 16]).cast::<T>() * 0.00390625;
        let spread = groups.reshape([N, K / 16, 1]).broadcast_to([N, K / 16, 16]).reshape([N, K]);
        acc = mma(w.load([n, k], [N, K]).cast::<T>() * spread, x.load([m, k], [M, K]).t(), acc);
    }
    out.store([m, n], acc.t());
}

// A scale of a whole tensor.
#[tile_kernel]
fn scaled_whole<const N: usize>(x: Tensor<f32, 1>, scale: Tensor<f32, 1>, out: TensorMut<f32, 1>) {
    let n = program_id(0);
    out.store([n], x.load([n], [N]) * scale.load([0], [1]).broadcast_to([N]));
}

// Both operands of 4 bits.
#[tile_kernel]
fn scaled_product<const M: usize, const N: usize, const K: usize>(
    a: Tensor<f4E2M1FN, 2>,
    a_scales: Tensor<f8E4M3FN, 2>,
    b: Tensor<f4E2M1FN, 2>,
    b_scales: Tensor<f8E4M3FN, 2>,
    out: TensorMut<f32, 2>,
) {
    let (m, n) = (program_id(0), program_id(1));
    let mut acc = zeros::<f32>([M, N]);
    for k in 0..cdiv(a.dim(1), K) {
        let (x, y) = (a.load([m, k], [M, K]), b.load([n, k], [N, K]));
        let (sx, sy) = (a_scales.load([m, k], [M, K / 16]), b_scales.load([n, k], [N, K / 16]));
        acc = mma_scaled(x, sx, y.t(), sy.t(), acc);
    }
    out.store([m, n], acc);
}

// 4-bit elements block by block and one by one.
#[tile_kernel]
fn half_bytes<const N: usize>(
    ids: Tensor<i32, 1>,
    x: Tensor<f4E2M1FN, 1>,
    out: TensorMut<f4E2M1FN, 1>,
    there: TensorMut<f4E2M1FN, 1>,
) {
    let i = program_id(0);
    let doubled = (x.load([i], [N]).cast::<f32>() * 2.0).cast::<f4E2M1FN>();
    out.store([i], doubled);
    there.scatter([ids.load([i], [N])], doubled);
}

// A product whose lhs is also summed as it is.
#[tile_kernel]
fn product_and_sums<const TILE: usize, const K: usize>(
    a: Tensor<f32, 2>,
    b: Tensor<f32, 2>,
    out: TensorMut<f32, 2>,
    sums: TensorMut<f32, 2>,
) {
    let (m, n) = (program_id(0), program_id(1));
    let mut acc = zeros::<f32>([TILE, TILE]);
    let mut sum = zeros::<f32>([TILE, 1]);
    for k in 0..cdiv(a.dim(1), K) {
        let lhs = a.load([m, k], [TILE, K]);
        acc = mma(lhs, b.load([n, k], [TILE, K]).t(), acc);
        sum += lhs.reduce_sum(1);
    }
    out.store([m, n], acc);
    sums.store([m, n], sum);
}

// Products with a tensor's blocks and with their transposes.
#[tile_kernel]
fn both_ways<T: Float, const TILE: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    out: TensorMut<f32, 2>,
    other: TensorMut<f32, 2>,
) {
    let (m, n) = (program_id(0), program_id(1));
    let (mut acc, mut more) = (zeros::<f32>([TILE, TILE]), zeros::<f32>([TILE, TILE]));
    for k in 0..cdiv(a.dim(1), TILE) {
        let lhs = a.load([m, k], [TILE, TILE]);
        acc = mma(lhs, b.load([n, k], [TILE, TILE]).t(), acc);
        more = mma(lhs, b.load([k, n], [TILE, TILE]), more);
    }
    out.store([m, n], acc);
    other.store([m, n], more);
}

// The second loop's copies can be bulk copies; of the first one's, only one can if `c` is not aligned.
#[tile_kernel]
fn two_loops<T: Float, const TILE: usize>(a: Tensor<T, 2>, b: Tensor<T, 2>, c: Tensor<T, 2>, out: TensorMut<f32, 2>) {
    let (m, n) = (program_id(0), program_id(1));
    let mut acc = zeros::<f32>([TILE, TILE]);
    for k in 0..cdiv(a.dim(1), TILE) {
        acc = mma(a.load([m, k], [TILE, TILE]), c.load([n, k], [TILE, TILE]).t(), acc);
    }
    for k in 0..cdiv(b.dim(1), TILE) {
        acc = mma(b.load([m, k], [TILE, TILE]), b.load([n, k], [TILE, TILE]).t(), acc);
    }
    out.store([m, n], acc);
}
