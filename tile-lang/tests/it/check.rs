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
