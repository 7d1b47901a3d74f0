//! Products of matrices, and how their fragments get into registers.
//!
//! Source: PTX ISA, "Matrix Fragments for mma.m16n8k*", "Register Fragments for wgmma.mma_async.m64nNk*", "Matrix
//! Descriptor Format".

use super::{Cta, Launched, aligned, vector};
use crate::fault::Wrong;
use crate::numeric::{Factor, from_e4m3};
use crate::op::{Arg, Inst, Product, Slot};
use crate::tensor_map::swizzled;
use crate::warp::{Lanes, Lhs, Warp, Wgmma};

/// Rows of a product of one warp.
const ROWS: usize = 16;

fn slots(arg: &Arg) -> Vec<Slot> {
    let slot = |part: &Arg| match part {
        Arg::Reg(slot) => Some(*slot),
        _ => None,
    };
    vector(arg).iter().filter_map(slot).collect()
}

/// One element of a register.
fn element(factor: Factor, word: u64, index: usize) -> f32 {
    let bits = factor.bits();
    factor.value(word >> (bits * index) & (u64::MAX >> (64 - bits)))
}

/// The lhs of 16 rows by `k`, from the fragments of a warp.
fn gather_lhs(registers: &[Lanes], product: Product) -> Vec<f32> {
    let per_word = 32 / product.factor.bits();
    let mut lhs = vec![0.0; ROWS * product.k];
    for (r, register) in registers.iter().enumerate() {
        for (lane, word) in register.iter().enumerate() {
            let (row, first) = (lane / 4 + 8 * (r & 1), lane % 4 * per_word + (r >> 1) * 4 * per_word);
            for i in 0..per_word {
                lhs[row * product.k + first + i] = element(product.factor, *word, i);
            }
        }
    }
    lhs
}

/// `acc += lhs rhs`, with 16 rows of lhs, and rhs as `[k][n]`.
fn multiply(acc: &mut [f32], lhs: &[f32], rhs: &[f32], n: usize) {
    let k = rhs.len() / n;
    for (acc, lhs) in acc.chunks_exact_mut(n).zip(lhs.chunks_exact(k)) {
        for (&factor, row) in lhs.iter().zip(rhs.chunks_exact(n)) {
            for (sum, value) in acc.iter_mut().zip(row) {
                *sum += factor * value;
            }
        }
    }
}

/// Where an accumulator's register lies: row and column.
fn acc_place(register: usize, lane: usize) -> (usize, usize) {
    (lane / 4 + 8 * (register / 2 % 2), register / 4 * 8 + lane % 4 * 2 + register % 2)
}

fn gather_acc(registers: &[Lanes], n: usize) -> Vec<f32> {
    let mut acc = vec![0.0; ROWS * n];
    for (r, register) in registers.iter().enumerate() {
        for (lane, word) in register.iter().enumerate() {
            let (row, col) = acc_place(r, lane);
            acc[row * n + col] = f32::from_bits(*word as u32);
        }
    }
    acc
}

fn scatter_acc(acc: &[f32], n: usize, register: usize) -> Lanes {
    std::array::from_fn(|lane| {
        let (row, col) = acc_place(register, lane);
        acc[row * n + col].to_bits().into()
    })
}

