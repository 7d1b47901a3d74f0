//! Tests of the tile dialect, its passes and its interpreter.

mod dialect;
mod filetests;
mod lower;
mod programs;
