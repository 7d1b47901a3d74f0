//! The tile MLIR dialect, its verifier, target-independent passes and interpreter.
