//! Tensor views: what a kernel's tensor parameters are while it runs on the CPU.

use super::arena::{Output, Read};
use super::element::Element;
use super::fault::fault;
use super::grid::{Shadow, arrive};
use super::shape::{MAX_RANK, Shape, for_each_row};
use super::tile::{Tile, broadcast};
use crate::error::KernelError;
use std::marker::PhantomData;
use std::ptr::NonNull;

/// A tensor that a kernel reads: `R` dimensions of `T`.
///
/// In a kernel's signature it declares a parameter; the host passes a [`TensorBuf`](crate::TensorBuf) for it.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<T, const R: usize> {
    view: View<T, R>,
}

/// A tensor that a kernel reads and writes: `R` dimensions of `T`.
#[derive(Clone, Copy, Debug)]
pub struct TensorMut<T, const R: usize> {
    view: View<T, R>,
}

/// Where a tensor's elements are.
#[derive(Debug)]
pub(crate) struct View<T, const R: usize> {
    pub base: *mut u8,
    /// Elements from `base` to the view's first: not 0 in a slice.
    pub origin: usize,
    pub shape: [usize; R],
    /// In elements.
    pub strides: [usize; R],
    /// Who touched which element, when races are looked for. Outlives the view as the tensor does.
    pub shadow: Option<NonNull<Shadow>>,
    pub dtype: PhantomData<T>,
}

impl<T, const R: usize> Clone for View<T, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, const R: usize> Copy for View<T, R> {}

// SAFETY: the launch that made the view keeps the tensor borrowed until the last program has ended. Programs store
// to disjoint elements: that is proved before a launch, or the caller's promise in `launch_unchecked`.
unsafe impl<T: Send, const R: usize> Send for View<T, R> {}
// SAFETY: as for `Send`.
unsafe impl<T: Sync, const R: usize> Sync for View<T, R> {}

impl<T: Element, const R: usize> View<T, R> {
    /// The part of a block that lies inside the tensor: offset of its first element, and its extents.
    /// `None` when nothing does.
    fn inside(&self, index: [usize; R], tile: &[usize]) -> Option<(usize, [usize; R])> {
        let mut offset = self.origin;
        let mut extents = [0; R];
        for axis in 0..R {
            let start = index[axis].checked_mul(tile[axis]).filter(|&s| s < self.shape[axis])?;
            offset += start * self.strides[axis];
            extents[axis] = tile[axis].min(self.shape[axis] - start);
        }
        Some((offset, extents))
    }

    #[track_caller]
    fn load(&self, index: [usize; R], tile: [usize; R]) -> Tile<T> {
        let shape = Shape::of_tile(&tile);
        let Some((offset, extents)) = self.inside(index, &tile) else {
            return Output::<T>::zeroed(shape).finish();
        };
        let whole = extents == tile;
        let mut out = if whole { Output::<T>::new(shape) } else { Output::zeroed(shape) };
        let (row_len, row_stride) = (extents[R - 1], self.strides[R - 1]);
        self.note_rows(offset, &extents, &shape, false);
        self.for_rows(offset, &extents, &shape, |at, place| {
            let row = &mut out[at..at + row_len];
            if row_stride == 1 && T::DTYPE.bits() >= 8 && T::DTYPE != tile_lang::DType::Bool {
                // SAFETY: `inside` keeps the row in the tensor; the types are plain bytes.
                unsafe {
                    let from = self.base.cast::<T>().add(place);
                    std::ptr::copy_nonoverlapping(
                        from.cast::<u8>(),
                        row.as_mut_ptr().cast(),
                        size_of_val(row),
                    );
                }
            } else {
                for (i, o) in row.iter_mut().enumerate() {
                    // SAFETY: as above.
                    *o = unsafe { T::read(self.base, place + i * row_stride) };
                }
            }
        });
        out.finish()
    }