/// `mma.sync` with its operands d, a, b, c, and with scales those of a and b with their selectors.
pub(super) fn mma(warp: &mut Warp, inst: &Inst, product: Product, at: &Launched<'_>) -> Result<(), Wrong> {
    let Product { n, k, factor, scaled } = product;
    let values = |warp: &Warp, arg: &Arg| -> Vec<Lanes> {
        vector(arg).iter().map(|part| warp.get(part, &at.place)).collect()
    };
    let [a, b, c] = [1, 2, 3].map(|i| values(warp, &inst.args[i]));
    let mut lhs = gather_lhs(&a, product);
    let per_word = 32 / factor.bits();
    let mut rhs = vec![0.0; k * n];
    for (r, register) in b.iter().enumerate() {
        for (lane, word) in register.iter().enumerate() {
            for i in 0..per_word {
                let row = (lane % 4 + 4 * r) * per_word + i;
                rhs[row * n + lane / 4] = element(factor, *word, i);
            }
        }
    }
    if scaled {
        let selectors = |arg: &Arg| match vector(arg) {
            [Arg::Imm(byte), Arg::Imm(thread)] => Ok((*byte, *thread as usize)),
            _ => Err(Wrong::Unsupported("a selector of scales in a register".to_owned())),
        };
        let ((a_byte, a_thread), (b_byte, b_thread)) = (selectors(&inst.args[5])?, selectors(&inst.args[7])?);
        if (a_byte, b_byte) != (0, 0) || a_thread > 1 || b_thread > 3 {
            return Err(Wrong::Unsupported("this selector of scales".to_owned()));
        }
        let [a, b] = [4, 6].map(|i| values(warp, &inst.args[i])[0]);
        let scale = |word: u64, k: usize| from_e4m3(word >> (8 * (k / 16)) & 0x7f) as f32;
        for row in 0..ROWS {
            let word = a[row % 8 * 4 + 2 * a_thread + row / 8];
            (0..k).for_each(|i| lhs[row * k + i] *= scale(word, i));
        }
        for col in 0..n {
            let word = b[col * 4 + b_thread];
            (0..k).for_each(|i| rhs[i * n + col] *= scale(word, i));
        }
    }
    let mut acc = gather_acc(&c, n);
    multiply(&mut acc, &lhs, &rhs, n);
    for (r, part) in vector(&inst.args[0]).iter().enumerate() {
        warp.set(part, u32::MAX, &scatter_acc(&acc, n, r));
    }
    Ok(())
}

/// The eight 16-byte rows of matrix `i`, whose addresses eight of the lanes hold.
fn rows(addresses: &Lanes, i: usize) -> &[u64] {
    &addresses[8 * i..8 * i + 8]
}

/// Which two elements of an 8 by 8 matrix a lane holds.
fn matrix_places(lane: usize, transposed: bool) -> [(usize, usize); 2] {
    let (major, minor) = (lane / 4, lane % 4 * 2);
    [0, 1].map(|i| if transposed { (minor + i, major) } else { (major, minor + i) })
}

impl Cta {
    /// `ldmatrix`.
    pub(super) fn load_matrix(
        &mut self,
        w: usize,
        inst: &Inst,
        transposed: bool,
        at: &Launched<'_>,
    ) -> Result<(), Wrong> {
        let addresses = self.shared_addresses(w, &inst.args[1], at);
        for (i, part) in vector(&inst.args[0]).iter().enumerate() {
            let mut matrix = [[0u16; 8]; 8];
            for (row, &address) in matrix.iter_mut().zip(rows(&addresses, i)) {
                aligned(address, 16)?;
                let bytes = self.shared.read(address, 16, self.warps[w].by(false))?;
                for (element, pair) in row.iter_mut().zip(bytes.chunks_exact(2)) {
                    *element = u16::from_le_bytes([pair[0], pair[1]]);
                }
            }
            let values = std::array::from_fn(|lane| {
                let [low, high] =
                    matrix_places(lane, transposed).map(|(row, col)| u64::from(matrix[row][col]));
                low | high << 16
            });
            self.warps[w].set(part, u32::MAX, &values);
        }
        Ok(())
    }

    /// `stmatrix`.
    pub(super) fn store_matrix(
        &mut self,
        w: usize,
        inst: &Inst,
        transposed: bool,
        at: &Launched<'_>,
    ) -> Result<(), Wrong> {
        let addresses = self.shared_addresses(w, &inst.args[0], at);
        for (i, part) in vector(&inst.args[1]).iter().enumerate() {
            let values = self.warps[w].get(part, &at.place);
            let mut matrix = [[0u8; 16]; 8];
            for (lane, word) in values.iter().enumerate() {
                for (half, (row, col)) in matrix_places(lane, transposed).into_iter().enumerate() {
                    let element = (*word >> (16 * half)) as u16;
                    matrix[row][2 * col..2 * col + 2].copy_from_slice(&element.to_le_bytes());
                }
            }
            for (row, &address) in matrix.iter().zip(rows(&addresses, i)) {
                aligned(address, 16)?;
                self.shared.write(address, 16, self.warps[w].by(false))?.copy_from_slice(row);
            }
        }
        Ok(())
    }

