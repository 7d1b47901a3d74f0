//! The interpreter agrees with the eager CPU device, bit by bit, before and after each pass.

use crate::interpret::Random;
use tile::dynamic::{CpuOptions, DynArg, DynTensor, ScalarValue};
use tile::prelude::*;
use tile::registry::KernelDef;
use tile_ir::interpret::{Arg, HostTensor, Interpreter, Scalar};
use tile_ir::{STANDARD_PASSES, lower_program, run_passes, with_context};
use tile_lang::config::TensorFacts;
use tile_lang::{Bindings, Config, DType};

/// C = A Bᵀ.
#[tile_kernel]
pub fn product<T: Float, const TILE_M: usize, const TILE_N: usize, const TILE_K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    let (m, n) = (program_id(0), program_id(1));
    let mut acc = zeros::<f32>([TILE_M, TILE_N]);
    for k in 0..cdiv(a.dim(1), TILE_K) {
        let lhs = a.load([m, k], [TILE_M, TILE_K]);
        let rhs = b.load([n, k], [TILE_N, TILE_K]);
        acc = mma(lhs, rhs.t(), acc);
    }
    c.store([m, n], acc.cast::<T>());
}

/// Attention with an online softmax.
#[tile_kernel]
pub fn attention<
    T: Float,
    const HEAD_DIM: usize,
    const TILE_M: usize,
    const TILE_N: usize,
    const CAUSAL: bool,
>(
    q: Tensor<T, 3>,
    k: Tensor<T, 3>,
    v: Tensor<T, 3>,
    out: TensorMut<T, 3>,
    scale: f32,
) {
    let (m, head) = (program_id(0), program_id(1));
    let kv_head = head / (q.dim(0) / k.dim(0));
    let seq_k = k.dim(1) as i32;
    let offset = seq_k - q.dim(1) as i32;
    let queries = q.load([head, m, 0], [1, TILE_M, HEAD_DIM]).reshape([TILE_M, HEAD_DIM]);
    let last_key = full::<i32>([TILE_M, 1], seq_k - 1);
    let place = (iota(TILE_M) + ((m * TILE_M) as i32 + offset)).expand_dims(1);
    let limit = if CAUSAL { minimum(place, last_key) } else { last_key };
    let end = if CAUSAL { (((m + 1) * TILE_M) as i32 + offset).min(seq_k).max(0) } else { seq_k };
    let mut row_max = full::<f32>([TILE_M, 1], f32::NEG_INFINITY);
    let mut row_sum = zeros::<f32>([TILE_M, 1]);
    let mut acc = zeros::<f32>([TILE_M, HEAD_DIM]);
    for j in 0..cdiv(end as usize, TILE_N) {
        let keys = k.load([kv_head, j, 0], [1, TILE_N, HEAD_DIM]).reshape([TILE_N, HEAD_DIM]);
        let dots = mma(queries, keys.t(), zeros::<f32>([TILE_M, TILE_N]));
        let cols = (iota(TILE_N) + (j * TILE_N) as i32).expand_dims(0);
        let hidden = full::<f32>([TILE_M, TILE_N], f32::NEG_INFINITY);
        let scores = select(cols.le(limit), dots * (scale * std::f32::consts::LOG2_E), hidden);
        let new_max = maximum(row_max, scores.reduce_max(1));
        let base = select(new_max.eq(f32::NEG_INFINITY), zeros::<f32>([TILE_M, 1]), new_max);
        let weights = (scores - base).exp2();
        let rescale = (row_max - base).exp2();
        row_sum = row_sum * rescale + weights.reduce_sum(1);
        let values = v.load([kv_head, j, 0], [1, TILE_N, HEAD_DIM]).reshape([TILE_N, HEAD_DIM]);
        acc = mma(weights.cast::<T>(), values, acc * rescale);
        row_max = new_max;
    }
    let total = select(row_sum.eq(0.0), full::<f32>([TILE_M, 1], 1.0), row_sum);
    out.store([head, m, 0], (acc / total).cast::<T>().reshape([1, TILE_M, HEAD_DIM]));
}

