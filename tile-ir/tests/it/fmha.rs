//! Attention through the compiler's front half, against an oracle in f64.

use crate::interpret::{Random, relative_error};
use crate::kernels::{FMHA, lower, program};
use tile_ir::interpret::{Arg, HostTensor, Interpreter, Scalar};
use tile_ir::types::{name_of, nested_ops};
use tile_ir::{STANDARD_PASSES, passes, run_passes, verify, with_context};
use tile_lang::DType;

#[derive(Clone, Copy)]
struct Shape {
    heads: usize,
    kv_heads: usize,
    seq_q: usize,
    seq_k: usize,
    head_dim: usize,
    causal: bool,
}

/// The rows (over all heads) that the oracle computes: all, or a spread of a few hundred.
fn rows(s: Shape) -> impl Iterator<Item = usize> {
    let count = s.heads * s.seq_q;
    (0..count).step_by((count / 331).max(1))
}

/// Softmax of the scaled products of each query with the keys it sees, times the values; zero when it sees none.
fn oracle(s: Shape, q: &[f64], k: &[f64], v: &[f64], scale: f64) -> Vec<f64> {
    let mut out = Vec::new();
    for at in rows(s) {
        let (head, row) = (at / s.seq_q, at % s.seq_q);
        let kv = head / (s.heads / s.kv_heads);
        {
            let query = &q[(head * s.seq_q + row) * s.head_dim..][..s.head_dim];
            let seen =
                if s.causal { (row + 1 + s.seq_k).saturating_sub(s.seq_q).min(s.seq_k) } else { s.seq_k };
            let line = |t: usize| (kv * s.seq_k + t) * s.head_dim;
            let dots: Vec<f64> = (0..seen)
                .map(|t| {
                    k[line(t)..][..s.head_dim].iter().zip(query).map(|(a, b)| a * b).sum::<f64>() * scale
                })
                .collect();
            let max = dots.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = dots.iter().map(|d| (d - max).exp()).collect();
            let total: f64 = weights.iter().sum();
            for c in 0..s.head_dim {
                let sum: f64 = weights.iter().enumerate().map(|(t, w)| w * v[line(t) + c]).sum();
                out.push(if seen == 0 { 0.0 } else { sum / total });
            }
        }
    }
    out
}

/// Error that rounding inputs' products, weights and output to the dtype accounts for.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 1e-5,
        DType::F16 => 2e-3,
        _ => 1.5e-2,
    }
}

/// Runs the kernel before and after the passes, and compares with the oracle.
fn check(dtype: DType, s: Shape, [tile_m, tile_n]: [i64; 2]) {
    let consts = [
        ("HEAD_DIM", s.head_dim as i64),
        ("TILE_M", tile_m),
        ("TILE_N", tile_n),
        ("CAUSAL", i64::from(s.causal)),
    ];
    let program = program(FMHA, &consts, dtype);
    let mut random = Random(3);
    let q = random.tensor(dtype, &[1, s.heads, s.seq_q, s.head_dim]);
    let [k, v] = [0, 1].map(|_| random.tensor(dtype, &[1, s.kv_heads, s.seq_k, s.head_dim]));
    let scale = 1.0 / (s.head_dim as f64).sqrt();
    let grid = [s.seq_q.div_ceil(tile_m as usize), s.heads, 1];
    let run = |interpreter: &Interpreter| {
        let (mut q, mut k, mut v) = (q.clone(), k.clone(), v.clone());
        let mut out = HostTensor::zeros(dtype, &[1, s.heads, s.seq_q, s.head_dim]);
        let mut args = [&mut q, &mut k, &mut v, &mut out].map(Arg::Tensor).into_iter().collect::<Vec<_>>();
        args.push(Arg::Scalar(Scalar::F32(scale as f32)));
        let start = std::time::Instant::now();
        interpreter.run(&mut args, grid).unwrap();
        println!("{dtype} {}x{}: {:.2} s", s.seq_q, s.seq_k, start.elapsed().as_secs_f64());
        out
    };
    let results = with_context(|context| {
        let mut module = lower(context, &program);
        verify(&module).unwrap();
        assert_eq!(verify::ops_without_place(&module), Vec::<String>::new());
        let plain = Interpreter::new(&module).unwrap();
        run_passes(&mut module, STANDARD_PASSES).unwrap();
        assert_eq!(verify::ops_without_place(&module), Vec::<String>::new());
        [run(&plain), run(&Interpreter::new(&module).unwrap())]
    });
    assert_eq!(results[0].data, results[1].data, "the passes changed the result");
    let reference = oracle(s, &q.to_f64(), &k.to_f64(), &v.to_f64(), scale);
    let found = results[1].to_f64();
    let found: Vec<f64> = rows(s).flat_map(|at| &found[at * s.head_dim..][..s.head_dim]).copied().collect();
    let error = relative_error(&found, &reference);
    assert!(error < tolerance(dtype), "{dtype} {} x {}: relative error {error}", s.seq_q, s.seq_k);
}

