//! What is known about tensor arguments when a kernel is compiled, and checked when it is launched.

use tile_lang::config;

/// Facts about one tensor argument. Extents and strides are in elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorFacts {
    /// Alignment of the first element's address in bytes, a power of two.
    pub align_bytes: usize,
    /// A power of two that divides each extent.
    pub dim_divisor: Vec<usize>,
    /// A power of two that divides each stride; of no account for `unit_stride`.
    pub stride_divisor: Vec<usize>,
    /// The dimension whose stride is known to be 1.
    pub unit_stride: Option<usize>,
}

impl TensorFacts {
    /// Any strides, nothing known but the element's own alignment.
    pub fn none(rank: usize, elem_bytes: usize) -> TensorFacts {
        TensorFacts {
            align_bytes: elem_bytes,
            dim_divisor: vec![1; rank],
            stride_divisor: vec![1; rank],
            unit_stride: None,
        }
    }

    /// Row-major, 16-byte aligned, every row a multiple of 16 bytes.
    pub fn aligned(rank: usize, elem_bytes: usize) -> TensorFacts {
        TensorFacts::known(&config::TensorFacts::ALIGNED, rank, elem_bytes)
    }

    /// What the facts of an instantiation say about a tensor of some rank.
    pub fn known(facts: &config::TensorFacts, rank: usize, elem_bytes: usize) -> TensorFacts {
        let elem_bytes = elem_bytes.clamp(1, 16);
        let align_bytes = (facts.align_bytes as usize).max(elem_bytes);
        let vector = align_bytes / elem_bytes;
        let mut dim_divisor = vec![1; rank];
        if let Some(last) = dim_divisor.last_mut() {
            *last = vector;
        }
        let unit_stride = if facts.contiguous { rank.checked_sub(1) } else { None };
        TensorFacts { align_bytes, dim_divisor, stride_divisor: vec![vector; rank], unit_stride }
    }

    /// The widest access in bytes, at most 16, that is aligned and never straddles the tensor's edge when blocks
    /// of `tile_shape` are moved; one element where nothing better is known.
    pub fn vec_bytes(&self, tile_shape: &[usize], elem_bytes: usize) -> usize {
        let Some(last) = tile_shape.len().checked_sub(1) else { return elem_bytes };
        if self.unit_stride != Some(last) {
            return elem_bytes;
        }
        let strides = self.stride_divisor[..last].iter().map(|s| s * elem_bytes);
        [tile_shape[last] * elem_bytes, self.dim_divisor[last] * elem_bytes, self.align_bytes]
            .into_iter()
            .chain(strides)
            .fold(16, usize::min)
            .max(elem_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_an_instantiation_carry_over() {
        let facts = |align_bytes, contiguous| {
            TensorFacts::known(&config::TensorFacts { align_bytes, contiguous }, 2, 2).vec_bytes(&[64, 64], 2)
        };
        assert_eq!([facts(16, true), facts(4, true), facts(2, true), facts(16, false)], [16, 4, 2, 2]);
    }

    #[test]
    fn vectors_are_as_wide_as_the_facts_allow() {
        assert_eq!(TensorFacts::aligned(2, 2).vec_bytes(&[64, 64], 2), 16);
        assert_eq!(TensorFacts::aligned(2, 2).vec_bytes(&[64, 4], 2), 8);
        assert_eq!(TensorFacts::none(2, 2).vec_bytes(&[64, 64], 2), 2);
        let odd_rows = TensorFacts { stride_divisor: vec![2, 1], ..TensorFacts::aligned(2, 4) };
        assert_eq!(odd_rows.vec_bytes(&[64, 64], 4), 8);
        let ragged = TensorFacts { dim_divisor: vec![1, 1], ..TensorFacts::aligned(2, 2) };
        assert_eq!(ragged.vec_bytes(&[64, 64], 2), 2);
    }
}
