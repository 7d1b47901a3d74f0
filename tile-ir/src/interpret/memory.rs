//! Tensors in memory that programs share.

use super::value::{Data, Part, Value};
use crate::numeric;
use half::{bf16, f16};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, Ordering::AcqRel, Ordering::Relaxed};
use tile_lang::DType;

/// A tensor on the host: bytes, with strides in elements.
///
/// Elements are little-endian; a bool is a byte; two f4E2M1FN share one, the one with the lower index in the low
/// nibble.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// Distance of neighbours along each dimension, in elements.
    pub strides: Vec<usize>,
    /// The elements.
    pub data: Vec<u8>,
}

impl HostTensor {
    /// A dense row-major tensor of zeros.
    pub fn zeros(dtype: DType, shape: &[usize]) -> HostTensor {
        let mut strides = vec![1; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i] * shape[i];
        }
        let bits = shape.iter().product::<usize>() * dtype.bits() as usize;
        HostTensor { dtype, shape: shape.to_vec(), strides, data: vec![0; bits.div_ceil(8)] }
    }

    /// A dense row-major tensor of numbers, each rounded to the dtype.
    ///
    /// # Panics
    /// When there are not as many values as elements.
    pub fn from_f64(dtype: DType, shape: &[usize], values: &[f64]) -> HostTensor {
        let mut tensor = HostTensor::zeros(dtype, shape);
        assert_eq!(values.len(), shape.iter().product::<usize>(), "values of a tensor of shape {shape:?}");
        let memory = Memory::new(&tensor);
        for (i, &value) in values.iter().enumerate() {
            match dtype {
                DType::I32 => memory.write_int(i, value as i32),
                DType::Bool => memory.write_bool(i, value != 0.0),
                _ => memory.write_float(i, value as f32),
            }
        }
        tensor.data = memory.into_bytes();
        tensor
    }

    /// The elements in row-major order.
    pub fn to_f64(&self) -> Vec<f64> {
        let memory = Memory::new(self);
        let mut index = vec![0; self.shape.len()];
        let count = self.shape.iter().product::<usize>();
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            let at = index.iter().zip(&self.strides).map(|(i, s)| i * s).sum();
            values.push(match self.dtype {
                DType::I32 => f64::from(memory.read_int(at)),
                DType::Bool => f64::from(u8::from(memory.read_bool(at))),
                _ => f64::from(memory.read_float(at)),
            });
            advance(&mut index, &self.shape);
        }
        values
    }

    /// Bytes from the first element to the end of the last.
    pub(super) fn bytes_spanned(&self) -> usize {
        if self.shape.contains(&0) {
            return 0;
        }
        let last: usize = self.shape.iter().zip(&self.strides).map(|(n, s)| (n - 1) * s).sum();
        ((last + 1) * self.dtype.bits() as usize).div_ceil(8)
    }
}

/// The next index in row-major order.
pub(super) fn advance(index: &mut [usize], shape: &[usize]) {
    for (i, n) in index.iter_mut().zip(shape).rev() {
        *i += 1;
        if *i < *n {
            return;
        }
        *i = 0;
    }
}

/// A tensor that programs read and write at once. Each element is atomic, so that kernels whose programs race
/// (which the language refuses or marks unsafe) have some result.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
    words: Words,
}

#[derive(Debug)]
enum Words {
    Bytes(Vec<AtomicU8>),
    Halves(Vec<AtomicU16>),
    Singles(Vec<AtomicU32>),
}

