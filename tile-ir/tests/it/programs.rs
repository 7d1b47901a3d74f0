//! Typed programs built by hand.

use tile_lang::ast::BinaryOp;
use tile_lang::typed::{Expr, ExprKind, Param, ParamKind, Program, Stmt, Type, TypedDType, Var};
use tile_lang::{DType, Dim, Span};

fn at(line: u32) -> Span {
    Span { file: 0, line, col: 5, end_line: line, end_col: 9 }
}

pub fn scalar(dtype: DType) -> Type {
    Type::Scalar(TypedDType::Known(dtype))
}

pub fn tile(dtype: DType, shape: &[usize]) -> Type {
    let shape = shape.iter().map(|&d| Dim::constant(d as i64)).collect();
    Type::Tile { dtype: TypedDType::Known(dtype), shape }
}

pub fn expr(line: u32, ty: Type, kind: ExprKind) -> Expr {
    Expr { kind, ty, span: at(line) }
}

fn tensor(name: &str, dtype: DType, mutable: bool) -> Param {
    let kind = ParamKind::Tensor { dtype: TypedDType::Known(dtype), rank: 2, mutable };
    Param { name: name.into(), kind, span: at(1) }
}

/// `acc = mma(a[m, k], b[n, k].t(), acc)` over `k`, then `c[m, n] = acc`.
pub fn matmul(dtype: DType, [tile_m, tile_n, tile_k]: [usize; 3]) -> Program {
    let index = |line, kind| expr(line, scalar(DType::Index), kind);
    let int = |line, value| index(line, ExprKind::Int(value));
    let var = |name: &str, ty: Type| Var { name: name.into(), ty, span: at(2) };
    let binary = |line, op, l: Expr, r: Expr| index(line, ExprKind::Binary(op, Box::new(l), Box::new(r)));
    let acc_ty = tile(DType::F32, &[tile_m, tile_n]);
    let load = |tensor: usize, index, shape: [usize; 2]| {
        expr(6, tile(dtype, &shape), ExprKind::Load { tensor: tensor.into(), index })
    };
    let read = |line, id| index(line, ExprKind::Var(id));
    let acc = |line| expr(line, acc_ty.clone(), ExprKind::Var(2));

    let zero = expr(4, scalar(DType::F32), ExprKind::Float(0.0));
    let lhs = load(0, vec![read(6, 0), read(6, 3)], [tile_m, tile_k]);
    let rhs = load(1, vec![read(7, 1), read(7, 3)], [tile_n, tile_k]);
    let rhs_t = expr(7, tile(dtype, &[tile_k, tile_n]), ExprKind::Transpose(Box::new(rhs), vec![1, 0]));
    let product = ExprKind::Mma(Box::new(lhs), Box::new(rhs_t), Box::new(acc(8)));
    let extent = index(5, ExprKind::TensorDim(0.into(), 1));
    let rounded = binary(5, BinaryOp::Add, extent, int(5, tile_k as i64 - 1));
    let out = expr(10, tile(dtype, &[tile_m, tile_n]), ExprKind::Cast(Box::new(acc(10))));
    let body = vec![
        Stmt::Let { var: 0, value: index(3, ExprKind::ProgramId(0)) },
        Stmt::Let { var: 1, value: index(3, ExprKind::ProgramId(1)) },
        Stmt::Let { var: 2, value: expr(4, acc_ty.clone(), ExprKind::Full(Box::new(zero))) },
        Stmt::For {
            var: 3,
            lo: int(5, 0),
            hi: binary(5, BinaryOp::Div, rounded, int(5, tile_k as i64)),
            step: int(5, 1),
            body: vec![Stmt::Assign { var: 2, value: expr(8, acc_ty.clone(), product) }],
            carried: vec![2],
            span: at(5),
        },
        Stmt::Store { tensor: 2.into(), index: vec![read(10, 0), read(10, 1)], value: out, span: at(10) },
    ];
    Program {
        name: "matmul".into(),
        files: vec!["kernels/matmul.rs".into()],
        params: vec![tensor("a", dtype, false), tensor("b", dtype, false), tensor("c", dtype, true)],
        vars: vec![
            var("m", scalar(DType::Index)),
            var("n", scalar(DType::Index)),
            var("acc", acc_ty.clone()),
            var("k", scalar(DType::Index)),
        ],
        body,
    }
}
