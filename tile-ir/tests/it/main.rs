//! Tests of the tile dialect, its passes and its interpreter.

mod dialect;
mod filetests;
mod interpret;
mod lower;
mod programs;
mod random;
