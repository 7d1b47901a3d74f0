//! Where the tiles of a running program live: one arena a thread, with pooled buffers.
//!
//! A tile is a handle, so that `acc = acc * alpha` reads as it should. Slots are a stack: the macro marks its
//! height before a loop and releases, at the end of each iteration, what lies above except for what the loop carries,
//! which moves down. Buffers go back to a pool by size, so that a steady state allocates nothing.

use super::element::Element;
use super::fault::fault;
use super::shape::Shape;
use super::small_float::{F4E2M1FN, F8E4M3FN};
use super::tile::Tile;
use crate::error::KernelError;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use tile_lang::DType;

/// Buffers start at cache lines.
const ALIGN: usize = 64;

/// A block of `ALIGN << class` initialised bytes.
struct Buffer {
    start: NonNull<u8>,
    class: u32,
}

impl Buffer {
    fn layout(class: u32) -> Layout {
        Layout::from_size_align(ALIGN << class, ALIGN).expect("a tile smaller than the address space")
    }

    fn new(class: u32) -> Buffer {
        let layout = Buffer::layout(class);
        // SAFETY: the size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        Buffer { start: NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout)), class }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, freed once.
        unsafe { dealloc(self.start.as_ptr(), Buffer::layout(self.class)) }
    }
}

/// A live tile.
struct Slot {
    /// Never used twice on a thread, so that a stale handle is found.
    serial: u64,
    dtype: DType,
    shape: Shape,
    buffer: Buffer,
}

#[derive(Default)]
struct Arena {
    slots: Vec<Slot>,
    pool: Vec<Vec<Buffer>>,
    serials: u64,
    /// Serial, old and new place of what a release keeps.
    kept: Vec<(u64, usize, usize)>,
}

thread_local! {
    static ARENA: RefCell<Arena> = RefCell::default();
}

impl Arena {
    fn take(&mut self, bytes: usize) -> Buffer {
        let class = bytes.div_ceil(ALIGN).next_power_of_two().trailing_zeros();
        let pooled = self.pool.get_mut(class as usize).and_then(Vec::pop);
        pooled.unwrap_or_else(|| Buffer::new(class))
    }

    fn give(&mut self, buffer: Buffer) {
        let class = buffer.class as usize;
        if self.pool.len() <= class {
            self.pool.resize_with(class + 1, Vec::new);
        }
        self.pool[class].push(buffer);
    }

    fn truncate(&mut self, height: usize) {
        while self.slots.len() > height {
            let slot = self.slots.pop().expect("the stack is higher than `height`");
            self.give(slot.buffer);
        }
    }

    /// Keeps the slots of `kept`, sorted by place, and drops every other above `mark`.
    fn compact(&mut self, mark: usize) {
        let mut kept = std::mem::take(&mut self.kept);
        for (next, (_, from, to)) in (mark..).zip(&mut kept) {
            // Everything below `from` that is kept already sits below `next`.
            self.slots.swap(*from, next);
            *to = next;
        }
        self.truncate(mark + kept.len());
        self.kept = kept;
    }
}

/// A tile's elements while one operation reads them.
///
/// The buffer stays: only [`release`] and the end of a program give buffers back, and no operation calls them.
pub(crate) struct Read<T> {
    start: NonNull<T>,
    /// The tile's shape.
    pub shape: Shape,
    len: usize,
}

impl<T> Deref for Read<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `Tile::read` checked the slot; it lives as long as this does (see the type).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

/// A tile that is being made; its elements hold anything valid until they are written.
pub(crate) struct Output<T: Element> {
    buffer: Option<Buffer>,
    shape: Shape,
    len: usize,
    dtype: PhantomData<T>,
}

impl<T: Element> Output<T> {
    /// Room for a tile of `shape`.
    pub fn new(shape: Shape) -> Self {
        let len = shape.count();
        let buffer = ARENA.with_borrow_mut(|arena| arena.take(len * size_of::<T>()));
        if T::DTYPE == DType::Bool || T::DTYPE == DType::F4E2M1FN {
            // SAFETY: the buffer holds at least this many bytes. Not every byte is one of these types.
            unsafe { buffer.start.write_bytes(0, len) };
        }
        Output { buffer: Some(buffer), shape, len, dtype: PhantomData }
    }

    /// Room for a tile of zeros.
    pub fn zeroed(shape: Shape) -> Self {
        let mut out = Self::new(shape);
        out.fill(T::default());
        out
    }

    /// The tile.
    pub fn finish(mut self) -> Tile<T> {
        let buffer = self.buffer.take().expect("an output is finished once");
        ARENA.with_borrow_mut(|arena| {
            arena.serials += 1;
            let serial = arena.serials;
            arena.slots.push(Slot { serial, dtype: T::DTYPE, shape: self.shape, buffer });
            Tile::from_slot(arena.slots.len() - 1, serial)
        })
    }