/// Mean and reciprocal deviation of rows.
#[tile_fn]
fn moments<T: Float>(x: Tile<T>, count: f32) -> (Tile<f32>, Tile<f32>) {
    let wide = x.cast::<f32>();
    let mean = wide.reduce_sum(1) / count;
    let square = (wide * wide).reduce_sum(1) / count;
    (mean, (square - mean * mean + 1e-5).rsqrt())
}

/// Normalizes rows, with arithmetic in the input's dtype as well.
#[tile_kernel]
pub fn layer_norm<T: Float, const TILE_M: usize, const TILE_N: usize>(
    x: Tensor<T, 2>,
    w: Tensor<T, 1>,
    y: TensorMut<T, 2>,
    gain: f32,
) {
    let m = program_id(0);
    let rows = x.load([m, 0], [TILE_M, TILE_N]);
    let (mean, rstd) = moments(rows, x.dim(1) as f32);
    let norm = ((rows.cast::<f32>() - mean) * rstd).cast::<T>();
    let scaled = norm * w.load([0], [TILE_N]) + rows.abs().exp() * full::<f32>([1, 1], gain).cast::<T>()
        - (rows / full::<f32>([1, 1], 3.0).cast::<T>()).tanh();
    let folded = maximum(scaled, scaled.reduce_min(0)) + rows.reduce_sum(1);
    y.store([m, 0], select(folded.gt(scaled.reduce_max(1)), -folded, folded));
}

/// Storage types, integers and bools.
#[tile_kernel]
pub fn conversions<T: Element, const TILE: usize>(
    x: Tensor<T, 1>,
    i: Tensor<i32, 1>,
    mask: Tensor<bool, 1>,
    floats: TensorMut<f32, 1>,
    stored: TensorMut<T, 1>,
    eights: TensorMut<f8E4M3FN, 1>,
    bools: TensorMut<bool, 1>,
) {
    let p = program_id(0);
    let value = x.load([p], [TILE]).cast::<f32>();
    let number = i.load([p], [TILE]);
    let on = mask.load([p], [TILE]);
    let mixed = select(on, value * number.cast::<f32>(), value - number.cast::<f16>().cast::<f32>());
    floats.store([p], mixed + ((mixed.cast::<i32>() / 3 % 5) ^ (number & 6)).cast::<f32>());
    stored.store([p], mixed.cast::<T>());
    eights.store([p], (mixed * 0.25).cast::<f8E4M3FN>());
    bools.store([p], !on & mixed.ge(0.5) | number.lt(-2));
}

/// Element-wise access, a `while` and run-time branches.
#[tile_kernel]
pub fn shuffle<T: Float, const TILE: usize>(
    x: Tensor<T, 2>,
    at: Tensor<i32, 1>,
    y: TensorMut<T, 2>,
    rounds: usize,
) {
    let p = program_id(0);
    let rows = at.load([p], [TILE]).expand_dims(1);
    let cols = iota(TILE).expand_dims(0);
    let mut picked = x.gather_masked([rows, cols], cols.ne(2).broadcast_to([TILE, TILE]));
    let mut round = 0;
    while round < rounds {
        if (round + p) % 2 != 1 {
            picked = picked + picked.t();
        } else {
            picked *= full::<f32>([1, 1], 0.5).cast::<T>();
        }
        round += 1;
    }
    let place = (iota(TILE) + (p * TILE) as i32).expand_dims(1);
    y.scatter([place, cols], picked);
}

