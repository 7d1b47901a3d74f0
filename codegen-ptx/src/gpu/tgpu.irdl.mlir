// The gpu-level dialect. Tiles in registers are builtin tensors whose encoding is `#tgpu.layout`; tiles in shared
// memory are `!tgpu.smem`. Views, program ids and casts stay those of the tile dialect. What cannot be said here
// is checked by `gpu::verify`.
irdl.dialect @tgpu {
  // Which element each (register, lane, warp) holds: the bases of a linear layout as text,
  // "register 0,1 0,8 8,0 lane 0,2 0,4 1,0 2,0 4,0 warp 16,0".
  irdl.attribute @layout {
    %bases = irdl.base "#builtin.string"
    irdl.parameters(bases: %bases)
  }

  // Row-major tiles in shared memory, one a slot: rows, columns, element type, bytes of the swizzled span, bytes
  // from row to row in a panel, slots.
  irdl.type @smem {
    %rows = irdl.base "#builtin.integer"
    %cols = irdl.base "#builtin.integer"
    %dtype = irdl.any
    %span = irdl.base "#builtin.integer"
    %pitch = irdl.base "#builtin.integer"
    %slots = irdl.base "#builtin.integer"
    irdl.parameters(rows: %rows, cols: %cols, dtype: %dtype, span: %span, pitch: %pitch, slots: %slots)
  }

  // Shared memory, at the byte `offset` from the start of the CTA's once `allocate-shared` has set it.
  irdl.operation @alloc {
    %smem = irdl.base @tgpu::@smem
    irdl.results(smem: %smem)
  }

  // Starts copying a block of a view to a slot; zeros where the block leaves the view. The whole CTA takes part.
  irdl.operation @async_copy {
    %view = irdl.any
    %index = irdl.is index
    %smem = irdl.base @tgpu::@smem
    %slot = irdl.is i32
    %shape = irdl.base "#builtin.dense_array"
    %int = irdl.base "#builtin.integer"
    irdl.operands(view: %view, index: variadic %index, smem: %smem, slot: %slot)
    irdl.attributes {"tile_shape" = %shape, "vec_bytes" = %int}
  }

  // The same copy made by the threads themselves, for rows too narrow or badly aligned: done at the next barrier.
  irdl.operation @copy {
    %view = irdl.any
    %index = irdl.is index
    %smem = irdl.base @tgpu::@smem
    %slot = irdl.is i32
    %shape = irdl.base "#builtin.dense_array"
    %int = irdl.base "#builtin.integer"
    irdl.operands(view: %view, index: variadic %index, smem: %smem, slot: %slot)
    irdl.attributes {"tile_shape" = %shape, "vec_bytes" = %int}
  }

  // Closes the group of the copies started since the last commit.
  irdl.operation @commit {}

  // Waits until at most `pending` groups of this thread's copies are unfinished.
  irdl.operation @wait {
    %int = irdl.base "#builtin.integer"
    irdl.attributes {"pending" = %int}
  }

  // All threads of the CTA meet; what each wrote to shared memory is seen by all.
  irdl.operation @barrier {}

  // The threads of each warpgroup meet, those of one apart from those of another; what each wrote to shared memory is
  // seen by all of its warpgroup.
  irdl.operation @group_barrier {}

  // A slot's tile, or its transpose, into registers.
  irdl.operation @local_load {
    %smem = irdl.base @tgpu::@smem
    %slot = irdl.is i32
    %flag = irdl.base "#builtin.integer"
    %tile = irdl.base "!builtin.tensor"
    irdl.operands(smem: %smem, slot: %slot)
    irdl.attributes {"transposed" = %flag}
    irdl.results(tile: %tile)
  }

  // Registers into a slot.
  irdl.operation @local_store {
    %tile = irdl.base "!builtin.tensor"
    %smem = irdl.base @tgpu::@smem
    %slot = irdl.is i32
    irdl.operands(tile: %tile, smem: %smem, slot: %slot)
  }

  // A block of a view into registers, zeros where it leaves the view; accesses of up to `vec_bytes` are aligned
  // and do not straddle the view's edge.
  irdl.operation @global_load {
    %view = irdl.any
    %index = irdl.is index
    %int = irdl.base "#builtin.integer"
    %tile = irdl.base "!builtin.tensor"
    irdl.operands(view: %view, index: variadic %index)
    irdl.attributes {"vec_bytes" = %int}
    irdl.results(tile: %tile)
  }

  // The inverse of global_load; what leaves the view is dropped, and of replicas one is stored.
  irdl.operation @global_store {
    %view = irdl.any
    %index = irdl.is index
    %int = irdl.base "#builtin.integer"
    %tile = irdl.base "!builtin.tensor"
    irdl.operands(view: %view, index: variadic %index, tile: %tile)
    irdl.attributes {"vec_bytes" = %int}
  }

  // As tile.gather; index, mask and result have one layout.
  irdl.operation @gather {
    %view = irdl.any
    %index = irdl.base "!builtin.tensor"
    %mask = irdl.base "!builtin.tensor"
    %tile = irdl.base "!builtin.tensor"
    irdl.operands(view: %view, index: variadic %index, mask: optional %mask)
    irdl.results(tile: %tile)
  }

  // As tile.scatter; index, value and mask have one layout, and of replicas one is stored.
  irdl.operation @scatter {
    %view = irdl.any
    %index = irdl.base "!builtin.tensor"
    %value = irdl.base "!builtin.tensor"
    %mask = irdl.base "!builtin.tensor"
    irdl.operands(view: %view, index: variadic %index, value: %value, mask: optional %mask)
  }

  // The same tile in another layout. Through shared memory at `scratch_offset` where the layouts ask for it.
  irdl.operation @convert_layout {
    %from = irdl.base "!builtin.tensor"
    %to = irdl.base "!builtin.tensor"
    irdl.operands(tile: %from)
    irdl.results(result: %to)
  }

  // acc + lhs rhs by tensor cores. An operand is a tile in registers, in the fragment layout of `warps`, or one in
  // shared memory, whose slot is among `slots` (lhs first) and which is read transposed where the flag says so.
  // With `k_order`, bit i of an instruction's position along K stands for bit k_order[i] of K's coordinate.
  irdl.operation @mma_sync {
    %lhs_tile = irdl.base "!builtin.tensor"
    %lhs_smem = irdl.base @tgpu::@smem
    %lhs = irdl.any_of(%lhs_tile, %lhs_smem)
    %rhs_tile = irdl.base "!builtin.tensor"
    %rhs_smem = irdl.base @tgpu::@smem
    %rhs = irdl.any_of(%rhs_tile, %rhs_smem)
    %acc = irdl.base "!builtin.tensor"
    %slot = irdl.is i32
    %lhs_flag = irdl.base "#builtin.integer"
    %rhs_flag = irdl.base "#builtin.integer"
    %warps = irdl.base "#builtin.dense_array"
    irdl.operands(lhs: %lhs, rhs: %rhs, acc: %acc, slots: variadic %slot)
    irdl.attributes {"lhs_transposed" = %lhs_flag, "rhs_transposed" = %rhs_flag, "warps" = %warps}
    irdl.results(result: %acc)
  }

  // acc + lhs rhs by the tensor cores, begun by each warpgroup for its rows. Until a `wgmma_wait` hands the result
  // on, nothing may touch it, nor what the operands lie in. The rhs is in shared memory, the lhs there or in the
  // fragment layout of `groups`; slots and flags as for `mma_sync`. Operands of f32 are both in shared memory, where
  // bulk copies that round have put them.
  // With `k_first`, the lhs, which is in registers, is multiplied by as many rows of the rhs from that one on.
  irdl.operation @wgmma {
    %lhs_tile = irdl.base "!builtin.tensor"
    %lhs_smem = irdl.base @tgpu::@smem
    %lhs = irdl.any_of(%lhs_tile, %lhs_smem)
    %rhs = irdl.base @tgpu::@smem
    %acc = irdl.base "!builtin.tensor"
    %slot = irdl.is i32
    %lhs_flag = irdl.base "#builtin.integer"
    %rhs_flag = irdl.base "#builtin.integer"
    %groups = irdl.base "#builtin.dense_array"
    irdl.operands(lhs: %lhs, rhs: %rhs, acc: %acc, slots: variadic %slot)
    irdl.attributes {"lhs_transposed" = %lhs_flag, "rhs_transposed" = %rhs_flag, "groups" = %groups}
    irdl.results(result: %acc)
  }

  // Waits until at most `pending` of this warpgroup's `wgmma` are unfinished. The results are the operands: of a
  // finished one to be used, of an unfinished one to be passed on.
  irdl.operation @wgmma_wait {
    %tile = irdl.base "!builtin.tensor"
    %int = irdl.base "#builtin.integer"
    irdl.operands(tiles: variadic %tile)
    irdl.attributes {"pending" = %int}
    irdl.results(results: variadic %tile)
  }

  // Starts to bring a box of a view into L2, by the kernel's tensor map number `map`: the one whose first element is that
  // of a block of `tile_shape`. It is for the copying thread alone.
  irdl.operation @prefetch {
    %view = irdl.any
    %index = irdl.is index
    %shape = irdl.base "#builtin.dense_array"
    %box = irdl.base "#builtin.dense_array"
    %int = irdl.base "#builtin.integer"
    irdl.operands(view: %view, index: variadic %index)
    irdl.attributes {"tile_shape" = %shape, "box_shape" = %box, "map" = %int}
  }

  // What this thread has written to shared memory is seen by `wgmma` and bulk stores that follow the next barrier.
  irdl.operation @fence_async {}

  // From here on two warpgroups take turns; the first one's is the first.
  irdl.operation @open_turns {}

  // Waits for this warpgroup's turn.
  irdl.operation @take_turn {}

  // Gives the other warpgroup its turn.
  irdl.operation @give_turn {}

  // The turns are over: as many were given as taken.
  irdl.operation @close_turns {}

  // Starts copying a slot to a block of a view, in boxes of `box_shape` by the kernel's tensor map number `map`; what
  // leaves the view is dropped. One thread makes all bulk stores of a CTA, each a group of its own. With more than one of
  // `groups`, each warpgroup stores its part, and one thread of it makes all of these: so many rows as a box has where
  // that are fewer than the tile's, and else its share of the boxes, which lie side by side.
  irdl.operation @bulk_store {
    %view = irdl.any
    %index = irdl.is index
    %smem = irdl.base @tgpu::@smem
    %slot = irdl.is i32
    %shape = irdl.base "#builtin.dense_array"
    %box = irdl.base "#builtin.dense_array"
    %int = irdl.base "#builtin.integer"
    %count = irdl.base "#builtin.integer"
    irdl.operands(view: %view, index: variadic %index, smem: %smem, slot: %slot)
    irdl.attributes {"tile_shape" = %shape, "box_shape" = %box, "map" = %int, "groups" = %count}
  }

  // Waits until every bulk store of this thread has read its slot and, unless `read` alone is asked for, written it.
  irdl.operation @bulk_wait {
    %smem = irdl.base @tgpu::@smem
    %flag = irdl.base "#builtin.integer"
    irdl.operands(smem: %smem)
    irdl.attributes {"read" = %flag}
  }

  // An mbarrier for each slot of a ring; a phase of one is over after `arrivals` arrivals.
  irdl.operation @mbarriers {
    %smem = irdl.base @tgpu::@smem
    %int = irdl.base "#builtin.integer"
    irdl.attributes {"arrivals" = %int}
    irdl.results(barriers: %smem)
  }

  // All threads meet. The result, which only the condition of an `scf.if` may use, holds in one thread of `warps`
  // warps beside those that the tiles are spread over; after that branch these warps are done.
  irdl.operation @producer {
    %role = irdl.is i1
    %int = irdl.base "#builtin.integer"
    irdl.attributes {"warps" = %int}
    irdl.results(role: %role)
  }

  // Arrives at the barrier of a slot, whose phase is then over when `bytes` more have been copied.
  irdl.operation @expect {
    %smem = irdl.base @tgpu::@smem
    %slot = irdl.is i32
    %int = irdl.base "#builtin.integer"
    irdl.operands(barriers: %smem, slot: %slot)
    irdl.attributes {"bytes" = %int}
  }

  // All threads of all CTAs of the cluster meet; the barriers of memory that were set up before are known to all.
  irdl.operation @enter_cluster {}

  // Starts copying a block of a view to a slot, in boxes of `box_shape` by the kernel's tensor map number `map`;
  // zeros where the block leaves the view. The bytes count for the barrier of the slot. With `cluster = true` each CTA
  // of the cluster copies a part of the rows, to the slot and for the barrier of each of them. With `rounds`, the map
  // rounds f32 to tf32.
  irdl.operation @tma_copy {
    %view = irdl.any
    %index = irdl.is index
    %smem = irdl.base @tgpu::@smem
    %barriers = irdl.base @tgpu::@smem
    %slot = irdl.is i32
    %shape = irdl.base "#builtin.dense_array"
    %box = irdl.base "#builtin.dense_array"
    %int = irdl.base "#builtin.integer"
    irdl.operands(view: %view, index: variadic %index, smem: %smem, barriers: %barriers, slot: %slot)
    irdl.attributes {"tile_shape" = %shape, "box_shape" = %box, "map" = %int}
  }

  // Waits until the phase of parity `parity` of a slot's barrier is over.
  irdl.operation @mbarrier_wait {
    %smem = irdl.base @tgpu::@smem
    %int = irdl.is i32
    irdl.operands(barriers: %smem, slot: %int, parity: %int)
  }

  // Every warp arrives once at the barrier of a slot, with `cluster = true` at that of each CTA of the cluster; at none
  // where the slot is negative.
  irdl.operation @mbarrier_arrive {
    %smem = irdl.base @tgpu::@smem
    %slot = irdl.is i32
    irdl.operands(barriers: %smem, slot: %slot)
  }

  // Whether this warpgroup has a row inside of a tensor: whether `first` and, for each set bit of the warpgroup's number,
  // its step are less than `extent` together. It is the same in all threads of a warpgroup alone, so that only the
  // condition of an `scf.if` may use it.
  irdl.operation @has_rows {
    %role = irdl.is i1
    %index = irdl.is index
    %steps = irdl.base "#builtin.dense_array"
    irdl.operands(first: %index, extent: %index)
    irdl.attributes {"steps" = %steps}
    irdl.results(has: %role)
  }

  // As mma_sync, of 4-bit operands with scales, which are tiles in registers in their fragment layouts.
  irdl.operation @mma_scaled_sync {
    %lhs_tile = irdl.base "!builtin.tensor"
    %lhs_smem = irdl.base @tgpu::@smem
    %lhs = irdl.any_of(%lhs_tile, %lhs_smem)
    %rhs_tile = irdl.base "!builtin.tensor"
    %rhs_smem = irdl.base @tgpu::@smem
    %rhs = irdl.any_of(%rhs_tile, %rhs_smem)
    %lhs_scales = irdl.base "!builtin.tensor"
    %rhs_scales = irdl.base "!builtin.tensor"
    %acc = irdl.base "!builtin.tensor"
    %slot = irdl.is i32
    %lhs_flag = irdl.base "#builtin.integer"
    %rhs_flag = irdl.base "#builtin.integer"
    %warps = irdl.base "#builtin.dense_array"
    irdl.operands(
      lhs: %lhs, rhs: %rhs, lhs_scales: %lhs_scales, rhs_scales: %rhs_scales, acc: %acc, slots: variadic %slot)
    irdl.attributes {"lhs_transposed" = %lhs_flag, "rhs_transposed" = %rhs_flag, "warps" = %warps}
    irdl.results(result: %acc)
  }

  // As tile.reduce; the result's layout is the slice of the operand's. Through shared memory at
  // `scratch_offset` where the axis crosses warps.
  irdl.operation @reduce {
    %from = irdl.base "!builtin.tensor"
    %to = irdl.base "!builtin.tensor"
    %axis = irdl.base "#builtin.integer"
    %sum = irdl.is "sum"
    %max = irdl.is "max"
    %min = irdl.is "min"
    %kind = irdl.any_of(%sum, %max, %min)
    irdl.operands(tile: %from)
    irdl.attributes {"axis" = %axis, "kind" = %kind}
    irdl.results(result: %to)
  }

  // As reduce, but each thread reduces the elements that it holds itself: along the axis, the result has one element
  // for each lane that shares the rest. No warps share it.
  irdl.operation @reduce_registers {
    %from = irdl.base "!builtin.tensor"
    %to = irdl.base "!builtin.tensor"
    %axis = irdl.base "#builtin.integer"
    %sum = irdl.is "sum"
    %max = irdl.is "max"
    %min = irdl.is "min"
    %kind = irdl.any_of(%sum, %max, %min)
    irdl.operands(tile: %from)
    irdl.attributes {"axis" = %axis, "kind" = %kind}
    irdl.results(result: %to)
  }

  // The columns of the tile from `first` on, as many as the result has.
  irdl.operation @columns {
    %from = irdl.base "!builtin.tensor"
    %to = irdl.base "!builtin.tensor"
    %first = irdl.base "#builtin.integer"
    irdl.operands(tile: %from)
    irdl.attributes {"first" = %first}
    irdl.results(result: %to)
  }

  // Every element is the scalar.
  irdl.operation @splat {
    %any = irdl.any
    %tile = irdl.base "!builtin.tensor"
    irdl.operands(scalar: %any)
    irdl.results(tile: %tile)
  }

  // 0, 1, .., n - 1 as i32.
  irdl.operation @iota {
    %tile = irdl.base "!builtin.tensor"
    irdl.results(tile: %tile)
  }

  // Puts a tile into a slot of the parts at an address, as each thread holds it.
  irdl.operation @put_part {
    %tile = irdl.base "!builtin.tensor"
    %address = irdl.is i64
    %index = irdl.is index
    irdl.operands(tile: %tile, parts: %address, slot: %index)
  }

  // Gets a tile that was put there in the same layout, by as many threads.
  irdl.operation @get_part {
    %tile = irdl.base "!builtin.tensor"
    %address = irdl.is i64
    %index = irdl.is index
    irdl.operands(parts: %address, slot: %index)
    irdl.results(tile: %tile)
  }

  // Whether of the two CTAs that count at a place the other one has, before which it put its part; then the counter is
  // back at zero, as if this one had counted, too. False where more count.
  irdl.operation @others_arrived {
    %address = irdl.is i64
    %index = irdl.is index
    %bool = irdl.is i1
    irdl.operands(counters: %address, place: %index, count: %index)
    irdl.results(alone: %bool)
  }

  // As `tile.arrive_last`, at a place of the counters at an address.
  irdl.operation @arrive_at {
    %address = irdl.is i64
    %index = irdl.is index
    %bool = irdl.is i1
    irdl.operands(counters: %address, place: %index, count: %index)
    irdl.results(last: %bool)
  }

  // Whether all elements that the threads of a warp hold are 1, or true: a condition that is the same in a warp, not in a CTA.
  irdl.operation @all_ones {
    %tile = irdl.base "!builtin.tensor"
    %all = irdl.is i1
    irdl.operands(tile: %tile)
    irdl.results(all: %all)
  }

  // Repeats dimensions of size 1, within threads.
  irdl.operation @broadcast {
    %from = irdl.base "!builtin.tensor"
    %to = irdl.base "!builtin.tensor"
    irdl.operands(tile: %from)
    irdl.results(result: %to)
  }

  // The same elements in row-major order; registers keep their place.
  irdl.operation @reshape {
    %from = irdl.base "!builtin.tensor"
    %to = irdl.base "!builtin.tensor"
    irdl.operands(tile: %from)
    irdl.results(result: %to)
  }

  // Dimension i of the result is dimension perm[i] of the operand; registers keep their place.
  irdl.operation @transpose {
    %from = irdl.base "!builtin.tensor"
    %to = irdl.base "!builtin.tensor"
    %perm = irdl.base "#builtin.dense_array"
    irdl.operands(tile: %from)
    irdl.attributes {"perm" = %perm}
    irdl.results(result: %to)
  }
}
