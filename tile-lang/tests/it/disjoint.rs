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

/// The unproved axes of a kernel that stores parts, arrives, and runs `body`; `count` and `index` are the arrival's.
fn arriving(index: &str, count: &str, body: &str) -> Vec<usize> {
    let source = format!(
        "#[tile_kernel]\nfn k<const B: usize>(out: TensorMut<f32, 2>, parts: TensorMut<f32, 2>, \
         counters: TensorMut<i32, 1>, n: usize) {{\n\
         let (p, q) = (program_id(0), program_id(1));\n\
         parts.store([p, q], zeros::<f32>([1, B]));\n\
         let last = counters.arrive_last([{index}], {count});\n{body}\n}}"
    );
    let kernel = &functions(&source)[0];
    let program = check(kernel, &|_, _| None, &Bindings::default(), Mode::Symbolic)
        .unwrap_or_else(|e| panic!("{e:#?}\n{source}"));
    unproved_axes(&program).iter().map(|u| u.axis).collect()
}

#[test]
fn the_last_to_arrive_stores_for_all_that_share_its_counter() {
    let merge = "if last { out.store([p, 0], parts.load([p, 0], [1, B])); }";
    assert_eq!(arriving("p", "num_programs(1)", merge), [2]);
    assert_eq!(arriving("p", "num_programs(1) * num_programs(2)", merge), [2], "parts do not tell 2 apart");
    // The answer may have another name.
    assert_eq!(arriving("p", "num_programs(1)", &merge.replace("if last", "let l = last; if l")), [2]);
    // One for all: the last program loads what every program stored.
    assert_eq!(
        arriving(
            "0",
            "num_programs(0) * num_programs(1)",
            "if last { out.store([0, 0], parts.load([0, 0], [1, B])); }"
        ),
        [2]
    );
    // Everything is stored before the arrival, or by the last.
    assert_eq!(
        arriving(
            "p",
            "num_programs(1)",
            "if last { out.store([p, 0], parts.load([p, 0], [1, B])); out.store([p, 1], zeros::<f32>([1, B])); }"
        ),
        [2]
    );
}

#[test]
fn arrivals_that_prove_nothing() {
    let merge = "if last { out.store([p, 0], parts.load([p, 0], [1, B])); }";
    // Two programs of two counters store at one place, or load what the other's programs store.
    assert_eq!(
        arriving("p", "num_programs(1)", "if last { out.store([0, 0], zeros::<f32>([1, B])); }"),
        [0, 2]
    );
    assert_eq!(
        arriving("p", "num_programs(1)", "if last { out.store([p, 0], parts.load([0, 0], [1, B])); }"),
        [0, 2]
    );
    // Everyone stores, or those that are not last.
    assert_eq!(arriving("p", "num_programs(1)", "out.store([p, 0], zeros::<f32>([1, B]));"), [1, 2]);
    assert_eq!(
        arriving("p", "num_programs(1)", "if last { } else { out.store([p, 0], zeros::<f32>([1, B])); }"),
        [1, 2]
    );
    // A store behind the arrival is in no order with the last program's load.
    let late = format!("{merge} parts.store([p, q], zeros::<f32>([1, B]));");
    assert_eq!(arriving("p", "num_programs(1)", &late), [0, 1, 2]);
    // A count that is not the number of programs that share a counter.
    for count in ["2", "n", "num_programs(0)", "num_programs(1) * 2", "num_programs(1) * num_programs(0)"] {
        assert_eq!(arriving("p", count, merge), [0, 1, 2], "{count}");
    }
    assert_eq!(arriving("p", "1", merge), [1, 2], "only where nobody shares");
    // Counters shared in ways that no count says.
    for index in ["p / 2", "p + q", "p + n * q"] {
        assert_eq!(arriving(index, "num_programs(1)", merge), [0, 1, 2], "{index}");
    }
    let source = "#[tile_kernel]\nfn k<const B: usize>(out: TensorMut<f32, 1>, counters: TensorMut<i32, 1>) {\n\
         let p = program_id(0);\n\
         if p > 1 { if counters.arrive_last([0], num_programs(0)) { out.store([0], zeros::<f32>([B])); } }\n}";
    let program =
        check(&functions(source)[0], &|_, _| None, &Bindings::default(), Mode::Symbolic).expect("checks");
    let unproved = unproved_axes(&program);
    assert_eq!(unproved.iter().map(|u| u.axis).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(unproved[0].reason.contains("not every program arrives"), "{}", unproved[0].reason);
}
