// out = lhs rhs^T, bf16, 128x128x64.
func.func @matmul(%lhs: !tile.view<2 : i64, bf16>, %rhs: !tile.view<2 : i64, bf16>, %out: !tile.view<2 : i64, bf16>) {
  %m = "tile.program_id"() {axis = 0 : i64} : () -> index
  %n = "tile.program_id"() {axis = 1 : i64} : () -> index
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c63 = arith.constant 63 : index
  %c64 = arith.constant 64 : index
  %zero = arith.constant dense<0.0> : tensor<128x128xf32>
  %k = "tile.dim"(%lhs) {axis = 1 : i64} : (!tile.view<2 : i64, bf16>) -> index
  %k63 = arith.addi %k, %c63 : index
  %steps = arith.divui %k63, %c64 : index
  %acc = scf.for %i = %c0 to %steps step %c1 iter_args(%sum = %zero) -> (tensor<128x128xf32>) {
    %a = "tile.load"(%lhs, %m, %i) : (!tile.view<2 : i64, bf16>, index, index) -> tensor<128x64xbf16>
    %b = "tile.load"(%rhs, %n, %i) : (!tile.view<2 : i64, bf16>, index, index) -> tensor<128x64xbf16>
    %bt = "tile.transpose"(%b) {perm = array<i64: 1, 0>} : (tensor<128x64xbf16>) -> tensor<64x128xbf16>
    %next = "tile.mma"(%a, %bt, %sum) : (tensor<128x64xbf16>, tensor<64x128xbf16>, tensor<128x128xf32>) -> tensor<128x128xf32>
    scf.yield %next : tensor<128x128xf32>
  }
  %r = arith.truncf %acc : tensor<128x128xf32> to tensor<128x128xbf16>
  "tile.store"(%out, %m, %n, %r) : (!tile.view<2 : i64, bf16>, index, index, tensor<128x128xbf16>) -> ()
  return
}
