//! Global memory, as a launch gives it to a kernel, and its parameters.

use crate::fault::Wrong;
use crate::tensor_map::TensorMap;
use std::marker::PhantomData;

/// Where shared memory starts in its window; real ones start behind what the system keeps, too.
pub(crate) const SHARED_BASE: u64 = 1024;

/// Where parameters start among generic addresses: where no memory of a program is.
pub(crate) const PARAM_BASE: u64 = 0xffff_f000_0000_0000;

/// The memory that a kernel may use.
///
/// An address of the kernel is an address of this process, so that what alignment the code was compiled for holds
/// here too; every access is checked to lie within one of the lent parts.
#[derive(Debug, Default)]
pub struct Memory<'m> {
    parts: Vec<Part>,
    lent: PhantomData<&'m mut [u8]>,
}

#[derive(Debug)]
struct Part {
    start: *mut u8,
    bytes: usize,
    writable: bool,
}

impl<'m> Memory<'m> {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Memory<'m> {
        Memory::default()
    }

    /// Lends bytes to read and write; returns their address.
    pub fn lend(&mut self, bytes: &'m mut [u8]) -> u64 {
        // SAFETY: the exclusive borrow lasts as long as this value.
        unsafe { self.lend_raw(bytes.as_mut_ptr(), bytes.len(), true) }
    }

    /// Lends bytes to read; returns their address.
    pub fn lend_to_read(&mut self, bytes: &'m [u8]) -> u64 {
        // SAFETY: the borrow lasts as long as this value, and nothing is written through it.
        unsafe { self.lend_raw(bytes.as_ptr().cast_mut(), bytes.len(), false) }
    }

    /// Lends bytes by address; returns the address.
    ///
    /// # Safety
    /// While this value lives, the bytes are valid to read, and to write where `writable`, and nobody else accesses
    /// them but to read what is not writable.
    pub unsafe fn lend_raw(&mut self, start: *mut u8, bytes: usize, writable: bool) -> u64 {
        self.parts.push(Part { start, bytes, writable });
        start.expose_provenance() as u64
    }

    /// The part in which `bytes` bytes at an address lie, and how far into it.
    fn part(&self, address: u64, bytes: usize, writes: bool) -> Option<(&Part, usize)> {
        let within = |part: &&Part| {
            let offset = address.checked_sub(part.start.addr() as u64);
            offset.is_some_and(|offset| offset.saturating_add(bytes as u64) <= part.bytes as u64)
        };
        let mut all = self.parts.iter().filter(within);
        let part =
            if writes { all.clone().find(|part| part.writable).or_else(|| all.next()) } else { all.next() }?;
        Some((part, (address - part.start.addr() as u64) as usize))
    }

    /// Bytes to read.
    pub(crate) fn read(&self, address: u64, bytes: usize) -> Result<&[u8], Wrong> {
        let outside = Wrong::OutOfBounds { action: "reads", space: "global", address, bytes };
        let (part, offset) = self.part(address, bytes, false).ok_or(outside)?;
        // SAFETY: the bytes lie within a lent part; while the slice lives, nothing is written through this value.
        Ok(unsafe { std::slice::from_raw_parts(part.start.add(offset), bytes) })
    }

    /// Bytes to write.
    pub(crate) fn write(&mut self, address: u64, bytes: usize) -> Result<&mut [u8], Wrong> {
        let outside = Wrong::OutOfBounds { action: "writes", space: "global", address, bytes };
        let (part, offset) = self.part(address, bytes, true).ok_or(outside)?;
        if !part.writable {
            return Err(Wrong::ReadOnly { address, bytes });
        }
        // SAFETY: the bytes lie within a part lent to be written; this value is borrowed exclusively.
        Ok(unsafe { std::slice::from_raw_parts_mut(part.start.add(offset), bytes) })
    }
}

/// A parameter of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Param {
    /// At most eight bytes, in the low ones.
    Word(u64),
    /// A tensor map.
    Map(TensorMap),
}

/// The parameters of a launch where the kernel reads them.
#[derive(Debug)]
pub(crate) struct Params {
    bytes: Vec<u8>,
    /// Maps with their offsets.
    maps: Vec<(u64, TensorMap)>,
}

impl Params {
    /// Places parameters; `places` has the start and size of each.
    pub fn new(places: &[(usize, usize)], params: &[Param]) -> Result<Params, Wrong> {
        if places.len() != params.len() {
            let (expected, found) = (places.len(), params.len());
            return Err(Wrong::Launch(format!("it takes {expected} parameters; found {found}")));
        }
        let end = places.last().map_or(0, |(start, size)| start + size);
        let mut placed = Params { bytes: vec![0; end], maps: Vec::new() };
        for (i, (&(start, size), param)) in places.iter().zip(params).enumerate() {
            match param {
                Param::Word(word) if size <= 8 => {
                    placed.bytes[start..start + size].copy_from_slice(&word.to_le_bytes()[..size]);
                }
                Param::Map(map) if size == 128 => placed.maps.push((start as u64, map.clone())),
                _ => return Err(Wrong::Launch(format!("parameter {i} has {size} bytes; found {param:?}"))),
            }
        }
        Ok(placed)
    }

    /// Bytes to read.
    pub fn read(&self, address: u64, bytes: usize) -> Result<&[u8], Wrong> {
        let outside = Wrong::OutOfBounds { action: "reads", space: "parameter", address, bytes };
        let start = address.checked_sub(PARAM_BASE).map(|start| start as usize);
        start.and_then(|start| self.bytes.get(start..start.checked_add(bytes)?)).ok_or(outside)
    }

    /// The map at an address.
    pub fn map(&self, address: u64) -> Result<&TensorMap, Wrong> {
        let found = self.maps.iter().find(|(offset, _)| PARAM_BASE + offset == address);
        let outside = Wrong::OutOfBounds { action: "reads", space: "parameter", address, bytes: 128 };
        found.map(|(_, map)| map).ok_or(outside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_stay_within_one_part() {
        let (mut out, input) = ([0u8; 16], [7u8; 8]);
        let mut memory = Memory::new();
        let (out, input) = (memory.lend(&mut out), memory.lend_to_read(&input));
        memory.write(out + 8, 8).unwrap().fill(1);
        assert_eq!(memory.read(out + 7, 2).unwrap(), [0, 1]);
        assert_eq!(memory.read(input, 8).unwrap(), [7; 8]);
        assert!(matches!(memory.write(out + 9, 8), Err(Wrong::OutOfBounds { .. })));
        assert!(matches!(memory.read(out.wrapping_sub(1), 1), Err(Wrong::OutOfBounds { .. })));
        assert!(matches!(memory.write(input, 1), Err(Wrong::ReadOnly { .. })));
    }
}
