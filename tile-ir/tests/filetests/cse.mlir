// run: cse
// Equal loads of a tensor that is only read are one, also inside a loop; those of a written one stay apart.
func.func @cse(%q: !tile.view<2 : i64, f32>, %o: !tile.view<2 : i64, f32>, %n: index) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %x = "tile.load"(%q, %c0, %c0) : (!tile.view<2 : i64, f32>, index, index) -> tensor<4x4xf32>
  %p = "tile.load"(%o, %c0, %c0) : (!tile.view<2 : i64, f32>, index, index) -> tensor<4x4xf32>
  scf.for %i = %c0 to %n step %c1 {
    %y = "tile.load"(%q, %c0, %c0) : (!tile.view<2 : i64, f32>, index, index) -> tensor<4x4xf32>
    %other = "tile.load"(%q, %c0, %c0) : (!tile.view<2 : i64, f32>, index, index) -> tensor<4x4xf32>
    %wide = "tile.load"(%q, %c0, %c0) : (!tile.view<2 : i64, f32>, index, index) -> tensor<4x8xf32>
    %max = "tile.reduce"(%wide) {axis = 1 : i64, kind = "max"} : (tensor<4x8xf32>) -> tensor<4x1xf32>
    %min = "tile.reduce"(%wide) {axis = 1 : i64, kind = "min"} : (tensor<4x8xf32>) -> tensor<4x1xf32>
    %again = "tile.reduce"(%wide) {kind = "max", axis = 1 : i64} : (tensor<4x8xf32>) -> tensor<4x1xf32>
    %r = "tile.load"(%o, %c0, %c0) : (!tile.view<2 : i64, f32>, index, index) -> tensor<4x4xf32>
    %s = arith.addf %y, %other : tensor<4x4xf32>
    %t = arith.addf %s, %r : tensor<4x4xf32>
    "tile.store"(%o, %i, %i, %t) : (!tile.view<2 : i64, f32>, index, index, tensor<4x4xf32>) -> ()
    %b = arith.addf %max, %again : tensor<4x1xf32>
    %m = arith.addf %b, %min : tensor<4x1xf32>
    "tile.store"(%o, %i, %c1, %m) : (!tile.view<2 : i64, f32>, index, index, tensor<4x1xf32>) -> ()
  }
  "tile.store"(%o, %c0, %c0, %x) : (!tile.view<2 : i64, f32>, index, index, tensor<4x4xf32>) -> ()
  "tile.store"(%o, %c1, %c0, %p) : (!tile.view<2 : i64, f32>, index, index, tensor<4x4xf32>) -> ()
  return
}

// expected:
// module {
//   func.func @cse(%arg0: !tile.view<2 : i64, f32>, %arg1: !tile.view<2 : i64, f32>, %arg2: index) {
//     %c0 = arith.constant 0 : index
//     %c1 = arith.constant 1 : index
//     %0 = "tile.load"(%arg0, %c0, %c0) : (!tile.view<2 : i64, f32>, index, index) -> tensor<4x4xf32>
//     %1 = "tile.load"(%arg1, %c0, %c0) : (!tile.view<2 : i64, f32>, index, index) -> tensor<4x4xf32>
//     scf.for %arg3 = %c0 to %arg2 step %c1 {
//       %2 = "tile.load"(%arg0, %c0, %c0) : (!tile.view<2 : i64, f32>, index, index) -> tensor<4x8xf32>
//       %3 = "tile.reduce"(%2) {axis = 1 : i64, kind = "max"} : (tensor<4x8xf32>) -> tensor<4x1xf32>
//       %4 = "tile.reduce"(%2) {axis = 1 : i64, kind = "min"} : (tensor<4x8xf32>) -> tensor<4x1xf32>
//       %5 = "tile.load"(%arg1, %c0, %c0) : (!tile.view<2 : i64, f32>, index, index) -> tensor<4x4xf32>
//       %6 = arith.addf %0, %0 : tensor<4x4xf32>
//       %7 = arith.addf %6, %5 : tensor<4x4xf32>
//       "tile.store"(%arg1, %arg3, %arg3, %7) : (!tile.view<2 : i64, f32>, index, index, tensor<4x4xf32>) -> ()
//       %8 = arith.addf %3, %3 : tensor<4x1xf32>
//       %9 = arith.addf %8, %4 : tensor<4x1xf32>
//       "tile.store"(%arg1, %arg3, %c1, %9) : (!tile.view<2 : i64, f32>, index, index, tensor<4x1xf32>) -> ()
//     }
//     "tile.store"(%arg1, %c0, %c0, %0) : (!tile.view<2 : i64, f32>, index, index, tensor<4x4xf32>) -> ()
//     "tile.store"(%arg1, %c1, %c0, %1) : (!tile.view<2 : i64, f32>, index, index, tensor<4x4xf32>) -> ()
//     return
//   }
// }
