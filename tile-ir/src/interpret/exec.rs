//! Runs decoded instructions for one program.

use super::decode::{Code, Constant, Inst, Kind, Source};
use super::elementwise::{self, DividesByZero, maximum, minimum};
use super::memory::Memory;
use super::value::{Data, Part, Value};
use super::{InterpretError, Interpreter, Scalar};
use crate::numeric::round;
use crate::ops::ReduceKind;
use std::rc::Rc;
use tile_lang::DType;

/// A checked argument.
#[derive(Debug)]
pub(super) enum BoundArg {
    Tensor(Memory),
    Scalar(Scalar),
}

/// Which program runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Program {
    pub(super) id: [usize; 3],
    pub(super) grid: [usize; 3],
}

/// Runs one program; `frame` is scratch that the next one may reuse.
pub(super) fn run_program(
    interpreter: &Interpreter,
    args: &[BoundArg],
    frame: &mut Vec<Value>,
    program: Program,
) -> Result<(), InterpretError> {
    frame.clear();
    frame.resize_with(interpreter.slots, Value::default);
    for (i, (slot, arg)) in interpreter.body.args.iter().zip(args).enumerate() {
        frame[*slot] = match arg {
            BoundArg::Tensor(memory) => {
                Value::View(Rc::new(Part { tensor: i, origin: 0, shape: memory.shape.clone() }))
            }
            BoundArg::Scalar(Scalar::F32(x)) => Value::Float(*x),
            BoundArg::Scalar(Scalar::I32(x)) => Value::Int(i64::from(*x)),
            BoundArg::Scalar(Scalar::I64(x)) => Value::Int(*x),
            BoundArg::Scalar(Scalar::Index(x)) => Value::Int(*x as i64),
            BoundArg::Scalar(Scalar::Bool(x)) => Value::Int(i64::from(*x)),
        };
    }
    Machine { args, frame, program }.run(&interpreter.body).map(drop)
}

struct Machine<'a> {
    args: &'a [BoundArg],
    frame: &'a mut Vec<Value>,
    program: Program,
}

