//! Tensor maps: what bulk copies know of a tensor.

use crate::fault::Wrong;
use crate::memory::Memory;

/// The pattern by which 16-byte chunks are permuted: bits of an address of shared memory that are changed by the bits
/// from 7 on.
pub(crate) fn swizzled(address: u64, span_bytes: u64) -> u64 {
    match span_bytes {
        0 => address,
        span => address ^ (address >> 7 & (span / 16 - 1)) << 4,
    }
}

/// A tensor of at most five dimensions and the block of it that one bulk copy moves. Dimensions are innermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    address: u64,
    element_bytes: u64,
    shape: Vec<u64>,
    strides: Vec<u64>,
    block: Vec<u64>,
    swizzle_bytes: u64,
    rounds_to_tf32: bool,
}

impl TensorMap {
    /// A map of a tensor at `address` with `shape`, innermost first, whose dimensions but the innermost have `strides`
    /// in bytes; of blocks of `block` elements; that permutes chunks within `swizzle_bytes` (0 for none) of shared
    /// memory.
    ///
    /// # Errors
    /// What the CUDA driver's `cuTensorMapEncodeTiled` refuses, with the rule.
    pub fn new(
        address: u64,
        element_bytes: u64,
        shape: &[u64],
        strides: &[u64],
        block: &[u64],
        swizzle_bytes: u64,
    ) -> Result<TensorMap, &'static str> {
        let rank = shape.len();
        let inner = block.first().map_or(0, |n| n * element_bytes);
        let rules = [
            (
                (1..=5).contains(&rank) && strides.len() + 1 == rank && block.len() == rank,
                "1 to 5 dimensions",
            ),
            (address.is_multiple_of(16), "an address that is a multiple of 16"),
            (shape.iter().all(|n| (1..=1 << 32).contains(n)), "extents of 1 to 2^32"),
            (
                strides.iter().all(|s| s.is_multiple_of(16) && *s < 1 << 40),
                "strides that are multiples of 16 below 2^40",
            ),
            (block.iter().all(|n| (1..=256).contains(n)), "blocks of 1 to 256 elements in each dimension"),
            (inner.is_multiple_of(16), "rows of a block that are multiples of 16 bytes"),
            ([0, 32, 64, 128].contains(&swizzle_bytes), "a swizzle of 32, 64 or 128 bytes, or none"),
            (swizzle_bytes == 0 || inner <= swizzle_bytes, "rows of a block within the swizzle's span"),
        ];
        if let Some((_, rule)) = rules.iter().find(|(holds, _)| !holds) {
            return Err(rule);
        }
        let [shape, strides, block] = [shape, strides, block].map(<[u64]>::to_vec);
        Ok(TensorMap { address, element_bytes, shape, strides, block, swizzle_bytes, rounds_to_tf32: false })
    }

    /// A map of a tensor given as programs have it: outermost dimension first, elements of `bits` bits, strides in
    /// elements, the innermost 1. Two elements of 4 bits are one of the map, of which `block` counts them.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_tensor(
        address: u64,
        bits: u32,
        (shape, strides): (&[usize], &[usize]),
        block: &[usize],
        swizzle_bytes: usize,
    ) -> Result<TensorMap, &'static str> {
        let mut extents: Vec<u64> = shape.iter().rev().map(|&n| n as u64).collect();
        if let Some(inner) = extents.first_mut() {
            *inner /= u64::from(8 / bits.min(8));
        }
        let strides: Vec<u64> =
            strides.iter().rev().skip(1).map(|&n| n as u64 * u64::from(bits) / 8).collect();
        let block: Vec<u64> = block.iter().rev().map(|&n| n as u64).collect();
        TensorMap::new(address, bits.div_ceil(8).into(), &extents, &strides, &block, swizzle_bytes as u64)
    }

    /// The map with f32 elements rounded to tf32 on their way to shared memory, ties away from zero.
    #[must_use]
    pub fn rounding_to_tf32(mut self) -> TensorMap {
        self.rounds_to_tf32 = true;
        self
    }

    /// Bytes of a block.
    pub(crate) fn block_bytes(&self) -> usize {
        (self.block.iter().product::<u64>() * self.element_bytes) as usize
    }

    pub(crate) fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Where in the tensor's rows the rows of the block at some coordinates start, in bytes.
    pub(crate) fn row_start(&self, coordinates: &[i64]) -> u64 {
        coordinates.first().map_or(0, |first| first.unsigned_abs() * self.element_bytes)
    }

    /// Where in shared memory a byte of a block lies that starts at an address.
    pub(crate) fn place(&self, start: u64, offset: usize) -> u64 {
        swizzled(start + offset as u64, self.swizzle_bytes)
    }

    /// The multiple that a block's address in shared memory must be.
    pub(crate) fn shared_align(&self) -> usize {
        128
    }

    /// The elements of the block at some coordinates, in order: the address of each that lies in the tensor.
    fn elements(&self, coordinates: &[i64]) -> impl Iterator<Item = Option<u64>> {
        let count = self.block.iter().product::<u64>();
        (0..count).map(move |index| {
            let mut rest = index;
            let mut address = self.address;
            for (dim, extent) in self.block.iter().enumerate() {
                let at = coordinates[dim] + (rest % extent) as i64;
                rest /= extent;
                let at = u64::try_from(at).ok().filter(|at| *at < self.shape[dim])?;
                address += at * if dim == 0 { self.element_bytes } else { self.strides[dim - 1] };
            }
            Some(address)
        })
    }

    /// A block's bytes, zero where it leaves the tensor.
    pub(crate) fn load(&self, coordinates: &[i64], memory: &Memory<'_>) -> Result<Vec<u8>, Wrong> {
        let size = self.element_bytes as usize;
        let mut bytes = vec![0; self.block_bytes()];
        for (target, address) in bytes.chunks_exact_mut(size).zip(self.elements(coordinates)) {
            let Some(address) = address else { continue };
            target.copy_from_slice(memory.read(address, size)?);
            if self.rounds_to_tf32 {
                let rounded = crate::numeric::to_tf32(u32::from_le_bytes(target.try_into().expect("an f32")));
                target.copy_from_slice(&rounded.to_le_bytes());
            }
        }
        Ok(bytes)
    }

    /// Stores a block's bytes, but for what leaves the tensor.
    pub(crate) fn store(
        &self,
        coordinates: &[i64],
        bytes: &[u8],
        memory: &mut Memory<'_>,
    ) -> Result<(), Wrong> {
        let size = self.element_bytes as usize;
        for (source, address) in bytes.chunks_exact(size).zip(self.elements(coordinates)) {
            if let Some(address) = address {
                memory.write(address, size)?.copy_from_slice(source);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_filled_with_zeros_and_clipped() {
        // Three rows of four 4-byte elements.
        let mut data: Vec<u8> = (0..12u32).flat_map(|n| (n + 1).to_le_bytes()).collect();
        let mut padded = [0u8; 64];
        let shift = padded.as_ptr().align_offset(16);
        padded[shift..shift + 48].swap_with_slice(&mut data);
        let mut memory = Memory::new();
        let address = memory.lend(&mut padded[shift..shift + 48]);
        let map = TensorMap::new(address, 4, &[4, 3], &[16], &[4, 2], 0).unwrap();
        let words = |bytes: Vec<u8>| -> Vec<u32> {
            bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
        };
        assert_eq!(words(map.load(&[2, -1], &memory).unwrap()), [0, 0, 0, 0, 3, 4, 0, 0]);
        assert_eq!(words(map.load(&[0, 2], &memory).unwrap()), [9, 10, 11, 12, 0, 0, 0, 0]);
        map.store(&[3, 2], &[0xff; 32], &mut memory).unwrap();
        assert_eq!(words(map.load(&[0, 2], &memory).unwrap()), [9, 10, 11, u32::MAX, 0, 0, 0, 0]);
    }

    #[test]
    fn what_the_driver_refuses_is_refused() {
        let new = |address, strides: &[u64], block: &[u64], swizzle| {
            TensorMap::new(address, 2, &[64, 64], strides, block, swizzle)
        };
        assert!(new(256, &[128], &[64, 64], 128).is_ok());
        assert!(new(257, &[128], &[64, 64], 128).is_err());
        assert!(new(256, &[120], &[64, 64], 128).is_err());
        assert!(new(256, &[128], &[64, 64], 64).is_err());
        assert!(new(256, &[128], &[64, 512], 128).is_err());
        assert!(new(256, &[128], &[4, 64], 0).is_err());
    }

    #[test]
    fn tensors_are_turned_inside_out() {
        let of = |bits, shape: &[usize], strides: &[usize], block: &[usize]| {
            TensorMap::of_tensor(256, bits, (shape, strides), block, 0).unwrap()
        };
        let plain = TensorMap::new(256, 2, &[64, 3, 5], &[256, 1024], &[16, 2, 1], 0).unwrap();
        assert_eq!(of(16, &[5, 3, 64], &[512, 128, 1], &[1, 2, 16]), plain);
        let pairs = TensorMap::new(256, 1, &[32, 7], &[48], &[16, 4], 0).unwrap();
        assert_eq!(of(4, &[7, 64], &[96, 1], &[4, 16]), pairs);
    }

    #[test]
    fn chunks_are_permuted_by_rows() {
        // Row 3 of 128 bytes, chunk 5: 5 ^ 3.
        assert_eq!(swizzled(3 * 128 + 5 * 16 + 2, 128), 3 * 128 + 6 * 16 + 2);
        // Two rows of 64 bytes share a line of 128.
        assert_eq!(swizzled(2 * 64 + 16, 64), 2 * 64);
        assert_eq!(swizzled(4 * 32, 32), 4 * 32 + 16);
    }
}
