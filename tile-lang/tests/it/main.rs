//! Tests of the language: parsing, checking, disjointness, tuning spaces.

mod check;
mod disjoint;
mod kernels;
mod mistakes;
mod parse;
mod space;
mod support;
