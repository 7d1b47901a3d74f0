// run: canonicalize
// Unused values go, loops that only compute them too; stores stay.
func.func @remove_unused(%v: !tile.view<2 : i64, f32> , %n: index) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %z = arith.constant dense<0.0> : tensor<4x8xf32>
  %r:2 = scf.for %k = %c0 to %n step %c1 iter_args(%a = %z, %b = %z) -> (tensor<4x8xf32>, tensor<4x8xf32>) {
    %x = "tile.load"(%v, %k, %k) : (!tile.view<2 : i64, f32>, index, index) -> tensor<4x8xf32>
    %y = arith.addf %a, %x : tensor<4x8xf32>
    %w = arith.mulf %b, %x : tensor<4x8xf32>
    scf.yield %y, %w : tensor<4x8xf32>, tensor<4x8xf32>
  }
  %u = scf.for %k = %c0 to %n step %c1 iter_args(%a = %z) -> (tensor<4x8xf32>) {
    %x = "tile.load"(%v, %k, %k) : (!tile.view<2 : i64, f32>, index, index) -> tensor<4x8xf32>
    scf.yield %x : tensor<4x8xf32>
  }
  "tile.store"(%v, %c0, %c0, %r#0) : (!tile.view<2 : i64, f32>, index, index, tensor<4x8xf32>) -> ()
  return
}

// expected:
// module {
//   func.func @remove_unused(%arg0: !tile.view<2 : i64, f32>, %arg1: index) {
//     %c0 = arith.constant 0 : index
//     %c1 = arith.constant 1 : index
//     %cst = arith.constant dense<0.000000e+00> : tensor<4x8xf32>
//     %0 = scf.for %arg2 = %c0 to %arg1 step %c1 iter_args(%arg3 = %cst) -> (tensor<4x8xf32>) {
//       %1 = "tile.load"(%arg0, %arg2, %arg2) : (!tile.view<2 : i64, f32>, index, index) -> tensor<4x8xf32>
//       %2 = arith.addf %arg3, %1 : tensor<4x8xf32>
//       scf.yield %2 : tensor<4x8xf32>
//     }
//     "tile.store"(%arg0, %c0, %c0, %0) : (!tile.view<2 : i64, f32>, index, index, tensor<4x8xf32>) -> ()
//     return
//   }
// }
