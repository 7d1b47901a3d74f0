//! The values that slots hold.

use std::rc::Rc;

/// The elements of a tile in row-major order; every float dtype's as f32.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Data {
    Float(Vec<f32>),
    Int(Vec<i32>),
    Bool(Vec<bool>),
}

/// A value. Shapes are known where a value is used, so tiles are their elements alone.
#[derive(Clone, Debug, Default)]
pub(super) enum Value {
    #[default]
    Unset,
    Float(f32),
    /// Any integer, index or bool; narrower types are kept sign-extended, bools as 0 and 1.
    Int(i64),
    Tile(Rc<Data>),
    /// A tensor argument, or a part of one.
    View(Rc<Part>),
}

/// What a view names: a tensor argument by its position, and which part of it.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) tensor: usize,
    /// Elements from the tensor's first to the part's.
    pub(super) origin: usize,
    pub(super) shape: Vec<usize>,
}

impl Value {
    pub(super) fn tile(data: Data) -> Value {
        Value::Tile(Rc::new(data))
    }

    pub(super) fn int(&self) -> i64 {
        match self {
            Value::Int(value) => *value,
            other => unreachable!("{other:?} is not an integer"),
        }
    }

    pub(super) fn data(&self) -> &Data {
        match self {
            Value::Tile(data) => data,
            other => unreachable!("{other:?} is not a tile"),
        }
    }

    /// The elements, without a copy when nothing else holds them.
    pub(super) fn into_data(self) -> Data {
        match self {
            Value::Tile(data) => Rc::unwrap_or_clone(data),
            other => unreachable!("{other:?} is not a tile"),
        }
    }

    pub(super) fn view(&self) -> &Part {
        match self {
            Value::View(part) => part,
            other => unreachable!("{other:?} is not a tensor"),
        }
    }
}

impl Data {
    pub(super) fn floats(&self) -> &[f32] {
        match self {
            Data::Float(values) => values,
            other => unreachable!("{other:?} are not floats"),
        }
    }

    pub(super) fn ints(&self) -> &[i32] {
        match self {
            Data::Int(values) => values,
            other => unreachable!("{other:?} are not integers"),
        }
    }

    pub(super) fn bools(&self) -> &[bool] {
        match self {
            Data::Bool(values) => values,
            other => unreachable!("{other:?} are not bools"),
        }
    }

    /// The elements at the given positions of these.
    pub(super) fn pick(&self, positions: &[u32]) -> Data {
        fn pick<T: Copy>(from: &[T], positions: &[u32]) -> Vec<T> {
            positions.iter().map(|&p| from[p as usize]).collect()
        }
        match self {
            Data::Float(values) => Data::Float(pick(values, positions)),
            Data::Int(values) => Data::Int(pick(values, positions)),
            Data::Bool(values) => Data::Bool(pick(values, positions)),
        }
    }
}
