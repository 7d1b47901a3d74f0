// verify
#k = loc("kernels/bad.rs":7:9)
func.func @bad(%v: !tile.view<2 : i64, f16> {tile.mutable = false}, %w: !tile.view<1 : i64, i32>, %i: index, %s: f32) {
  %a = "tile.load"(%v, %i) : (!tile.view<2 : i64, f16>, index) -> tensor<4x8xf16> loc(#k)
  %b = "tile.load"(%v, %i, %i) : (!tile.view<2 : i64, f16>, index, index) -> tensor<3x8xf16> loc("kernels/bad.rs":8:9)
  %c = "tile.load"(%v, %i, %i) : (!tile.view<2 : i64, f16>, index, index) -> tensor<4x8xbf16> loc("kernels/bad.rs":9:9)
  %d = "tile.transpose"(%a) {perm = array<i64: 1, 1>} : (tensor<4x8xf16>) -> tensor<8x4xf16> loc("kernels/bad.rs":10:9)
  %e = "tile.transpose"(%a) {perm = array<i64: 1, 0>} : (tensor<4x8xf16>) -> tensor<4x8xf16> loc("kernels/bad.rs":11:9)
  %f = "tile.reduce"(%a) {axis = 2 : i64, kind = "sum"} : (tensor<4x8xf16>) -> tensor<4x1xf16> loc("kernels/bad.rs":12:9)
  %g = "tile.reduce"(%a) {axis = 0 : i64, kind = "sum"} : (tensor<4x8xf16>) -> tensor<4x1xf16> loc("kernels/bad.rs":13:9)
  %h = "tile.reshape"(%a) : (tensor<4x8xf16>) -> tensor<4x4xf16> loc("kernels/bad.rs":14:9)
  %j = "tile.broadcast"(%a) : (tensor<4x8xf16>) -> tensor<8x8xf16> loc("kernels/bad.rs":15:9)
  %acc = arith.constant dense<0.0> : tensor<4x4xf16>
  %m = "tile.mma"(%a, %a, %acc) : (tensor<4x8xf16>, tensor<4x8xf16>, tensor<4x4xf16>) -> tensor<4x4xf16> loc("kernels/bad.rs":16:9)
  %n = "tile.splat"(%s) : (f32) -> tensor<4x4xf16> loc("kernels/bad.rs":17:9)
  %o = "tile.cast"(%a) : (tensor<4x8xf16>) -> tensor<4x8xf32> loc("kernels/bad.rs":18:9)
  %p = "tile.iota"() : () -> tensor<4xf32> loc("kernels/bad.rs":19:9)
  %g2 = "tile.gather"(%w, %p) {operandSegmentSizes = array<i32: 1, 1, 0>} : (!tile.view<1 : i64, i32>, tensor<4xf32>) -> tensor<8xi32> loc("kernels/bad.rs":20:9)
  "tile.store"(%v, %i, %i, %a) : (!tile.view<2 : i64, f16>, index, index, tensor<4x8xf16>) -> () loc("kernels/bad.rs":21:9)
  %q = "tile.program_id"() {axis = 3 : i64} : () -> index loc("kernels/bad.rs":22:9)
  %f8 = arith.constant dense<1.0> : tensor<4xf8E4M3FN>
  %r = arith.addf %f8, %f8 : tensor<4xf8E4M3FN> loc("kernels/bad.rs":23:9)
  %t = tensor.empty() : tensor<4xf32> loc("kernels/bad.rs":24:9)
  %true = arith.constant true
  %u = arith.select %true, %v, %v : !tile.view<2 : i64, f16> loc("kernels/bad.rs":25:9)
  return
}

// expected:
// kernels/bad.rs:7:9: tile.load: the number of indices is 1 for a view of rank 2
// kernels/bad.rs:8:9: tile.load: the result has shape [3, 8]; every dimension must be a power of two
// kernels/bad.rs:9:9: tile.load: the result has dtype bf16; expected the tensor's
// kernels/bad.rs:10:9: tile.transpose: [1, 1] is not a permutation of 2 dimensions
// kernels/bad.rs:11:9: tile.transpose: the result has shape [4, 8]; expected [8, 4]
// kernels/bad.rs:12:9: tile.reduce: axis 2 is out of range for 2 dimensions
// kernels/bad.rs:13:9: tile.reduce: the result has shape [4, 1]; expected [1, 8]
// kernels/bad.rs:14:9: tile.reshape: reshapes [4, 8] to [4, 4], which has another number of elements
// kernels/bad.rs:15:9: tile.broadcast: the result has shape [8, 8]; expected [4, 8]
// kernels/bad.rs:16:9: tile.mma: acc has dtype f16; expected f32
// kernels/bad.rs:16:9: tile.mma: lhs has 8 columns, rhs has 4 rows
// kernels/bad.rs:16:9: tile.mma: acc has shape [4, 4]; expected [4, 8]
// kernels/bad.rs:17:9: tile.splat: the result has dtype f16; expected the operand's
// kernels/bad.rs:18:9: tile.cast: the operand has dtype f16; expected f32 to f8, f4 or an integer, or f8 or f4 to a wider float
// kernels/bad.rs:19:9: tile.iota: the result has dtype f32; expected i32
// kernels/bad.rs:20:9: tile.gather: an index tile has dtype f32; expected i32
// kernels/bad.rs:20:9: tile.gather: an index tile has shape [4]; expected [8]
// kernels/bad.rs:21:9: tile.store: stores to a tensor that is read-only
// kernels/bad.rs:22:9: tile.program_id: axis 3 is out of range for 3 dimensions
// kernels/bad.rs:23:9: arith.addf: an operand has dtype f8E4M3FN; expected a dtype with arithmetic
// kernels/bad.rs:24:9: tensor.empty: is not an operation of the tile level
// kernels/bad.rs:25:9: arith.select: a tensor view is neither an argument of the kernel nor a slice of one
