//! Integration tests of the code generator.

mod lowering;
mod passes;
