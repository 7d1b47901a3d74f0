// Causal attention, bf16, ROWS queries by KEYS keys, head_dim DEPTH, on views of rank 4.
func.func @fmha(%q: !tile.view<4 : i64, bf16>, %k: !tile.view<4 : i64, bf16>, %v: !tile.view<4 : i64, bf16>, %out: !tile.view<4 : i64, bf16>, %scale: f32) {
  %m = "tile.program_id"() {axis = 0 : i64} : () -> index
  %head = "tile.program_id"() {axis = 1 : i64} : () -> index
  %batch = "tile.program_id"() {axis = 2 : i64} : () -> index
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %rows = arith.constant ROWS : index
  %keys_index = arith.constant KEYS : index
  %rowsi = arith.constant ROWS : i32
  %keysi = arith.constant KEYS : i32
  %inf = arith.constant dense<0xFF800000> : tensor<ROWSxKEYSxf32>
  %rows_inf = arith.constant dense<0xFF800000> : tensor<ROWSx1xf32>
  %rows_zero = arith.constant dense<0.0> : tensor<ROWSx1xf32>
  %dots_zero = arith.constant dense<0.0> : tensor<ROWSxDEPTHxf32>
  %scores_zero = arith.constant dense<0.0> : tensor<ROWSxKEYSxf32>
  %queries4 = "tile.load"(%q, %batch, %head, %m, %c0) : (!tile.view<4 : i64, bf16>, index, index, index, index) -> tensor<1x1xROWSxDEPTHxbf16>
  %queries = "tile.reshape"(%queries4) : (tensor<1x1xROWSxDEPTHxbf16>) -> tensor<ROWSxDEPTHxbf16>
  %iota = "tile.iota"() : () -> tensor<ROWSxi32>
  %keys_iota = "tile.iota"() : () -> tensor<KEYSxi32>
  %mi = arith.index_cast %m : index to i32
  %first = arith.muli %mi, %rowsi : i32
  %firsts = "tile.splat"(%first) : (i32) -> tensor<ROWSxi32>
  %places1 = arith.addi %iota, %firsts : tensor<ROWSxi32>
  %limit = "tile.reshape"(%places1) : (tensor<ROWSxi32>) -> tensor<ROWSx1xi32>
  %limits = "tile.broadcast"(%limit) : (tensor<ROWSx1xi32>) -> tensor<ROWSxKEYSxi32>
  %next_m = arith.addi %m, %c1 : index
  %row_end = arith.muli %next_m, %rows : index
  %less = arith.constant 1 : index
  %up0 = arith.addi %row_end, %keys_index : index
  %up = arith.subi %up0, %less : index
  %end = arith.divui %up, %keys_index : index
  %scales = "tile.splat"(%scale) : (f32) -> tensor<ROWSxKEYSxf32>
  %r:3 = scf.for %j = %c0 to %end step %c1 iter_args(%acc = %dots_zero, %row_max = %rows_inf, %row_sum = %rows_zero) -> (tensor<ROWSxDEPTHxf32>, tensor<ROWSx1xf32>, tensor<ROWSx1xf32>) {
    %keys4 = "tile.load"(%k, %batch, %head, %j, %c0) : (!tile.view<4 : i64, bf16>, index, index, index, index) -> tensor<1x1xKEYSxDEPTHxbf16>
    %keys = "tile.reshape"(%keys4) : (tensor<1x1xKEYSxDEPTHxbf16>) -> tensor<KEYSxDEPTHxbf16>
    %keys_t = "tile.transpose"(%keys) {perm = array<i64: 1, 0>} : (tensor<KEYSxDEPTHxbf16>) -> tensor<DEPTHxKEYSxbf16>
    %dots = "tile.mma"(%queries, %keys_t, %scores_zero) : (tensor<ROWSxDEPTHxbf16>, tensor<DEPTHxKEYSxbf16>, tensor<ROWSxKEYSxf32>) -> tensor<ROWSxKEYSxf32>
    %ji = arith.index_cast %j : index to i32
    %first_key = arith.muli %ji, %keysi : i32
    %first_keys = "tile.splat"(%first_key) : (i32) -> tensor<KEYSxi32>
    %cols1 = arith.addi %keys_iota, %first_keys : tensor<KEYSxi32>
    %cols = "tile.reshape"(%cols1) : (tensor<KEYSxi32>) -> tensor<1xKEYSxi32>
    %colss = "tile.broadcast"(%cols) : (tensor<1xKEYSxi32>) -> tensor<ROWSxKEYSxi32>
    %seen = arith.cmpi sle, %colss, %limits : tensor<ROWSxKEYSxi32>
    %scaled = arith.mulf %dots, %scales : tensor<ROWSxKEYSxf32>
    %scores = arith.select %seen, %scaled, %inf : tensor<ROWSxKEYSxi1>, tensor<ROWSxKEYSxf32>
    %block_max = "tile.reduce"(%scores) {axis = 1 : i64, kind = "max"} : (tensor<ROWSxKEYSxf32>) -> tensor<ROWSx1xf32>
    %new_max = arith.maximumf %row_max, %block_max : tensor<ROWSx1xf32>
    %maxs = "tile.broadcast"(%new_max) : (tensor<ROWSx1xf32>) -> tensor<ROWSxKEYSxf32>
    %shifted = arith.subf %scores, %maxs : tensor<ROWSxKEYSxf32>
    %weights = math.exp2 %shifted : tensor<ROWSxKEYSxf32>
    %change = arith.subf %row_max, %new_max : tensor<ROWSx1xf32>
    %rescale = math.exp2 %change : tensor<ROWSx1xf32>
    %kept = arith.mulf %row_sum, %rescale : tensor<ROWSx1xf32>
    %block_sum = "tile.reduce"(%weights) {axis = 1 : i64, kind = "sum"} : (tensor<ROWSxKEYSxf32>) -> tensor<ROWSx1xf32>
    %new_sum = arith.addf %kept, %block_sum : tensor<ROWSx1xf32>
    %values4 = "tile.load"(%v, %batch, %head, %j, %c0) : (!tile.view<4 : i64, bf16>, index, index, index, index) -> tensor<1x1xKEYSxDEPTHxbf16>
    %values = "tile.reshape"(%values4) : (tensor<1x1xKEYSxDEPTHxbf16>) -> tensor<KEYSxDEPTHxbf16>
    %p = arith.truncf %weights : tensor<ROWSxKEYSxf32> to tensor<ROWSxKEYSxbf16>
    %rescales = "tile.broadcast"(%rescale) : (tensor<ROWSx1xf32>) -> tensor<ROWSxDEPTHxf32>
    %old = arith.mulf %acc, %rescales : tensor<ROWSxDEPTHxf32>
    %new = "tile.mma"(%p, %values, %old) : (tensor<ROWSxKEYSxbf16>, tensor<KEYSxDEPTHxbf16>, tensor<ROWSxDEPTHxf32>) -> tensor<ROWSxDEPTHxf32>
    scf.yield %new, %new_max, %new_sum : tensor<ROWSxDEPTHxf32>, tensor<ROWSx1xf32>, tensor<ROWSx1xf32>
  }
  %sums = "tile.broadcast"(%r#2) : (tensor<ROWSx1xf32>) -> tensor<ROWSxDEPTHxf32>
  %o = arith.divf %r#0, %sums fastmath<arcp> : tensor<ROWSxDEPTHxf32>
  %o16 = arith.truncf %o : tensor<ROWSxDEPTHxf32> to tensor<ROWSxDEPTHxbf16>
  %o4 = "tile.reshape"(%o16) : (tensor<ROWSxDEPTHxbf16>) -> tensor<1x1xROWSxDEPTHxbf16>
  "tile.store"(%out, %batch, %head, %m, %c0, %o4) : (!tile.view<4 : i64, bf16>, index, index, index, index, tensor<1x1xROWSxDEPTHxbf16>) -> ()
  return
}
