//! What it takes to turn one layout of a tile into another.

use super::LinearLayout;
use super::linear::Basis;

/// How a tile gets from one layout to another, from cheapest to dearest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conversion {
    /// Every register already holds what it should.
    Identity,
    /// Register `i` of the result is register `self.0[i]` of the source.
    Registers(Vec<u32>),
    /// Elements move between lanes of a warp.
    Shuffle(Shuffle),
    /// Elements move between warps, or in a way that costs more shuffles than a trip through shared memory.
    Shared,
}

/// Movement between lanes: where each register of the result comes from.
///
/// Register `r` of lane `l` comes from lane `lane_of_register(r) ^ lane_of_lane(l)` and there from register
/// `register_of_register(r) ^ register_of_lane(l)`, all linear in their bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shuffle {
    /// For each register of the result: source register and source lane when the lane is 0.
    pub registers: Vec<(u32, u32)>,
    /// For each bit of the lane: what it adds to the source register and to the source lane.
    pub lanes: [(u32, u32); 5],
}

impl Shuffle {
    /// The source registers that lanes may ask for beside the first, as offsets: a span over F2.
    pub fn register_offsets(&self) -> Vec<u32> {
        let mut offsets = vec![0];
        for &(register, _) in &self.lanes {
            if register != 0 && !offsets.contains(&register) {
                let more: Vec<u32> = offsets.iter().map(|o| o ^ register).collect();
                offsets.extend(more);
            }
        }
        offsets
    }
}

/// Past this many shuffles for each register of the result, shared memory is the better way.
const MAX_SHUFFLES_PER_REGISTER: usize = 2;

/// Classifies the conversion from `from` to `to`, two layouts of one tile over as many warps.
pub fn conversion(from: &LinearLayout, to: &LinearLayout) -> Conversion {
    debug_assert_eq!(from.shape, to.shape);
    if let Some(registers) = to.registers_from(from) {
        let identity = from.num_registers() == to.num_registers()
            && registers.iter().enumerate().all(|(i, &r)| i as u32 == r);
        return if identity { Conversion::Identity } else { Conversion::Registers(registers) };
    }
    match shuffle(from, to) {
        Some(shuffle) if shuffle.register_offsets().len() <= MAX_SHUFFLES_PER_REGISTER => {
            Conversion::Shuffle(shuffle)
        }
        _ => Conversion::Shared,
    }
}

/// Solves for the source of each register and lane within the warp.
fn shuffle(from: &LinearLayout, to: &LinearLayout) -> Option<Shuffle> {
    if from.warp != to.warp {
        return None;
    }
    let vectors: Vec<u64> = from.register.iter().chain(&from.lane).map(|b| from.flatten(b)).collect();
    // Registers are inserted first: they are preferred as sources, which keeps movement between lanes low.
    let basis = Basis::of(&vectors);
    let lanes_only = Basis::of(&from.lane.iter().map(|b| from.flatten(b)).collect::<Vec<_>>());
    let bits = from.register.len();
    let split = |c: u64| ((c & ((1 << bits) - 1)) as u32, (c >> bits) as u32);
    let mut lanes = [(0, 0); 5];
    for (image, wanted) in lanes.iter_mut().zip(&to.lane) {
        // A lane bit is best served by lanes alone: the source register stays known at compile time.
        let wanted = from.flatten(wanted);
        *image = match lanes_only.solve(wanted) {
            Some(lane) => (0, lane as u32),
            None => split(basis.solve(wanted)?),
        };
    }
    let images: Option<Vec<(u32, u32)>> =
        to.register.iter().map(|b| basis.solve(from.flatten(b)).map(split)).collect();
    let images = images?;
    let registers = (0..to.num_registers())
        .map(|r| {
            let set = images.iter().enumerate().filter(|(bit, _)| r >> bit & 1 == 1);
            set.fold((0, 0), |(a, b), (_, &(x, y))| (a ^ x, b ^ y))
        })
        .collect();
    Some(Shuffle { registers, lanes })
}

impl Conversion {
    /// Bytes of shared memory that the conversion of a tile of `elements` elements of `elem_bits` needs.
    pub fn scratch_bytes(&self, elements: usize, elem_bits: u32) -> usize {
        match self {
            Conversion::Shared => elements * (elem_bits as usize).div_ceil(8),
            _ => 0,
        }
    }
}

/// Bytes of shared memory that a reduction along `axis` needs: one 4-byte partial result a row and a warp that
/// shares it, nothing when no row crosses warps.
pub fn reduce_scratch_bytes(layout: &LinearLayout, axis: usize) -> usize {
    let sharing = layout.warp.iter().filter(|b| b[axis] != 0).count();
    if sharing == 0 {
        return 0;
    }
    let rows: usize = layout.num_elements() / layout.shape[axis];
    (rows * 4) << sharing
}