    fn start(&self) -> *mut T {
        self.buffer.as_ref().expect("not finished").start.as_ptr().cast()
    }
}

impl<T: Element> Drop for Output<T> {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            ARENA.with_borrow_mut(|arena| arena.give(buffer));
        }
    }
}

impl<T: Element> Deref for Output<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the buffer is large enough, aligned, initialised, and valid for `T` (see `new`).
        unsafe { std::slice::from_raw_parts(self.start(), self.len) }
    }
}

impl<T: Element> DerefMut for Output<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; the buffer is this output's alone.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.len) }
    }
}

/// The elements behind a handle.
#[track_caller]
pub(crate) fn read<T: Element>(index: usize, serial: u64) -> Read<T> {
    let found = ARENA.with_borrow(|arena| {
        let slot = arena.slots.get(index)?;
        (slot.serial == serial && slot.dtype == T::DTYPE).then_some((slot.buffer.start.cast(), slot.shape))
    });
    match found {
        Some((start, shape)) => Read { start, shape, len: shape.count() },
        None => fault(KernelError::StaleTile),
    }
}

/// The height of the stack of tiles, before a loop.
pub fn mark() -> usize {
    ARENA.with_borrow(|arena| arena.slots.len())
}

/// What a loop carries from one iteration to the next. Only tiles are of interest to [`release`].
pub trait Carried {
    /// Reports the tile's place.
    fn visit(&self, visit: &mut dyn FnMut(usize, u64));
    /// Takes the tile's new place.
    fn relocate(&mut self, place: &dyn Fn(u64) -> Option<usize>);
}

impl<T: Element> Carried for Tile<T> {
    fn visit(&self, visit: &mut dyn FnMut(usize, u64)) {
        let (index, serial) = self.slot();
        visit(index, serial);
    }

    fn relocate(&mut self, place: &dyn Fn(u64) -> Option<usize>) {
        let (_, serial) = self.slot();
        if let Some(index) = place(serial) {
            *self = Tile::from_slot(index, serial);
        }
    }
}

macro_rules! carries_no_tile {
    ($($ty:ty),*) => {
        $(impl Carried for $ty {
            fn visit(&self, _: &mut dyn FnMut(usize, u64)) {}

            fn relocate(&mut self, _: &dyn Fn(u64) -> Option<usize>) {}
        })*
    };
}
carries_no_tile!(f32, half::f16, half::bf16, F8E4M3FN, F4E2M1FN, i32, i64, usize, bool);

/// Drops the tiles made since `mark`, except those of `carried`.
pub fn release(mark: usize, carried: &mut [&mut dyn Carried]) {
    ARENA.with_borrow_mut(|arena| {
        arena.kept.clear();
        for value in carried.iter() {
            value.visit(&mut |index, serial| {
                if index >= mark && !arena.kept.iter().any(|k| k.0 == serial) {
                    arena.kept.push((serial, index, index));
                }
            });
        }
        arena.kept.sort_unstable_by_key(|k| k.1);
        arena.compact(mark);
        let kept = &arena.kept;
        let place = |serial| kept.iter().find(|k| k.0 == serial).map(|k| k.2);
        for value in carried.iter_mut() {
            value.relocate(&place);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eager::zeros;

    /// Buffers that the thread owns.
    fn owned() -> usize {
        ARENA.with_borrow(|arena| arena.slots.len() + arena.pool.iter().map(Vec::len).sum::<usize>())
    }

    #[test]
    fn a_steady_loop_allocates_nothing() {
        let start = mark();
        let mut acc = zeros::<f32>([16, 16]);
        let mut after_first = 0;
        let before_loop = mark();
        for i in 0..100 {
            acc = (acc + 1.0) * zeros::<f32>([1, 16]).exp();
            release(before_loop, &mut [&mut acc as &mut dyn Carried]);
            if i == 1 {
                after_first = owned();
            }
        }
        assert_eq!(owned(), after_first);
        assert_eq!(acc.to_vec(), [100.0; 256]);
        release(start, &mut []);
        assert_eq!(mark(), start);
    }

    #[test]
    fn release_keeps_carried_tiles_in_any_order_and_once() {
        let start = mark();
        let tiles: Vec<Tile<i32>> = (0..6).map(|i| crate::eager::full::<i32>([2], i)).collect();
        let (mut a, mut b, mut c) = (tiles[4], tiles[1], tiles[4]);
        release(start, &mut [&mut a, &mut b, &mut c, &mut 7usize]);
        assert_eq!(mark(), start + 2);
        assert_eq!((a.to_vec(), b.to_vec(), c.to_vec()), (vec![4, 4], vec![1, 1], vec![4, 4]));
        release(start, &mut []);
    }
}
