// run: canonicalize
// x + 0.0 stays, since it turns -0.0 into 0.0; x + -0.0 is x.
func.func @keep_zero_signs(%v: !tile.view<1 : i64, f32>, %i: index) {
  %x = "tile.load"(%v, %i) : (!tile.view<1 : i64, f32>, index) -> tensor<8xf32>
  %zero = arith.constant dense<0.0> : tensor<8xf32>
  %minus = arith.constant dense<-0.0> : tensor<8xf32>
  %y = arith.addf %x, %zero : tensor<8xf32>
  %z = arith.addf %y, %minus : tensor<8xf32>
  "tile.store"(%v, %i, %z) : (!tile.view<1 : i64, f32>, index, tensor<8xf32>) -> ()
  return
}

// expected:
// module {
//   func.func @keep_zero_signs(%arg0: !tile.view<1 : i64, f32>, %arg1: index) {
//     %cst = arith.constant dense<0.000000e+00> : tensor<8xf32>
//     %0 = "tile.load"(%arg0, %arg1) : (!tile.view<1 : i64, f32>, index) -> tensor<8xf32>
//     %1 = arith.addf %0, %cst : tensor<8xf32>
//     "tile.store"(%arg0, %arg1, %1) : (!tile.view<1 : i64, f32>, index, tensor<8xf32>) -> ()
//     return
//   }
// }
