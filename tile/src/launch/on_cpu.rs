//! A checked launch on this machine's processor.

use super::argument::{Argument, Kind, reach};
use super::check::{Options, allowed_dtypes};
use crate::eager::{self, Element, Scalar, Shadow, Tensor, TensorMut, View};
use crate::error::LaunchError;
use crate::registry::KernelDef;
use indexmap::IndexMap;
use std::marker::PhantomData;
use std::ptr::NonNull;
use tile_lang::ast::TypeExpr;
use tile_lang::{Bindings, DType};

/// Everything that the type-erased body of a kernel needs.
pub struct EagerCall<'a> {
    kernel: &'static KernelDef,
    args: &'a [Argument<'a>],
    shadows: &'a [Option<Shadow>],
    consts: &'a IndexMap<String, i64>,
    dtypes: &'a IndexMap<String, DType>,
    grid: [usize; 3],
    checked: bool,
}

impl EagerCall<'_> {
    /// The dtype of a dtype parameter.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        self.dtypes.get(name).copied()
    }

    /// The error of a dtype that the parameter's bound does not allow.
    pub fn refuse_dtype(&self, name: &str) -> LaunchError {
        let allowed = allowed_dtypes(self.kernel, name);
        match self.dtype(name) {
            Some(found) => LaunchError::ArgumentDType {
                kernel: self.kernel.name,
                name: name.to_owned(),
                found,
                expected: allowed,
            },
            None => LaunchError::DTypeNotBound { kernel: self.kernel.name, name: name.to_owned(), allowed },
        }
    }

    /// A size parameter.
    pub fn size(&self, name: &str) -> usize {
        self.consts.get(name).map_or(0, |&v| v as usize)
    }

    /// A switch.
    pub fn flag(&self, name: &str) -> bool {
        self.size(name) != 0
    }

    /// The view of a tensor argument.
    fn view<T: Element, const R: usize>(&self, index: usize) -> View<T, R> {
        let Kind::Tensor(tensor) = &self.args[index].0 else {
            unreachable!("the launch checked the kinds of the arguments");
        };
        assert_eq!(tensor.dtype, T::DTYPE, "the launch checked the dtypes of the arguments");
        let extents = |values: &[usize]| values.try_into().expect("the launch checked the ranks");
        View {
            base: tensor.base,
            origin: 0,
            shape: extents(tensor.shape),
            strides: extents(tensor.strides),
            shadow: self.shadows[index].as_ref().map(NonNull::from),
            dtype: PhantomData,
        }
    }

    /// A tensor argument to read.
    pub fn tensor<T: Element, const R: usize>(&self, index: usize) -> Tensor<T, R> {
        Tensor::new(self.view(index))
    }

    /// A tensor argument to read and write.
    pub fn tensor_mut<T: Element, const R: usize>(&self, index: usize) -> TensorMut<T, R> {
        TensorMut::new(self.view(index))
    }

    /// A scalar argument.
    pub fn scalar<T: Scalar>(&self, index: usize) -> T {
        let value = match &self.args[index].0 {
            Kind::Scalar(value, _) => T::from_value(*value),
            Kind::Tensor(_) => None,
        };
        value.expect("the launch checked the types of the scalars")
    }

    /// Runs the body once for each program.
    pub fn run(&self, body: impl Fn() + Sync) -> Result<(), LaunchError> {
        eager::run_grid(self.kernel.name, self.grid, self.checked, body)
    }
}

/// Runs the kernel's programs on this machine's cores.
pub(super) fn run_on_cpu(
    kernel: &'static KernelDef,
    args: &[Argument<'_>],
    bindings: &Bindings,
    grid: [usize; 3],
    options: Options,
) -> Result<(), LaunchError> {
    let shadows: Vec<Option<Shadow>> = args
        .iter()
        .zip(&kernel.ast().params)
        .map(|(arg, param)| match (&arg.0, &param.ty) {
            (Kind::Tensor(t), TypeExpr::Tensor { mutable: true, .. }) if options.check_races => {
                let elements = reach(t.shape, t.strides);
                Some(Shadow::new(&param.name, t.shape, t.strides, elements, grid))
            }
            _ => None,
        })
        .collect();
    let Bindings { consts, dtypes } = bindings;
    let call = EagerCall { kernel, args, shadows: &shadows, consts, dtypes, grid, checked: options.checked };
    (kernel.eager)(&call)
}
