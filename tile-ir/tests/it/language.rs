//! Every construct of the language, from source to results.

use crate::kernels::{lower, program};
use tile_ir::interpret::{Arg, HostTensor, Interpreter, Scalar};
use tile_ir::{LowerError, Module, STANDARD_PASSES, lower_program, run_passes, with_context};
use tile_lang::DType;
use tile_lang::config::TensorFacts;

/// Runs a kernel on tensors and scalars, before and after the passes (and a trip through text), which must agree.
fn run(source: &str, tensors: &mut [HostTensor], scalars: &[Scalar], grid: [usize; 3]) {
    let program = program(source, &[("N", 8)], DType::F32);
    let mut results = with_context(|context| {
        let mut module = lower(context, &program);
        let plain = Interpreter::new(&module).unwrap();
        let text = module.to_text();
        assert_eq!(Module::parse(context, &text).unwrap().to_text(), text);
        run_passes(&mut module, STANDARD_PASSES).unwrap_or_else(|e| panic!("{e}"));
        let optimized = Interpreter::new(&Module::parse(context, &module.to_text()).unwrap()).unwrap();
        [plain, optimized].map(|interpreter| {
            let mut tensors = tensors.to_vec();
            let mut args: Vec<_> = tensors.iter_mut().map(Arg::Tensor).collect();
            args.extend(scalars.iter().map(|s| Arg::Scalar(*s)));
            interpreter.run(&mut args, grid).unwrap();
            drop(args);
            tensors
        })
    });
    assert_eq!(results[0], results[1]);
    tensors.clone_from_slice(&std::mem::take(&mut results[1]));
}

fn vector(dtype: DType, values: &[f64]) -> HostTensor {
    HostTensor::from_f64(dtype, &[values.len()], values)
}

fn out(len: usize) -> HostTensor {
    HostTensor::zeros(DType::F32, &[len])
}

#[test]
fn scalars_loops_and_branches() {
    let source = "
    #[tile_kernel]
    fn k<const N: usize>(o: TensorMut<f32, 1>, n: usize, x: f32, flag: bool, i: i32) {
        let mut steps = 0usize;
        let mut value = n;
        while value != 1 && steps < 100 {
            if value % 2 == 0 { value = value / 2; } else { value = 3 * value + 1; }
            steps += 1;
        }
        let mut sum = 0.0;
        for j in (0..n).step_by(3) {
            let (a, b) = (j as f32, x);
            sum += if flag { a * b } else { a - b };
        }
        let bits = ((i << 2) ^ 5) & 0xff | 256;
        let trunc = i / 3 * 100 + i % 3;
        let safe = n > 100 && 7 / (n - n) > 0;
        let clipped = x.min(1.5).max(-1.0);
        let base = full::<f32>([1], 0.0);
        o.store([0], base + steps as f32);
        o.store([1], base + sum);
        o.store([2], base + bits as f32);
        o.store([3], base + trunc as f32);
        o.store([4], base + if safe || !flag { 1.0 } else { 2.0 });
        o.store([5], base + clipped);
        o.store([6], base + (x.exp2() + x.sqrt() + (-x).abs() + x.ln() + x.tanh()));
        o.store([7], base + ((x as i32) as f32 + (n as i64 - 20) as f32));
    }";
    let mut tensors = [out(8)];
    let scalars = [Scalar::Index(27), Scalar::F32(2.5), Scalar::Bool(true), Scalar::I32(-7)];
    run(source, &mut tensors, &scalars, [1, 1, 1]);
    let x = 2.5f32;
    let sum: f32 = (0..27).step_by(3).map(|j| j as f32 * x).sum();
    let bits = ((-7 << 2) ^ 5) & 0xff | 256;
    let math = x.exp2() + x.sqrt() + x + x.ln() + x.tanh();
    let expected = [100.0, sum, bits as f32, -201.0, 2.0, 1.5, math, 9.0];
    let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
    assert_eq!(tensors[0].to_f64(), expected);
}