impl Machine<'_> {
    fn take(&mut self, source: Source) -> Value {
        match source.last {
            true => std::mem::take(&mut self.frame[source.slot]),
            false => self.frame[source.slot].clone(),
        }
    }

    fn set(&mut self, slots: &[usize], values: Vec<Value>) {
        for (slot, value) in slots.iter().zip(values) {
            self.frame[*slot] = value;
        }
    }

    /// Runs a block and returns the values at its end.
    fn run(&mut self, code: &Code) -> Result<Vec<Value>, InterpretError> {
        for inst in &code.insts {
            // In order, so that the last of equal operands is the one that is taken.
            let operands: Vec<Value> = inst.sources.iter().map(|s| self.take(*s)).collect();
            match &inst.kind {
                Kind::For(body) => {
                    let values = self.count(body, operands)?;
                    self.set(&inst.results, values);
                }
                Kind::If(blocks) => {
                    let taken = &blocks[usize::from(operands[0].int() == 0)];
                    let values = self.run(taken)?;
                    self.set(&inst.results, values);
                }
                Kind::While(blocks) => {
                    let values = self.repeat(blocks, operands)?;
                    self.set(&inst.results, values);
                }
                _ => {
                    let value = self.compute(inst, operands)?;
                    if let Some(slot) = inst.results.first() {
                        self.frame[*slot] = value;
                    }
                }
            }
        }
        Ok(code.yields.iter().map(|s| self.take(*s)).collect())
    }

    fn count(&mut self, body: &Code, mut operands: Vec<Value>) -> Result<Vec<Value>, InterpretError> {
        let mut carried = operands.split_off(3);
        let [mut at, hi, step] = [&operands[0], &operands[1], &operands[2]].map(Value::int);
        while at < hi {
            self.frame[body.args[0]] = Value::Int(at);
            self.set(&body.args[1..], carried);
            carried = self.run(body)?;
            // A step past the largest integer ends the loop, and one that goes nowhere runs once.
            match at.checked_add(step) {
                Some(next) if next > at => at = next,
                _ => break,
            }
        }
        Ok(carried)
    }

    fn repeat(
        &mut self,
        [before, body]: &[Code; 2],
        mut carried: Vec<Value>,
    ) -> Result<Vec<Value>, InterpretError> {
        loop {
            self.set(&before.args, carried);
            let mut values = self.run(before)?;
            let go_on = values.remove(0).int() != 0;
            if !go_on {
                return Ok(values);
            }
            self.set(&body.args, values);
            carried = self.run(body)?;
        }
    }

    fn memory<'v>(&self, view: &'v Value) -> (&Memory, &'v Part) {
        let part = view.view();
        match &self.args[part.tensor] {
            BoundArg::Tensor(memory) => (memory, part),
            BoundArg::Scalar(_) => unreachable!("a view names a tensor"),
        }
    }

    fn compute(&self, inst: &Inst, operands: Vec<Value>) -> Result<Value, InterpretError> {
        let divides = |_: DividesByZero| InterpretError::DivideByZero { place: inst.place.clone() };
        let mut rest = operands.into_iter();
        let mut next = || rest.next().unwrap_or_default();
        Ok(match &inst.kind {
            Kind::Constant(Constant::Float(x)) => Value::Float(*x),
            Kind::Constant(Constant::Int(x)) => Value::Int(*x),
            Kind::Constant(Constant::Tile(data)) => Value::tile(data.clone()),
            Kind::ProgramId(axis) => Value::Int(self.program.id[*axis] as i64),
            Kind::NumPrograms(axis) => Value::Int(self.program.grid[*axis] as i64),
            Kind::Dim(axis) => Value::Int(next().view().shape[*axis] as i64),
            Kind::At => {
                let view = next();
                let index: Vec<usize> = rest.map(|v| v.int() as usize).collect();
                let (memory, part) = self.memory(&view);
                memory.read_one(part, &index)
            }
            Kind::Slice(axis) => {
                let (view, start, len) = (next(), next().int() as usize, next().int() as usize);
                let (memory, part) = self.memory(&view);
                let mut part = part.clone();
                let left = part.shape[*axis].saturating_sub(start);
                if left > 0 {
                    part.origin += start * memory.strides[*axis];
                }
                part.shape[*axis] = len.min(left);
                Value::View(Rc::new(part))
            }
            Kind::ArriveLast => {
                let view = next();
                let mut index: Vec<usize> = rest.map(|v| v.int() as usize).collect();
                let count = index.pop().unwrap_or_default();
                let (memory, part) = self.memory(&view);
                Value::Int(memory.arrive(part, &index, count).into())
            }
            Kind::Check(message) => {
                if next().int() == 0 {
                    return Err(InterpretError::Check {
                        place: inst.place.clone(),
                        program: self.program.id,
                        message: message.clone(),
                    });
                }
                Value::Unset
            }
            Kind::Load(shape) => {
                let view = next();
                let index: Vec<usize> = rest.map(|v| v.int() as usize).collect();
                let (memory, part) = self.memory(&view);
                Value::tile(memory.read(memory.block(part, &index, shape)))
            }
            Kind::Store(shape) => {
                let view = next();
                let mut index: Vec<Value> = rest.collect();
                let tile = index.pop().unwrap_or_default();
                let index: Vec<usize> = index.iter().map(|v| v.int() as usize).collect();
                let (memory, part) = self.memory(&view);
                memory.write(memory.block(part, &index, shape), tile.data());
                Value::Unset
            }
            Kind::Gather { masked } => {
                let view = next();
                let mut index: Vec<Value> = rest.collect();
                let mask = if *masked { index.pop() } else { None };
                let (memory, part) = self.memory(&view);
                let index: Vec<&[i32]> = index.iter().map(|v| v.data().ints()).collect();
                let mask = mask.as_ref().map(|m| m.data().bools());
                let len = index.first().map_or(1, |i| i.len());
                Value::tile(memory.read((0..len).map(|n| memory.element(part, &index, mask, n))))
            }
            Kind::Scatter { masked } => {
                let view = next();
                let mut index: Vec<Value> = rest.collect();
                let mask = if *masked { index.pop() } else { None };
                let tile = index.pop().unwrap_or_default();
                let (memory, part) = self.memory(&view);
                let index: Vec<&[i32]> = index.iter().map(|v| v.data().ints()).collect();
                let mask = mask.as_ref().map(|m| m.data().bools());
                let len = index.first().map_or(1, |i| i.len());
                memory.write((0..len).map(|n| memory.element(part, &index, mask, n)), tile.data());
                Value::Unset
            }
            Kind::Splat { dtype, len } => Value::tile(match (next(), dtype) {
                (Value::Float(x), _) => Data::Float(vec![x; *len]),
                (scalar, DType::Bool) => Data::Bool(vec![scalar.int() != 0; *len]),
                (scalar, _) => Data::Int(vec![scalar.int() as i32; *len]),
            }),
            Kind::Iota(len) => Value::tile(Data::Int((0..*len as i32).collect())),
            Kind::Same => next(),
            Kind::Pick(positions) => Value::tile(next().data().pick(positions)),
            Kind::Reduce { shape, axis, kind, dtype } => {
                Value::tile(reduce(next().data(), shape, *axis, *kind, *dtype))
            }
            Kind::Mma { m, n, k } => {
                let (lhs, rhs, acc) = (next(), next(), next());
                Value::tile(mma(&lhs, &rhs, acc, [*m, *n, *k]))
            }
            Kind::MmaScaled { m, n, k } => {
                let (lhs, lhs_scales, rhs, rhs_scales, acc) = (next(), next(), next(), next(), next());
                let (m, n, k) = (*m, *n, *k);
                let lhs = scaled(&lhs, &lhs_scales, |i| i / 16);
                let rhs = scaled(&rhs, &rhs_scales, |i| i / n / 16 * n + i % n);
                Value::tile(mma(&lhs, &rhs, acc, [m, n, k]))
            }
            Kind::Unary(op, dtype) => elementwise::unary(*op, *dtype, next()),
            Kind::Binary(op, dtype) => {
                let (a, b) = (next(), next());
                elementwise::binary(*op, *dtype, a, b).map_err(divides)?
            }
            Kind::Compare(op) => {
                let (a, b) = (next(), next());
                op.apply(&a, &b)
            }
            Kind::Convert(op, dtype) => op.apply(next(), *dtype),
            Kind::Fma(dtype) => {
                let (a, b, c) = (next(), next(), next());
                elementwise::fma(*dtype, a, &b, &c)
            }
            Kind::Select => {
                let (cond, a, b) = (next(), next(), next());
                elementwise::select(&cond, a, b)
            }
            Kind::For(_) | Kind::If(_) | Kind::While(_) => unreachable!("control flow runs elsewhere"),
        })
    }
}

