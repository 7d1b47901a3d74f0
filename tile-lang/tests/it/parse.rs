use crate::support::{functions, parse_all, render};
use tile_lang::ast::{ExprKind, Function, StmtKind};

const KERNEL: &str = "
#[tile_kernel(tune(TILE_M in [64, 128], FAST in [true, false], num_stages in [2, 3]
                   where TILE_M * 2 <= 256, FAST || TILE_M > 64))]
pub fn k<T: Float, const TILE_M: usize, const FAST: bool>(a: Tensor<T, 2>, c: TensorMut<f32, 1>, scale: f32) {
    let (m, mut n) = (program_id(0), cdiv(a.dim(0), TILE_M));
    for i in (0..n).step_by(2) {
        n += i;
        if FAST { c.store([m], zeros::<f32>([TILE_M])); } else if n > 3 { n = 1; }
    }
    let low = f32::NEG_INFINITY * std::f32::consts::LOG2_E + 0.1;
    let x = helper::<T, 4, { TILE_M * 2 }>(if FAST { 1 } else { 2 });
}";

#[test]
fn kernel_reads_back_from_json() {
    let parsed = functions(KERNEL).remove(0);
    let json = serde_json::to_string(&parsed).unwrap();
    let again: Function = serde_json::from_str(&json).unwrap();
    assert_eq!(parsed, again);
    assert_eq!(parsed.tune.axes[1].values, [1, 0]);
    assert_eq!(parsed.tune.constraints.len(), 2);
    assert_eq!(parsed.body.stmts.len(), 4);
    assert_eq!((parsed.params[2].span.line, parsed.params[2].span.col), (4, 98));
    let StmtKind::Let { value, .. } = &parsed.body.stmts[3].kind else { panic!("a let") };
    let ExprKind::Call { generics, .. } = &value.kind else { panic!("a call") };
    assert_eq!(generics.len(), 3);
}

#[test]
fn unsupported_syntax_is_named() {
    let cases = [
        ("loop { }", "`loop` is not part"),
        ("let x = a[0];", "indexing with `[..]`"),
        ("for i in 0..3 { break; }", "`break`"),
        ("let x = |y| y;", "a closure"),
        ("let x = match 1 { _ => 2 };", "`match`"),
        ("println!(\"x\");", "`println!` cannot be used"),
        ("let x;", "`let` needs a value"),
        ("a[1] = 2;", "cannot assign to `a[1]`"),
        ("for x in list { }", "expected a range"),
        ("for x in 0..=3 { }", "inclusive ranges"),
        ("let x = 1.0f64;", "cannot be `f64`"),
        ("let x: Vec<f32> = a;", "cannot use the type `Vec<f32>`"),
        ("let x = f32::INFINTY;", "unknown constant `f32::INFINTY`"),
        ("return;", "`return`"),
        ("let x = &a;", "a reference"),
        ("let x = zeros::<[f32; 2]>([1]);", "cannot stand here; expected a dtype"),
    ];
    for (stmt, expected) in cases {
        let (_, found) = parse_all(&format!("fn f() {{ {stmt} }}")).remove(0);
        let text = render(&found);
        assert_eq!(found.len(), 1, "{stmt}: {text}");
        assert!(text.contains(expected), "{stmt}: {text}");
    }
}

#[test]
fn bad_signatures_are_named() {
    let cases = [
        ("fn f<T>(a: Tensor<T, 2>) {}", "needs one bound"),
        ("fn f<const N: u8>() {}", "`N` is `u8`; expected `usize` or `bool`"),
        ("#[tile_kernel] fn f(a: Tile<f32>) {}", "a kernel takes tensors and scalars"),
        ("#[tile_kernel] fn f(a: Tensor<f32, 2>) -> f32 { 1.0 }", "a kernel returns nothing"),
        ("fn f(a: Tensor<u64, 2>) {}", "`u64` is no element type"),
        ("fn f(a: Tensor<f32, 9>) {}", "rank is a number from 1 to 8; found `9`"),
        ("fn f(a: Tensr<f32, 2>) {}", "did you mean `Tensor`"),
        ("fn f(mut a: f32) {}", "cannot be `mut`"),
        ("async fn f() {}", "cannot be `async`"),
        ("#[tile_kernel(tun(A in [1]))] fn f() {}", "unknown argument `tun`"),
        ("#[tile_kernel(tune(A of [1]))] fn f() {}", "expected `in`"),
    ];
    for (source, expected) in cases {
        let (_, found) = parse_all(source).remove(0);
        let text = render(&found);
        assert_eq!(found.len(), 1, "{source}: {text}");
        assert!(text.contains(expected), "{source}: {text}");
    }
}
