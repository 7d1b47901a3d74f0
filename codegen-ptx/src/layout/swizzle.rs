//! Shared-memory layouts: row-major tiles whose 16-byte chunks are permuted within a span of each row.
//!
//! In a span of `W` bytes, chunk `c` of row `r` lies at chunk `c ^ (r / per_phase % max_phase)`, so that the
//! eight rows of an 8x16-byte matrix lie in eight different bank groups.
//!
//! A tile may be cut into panels, each with the spans of all rows one after the other. Panels of one span are what
//! a TMA copy with the swizzle mode of that width writes, and what the matrix descriptors of `wgmma` describe.

use super::linear::Basis;

/// Bytes of a chunk, which a swizzle never splits.
const CHUNK_BYTES: usize = 16;

/// Where the elements of a two-dimensional tile lie in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SharedLayout {
    /// Rows of the tile.
    pub rows: usize,
    /// Elements of a row, contiguous up to the swizzle.
    pub cols: usize,
    /// Bytes of an element.
    pub elem_bytes: usize,
    /// Width in bytes of the span within which chunks are permuted: 128, 64, 32, or 0 for none.
    pub span_bytes: usize,
    /// Bytes from one row to the next in a panel: those of the part of a row that is in one panel.
    pub pitch_bytes: usize,
}

impl SharedLayout {
    /// The layout with the widest span that a row has room for, in one panel.
    pub fn new(rows: usize, cols: usize, elem_bytes: usize) -> SharedLayout {
        let row_bytes = cols * elem_bytes;
        let span_bytes = [128, 64, 32].into_iter().find(|&w| row_bytes >= w).unwrap_or(0);
        SharedLayout { rows, cols, elem_bytes, span_bytes, pitch_bytes: row_bytes }
    }

    /// The same, cut into panels of one span.
    pub fn panels(rows: usize, cols: usize, elem_bytes: usize) -> SharedLayout {
        let whole = SharedLayout::new(rows, cols, elem_bytes);
        let pitch_bytes = if whole.span_bytes == 0 { whole.pitch_bytes } else { whole.span_bytes };
        SharedLayout { pitch_bytes, ..whole }
    }

    /// Bytes of one panel.
    pub fn panel_bytes(&self) -> usize {
        self.rows * self.pitch_bytes
    }

    /// Rows that share one permutation.
    pub fn per_phase(&self) -> usize {
        128usize.checked_div(self.span_bytes).unwrap_or(1)
    }

    /// Permutations before they repeat; 1 when nothing is permuted.
    pub fn max_phase(&self) -> usize {
        if self.span_bytes == 0 { 1 } else { self.span_bytes / CHUNK_BYTES }
    }

    /// Bytes of the tile.
    pub fn bytes(&self) -> usize {
        self.rows * self.cols * self.elem_bytes
    }

    /// Byte offset of an element. Linear over F2 in the bits of `row` and `col`.
    pub fn offset(&self, row: usize, col: usize) -> usize {
        let byte = col * self.elem_bytes;
        let (panel, byte) = (byte / self.pitch_bytes, byte % self.pitch_bytes);
        let phase = row / self.per_phase() % self.max_phase();
        panel * self.panel_bytes() + row * self.pitch_bytes + (byte ^ (phase * CHUNK_BYTES))
    }

    /// How often the banks are passed over when a warp reads `width` bytes at each offset; 1 is free of
    /// conflicts beyond what the width itself asks for.
    pub fn wavefronts(offsets: &[usize], width: usize) -> usize {
        // 16-byte accesses are served eight lanes at a time, 8-byte ones sixteen, others all at once.
        let group = (128 / width.max(4)).min(32);
        let worst = |lanes: &[usize]| {
            let mut words: Vec<usize> =
                lanes.iter().flat_map(|&o| (o / 4)..(o + width).div_ceil(4)).collect();
            words.sort_unstable();
            words.dedup();
            (0..32).map(|bank| words.iter().filter(|&&w| w % 32 == bank).count()).max().unwrap_or(0)
        };
        offsets.chunks(group).map(worst).max().unwrap_or(0)
    }

    /// True when distinct elements lie at distinct offsets inside the tile.
    pub fn is_bijective(&self) -> bool {
        let bits = |size: usize| (0..size.trailing_zeros()).map(|b| 1usize << b);
        let vectors: Vec<u64> = bits(self.rows)
            .map(|r| self.offset(r, 0) as u64)
            .chain(bits(self.cols).map(|c| self.offset(0, c) as u64))
            .collect();
        Basis::of(&vectors).rank() == vectors.len() && vectors.iter().all(|&v| (v as usize) < self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spans_follow_the_isa() {
        for (cols, span) in [(8, 0), (16, 32), (32, 64), (64, 128), (128, 128)] {
            assert_eq!(SharedLayout::new(64, cols, 2).span_bytes, span, "{cols} columns");
        }
        let wide = SharedLayout::new(64, 64, 2);
        assert_eq!(wide.offset(3, 8), 3 * 128 + ((1 ^ 3) * 16));
        let half = SharedLayout::new(64, 32, 2);
        assert_eq!(half.offset(2, 0), 2 * 64 + 16);
        let panels = SharedLayout::panels(64, 128, 2);
        assert_eq!(panels.offset(3, 64 + 8), 64 * 128 + 3 * 128 + ((1 ^ 3) * 16));
        assert_eq!(SharedLayout::panels(64, 64, 2), wide);
    }

    /// Bits 4 to 6 of the address are XORed with bits 7 to 9, or fewer for narrower spans.
    fn isa_swizzle(address: usize, span_bytes: usize) -> usize {
        let bits = span_bytes / CHUNK_BYTES - 1;
        address ^ (address >> 7 & bits) << 4
    }

    proptest! {
        #[test]
        fn offsets_are_linear_and_bijective(rows in 0u32..8, cols in 0u32..9, size in 0usize..3, a: usize, b: usize) {
            for l in [SharedLayout::new, SharedLayout::panels].map(|make| make(1 << rows, 1 << cols, 1 << size)) {
                prop_assert!(l.is_bijective());
                let at = |n: usize| (n % l.rows, n / l.rows % l.cols);
                let ((r, c), (s, d)) = (at(a), at(b));
                prop_assert_eq!(l.offset(r ^ s, c ^ d), l.offset(r, c) ^ l.offset(s, d));
            }
        }

        #[test]
        fn panels_are_swizzled_as_the_isa_says(rows in 3u32..8, cols in 4u32..9, at: usize) {
            let l = SharedLayout::panels(1 << rows, 1 << cols, 2);
            let (row, col) = (at % l.rows, at / l.rows % l.cols);
            let (panel, byte) = (col * 2 / l.span_bytes, col * 2 % l.span_bytes);
            let plain = panel * l.panel_bytes() + row * l.span_bytes + byte;
            prop_assert_eq!(l.offset(row, col), isa_swizzle(plain, l.span_bytes));
        }

        #[test]
        fn matrices_are_read_and_written_without_conflicts(rows in 3u32..8, cols in 4u32..9, at: usize) {
            for l in [SharedLayout::new, SharedLayout::panels].map(|make| make(1 << rows, 1 << cols, 2)) {
                let (row, col) = (at % l.rows / 8 * 8, at / l.rows * 8 % l.cols);
                let offsets: Vec<usize> = (0..8).map(|r| l.offset(row + r, col)).collect();
                prop_assert_eq!(SharedLayout::wavefronts(&offsets, 16), 1);
            }
        }
    }
}
