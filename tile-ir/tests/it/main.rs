//! Tests of the tile dialect, its passes and its interpreter.

mod dialect;
mod eager;
mod filetests;
mod fmha;
mod interpret;
mod kernels;
mod language;
mod lower;
mod programs;
mod random;
mod split_masks;
