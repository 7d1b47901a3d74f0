//! Problems for the zoo's kernels: sizes, tensors somewhere in memory, and a grid.

use codegen_ptx::TensorFacts;
use std::fmt;
use std::ops::Range;
use tile_ir::interpret::{HostTensor, Scalar};
use tile_lang::{DType, config};

/// How far the elements of a result may be off.
#[derive(Clone, Copy, Debug)]
pub enum Tolerance {
    /// Every operation is rounded as the language says.
    Exact,
    /// Sums in another order, and functions that are approximated.
    Close,
    /// Products on tensor cores, which round f32 operands to tf32; so many one after another.
    Products(u32),
}

impl Tolerance {
    /// What elements of a dtype may be off by in a tensor whose largest one is `largest`.
    pub fn allows(self, dtype: DType, largest: f64) -> f64 {
        let rounding = match dtype {
            DType::BF16 => 8e-3,
            DType::F16 => 1e-3,
            _ => 0.0,
        };
        match self {
            Tolerance::Exact => 0.0,
            Tolerance::Close => (rounding + 4e-6) * largest,
            // Terms of about 1 may cancel out, but not their errors.
            Tolerance::Products(count) => (rounding + 2e-3) * f64::max(f64::from(count) * largest, 1.0),
        }
    }
}

/// How a tensor lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// Address and rows are multiples of 16 bytes.
    Aligned,
    /// Rows of any length anywhere.
    Rows,
    /// No dimension need have neighbours side by side.
    Strided,
}

/// A tensor in memory.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The tensor, with numbers between its rows, too.
    pub tensor: HostTensor,
    /// The kernel may write it.
    pub writable: bool,
    /// Bytes from a multiple of 16 to its first element.
    shift: usize,
}

impl Placed {
    /// What a launch would know of it.
    pub fn facts(&self) -> TensorFacts {
        let HostTensor { dtype, shape, strides, .. } = &self.tensor;
        let bits = dtype.bits() as usize;
        let contiguous = strides.last() == Some(&1);
        let outer = strides[..strides.len() - 1].iter().chain(shape.last());
        let multiples = outer.map(|n| n * bits).chain([self.shift * 8]).filter(|n| *n != 0);
        let zeros = multiples.map(usize::trailing_zeros).min().unwrap_or(u32::MAX);
        let align_bytes =
            if contiguous { 1 << zeros.saturating_sub(3).min(4) } else { (bits as u32 / 8).max(1) };
        TensorFacts::known(&config::TensorFacts { align_bytes, contiguous }, shape.len(), bits)
    }

    /// Memory for it, with its elements, and with something before and behind them.
    pub fn buffer(&self) -> Vec<u128> {
        let mut buffer = vec![u128::MAX / 5; (self.shift + self.tensor.data.len()).div_ceil(16)];
        bytes_of(&mut buffer)[self.bytes()].copy_from_slice(&self.tensor.data);
        buffer
    }

    /// Where in its memory its elements are.
    pub fn bytes(&self) -> Range<usize> {
        self.shift..self.shift + self.tensor.data.len()
    }

    /// Where in its memory a kernel may access: 4-bit elements are written in their words, 4 bytes at once, which
    /// leaves the other elements of the word as they are.
    pub fn accessed(&self) -> Range<usize> {
        let Range { start, end } = self.bytes();
        let unit = if self.writable && self.tensor.dtype == F4 { 4 } else { 1 };
        start / unit * unit..end.next_multiple_of(unit)
    }

    /// The same tensor with other bytes.
    pub fn with(&self, bytes: &[u8]) -> HostTensor {
        HostTensor { data: bytes.to_vec(), ..self.tensor.clone() }
    }