impl Memory {
    pub(super) fn new(tensor: &HostTensor) -> Memory {
        let bytes = &tensor.data;
        let words = match tensor.dtype.bits() {
            32 => Words::Singles(
                bytes
                    .chunks_exact(4)
                    .map(|b| AtomicU32::new(u32::from_le_bytes([b[0], b[1], b[2], b[3]])))
                    .collect(),
            ),
            16 => Words::Halves(
                bytes.chunks_exact(2).map(|b| AtomicU16::new(u16::from_le_bytes([b[0], b[1]]))).collect(),
            ),
            _ => Words::Bytes(bytes.iter().map(|b| AtomicU8::new(*b)).collect()),
        };
        Memory { dtype: tensor.dtype, shape: tensor.shape.clone(), strides: tensor.strides.clone(), words }
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        match self.words {
            Words::Bytes(words) => words.into_iter().map(AtomicU8::into_inner).collect(),
            Words::Halves(words) => words.into_iter().flat_map(|w| w.into_inner().to_le_bytes()).collect(),
            Words::Singles(words) => words.into_iter().flat_map(|w| w.into_inner().to_le_bytes()).collect(),
        }
    }

    fn byte(&self, at: usize) -> u8 {
        match &self.words {
            Words::Bytes(words) => words[at].load(Relaxed),
            _ => unreachable!("a dtype of one byte or less"),
        }
    }

    fn half(&self, at: usize) -> u16 {
        match &self.words {
            Words::Halves(words) => words[at].load(Relaxed),
            _ => unreachable!("a dtype of two bytes"),
        }
    }

    fn word(&self, at: usize) -> u32 {
        match &self.words {
            Words::Singles(words) => words[at].load(Relaxed),
            _ => unreachable!("a dtype of four bytes"),
        }
    }

    /// The element at a distance from the first, in elements.
    fn read_float(&self, at: usize) -> f32 {
        match self.dtype {
            DType::F32 => f32::from_bits(self.word(at)),
            DType::F16 => f16::from_bits(self.half(at)).to_f32(),
            DType::BF16 => bf16::from_bits(self.half(at)).to_f32(),
            DType::F8E4M3FN => numeric::f8_from_bits(self.byte(at)),
            _ => numeric::f4_from_bits(self.byte(at / 2) >> (at % 2 * 4)),
        }
    }

    fn read_int(&self, at: usize) -> i32 {
        self.word(at) as i32
    }

    fn read_bool(&self, at: usize) -> bool {
        self.byte(at) != 0
    }

    fn write_float(&self, at: usize, value: f32) {
        match (&self.words, self.dtype) {
            (Words::Singles(words), _) => words[at].store(value.to_bits(), Relaxed),
            (Words::Halves(words), DType::F16) => words[at].store(f16::from_f32(value).to_bits(), Relaxed),
            (Words::Halves(words), _) => words[at].store(bf16::from_f32(value).to_bits(), Relaxed),
            (Words::Bytes(words), DType::F8E4M3FN) => words[at].store(numeric::f8_to_bits(value), Relaxed),
            (Words::Bytes(words), _) => {
                let shift = at % 2 * 4;
                let bits = numeric::f4_to_bits(value) << shift;
                let keep = 0xf0_u8 >> shift;
                // The neighbour in the same byte may be another program's.
                let _ = words[at / 2].fetch_update(Relaxed, Relaxed, |old| Some(old & keep | bits));
            }
        }
    }

    fn write_int(&self, at: usize, value: i32) {
        if let Words::Singles(words) = &self.words {
            words[at].store(value as u32, Relaxed);
        }
    }

    fn write_bool(&self, at: usize, value: bool) {
        if let Words::Bytes(words) = &self.words {
            words[at].store(u8::from(value), Relaxed);
        }
    }

    /// Reads the elements at the given distances; zero where there is none.
    pub(super) fn read(&self, places: impl Iterator<Item = Option<usize>>) -> Data {
        match self.dtype {
            DType::Bool => Data::Bool(places.map(|p| p.is_some_and(|at| self.read_bool(at))).collect()),
            DType::I32 => Data::Int(places.map(|p| p.map_or(0, |at| self.read_int(at))).collect()),
            _ => Data::Float(places.map(|p| p.map_or(0.0, |at| self.read_float(at))).collect()),
        }
    }

