// run: split-masks, canonicalize, cse, hoist-invariants
// The first mask is proved from bounds, the second compares what is loaded, the third is of few elements.
func.func @split_masks(%v: !tile.view<2 : i64, f32>, %w: !tile.view<2 : i64, i32>, %n: index, %last: i32) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c64 = arith.constant 64 : index
  %fill = arith.constant dense<0xFF800000> : tensor<64x64xf32>
  %limit = "tile.splat"(%last) : (i32) -> tensor<64x64xi32>
  %few = "tile.splat"(%last) : (i32) -> tensor<1x64xi32>
  %fill2 = arith.constant dense<0.0> : tensor<1x64xf32>
  scf.for %j = %c0 to %n step %c1 {
    %x = "tile.load"(%v, %j, %c0) : (!tile.view<2 : i64, f32>, index, index) -> tensor<64x64xf32>
    %at = arith.muli %j, %c64 : index
    %base = arith.index_cast %at : index to i32
    %iota = "tile.iota"() : () -> tensor<64xi32>
    %start = "tile.splat"(%base) : (i32) -> tensor<64xi32>
    %cols = arith.addi %iota, %start : tensor<64xi32>
    %row = "tile.reshape"(%cols) : (tensor<64xi32>) -> tensor<1x64xi32>
    %wide = "tile.broadcast"(%row) : (tensor<1x64xi32>) -> tensor<64x64xi32>
    %seen = arith.cmpi slt, %wide, %limit : tensor<64x64xi32>
    %y = arith.select %seen, %x, %fill : tensor<64x64xi1>, tensor<64x64xf32>
    %loaded = "tile.load"(%w, %j, %c0) : (!tile.view<2 : i64, i32>, index, index) -> tensor<64x64xi32>
    %other = arith.cmpi sge, %limit, %loaded : tensor<64x64xi32>
    %z = arith.select %other, %y, %fill : tensor<64x64xi1>, tensor<64x64xf32>
    "tile.store"(%v, %j, %c0, %z) : (!tile.view<2 : i64, f32>, index, index, tensor<64x64xf32>) -> ()
    %narrow = arith.cmpi slt, %row, %few : tensor<1x64xi32>
    %first = "tile.load"(%v, %j, %c1) : (!tile.view<2 : i64, f32>, index, index) -> tensor<1x64xf32>
    %small = arith.select %narrow, %first, %fill2 : tensor<1x64xi1>, tensor<1x64xf32>
    "tile.store"(%v, %j, %c1, %small) : (!tile.view<2 : i64, f32>, index, index, tensor<1x64xf32>) -> ()
  }
  return
}

// expected:
// module {
//   func.func @split_masks(%arg0: !tile.view<2 : i64, f32>, %arg1: !tile.view<2 : i64, i32>, %arg2: index, %arg3: i32) {
//     %c64_i64 = arith.constant 64 : i64
//     %cst = arith.constant dense<0.000000e+00> : tensor<1x64xf32>
//     %c0 = arith.constant 0 : index
//     %c1 = arith.constant 1 : index
//     %c64 = arith.constant 64 : index
//     %cst_0 = arith.constant dense<0xFF800000> : tensor<64x64xf32>
//     %0 = "tile.splat"(%arg3) : (i32) -> tensor<64x64xi32>
//     %1 = "tile.splat"(%arg3) : (i32) -> tensor<1x64xi32>
//     %2 = "tile.iota"() : () -> tensor<64xi32>
//     %3 = arith.extsi %arg3 : i32 to i64
//     scf.for %arg4 = %c0 to %arg2 step %c1 {
//       %4 = "tile.load"(%arg0, %arg4, %c0) : (!tile.view<2 : i64, f32>, index, index) -> tensor<64x64xf32>
//       %5 = arith.muli %arg4, %c64 : index
//       %6 = arith.index_cast %5 : index to i32
//       %7 = "tile.splat"(%6) : (i32) -> tensor<64xi32>
//       %8 = arith.addi %2, %7 : tensor<64xi32>
//       %9 = "tile.reshape"(%8) : (tensor<64xi32>) -> tensor<1x64xi32>
//       %10 = arith.extsi %6 : i32 to i64
//       %11 = arith.addi %10, %c64_i64 : i64
//       %12 = arith.cmpi sle, %11, %3 : i64
//       %13 = scf.if %12 -> (tensor<64x64xf32>) {
//         scf.yield %4 : tensor<64x64xf32>
//       } else {
//         %20 = arith.cmpi slt, %9, %1 : tensor<1x64xi32>
//         %21 = "tile.broadcast"(%20) : (tensor<1x64xi1>) -> tensor<64x64xi1>
//         %22 = arith.select %21, %4, %cst_0 : tensor<64x64xi1>, tensor<64x64xf32>
//         scf.yield %22 : tensor<64x64xf32>
//       }
//       %14 = "tile.load"(%arg1, %arg4, %c0) : (!tile.view<2 : i64, i32>, index, index) -> tensor<64x64xi32>
//       %15 = arith.cmpi sge, %0, %14 : tensor<64x64xi32>
//       %16 = arith.select %15, %13, %cst_0 : tensor<64x64xi1>, tensor<64x64xf32>
//       "tile.store"(%arg0, %arg4, %c0, %16) : (!tile.view<2 : i64, f32>, index, index, tensor<64x64xf32>) -> ()
//       %17 = arith.cmpi slt, %9, %1 : tensor<1x64xi32>
//       %18 = "tile.load"(%arg0, %arg4, %c1) : (!tile.view<2 : i64, f32>, index, index) -> tensor<1x64xf32>
//       %19 = arith.select %17, %18, %cst : tensor<1x64xi1>, tensor<1x64xf32>
//       "tile.store"(%arg0, %arg4, %c1, %19) : (!tile.view<2 : i64, f32>, index, index, tensor<1x64xf32>) -> ()
//     }
//     return
//   }
// }
