// run: hoist-invariants
// Q, its transpose and the row numbers leave both loops; what depends on a loop variable, a load of the tensor
// that is written, and a division that may trap stay.
func.func @hoist(%q: !tile.view<2 : i64, f16>, %o: !tile.view<2 : i64, f16>, %n: index, %d: index) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  scf.for %i = %c0 to %n step %c1 {
    scf.for %j = %c0 to %n step %c1 {
      %x = "tile.load"(%q, %c0, %c0) : (!tile.view<2 : i64, f16>, index, index) -> tensor<16x16xf16>
      %t = "tile.transpose"(%x) {perm = array<i64: 1, 0>} : (tensor<16x16xf16>) -> tensor<16x16xf16>
      %row = "tile.load"(%q, %i, %c0) : (!tile.view<2 : i64, f16>, index, index) -> tensor<16x16xf16>
      %both = arith.addf %t, %row : tensor<16x16xf16>
      %old = "tile.load"(%o, %c0, %c0) : (!tile.view<2 : i64, f16>, index, index) -> tensor<16x16xf16>
      %new = arith.addf %old, %both : tensor<16x16xf16>
      %safe = arith.divui %n, %c1 : index
      %trap = arith.divui %n, %d : index
      %at = arith.addi %safe, %trap : index
      "tile.store"(%o, %at, %j, %new) : (!tile.view<2 : i64, f16>, index, index, tensor<16x16xf16>) -> ()
    }
  }
  return
}

// expected:
// module {
//   func.func @hoist(%arg0: !tile.view<2 : i64, f16>, %arg1: !tile.view<2 : i64, f16>, %arg2: index, %arg3: index) {
//     %c0 = arith.constant 0 : index
//     %c1 = arith.constant 1 : index
//     %0 = "tile.load"(%arg0, %c0, %c0) : (!tile.view<2 : i64, f16>, index, index) -> tensor<16x16xf16>
//     %1 = "tile.transpose"(%0) {perm = array<i64: 1, 0>} : (tensor<16x16xf16>) -> tensor<16x16xf16>
//     %2 = arith.divui %arg2, %c1 : index
//     scf.for %arg4 = %c0 to %arg2 step %c1 {
//       %3 = "tile.load"(%arg0, %arg4, %c0) : (!tile.view<2 : i64, f16>, index, index) -> tensor<16x16xf16>
//       %4 = arith.addf %1, %3 : tensor<16x16xf16>
//       scf.for %arg5 = %c0 to %arg2 step %c1 {
//         %5 = "tile.load"(%arg1, %c0, %c0) : (!tile.view<2 : i64, f16>, index, index) -> tensor<16x16xf16>
//         %6 = arith.addf %5, %4 : tensor<16x16xf16>
//         %7 = arith.divui %arg2, %arg3 : index
//         %8 = arith.addi %2, %7 : index
//         "tile.store"(%arg1, %8, %arg5, %6) : (!tile.view<2 : i64, f16>, index, index, tensor<16x16xf16>) -> ()
//       }
//     }
//     return
//   }
// }
