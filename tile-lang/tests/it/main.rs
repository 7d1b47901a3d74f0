//! Tests of the language: parsing, checking, disjointness, tuning spaces.

mod parse;
mod space;
mod support;
