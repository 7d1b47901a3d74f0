//! Integration tests of the code generator.

mod cluster;
mod compile;
mod hopper;
mod lowering;
mod narrow;
mod passes;
mod persist;
mod simulate;
mod support;
mod tf32;
mod verify;