    /// Starts a `wgmma`: checks what it reads, which from now on nobody writes. It is computed when it is waited for.
    pub(super) fn start_wgmma(
        &mut self,
        w: usize,
        inst: &Inst,
        product: Product,
        at: &Launched<'_>,
    ) -> Result<(), Wrong> {
        let warp = &self.warps[w];
        let [acc, lhs, rhs, adds, flags @ ..] = &inst.args[..] else {
            return Err(Wrong::Unsupported("a wgmma with these operands".to_owned()));
        };
        let word = |arg: &Arg| warp.get(arg, &at.place)[0];
        let lhs = match lhs {
            Arg::Vector(_) => Lhs::Registers(slots(lhs)),
            descriptor => Lhs::Shared(word(descriptor)),
        };
        let flags: Vec<u64> = flags.iter().map(word).collect();
        // A minus sign for each operand, then whether each that lies in shared memory is transposed.
        let negative = [0, 1].map(|i| flags.get(i) == Some(&u64::MAX));
        let is_set = |i: usize| flags.get(i).is_some_and(|&flag| flag != 0);
        let transposed = match lhs {
            Lhs::Registers(_) => [false, is_set(2)],
            Lhs::Shared(_) => [is_set(2), is_set(3)],
        };
        let adds = match adds {
            Arg::Imm(flag) => *flag != 0,
            predicate => word(predicate) != 0,
        };
        let wgmma = Wgmma { product, acc: slots(acc), lhs, rhs: word(rhs), adds, transposed, negative };
        if wgmma.acc.len() * 8 != product.n * 4 {
            return Err(Wrong::Unsupported("an accumulator of this size".to_owned()));
        }
        for (address, bytes) in wgmma.reads(w) {
            self.shared.start_read(address, bytes, self.warps[w].by(true))?;
        }
        self.warps[w].start_product(wgmma, &at.entry.registers)
    }

    /// Computes what a wait for all but `pending` groups of products waits for.
    pub(super) fn finish_wgmmas(&mut self, w: usize, pending: usize) {
        let retired = self.warps[w].products.retire(pending);
        if retired.is_empty() {
            return;
        }
        for wgmma in &retired {
            self.finish_wgmma(w, wgmma);
        }
        self.warps[w].products_retired();
    }

