//! Layouts of `wgmma`: accumulators and lhs in registers, and descriptors of operands in shared memory.
//!
//! A warpgroup of four warps multiplies 64 rows; warp `w` of it holds rows `16 w` to `16 w + 15`, in the fragments
//! that `mma.sync` has for 16 rows. Larger tiles repeat the 64 rows in registers, then over warpgroups.
//!
//! An operand in shared memory is a row-major tile cut into panels of one swizzled span. Where K runs along the
//! rows (K-major), eight rows of a panel are the unit that the descriptor's stride leads through; where M or N
//! does (MN-major, 16-bit elements only), eight rows are eight steps of K, and the leading offset leads from panel
//! to panel.
//!
//! Source: PTX ISA, "Register Fragments for wgmma.mma_async.m64nNk16", "Matrix Descriptor Format".

use super::{LinearLayout, SharedLayout, mma};
use tile_lang::dtype::DType;

/// Rows of one instruction.
pub const M: usize = 64;
/// The most columns of one instruction.
pub const MAX_N: usize = 256;
/// Bits of a descriptor's address, which counts 16 bytes.
pub const ADDRESS_MASK: i64 = 0x3fff;
/// Columns of a product for which an operand is computed in the order of K that `wgmma` has, though another order
/// would be cheaper.
pub const MANY_COLUMNS: usize = 64;
/// Warps that execute one instruction together.
pub const WARPS: usize = 4;
/// Bits of a warp's number in its warpgroup; those above are the warpgroup's number.
pub const WARP_BITS: usize = WARPS.trailing_zeros() as usize;

/// A bit of the warp's number, as the step along a dimension that it takes.
fn warp_steps(groups: [usize; 2], rows: usize, cols: Option<usize>) -> Vec<(usize, usize)> {
    let mut steps = vec![(0, 16), (0, 32)];
    for bit in 0..groups[1].trailing_zeros() {
        // A step past any extent becomes a zero basis.
        steps.push(cols.map_or((0, usize::MAX), |extent| (1, extent << bit)));
    }
    steps.extend((0..groups[0].trailing_zeros()).map(|bit| (0, rows << bit)));
    steps
}

/// Doubling steps along `dim` from `from` up to (not including) `to`.
fn doubling(dim: usize, from: usize, to: usize) -> impl Iterator<Item = (usize, usize)> {
    std::iter::successors(Some(from), |s| Some(s * 2)).take_while(move |&s| s < to).map(move |s| (dim, s))
}

/// The accumulator `[m, n]` in f32, warpgroups arranged as `groups[0]` rows by `groups[1]` columns.
pub fn acc(m: usize, n: usize, groups: [usize; 2]) -> LinearLayout {
    let (rows, cols) = (m / groups[0], n / groups[1]);
    let mut register = vec![(1, 1), (0, 8)];
    register.extend(doubling(1, mma::N, cols));
    register.extend(doubling(0, M, rows));
    let lane = [(1, 2), (1, 4), (0, 1), (0, 2), (0, 4)];
    LinearLayout::from_steps(&[m, n], &register, &lane, &warp_steps(groups, rows, Some(cols)))
}

/// The lhs `[m, k]` in registers of a product whose accumulator is [`acc`] with the same warpgroups.
///
/// # Panics
/// When `dtype` has no [`mma::depth`].
pub fn lhs(m: usize, k: usize, groups: [usize; 2], dtype: DType) -> LinearLayout {
    let depth = mma::depth(dtype).expect("a dtype that tensor cores multiply");
    let elems = 32 / dtype.bits() as usize;
    let rows = m / groups[0];
    let mut register: Vec<_> = doubling(1, 1, elems).collect();
    register.extend([(0, 8), (1, depth / 2)]);
    register.extend(doubling(1, depth, k));
    register.extend(doubling(0, M, rows));
    let lane = [(1, elems), (1, 2 * elems), (0, 1), (0, 2), (0, 4)];
    LinearLayout::from_steps(&[m, k], &register, &lane, &warp_steps(groups, rows, None))
}

/// How warpgroups split a product of `[m, n, k]`: each gets whole rows, as far as there are 64 for each. None where
/// no instruction has the shape.
pub fn split([m, n, k]: [usize; 3], num_warps: usize, dtype: DType) -> Option<[usize; 2]> {
    let depth = mma::depth(dtype)?;
    if !num_warps.is_multiple_of(WARPS) || m < M || k < depth {
        return None;
    }
    let groups = num_warps / WARPS;
    let rows = (m / M).min(groups);
    let split = [rows, groups / rows];
    let cols = n / split[1];
    (mma::N..=MAX_N).contains(&cols).then_some(split)
}

