//! Integration tests of the code generator.

mod cluster;
mod compile;
mod emulated;
mod hopper;
mod idle;
mod loads;
mod lowering;
mod narrow;
mod passes;
mod persist;
mod problems;
mod simulate;
mod skip_maxima;
mod skip_ones;
mod split_tail;
mod stream_loads;
mod sums;
mod support;
mod tf32;
mod verify;
