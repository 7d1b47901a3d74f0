//! Linear layouts over F2.

use std::fmt;

/// Lanes of a warp, as a number of bits.
const LANE_BITS: usize = 5;

/// A map from (register, lane, warp) to tile coordinates that is linear over F2.
///
/// Each bit of the register index, of the lane and of the warp has a basis: a coordinate vector. The element
/// held at an index is the XOR of the bases of its set bits. A zero basis replicates.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct LinearLayout {
    /// Bases of the register index, bit 0 first.
    pub register: Vec<Vec<u32>>,
    /// Bases of the lane, 5 of them.
    pub lane: Vec<Vec<u32>>,
    /// Bases of the warp index, bit 0 first.
    pub warp: Vec<Vec<u32>>,
    /// The tile's shape; every dimension is a power of two.
    pub shape: Vec<usize>,
}

/// Why bases do not make a layout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A dimension that is zero or not a power of two.
    #[error("dimension {dim} of the tile is {size}, which is not a power of two")]
    NotPowerOfTwo {
        /// Which dimension.
        dim: usize,
        /// Its size.
        size: usize,
    },
    /// A basis with too few or too many coordinates.
    #[error("basis {basis:?} does not have {rank} coordinates")]
    Rank {
        /// The basis.
        basis: Vec<u32>,
        /// Dimensions of the tile.
        rank: usize,
    },
    /// A basis outside the tile.
    #[error("basis {basis:?} lies outside of a tile of shape {shape:?}")]
    OutOfBounds {
        /// The basis.
        basis: Vec<u32>,
        /// The tile's shape.
        shape: Vec<usize>,
    },
    /// Not 5 lane bases.
    #[error("a layout has 5 lane bases, not {found}")]
    LaneBases {
        /// How many there are.
        found: usize,
    },
    /// Some element of the tile is held nowhere.
    #[error("the layout does not cover its tile of shape {shape:?}")]
    NotSurjective {
        /// The tile's shape.
        shape: Vec<usize>,
    },
}

/// Index bits that an element does not depend on, once the others range over everything.
///
/// Restricted to indices in which these bits are zero, a layout is one to one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FreeVariables {
    /// Mask of register bits.
    pub register: u32,
    /// Mask of lane bits.
    pub lane: u32,
    /// Mask of warp bits.
    pub warp: u32,
}

impl LinearLayout {
    /// A layout from its bases.
    ///
    /// # Errors
    /// When the bases do not fit the shape or do not cover the tile.
    pub fn new(
        shape: Vec<usize>,
        register: Vec<Vec<u32>>,
        lane: Vec<Vec<u32>>,
        warp: Vec<Vec<u32>>,
    ) -> Result<LinearLayout, LayoutError> {
        if let Some((dim, &size)) = shape.iter().enumerate().find(|(_, s)| !s.is_power_of_two()) {
            return Err(LayoutError::NotPowerOfTwo { dim, size });
        }
        if lane.len() != LANE_BITS {
            return Err(LayoutError::LaneBases { found: lane.len() });
        }
        for basis in register.iter().chain(&lane).chain(&warp) {
            if basis.len() != shape.len() {
                return Err(LayoutError::Rank { basis: basis.clone(), rank: shape.len() });
            }
            if basis.iter().zip(&shape).any(|(&b, &s)| b as usize >= s) {
                return Err(LayoutError::OutOfBounds { basis: basis.clone(), shape });
            }
        }
        let layout = LinearLayout { register, lane, warp, shape };
        if !layout.is_surjective() {
            return Err(LayoutError::NotSurjective { shape: layout.shape });
        }
        Ok(layout)
    }

    /// Builds a layout greedily: each `(dim, step)` becomes a basis, zero where it would leave the tile.
    pub(super) fn from_steps(
        shape: &[usize],
        register: &[(usize, usize)],
        lane: &[(usize, usize)],
        warp: &[(usize, usize)],
    ) -> LinearLayout {
        let basis = |&(dim, step): &(usize, usize)| {
            let mut basis = vec![0; shape.len()];
            if step < shape[dim] {
                basis[dim] = step as u32;
            }
            basis
        };
        LinearLayout {
            register: register.iter().map(basis).collect(),
            lane: lane.iter().map(basis).collect(),
            warp: warp.iter().map(basis).collect(),
            shape: shape.to_vec(),
        }
    }

