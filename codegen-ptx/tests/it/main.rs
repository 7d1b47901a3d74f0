//! Integration tests of the code generator.

mod compile;
mod lowering;
mod passes;
mod support;
mod verify;
