//! Runs a module of the tile level on the CPU, as the eager device would.
//!
//! Floats are computed in f32 and rounded to their dtype after each operation; `mma` accumulates in f32; sums of
//! f16 and bf16 accumulate in f32 and round once; maxima and minima propagate NaN. The module is decoded once
//! into a tree of instructions over numbered slots, then all programs of the grid run in parallel.

mod decode;
mod elementwise;
mod exec;
mod memory;
mod value;

use crate::context::Place;
use crate::module::Module;
use crate::types::View;
pub use memory::HostTensor;
use rayon::prelude::*;
use tile_lang::DType;

/// A scalar argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    /// `f32`.
    F32(f32),
    /// `i32`.
    I32(i32),
    /// `i64`.
    I64(i64),
    /// `usize`.
    Index(usize),
    /// `bool`.
    Bool(bool),
}

impl Scalar {
    fn dtype(self) -> DType {
        match self {
            Scalar::F32(_) => DType::F32,
            Scalar::I32(_) => DType::I32,
            Scalar::I64(_) => DType::I64,
            Scalar::Index(_) => DType::Index,
            Scalar::Bool(_) => DType::Bool,
        }
    }
}

/// An argument of a run.
#[derive(Debug)]
pub enum Arg<'a> {
    /// A tensor, read and written in place.
    Tensor(&'a mut HostTensor),
    /// A scalar.
    Scalar(Scalar),
}

/// Why a module does not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InterpretError {
    /// Another number of arguments than the kernel takes.
    #[error("{found} arguments were given; the kernel takes {expected}")]
    ArgCount {
        /// Arguments of the kernel.
        expected: usize,
        /// Arguments given.
        found: usize,
    },
    /// An argument of another type.
    #[error("argument {index} is {found}; expected {expected}")]
    ArgType {
        /// Which argument, from 0.
        index: usize,
        /// What the kernel takes.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A tensor whose bytes do not hold what its shape and strides span.
    #[error("argument {index} has {found} bytes; its shape and strides need {needed}")]
    ArgSize {
        /// Which argument, from 0.
        index: usize,
        /// Bytes needed.
        needed: usize,
        /// Bytes given.
        found: usize,
    },
    /// An integer division by zero.
    #[error("{}: division by zero", .place.as_ref().map_or("unknown place".to_owned(), Place::to_string))]
    DivideByZero {
        /// The division in the kernel's source.
        place: Option<Place>,
    },
    /// A condition that the kernel checks is false.
    #[error(
        "{}: program {program:?}: check failed: {message}",
        .place.as_ref().map_or("unknown place".to_owned(), Place::to_string)
    )]
    Check {
        /// The check in the kernel's source.
        place: Option<Place>,
        /// The program.
        program: [usize; 3],
        /// What the kernel's author says of it.
        message: String,
    },
    /// An operation that the tile level does not have.
    #[error("`{op}` cannot be interpreted")]
    Unsupported {
        /// The operation's name.
        op: String,
    },
}

/// What the kernel takes at one position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Param {
    Tensor(View),
    Scalar(DType),
}

/// A decoded module, to run any number of times.
#[derive(Debug)]
pub struct Interpreter {
    params: Vec<Param>,
    slots: usize,
    body: decode::Code,
}

impl Interpreter {
    /// Decodes a module.
    ///
    /// # Errors
    /// When it has operations of another level.
    pub fn new(module: &Module) -> Result<Interpreter, InterpretError> {
        decode::decode(module)
    }

    /// Runs all programs of a grid.
    ///
    /// # Errors
    /// When the arguments do not fit the kernel, or a program divides by zero; tensors then keep their contents.
    pub fn run(&self, args: &mut [Arg], grid: [usize; 3]) -> Result<(), InterpretError> {
        if args.len() != self.params.len() {
            return Err(InterpretError::ArgCount { expected: self.params.len(), found: args.len() });
        }
        let bound = args
            .iter()
            .zip(&self.params)
            .enumerate()
            .map(|(index, (arg, param))| bind(index, arg, *param))
            .collect::<Result<Vec<_>, _>>()?;
        let programs: usize = grid.iter().product();
        (0..programs).into_par_iter().try_for_each_init(Vec::new, |frame, number| {
            let id = [number % grid[0], number / grid[0] % grid[1], number / (grid[0] * grid[1])];
            exec::run_program(self, &bound, frame, exec::Program { id, grid })
        })?;
        for (arg, bound) in args.iter_mut().zip(bound) {
            if let (Arg::Tensor(tensor), exec::BoundArg::Tensor(memory)) = (arg, bound) {
                tensor.data = memory.into_bytes();
            }
        }
        Ok(())
    }
}

/// Runs all programs of a grid; [`Interpreter`] runs a module repeatedly.
///
/// # Errors
/// As [`Interpreter::new`] and [`Interpreter::run`].
pub fn run(module: &Module, args: &mut [Arg], grid: [usize; 3]) -> Result<(), InterpretError> {
    Interpreter::new(module)?.run(args, grid)
}

/// Checks an argument against what the kernel takes.
fn bind(index: usize, arg: &Arg, param: Param) -> Result<exec::BoundArg, InterpretError> {
    let tensor_name = |rank: usize, dtype: DType| format!("a tensor of rank {rank} and dtype {dtype}");
    let expected = match param {
        Param::Tensor(view) => tensor_name(view.rank, view.dtype),
        Param::Scalar(dtype) => format!("a scalar of dtype {dtype}"),
    };
    match (arg, param) {
        (Arg::Tensor(tensor), Param::Tensor(view))
            if tensor.dtype == view.dtype
                && tensor.shape.len() == view.rank
                && tensor.strides.len() == view.rank =>
        {
            let needed = tensor.bytes_spanned();
            if tensor.data.len() < needed {
                return Err(InterpretError::ArgSize { index, needed, found: tensor.data.len() });
            }
            Ok(exec::BoundArg::Tensor(memory::Memory::new(tensor)))
        }
        (Arg::Scalar(scalar), Param::Scalar(dtype)) if scalar.dtype() == dtype => {
            Ok(exec::BoundArg::Scalar(*scalar))
        }
        (Arg::Tensor(tensor), _) => Err(InterpretError::ArgType {
            index,
            expected,
            found: tensor_name(tensor.shape.len(), tensor.dtype),
        }),
        (Arg::Scalar(scalar), _) => {
            let found = format!("a scalar of dtype {}", scalar.dtype());
            Err(InterpretError::ArgType { index, expected, found })
        }
    }
}
