//! Write a GPU kernel once as a Rust function over tiles; run it on the CPU or compile it to PTX.