#[test]
fn gather_and_scatter() {
    let source = "
    #[tile_kernel]
    fn k<const N: usize>(a: Tensor<f32, 2>, o: TensorMut<f32, 2>) {
        let rows = iota(N).expand_dims(1);
        let cols = iota(N).expand_dims(0);
        let turned = a.gather([(N as i32 - 1) - cols, rows]);
        let odd = (rows + cols) % 2;
        let mask = odd.eq(1).broadcast_to([N, N]);
        o.scatter_masked([rows - 1, cols], turned, mask & !cols.gt(5));
        let picked = a.gather_masked([rows, cols], odd.eq(0) | rows.lt(1));
        o.scatter([rows + N as i32, cols], picked);
    }";
    let values: Vec<f64> = (0..7 * 6).map(|i| f64::from(i) + 1.0).collect();
    let mut tensors =
        [HostTensor::from_f64(DType::F32, &[7, 6], &values), HostTensor::zeros(DType::F32, &[14, 6])];
    run(source, &mut tensors, &[], [1, 1, 1]);
    let at = |r: i64, c: i64| {
        if (0..7).contains(&r) && (0..6).contains(&c) { values[(r * 6 + c) as usize] } else { 0.0 }
    };
    let mut expected = vec![0.0; 14 * 6];
    for (r, c) in (0..8).flat_map(|r| (0..8).map(move |c| (r, c))) {
        let mut put = |row: i64, value: f64| {
            if (0..14).contains(&row) && c < 6 {
                expected[(row * 6 + c) as usize] = value;
            }
        };
        if (r + c) % 2 == 1 && c <= 5 {
            put(r - 1, at(7 - c, r));
        }
        put(r + 8, if (r + c) % 2 == 0 || r < 1 { at(r, c) } else { 0.0 });
    }
    assert_eq!(tensors[1].to_f64(), expected);
}

#[test]
fn tiles_and_helpers() {
    let source = "
    fn normalize<T: Float>(x: Tile<T>, axis_sum: Tile<f32>) -> (Tile<f32>, Tile<f32>) {
        let wide = x.cast::<f32>();
        (wide / axis_sum, -wide)
    }
    #[tile_kernel]
    fn k<const N: usize>(a: Tensor<f16, 2>, s: Tensor<f8E4M3FN, 2>, o: TensorMut<f32, 2>, q: TensorMut<f4E2M1FN, 2>) {
        let p = program_id(0);
        let x = a.load([p, 0], [N, N]);
        let (norm, negated) = normalize(x, x.cast::<f32>().reduce_sum(1));
        let stored = s.load([p, 0], [N, N]).cast::<f32>();
        let mixed = fma(norm, stored, maximum(negated, 0.25)) + x.t().cast::<f32>();
        let big = mixed.gt(1.0) | !mixed.ge(-1.0);
        let chosen = select(big, mixed.abs().sqrt(), mixed * 2.0);
        o.store([p, 0], chosen.permute([1, 0]));
        o.store([p, 1], chosen.reduce_max(0).broadcast_to([N, N]));
        q.store([p, 0], chosen.cast::<f4E2M1FN>());
    }";
    let mut random = crate::interpret::Random(5);
    let a = random.tensor(DType::F16, &[16, 8]);
    let s = random.tensor(DType::F8E4M3FN, &[16, 8]);
    let mut tensors = [
        a.clone(),
        s.clone(),
        HostTensor::zeros(DType::F32, &[16, 16]),
        HostTensor::zeros(DType::F4E2M1FN, &[16, 8]),
    ];
    run(source, &mut tensors, &[], [2, 1, 1]);
    let (a, s) = (a.to_f64(), s.to_f64());
    let (found, small) = (tensors[2].to_f64(), tensors[3].to_f64());
    for p in 0..2 {
        let at = |t: &[f64], r: usize, c: usize| t[(p * 8 + r) * 8 + c] as f32;
        let value = |r: usize, c: usize| {
            let sum: f32 = (0..8).map(|c| at(&a, r, c)).sum();
            let mixed = (at(&a, r, c) / sum).mul_add(at(&s, r, c), (-at(&a, r, c)).max(0.25)) + at(&a, c, r);
            if mixed.abs() > 1.0 { mixed.abs().sqrt() } else { mixed * 2.0 }
        };
        for (r, c) in (0..8).flat_map(|r| (0..8).map(move |c| (r, c))) {
            let close = |x: f64, y: f32| (x - f64::from(y)).abs() <= 1e-5 * f64::from(y).abs().max(1.0);
            assert!(close(found[(p * 8 + c) * 16 + r], value(r, c)), "[{p}, {r}, {c}]");
            let max = (0..8).map(|r| value(r, c)).fold(f32::MIN, f32::max);
            assert!(close(found[(p * 8 + r) * 16 + 8 + c], max), "max of [{p}, {c}]");
            let near = small[(p * 8 + r) * 8 + c];
            assert!(
                (near - f64::from(value(r, c).clamp(-6.0, 6.0))).abs() <= 1.0,
                "{near} of {}",
                value(r, c)
            );
        }
    }
}

