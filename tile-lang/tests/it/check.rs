//! The checker: what it makes of kernels, and what it says of mistakes.

use crate::kernels::{FMHA, MATMUL};
use crate::support::{bind, functions, library, render};
use tile_lang::typed::{Program, Stmt, Type};
use tile_lang::{Bindings, DType, Diagnostic, Mode};

fn symbolic(source: &str) -> Result<Program, Vec<Diagnostic>> {
    let list = functions(source);
    let kernel = list.last().expect("a function");
    tile_lang::check(kernel, &|_, _| None, &Bindings::default(), Mode::Symbolic)
}

fn bound(source: &str, consts: &[(&str, i64)]) -> Result<Program, Vec<Diagnostic>> {
    library(source).check(&bind(consts, DType::BF16), Mode::Bound)
}

const FMHA_SIZES: [(&str, i64); 4] = [("TILE_M", 64), ("TILE_N", 32), ("HEAD_DIM", 128), ("CAUSAL", 1)];

#[track_caller]
fn accepted(result: Result<Program, Vec<Diagnostic>>) -> Program {
    result.unwrap_or_else(|errors| panic!("{}", render(&errors)))
}

#[test]
fn kernels_check_with_sizes_unbound() {
    accepted(symbolic(MATMUL));
    accepted(symbolic(FMHA));
}

#[test]
fn matmul_binds() {
    let program = accepted(bound(MATMUL, &[("TILE_M", 64), ("TILE_N", 32), ("TILE_K", 16)]));
    let Some(Stmt::For { carried, body, .. }) = program.body.iter().find(|s| matches!(s, Stmt::For { .. }))
    else {
        panic!("a loop")
    };
    let names: Vec<_> = carried.iter().map(|v| program.vars[*v].name.as_str()).collect();
    assert_eq!(names, ["acc"]);
    assert_eq!(body.len(), 3);
    let Some(Stmt::Store { value, .. }) = program.body.last() else { panic!("a store") };
    assert_eq!((value.ty.dtype(), value.ty.shape()), (DType::BF16, vec![64, 32]));
    fully_bound(&program);
}

#[test]
fn fmha_binds_and_folds_its_switch() {
    for causal in [0, 1] {
        let mut sizes = FMHA_SIZES;
        sizes[3].1 = causal;
        let program = accepted(bound(FMHA, &sizes));
        fully_bound(&program);
        assert!(!program.body.iter().any(|s| matches!(s, Stmt::If { .. })), "CAUSAL is folded");
        let Some(Stmt::For { carried, .. }) = program.body.iter().find(|s| matches!(s, Stmt::For { .. }))
        else {
            panic!("a loop")
        };
        let names: Vec<_> = carried.iter().map(|v| program.vars[*v].name.as_str()).collect();
        assert_eq!(names, ["sum", "acc", "max"]);
    }
}

/// Every type a number, so that lowering has no questions.
fn fully_bound(program: &Program) {
    for var in &program.vars {
        assert!(var.ty != Type::Unit, "{}", var.name);
        var.ty.dtype();
        var.ty.shape();
    }
}

/// Code of every kind, inside `fn k<T: Float, const M: usize, const FLAG: bool>(..)`.
const ACCEPTED: &[&str] = &[
    "let mut i = 0; while i < z { i += 1; }",
    "let mut i = 0; while i < z && s > 0.5 { i += 1; if i == 3 { i = i * 2; } else if FLAG { i = 0; } }",
    "let x = if s > 0.0 { 1.0 } else { s.exp2() }; c.store([0, 0], full::<T>([M, M], x));",
    "let (x, y) = if z > 1 { (iota(M), 1) } else { (iota(M) * 2, n) }; let w = x + y;",
    "let x = { let t = s * 2.0; t + 1.0 }; let y: f32 = x.max(0.0).min(s).sqrt().recip().mul_add(s, s);",
    "let half = M / 2; let x = zeros::<f32>([half, 2]).reshape([M]);",
    "let x = zeros::<f32>([M, M / 2]) + zeros::<f32>([M, 1]) * ones::<f32>([M / 2]);",
    "let x = if FLAG { zeros::<f32>([M, 2]) } else { zeros::<f32>([2, M]) }; let y = x.reduce_sum(0);",
    "let x = iota(M).ge(3) & !iota(M).eq(n) | iota(M).cast::<f32>().lt(s);",
    "let x = a.load([0, z], [M, M]).cast::<f32>().abs().log2().rsqrt().tanh(); c.store([0, 0], x.cast::<T>());",
    "let i = iota(M).expand_dims(1); let j = iota(M); let m = i.lt(j);\n\
     let g = a.gather_masked([i * 2, j], m); c.scatter_masked([i, j], g, m); c.scatter([i, j], g);",
    "let x = select(iota(M).lt(4), 1.0, 0.0); let y = iota(M).lt(4).select(x, 2.0 - x);",
    "let x = fma(zeros::<f32>([M]), s, ones::<f32>([M])); let y = 2.0 * x - s / x; let w = -y % 2.0;",
    "let x = (z as i32 - 1) << 2; let y = x.abs().max(n).clamp(0, 8) as f32 * s; let w = !(y < 1.0) || z == 0;",
    "for i in (0..z).step_by(2) { let q = i.div_ceil(2).saturating_sub(1); c.store([q, i], zeros::<T>([M, M])); }",
    "let mut p = (zeros::<f32>([M])); let mut q = ones::<f32>([M]); for i in 0..3 { (p, q) = (q, p + q); }",
    "let x = 3; let x = x as usize + z; let x = x * M; const W: usize = 16; let y = zeros::<f32>([W, 2 * W]);",
    "let t = a; let x = t.load([t.dim(0), 0], [1, M]).squeeze(0).permute([0]).broadcast_to([4, M]).t();",
    "let x = zeros::<F8E4M3FN>([M, 16]); let acc = mma(x, x.reshape([16, M]), zeros::<f32>([M, M]));",
    "let _ = iota(M); let big = num_programs(2) * 7; if big > 3 { c.store([0, 0], zeros::<T>([M, 1])) }",
];