    /// Writes the elements to the given distances; drops those that have none.
    pub(super) fn write(&self, places: impl Iterator<Item = Option<usize>>, data: &Data) {
        match data {
            Data::Float(values) => {
                for (place, &value) in places.zip(values) {
                    if let Some(at) = place {
                        self.write_float(at, value);
                    }
                }
            }
            Data::Int(values) => {
                for (place, &value) in places.zip(values) {
                    if let Some(at) = place {
                        self.write_int(at, value);
                    }
                }
            }
            Data::Bool(values) => {
                for (place, &value) in places.zip(values) {
                    if let Some(at) = place {
                        self.write_bool(at, value);
                    }
                }
            }
        }
    }

    /// The element of a part at some coordinates; zero outside.
    pub(super) fn read_one(&self, part: &Part, index: &[usize]) -> Value {
        let inside = index.iter().zip(&part.shape).all(|(i, extent)| i < extent);
        let distance = || index.iter().zip(&self.strides).map(|(i, s)| i * s).sum::<usize>();
        let at = inside.then(|| part.origin + distance());
        match self.dtype {
            DType::Bool => Value::Int(at.map_or(0, |at| i64::from(self.read_bool(at)))),
            DType::I32 => Value::Int(at.map_or(0, |at| i64::from(self.read_int(at)))),
            _ => Value::Float(at.map_or(0.0, |at| self.read_float(at))),
        }
    }

    /// Counts up at some coordinates of a part, from `count - 1` back to 0: true where it does that. Orders what was
    /// written before by those that counted in front of what is read behind.
    pub(super) fn arrive(&self, part: &Part, index: &[usize], count: usize) -> bool {
        let inside = index.iter().zip(&part.shape).all(|(i, extent)| i < extent);
        let (true, Words::Singles(words)) = (inside, &self.words) else { return false };
        let at = part.origin + index.iter().zip(&self.strides).map(|(i, s)| i * s).sum::<usize>();
        let last = (count as u32).wrapping_sub(1);
        let next = |old: u32| Some(if old >= last { 0 } else { old + 1 });
        words[at].fetch_update(AcqRel, Relaxed, next).is_ok_and(|old| old == last)
    }

    /// Where the elements of a block of a part are, row by row; none for those outside.
    pub(super) fn block<'a>(
        &'a self,
        part: &'a Part,
        index: &'a [usize],
        tile: &'a [usize],
    ) -> impl Iterator<Item = Option<usize>> + 'a {
        let (last, outer) = tile.split_last().map_or((1, &[][..]), |(last, outer)| (*last, outer));
        let rows: usize = outer.iter().product();
        let rank = tile.len();
        let (inner_start, inner_limit, inner_stride) = match rank.checked_sub(1) {
            Some(i) => (index[i].saturating_mul(tile[i]), part.shape[i], self.strides[i]),
            None => (0, 1, 1),
        };
        (0..rows).flat_map(move |row| {
            let (mut rest, mut start) = (row, Some(part.origin));
            for i in (0..outer.len()).rev() {
                let at = index[i].saturating_mul(outer[i]).saturating_add(rest % outer[i]);
                rest /= outer[i];
                start = start.filter(|_| at < part.shape[i]).map(|s| s + at * self.strides[i]);
            }
            let inside = match start {
                Some(_) => inner_limit.saturating_sub(inner_start).min(last),
                None => 0,
            };
            let base = start.unwrap_or(0);
            (0..last).map(move |j| (j < inside).then(|| base + (inner_start + j) * inner_stride))
        })
    }

    /// Where element `n` of index tiles points in a part; none outside or masked off.
    pub(super) fn element(
        &self,
        part: &Part,
        index: &[&[i32]],
        mask: Option<&[bool]>,
        n: usize,
    ) -> Option<usize> {
        if mask.is_some_and(|m| !m[n]) {
            return None;
        }
        let mut at = part.origin;
        for ((tile, &extent), &stride) in index.iter().zip(&part.shape).zip(&self.strides) {
            let i = usize::try_from(tile[n]).ok().filter(|i| *i < extent)?;
            at += i * stride;
        }
        Some(at)
    }
}
