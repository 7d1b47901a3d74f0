//! Kernels written in the tile language, with their contracts and reference oracles.