#[cfg(test)]
mod tests {
    use super::super::{blocked, mma};
    use super::*;
    use proptest::prelude::*;
    use tile_lang::dtype::DType;

    /// Checks a classification by moving every element.
    fn verify(from: &LinearLayout, to: &LinearLayout) -> Conversion {
        let found = conversion(from, to);
        for warp in 0..to.num_warps() as u32 {
            for lane in 0..32 {
                for register in 0..to.num_registers() as u32 {
                    let (r, l) = match &found {
                        Conversion::Identity => (register, lane),
                        Conversion::Registers(registers) => (registers[register as usize], lane),
                        Conversion::Shuffle(s) => {
                            let set = s.lanes.iter().enumerate().filter(|(bit, _)| lane >> bit & 1 == 1);
                            set.fold(s.registers[register as usize], |(a, b), (_, &(x, y))| (a ^ x, b ^ y))
                        }
                        Conversion::Shared => continue,
                    };
                    assert_eq!(from.apply(r, l, warp), to.apply(register, lane, warp), "{found:?}");
                }
            }
        }
        found
    }

    #[test]
    fn conversions_are_classified() {
        let acc = mma::acc(64, 64, [4, 1]);
        assert_eq!(verify(&acc, &acc), Conversion::Identity);
        assert!(matches!(
            verify(&acc, &mma::lhs(64, 64, [4, 1], DType::F16)),
            Conversion::Registers(_) | Conversion::Identity
        ));
        assert!(matches!(verify(&acc, &mma::lhs(64, 64, [4, 1], DType::F8E4M3FN)), Conversion::Shuffle(_)));
        assert_eq!(verify(&acc, &blocked(&[64, 64], 4, 8, &[1, 0])), Conversion::Shared);
        assert_eq!(Conversion::Shared.scratch_bytes(4096, 16), 8192);
    }

    #[test]
    fn only_reductions_across_warps_need_scratch() {
        assert_eq!(reduce_scratch_bytes(&mma::acc(64, 64, [4, 1]), 1), 0);
        assert_eq!(reduce_scratch_bytes(&mma::acc(64, 64, [2, 2]), 1), 64 * 4 * 2);
    }

    #[test]
    fn rows_of_accumulators_are_reduced_within_threads() {
        let within = mma::acc(64, 64, [4, 1]).slice_within_threads(1).expect("four lanes share a row");
        assert_eq!(within.shape, [64, 4]);
        assert_eq!(within.lane, [[0, 1], [0, 2], [1, 0], [2, 0], [4, 0]]);
        let within = mma::acc(64, 64, [2, 2]).slice_within_threads(1).expect("so do two warps");
        assert_eq!((within.shape, within.warp), (vec![64, 8], vec![vec![0, 4], vec![32, 0]]));
        let parts = mma::acc_parts([2, 64, 8], [4, 1]);
        assert_eq!(parts.slice_within_threads(0).as_ref(), Some(&parts));
    }

    fn layout(kind: usize, m: usize, n: usize, warps: [usize; 2]) -> LinearLayout {
        match kind {
            0 => mma::acc(m, n, warps),
            1 => mma::lhs(m, n, warps, DType::F16),
            2 => mma::rhs(m, n, warps, DType::F32),
            3 => mma::lhs(m, n, warps, DType::F8E4M3FN),
            4 => blocked(&[m, n], warps[0] * warps[1], 4, &[1, 0]),
            _ => blocked(&[m, n], warps[0] * warps[1], 2, &[0, 1]),
        }
    }