    /// The elements between those of the tensor.
    pub fn gaps(&self, tensor: &HostTensor) -> Vec<f64> {
        let all = tensor.data.len() * 8 / tensor.dtype.bits() as usize;
        let flat = HostTensor { shape: vec![all], strides: vec![1], ..tensor.clone() };
        let mut used = vec![false; all];
        let HostTensor { shape, strides, .. } = tensor;
        for n in 0..shape.iter().product() {
            let place = |(rest, at): (usize, usize), (extent, stride): (&usize, &usize)| {
                (rest / extent, at + rest % extent * stride)
            };
            used[shape.iter().zip(strides).rev().fold((n, 0), place).1] = true;
        }
        flat.to_f64().into_iter().zip(used).filter(|(_, used)| !used).map(|(x, _)| x).collect()
    }
}

/// The bytes of words.
pub fn bytes_of(words: &mut [u128]) -> &mut [u8] {
    // SAFETY: bytes have no alignment, and any are a number of 128 bits.
    unsafe { words.align_to_mut::<u8>().1 }
}

/// Numbers that look random, and what is drawn by them.
///
/// Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
pub struct Draw {
    state: u64,
    /// Sizes are multiples of tiles.
    whole: bool,
    /// How tensors lie; each its own way where none is given.
    lie: Option<Lie>,
    tensors: Vec<Placed>,
}

impl Draw {
    /// Draws that only the number decides.
    pub fn new(number: u64) -> Draw {
        let mut draw = Draw { state: number << 20, whole: false, lie: None, tensors: Vec::new() };
        draw.whole = draw.chance(1, 3);
        draw.lie = draw.pick(&[Some(Lie::Aligned), Some(Lie::Aligned), Some(Lie::Rows), None]);
        draw
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % end as u64) as usize
    }

    /// True so many times out of so many.
    pub fn chance(&mut self, times: usize, out_of: usize) -> bool {
        self.below(out_of) < times
    }

    /// One of some values.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// A number in -1..1.
    fn number(&mut self) -> f64 {
        self.below(1 << 24) as f64 / f64::from(1 << 23) - 1.0
    }

    /// An extent that takes at most `blocks` tiles.
    fn extent(&mut self, tile: usize, blocks: usize) -> usize {
        let blocks = self.below(blocks) + 1;
        if self.whole { tile * blocks } else { tile * blocks - self.below(tile) }
    }

    /// An extent along which elements of `bits` bits may have to fill words of 16 bytes.
    fn row(&mut self, tile: usize, blocks: usize, bits: usize) -> usize {
        let extent = self.extent(tile, blocks);
        if self.lie == Some(Lie::Aligned) { extent.next_multiple_of(128 / bits) } else { extent }
    }

    /// Adds a tensor that is read.
    fn input(&mut self, dtype: DType, shape: &[usize], value: impl FnMut(&mut Draw) -> f64) {
        self.tensor(dtype, shape, false, value);
    }

    /// Adds a tensor that is written, full of numbers.
    fn output(&mut self, dtype: DType, shape: &[usize]) {
        self.tensor(dtype, shape, true, Draw::number);
    }

    /// Adds a tensor; values are drawn for the elements in order.
    fn tensor(
        &mut self,
        dtype: DType,
        shape: &[usize],
        writable: bool,
        mut value: impl FnMut(&mut Draw) -> f64,
    ) {
        let lie = self.lie.unwrap_or(Lie::Aligned);
        let lie = if self.lie.is_none() { self.pick(&[lie, Lie::Rows, Lie::Strided]) } else { lie };
        let bits = dtype.bits() as usize;
        // From the innermost dimension to the outermost, or in any order.
        let mut order: Vec<usize> = (0..shape.len()).rev().collect();
        if lie == Lie::Strided {
            (1..order.len()).for_each(|i| order.swap(i, self.below(i + 1)));
        }
        let mut strides = vec![0; shape.len()];
        let mut next = if lie == Lie::Strided { self.pick(&[1, 1, 2, 3]) } else { 1 };
        for dim in order {
            strides[dim] = next;
            next *= shape[dim];
            let pad = self.pick(&[0, 0, 1, 2, 5, 8]);
            next = match lie {
                Lie::Aligned => (next + pad).next_multiple_of(128 / bits),
                Lie::Rows | Lie::Strided => next + pad,
            };
        }
        let last: usize = shape.iter().zip(&strides).map(|(n, stride)| (n - 1) * stride).sum();
        let all = (last + 1) * bits;
        // Whole bytes of 4-bit elements.
        let all = all.next_multiple_of(8) / bits;
        let mut numbers: Vec<f64> = (0..all).map(|_| self.number()).collect();
        for n in 0..shape.iter().product() {
            let place = |(rest, at): (usize, usize), (extent, stride): (&usize, &usize)| {
                (rest / extent, at + rest % extent * stride)
            };
            numbers[shape.iter().zip(&strides).rev().fold((n, 0), place).1] = value(self);
        }
        let flat = HostTensor::from_f64(dtype, &[all], &numbers);
        let tensor = HostTensor { shape: shape.to_vec(), strides, ..flat };
        let bytes = bits.div_ceil(8);
        let shift = if lie == Lie::Aligned { 0 } else { self.below(16 / bytes) * bytes };
        self.tensors.push(Placed { tensor, writable, shift });
    }
}

