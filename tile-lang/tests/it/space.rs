//! Enumeration and validation of tuning spaces.

use crate::support::{functions, render};
use indexmap::IndexMap;
use tile_lang::space::{candidates, default_config, validate};

fn kernel(tune: &str) -> String {
    format!(
        "#[tile_kernel(tune({tune}))]\n\
         fn k<const TILE_M: usize, const TILE_N: usize, const CAUSAL: bool>(a: TensorMut<f32, 1>) {{}}"
    )
}

fn fixed(pairs: &[(&str, i64)]) -> IndexMap<String, i64> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
}

#[test]
fn candidates_meet_the_constraints_in_axis_order() {
    let source =
        kernel("TILE_M in [64, 32], TILE_N in [32, 64], num_warps in [4, 8] where TILE_M * TILE_N <= 2048");
    let kernel = &functions(&source)[0];
    let configs = candidates(kernel, &fixed(&[("CAUSAL", 1)])).expect("a valid space");
    let found: Vec<_> = configs
        .iter()
        .map(|c| (c.consts["TILE_M"], c.consts["TILE_N"], c.num_warps, c.consts["CAUSAL"]))
        .collect();
    assert_eq!(
        found,
        [(64, 32, 4, 1), (64, 32, 8, 1), (32, 32, 4, 1), (32, 32, 8, 1), (32, 64, 4, 1), (32, 64, 8, 1)]
    );
}

#[test]
fn default_is_the_first_candidate_that_fits() {
    let source = kernel("TILE_M in [64, 32], TILE_N in [64] where TILE_M < TILE_N || TILE_N == 1");
    let config = default_config(&functions(&source)[0], &fixed(&[("CAUSAL", 0)])).expect("a candidate");
    assert_eq!(config.consts["TILE_M"], 32);
}

#[test]
fn a_problem_overrides_an_axis() {
    let source = kernel("TILE_M in [64, 32], TILE_N in [64]");
    let configs =
        candidates(&functions(&source)[0], &fixed(&[("CAUSAL", 0), ("TILE_M", 16)])).expect("valid");
    assert_eq!(configs.len(), 1);
    assert_eq!(configs[0].consts["TILE_M"], 16);
}

#[test]
fn mistakes_are_reported_at_their_place() {
    let check = |tune: &str, expected: &str| {
        assert_eq!(render(&validate(&functions(&kernel(tune))[0])), expected, "{tune}");
    };
    check("TILE_M in [64]", "");
    check(
        "TILE_MM in [64]",
        "1:20: `TILE_MM` is neither a const parameter of k nor a launch option\n  help: did you mean `TILE_M`?",
    );
    check(
        "num_warps in [4, 3]",
        "1:20: 3 is no candidate for num_warps; expected a power of two from 1 to 16",
    );
    check("TILE_M in [64], TILE_M in [32]", "1:36: tuning axis TILE_M is declared twice");
    check(
        "TILE_M in [64] where TILE_M < x",
        "1:50: a constraint reads axes and const parameters; `x` is neither",
    );
}

#[test]
fn an_unbound_const_is_an_error() {
    let errors = candidates(&functions(&kernel("TILE_M in [64]"))[0], &fixed(&[("CAUSAL", 1)])).unwrap_err();
    assert_eq!(
        render(&errors),
        "2:33: const parameter TILE_N has no candidates in `tune(..)` and no value from the problem"
    );
}
