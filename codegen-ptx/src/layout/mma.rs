//! Layouts of `mma.sync` operands and accumulators.
//!
//! With `g = lane / 4` and `t = lane % 4`, every shape in use is one pattern of 32-byte rows of K: a thread
//! holds the 4 bytes at byte `4 t` and the 4 at byte `4 t + 16`, of rows `g` and `g + 8` for the lhs and of
//! column `g` for the rhs; of the accumulator it holds columns `2 t` and `2 t + 1` of rows `g` and `g + 8`.
//! Larger tiles repeat it in registers (K innermost for operands, N for the accumulator), then over warps,
//! each of which owns a contiguous block. A tile smaller than the instruction is replicated over it.
//!
//! Source: PTX ISA, "Matrix Fragments for mma.m16n8k8, m16n8k16, m16n8k32".

use super::LinearLayout;
use tile_lang::dtype::DType;

/// Which part of K each position of the instruction stands for: bit `i` of a position is bit `0[i]` of K's
/// coordinate. A product sums over K in any order, as long as both operands are in the same one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct KOrder(pub Vec<usize>);

impl KOrder {
    /// The order in which each thread holds `run` consecutive positions of K in its registers, those of one
    /// instruction first; the two of a 32-bit register of a 16-bit `dtype` are `pair` apart. The plain order where
    /// K is too short.
    pub fn runs(k: usize, dtype: DType, run: usize, pair: usize) -> KOrder {
        let Some(depth) = depth(dtype).filter(|&depth| k >= depth) else { return KOrder::default() };
        let bits = k.trailing_zeros() as usize;
        let within = (32 / dtype.bits()).trailing_zeros() as usize;
        let run_bits = (run.min(k / 4).trailing_zeros() as usize).min(bits - 2);
        let mut in_registers: Vec<usize> = (0..run_bits).collect();
        let pair_bit = pair.trailing_zeros() as usize;
        if within == 1 && pair_bit < run_bits {
            in_registers.remove(pair_bit);
            in_registers.insert(0, pair_bit);
        }
        let mut in_registers = in_registers.into_iter();
        let mut lanes = run_bits..run_bits + 2;
        let mut rest = run_bits + 2..bits;
        debug_assert!(depth.trailing_zeros() as usize == within + 3);
        let order = (0..bits).map(|bit| {
            let place = if bit == within || bit == within + 1 { lanes.next() } else { in_registers.next() };
            place.or_else(|| rest.next()).expect("as many places as bits")
        });
        KOrder(order.collect())
    }

    /// The position of K that a position of the instruction stands for.
    fn position(&self, at: u32) -> u32 {
        if self.0.is_empty() {
            return at;
        }
        let set = self.0.iter().enumerate().filter(|(bit, _)| at >> bit & 1 == 1);
        set.fold(0, |position, (_, to)| position | 1 << to)
    }

    /// A layout of an operand whose dimension `dim` is K, in this order.
    pub fn apply(&self, mut layout: LinearLayout, dim: usize) -> LinearLayout {
        let bases = layout.register.iter_mut().chain(&mut layout.lane).chain(&mut layout.warp);
        bases.for_each(|basis| basis[dim] = self.position(basis[dim]));
        layout
    }
}

/// Rows of one instruction.
pub const M: usize = 16;
/// Columns of one instruction.
pub const N: usize = 8;

/// Depth of one instruction for an operand dtype: 32 bytes of K.
///
/// f32 operands are multiplied as tf32, 4-bit ones with block scales. `None` for dtypes no tensor core multiplies
/// here.
pub fn depth(dtype: DType) -> Option<usize> {
    match dtype {
        DType::F32 => Some(8),
        DType::F16 | DType::BF16 => Some(16),
        DType::F8E4M3FN => Some(32),
        DType::F4E2M1FN => Some(64),
        _ => None,
    }
}

/// Warp bases when `warps` are arranged as rows by columns, column bits lowest; `row`/`col` give the dimension
/// and the extent that one warp covers, or nothing where the operand does not vary.
fn warp_steps(
    warps: [usize; 2],
    row: Option<(usize, usize)>,
    col: Option<(usize, usize)>,
) -> Vec<(usize, usize)> {
    let mut steps = Vec::new();
    for (count, along) in [(warps[1], col), (warps[0], row)] {
        for bit in 0..count.trailing_zeros() {
            // A step past any extent becomes a zero basis.
            steps.push(along.map_or((0, usize::MAX), |(dim, extent)| (dim, extent << bit)));
        }
    }
    steps
}

/// Doubling steps along `dim` from `from` up to (not including) `to`.
fn doubling(dim: usize, from: usize, to: usize) -> impl Iterator<Item = (usize, usize)> {
    std::iter::successors(Some(from), |s| Some(s * 2)).take_while(move |&s| s < to).map(move |s| (dim, s))
}

