//! Blocked layouts: consecutive lanes hold consecutive vectors, as coalesced global accesses want.

use super::LinearLayout;

/// A layout for moving a tile to or from global memory.
///
/// Each thread holds `vec_elems` consecutive elements along `order[0]`; lanes, then warps, then further
/// registers walk through the tile in `order`, fastest dimension first. Threads left over replicate.
///
/// `vec_elems` and `num_warps` are powers of two; a vector longer than the dimension is cut to it.
pub fn blocked(shape: &[usize], num_warps: usize, vec_elems: usize, order: &[usize]) -> LinearLayout {
    let mut next = vec![1usize; shape.len()];
    let mut take = |bits: usize, spill: bool| {
        let mut steps = Vec::new();
        for &dim in order {
            while steps.len() < bits && next[dim] < shape[dim] {
                steps.push((dim, next[dim]));
                next[dim] *= 2;
            }
            if spill && steps.len() == bits {
                break;
            }
        }
        steps
    };
    let fastest = order.first().copied();
    let vector = match fastest {
        Some(dim) => take(vec_elems.min(shape[dim]).trailing_zeros() as usize, true),
        None => Vec::new(),
    };
    let pad = |steps: Vec<(usize, usize)>, bits: usize| {
        let mut bases: Vec<Vec<u32>> = LinearLayout::from_steps(shape, &steps, &[], &[]).register;
        bases.resize(bits, vec![0; shape.len()]);
        bases
    };
    let lane = take(5, true);
    let warp_bits = num_warps.trailing_zeros() as usize;
    let warp = take(warp_bits, true);
    let rest = take(usize::BITS as usize, false);
    let registers: Vec<_> = vector.into_iter().chain(rest).collect();
    LinearLayout {
        register: LinearLayout::from_steps(shape, &registers, &[], &[]).register,
        lane: pad(lane, 5),
        warp: pad(warp, warp_bits),
        shape: shape.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_row_of_vectors_goes_to_consecutive_lanes() {
        let layout = blocked(&[64, 64], 4, 8, &[1, 0]);
        assert_eq!(layout.apply(3, 0, 0), [0, 3]);
        assert_eq!(layout.apply(0, 1, 0), [0, 8]);
        assert_eq!(layout.apply(0, 8, 0), [1, 0]);
        assert_eq!(layout.apply(0, 0, 1), [4, 0]);
        assert_eq!(layout.apply(8, 0, 0), [16, 0]);
        assert_eq!(layout.contiguous_registers(1), 8);
    }

    #[test]
    fn a_small_tile_is_replicated() {
        let layout = blocked(&[2, 4], 4, 4, &[1, 0]);
        assert_eq!((layout.num_registers(), layout.apply(0, 1, 3)), (4, vec![1, 0]));
        assert_eq!(
            layout.free_variable_masks(),
            crate::layout::FreeVariables { register: 0, lane: 30, warp: 3 }
        );
    }

    proptest! {
        #[test]
        fn blocked_layouts_cover_their_tile(
            m in 0u32..8, n in 0u32..8, warps in 0u32..4, vec in 0u32..4, row_major: bool,
        ) {
            let order = if row_major { [1, 0] } else { [0, 1] };
            let shape = [1usize << m, 1 << n];
            let l = blocked(&shape, 1 << warps, 1 << vec, &order);
            prop_assert!(LinearLayout::new(l.shape.clone(), l.register.clone(), l.lane.clone(), l.warp.clone()).is_ok());
            prop_assert_eq!(l.contiguous_registers(order[0]) >= (1usize << vec).min(shape[order[0]]), true);
        }
    }
}