/// Partial results of a row, as many as the eager device keeps, so that sums round alike.
const LANES: usize = 8;

/// Folds along an axis: the innermost in interleaved lanes that are joined at the end, others in order.
fn fold<T: Copy>(values: &[T], shape: &[usize], axis: usize, start: T, f: impl Fn(T, T) -> T) -> Vec<T> {
    let inner: usize = shape[axis + 1..].iter().product();
    let len = shape[axis];
    if inner == 1 {
        let row = |row: &[T]| {
            let mut lanes = [start; LANES];
            for chunk in row.chunks(LANES) {
                lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane = f(*lane, *x));
            }
            lanes.into_iter().reduce(&f).expect("there are lanes")
        };
        return values.chunks_exact(len).map(row).collect();
    }
    let mut out = vec![start; values.len() / len];
    for (rows, out) in values.chunks_exact(len * inner).zip(out.chunks_exact_mut(inner)) {
        for row in rows.chunks_exact(inner) {
            out.iter_mut().zip(row).for_each(|(a, x)| *a = f(*a, *x));
        }
    }
    out
}

fn reduce(data: &Data, shape: &[usize], axis: usize, kind: ReduceKind, dtype: DType) -> Data {
    match data {
        Data::Float(values) => Data::Float(match kind {
            ReduceKind::Sum => {
                let mut sums = fold(values, shape, axis, 0.0, |a, x| a + x);
                sums.iter_mut().for_each(|s| *s = round(dtype, *s));
                sums
            }
            ReduceKind::Max => fold(values, shape, axis, f32::NEG_INFINITY, maximum),
            ReduceKind::Min => fold(values, shape, axis, f32::INFINITY, minimum),
        }),
        other => Data::Int(match kind {
            ReduceKind::Sum => fold(other.ints(), shape, axis, 0, i32::wrapping_add),
            ReduceKind::Max => fold(other.ints(), shape, axis, i32::MIN, i32::max),
            ReduceKind::Min => fold(other.ints(), shape, axis, i32::MAX, i32::min),
        }),
    }
}

/// `acc + lhs rhs` in f32.
/// Elements times their scales; `scale_of` gives the number of an element's scale.
fn scaled(elements: &Value, scales: &Value, scale_of: impl Fn(usize) -> usize) -> Value {
    let (elements, scales) = (elements.data().floats(), scales.data().floats());
    Value::tile(Data::Float(elements.iter().enumerate().map(|(i, e)| e * scales[scale_of(i)]).collect()))
}

fn mma(lhs: &Value, rhs: &Value, acc: Value, [m, n, k]: [usize; 3]) -> Data {
    let (lhs, rhs) = (lhs.data().floats(), rhs.data().floats());
    let Data::Float(mut out) = acc.into_data() else { unreachable!("an accumulator is f32") };
    assert!(lhs.len() == m * k && rhs.len() == k * n && out.len() == m * n, "operands of a verified product");
    // SAFETY: the three slices have the row-major extents given, checked above, and `out` is not aliased.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            true,
            lhs.as_ptr(),
            1,
            k as isize,
            rhs.as_ptr(),
            1,
            n as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
    Data::Float(out)
}
