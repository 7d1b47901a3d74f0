//! Integration tests of the code generator.

mod compile;
mod hopper;
mod lowering;
mod passes;
mod support;
mod verify;
