// run: canonicalize
// Shape operations fold into each other, and identities vanish.
func.func @fold_shapes(%v: !tile.view<2 : i64, f32>, %i: index) {
  %x = "tile.load"(%v, %i, %i) : (!tile.view<2 : i64, f32>, index, index) -> tensor<4x8xf32>
  %t = "tile.transpose"(%x) {perm = array<i64: 1, 0>} : (tensor<4x8xf32>) -> tensor<8x4xf32>
  %u = "tile.transpose"(%t) {perm = array<i64: 1, 0>} : (tensor<8x4xf32>) -> tensor<4x8xf32>
  %r = "tile.reshape"(%u) : (tensor<4x8xf32>) -> tensor<32xf32>
  %s = "tile.reshape"(%r) : (tensor<32xf32>) -> tensor<2x16xf32>
  %w = "tile.reshape"(%s) : (tensor<2x16xf32>) -> tensor<4x8xf32>
  %m = "tile.reduce"(%w) {axis = 1 : i64, kind = "max"} : (tensor<4x8xf32>) -> tensor<4x1xf32>
  %n = "tile.reduce"(%m) {axis = 1 : i64, kind = "sum"} : (tensor<4x1xf32>) -> tensor<4x1xf32>
  %b = "tile.broadcast"(%n) : (tensor<4x1xf32>) -> tensor<4x8xf32>
  %c = "tile.broadcast"(%b) : (tensor<4x8xf32>) -> tensor<4x8xf32>
  %d = "tile.reduce"(%c) {axis = 1 : i64, kind = "max"} : (tensor<4x8xf32>) -> tensor<4x1xf32>
  %e = "tile.broadcast"(%d) : (tensor<4x1xf32>) -> tensor<4x8xf32>
  "tile.store"(%v, %i, %i, %e) : (!tile.view<2 : i64, f32>, index, index, tensor<4x8xf32>) -> ()
  return
}

// expected:
// module {
//   func.func @fold_shapes(%arg0: !tile.view<2 : i64, f32>, %arg1: index) {
//     %0 = "tile.load"(%arg0, %arg1, %arg1) : (!tile.view<2 : i64, f32>, index, index) -> tensor<4x8xf32>
//     %1 = "tile.reduce"(%0) {axis = 1 : i64, kind = "max"} : (tensor<4x8xf32>) -> tensor<4x1xf32>
//     %2 = "tile.broadcast"(%1) : (tensor<4x1xf32>) -> tensor<4x8xf32>
//     "tile.store"(%arg0, %arg1, %arg1, %2) : (!tile.view<2 : i64, f32>, index, index, tensor<4x8xf32>) -> ()
//     return
//   }
// }