/// An operand in shared memory, as the instruction takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    shared: SharedLayout,
    /// The contiguous dimension is K.
    pub k_major: bool,
    /// The descriptor of the first element at address 0.
    pub descriptor: u64,
}

impl Operand {
    /// The operand that a tile is: K along its columns with `k_major`, else along its rows. `extent` is what one
    /// warpgroup reads of the other dimension. None where no descriptor describes it.
    pub fn new(shared: SharedLayout, dtype: DType, k_major: bool, extent: usize) -> Option<Operand> {
        let swizzle: u64 = match shared.span_bytes {
            128 => 1,
            64 => 2,
            32 => 3,
            _ => return None,
        };
        let depth = mma::depth(dtype)?;
        let (k, other) = if k_major { (shared.cols, shared.rows) } else { (shared.rows, shared.cols) };
        let is_panels = shared.pitch_bytes == shared.span_bytes;
        let whole_panels = k_major || (extent * shared.elem_bytes).is_multiple_of(shared.span_bytes);
        let transposable = k_major || dtype.bits() == 16;
        if !is_panels || !whole_panels || !transposable || k < depth || other < 8 {
            return None;
        }
        // K-major tiles ignore the leading offset; 1 is the customary value.
        let leading = if k_major { 1 } else { (shared.panel_bytes() as u64) >> 4 };
        let stride = (8 * shared.span_bytes as u64) >> 4;
        let descriptor = (leading << 16) | (stride << 32) | (swizzle << 62);
        (leading < 1 << 14).then_some(Operand { shared, k_major, descriptor })
    }