    fn finish_wgmma(&mut self, w: usize, wgmma: &Wgmma) {
        let Product { n, k, factor, .. } = wgmma.product;
        let (agent, step) = (self.warps[w].agent, self.warps[w].step());
        // In the order of `reads`.
        let mut fetched = Vec::new();
        for (address, bytes) in wgmma.reads(w) {
            fetched.push(self.shared.finish_read(address, bytes, agent, step).to_vec());
        }
        let mut fetched = fetched.into_iter();
        let mut operand = |descriptor: u64, rows: usize, first: usize, transposed: bool| -> Vec<f32> {
            let layout = Operand { descriptor, factor, k, transposed };
            // Rows of the operand by k.
            let mut values = vec![0.0; rows * k];
            let chunks: Vec<_> = layout.chunks(first, rows).collect();
            for chunk in chunks {
                let bytes = fetched.next().expect("as many parts as were started");
                let size = factor.bits() / 8;
                for (i, element) in bytes.chunks_exact(size).enumerate() {
                    let word = element.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
                    let (row, col) =
                        if transposed { (chunk.row + i, chunk.k) } else { (chunk.row, chunk.k + i) };
                    values[(row - first) * k + col] = factor.value(word);
                }
            }
            values
        };
        let warp = w % 4;
        let lhs = match &wgmma.lhs {
            Lhs::Shared(descriptor) => operand(*descriptor, ROWS, warp * ROWS, wgmma.transposed[0]),
            Lhs::Registers(slots) => {
                let registers: Vec<Lanes> = slots.iter().map(|slot| *self.warps[w].register(*slot)).collect();
                gather_lhs(&registers, wgmma.product)
            }
        };
        let columns = operand(wgmma.rhs, n, 0, wgmma.transposed[1]);
        let sign = if wgmma.negative[0] == wgmma.negative[1] { 1.0 } else { -1.0 };
        let mut rhs = vec![0.0; k * n];
        for (i, value) in columns.iter().enumerate() {
            rhs[i % k * n + i / k] = sign * value;
        }
        let registers: Vec<Lanes> = wgmma.acc.iter().map(|slot| *self.warps[w].register(*slot)).collect();
        let mut acc = if wgmma.adds { gather_acc(&registers, n) } else { vec![0.0; ROWS * n] };
        multiply(&mut acc, &lhs, &rhs, n);
        for (r, slot) in wgmma.acc.iter().enumerate() {
            self.warps[w].set_product(*slot, scatter_acc(&acc, n, r));
        }
    }
}

/// An operand of a `wgmma` in shared memory.
struct Operand {
    descriptor: u64,
    factor: Factor,
    k: usize,
    transposed: bool,
}

/// Elements that lie next to each other: of one row along k, or transposed of one k along rows.
struct Chunk {
    row: usize,
    k: usize,
    address: u64,
    bytes: usize,
}

impl Operand {
    /// Chunks of 16 bytes that `rows` rows from `first` on consist of. Eight rows are the unit that the descriptor's
    /// stride leads through; transposed, eight steps of k are, and the leading offset leads from span to span.
    fn chunks(&self, first: usize, rows: usize) -> impl Iterator<Item = Chunk> {
        let field = |low: u32| (self.descriptor >> low & 0x3fff) * 16;
        let (start, leading, stride) = (field(0), field(16), field(32));
        let span = match self.descriptor >> 62 {
            0 => 16,
            1 => 128,
            2 => 64,
            _ => 32,
        };
        let size = self.factor.bits() as u64 / 8;
        let per_chunk = (16 / size) as usize;
        let swizzle = if span == 16 { 0 } else { span };
        let (k, transposed) = (self.k, self.transposed);
        let (majors, minors, from) = if transposed { (k, rows, first) } else { (rows, k, 0) };
        (0..majors).flat_map(move |major| {
            (0..minors / per_chunk).map(move |chunk| {
                let minor = from + chunk * per_chunk;
                let line = if transposed { major } else { first + major } as u64;
                let along = minor as u64 * size;
                // Without a swizzle, each 16 bytes along k are a core matrix of their own.
                let plain = line / 8 * stride + line % 8 * span + along / span * leading + along % span;
                let (row, k) = if transposed { (minor, major) } else { (first + major, minor) };
                Chunk { row, k, address: swizzled(start + plain, swizzle), bytes: 16 }
            })
        })
    }
}

impl Wgmma {
    /// What one warp's part of it reads of shared memory, lhs first.
    fn reads(&self, warp: usize) -> Vec<(u64, usize)> {
        let Product { n, k, factor, .. } = self.product;
        let operand = |descriptor, transposed| Operand { descriptor, factor, k, transposed };
        let lhs = match &self.lhs {
            Lhs::Shared(descriptor) => Some(operand(*descriptor, self.transposed[0]))
                .map(|o| o.chunks(warp % 4 * ROWS, ROWS).collect()),
            Lhs::Registers(_) => None,
        };
        let mut chunks: Vec<Chunk> = lhs.unwrap_or_default();
        chunks.extend(operand(self.rhs, self.transposed[1]).chunks(0, n));
        chunks.into_iter().map(|chunk| (chunk.address, chunk.bytes)).collect()
    }
}