/// What one warp covers of a dimension of `size` cut over `warps`, at least one instruction.
fn warp_extent(size: usize, warps: usize, instruction: usize) -> usize {
    (size / warps).max(instruction)
}

/// The accumulator `[m, n]` in f32, warps arranged as `warps[0]` rows by `warps[1]` columns.
pub fn acc(m: usize, n: usize, warps: [usize; 2]) -> LinearLayout {
    let (warp_m, warp_n) = (warp_extent(m, warps[0], M), warp_extent(n, warps[1], N));
    let mut register = vec![(1, 1), (0, 8)];
    register.extend(doubling(1, N, warp_n));
    register.extend(doubling(0, M, warp_m));
    let lane = [(1, 2), (1, 4), (0, 1), (0, 2), (0, 4)];
    LinearLayout::from_steps(
        &[m, n],
        &register,
        &lane,
        &warp_steps(warps, Some((0, warp_m)), Some((1, warp_n))),
    )
}

/// A layout over `parts` times as many warps, each group of which holds one part of dimension `dim`.
fn in_parts(mut layout: LinearLayout, dim: usize, parts: usize) -> LinearLayout {
    let extent = layout.shape[dim];
    layout.shape[dim] *= parts;
    for bit in 0..parts.trailing_zeros() {
        let mut basis = vec![0; layout.rank()];
        basis[dim] = (extent << bit) as u32;
        layout.warp.push(basis);
    }
    layout
}

/// Parts of K, rows and columns of an accumulator of a shape: `[m, n]`, or `[parts, m, n]`. `None` for other ranks.
pub fn acc_extents(shape: &[usize]) -> Option<[usize; 3]> {
    match *shape {
        [m, n] => Some([1, m, n]),
        [parts, m, n] => Some([parts, m, n]),
        _ => None,
    }
}

/// The accumulator of a product whose K is cut into parts, each for warps as those of [`acc`]: `[parts, m, n]`, or of
/// one part `[m, n]`, as [`acc`].
pub fn acc_parts([parts, m, n]: [usize; 3], warps: [usize; 2]) -> LinearLayout {
    match parts {
        1 => acc(m, n, warps),
        _ => in_parts(acc(m, n, warps).reshape(&[1, m, n]), 0, parts),
    }
}

/// The operands `[m, k]` and `[k, n]` of a product with an accumulator as [`acc_parts`], each part of K in an order.
///
/// # Panics
/// When `dtype` has no [`depth`].
pub fn operands(
    [parts, m, n]: [usize; 3],
    k: usize,
    warps: [usize; 2],
    dtype: DType,
    order: &KOrder,
) -> [LinearLayout; 2] {
    let k = k / parts;
    let (lhs, rhs) = (order.apply(lhs(m, k, warps, dtype), 1), order.apply(rhs(k, n, warps, dtype), 0));
    [in_parts(lhs, 1, parts), in_parts(rhs, 0, parts)]
}

/// The steps along K of one register of 4 bytes, and of the lanes of a quad.
fn k_steps(bits: u32) -> (Vec<usize>, [usize; 2]) {
    let elems = 32 / bits as usize;
    let within = (0..elems.trailing_zeros()).map(|b| 1 << b).collect();
    (within, [elems, 2 * elems])
}

/// The lhs `[m, k]` of a product whose accumulator is [`acc`] with the same warps.
///
/// # Panics
/// When `dtype` has no [`depth`].
pub fn lhs(m: usize, k: usize, warps: [usize; 2], dtype: DType) -> LinearLayout {
    let depth = depth(dtype).expect("a dtype that tensor cores multiply");
    let (within, quad) = k_steps(dtype.bits());
    let warp_m = warp_extent(m, warps[0], M);
    let mut register: Vec<_> = within.into_iter().map(|s| (1, s)).collect();
    register.extend([(0, 8), (1, depth / 2)]);
    register.extend(doubling(1, depth, k));
    register.extend(doubling(0, M, warp_m));
    let lane = [(1, quad[0]), (1, quad[1]), (0, 1), (0, 2), (0, 4)];
    LinearLayout::from_steps(&[m, k], &register, &lane, &warp_steps(warps, Some((0, warp_m)), None))
}

/// The rhs `[k, n]` of a product whose accumulator is [`acc`] with the same warps.
///
/// # Panics
/// When `dtype` has no [`depth`].
pub fn rhs(k: usize, n: usize, warps: [usize; 2], dtype: DType) -> LinearLayout {
    let depth = depth(dtype).expect("a dtype that tensor cores multiply");
    let (within, quad) = k_steps(dtype.bits());
    let warp_n = warp_extent(n, warps[1], N);
    let mut register: Vec<_> = within.into_iter().map(|s| (0, s)).collect();
    register.push((0, depth / 2));
    register.extend(doubling(0, depth, k));
    register.extend(doubling(1, N, warp_n));
    let lane = [(0, quad[0]), (0, quad[1]), (1, 1), (1, 2), (1, 4)];
    LinearLayout::from_steps(&[k, n], &register, &lane, &warp_steps(warps, None, Some((1, warp_n))))
}

