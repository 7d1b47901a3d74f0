//! Programs to IR.

use crate::programs::matmul;
use tile_ir::{LowerError, lower_program, with_context};
use tile_lang::DType;
use tile_lang::config::TensorFacts;

#[test]
fn matmul_lowers_to_a_loop_that_carries_the_accumulator() {
    with_context(|c| {
        let program = matmul(DType::F16, [64, 32, 16]);
        let module = lower_program(&program, &[TensorFacts::ALIGNED; 3], c).unwrap();
        println!("{}", module.to_text_with_locations());
        let text = module.to_text();
        for line in [
            "%arg2: !tile.view<2 : i64, f16> {tile.align_bytes = 16 : i64, tile.contiguous = true, \
             tile.mutable = true, tile.name = \"c\"}",
            "iter_args(%arg4 = %cst) -> (tensor<64x32xf32>)",
            "\"tile.load\"(%arg0, %0, %arg3) : (!tile.view<2 : i64, f16>, index, index) -> tensor<64x16xf16>",
            "arith.truncf %5 : tensor<64x32xf32> to tensor<64x32xf16>",
        ] {
            assert!(text.contains(line), "{line}\nis not in\n{text}");
        }
        let located = module.to_text_with_locations();
        assert!(located.contains("\"kernels/matmul.rs\":8:5"), "{located}");
        assert!(!located.contains("unknown"), "{located}");
    });
}

#[test]
fn facts_must_fit() {
    with_context(|c| {
        let program = matmul(DType::F16, [64, 32, 16]);
        let error = lower_program(&program, &[TensorFacts::ALIGNED], c).unwrap_err();
        assert_eq!(error, LowerError::Facts { expected: 3, found: 1 });
    });
}