/// Sequences of pages: where each starts and how long it is, and which pages it has, are read from tensors.
#[tile_kernel]
pub fn paged<T: Element, const TILE: usize>(
    pages: Tensor<T, 3>,
    table: Tensor<i32, 2>,
    starts: Tensor<i32, 1>,
    gain: Tensor<bf16, 2>,
    out: TensorMut<f32, 2>,
) {
    let b = program_id(0);
    let (start, end) = (starts.at([b]), starts.at([b + 1]));
    check(start <= end, "starts go up");
    let rows = out.slice(0, start as usize, (end - start) as usize).slice(1, 1, 9);
    for j in 0..cdiv(rows.dim(0), TILE) {
        let page = table.at([b, j]) as usize;
        let whole = pages.slice(2, 2, 11).load([page, 0, 0], [1, TILE, TILE]).reshape([TILE, TILE]);
        let one = pages.slice(0, page, 1);
        let lanes = iota(TILE).expand_dims(0);
        let zero = zeros::<i32>([1, TILE]);
        let picked = one.gather([zero, lanes - 1, lanes + 2]);
        let value = (whole.cast::<f32>() + picked.cast::<f32>()) * gain.at([b, j]);
        rows.store([j, 0], if gain.at([j, b]) > 0.5 { value } else { -value });
    }
    let lanes = iota(TILE);
    let last = rows.slice(0, rows.dim(0).saturating_sub(1), 1);
    last.scatter([zeros::<i32>([TILE]), lanes * 2], full::<f32>([TILE], (end - start) as f32));
}

/// One value of one run, for either side.
#[derive(Clone)]
enum Input {
    Tensor(HostTensor),
    Scalar(Scalar),
}

fn same_bits(found: &HostTensor, expected: &DynTensor, what: &str) {
    let bits = |values: Vec<f64>| -> Vec<u64> {
        values.into_iter().map(|x| if x.is_nan() { f64::NAN.to_bits() } else { x.to_bits() }).collect()
    };
    assert_eq!(bits(found.to_f64()), bits(expected.to_f64()), "{what}");
}

/// Runs on the eager device and through the IR.
fn agree(
    kernel: &'static KernelDef,
    dtype: DType,
    consts: &[(&str, i64)],
    inputs: &[Input],
    grid: [usize; 3],
) {
    let bindings = Bindings {
        consts: consts.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
        dtypes: kernel.ast().dtype_params.iter().map(|p| (p.name.clone(), dtype)).collect(),
    };
    let mut tensors: Vec<DynTensor> = Vec::new();
    for input in inputs {
        if let Input::Tensor(t) = input {
            let HostTensor { dtype, shape, strides, data } = t.clone();
            tensors.push(DynTensor { dtype, shape, strides, data });
        }
    }
    let mut rest = tensors.iter_mut();
    let mut args: Vec<DynArg> = inputs
        .iter()
        .map(|input| match input {
            Input::Tensor(_) => DynArg::Tensor(rest.next().unwrap()),
            Input::Scalar(Scalar::F32(x)) => DynArg::Scalar(ScalarValue::F32(*x)),
            Input::Scalar(Scalar::Index(x)) => DynArg::Scalar(ScalarValue::Index(*x)),
            Input::Scalar(other) => panic!("no kernel here takes {other:?}"),
        })
        .collect();
    let config = Config { consts: bindings.consts.clone(), ..Config::default() };
    kernel
        .run_cpu(&mut args, &config, &bindings, grid, CpuOptions { check_races: true, checked: true })
        .unwrap();
    drop(args);
    let given = inputs.iter().filter_map(|i| match i {
        Input::Tensor(t) => Some(&t.data),
        Input::Scalar(_) => None,
    });
    assert!(given.zip(&tensors).any(|(before, after)| *before != after.data), "{kernel:?} stores nothing");

    let program = kernel.instantiate(&bindings).unwrap();
    with_context(|context| {
        let mut module =
            lower_program(&program, &vec![TensorFacts::ALIGNED; tensors.len()], context).unwrap();
        let check = |module: &tile_ir::Module, stage: &str| {
            let mut inputs = inputs.to_vec();
            let mut args: Vec<Arg> = inputs
                .iter_mut()
                .map(|input| match input {
                    Input::Tensor(t) => Arg::Tensor(t),
                    Input::Scalar(s) => Arg::Scalar(*s),
                })
                .collect();
            Interpreter::new(module).unwrap().run(&mut args, grid).unwrap();
            let found = args.into_iter().filter_map(|arg| match arg {
                Arg::Tensor(t) => Some(t),
                Arg::Scalar(_) => None,
            });
            for (i, (found, expected)) in found.zip(&tensors).enumerate() {
                let what = format!("tensor {i} of {kernel:?} {dtype} {consts:?} after {stage}");
                same_bits(found, expected, &what);
            }
        };
        check(&module, "lowering");
        for pass in STANDARD_PASSES {
            run_passes(&mut module, &[*pass]).unwrap_or_else(|e| panic!("{e}"));
            check(&module, pass.name);
        }
    });
}

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