    #[track_caller]
    fn store(&self, index: [usize; R], tile: Tile<T>) {
        let from = tile.read();
        if from.shape.len() != R {
            fault(KernelError::TileRank { op: "store", expected: R, shape: from.shape.to_vec() });
        }
        let Some((offset, extents)) = self.inside(index, &from.shape) else { return };
        let (row_len, row_stride) = (extents[R - 1], self.strides[R - 1]);
        self.note_rows(offset, &extents, &from.shape, true);
        self.for_rows(offset, &extents, &from.shape, |at, place| {
            for (i, &value) in from[at..at + row_len].iter().enumerate() {
                // SAFETY: `inside` keeps the row in the tensor, which is mutable.
                unsafe { T::write(self.base, place + i * row_stride, value) };
            }
        });
    }

    /// Calls `row(place in the tile, place in the tensor)` for each innermost row of a block clipped to `extents`.
    fn for_rows(&self, offset: usize, extents: &[usize; R], tile: &Shape, mut row: impl FnMut(usize, usize)) {
        let mut in_tile = [0; MAX_RANK];
        let mut in_tensor = [0; MAX_RANK];
        let mut stride = 1;
        for axis in (0..R).rev() {
            in_tile[axis] = stride;
            in_tensor[axis] = self.strides[axis];
            stride *= tile[axis];
        }
        for_each_row(extents, [&in_tile, &in_tensor], |_, [at, place]| row(at, offset + place));
    }

    /// Tells the race detector of a block that is about to be accessed.
    #[track_caller]
    fn note_rows(&self, offset: usize, extents: &[usize; R], tile: &Shape, stores: bool) {
        let Some(shadow) = self.shadow() else { return };
        let mut race = None;
        self.for_rows(offset, extents, tile, |_, place| {
            for i in 0..extents[R - 1] {
                race = race.take().or_else(|| shadow.touch(place + i * self.strides[R - 1], stores));
            }
        });
        if let Some(race) = race {
            fault(race);
        }
    }

    /// Tells the race detector of elements that are about to be accessed.
    #[track_caller]
    fn note_elements(&self, shape: Shape, index: &[Read<i32>; R], mask: Option<&Read<bool>>, stores: bool) {
        let Some(shadow) = self.shadow() else { return };
        let mut race = None;
        self.for_elements(shape, index, mask, |_, place| {
            race = race.take().or_else(|| shadow.touch(place, stores));
        });
        if let Some(race) = race {
            fault(race);
        }
    }

    fn shadow(&self) -> Option<&Shadow> {
        // SAFETY: the launch keeps the shadow until the last program has ended.
        self.shadow.map(|shadow| unsafe { shadow.as_ref() })
    }