/// A kernel with all that a launch of it takes, but for how it is compiled.
#[derive(Debug)]
pub struct Problem {
    pub kernel: &'static str,
    pub dtype: DType,
    pub consts: Vec<(&'static str, i64)>,
    pub tensors: Vec<Placed>,
    pub scalars: Vec<Scalar>,
    pub grid: [usize; 3],
    pub tolerance: Tolerance,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:?} grid {:?}", self.kernel, self.dtype, self.consts, self.grid)?;
        for Placed { tensor, shift, .. } in &self.tensors {
            write!(f, " {}{:?}{:?}+{shift}", tensor.dtype, tensor.shape, tensor.strides)?;
        }
        self.scalars.iter().try_for_each(|scalar| write!(f, " {scalar:?}"))
    }
}

/// What a kernel is launched with, beside its tensors.
struct Shape {
    consts: Vec<(&'static str, usize)>,
    scalars: Vec<Scalar>,
    grid: [usize; 3],
    tolerance: Tolerance,
}

const F8: DType = DType::F8E4M3FN;
const F4: DType = DType::F4E2M1FN;

impl Problem {
    /// A problem of a kernel of the zoo.
    pub fn draw(kernel: &'static str, draw: &mut Draw) -> Problem {
        let dtype = match kernel {
            "narrow_weights" => draw.pick(&[DType::F16, DType::BF16]),
            "product_and_sums" => DType::F32,
            _ => draw.pick(&[DType::F32, DType::F16, DType::BF16]),
        };
        let Shape { consts, scalars, grid, tolerance } = match kernel {
            "matmul" => matmul(draw, dtype),
            "fmha" => fmha(draw, dtype),
            "scaled_lhs" => scaled_lhs(draw, dtype),
            "computed_rhs" => computed_rhs(draw, dtype),
            "widened_rhs" => narrow_matmul(draw, dtype),
            "fp8_matmul" => narrow_matmul(draw, F8),
            "persistent" => persistent(draw, dtype),
            "softmax" => softmax(draw, dtype),
            "power_sums" => power_sums(draw, dtype),
            "column_means" => column_means(draw, dtype),
            "add" => add(draw, dtype),
            "scaled_whole" => scaled_whole(draw),
            "swap_axes" => swap_axes(draw, dtype),
            "embed" => embed(draw, dtype),
            "spread" => spread(draw, dtype),
            "newton" => newton(draw, dtype),
            "powers" => powers(draw, dtype),
            "outer_operand" => outer_operand(draw, dtype),
            "product_and_sums" => product_and_sums(draw),
            "both_ways" => both_ways(draw, dtype),
            "two_loops" => two_loops(draw, dtype),
            "branching" => branching(draw, dtype),
            "paged" => paged(draw, dtype),
            "narrow_weights" => narrow_weights(draw, dtype),
            "scaled_product" => scaled_product(draw),
            "half_bytes" => half_bytes(draw),
            other => panic!("kernel `{other}` has no problems"),
        };
        let consts = consts.into_iter().map(|(name, value)| (name, value as i64)).collect();
        let tensors = std::mem::take(&mut draw.tensors);
        Problem { kernel, dtype, consts, tensors, scalars, grid, tolerance }
    }
}

fn shape<const N: usize>(
    consts: [(&'static str, usize); N],
    grid: [usize; 3],
    tolerance: Tolerance,
) -> Shape {
    Shape { consts: consts.to_vec(), scalars: Vec::new(), grid, tolerance }
}

fn bits(dtype: DType) -> usize {
    dtype.bits() as usize
}

/// Sizes of tiles; few are large, which take long.
const TILES: [usize; 9] = [1, 2, 8, 16, 16, 32, 64, 64, 128];

fn matmul(draw: &mut Draw, dtype: DType) -> Shape {
    let (tile_m, tile_n) = (draw.pick(&TILES), draw.pick(&TILES));
    let tile_k = draw.pick(&[1, 8, 16, 32, 32, 64]);
    let blocks = if tile_m * tile_n > 2048 { 2 } else { 3 };
    let m = draw.extent(tile_m, blocks);
    let (n, k) = (draw.row(tile_n, blocks, bits(dtype)), draw.row(tile_k, 5, bits(dtype)));
    let is_nk = draw.chance(1, 2);
    draw.input(dtype, &[m, k], Draw::number);
    draw.input(dtype, &if is_nk { [n, k] } else { [k, n] }, Draw::number);
    draw.output(dtype, &[m, n]);
    let consts =
        [("TILE_M", tile_m), ("TILE_N", tile_n), ("TILE_K", tile_k), ("RHS_IS_NK", usize::from(is_nk))];
    shape(consts, [m.div_ceil(tile_m), n.div_ceil(tile_n), 1], Tolerance::Products(1))
}

fn fmha(draw: &mut Draw, dtype: DType) -> Shape {
    let head_dim = draw.pick(&[16, 32, 64, 64, 128]);
    let (tile_m, tile_n) = (draw.pick(&[8, 16, 64, 64, 128]), draw.pick(&[1, 8, 32, 64]));
    let (batch, kv_heads, group) = (draw.below(2) + 1, draw.below(2) + 1, draw.below(2) + 1);
    let heads = kv_heads * group;
    let (seq_q, seq_k) = (draw.extent(tile_m, 2), draw.extent(tile_n, 4));
    let causal = draw.chance(1, 2);
    draw.input(dtype, &[batch, heads, seq_q, head_dim], |d| 2.0 * d.number());
    draw.input(dtype, &[batch, kv_heads, seq_k, head_dim], |d| 2.0 * d.number());
    draw.input(dtype, &[batch, kv_heads, seq_k, head_dim], Draw::number);
    draw.output(dtype, &[batch, heads, seq_q, head_dim]);
    let consts =
        [("HEAD_DIM", head_dim), ("TILE_M", tile_m), ("TILE_N", tile_n), ("CAUSAL", usize::from(causal))];
    let scale = Scalar::F32(1.0 / (head_dim as f32).sqrt());
    let grid = [seq_q.div_ceil(tile_m), heads, batch];
    Shape { scalars: vec![scale], ..shape(consts, grid, Tolerance::Products(2)) }
}

fn scaled_lhs(draw: &mut Draw, dtype: DType) -> Shape {
    let tile = draw.pick(&TILES);
    let (m, k) = (draw.extent(tile, 2), draw.row(tile, 1, bits(dtype)));
    let (n, width) = (draw.row(tile, 3, bits(dtype)), draw.row(tile, 1, 32));
    draw.input(dtype, &[m, k], Draw::number);
    draw.input(dtype, &[k, n], Draw::number);
    draw.output(DType::F32, &[m, width]);
    shape([("TILE", tile)], [m.div_ceil(tile), 1, 1], Tolerance::Products(1))
}

fn computed_rhs(draw: &mut Draw, dtype: DType) -> Shape {
    let tile = draw.pick(&TILES);
    let mut side = || draw.row(tile, 1, bits(dtype));
    let sides = [side(), side(), side(), side()];
    draw.input(dtype, &sides[..2], Draw::number);
    draw.input(dtype, &sides[2..], Draw::number);
    let out = draw.row(tile, 1, 32);
    draw.output(DType::F32, &[out, out]);
    let tolerance = if dtype == DType::BF16 { 4 } else { 2 };
    shape([("TILE", tile)], [1, 1, 1], Tolerance::Products(tolerance))
}

/// Products whose rhs is of 8 bits, and whose lhs is of some dtype.
fn narrow_matmul(draw: &mut Draw, dtype: DType) -> Shape {
    let tile = draw.pick(&TILES);
    let (m, n, k) = (draw.extent(tile, 2), draw.row(tile, 2, 32), draw.row(tile, 4, 8));
    draw.input(dtype, &[m, k], Draw::number);
    draw.input(F8, &[n, k], Draw::number);
    draw.output(DType::F32, &[m, n]);
    shape([("TILE", tile)], [m.div_ceil(tile), n.div_ceil(tile), 1], Tolerance::Products(1))
}

fn persistent(draw: &mut Draw, dtype: DType) -> Shape {
    let tile = draw.pick(&TILES);
    let (m, k) = (draw.extent(tile, 4), draw.row(tile, 3, bits(dtype)));
    let n = draw.row(tile, 1, bits(dtype));
    draw.input(dtype, &[m, k], Draw::number);
    draw.input(dtype, &[k, n], Draw::number);
    draw.input(DType::F32, &[n], Draw::number);
    draw.output(dtype, &[m, n]);
    let grid = [draw.below(m.div_ceil(tile)) + 1, 1, 1];
    shape([("TILE", tile)], grid, Tolerance::Products(1))
}

fn product_and_sums(draw: &mut Draw) -> Shape {
    let (tile, tile_k) = (draw.pick(&TILES), draw.pick(&[1, 8, 32, 64]));
    let (m, n, k) = (draw.extent(tile, 2), draw.row(tile, 2, 32), draw.row(tile_k, 4, 32));
    draw.input(DType::F32, &[m, k], Draw::number);
    draw.input(DType::F32, &[n, k], Draw::number);
    draw.output(DType::F32, &[m, n]);
    let grid = [m.div_ceil(tile), n.div_ceil(tile), 1];
    draw.output(DType::F32, &[m, grid[1]]);
    shape([("TILE", tile), ("K", tile_k)], grid, Tolerance::Products(1))
}

fn both_ways(draw: &mut Draw, dtype: DType) -> Shape {
    let tile = draw.pick(&TILES);
    let (m, side) = (draw.extent(tile, 2), draw.row(tile, 3, bits(dtype)));
    draw.input(dtype, &[m, side], Draw::number);
    draw.input(dtype, &[side, side], Draw::number);
    draw.output(DType::F32, &[m, side]);
    draw.output(DType::F32, &[m, side]);
    shape([("TILE", tile)], [m.div_ceil(tile), side.div_ceil(tile), 1], Tolerance::Products(1))
}

fn two_loops(draw: &mut Draw, dtype: DType) -> Shape {
    let tile = draw.pick(&TILES);
    let (m, n) = (draw.extent(tile, 2), draw.row(tile, 2, 32));
    let (first, second) = (draw.row(tile, 3, bits(dtype)), draw.row(tile, 3, bits(dtype)));
    draw.input(dtype, &[m, first], Draw::number);
    draw.input(dtype, &[m.max(n), second], Draw::number);
    draw.input(dtype, &[n, first], Draw::number);
    draw.output(DType::F32, &[m, n]);
    shape([("TILE", tile)], [m.div_ceil(tile), n.div_ceil(tile), 1], Tolerance::Products(1))
}

fn softmax(draw: &mut Draw, dtype: DType) -> Shape {
    let (rows, cols) = (draw.pick(&[1, 2, 4, 16, 64]), draw.pick(&[1, 2, 32, 128, 1024]));
    let m = draw.extent(rows, 3);
    let n = draw.row(cols, 1, bits(dtype));
    draw.input(dtype, &[m, n], |d| 4.0 * d.number());
    draw.output(dtype, &[m, n]);
    shape([("ROWS", rows), ("COLS", cols)], [m.div_ceil(rows), 1, 1], Tolerance::Close)
}

/// Rows of which some grow every other block, in one column, by less or more than what keeps their bases.
fn power_sums(draw: &mut Draw, dtype: DType) -> Shape {
    let (rows, cols) = (draw.pick(&[1, 2, 16, 64, 128]), draw.pick(&[1, 8, 32, 128]));
    let (m, n) = (draw.extent(rows, 2), draw.row(cols, 5, bits(dtype)));
    let growths: Vec<f64> = (0..m).map(|_| draw.pick(&[0.0, 0.0, 0.0, 0.0, 3.0, 10.0])).collect();
    let mut places = (0..m).flat_map(|row| (0..n).map(move |column| (row, column)));
    draw.input(dtype, &[m, n], |d| {
        let (row, column) = places.next().expect("a place for each");
        let grows = column % cols == row % cols;
        2.0 * d.number() + if grows { growths[row] * (column / cols / 2) as f64 } else { 0.0 }
    });
    draw.output(DType::F32, &[m, 1]);
    draw.output(DType::F32, &[m, 1]);
    // Powers of two, by which multiplying is exact whether it is one operation with what follows or not.
    let scalars = vec![Scalar::F32(draw.pick(&[0.5, 1.0, 2.0]))];
    let consts = [("ROWS", rows), ("COLS", cols)];
    Shape { scalars, ..shape(consts, [m.div_ceil(rows), 1, 1], Tolerance::Close) }
}

fn column_means(draw: &mut Draw, dtype: DType) -> Shape {
    let (rows, cols) = (draw.pick(&[1, 2, 16, 64]), draw.pick(&[1, 2, 32, 256]));
    let (m, n) = (draw.extent(rows, 5), draw.row(cols, 3, bits(dtype)));
    draw.input(dtype, &[m, n], Draw::number);
    draw.output(DType::F32, &[n]);
    shape([("ROWS", rows), ("COLS", cols)], [n.div_ceil(cols), 1, 1], Tolerance::Close)
}

/// Sizes of tiles of one dimension.
const LENGTHS: [usize; 6] = [1, 2, 32, 64, 512, 4096];

fn add(draw: &mut Draw, dtype: DType) -> Shape {
    let tile = draw.pick(&LENGTHS);
    let n = draw.row(tile, 3, bits(dtype));
    draw.input(dtype, &[n], Draw::number);
    draw.input(DType::F32, &[n], Draw::number);
    draw.output(dtype, &[n]);
    shape([("N", tile)], [n.div_ceil(tile), 1, 1], Tolerance::Exact)
}

fn scaled_whole(draw: &mut Draw) -> Shape {
    let tile = draw.pick(&LENGTHS);
    let n = draw.row(tile, 3, 32);
    draw.input(DType::F32, &[n], Draw::number);
    draw.input(DType::F32, &[1], Draw::number);
    draw.output(DType::F32, &[n]);
    shape([("N", tile)], [n.div_ceil(tile), 1, 1], Tolerance::Exact)
}

fn swap_axes(draw: &mut Draw, dtype: DType) -> Shape {
    let tiles = [0; 3].map(|_| draw.pick(&[1, 2, 4, 16, 32]));
    let [a, b] = [0, 1].map(|i| draw.extent(tiles[i], 2));
    let c = draw.row(tiles[2], 2, bits(dtype));
    draw.input(dtype, &[a, b, c], Draw::number);
    draw.output(dtype, &[c, b, a]);
    let blocks = [a.div_ceil(tiles[0]), b.div_ceil(tiles[1]), c.div_ceil(tiles[2])];
    shape([("A", tiles[0]), ("B", tiles[1]), ("C", tiles[2])], blocks, Tolerance::Exact)
}

fn embed(draw: &mut Draw, dtype: DType) -> Shape {
    let (n, d) = (draw.pick(&[1, 4, 32]), draw.pick(&[1, 8, 64]));
    let (count, rows, width) = (draw.extent(n, 3), draw.below(20) + 1, draw.row(d, 1, bits(dtype)));
    // Some ask for nothing, some for rows that the table lacks.
    draw.input(DType::I32, &[count], |draw| draw.below(rows + 3) as f64 - 1.0);
    draw.input(dtype, &[rows, width], Draw::number);
    draw.output(dtype, &[count, width]);
    shape([("N", n), ("D", d)], [count.div_ceil(n), 1, 1], Tolerance::Exact)
}

/// Places of a tensor, each once, but for the first: lanes outside of `ids` write there, who read zero as their place.
fn places(draw: &mut Draw, count: usize, end: usize) -> Vec<f64> {
    let mut all: Vec<f64> = (1..end).map(|i| i as f64).collect();
    (1..all.len()).for_each(|i| all.swap(i, draw.below(i + 1)));
    all.truncate(count);
    all
}

fn spread(draw: &mut Draw, dtype: DType) -> Shape {
    let tile = draw.pick(&LENGTHS);
    let (n, m) = (draw.row(tile, 2, bits(dtype)), draw.row(tile, 2, bits(dtype)));
    // Where the places do not suffice, the others have none.
    let mut at = places(draw, n, m).into_iter();
    draw.input(DType::I32, &[n], |draw| {
        let at = at.next().unwrap_or(-1.0);
        if draw.chance(1, 8) { -1.0 } else { at }
    });
    draw.input(dtype, &[n], Draw::number);
    draw.output(dtype, &[m]);
    shape([("N", tile)], [n.div_ceil(tile), 1, 1], Tolerance::Exact)
}

fn newton(draw: &mut Draw, dtype: DType) -> Shape {
    let tile = draw.pick(&LENGTHS);
    let n = draw.row(tile, 2, bits(dtype));
    draw.input(dtype, &[n], |d| d.number() + 2.0);
    draw.output(dtype, &[n]);
    let rounds = Scalar::I32(draw.pick(&[0, 3, 9, 12]));
    Shape { scalars: vec![rounds], ..shape([("N", tile)], [n.div_ceil(tile), 1, 1], Tolerance::Close) }
}

fn powers(draw: &mut Draw, dtype: DType) -> Shape {
    let tile = draw.pick(&TILES);
    let (m, n) = (draw.extent(tile, 1), draw.row(tile, 1, bits(dtype)));
    let scale = (1.5 / n.min(tile) as f64).sqrt();
    draw.tensor(dtype, &[m, n], true, |d| scale * d.number());
    let rounds = draw.below(3) + 1;
    let scalars = vec![Scalar::I32(rounds as i32)];
    Shape { scalars, ..shape([("TILE", tile)], [1, 1, 1], Tolerance::Products(1 << rounds)) }
}

fn outer_operand(draw: &mut Draw, dtype: DType) -> Shape {
    let (tile, depth) = (draw.pick(&[1, 16, 64]), draw.pick(&[8, 32, 64, 128]));
    let (m, k) = (draw.extent(tile, 3), draw.row(depth, 1, bits(dtype)));
    let (n, width) = (draw.row(tile, 3, bits(dtype)), draw.row(tile, 1, 32));
    draw.input(dtype, &[m, k], Draw::number);
    draw.input(dtype, &[k, n], Draw::number);
    draw.output(DType::F32, &[m, width]);
    // A program's blocks are also those of the programs behind it, with the same values.
    let grid = [draw.below(2) + 1, 1, 1];
    shape([("TILE", tile), ("DEPTH", depth)], grid, Tolerance::Products(1))
}

fn branching(draw: &mut Draw, dtype: DType) -> Shape {
    let tile = draw.pick(&TILES);
    let (m, k, n) = (draw.extent(tile, 1), draw.row(tile, 4, bits(dtype)), draw.row(tile, 1, bits(dtype)));
    draw.input(dtype, &[m, k], Draw::number);
    draw.input(dtype, &[k, n], Draw::number);
    let out = draw.row(tile, 1, 32);
    draw.output(DType::F32, &[m, out]);
    let steps = Scalar::I32(draw.below(6) as i32);
    Shape { scalars: vec![steps], ..shape([("TILE", tile)], [1, 1, 1], Tolerance::Products(1)) }
}

fn paged(draw: &mut Draw, dtype: DType) -> Shape {
    let tile = draw.pick(&TILES);
    let (batch, most) = (draw.below(3) + 1, draw.extent(tile, 3));
    let (k, pages) = (draw.row(tile, 3, bits(dtype)), draw.below(5) + 1);
    let (width, out) = (draw.row(tile, 1, bits(dtype)), draw.row(tile, 1, 32));
    let rows = most + draw.extent(tile, 1);
    draw.input(dtype, &[rows, k], Draw::number);
    draw.input(dtype, &[pages, tile, width], Draw::number);
    draw.input(DType::I32, &[batch, most.div_ceil(tile)], |draw| draw.below(pages) as f64);
    draw.input(DType::I32, &[batch], |draw| draw.below(most + 1) as f64);
    draw.input(dtype, &[batch], Draw::number);
    draw.output(DType::F32, &[tile * batch + 1, out]);
    shape([("TILE", tile)], [batch, 1, 1], Tolerance::Products(1))
}

fn narrow_weights(draw: &mut Draw, dtype: DType) -> Shape {
    let (tile_m, tile_n, tile_k) =
        (draw.pick(&[1, 8, 16, 64]), draw.pick(&[1, 16, 64, 128]), draw.pick(&[16, 64, 128, 256]));
    let (m, n) = (draw.extent(tile_m, 2), draw.row(tile_n, 2, 32));
    let k = draw.row(tile_k, 3, 4).next_multiple_of(16);
    draw.input(dtype, &[m, k], Draw::number);
    draw.input(F4, &[n, k], |d| 6.0 * d.number());
    draw.input(F8, &[n, k / 16], |d| 100.0 + 90.0 * d.number());
    draw.output(DType::F32, &[m, n]);
    let grid = [n.div_ceil(tile_n), m.div_ceil(tile_m), 1];
    shape([("M", tile_m), ("N", tile_n), ("K", tile_k)], grid, Tolerance::Products(1))
}

fn scaled_product(draw: &mut Draw) -> Shape {
    let (tile_m, tile_n, tile_k) =
        (draw.pick(&[1, 16, 64, 128]), draw.pick(&[1, 8, 32, 64, 128]), draw.pick(&[16, 32, 64, 128, 256]));
    let (m, n) = (draw.extent(tile_m, 2), draw.row(tile_n, 2, 32));
    let k = draw.row(tile_k, 3, 4).next_multiple_of(16);
    for rows in [m, n] {
        draw.input(F4, &[rows, k], |d| 6.0 * d.number());
        draw.input(F8, &[rows, k / 16], |d| 1.5 + d.number());
    }
    draw.output(DType::F32, &[m, n]);
    let grid = [m.div_ceil(tile_m), n.div_ceil(tile_n), 1];
    shape([("M", tile_m), ("N", tile_n), ("K", tile_k)], grid, Tolerance::Products(1))
}

fn half_bytes(draw: &mut Draw) -> Shape {
    let tile = draw.pick(&[1, 2, 64, 512, 4096]);
    let n = draw.row(tile, 2, 4);
    let mut at = places(draw, n, n + 1).into_iter();
    draw.input(DType::I32, &[n], |_| at.next().expect("a place for each"));
    draw.input(F4, &[n], |d| 4.0 * d.number());
    draw.output(F4, &[n]);
    draw.output(F4, &[n + 1]);
    shape([("N", tile)], [n.div_ceil(tile), 1, 1], Tolerance::Exact)
}