    /// Dimensions of the tile.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Elements of the tile that one thread holds, replicas included.
    pub fn num_registers(&self) -> usize {
        1 << self.register.len()
    }

    /// Warps of the CTA.
    pub fn num_warps(&self) -> usize {
        1 << self.warp.len()
    }

    /// Elements of the tile.
    pub fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// All bases: registers, then lanes, then warps.
    fn bases(&self) -> impl Iterator<Item = &Vec<u32>> {
        self.register.iter().chain(&self.lane).chain(&self.warp)
    }

    /// The coordinates of the element at an index.
    pub fn apply(&self, register: u32, lane: u32, warp: u32) -> Vec<u32> {
        let mut at = vec![0; self.rank()];
        for (bases, index) in [(&self.register, register), (&self.lane, lane), (&self.warp, warp)] {
            for (bit, basis) in bases.iter().enumerate() {
                if index >> bit & 1 == 1 {
                    at.iter_mut().zip(basis).for_each(|(a, b)| *a ^= b);
                }
            }
        }
        at
    }

    /// Coordinates as a row-major element number; linear, since dimensions are powers of two.
    pub(crate) fn flatten(&self, at: &[u32]) -> u64 {
        at.iter().zip(&self.shape).fold(0, |n, (&c, &size)| n * size as u64 + u64::from(c))
    }

    /// The bases of registers, lanes and warps as row-major element numbers, in this order.
    pub(super) fn flat_bases(&self) -> Vec<u64> {
        self.bases().map(|b| self.flatten(b)).collect()
    }

    /// True when every element is held somewhere.
    pub fn is_surjective(&self) -> bool {
        1u64 << Basis::of(&self.flat_bases()).rank() == self.num_elements() as u64
    }

    /// One (register, lane, warp) that holds the element at `at`, with free variables zero.
    ///
    /// `None` outside the tile.
    pub fn invert(&self, at: &[u32]) -> Option<(u32, u32, u32)> {
        if at.iter().zip(&self.shape).any(|(&c, &s)| c as usize >= s) {
            return None;
        }
        let index = Basis::of(&self.flat_bases()).solve(self.flatten(at))?;
        Some(self.split_index(index))
    }

    /// Splits a solution over [`LinearLayout::flat_bases`] into register, lane and warp.
    pub(super) fn split_index(&self, index: u64) -> (u32, u32, u32) {
        let (r, l) = (self.register.len(), self.lane.len());
        let field = |from: usize, bits: usize| ((index >> from) & ((1 << bits) - 1)) as u32;
        (field(0, r), field(r, l), field(r + l, self.warp.len()))
    }

    /// The index bits that do not tell elements apart.
    pub fn free_variable_masks(&self) -> FreeVariables {
        let mut basis = Basis::default();
        let mut free = 0u64;
        for (bit, vector) in self.flat_bases().into_iter().enumerate() {
            if !basis.insert(vector, bit) {
                free |= 1 << bit;
            }
        }
        let (register, lane, warp) = self.split_index(free);
        FreeVariables { register, lane, warp }
    }

    /// True when some register, lane or warp bit only replicates.
    pub fn is_replicated(&self) -> bool {
        self.free_variable_masks() != FreeVariables::default()
    }

    /// The layout of a reduction's result: `dim` becomes 1, register bases that vanish are dropped.
    pub fn slice(&self, dim: usize) -> LinearLayout {
        let mut layout = self.clone();
        layout.shape[dim] = 1;
        for basis in layout.register.iter_mut().chain(&mut layout.lane).chain(&mut layout.warp) {
            basis[dim] = 0;
        }
        layout.drop_zero_registers()
    }

