//! The parameters of a launch, as a compiled kernel reads them.
//!
//! A tensor is its address, its extents, then its strides in elements, each a parameter of its own; a scalar is
//! one. Each lies in the low bytes of a word, or of several for a parameter that is larger.

use smallvec::SmallVec;
use std::ffi::c_void;

/// Words that need no allocation: seven tensors of four dimensions with some scalars.
const INLINE: usize = 72;

/// Addresses of parameters, for the driver.
pub(super) type Pointers = SmallVec<[*mut c_void; INLINE]>;

/// The parameters of a launch, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Params {
    words: SmallVec<[u64; INLINE]>,
    /// Where each parameter starts.
    starts: SmallVec<[u16; INLINE]>,
}

impl Params {
    /// One parameter of at most 8 bytes.
    pub fn push(&mut self, word: u64) {
        self.push_block(&[word.to_le()]);
    }

    /// One parameter of several words, such as a tensor map.
    pub fn push_block(&mut self, words: &[u64]) {
        self.starts.push(self.words.len() as u16);
        self.words.extend_from_slice(words);
    }

    /// The parameters of a tensor.
    pub fn push_tensor(&mut self, address: u64, shape: &[usize], strides: &[usize]) {
        self.push(address);
        shape.iter().chain(strides).for_each(|&n| self.push(n as u64));
    }

    /// Where each parameter is. The driver reads them and does not write.
    pub fn pointers(&self) -> Pointers {
        self.starts
            .iter()
            .map(|&at| std::ptr::from_ref(&self.words[usize::from(at)]).cast_mut().cast())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_lie_in_order_in_the_low_bytes() {
        let mut params = Params::default();
        params.push_tensor(0x7000, &[3, 5], &[8, 1]);
        params.push(u64::from((-7i32) as u32));
        params.push_block(&[1, 2, 3]);
        params.push(9);
        let pointers = params.pointers();
        let word = |i: usize| {
            // SAFETY: every pointer is to a word of `params`.
            u64::from_le(unsafe { *pointers[i].cast::<u64>() })
        };
        assert_eq!((0..8).map(word).collect::<Vec<_>>(), [0x7000, 3, 5, 8, 1, 0xffff_fff9, 1, 9]);
        // SAFETY: the block has three words.
        assert_eq!(unsafe { *pointers[6].cast::<[u64; 3]>() }, [1, 2, 3]);
    }
}