fn pick(random: &mut Random, from: &[usize]) -> usize {
    from[random.below(from.len())]
}

fn zeros_of(dtype: DType, shape: &[usize]) -> Input {
    Input::Tensor(HostTensor::zeros(dtype, shape))
}

#[test]
fn products_agree() {
    let mut random = Random(11);
    for case in 0..30 {
        let dtype = FLOATS[case % 3];
        let [m, n, k] = [0; 3].map(|_| 1 + random.below(70));
        let [tile_m, tile_n, tile_k] = [0; 3].map(|_| pick(&mut random, &[1, 4, 16, 32, 64]));
        let inputs = [
            Input::Tensor(random.tensor(dtype, &[m, k])),
            Input::Tensor(random.tensor(dtype, &[n, k])),
            zeros_of(dtype, &[m, n]),
        ];
        let consts = [("TILE_M", tile_m as i64), ("TILE_N", tile_n as i64), ("TILE_K", tile_k as i64)];
        agree(&product::KERNEL, dtype, &consts, &inputs, [m.div_ceil(tile_m), n.div_ceil(tile_n), 1]);
    }
}

#[test]
fn attention_agrees() {
    let mut random = Random(12);
    for case in 0..24 {
        let dtype = FLOATS[case % 3];
        let (seq_q, seq_k) = (1 + random.below(50), 1 + random.below(70));
        let (kv_heads, group) = (pick(&mut random, &[1, 2]), pick(&mut random, &[1, 3]));
        let head_dim = pick(&mut random, &[16, 64]);
        let [tile_m, tile_n] = [0; 2].map(|_| pick(&mut random, &[8, 16, 32]));
        let heads = kv_heads * group;
        let inputs = [
            Input::Tensor(random.tensor(dtype, &[heads, seq_q, head_dim])),
            Input::Tensor(random.tensor(dtype, &[kv_heads, seq_k, head_dim])),
            Input::Tensor(random.tensor(dtype, &[kv_heads, seq_k, head_dim])),
            zeros_of(dtype, &[heads, seq_q, head_dim]),
            Input::Scalar(Scalar::F32(0.3)),
        ];
        let causal = random.below(2) as i64;
        let consts = [
            ("HEAD_DIM", head_dim as i64),
            ("TILE_M", tile_m as i64),
            ("TILE_N", tile_n as i64),
            ("CAUSAL", causal),
        ];
        agree(&attention::KERNEL, dtype, &consts, &inputs, [seq_q.div_ceil(tile_m), heads, 1]);
    }
}

#[test]
fn row_operations_agree() {
    let mut random = Random(13);
    for case in 0..24 {
        let dtype = FLOATS[case % 3];
        let (rows, cols) = (1 + random.below(20), 1 + random.below(64));
        let (tile_m, tile_n) = (pick(&mut random, &[1, 4, 8]), cols.next_power_of_two());
        let inputs = [
            Input::Tensor(random.tensor(dtype, &[rows, cols])),
            Input::Tensor(random.tensor(dtype, &[cols])),
            zeros_of(dtype, &[rows, cols]),
            Input::Scalar(Scalar::F32(0.7)),
        ];
        let consts = [("TILE_M", tile_m as i64), ("TILE_N", tile_n as i64)];
        agree(&layer_norm::KERNEL, dtype, &consts, &inputs, [rows.div_ceil(tile_m), 1, 1]);
    }
}

