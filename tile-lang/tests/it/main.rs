//! Tests of the language: parsing, checking, disjointness, tuning spaces.

mod check;
mod kernels;
mod mistakes;
mod disjoint;
mod parse;
mod space;
mod support;
