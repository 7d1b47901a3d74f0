// verify
// Control flow, views, attributes and kinds.
func.func @bad(%v: !tile.view<1 : i64, f32>, %w: !tile.view<1 : i64, f32>, %c: i1, %i: index) {
  %a = arith.constant dense<1.0> : tensor<4xf32>
  %d = "tile.dim"(%v) {axis = -1 : i64} : (!tile.view<1 : i64, f32>) -> index loc("kernels/bad.rs":4:5)
  %p = "tile.transpose"(%a) {perm = array<i8: 0>} : (tensor<4xf32>) -> tensor<4xf32> loc("kernels/bad.rs":5:5)
  %s = "tile.splat"(%a) : (tensor<4xf32>) -> tensor<4xf32> loc("kernels/bad.rs":6:5)
  %k = "tile.cast"(%a) : (tensor<4xf32>) -> i32 loc("kernels/bad.rs":7:5)
  %t = "tile.load"(%v, %i) : (!tile.view<1 : i64, f32>, index) -> tensor<?xf32> loc("kernels/bad.rs":8:5)
  %big = arith.constant dense<1> : tensor<4xi64> loc("kernels/bad.rs":9:5)
  %u = scf.if %c -> (!tile.view<1 : i64, f32>) {
    scf.yield %v : !tile.view<1 : i64, f32>
  } else {
    scf.yield %w : !tile.view<1 : i64, f32>
  } loc("kernels/bad.rs":10:5)
  %e = scf.execute_region -> index {
    scf.yield %i : index
  } loc("kernels/bad.rs":11:5)
  "tile.store"(%v, %i, %i, %a) : (!tile.view<1 : i64, f32>, index, index, tensor<4xf32>) -> () loc("kernels/bad.rs":12:5)
  %m = "tile.mma"(%a, %a, %a) : (tensor<4xf32>, tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32> loc("kernels/bad.rs":13:5)
  %b = arith.constant dense<true> : tensor<4xi1>
  %r = "tile.reduce"(%b) {axis = 0 : i64, kind = "max"} : (tensor<4xi1>) -> tensor<1xi1> loc("kernels/bad.rs":14:5)
  return
^dead:
  return
} loc("kernels/bad.rs":1:1)

// expected:
// kernels/bad.rs:1:1: func.func: has control flow other than loops and branches of one block
// kernels/bad.rs:4:5: tile.dim: has missing or malformed attributes
// kernels/bad.rs:5:5: tile.transpose: has missing or malformed attributes
// kernels/bad.rs:6:5: tile.splat: the operand must be a scalar
// kernels/bad.rs:7:5: tile.cast: the result must be a tile like the operand
// kernels/bad.rs:8:5: tile.load: the result has shape tensor<?xf32>; every dimension must be a power of two
// kernels/bad.rs:8:5: tile.load: the tile's rank is 0 for a view of rank 1
// kernels/bad.rs:9:5: arith.constant: the result has dtype i64; expected a tile's dtype
// kernels/bad.rs:10:5: scf.if: a tensor view is neither an argument of the kernel nor a slice of one
// kernels/bad.rs:11:5: scf.execute_region: is not an operation of the tile level
// kernels/bad.rs:12:5: tile.store: the number of indices is 2 for a view of rank 1
// kernels/bad.rs:13:5: tile.mma: lhs has shape [4]; expected [1, 4]
// kernels/bad.rs:13:5: tile.mma: rhs has shape [4]; expected [1, 4]
// kernels/bad.rs:13:5: tile.mma: acc has shape [4]; expected [1, 4]
// kernels/bad.rs:14:5: tile.reduce: the operand has dtype bool; expected f32, f16, bf16 or i32