#[test]
fn checks_name_line_and_program() {
    let source = "
    #[tile_kernel]
    fn k<const N: usize>(a: Tensor<i32, 1>, o: TensorMut<f32, 1>) {
        let i = program_id(0);
        check(a.at([i]) != 7, \"seven\");
        o.store([i], full::<f32>([1], 1.0));
    }";
    let check = |numbers: &[f64]| {
        let program = program(source, &[("N", 8)], DType::F32);
        let mut tensors = [vector(DType::I32, numbers), out(3)];
        with_context(|context| {
            let mut module = lower(context, &program);
            run_passes(&mut module, STANDARD_PASSES).unwrap_or_else(|e| panic!("{e}"));
            let mut args: Vec<_> = tensors.iter_mut().map(Arg::Tensor).collect();
            Interpreter::new(&module).unwrap().run(&mut args, [3, 1, 1]).map_err(|e| e.to_string())
        })
    };
    assert_eq!(check(&[1.0, 2.0, 3.0]), Ok(()));
    assert_eq!(
        check(&[1.0, 7.0, 3.0]),
        Err("kernel.rs:5:9: program [1, 0, 0]: check failed: seven".to_owned())
    );
    let unchecked = program(source, &[("N", 8)], DType::F32).without_checks();
    with_context(|context| assert!(!lower(context, &unchecked).to_text().contains("tile.check")));
}

#[test]
fn the_last_to_arrive_sees_all_parts() {
    let source = "
    #[tile_kernel]
    fn k<const N: usize>(parts: TensorMut<f32, 2>, counters: TensorMut<i32, 1>, o: TensorMut<f32, 1>) {
        let (i, j) = (program_id(0), program_id(1));
        parts.store([i, j], full::<f32>([1, 1], 1.0));
        if counters.arrive_last([i], num_programs(1)) {
            o.store([i], parts.load([i, 0], [1, N]).reduce_sum(1).reshape([1]));
        }
    }";
    for _ in 0..20 {
        // The last row has no counter.
        let mut tensors = [HostTensor::zeros(DType::F32, &[5, 8]), vector(DType::I32, &[0.0; 4]), out(5)];
        run(source, &mut tensors, &[], [5, 8, 1]);
        assert_eq!(tensors[1].to_f64(), [0.0; 4]);
        assert_eq!(tensors[2].to_f64(), [8.0, 8.0, 8.0, 8.0, 0.0]);
    }
}

#[test]
fn products_with_scales() {
    let source = "
    #[tile_kernel]
    fn k<const N: usize>(
        a: Tensor<f4E2M1FN, 2>, sa: Tensor<f8E4M3FN, 2>, b: Tensor<f4E2M1FN, 2>, sb: Tensor<f8E4M3FN, 2>,
        o: TensorMut<f32, 2>, thirds: TensorMut<f32, 2>,
    ) {
        let mut acc = full::<f32>([N, 4], 0.5);
        for k in 0..cdiv(a.dim(1), 32) {
            let (x, y) = (a.load([0, k], [N, 32]), b.load([0, k], [4, 32]));
            let (sx, sy) = (sa.load([0, k], [N, 2]), sb.load([0, k], [4, 2]));
            acc = mma_scaled(x, sx, y.t(), sy.t(), acc);
        }
        o.store([0, 0], acc);
        thirds.store([0, 0], div_rn(acc, 3.0));
    }";
    let mut random = crate::interpret::Random(9);
    let elements = [[7, 48], [3, 48]].map(|shape| random.tensor(DType::F4E2M1FN, &shape));
    let scales = [[7, 3], [3, 3]].map(|shape| random.tensor(DType::F8E4M3FN, &shape));
    let [a, b] = elements;
    let [sa, sb] = scales;
    let out = || HostTensor::zeros(DType::F32, &[7, 3]);
    let mut tensors = [a.clone(), sa.clone(), b.clone(), sb.clone(), out(), out()];
    run(source, &mut tensors, &[], [1, 1, 1]);
    let [a, sa, b, sb] = [a, sa, b, sb].map(|t| t.to_f64());
    let (found, thirds) = (tensors[4].to_f64(), tensors[5].to_f64());
    for (m, n) in (0..7).flat_map(|m| (0..3).map(move |n| (m, n))) {
        let term = |k: usize| a[m * 48 + k] * sa[m * 3 + k / 16] * b[n * 48 + k] * sb[n * 3 + k / 16];
        let expected: f64 = 0.5 + (0..48).map(term).sum::<f64>();
        let size: f64 = 0.5 + (0..48).map(|k| term(k).abs()).sum::<f64>();
        let at = m * 3 + n;
        assert!((found[at] - expected).abs() <= 1e-6 * size, "[{m}, {n}]: {} {expected}", found[at]);
        assert_eq!(thirds[at], f64::from(found[at] as f32 / 3.0));
    }
}

#[test]
fn carried_values_of_while_and_if() {
    let source = "
    #[tile_kernel]
    fn k<const N: usize>(a: Tensor<f32, 1>, o: TensorMut<f32, 1>, limit: f32, rounds: i32) {
        let x = a.load([program_id(0)], [N]);
        let mut acc = x;
        let mut scale = 1.0;
        let mut i = 0i32;
        while i < rounds {
            let old = acc;
            if scale < limit {
                acc = acc + x * scale;
                scale = scale * 2.0;
            }
            for j in 0..2 {
                acc = acc + if j == 0 { old } else { zeros::<f32>([N]) };
            }
            i += 1;
        }
        o.store([program_id(0)], acc);
    }";
    let values: Vec<f64> = (0..19).map(f64::from).collect();
    let mut tensors = [vector(DType::F32, &values), out(19)];
    run(source, &mut tensors, &[Scalar::F32(4.0), Scalar::I32(5)], [3, 1, 1]);
    let mut factor = 1.0;
    let mut scale = 1.0;
    for _ in 0..5 {
        let old = factor;
        if scale < 4.0 {
            factor += scale;
            scale *= 2.0;
        }
        factor += old;
    }
    let expected: Vec<f64> = values.iter().map(|v| v * factor).collect();
    assert_eq!(tensors[1].to_f64(), expected);
}

#[test]
fn errors_point_at_the_source() {
    use crate::programs::matmul;
    use tile_lang::typed::{ExprKind, Stmt, TypedDType};
    with_context(|context| {
        let mut program = matmul(DType::F16, [16, 16, 16]);
        if let Stmt::Let { value, .. } = &mut program.body[0] {
            value.kind = ExprKind::Const("TILE_M".into());
        }
        let error = lower_program(&program, &[TensorFacts::ALIGNED; 3], context).unwrap_err();
        assert_eq!(error.to_string(), "kernels/matmul.rs:3:5: `TILE_M` has no value");
        let mut program = matmul(DType::F16, [16, 16, 16]);
        if let tile_lang::typed::ParamKind::Tensor { dtype, .. } = &mut program.params[1].kind {
            *dtype = TypedDType::Param("T".into());
        }
        let error = lower_program(&program, &[TensorFacts::ALIGNED; 3], context).unwrap_err();
        assert!(matches!(&error, LowerError::Unbound { name, .. } if name == "T"), "{error}");
    });
}