fn wrap(body: &str) -> String {
    format!(
        "fn k<T: Float, const M: usize, const FLAG: bool>(\n\
         a: Tensor<T, 2>, c: TensorMut<T, 2>, s: f32, n: i32, z: usize) {{\n{body}\n}}"
    )
}

#[test]
fn the_surface_is_accepted_unbound_and_bound() {
    for body in ACCEPTED {
        let source = wrap(body);
        if let Err(errors) = symbolic(&source) {
            panic!("{body}\n{}", render(&errors));
        }
        for flag in [0, 1] {
            match bound(&source, &[("M", 16), ("FLAG", flag)]) {
                Ok(program) => fully_bound(&program),
                Err(errors) => panic!("{body}\n{}", render(&errors)),
            }
        }
    }
}

#[test]
fn operands_are_read_before_later_operands_change_them() {
    let program = accepted(bound(
        "fn k(c: TensorMut<f32, 1>, z: usize) { let mut x = z; let y = x + { x = x + 1; x }; \
         c.store([y], zeros::<f32>([1])); }",
        &[],
    ));
    let kinds: Vec<_> = program
        .body
        .iter()
        .map(|s| match s {
            Stmt::Let { var, .. } => format!("let {}", program.vars[*var].name),
            Stmt::Assign { var, .. } => format!("set {}", program.vars[*var].name),
            _ => "store".to_owned(),
        })
        .collect();
    assert_eq!(kinds, ["let x", "let ", "set x", "let y", "store"]);
}

#[test]
fn stores_of_matmul_and_fmha_are_disjoint() {
    let matmul = accepted(bound(MATMUL, &[("TILE_M", 64), ("TILE_N", 32), ("TILE_K", 16)]));
    let axes = |p: &Program| tile_lang::disjoint::unproved_axes(p).iter().map(|u| u.axis).collect::<Vec<_>>();
    assert_eq!(axes(&matmul), [2]);
    assert_eq!(axes(&accepted(bound(FMHA, &FMHA_SIZES))), [2]);
    assert_eq!(axes(&accepted(symbolic(FMHA))), [2]);
}

#[test]
fn the_hash_follows_the_code_and_not_its_layout() {
    let hash = |source: &str| library(source).source_hash();
    let moved = MATMUL.replace("let lhs", "\n\n   let lhs").replace("[64, 128]", "[32]");
    assert_eq!(hash(MATMUL), hash(&moved));
    assert_ne!(hash(MATMUL), hash(&MATMUL.replace("[n, k]", "[k, n]")));
    assert_ne!(hash(FMHA), hash(&FMHA.replace("(old - new)", "(new - old)")));
}

/// Takes tokens out of kernels, doubles them and swaps them: whatever is left of them that Rust can still read,
/// parsing and checking it ends in a program or in messages.
#[test]
fn mangled_kernels_never_panic() {
    let mut seeds: Vec<String> = ACCEPTED.iter().map(|body| wrap(body)).collect();
    seeds.push(MATMUL.to_owned());
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    let mut read = 0;
    for round in 0..4000 {
        let source = &seeds[round % seeds.len()];
        let mut words: Vec<&str> = source.split_inclusive([' ', '(', ')', '[', ']', ',', ';', '.']).collect();
        for _ in 0..1 + random(3) {
            let (i, j) = (random(words.len()), random(words.len()));
            match random(3) {
                0 => words.swap(i, j),
                1 => words[i] = words[j],
                _ => {
                    words.insert(i, ["9223372036854775807 ", "-", "0", "M * ", "a ", "3.5 ", "!"][random(7)])
                }
            }
        }
        let Ok(tokens) = words.concat().parse() else { continue };
        let Ok(file) = syn::parse2::<syn::File>(tokens) else { continue };
        for item in file.items {
            let syn::Item::Fn(item) = item else { continue };
            read += 1;
            let kind = tile_lang::ast::FunctionKind::Kernel;
            let (function, _, _) = tile_lang::parse::parse_function(Default::default(), &item, kind);
            for mode in [Mode::Symbolic, Mode::Bound] {
                let bindings = bind(&[("M", 16), ("FLAG", random(2) as i64)], DType::F16);
                if let Err(errors) = tile_lang::check(&function, &|_, _| None, &bindings, mode) {
                    assert!(!errors.is_empty());
                }
            }
        }
    }
    assert!(read > 200, "{read}");
}