const BASE: Shape = Shape { heads: 1, kv_heads: 1, seq_q: 9, seq_k: 9, head_dim: 128, causal: true };

#[test]
fn short_sequences() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for causal in [false, true] {
            check(dtype, Shape { causal, ..BASE }, [64, 64]);
            for seq_q in [1, 15, 32] {
                for seq_k in [32, 63] {
                    check(dtype, Shape { seq_q, seq_k, head_dim: 64, causal, ..BASE }, [16, 32]);
                }
            }
        }
        // More queries than keys: the first see none.
        check(dtype, Shape { seq_q: 40, seq_k: 7, head_dim: 64, ..BASE }, [16, 32]);
    }
}

#[test]
fn grouped_heads() {
    for kv_heads in [8, 2, 1] {
        check(DType::F16, Shape { heads: 8, kv_heads, seq_q: 33, seq_k: 65, ..BASE }, [32, 32]);
    }
}

#[test]
fn long_causal_sequence_of_many_heads() {
    check(DType::BF16, Shape { heads: 32, kv_heads: 32, seq_q: 2047, seq_k: 2047, ..BASE }, [64, 64]);
}

/// How many operations of a name lie inside loops, and how many there are.
fn counts(module: &tile_ir::Module, name: &str) -> (usize, usize) {
    let ops = nested_ops(module.function());
    let inside = |op: &tile_ir::types::Op| {
        use melior::ir::operation::OperationLike;
        op.parent_operation().is_some_and(|parent| name_of(parent) == "scf.for")
    };
    let named: Vec<_> = ops.into_iter().filter(|op| name.is_empty() || name_of(*op) == name).collect();
    (named.iter().filter(|op| inside(op)).count(), named.len())
}

/// Each pass fires on the kernel, by its effect.
#[test]
fn passes_fire_on_fmha() {
    with_context(|context| {
        let consts = [("HEAD_DIM", 64), ("TILE_M", 64), ("TILE_N", 32), ("CAUSAL", 1)];
        let mut module = lower(context, &program(FMHA, &consts, DType::F16));
        let lowered = counts(&module, "");
        let mut plain = module.clone();
        run_passes(&mut plain, &[passes::CSE]).unwrap();
        let deduplicated = counts(&plain, "");
        assert!(deduplicated.1 + 10 <= lowered.1, "cse: {lowered:?} to {deduplicated:?}");
        run_passes(&mut module, &[passes::CANONICALIZE]).unwrap();
        let canonical = counts(&module, "");
        assert!(canonical.1 + 10 <= lowered.1, "canonicalize: {lowered:?} to {canonical:?}");
        assert_eq!(counts(&module, "tile.splat").1, 4, "{}", module.to_text());
        let iotas = counts(&module, "tile.iota");
        run_passes(&mut module, &[passes::HOIST_INVARIANTS]).unwrap();
        let hoisted = counts(&module, "");
        assert_eq!(hoisted.1, canonical.1, "hoisting moves");
        assert!(hoisted.0 + 3 <= canonical.0, "hoist: {canonical:?} to {hoisted:?}");
        assert_eq!((iotas.0, counts(&module, "tile.iota").0), (1, 0));
    });
}

/// How long the front half of a compilation takes, for information.
#[test]
fn front_half_is_quick() {
    with_context(|context| {
        let consts = [("HEAD_DIM", 128), ("TILE_M", 64), ("TILE_N", 64), ("CAUSAL", 1)];
        let program = program(FMHA, &consts, DType::BF16);
        let mut best_ms = f64::INFINITY;
        for _ in 0..20 {
            let start = std::time::Instant::now();
            let mut module = lower(context, &program);
            run_passes(&mut module, STANDARD_PASSES).unwrap();
            best_ms = best_ms.min(start.elapsed().as_secs_f64() * 1e3);
        }
        println!("lowering and standard passes: {best_ms:.2} ms");
        assert!(best_ms < 50.0, "{best_ms} ms");
    });
}
