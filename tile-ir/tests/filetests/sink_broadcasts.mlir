// run: canonicalize
// What two broadcasts of one shape compute together is computed before them.
func.func @sink_broadcasts(%v: !tile.view<2 : i64, f32>, %i: index) {
  %a = "tile.load"(%v, %i, %i) : (!tile.view<2 : i64, f32>, index, index) -> tensor<4x1xf32>
  %b = "tile.load"(%v, %i, %i) : (!tile.view<2 : i64, f32>, index, index) -> tensor<4x1xf32>
  %half = arith.constant dense<0.5> : tensor<4x8xf32>
  %x = "tile.broadcast"(%a) : (tensor<4x1xf32>) -> tensor<4x8xf32>
  %y = "tile.broadcast"(%b) : (tensor<4x1xf32>) -> tensor<4x8xf32>
  %s = arith.subf %x, %y : tensor<4x8xf32>
  %h = arith.mulf %s, %half : tensor<4x8xf32>
  %e = math.exp2 %h : tensor<4x8xf32>
  "tile.store"(%v, %i, %i, %e) : (!tile.view<2 : i64, f32>, index, index, tensor<4x8xf32>) -> ()
  return
}

// expected:
// module {
//   func.func @sink_broadcasts(%arg0: !tile.view<2 : i64, f32>, %arg1: index) {
//     %cst = arith.constant dense<5.000000e-01> : tensor<4x1xf32>
//     %0 = "tile.load"(%arg0, %arg1, %arg1) : (!tile.view<2 : i64, f32>, index, index) -> tensor<4x1xf32>
//     %1 = "tile.load"(%arg0, %arg1, %arg1) : (!tile.view<2 : i64, f32>, index, index) -> tensor<4x1xf32>
//     %2 = arith.subf %0, %1 : tensor<4x1xf32>
//     %3 = arith.mulf %2, %cst : tensor<4x1xf32>
//     %4 = math.exp2 %3 : tensor<4x1xf32>
//     %5 = "tile.broadcast"(%4) : (tensor<4x1xf32>) -> tensor<4x8xf32>
//     "tile.store"(%arg0, %arg1, %arg1, %5) : (!tile.view<2 : i64, f32>, index, index, tensor<4x8xf32>) -> ()
//     return
//   }
// }