    /// The layout of a reduction within threads: along `dim`, one element for each lane and warp that shares the
    /// rest, in order; all else as in [`LinearLayout::slice`], which is its slice, too.
    ///
    /// `None` where lanes or warps that share a row hold elements of other rows or the same elements.
    pub fn slice_within_threads(&self, dim: usize) -> Option<LinearLayout> {
        let replicas = self.free_variable_masks();
        let mut layout = self.slice(dim);
        for (own, replicas, sliced) in
            [(&self.lane, replicas.lane, &mut layout.lane), (&self.warp, replicas.warp, &mut layout.warp)]
        {
            for (bit, basis) in own.iter().enumerate().filter(|(_, basis)| basis[dim] != 0) {
                if replicas >> bit & 1 == 1 || (0..basis.len()).any(|d| d != dim && basis[d] != 0) {
                    return None;
                }
                sliced[bit][dim] = layout.shape[dim] as u32;
                layout.shape[dim] *= 2;
            }
        }
        Some(layout)
    }

    /// The layout of the first `count` columns, a power of two, of a tile whose other columns register bits alone tell
    /// apart; those bits are left out. `None` for other tiles.
    pub fn first_columns(&self, count: usize) -> Option<LinearLayout> {
        let last = self.rank().checked_sub(1)?;
        let is_inside = |basis: &Vec<u32>| (basis[last] as usize) < count;
        let is_left_out =
            |basis: &Vec<u32>| basis[last].is_power_of_two() && basis[..last].iter().all(|&c| c == 0);
        let mut layout = self.clone();
        layout.register.retain(is_inside);
        layout.shape[last] = count;
        let rest = self.register.iter().filter(|basis| !is_inside(basis));
        let fits = self.lane.iter().chain(&self.warp).all(is_inside) && rest.clone().all(is_left_out);
        (fits && count << rest.count() == self.shape[last]).then_some(layout)
    }

    /// For each register of the layout of the first `count` columns, the register that holds what is `first` columns
    /// further, a multiple of `count`. `None` where [`LinearLayout::first_columns`] is.
    pub fn registers_of_columns(&self, first: usize, count: usize) -> Option<Vec<u32>> {
        let registers = self.first_columns(count)?.registers_from(self)?;
        let mut at = vec![0; self.rank()];
        *at.last_mut()? = first as u32;
        let (start, _, _) = self.invert(&at)?;
        Some(registers.into_iter().map(|register| register ^ start).collect())
    }

    /// The same layout without register bits that only replicate by a zero basis.
    pub fn drop_zero_registers(mut self) -> LinearLayout {
        self.register.retain(|b| b.iter().any(|&c| c != 0));
        self
    }

    /// The layout of the transposed tile: result dimension `i` is dimension `perm[i]`; registers keep their
    /// place.
    pub fn transpose(&self, perm: &[usize]) -> LinearLayout {
        let permute = |b: &Vec<u32>| perm.iter().map(|&p| b[p]).collect();
        LinearLayout {
            register: self.register.iter().map(permute).collect(),
            lane: self.lane.iter().map(permute).collect(),
            warp: self.warp.iter().map(permute).collect(),
            shape: perm.iter().map(|&p| self.shape[p]).collect(),
        }
    }

    /// The layout of the tile in another shape of as many elements, in row-major order; registers keep their
    /// place.
    pub fn reshape(&self, shape: &[usize]) -> LinearLayout {
        debug_assert_eq!(shape.iter().product::<usize>(), self.num_elements());
        let reshape = |b: &Vec<u32>| {
            let mut flat = self.flatten(b);
            let mut out = vec![0; shape.len()];
            for (c, &size) in out.iter_mut().zip(shape).rev() {
                *c = (flat % size as u64) as u32;
                flat /= size as u64;
            }
            out
        };
        LinearLayout {
            register: self.register.iter().map(reshape).collect(),
            lane: self.lane.iter().map(reshape).collect(),
            warp: self.warp.iter().map(reshape).collect(),
            shape: shape.to_vec(),
        }
    }

    /// The layout of the tile broadcast to `shape`, in which each thread holds whole extended dimensions of
    /// the elements it held: register bits are added, the innermost dimension's first.
    ///
    /// `None` unless every dimension is kept or extended from 1.
    pub fn broadcast(&self, shape: &[usize]) -> Option<LinearLayout> {
        if shape.len() != self.rank() || self.shape.iter().zip(shape).any(|(&a, &b)| a != b && a != 1) {
            return None;
        }
        let mut layout = LinearLayout { shape: shape.to_vec(), ..self.clone() };
        for dim in (0..shape.len()).rev() {
            let mut step = self.shape[dim];
            while step < shape[dim] {
                let mut basis = vec![0; shape.len()];
                basis[dim] = step as u32;
                layout.register.push(basis);
                step *= 2;
            }
        }
        Some(layout)
    }

