//! What the checker says of mistakes, with the sizes still parameters.

use crate::support::{bind, functions, library, render};
use tile_lang::{Bindings, DType, Diagnostic, Mode};

/// The kernel around the body of a case, which begins on line 4.
fn kernel(body: &str) -> String {
    format!(
        "fn k<T: Float, P: Factor, E: Element, const M: usize, const N: usize, const K: usize, const FLAG: bool>(\n\
         a: Tensor<T, 2>, b: Tensor<i32, 1>, e: Tensor<E, 2>, f8: Tensor<F8E4M3FN, 2>,\n\
         c: TensorMut<T, 2>, s: f32, n: i32, z: usize) {{\n{body}\n}}"
    )
}

fn symbolic(body: &str) -> Vec<Diagnostic> {
    let list = functions(&kernel(body));
    match tile_lang::check(&list[0], &|_, _| None, &Bindings::default(), Mode::Symbolic) {
        Ok(_) => Vec::new(),
        Err(errors) => errors,
    }
}

#[test]
fn each_mistake_has_one_message_at_its_place() {
    let cases = [
        (
            "let x = zeros::<f32>([M, N]) + zeros::<f32>([M]);",
            1,
            "4:9: `+`: lhs is [M, N], rhs is [M]; N and M in dimension 1 do not broadcast\n  help: dimensions line up from the last; make [M] a column with `.expand_dims(1)`",
        ),
        (
            "mma(zeros::<T>([M, K]), zeros::<T>([N, K]), zeros::<f32>([M, N]));",
            1,
            "4:1: `mma`: lhs is [M, K], rhs is [N, K]; inner dimensions K and N differ\n  help: transpose the rhs with `.t()`, which makes it [K, N]",
        ),
        (
            "mma(zeros::<T>([M, K]), zeros::<T>([K, N]), zeros::<f32>([N, M]));",
            1,
            "expected acc to be [M, N]",
        ),
        (
            "mma(zeros::<T>([M, K]), zeros::<f32>([K, N]), zeros::<f32>([M, N]));",
            1,
            "lhs is Tile<T>, rhs is Tile<f32>",
        ),
        (
            "mma(zeros::<T>([M, K]), zeros::<T>([K, N]), zeros::<T>([M, N]));",
            1,
            "accumulates in f32; acc is Tile<T>",
        ),
        (
            "mma(zeros::<i32>([M, K]), zeros::<i32>([K, N]), zeros::<f32>([M, N]));",
            1,
            "`mma` takes f32, f16, bf16, f8E4M3FN; found i32",
        ),
        (
            "mma_scaled(zeros::<F4E2M1FN>([M, K * 16]), zeros::<F8E4M3FN>([M, K]), zeros::<F4E2M1FN>([K * 16, N]), zeros::<F8E4M3FN>([K, N]), zeros::<f32>([M, N]));",
            0,
            "",
        ),
        (
            "mma_scaled(zeros::<F4E2M1FN>([M, K * 16]), zeros::<F8E4M3FN>([M, K]), zeros::<F4E2M1FN>([K * 16, N]), zeros::<F8E4M3FN>([N, K]), zeros::<f32>([M, N]));",
            1,
            "4:1: `mma_scaled`: rhs is [16*K, N], its scales are [N, K]; expected one scale for 16 elements of dimension 0",
        ),
        (
            "mma_scaled(zeros::<T>([M, K * 16]), zeros::<F8E4M3FN>([M, K]), zeros::<F4E2M1FN>([K * 16, N]), zeros::<F8E4M3FN>([K, N]), zeros::<f32>([M, N]));",
            1,
            "`lhs` of `mma_scaled` is a Tile<f4E2M1FN>; found",
        ),
        (
            "mma(zeros::<f32>([M]), zeros::<f32>([K, N]), zeros::<f32>([M, N]));",
            1,
            "expected three tiles of rank 2",
        ),
        (
            "let x = a.load([0], [M, N]);",
            1,
            "4:16: `a` has rank 2; expected 2 entries in the block index of `load`, found 1",
        ),
        ("let x = a.load([0, 0], [M]);", 1, "expected 2 entries in the shape of `load`, found 1"),
        ("let x = a.load([0, n], [M, N]);", 1, "a block index of `load` is a usize; found i32"),
        (
            "let x = a.load([0, 0], [M, a.dim(0)]);",
            1,
            "4:28: a tile dimension must be a number or made of const parameters; found a usize known only at run time",
        ),
        (
            "let x = a.load([0, 0], [M, 48]);",
            1,
            "4:28: a tile dimension must be a power of two; found 48\n  help: the next power of two is 64",
        ),
        (
            "a.store([0, 0], zeros::<T>([M, N]));",
            1,
            "4:1: `store` writes to `a`, which is a Tensor; expected a TensorMut",
        ),
        (
            "c.store([0, 0], zeros::<f32>([M, N]));",
            1,
            "`store`: `c` holds T; the value is Tile<f32> [M, N]\n  help: convert it with `.cast::<T>()`",
        ),
        ("c.store([0, 0], zeros::<T>([M]));", 1, "the tile is [M], of rank 1; `c` has rank 2"),
        ("c.store([0, 0], s);", 1, "`store`: `c` holds T; the value is f32"),
        (
            "let mut x = zeros::<f32>([M, 1]); for i in 0..4 { x = x + zeros::<f32>([M, N]); }",
            1,
            "4:51: `x` is Tile<f32> [M, 1]; the value assigned to it is Tile<f32> [M, N]",
        ),
        ("let mut i = 0; i = s;", 1, "`i` is an integer literal; the value assigned to it is f32"),
        (
            "let x = zeros::<f32>([M]) + zeros::<f16>([M]);",
            1,
            "lhs is Tile<f32>, rhs is Tile<f16>; both must have one dtype",
        ),
        (
            "let x = zeros::<f32>([M]) * 2;",
            1,
            "rhs is an integer literal; a scalar beside a Tile<f32> is f32\n  help: write `2.0`",
        ),
        ("let x = zeros::<f32>([M]) * n;", 1, "help: convert it with `as f32`"),
        ("let x = z + n;", 1, "`+`: lhs is usize, rhs is i32; both must have one type"),
        ("let x = s * 2;", 1, "help: write `2.0`"),
        (
            "let x = zeros::<f32>([M]) < zeros::<f32>([M]);",
            1,
            "`<` takes scalars; found Tile<f32> [M] and Tile<f32> [M]\n  help: elementwise: use `.lt(..)`",
        ),
        (
            "if zeros::<f32>([M]).lt(0.0) { }",
            1,
            "a condition is a scalar bool; found Tile<bool> [M]\n  help: choose elementwise with `select(mask, a, b)`",
        ),
        (
            "let x = zeros::<f32>([M, N]).reshape([M, K]);",
            1,
            "`reshape`: [M, N] has M*N elements, [M, K] has K*M",
        ),
        ("let x = zeros::<f32>([M, N]).broadcast_to([M, K]);", 1, "[M, N] does not stretch to [M, K]"),
        ("let x = zeros::<f32>([M, N]).squeeze(1);", 1, "dimension 1 of [M, N] is N; expected 1"),
        (
            "let x = zeros::<f32>([M, N]).reduce_max(2);",
            1,
            "`reduce_max`: axis 2 is out of range; expected 0 to 1",
        ),
        (
            "let x = zeros::<bool>([M, N]).reduce_sum(0);",
            1,
            "`reduce_sum` takes f32, f16, bf16, i32; found bool",
        ),
        ("let x = zeros::<f32>([M]).t();", 1, "`t` takes a tile of rank 2; found Tile<f32> [M]"),
        ("let x = zeros::<f32>([M, N]).permute([0, 0]);", 1, "`permute`: [0, 0] is no order of the 2 axes"),
        ("let x = iota(M).exp2();", 1, "`exp2` takes f32, f16, bf16; found i32"),
        ("let x = e.load([0, 0], [M, N]) * 2.0;", 1, "`E` may be any dtype\n  help: bound it: `E: Float`"),
        (
            "let x = zeros::<P>([M]) + zeros::<P>([M]);",
            1,
            "`+`: `P: Factor` may be f8E4M3FN, which is without arithmetic\n  help: convert it first with `.cast::<f32>()`",
        ),
        ("mma(zeros::<P>([M, K]), zeros::<P>([K, N]), zeros::<f32>([M, N]));", 0, ""),
        (
            "mma(zeros::<E>([M, K]), zeros::<E>([K, N]), zeros::<f32>([M, N]));",
            1,
            "`E` may be any dtype\n  help: bound it: `E: Factor`",
        ),
        (
            "let x = f8.load([0, 0], [M, N]).exp();",
            1,
            "f8E4M3FN is a storage type, without arithmetic\n  help: convert it first with `.cast::<f32>()`",
        ),
        (
            "let x = zeros::<f32>([M]).exp_2();",
            1,
            "Tile<f32> [M] has no method `exp_2`\n  help: did you mean `.exp2()`?",
        ),
        ("let x = a.lod([0, 0], [M, N]);", 1, "did you mean `.load(index, shape)`?"),
        ("let x = zeros([M, N]);", 1, "`zeros` needs a dtype\n  help: name it: `zeros::<f32>(..)`"),
        ("let x = zeros::<Q>([M, N]);", 1, "`zeros`: `Q` is no dtype"),
        ("let x = zeros::<f32>(M);", 1, "`zeros` takes a shape such as `[TILE_M, TILE_N]`; found usize"),
        ("let x = program_id(3);", 1, "`program_id`: axis 3 is out of range; expected 0 to 2"),
        ("let x = cdiv(z);", 1, "`cdiv` takes 2 arguments; found 1\n  help: call it as `cdiv(a, b)`"),
        (
            "let x = a + 1.0;",
            1,
            "lhs is Tensor<T, 2>, rhs is a float literal; expected tiles or scalars\n  help: load a tile",
        ),
        ("let x = zz + 1;", 1, "`zz` is not a variable, parameter or const parameter of `k`"),
        ("let x = TILE; let y = flag;", 2, "`flag` is not a variable"),
        ("let x = b.gather([z]);", 1, "an index of `gather` is a Tile<i32>; found usize"),
        (
            "let x = b.gather_masked([iota(M)], iota(M));",
            1,
            "the mask of `gather_masked` is a Tile<bool>; found Tile<i32> [M]",
        ),
        (
            "let x = select(iota(M), 1.0, 2.0);",
            1,
            "the mask of `select` is a Tile<bool>; found Tile<i32> [M]",
        ),
        ("let (x, y) = iota(M);", 1, "expected a tuple of 2 values; found Tile<i32> [M]"),
        ("let x: f32 = z;", 1, "the value is usize; expected f32"),
        ("let x: Tile<f16> = iota(M);", 1, "the value is Tile<i32> [M]; expected Tile<f16>"),
        ("for i in 0..s { }", 1, "a loop counts from one integer to another; found f32"),
        ("for i in 0..z { i = 2; }", 1, "cannot assign to `i`"),
        ("for i in n..z { }", 1, "the loop starts at i32 and ends at usize"),
        ("for i in (0..n).step_by(2) { }", 1, "a loop with `step_by` counts in usize; found i32"),
        (
            "let x = if z > 1 { iota(M) } else { iota(N) };",
            1,
            "`if` gives Tile<i32> [M] in one branch and Tile<i32> [N] in the other",
        ),
        (
            "let x = iota(M) as f32;",
            1,
            "`as` converts scalars; found Tile<i32> [M]\n  help: convert a tile with `.cast::<f32>()`",
        ),
        ("let x = 1.0 + 2.0;", 1, "4:9: expected f32; nothing types this literal"),
        ("let x = z / 0;", 1, "`/`: the divisor is 0"),
        ("let x = -z;", 1, "`-` takes signed numbers; found usize"),
        (
            "let x = full::<i32>([M], 1.0);",
            1,
            "a Tile<i32> is filled with a scalar i32; found a float literal",
        ),
        ("let x = iota(M).cast::<usize>();", 1, "usize is a type of scalars"),
        ("let x = maximum(z, z);", 1, "`maximum` takes tiles; found two scalars"),
        ("let x = [1, 2];", 1, "a list `[..]` stands only where"),
        ("let x = a.dim(2);", 1, "`dim`: axis 2 is out of range; expected 0 to 1"),
        ("let x = zeros::<f32>([M]) & zeros::<f32>([M]);", 1, "`&` takes bool, i32; found f32"),
        ("let x = true + false;", 1, "`+` does not take bool"),
    ];
    let mut wrong = String::new();
    for (body, count, expected) in cases {
        let found = symbolic(body);
        let text = render(&found);
        if found.len() != count || !text.contains(expected) {
            wrong += &format!("{body}\nfound:    {text}\nexpected: {expected}\n\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_mistake_is_reported_at_once() {
    let found = symbolic("let x = a.load([0], [M, N]);\nlet y = x + zz;\nlet w = iota(M) + iota(N);");
    assert_eq!(found.len(), 3, "{}", render(&found));
    let lines: Vec<_> = found.iter().map(|d| d.span.line).collect();
    assert_eq!(lines, [4, 5, 6]);
}

#[test]
fn nothing_follows_from_unknown_helpers() {
    let found = symbolic(
        "let (x, y) = helper::<T, 3>(a, 1.0, [1, 2]);\nlet w = x + iota(M);\nc.store([x, 0], w.reshape([M, y]).exp());\n\
         let mut acc = x; acc = acc * 2; if y { }",
    );
    assert!(found.is_empty(), "{}", render(&found));
}

fn bound(source: &str, consts: &[(&str, i64)]) -> String {
    match library(source).check(&bind(consts, DType::F16), Mode::Bound) {
        Ok(_) => String::new(),
        Err(errors) => render(&errors),
    }
}

#[test]
fn bound_sizes_are_checked_where_they_are_used() {
    let source =
        "fn k<T: Float, const M: usize>(c: TensorMut<T, 2>) {\n c.store([0, 0], zeros::<T>([M, M * 2])); }";
    assert_eq!(bound(source, &[("M", 16)]), "");
    let text = bound(source, &[("M", 48)]);
    assert!(text.starts_with("2:30: a tile dimension must be a power of two; found M = 48"), "{text}");
    assert!(text.contains("2:33: a tile dimension must be a power of two; found 96"), "{text}");
    assert!(bound(source, &[]).contains("1:22: const parameter `M` has no value"));
    assert!(bound(source, &[("M", 2), ("Q", 1)]).contains("no const parameter `Q`"));
    let errors = library(source).check(&bind(&[("M", 16)], DType::I32), Mode::Bound).unwrap_err();
    assert!(render(&errors).contains("dtype parameter `T` is i32; expected one of f32, f16, bf16"));
}

#[test]
fn helpers_report_in_their_own_lines_and_name_the_call() {
    let source = "fn twice(x: Tile<f32>, y: Tile<f32>) -> Tile<f32> {\n x + y }\n\
                  fn k(c: TensorMut<f32, 1>) {\n c.store([0], twice(zeros::<f32>([4]), zeros::<f32>([8]))); }";
    let errors = library(source).check(&Bindings::default(), Mode::Bound).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].span.line, 2);
    let (call, note) = errors[0].notes.last().unwrap();
    assert_eq!((call.line, note.as_str()), (4, "in this call of `twice`"));
}

#[test]
fn places_index_the_files_of_the_library() {
    let mut list = functions(
        "fn one(x: f32) -> f32 { x }\nfn two(x: f32) -> f32 { x.foo() }\nfn k(s: f32) { let y = two(s); }",
    );
    for (function, file) in list.iter_mut().zip(["one.rs", "two.rs", "k.rs"]) {
        function.file = file.to_owned();
    }
    let mut library = tile_lang::Library::new(list.pop().unwrap());
    let [one, two] = [list.remove(0), list.remove(0)];
    library.add(0, "one", one);
    library.add(0, "two", two);
    let errors = library.check(&Bindings::default(), Mode::Bound).unwrap_err();
    let text = errors[0].render(&library.files());
    assert!(text.starts_with("two.rs:2:27: f32 has no method `foo`"), "{text}");
    assert!(text.contains("k.rs:3:24: in this call of `two`"), "{text}");
}

#[test]
fn helper_calls_are_checked() {
    let cases = [
        ("fn h(x: f32) -> f32 { h(x) }", "h(s)", "`h` calls itself"),
        ("fn h(x: f32) -> f32 { x }", "h(s, s)", "`h` takes 1 arguments; found 2"),
        ("fn h(x: Tile<f32>) -> Tile<f32> { x }", "h(s)", "argument `x` is f32; expected Tile<f32>"),
        (
            "fn h<T: Float>(x: Tile<T>, y: Tile<T>) -> Tile<T> { x }",
            "h(zeros::<f32>([2]), zeros::<f16>([2]))",
            "argument `y` is Tile<f16> [2]",
        ),
        (
            "fn h<const N: usize>() -> Tile<f32> { zeros::<f32>([N]) }",
            "h()",
            "`h` has 1 const parameters; the call names 0",
        ),
        (
            "fn h<const N: usize>() -> Tile<f32> { zeros::<f32>([N]) }",
            "h::<3>()",
            "must be a power of two; found N = 3",
        ),
        (
            "fn h(x: f32) -> (f32, f32) { x }",
            "h(s)",
            "`h` is declared to return 2 values; its last expression gives f32",
        ),
        ("fn h(x: f32) -> i32 { x }", "h(s)", "the returned value is f32; expected i32"),
        ("fn h(x: f32) -> f32 { x }", "g(s)", "`g` is not a function that kernels can call"),
    ];
    for (helper, call, expected) in cases {
        let text = bound(&format!("{helper}\nfn k(s: f32) {{ let x = {call}; }}"), &[]);
        assert!(text.contains(expected), "{helper} {call}\n{text}");
    }
}

#[test]
fn parts_elements_and_checks() {
    let cases = [
        ("t.at([0])", "`t` has rank 2; expected 2 entries in the index of `at`, found 1"),
        ("t.at([0, s])", "an index of `at` is a usize; found f32"),
        ("t.at([0, i])", "an index of `at` is a usize; found i32\n  help: convert it with `as usize`"),
        ("t.at([0, iota(4)])", "help: tiles of element indices go to `gather` and `scatter`"),
        ("t.slice(2, 0, 4)", "`slice`: axis 2 is out of range; expected 0 to 1"),
        ("t.slice(n, 0, 4)", "the axis of `slice` must be a number"),
        ("t.slice(0, i, 4)", "a bound of `slice` is a usize; found i32"),
        ("t.slice(0, 4)", "`slice` takes 3 arguments; found 2"),
        ("t.slice(0, n, 4).store([0, 0], zeros::<f32>([4, 4]))", "`store` writes to `t`, which is a Tensor"),
        ("check(s, \"s\")", "a condition is a scalar bool; found f32"),
        ("check(t.load([0, 0], [4, 4]).gt(0.0), \"t\")", "a condition is a scalar bool; found Tile<bool>"),
        ("check(i > 0, n)", "the message of `check` is a string literal"),
        ("check(i > 0)", "`check` takes 2 arguments; found 1"),
        ("s + \"s\"", "a string stands only as the message of `check`"),
    ];
    for (expr, expected) in cases {
        let text =
            bound(&format!("fn k(t: Tensor<f32, 2>, s: f32, i: i32, n: usize) {{ let x = {expr}; }}"), &[]);
        assert!(text.contains(expected), "{expr}\n{text}");
    }
}

#[test]
fn arrivals_that_could_not_be_counted() {
    let cases = [
        (
            "for i in 0..4 { if k.arrive_last([i], num_programs(0)) { } }",
            "2:20: `arrive_last` is in a loop; a program arrives once\n  help: arrive behind the loop, when everything is stored",
        ),
        (
            "let a = k.arrive_last([0], num_programs(0)); let b = k.arrive_last([1], num_programs(0));",
            "2:54: a kernel arrives once; this is another `arrive_last`",
        ),
        (
            "k.store([0], full::<i32>([N], 0)); let a = k.arrive_last([0], num_programs(0));",
            "2:1: `k` counts arrivals; a kernel does nothing else with such a tensor",
        ),
        (
            "let a = c.arrive_last([0], num_programs(0));",
            "2:9: `arrive_last` counts in a tensor of i32; `c` holds f32",
        ),
        (
            "let a = r.arrive_last([0], num_programs(0));",
            "2:9: `arrive_last` writes to `r`, which is a Tensor; expected a TensorMut\n  help: declare it `r: TensorMut<..>`",
        ),
        (
            "let a = k.slice(0, 1, 4).arrive_last([0], num_programs(0));",
            "2:9: `arrive_last` takes the tensor of counters itself, not a part of it",
        ),
        (
            "let a = k.arrive_last([0], 3i32);",
            "2:28: the count of `arrive_last` is a usize; found i32\n  help: convert it with `as usize`",
        ),
    ];
    for (body, expected) in cases {
        let source = format!(
            "fn k<const N: usize>(k: TensorMut<i32, 1>, r: Tensor<i32, 1>, c: TensorMut<f32, 1>) {{\n{body}\n}}"
        );
        let list = functions(&source);
        let errors =
            tile_lang::check(&list[0], &|_, _| None, &Bindings::default(), Mode::Symbolic).unwrap_err();
        assert_eq!(render(&errors), expected, "{body}");
    }
}
