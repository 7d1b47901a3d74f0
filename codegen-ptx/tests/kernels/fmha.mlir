// Causal attention, bf16, 64 queries by 64 keys, head_dim 64, on views of rank 4.
func.func @fmha(%q: !tile.view<4 : i64, bf16>, %k: !tile.view<4 : i64, bf16>, %v: !tile.view<4 : i64, bf16>, %out: !tile.view<4 : i64, bf16>, %scale: f32) {
  %m = "tile.program_id"() {axis = 0 : i64} : () -> index
  %head = "tile.program_id"() {axis = 1 : i64} : () -> index
  %batch = "tile.program_id"() {axis = 2 : i64} : () -> index
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c64 = arith.constant 64 : index
  %c64i = arith.constant 64 : i32
  %inf = arith.constant dense<0xFF800000> : tensor<64x64xf32>
  %rows_inf = arith.constant dense<0xFF800000> : tensor<64x1xf32>
  %rows_zero = arith.constant dense<0.0> : tensor<64x1xf32>
  %dots_zero = arith.constant dense<0.0> : tensor<64x64xf32>
  %queries4 = "tile.load"(%q, %batch, %head, %m, %c0) : (!tile.view<4 : i64, bf16>, index, index, index, index) -> tensor<1x1x64x64xbf16>
  %queries = "tile.reshape"(%queries4) : (tensor<1x1x64x64xbf16>) -> tensor<64x64xbf16>
  %iota = "tile.iota"() : () -> tensor<64xi32>
  %mi = arith.index_cast %m : index to i32
  %first = arith.muli %mi, %c64i : i32
  %firsts = "tile.splat"(%first) : (i32) -> tensor<64xi32>
  %places1 = arith.addi %iota, %firsts : tensor<64xi32>
  %limit = "tile.reshape"(%places1) : (tensor<64xi32>) -> tensor<64x1xi32>
  %limits = "tile.broadcast"(%limit) : (tensor<64x1xi32>) -> tensor<64x64xi32>
  %end = arith.addi %m, %c1 : index
  %scales = "tile.splat"(%scale) : (f32) -> tensor<64x64xf32>
  %r:3 = scf.for %j = %c0 to %end step %c1 iter_args(%acc = %dots_zero, %row_max = %rows_inf, %row_sum = %rows_zero) -> (tensor<64x64xf32>, tensor<64x1xf32>, tensor<64x1xf32>) {
    %keys4 = "tile.load"(%k, %batch, %head, %j, %c0) : (!tile.view<4 : i64, bf16>, index, index, index, index) -> tensor<1x1x64x64xbf16>
    %keys = "tile.reshape"(%keys4) : (tensor<1x1x64x64xbf16>) -> tensor<64x64xbf16>
    %keys_t = "tile.transpose"(%keys) {perm = array<i64: 1, 0>} : (tensor<64x64xbf16>) -> tensor<64x64xbf16>
    %dots = "tile.mma"(%queries, %keys_t, %dots_zero) : (tensor<64x64xbf16>, tensor<64x64xbf16>, tensor<64x64xf32>) -> tensor<64x64xf32>
    %ji = arith.index_cast %j : index to i32
    %first_key = arith.muli %ji, %c64i : i32
    %first_keys = "tile.splat"(%first_key) : (i32) -> tensor<64xi32>
    %cols1 = arith.addi %iota, %first_keys : tensor<64xi32>
    %cols = "tile.reshape"(%cols1) : (tensor<64xi32>) -> tensor<1x64xi32>
    %colss = "tile.broadcast"(%cols) : (tensor<1x64xi32>) -> tensor<64x64xi32>
    %seen = arith.cmpi sle, %colss, %limits : tensor<64x64xi32>
    %scaled = arith.mulf %dots, %scales : tensor<64x64xf32>
    %scores = arith.select %seen, %scaled, %inf : tensor<64x64xi1>, tensor<64x64xf32>
    %block_max = "tile.reduce"(%scores) {axis = 1 : i64, kind = "max"} : (tensor<64x64xf32>) -> tensor<64x1xf32>
    %new_max = arith.maximumf %row_max, %block_max : tensor<64x1xf32>
    %maxs = "tile.broadcast"(%new_max) : (tensor<64x1xf32>) -> tensor<64x64xf32>
    %shifted = arith.subf %scores, %maxs : tensor<64x64xf32>
    %weights = math.exp2 %shifted : tensor<64x64xf32>
    %change = arith.subf %row_max, %new_max : tensor<64x1xf32>
    %rescale = math.exp2 %change : tensor<64x1xf32>
    %kept = arith.mulf %row_sum, %rescale : tensor<64x1xf32>
    %block_sum = "tile.reduce"(%weights) {axis = 1 : i64, kind = "sum"} : (tensor<64x64xf32>) -> tensor<64x1xf32>
    %new_sum = arith.addf %kept, %block_sum : tensor<64x1xf32>
    %values4 = "tile.load"(%v, %batch, %head, %j, %c0) : (!tile.view<4 : i64, bf16>, index, index, index, index) -> tensor<1x1x64x64xbf16>
    %values = "tile.reshape"(%values4) : (tensor<1x1x64x64xbf16>) -> tensor<64x64xbf16>
    %p = arith.truncf %weights : tensor<64x64xf32> to tensor<64x64xbf16>
    %rescales = "tile.broadcast"(%rescale) : (tensor<64x1xf32>) -> tensor<64x64xf32>
    %old = arith.mulf %acc, %rescales : tensor<64x64xf32>
    %new = "tile.mma"(%p, %values, %old) : (tensor<64x64xbf16>, tensor<64x64xbf16>, tensor<64x64xf32>) -> tensor<64x64xf32>
    scf.yield %new, %new_max, %new_sum : tensor<64x64xf32>, tensor<64x1xf32>, tensor<64x1xf32>
  }
  %sums = "tile.broadcast"(%r#2) : (tensor<64x1xf32>) -> tensor<64x64xf32>
  %o = arith.divf %r#0, %sums fastmath<arcp> : tensor<64x64xf32>
  %o16 = arith.truncf %o : tensor<64x64xf32> to tensor<64x64xbf16>
  %o4 = "tile.reshape"(%o16) : (tensor<64x64xbf16>) -> tensor<1x1x64x64xbf16>
  "tile.store"(%out, %batch, %head, %m, %c0, %o4) : (!tile.view<4 : i64, bf16>, index, index, index, index, tensor<1x1x64x64xbf16>) -> ()
  return
}
