//! Kernels through the macro on the CPU device.

mod matmul;