    /// Visits the elements that index tiles name, with their number in the shape all broadcast to: what is masked
    /// off or out of bounds is left out.
    fn for_elements(
        &self,
        shape: Shape,
        index: &[Read<i32>; R],
        mask: Option<&Read<bool>>,
        mut visit: impl FnMut(usize, usize),
    ) {
        let index: [_; R] = std::array::from_fn(|axis| broadcast(&index[axis], shape));
        let mask = mask.map(|m| broadcast(m, shape));
        'elements: for i in 0..shape.count() {
            if mask.as_ref().is_some_and(|m| !m[i]) {
                continue;
            }
            let mut place = self.origin;
            for (axis, index) in index.iter().enumerate() {
                match usize::try_from(index[i]) {
                    Ok(at) if at < self.shape[axis] => place += at * self.strides[axis],
                    _ => continue 'elements,
                }
            }
            visit(i, place);
        }
    }

    #[track_caller]
    fn gather(&self, op: &'static str, index: [Tile<i32>; R], mask: Option<Tile<bool>>) -> Tile<T> {
        let index = read_all(index);
        let mask = mask.map(Tile::read);
        let mut shape = Shape::new(&[]);
        for other in index.iter().map(|i| &i.shape).chain(mask.iter().map(|m| &m.shape)) {
            let (lhs, rhs) = (shape.to_vec(), other.to_vec());
            match shape.broadcast(other) {
                Some(both) => shape = both,
                None => fault(KernelError::Broadcast { op, lhs, rhs }),
            }
        }
        let mut out = Output::<T>::zeroed(shape);
        self.note_elements(shape, &index, mask.as_ref(), false);
        self.for_elements(shape, &index, mask.as_ref(), |i, place| {
            // SAFETY: `for_elements` stays inside the tensor.
            out[i] = unsafe { T::read(self.base, place) };
        });
        out.finish()
    }

    #[track_caller]
    fn scatter(&self, op: &'static str, index: [Tile<i32>; R], value: Tile<T>, mask: Option<Tile<bool>>) {
        let index = read_all(index);
        let value = value.read();
        let mask = mask.map(Tile::read);
        for other in index.iter().map(|i| &i.shape).chain(mask.iter().map(|m| &m.shape)) {
            if other.broadcast(&value.shape) != Some(value.shape) {
                fault(KernelError::BroadcastTo { op, from: other.to_vec(), to: value.shape.to_vec() });
            }
        }
        self.note_elements(value.shape, &index, mask.as_ref(), true);
        self.for_elements(value.shape, &index, mask.as_ref(), |i, place| {
            // SAFETY: `for_elements` stays inside the tensor, which is mutable.
            unsafe { T::write(self.base, place, value[i]) };
        });
    }

    #[track_caller]
    fn at(&self, index: [usize; R]) -> T::Value {
        let inside = index.iter().zip(&self.shape).all(|(i, extent)| i < extent);
        if !inside {
            return T::default().value();
        }
        let place = self.origin + index.iter().zip(&self.strides).map(|(i, s)| i * s).sum::<usize>();
        if let Some(race) = self.shadow().and_then(|shadow| shadow.touch(place, false)) {
            fault(race);
        }
        // SAFETY: the element is inside the tensor.
        unsafe { T::read(self.base, place) }.value()
    }

    #[track_caller]
    fn slice(mut self, axis: usize, start: usize, len: usize) -> Self {
        if axis >= R {
            fault(KernelError::Axis { op: "slice", axis, rank: R });
        }
        let left = self.shape[axis].saturating_sub(start);
        if left > 0 {
            self.origin += start * self.strides[axis];
        }
        self.shape[axis] = len.min(left);
        self
    }

    #[track_caller]
    fn dim(&self, axis: usize) -> usize {
        match self.shape.get(axis) {
            Some(&extent) => extent,
            None => fault(KernelError::Axis { op: "dim", axis, rank: R }),
        }
    }
}

fn read_all<const R: usize>(index: [Tile<i32>; R]) -> [Read<i32>; R] {
    index.map(Tile::read)
}

macro_rules! reading {
    ($ty:ident) => {
        impl<T: Element, const R: usize> $ty<T, R> {
            pub(crate) fn new(view: View<T, R>) -> Self {
                $ty { view }
            }

            /// The extent of dimension `axis`.
            #[track_caller]
            pub fn dim(self, axis: usize) -> usize {
                self.view.dim(axis)
            }

            /// The element at `index` as a scalar, f32 of every floating-point type; 0 outside the tensor. A
            /// negative number cast to `usize` lies outside.
            #[track_caller]
            pub fn at(self, index: [usize; R]) -> T::Value {
                self.view.at(index)
            }

            /// The tensor narrowed along `axis` to the `len` places from `start` on, or as many of them as there
            /// are. Accesses to it count from there and end there.
            #[track_caller]
            pub fn slice(self, axis: usize, start: usize, len: usize) -> Self {
                $ty { view: self.view.slice(axis, start, len) }
            }

            /// The block at `index`, counted in tiles of `shape`; what lies outside the tensor is zero.
            #[track_caller]
            pub fn load(self, index: [usize; R], shape: [usize; R]) -> Tile<T> {
                self.view.load(index, shape)
            }

            /// The elements at `index`, one i32 tile a dimension, broadcast together; what lies outside the
            /// tensor is zero.
            #[track_caller]
            pub fn gather(self, index: [Tile<i32>; R]) -> Tile<T> {
                self.view.gather("gather", index, None)
            }

            /// As [`gather`](Self::gather), zero where `mask` is false.
            #[track_caller]
            pub fn gather_masked(self, index: [Tile<i32>; R], mask: Tile<bool>) -> Tile<T> {
                self.view.gather("gather_masked", index, Some(mask))
            }
        }
    };
}
reading!(Tensor);
reading!(TensorMut);

