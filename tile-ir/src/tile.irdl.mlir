// The tile dialect. Tiles are builtin tensors of static shape, global tensors are `!tile.view`.
// What cannot be said here (shapes, dtypes) is checked by `verify`.
irdl.dialect @tile {
  // A tensor in global memory: rank, element type. Extents and strides are run-time values.
  irdl.type @view {
    %rank = irdl.base "#builtin.integer"
    %f32 = irdl.is f32
    %f16 = irdl.is f16
    %bf16 = irdl.is bf16
    %i32 = irdl.is i32
    %i1 = irdl.is i1
    %f8 = irdl.is f8E4M3FN
    %f4 = irdl.is f4E2M1FN
    %dtype = irdl.any_of(%f32, %f16, %bf16, %i32, %i1, %f8, %f4)
    irdl.parameters(rank: %rank, dtype: %dtype)
  }

  // Index of this program along a grid axis.
  irdl.operation @program_id {
    %int = irdl.base "#builtin.integer"
    %index = irdl.is index
    irdl.attributes {"axis" = %int}
    irdl.results(id: %index)
  }

  // Number of programs along a grid axis.
  irdl.operation @num_programs {
    %int = irdl.base "#builtin.integer"
    %index = irdl.is index
    irdl.attributes {"axis" = %int}
    irdl.results(count: %index)
  }

  // Extent of a view along an axis.
  irdl.operation @dim {
    %int = irdl.base "#builtin.integer"
    %index = irdl.is index
    %view = irdl.base @tile::@view
    irdl.operands(view: %view)
    irdl.attributes {"axis" = %int}
    irdl.results(extent: %index)
  }

  // One element of a view by its coordinates; zero outside.
  irdl.operation @at {
    %view = irdl.base @tile::@view
    %index = irdl.is index
    %any = irdl.any
    irdl.operands(view: %view, index: variadic %index)
    irdl.results(element: %any)
  }

  // A view narrowed along an axis to `len` places from `start` on, cut off at its end. Both count as unsigned.
  irdl.operation @slice {
    %int = irdl.base "#builtin.integer"
    %index = irdl.is index
    %view = irdl.base @tile::@view
    irdl.operands(view: %view, start: %index, len: %index)
    irdl.attributes {"axis" = %int}
    irdl.results(part: %view)
  }

  // Arrives at a counter of a view of i32 by its coordinates, behind the program's stores. True in the last of `count`
  // programs, which sees what the others stored before they arrived, and leaves the counter at zero; false for a
  // counter outside the view.
  irdl.operation @arrive_last {
    %view = irdl.base @tile::@view
    %index = irdl.is index
    %bool = irdl.is i1
    irdl.operands(view: %view, index: variadic %index, count: %index)
    irdl.results(last: %bool)
  }

  // Marks where the parts of a sum meet that is split over CTAs: of the sum that the loop in front carries, `count` CTAs
  // hold a part each, in slots from `first` on of the parts at an address, this one in `slot`; they count at `place` of
  // the counters at another. True in the CTA that goes on with the whole sum.
  irdl.operation @join_parts {
    %address = irdl.is i64
    %index = irdl.is index
    %bool = irdl.is i1
    irdl.operands(parts: %address, counters: %address, place: %index, count: %index, first: %index, slot: %index)
    irdl.results(last: %bool)
  }

  // Reports where the condition is false; the program goes on or ends, as whoever runs it decides.
  irdl.operation @check {
    %bool = irdl.is i1
    %text = irdl.base "#builtin.string"
    irdl.operands(cond: %bool)
    irdl.attributes {"message" = %text}
  }

  // One block of a view; indices count blocks of the result's shape, elements outside the view are zero.
  irdl.operation @load {
    %view = irdl.base @tile::@view
    %index = irdl.is index
    %tile = irdl.base "!builtin.tensor"
    irdl.operands(view: %view, index: variadic %index)
    irdl.results(tile: %tile)
  }

  // The inverse of load: elements outside the view are dropped.
  irdl.operation @store {
    %view = irdl.base @tile::@view
    %index = irdl.is index
    %tile = irdl.base "!builtin.tensor"
    irdl.operands(view: %view, index: variadic %index, value: %tile)
  }

  // Element by element at i32 index tiles, one a dimension; masked-off and out-of-bounds elements are zero.
  // `operandSegmentSizes` tells index tiles and mask apart.
  irdl.operation @gather {
    %view = irdl.base @tile::@view
    %index = irdl.base "!builtin.tensor"
    %mask = irdl.base "!builtin.tensor"
    %tile = irdl.base "!builtin.tensor"
    irdl.operands(view: %view, index: variadic %index, mask: optional %mask)
    irdl.results(tile: %tile)
  }

  // The inverse of gather: masked-off and out-of-bounds elements are dropped.
  irdl.operation @scatter {
    %view = irdl.base @tile::@view
    %index = irdl.base "!builtin.tensor"
    %value = irdl.base "!builtin.tensor"
    %mask = irdl.base "!builtin.tensor"
    irdl.operands(view: %view, index: variadic %index, value: %value, mask: optional %mask)
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

  // The same elements in row-major order.
  irdl.operation @reshape {
    %from = irdl.base "!builtin.tensor"
    %to = irdl.base "!builtin.tensor"
    irdl.operands(tile: %from)
    irdl.results(result: %to)
  }

  // Repeats dimensions of size 1; the rank stays.
  irdl.operation @broadcast {
    %from = irdl.base "!builtin.tensor"
    %to = irdl.base "!builtin.tensor"
    irdl.operands(tile: %from)
    irdl.results(result: %to)
  }

  // Dimension i of the result is dimension perm[i] of the operand.
  irdl.operation @transpose {
    %from = irdl.base "!builtin.tensor"
    %to = irdl.base "!builtin.tensor"
    %perm = irdl.base "#builtin.dense_array"
    irdl.operands(tile: %from)
    irdl.attributes {"perm" = %perm}
    irdl.results(result: %to)
  }

  // Along one axis, which stays with size 1. A sum of f16 or bf16 is accumulated in f32 and rounded once;
  // a NaN operand makes a maximum or minimum NaN.
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

  // acc[m, n] + sum over k of lhs[m, k] * rhs[k, n], in f32.
  irdl.operation @mma {
    %lhs = irdl.base "!builtin.tensor"
    %rhs = irdl.base "!builtin.tensor"
    %acc = irdl.base "!builtin.tensor"
    irdl.operands(lhs: %lhs, rhs: %rhs, acc: %acc)
    irdl.results(result: %acc)
  }

  // acc[m, n] + sum over k of (lhs[m, k] lhs_scales[m, k / 16]) * (rhs[k, n] rhs_scales[k / 16, n]), in f32.
  irdl.operation @mma_scaled {
    %lhs = irdl.base "!builtin.tensor"
    %lhs_scales = irdl.base "!builtin.tensor"
    %rhs = irdl.base "!builtin.tensor"
    %rhs_scales = irdl.base "!builtin.tensor"
    %acc = irdl.base "!builtin.tensor"
    irdl.operands(lhs: %lhs, lhs_scales: %lhs_scales, rhs: %rhs, rhs_scales: %rhs_scales, acc: %acc)
    irdl.results(result: %acc)
  }

  // Conversions that arith does not have: f32 to f8 and f4 (nearest even, saturating); f8 and f4 to f32, f16 and
  // bf16 (exact); f32 to integers (toward zero, saturating, NaN to 0). Of a tile or a scalar.
  irdl.operation @cast {
    %from = irdl.any
    %to = irdl.any
    irdl.operands(value: %from)
    irdl.results(result: %to)
  }
}
