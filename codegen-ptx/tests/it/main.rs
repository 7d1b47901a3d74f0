//! Integration tests of the code generator.

mod compile;
mod hopper;
mod lowering;
mod narrow;
mod passes;
mod persist;
mod support;
mod tf32;
mod verify;