impl<T: Element, const R: usize> TensorMut<T, R> {
    /// Stores a tile as the block at `index`, counted in tiles of its shape; what lies outside the tensor is
    /// dropped.
    #[track_caller]
    pub fn store(self, index: [usize; R], tile: Tile<T>) {
        self.view.store(index, tile);
    }

    /// Stores each value to the element that `index` names, one i32 tile a dimension, broadcast to the value's
    /// shape; what lies outside the tensor is dropped.
    #[track_caller]
    pub fn scatter(self, index: [Tile<i32>; R], value: Tile<T>) {
        self.view.scatter("scatter", index, value, None);
    }

    /// As [`scatter`](Self::scatter), only where `mask` is true.
    #[track_caller]
    pub fn scatter_masked(self, index: [Tile<i32>; R], value: Tile<T>, mask: Tile<bool>) {
        self.view.scatter("scatter_masked", index, value, Some(mask));
    }
}

impl<const R: usize> TensorMut<i32, R> {
    /// Counts this program's arrival at the counter at `index`, behind its stores; true for the last of `count`
    /// programs, which then sees what the others stored before. A program arrives once.
    ///
    /// The counters are zeros before a launch and after it; outside the tensor nobody is last. `count` is the number
    /// of programs that share the counter: the product of `num_programs` over the axes that `index` does not use.
    ///
    /// ```
    /// use tile::prelude::*;
    /// /// Sums the blocks of `x`; the last program adds up the sums.
    /// #[tile_kernel(tune(TILE in [4]))]
    /// fn total<const TILE: usize>(
    ///     x: Tensor<f32, 1>,
    ///     sums: TensorMut<f32, 1>,
    ///     counters: TensorMut<i32, 1>,
    ///     y: TensorMut<f32, 1>,
    /// ) {
    ///     let i = program_id(0);
    ///     sums.store([i], x.load([i], [TILE]).reduce_sum(0));
    ///     if counters.arrive_last([0], num_programs(0)) {
    ///         y.store([0], sums.load([0], [TILE]).reduce_sum(0));
    ///     }
    /// }
    /// let x = TensorBuf::full([16], 2.0);
    /// let (mut sums, mut counters, mut y) = (TensorBuf::zeros([4]), TensorBuf::zeros([1]), TensorBuf::zeros([1]));
    /// total(&x, &mut sums, &mut counters, &mut y).grid(4).launch(&Device::cpu())?;
    /// assert_eq!((y.get([0]), counters.get([0])), (32.0, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn arrive_last(self, index: [usize; R], count: usize) -> bool {
        if !index.iter().zip(&self.view.shape).all(|(i, extent)| i < extent) {
            return false;
        }
        let strides = index.iter().zip(&self.view.strides);
        let place = self.view.origin + strides.map(|(i, stride)| i * stride).sum::<usize>();
        // SAFETY: the element is inside the tensor, and no program writes a counter.
        let found = unsafe { i32::read(self.view.base, place) };
        if found != 0 {
            fault(KernelError::Counter { element: index.to_vec(), found });
        }
        arrive(self.view.base.addr() + place * size_of::<i32>(), count)
    }
}