/// Elements of K that share a scale.
pub const SCALED_GROUP: usize = 16;

/// The scales `[m, k / 16]` of the [`lhs`] of a product of 4-bit operands.
///
/// One register holds those of the four groups of one instruction, the first in the low bits; lane `4 g + t` those
/// of row `g`, or for odd `t` of row `g + 8`, of which the instruction reads lanes with `t` below 2.
///
/// Source: PTX ISA, "Block scaling for mma.sync", thread-id-a and byte-id-a 0.
pub fn lhs_scales(m: usize, k: usize, warps: [usize; 2]) -> LinearLayout {
    let warp_m = warp_extent(m, warps[0], M);
    let mut register = vec![(1, 1), (1, 2)];
    register.extend(doubling(1, 4, k / SCALED_GROUP));
    register.extend(doubling(0, M, warp_m));
    let lane = [(0, 8), (0, usize::MAX), (0, 1), (0, 2), (0, 4)];
    let warp = warp_steps(warps, Some((0, warp_m)), None);
    LinearLayout::from_steps(&[m, k / SCALED_GROUP], &register, &lane, &warp)
}

/// The scales `[k / 16, n]` of the [`rhs`] of a product of 4-bit operands.
///
/// As [`lhs_scales`]; lane `4 g + t` holds those of column `g`, of which the instruction reads lanes with `t` 0.
pub fn rhs_scales(k: usize, n: usize, warps: [usize; 2]) -> LinearLayout {
    let warp_n = warp_extent(n, warps[1], N);
    let mut register = vec![(0, 1), (0, 2)];
    register.extend(doubling(0, 4, k / SCALED_GROUP));
    register.extend(doubling(1, N, warp_n));
    let lane = [(1, usize::MAX), (1, usize::MAX), (1, 1), (1, 2), (1, 4)];
    let warp = warp_steps(warps, None, Some((1, warp_n)));
    LinearLayout::from_steps(&[k / SCALED_GROUP, n], &register, &lane, &warp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The ISA's tables: (row, k) of element `j` of register `i` of the lhs.
    fn isa_lhs(bits: u32, i: u32, j: u32, lane: u32) -> [u32; 2] {
        let (g, t, elems) = (lane / 4, lane % 4, 32 / bits);
        [g + if i % 2 == 1 { 8 } else { 0 }, t * elems + j + if i >= 2 { 4 * elems } else { 0 }]
    }

    /// (k, column) of element `j` of register `i` of the rhs.
    fn isa_rhs(bits: u32, i: u32, j: u32, lane: u32) -> [u32; 2] {
        let (g, t, elems) = (lane / 4, lane % 4, 32 / bits);
        [t * elems + j + 4 * elems * i, g]
    }

    #[test]
    fn fragments_are_those_of_the_isa() {
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::F8E4M3FN, DType::F4E2M1FN] {
            let (k, bits) = (depth(dtype).unwrap(), dtype.bits());
            let (a, b) = (lhs(16, k, [1, 1], dtype), rhs(k, 8, [1, 1], dtype));
            assert_eq!(
                (a.num_registers() as u32 * bits, b.num_registers() as u32 * bits),
                (128, 64),
                "{dtype}"
            );
            for lane in 0..32 {
                for register in 0..a.num_registers() as u32 {
                    let (i, j) = (register / (32 / bits), register % (32 / bits));
                    assert_eq!(
                        a.apply(register, lane, 0),
                        isa_lhs(bits, i, j, lane),
                        "{dtype} lhs {i}.{j} lane {lane}"
                    );
                    if i < 2 {
                        assert_eq!(
                            b.apply(register, lane, 0),
                            isa_rhs(bits, i, j, lane),
                            "{dtype} rhs {i}.{j}"
                        );
                    }
                }
            }
        }
        let c = acc(16, 8, [1, 1]);
        for lane in 0..32 {
            for (register, at) in [[0, 0], [0, 1], [8, 0], [8, 1]].iter().enumerate() {
                let expected = [lane / 4 + at[0], lane % 4 * 2 + at[1]];
                assert_eq!(c.apply(register as u32, lane, 0), expected);
            }
        }
    }

    #[test]
    fn an_order_of_k_gives_each_thread_a_run() {
        for (dtype, k, run, pair) in [
            (DType::BF16, 256, 32, 4),
            (DType::F16, 64, 16, 1),
            (DType::BF16, 16, 32, 4),
            (DType::F32, 32, 8, 1),
        ] {
            let order = KOrder::runs(k, dtype, run, pair);
            let a = order.apply(lhs(16, k, [1, 1], dtype), 1);
            let b = order.apply(rhs(k, 8, [1, 1], dtype), 0);
            assert!(a.is_surjective() && b.is_surjective());
            let held = run.min(k / 4) as u32;
            for lane in 0..4 {
                let mut first: Vec<u32> = (0..a.num_registers() as u32)
                    .map(|r| a.apply(r, lane, 0))
                    .filter(|at| at[0] == 0)
                    .map(|at| at[1])
                    .collect();
                first.sort_unstable();
                let expected: Vec<u32> = (0..held).map(|i| lane * held + i).collect();
                assert_eq!(first[..held as usize], expected, "{dtype} {k}");
            }
            if dtype != DType::F32 && k > 16 {
                assert_eq!(a.apply(1, 0, 0), [0, pair as u32]);
            }
            // Both operands hold the same positions in the same step and lane.
            let steps = |layout: &LinearLayout, dim: usize, half: usize| -> Vec<u32> {
                let within = 32 / dtype.bits();
                let register = |r: u32| {
                    (r % within)
                        | ((r / within % 2) << half)
                        | ((r / within / 2 * within * 2) << (half - within.trailing_zeros() as usize))
                };
                (0..(k / 4) as u32).map(|r| layout.apply(register(r), 3, 0)[dim]).collect()
            };
            let half = (32 / dtype.bits()).trailing_zeros() as usize;
            assert_eq!(steps(&a, 1, half + 1), steps(&b, 0, half), "{dtype}");
        }
        assert_eq!(KOrder::runs(8, DType::BF16, 32, 4), KOrder::default());
    }

    #[test]
    fn scales_are_where_the_isa_reads_them() {
        let (a, b) = (lhs_scales(32, 128, [2, 1]), rhs_scales(128, 16, [1, 2]));
        for lane in 0..32 {
            let (g, t) = (lane / 4, lane % 4);
            for byte in 0..4 {
                assert_eq!(a.apply(byte, lane, 0), [g + 8 * (t % 2), byte]);
                assert_eq!(b.apply(byte, lane, 0), [byte, g]);
            }
            // The second register is the next step of K; the next warp has the next rows or columns.
            assert_eq!((a.apply(4, lane, 0)[1], b.apply(4, lane, 0)[0]), (4, 4));
            assert_eq!((a.apply(0, lane, 1)[0], b.apply(0, lane, 1)[1]), (16 + g + 8 * (t % 2), 8 + g));
        }
        assert!(a.is_surjective() && b.is_surjective());
    }

    #[test]
    fn warps_own_contiguous_blocks() {
        let c = acc(128, 64, [2, 2]);
        assert_eq!((c.apply(0, 0, 1), c.apply(0, 0, 2)), (vec![0, 32], vec![64, 0]));
        let a = lhs(128, 32, [2, 2], DType::BF16);
        assert_eq!((a.apply(0, 0, 1), a.apply(0, 0, 2)), (vec![0, 0], vec![64, 0]));
        let b = rhs(32, 64, [2, 2], DType::BF16);
        assert_eq!((b.apply(0, 0, 1), b.apply(0, 0, 2)), (vec![0, 32], vec![0, 0]));
    }

    #[test]
    fn a_product_feeds_the_next_without_moving() {
        // P, the accumulator of Q Kᵀ, becomes the lhs of P V: a permutation of registers.
        let source = acc(64, 64, [4, 1]);
        let registers = lhs(64, 64, [4, 1], DType::BF16).registers_from(&source).expect("within threads");
        assert_eq!(registers[..8], [0, 1, 2, 3, 4, 5, 6, 7]);
        assert!(lhs(64, 64, [4, 1], DType::F8E4M3FN).registers_from(&source).is_none());
    }

    proptest! {
        #[test]
        fn every_power_of_two_tile_is_covered(
            m in 0u32..8, n in 0u32..8, k in 0u32..8, wm in 0u32..3, wn in 0u32..3, which in 0usize..4,
        ) {
            let dtype = [DType::F32, DType::F16, DType::BF16, DType::F8E4M3FN][which];
            let (m, n, k, warps) = (1usize << m, 1usize << n, 1usize << k, [1usize << wm, 1 << wn]);
            for l in [acc(m, n, warps), lhs(m, k, warps, dtype), rhs(k, n, warps, dtype)] {
                prop_assert!(l.is_surjective(), "{l:?}");
                prop_assert_eq!(l.num_warps(), warps[0] * warps[1]);
            }
        }
    }
}