    /// For each register of `self`, the register of `source` in the same thread that holds the same element,
    /// coordinates of dimensions in which `source` has size 1 left out of account; `None` if some element is
    /// not held by the same thread at a register known at compile time.
    ///
    /// It is the whole lowering of a broadcast and of a conversion within threads.
    pub fn registers_from(&self, source: &LinearLayout) -> Option<Vec<u32>> {
        if self.warp.len() != source.warp.len() || self.rank() != source.rank() {
            return None;
        }
        let project = |b: &Vec<u32>| -> u64 {
            let kept: Vec<u32> =
                b.iter().zip(&source.shape).map(|(&c, &s)| if s == 1 { 0 } else { c }).collect();
            source.flatten(&kept)
        };
        let same =
            |a: &[Vec<u32>], b: &[Vec<u32>]| a.iter().zip(b).all(|(a, b)| project(a) == source.flatten(b));
        if !same(&self.lane, &source.lane) || !same(&self.warp, &source.warp) {
            return None;
        }
        let flat: Vec<u64> = source.register.iter().map(|b| source.flatten(b)).collect();
        let basis = Basis::of(&flat);
        let images: Option<Vec<u64>> = self.register.iter().map(|b| basis.solve(project(b))).collect();
        let images = images?;
        let image = |register: usize| {
            images.iter().enumerate().filter(|(bit, _)| register >> bit & 1 == 1).fold(0, |n, (_, &i)| n ^ i)
                as u32
        };
        Some((0..self.num_registers()).map(image).collect())
    }

    /// How many consecutive registers, a power of two, hold elements consecutive along `dim`.
    pub fn contiguous_registers(&self, dim: usize) -> usize {
        let mut count = 1;
        for basis in &self.register {
            let wanted = (0..self.rank()).all(|d| basis[d] == if d == dim { count as u32 } else { 0 });
            if !wanted {
                break;
            }
            count *= 2;
        }
        count
    }
}

impl fmt::Debug for LinearLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "LinearLayout(shape = {:?}, register = {:?}, lane = {:?}, warp = {:?})",
            self.shape, self.register, self.lane, self.warp
        )
    }
}

/// Vectors over F2 in echelon form, each with the combination of the inserted vectors that makes it.
#[derive(Clone, Debug, Default)]
pub(super) struct Basis {
    /// (vector, combination), each with a leading bit that no other vector has leading.
    rows: Vec<(u64, u64)>,
}

impl Basis {
    /// The span of `vectors`; bit `i` of a combination stands for `vectors[i]`.
    pub(super) fn of(vectors: &[u64]) -> Basis {
        let mut basis = Basis::default();
        for (bit, &vector) in vectors.iter().enumerate() {
            basis.insert(vector, bit);
        }
        basis
    }

    /// Adds a vector as number `bit`; false when it is in the span already.
    pub(super) fn insert(&mut self, vector: u64, bit: usize) -> bool {
        let (rest, combination) = self.reduce(vector);
        if rest != 0 {
            self.rows.push((rest, combination ^ (1 << bit)));
        }
        rest != 0
    }

    /// The vector's remainder after elimination, and the combination that was subtracted.
    fn reduce(&self, mut vector: u64) -> (u64, u64) {
        let mut combination = 0;
        // A row's leading bit may be set again by a later row, so repeat until nothing changes.
        loop {
            let before = vector;
            for &(row, made_of) in &self.rows {
                if vector >> row.ilog2() & 1 == 1 {
                    vector ^= row;
                    combination ^= made_of;
                }
            }
            if vector == before {
                return (vector, combination);
            }
        }
    }

    /// A combination of the inserted vectors that gives `vector`.
    pub(super) fn solve(&self, vector: u64) -> Option<u64> {
        let (rest, combination) = self.reduce(vector);
        (rest == 0).then_some(combination)
    }

    /// Dimension of the span.
    pub(super) fn rank(&self) -> usize {
        self.rows.len()
    }
}
