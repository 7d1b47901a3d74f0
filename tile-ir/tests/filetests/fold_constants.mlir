// run: canonicalize
// Constants fold through tiles, scalars and casts; x * 1 and a select by a constant are x.
func.func @fold_constants(%v: !tile.view<2 : i64, f32>, %w: !tile.view<2 : i64, f8E4M3FN>, %i: index, %q: f32) {
  %x = "tile.load"(%v, %i, %i) : (!tile.view<2 : i64, f32>, index, index) -> tensor<4x8xf32>
  %one = arith.constant 1.0 : f32
  %ones = "tile.splat"(%one) : (f32) -> tensor<4x8xf32>
  %y = arith.mulf %x, %ones : tensor<4x8xf32>
  %true = arith.constant true
  %cond = "tile.splat"(%true) : (i1) -> tensor<4x8xi1>
  %z = arith.select %cond, %y, %ones : tensor<4x8xi1>, tensor<4x8xf32>
  %two = arith.constant dense<2.0> : tensor<1x8xf32>
  %three = arith.constant dense<3.0> : tensor<1x8xf32>
  %six = arith.mulf %two, %three : tensor<1x8xf32>
  %sixes = "tile.broadcast"(%six) : (tensor<1x8xf32>) -> tensor<4x8xf32>
  %qs = "tile.splat"(%q) : (f32) -> tensor<4x8xf32>
  %sq = arith.mulf %sixes, %qs : tensor<4x8xf32>
  %sum = arith.addf %z, %sq : tensor<4x8xf32>
  "tile.store"(%v, %i, %i, %sum) : (!tile.view<2 : i64, f32>, index, index, tensor<4x8xf32>) -> ()
  %big = arith.constant dense<1000.0> : tensor<4x8xf32>
  %f8 = "tile.cast"(%big) : (tensor<4x8xf32>) -> tensor<4x8xf8E4M3FN>
  "tile.store"(%w, %i, %i, %f8) : (!tile.view<2 : i64, f8E4M3FN>, index, index, tensor<4x8xf8E4M3FN>) -> ()
  return
}

// expected:
// module {
//   func.func @fold_constants(%arg0: !tile.view<2 : i64, f32>, %arg1: !tile.view<2 : i64, f8E4M3FN>, %arg2: index, %arg3: f32) {
//     %cst = arith.constant 6.000000e+00 : f32
//     %cst_0 = arith.constant dense<4.480000e+02> : tensor<4x8xf8E4M3FN>
//     %0 = "tile.load"(%arg0, %arg2, %arg2) : (!tile.view<2 : i64, f32>, index, index) -> tensor<4x8xf32>
//     %1 = arith.mulf %arg3, %cst : f32
//     %2 = "tile.splat"(%1) : (f32) -> tensor<4x8xf32>
//     %3 = arith.addf %0, %2 : tensor<4x8xf32>
//     "tile.store"(%arg0, %arg2, %arg2, %3) : (!tile.view<2 : i64, f32>, index, index, tensor<4x8xf32>) -> ()
//     "tile.store"(%arg1, %arg2, %arg2, %cst_0) : (!tile.view<2 : i64, f8E4M3FN>, index, index, tensor<4x8xf8E4M3FN>) -> ()
//     return
//   }
// }