    /// Byte offset of the element where a step of K starts, `other` rows or columns into the tile.
    pub fn offset(&self, other: usize, k: usize) -> usize {
        if self.k_major { self.shared.offset(other, k) } else { self.shared.offset(k, other) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fragments_are_those_of_the_isa() {
        let d = acc(64, 32, [1, 1]);
        let (a, tf32) = (lhs(64, 16, [1, 1], DType::BF16), lhs(64, 8, [1, 1], DType::F32));
        for warp in 0..4 {
            for lane in 0..32 {
                let (g, t) = (lane / 4, lane % 4);
                for register in 0..16 {
                    let (j, i) = (register / 4, register % 4);
                    let expected = [16 * warp + g + 8 * (i / 2), 8 * j + 2 * t + i % 2];
                    assert_eq!(d.apply(register, lane, warp), expected);
                }
                for register in 0..8 {
                    let (i, half) = (register / 2, register % 2);
                    let expected = [16 * warp + g + 8 * (i % 2), 2 * t + half + 8 * (i / 2)];
                    assert_eq!(a.apply(register, lane, warp), expected);
                }
                for i in 0..4 {
                    assert_eq!(tf32.apply(i, lane, warp), [16 * warp + g + 8 * (i % 2), t + 4 * (i / 2)]);
                }
            }
        }
    }

    #[test]
    fn a_product_feeds_the_next_without_moving() {
        let registers = lhs(128, 64, [1, 1], DType::BF16).registers_from(&acc(128, 64, [1, 1]));
        assert_eq!(registers.expect("within threads")[..8], [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn warpgroups_split_rows_first() {
        let split = |shape, warps| split(shape, warps, DType::BF16);
        assert_eq!(split([128, 256, 64], 8), Some([2, 1]));
        assert_eq!(split([256, 128, 64], 8), Some([2, 1]));
        assert_eq!(split([64, 256, 64], 8), Some([1, 2]));
        assert_eq!(split([64, 64, 64], 4), Some([1, 1]));
        assert_eq!(split([32, 64, 64], 4), None);
        assert_eq!(split([64, 64, 64], 2), None);
        assert_eq!(split([64, 64, 8], 4), None);
        assert_eq!(split([64, 4, 64], 4), None);
    }

    #[test]
    fn descriptors_are_those_of_the_isa() {
        // The high word of a K-major tile with 128-byte rows is a constant of the tables.
        let k_major = Operand::new(SharedLayout::panels(128, 64, 2), DType::BF16, true, 64).unwrap();
        assert_eq!(k_major.descriptor, 0x4000_0040_0001_0000);
        // 16 steps of K are 32 bytes further, 64 rows are 8 KB further.
        assert_eq!((k_major.offset(0, 16), k_major.offset(64, 0)), (32, 8192));
        // Past one span, K goes on in the next panel.
        let deep = Operand::new(SharedLayout::panels(128, 128, 2), DType::BF16, true, 64).unwrap();
        assert_eq!(deep.offset(0, 64), 128 * 128);
        let narrow = Operand::new(SharedLayout::panels(64, 32, 2), DType::F16, true, 64).unwrap();
        assert_eq!((narrow.descriptor >> 62, narrow.descriptor >> 32 & 0x3fff), (2, 512 >> 4));
        // N along the rows: 16 steps of K are 2 KB further, panels of 64 columns lie 64 rows apart.
        // 8 steps of K of f32 are 32 bytes, too; a span holds 32.
        let tf32 = Operand::new(SharedLayout::panels(128, 64, 4), DType::F32, true, 64).unwrap();
        assert_eq!(tf32.descriptor, k_major.descriptor);
        assert_eq!((tf32.offset(0, 8), tf32.offset(64, 0), tf32.offset(0, 32)), (32, 8192, 128 * 128));
        let mn_major = Operand::new(SharedLayout::panels(64, 128, 2), DType::BF16, false, 128).unwrap();
        assert_eq!(mn_major.descriptor >> 16 & 0x3fff, (64 * 128) >> 4);
        assert_eq!(mn_major.descriptor >> 32 & 0x3fff, 1024 >> 4);
        assert_eq!((mn_major.offset(0, 16), mn_major.offset(64, 0)), (2048, 64 * 128));
    }

    #[test]
    fn what_no_descriptor_describes_is_refused() {
        let new = |rows, cols, bytes, dtype, k_major, extent| {
            Operand::new(SharedLayout::panels(rows, cols, bytes), dtype, k_major, extent)
        };
        assert_eq!(new(64, 64, 4, DType::F32, false, 64), None);
        assert_eq!(new(64, 64, 1, DType::F8E4M3FN, false, 64), None);
        assert_eq!(new(64, 8, 2, DType::F16, false, 8), None);
        assert_eq!(new(64, 128, 2, DType::F16, false, 32), None);
        assert_eq!(Operand::new(SharedLayout::new(64, 128, 2), DType::F16, true, 64), None);
    }

    proptest! {
        /// The instruction's own addressing, from the descriptor's fields, finds every element.
        #[test]
        fn descriptors_lead_to_every_element(
            rows in 6u32..9, cols in 4u32..9, k_major: bool, at in 0usize..1 << 16, step: usize, which in 0usize..3,
        ) {
            let dtype = [DType::BF16, DType::F32, DType::F8E4M3FN][which];
            let bytes = dtype.bits() as usize / 8;
            let shared = SharedLayout::panels(1 << rows, 1 << cols, bytes);
            let extent = if k_major { 64 } else { shared.cols };
            let Some(operand) = Operand::new(shared, dtype, k_major, extent) else {
                prop_assert!(!k_major && bytes != 2 || cols == 4 && bytes == 1);
                return Ok(());
            };
            let depth = if k_major { shared.cols } else { shared.rows };
            let one = mma::depth(dtype).unwrap();
            let k0 = step % (depth / one) * one;
            let (other, k) = (at % extent, at / extent % one);
            let field = |low: u32| (operand.descriptor >> low & 0x3fff) as usize * 16;
            let (leading, stride, span) = (field(16), field(32), shared.span_bytes);
            let plain = if k_major {
                other / 8 * stride + other % 8 * span + k * bytes
            } else {
                other * bytes / span * leading + k / 8 * stride + k % 8 * span + other * bytes % span
            };
            let address = operand.offset(0, k0) + plain;
            let swizzled = address ^ (address >> 7 & (span / 16 - 1)) << 4;
            let (row, col) = if k_major { (other, k0 + k) } else { (k0 + k, other) };
            prop_assert_eq!(swizzled, shared.offset(row, col));
        }

        #[test]
        fn every_tile_is_covered(m in 6u32..9, n in 3u32..9, k in 4u32..8, warps in 2u32..5, wide: bool) {
            let (m, n, k) = (1usize << m, 1usize << n, 1usize << k);
            let dtype = if wide { DType::F32 } else { DType::F16 };
            let Some(groups) = split([m, n, k], 1 << warps, dtype) else { return Ok(()) };
            for l in [acc(m, n, groups), lhs(m, k, groups, dtype)] {
                prop_assert!(l.is_surjective(), "{l:?}");
                prop_assert_eq!(l.num_warps(), 1usize << warps);
            }
        }
    }
}