    proptest! {
        #[test]
        fn conversions_move_the_right_elements(
            m in 0u32..7, n in 0u32..7, wm in 0u32..2, wn in 0u32..2, a in 0usize..6, b in 0usize..6,
        ) {
            let (m, n, warps) = (1 << m, 1 << n, [1 << wm, 1 << wn]);
            verify(&layout(a, m, n, warps), &layout(b, m, n, warps));
        }

        #[test]
        fn inverses_and_free_variables(m in 0u32..7, n in 0u32..7, wm in 0u32..3, kind in 0usize..6, at: usize) {
            let l = layout(kind, 1 << m, 1 << n, [1 << wm, 1]);
            let at = [(at % l.shape[0]) as u32, (at / l.shape[0] % l.shape[1]) as u32];
            let (r, lane, w) = l.invert(&at).unwrap();
            prop_assert_eq!(l.apply(r, lane, w), at.to_vec());
            let free = l.free_variable_masks();
            let mut seen = std::collections::HashSet::new();
            for (r, lane, w) in (0..l.num_registers() as u32)
                .flat_map(|r| (0..32).map(move |x| (r, x)))
                .flat_map(|(r, x)| (0..l.num_warps() as u32).map(move |w| (r, x, w)))
            {
                if r & free.register == 0 && lane & free.lane == 0 && w & free.warp == 0 {
                    prop_assert!(seen.insert(l.apply(r, lane, w)));
                }
            }
            prop_assert_eq!(seen.len(), l.num_elements());
        }

        #[test]
        fn columns_keep_their_elements(m in 0u32..7, n in 1u32..7, wm in 0u32..2, kind in 0usize..6, cut in 0u32..6) {
            let l = layout(kind, 1 << m, 1 << n, [1 << wm, 1]);
            let count = 1usize << cut.min(n);
            // Columns that lanes or warps tell apart are no layout of their own.
            let by_registers =
                l.lane.iter().chain(&l.warp).all(|basis| (basis[1] as usize) < count);
            let Some(part) = l.first_columns(count) else {
                let apart = l.register.iter().any(|b| b[0] != 0 && b[1] as usize >= count);
                prop_assert!(!by_registers || apart, "{l:?} {count}");
                return Ok(());
            };
            prop_assert!(by_registers);
            prop_assert_eq!(&part.shape, &[l.shape[0], count]);
            for first in (0..l.shape[1]).step_by(count) {
                let registers = l.registers_of_columns(first, count).unwrap();
                for (register, lane, warp) in [(0, 0, 0), (1, 5, 1), (registers.len() - 1, 31, 0)] {
                    let register = register % registers.len();
                    let warp = warp % part.num_warps() as u32;
                    let [row, column] = part.apply(register as u32, lane, warp)[..] else { panic!("a matrix") };
                    let whole = l.apply(registers[register], lane, warp);
                    prop_assert_eq!(whole, [row, column + first as u32]);
                }
            }
        }

        #[test]
        fn slices_broadcast_back(m in 0u32..7, n in 0u32..7, wm in 0u32..2, wn in 0u32..2, kind in 0usize..6, axis in 0usize..2) {
            let l = layout(kind, 1 << m, 1 << n, [1 << wm, 1 << wn]);
            let slice = l.slice(axis);
            prop_assert!(slice.is_surjective());
            let registers = l.registers_from(&slice).expect("a slice holds its rows where the tile does");
            for (r, &s) in registers.iter().enumerate() {
                let mut expected = l.apply(r as u32, 13, 0);
                expected[axis] = 0;
                prop_assert_eq!(slice.apply(s, 13, 0), expected);
            }
        }

        #[test]
        fn threads_that_share_rows_hold_elements_of_their_own(
            m in 0u32..7, n in 0u32..7, wm in 0u32..2, wn in 0u32..2, kind in 0usize..6, axis in 0usize..2,
        ) {
            let l = layout(kind, 1 << m, 1 << n, [1 << wm, 1 << wn]);
            let slice = l.slice(axis);
            if let Some(within) = l.slice_within_threads(axis) {
                prop_assert!(within.is_surjective());
                prop_assert_eq!(&within.slice(axis), &slice);
                let in_place: Vec<u32> = (0..slice.num_registers() as u32).collect();
                prop_assert_eq!(within.registers_from(&slice), Some(in_place));
                let mut sharer = std::collections::HashMap::new();
                for (r, lane, w) in (0..l.num_registers() as u32)
                    .flat_map(|r| (0..32).map(move |x| (r, x)))
                    .flat_map(|(r, x)| (0..l.num_warps() as u32).map(move |w| (r, x, w)))
                {
                    let own = within.apply(0, lane, w)[axis];
                    prop_assert_eq!(*sharer.entry(l.apply(r, lane, w)).or_insert(own), own);
                }
            } else {
                let mixes = l.lane.iter().chain(&l.warp).any(|basis| basis.iter().all(|&c| c != 0));
                let free = l.free_variable_masks();
                prop_assert!(mixes || free.lane != 0 || free.warp != 0);
            }
        }

        #[test]
        fn reshapes_and_transposes_keep_elements(m in 0u32..6, n in 0u32..6, kind in 0usize..6, r: u32, lane in 0u32..32) {
            let l = layout(kind, 1 << m, 1 << n, [2, 1]);
            let r = r % l.num_registers() as u32;
            let at = l.apply(r, lane, 1);
            prop_assert_eq!(l.transpose(&[1, 0]).apply(r, lane, 1), vec![at[1], at[0]]);
            let flat = l.reshape(&[l.num_elements()]);
            prop_assert_eq!(flat.apply(r, lane, 1), vec![at[0] * l.shape[1] as u32 + at[1]]);
        }
    }
}
