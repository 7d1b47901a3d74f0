//! Proofs that the programs of a launch write different elements.

use crate::support::functions;
use tile_lang::Bindings;
use tile_lang::check::{Mode, check};
use tile_lang::disjoint::unproved_axes;

/// The unproved axes of a kernel with the given body over `out: TensorMut<f32, 2>`, `at: Tensor<i32, 1>`, `n: usize`
/// and `shift: i32`.
fn axes(body: &str) -> Vec<usize> {
    let source = format!(
        "#[tile_kernel]\nfn k<const B: usize>(out: TensorMut<f32, 2>, at: Tensor<i32, 1>, n: usize, shift: i32) {{\n{body}\n}}"
    );
    let kernel = &functions(&source)[0];
    let mut bind = Bindings::default();
    bind.consts.insert("B".into(), 16);
    let bound =
        check(kernel, &|_, _| None, &bind, Mode::Bound).unwrap_or_else(|e| panic!("{e:#?}\n{source}"));
    let symbolic = check(kernel, &|_, _| None, &Bindings::default(), Mode::Symbolic).expect("checked before");
    let found = |p| unproved_axes(p).iter().map(|u| u.axis).collect::<Vec<_>>();
    assert_eq!(found(&bound), found(&symbolic), "bound and symbolic sizes agree\n{source}");
    found(&bound)
}

fn store(index: &str) -> String {
    format!("out.store([{index}], zeros::<f32>([B, B]));")
}

#[test]
fn affine_indices() {
    assert_eq!(axes(&store("program_id(0), program_id(1)")), [2]);
    assert_eq!(axes(&store("program_id(0) * 3 + 1, program_id(1) + n")), [2]);
    assert_eq!(axes(&store("program_id(0), 0")), [1, 2]);
    assert_eq!(axes(&store("program_id(0) + program_id(1), 0")), [0, 1, 2]);
    // Were n zero, every program would write one place.
    assert_eq!(axes(&store("program_id(0) * n, 0")), [0, 1, 2]);
}

#[test]
fn quotient_with_remainder() {
    let p = "let p = program_id(0);";
    assert_eq!(axes(&format!("{p} {}", store("p / n, p % n"))), [1, 2]);
    assert_eq!(axes(&format!("{p} {}", store("p / n, 0"))), [0, 1, 2]);
    assert_eq!(axes(&format!("{p} {}", store("p / n, p % (n + 1)"))), [0, 1, 2]);
}

#[test]
fn program_ids_as_digits() {
    let index = |high: &str| format!("program_id({high}) * num_programs(0) + program_id(0), program_id(1)");
    assert_eq!(axes(&store(&index("2"))), [] as [usize; 0]);
    assert_eq!(axes(&store("program_id(2) * num_programs(1) + program_id(0), program_id(1)")), [0, 2]);
    assert_eq!(axes(&store("program_id(2) * num_programs(0) + program_id(0) + program_id(1), 0")), [0, 1, 2]);
}

#[test]
fn loops() {
    let body = |hi: &str, index: &str| format!("for i in 0..{hi} {{ {} }}", store(index));
    assert_eq!(axes(&body("n", "program_id(0) * n + i, 0")), [1, 2]);
    assert_eq!(axes(&body("n", "program_id(0), i")), [1, 2]);
    assert_eq!(axes(&body("n + 1", "program_id(0) * n + i, 0")), [0, 1, 2]);
    assert_eq!(axes(&body("n", "program_id(0) + i, 0")), [0, 1, 2]);
}

#[test]
fn scatter_lanes() {
    let body = |row: &str| {
        format!(
            "let row = {row}; let col = (iota(B) * 0 + program_id(1) as i32).expand_dims(0);\n\
             out.scatter([row.expand_dims(1), col], zeros::<f32>([B, B]));"
        )
    };
    assert_eq!(axes(&body("iota(B) + (program_id(0) * B) as i32")), [2]);
    assert_eq!(axes(&body("iota(B) + program_id(0) as i32")), [0, 2]);
}

#[test]
fn reassigned_variables_are_unknown() {
    let body = format!("let mut p = program_id(0); p = p / 2; {}", store("p, program_id(1)"));
    assert_eq!(axes(&body), [0, 2]);
}

#[test]
fn two_stores_must_agree() {
    let same = format!("{} {}", store("program_id(0), program_id(1)"), store("program_id(0), program_id(1)"));
    assert_eq!(axes(&same), [2]);
    let apart =
        format!("{} {}", store("program_id(0), program_id(1)"), store("program_id(1), program_id(0)"));
    assert_eq!(axes(&apart), [0, 1, 2]);
}

#[test]
fn slices_count_from_the_tensor_s_start() {
    let store = |start: &str, index: &str| {
        format!("out.slice(0, {start}, n).store([{index}], zeros::<f32>([16, 16]));")
    };
    assert_eq!(axes(&store("0", "program_id(0), program_id(1)")), [2]);
    assert_eq!(axes(&store("n + 3", "program_id(0), program_id(1)")), [2]);
    assert_eq!(axes(&store("program_id(2) * 16", "program_id(0), program_id(1)")), [0, 2]);
    // What is read from a tensor may be any place, and the same one for two programs.
    assert_eq!(axes(&store("at.at([program_id(0)]) as usize", "0, program_id(1)")), [0, 2]);
    assert_eq!(axes(&store("at.at([3]) as usize", "program_id(0), program_id(1)")), [2]);
    let both = format!(
        "{} {}",
        store("0", "program_id(0), 0"),
        "out.store([program_id(0), 0], zeros::<f32>([16, 16]));"
    );
    assert_eq!(axes(&both), [0, 1, 2], "the same index, in a slice and in the whole");
}
