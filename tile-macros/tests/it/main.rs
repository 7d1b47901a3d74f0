//! Mistakes in kernels, and what `cargo check` says of them.

/// Compares the compiler's output for each file with the `.stderr` beside it; `TRYBUILD=overwrite` blesses.
#[test]
fn mistakes_are_reported_where_they_are_made() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