#[test]
fn conversions_agree() {
    let mut random = Random(14);
    let dtypes = [DType::F32, DType::F16, DType::BF16, DType::I32, DType::F8E4M3FN, DType::F4E2M1FN];
    for dtype in dtypes {
        let len = 200 + random.below(50);
        let wide = |random: &mut Random| -> Vec<f64> {
            (0..len)
                .map(|i| if i % 37 == 0 { 1e6 } else { random.next() * f64::from(1 << (i % 12)) })
                .collect()
        };
        let x = HostTensor::from_f64(dtype, &[len], &wide(&mut random));
        let numbers: Vec<f64> = wide(&mut random).into_iter().map(f64::trunc).collect();
        let mask: Vec<f64> = (0..len).map(|_| random.below(2) as f64).collect();
        let inputs = [
            Input::Tensor(x),
            Input::Tensor(HostTensor::from_f64(DType::I32, &[len], &numbers)),
            Input::Tensor(HostTensor::from_f64(DType::Bool, &[len], &mask)),
            zeros_of(DType::F32, &[len]),
            zeros_of(dtype, &[len]),
            zeros_of(DType::F8E4M3FN, &[len]),
            zeros_of(DType::Bool, &[len]),
        ];
        agree(&conversions::KERNEL, dtype, &[("TILE", 32)], &inputs, [len.div_ceil(32), 1, 1]);
    }
}

#[test]
fn element_access_agrees() {
    let mut random = Random(15);
    for case in 0..18 {
        let dtype = FLOATS[case % 3];
        let (rows, cols) = (1 + random.below(30), 1 + random.below(12));
        let indices: Vec<f64> = (0..rows).map(|_| random.below(rows + 4) as f64 - 2.0).collect();
        let inputs = [
            Input::Tensor(random.tensor(dtype, &[rows, cols])),
            Input::Tensor(HostTensor::from_f64(DType::I32, &[rows], &indices)),
            zeros_of(dtype, &[rows, cols]),
            Input::Scalar(Scalar::Index(case % 4)),
        ];
        agree(&shuffle::KERNEL, dtype, &[("TILE", 8)], &inputs, [rows.div_ceil(8), 1, 1]);
    }
}

#[test]
fn single_elements_and_slices_agree() {
    let mut random = Random(16);
    for case in 0..24 {
        let dtype = [DType::F32, DType::F16, DType::F8E4M3FN, DType::F4E2M1FN, DType::I32][case % 5];
        let (batch, tile) = (1 + random.below(4), pick(&mut random, &[4, 8]));
        let (pages, rows, cols) = (1 + random.below(5), 1 + random.below(9), 1 + random.below(16));
        let mut starts = vec![random.below(3) as f64];
        for _ in 0..batch {
            starts.push(starts[starts.len() - 1] + random.below(20) as f64);
        }
        // Some pages there are not, and the last sequences reach beyond the output.
        let numbers: Vec<f64> = (0..batch * 3).map(|_| random.below(pages + 3) as f64 - 2.0).collect();
        let inputs = [
            Input::Tensor(random.tensor(dtype, &[pages, rows, cols])),
            Input::Tensor(HostTensor::from_f64(DType::I32, &[batch, 3], &numbers)),
            Input::Tensor(HostTensor::from_f64(DType::I32, &[batch + 1], &starts)),
            Input::Tensor(random.tensor(DType::BF16, &[3, 3])),
            zeros_of(DType::F32, &[4 + random.below(40), 7]),
        ];
        agree(&paged::KERNEL, dtype, &[("TILE", tile as i64)], &inputs, [batch, 1, 1]);
    }
}
