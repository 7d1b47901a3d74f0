//! The tile_kernel and tile_fn attribute macros.
