//! Integration tests of the code generator.

mod compile;
mod emulated;
mod hopper;
mod lowering;
mod narrow;
mod passes;
mod persist;
mod problems;
mod support;
mod verify;
