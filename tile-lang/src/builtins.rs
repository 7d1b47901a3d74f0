//! The operations of the language: one table that calls, error messages and suggestions come from.

use crate::nearest;

/// What an operation is called on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// A free function.
    Nothing,
    /// A method of a tensor view.
    Tensor,
    /// A method of a tile.
    Tile,
    /// A method of a scalar.
    Scalar,
}

/// An operation of the language.
#[derive(Debug)]
pub struct Builtin {
    /// What it is called on.
    pub on: On,
    /// Its name.
    pub name: &'static str,
    /// Names of its arguments, without the receiver.
    pub args: &'static [&'static str],
    /// Takes one dtype between `::<` and `>`.
    pub dtype: bool,
    /// One line of what it does.
    pub doc: &'static str,
}

impl Builtin {
    /// How it is called: `zeros::<T>(shape)`.
    pub fn signature(&self) -> String {
        let dot = if self.on == On::Nothing { "" } else { "." };
        let dtype = if self.dtype { "::<T>" } else { "" };
        format!("{dot}{}{dtype}({})", self.name, self.args.join(", "))
    }
}

const fn op(on: On, name: &'static str, args: &'static [&'static str], doc: &'static str) -> Builtin {
    Builtin { on, name, args, dtype: false, doc }
}

const fn typed(on: On, name: &'static str, args: &'static [&'static str], doc: &'static str) -> Builtin {
    Builtin { on, name, args, dtype: true, doc }
}

/// Every operation.
pub const BUILTINS: &[Builtin] = &[
    op(On::Nothing, "program_id", &["axis"], "Index of this program along a grid axis."),
    op(On::Nothing, "num_programs", &["axis"], "Extent of the grid along an axis."),
    op(On::Nothing, "cdiv", &["a", "b"], "`a / b` rounded up, of sizes."),
    typed(On::Nothing, "zeros", &["shape"], "A tile of zeros."),
    typed(On::Nothing, "ones", &["shape"], "A tile of ones."),
    typed(On::Nothing, "full", &["shape", "value"], "A tile with every element the scalar `value`."),
    op(On::Nothing, "iota", &["n"], "`[0, 1, .., n - 1]` as i32."),
    op(On::Nothing, "mma", &["lhs", "rhs", "acc"], "`acc + lhs x rhs`, accumulated in f32."),
    op(
        On::Nothing,
        "mma_scaled",
        &["lhs", "lhs_scales", "rhs", "rhs_scales", "acc"],
        "`acc + lhs x rhs` of f4E2M1FN tiles with one f8E4M3FN scale for 16 elements of the summed dimension.",
    ),
    op(On::Nothing, "div_rn", &["a", "b"], "`a / b` rounded to nearest on every device."),
    op(On::Nothing, "maximum", &["a", "b"], "The larger of each pair of elements; NaN wins."),
    op(On::Nothing, "minimum", &["a", "b"], "The smaller of each pair of elements; NaN wins."),
    op(On::Nothing, "select", &["mask", "a", "b"], "`a` where the mask is true, `b` elsewhere."),
    op(On::Nothing, "fma", &["a", "b", "c"], "`a * b + c`, rounded once."),
    op(
        On::Nothing,
        "check",
        &["cond", "message"],
        "Stops a checked launch where the scalar `cond` is false; nothing in any other.",
    ),
    op(On::Tensor, "dim", &["axis"], "Extent of the tensor along an axis."),
    op(On::Tensor, "at", &["index"], "One element as a scalar, by its coordinates; 0 outside the tensor."),
    op(
        On::Tensor,
        "slice",
        &["axis", "start", "len"],
        "The tensor narrowed along `axis` to `len` places from `start` on.",
    ),
    op(
        On::Tensor,
        "load",
        &["index", "shape"],
        "The block at `index`, in tiles of `shape`; 0 outside the tensor.",
    ),
    op(On::Tensor, "gather", &["index"], "Elements by i32 index tiles; 0 outside the tensor."),
    op(
        On::Tensor,
        "gather_masked",
        &["index", "mask"],
        "Elements by i32 index tiles; 0 where masked off or outside.",
    ),
    op(On::Tensor, "store", &["index", "tile"], "Writes the block at `index`; what lies outside is dropped."),
    op(On::Tensor, "scatter", &["index", "tile"], "Writes elements by i32 index tiles."),
    op(On::Tensor, "scatter_masked", &["index", "tile", "mask"], "Writes the elements whose mask is true."),
    op(
        On::Tensor,
        "arrive_last",
        &["index", "count"],
        "Counts this program's arrival, after its stores; true for the last of `count` programs, which sees all of \
         theirs.",
    ),
    op(On::Tile, "eq", &["other"], "Elementwise equality."),
    op(On::Tile, "ne", &["other"], "Elementwise inequality."),
    op(On::Tile, "lt", &["other"], "Elementwise `<`."),
    op(On::Tile, "le", &["other"], "Elementwise `<=`."),
    op(On::Tile, "gt", &["other"], "Elementwise `>`."),
    op(On::Tile, "ge", &["other"], "Elementwise `>=`."),
    op(On::Tile, "exp", &[], "e to the power of each element."),
    op(On::Tile, "exp2", &[], "2 to the power of each element."),
    op(On::Tile, "log", &[], "Natural logarithm."),
    op(On::Tile, "log2", &[], "Logarithm to base 2."),
    op(On::Tile, "sqrt", &[], "Square root."),
    op(On::Tile, "rsqrt", &[], "1 over the square root."),
    op(On::Tile, "tanh", &[], "Hyperbolic tangent."),
    op(On::Tile, "abs", &[], "Magnitude."),
    typed(On::Tile, "cast", &[], "Each element converted to another dtype."),
    op(On::Tile, "reshape", &["shape"], "The same elements in row-major order under another shape."),
    op(On::Tile, "t", &[], "The transpose of a tile of rank 2."),
    op(On::Tile, "permute", &["axes"], "Dimension `i` of the result is dimension `axes[i]`."),
    op(On::Tile, "broadcast_to", &["shape"], "Dimensions of size 1 repeated to `shape`."),
    op(On::Tile, "expand_dims", &["axis"], "A dimension of size 1 inserted before `axis`."),
    op(On::Tile, "squeeze", &["axis"], "The dimension `axis`, of size 1, dropped."),
    op(On::Tile, "reduce_sum", &["axis"], "Sum along `axis`, which stays with size 1."),
    op(On::Tile, "reduce_max", &["axis"], "Maximum along `axis`, which stays with size 1; NaN wins."),
    op(On::Tile, "reduce_min", &["axis"], "Minimum along `axis`, which stays with size 1; NaN wins."),
    op(On::Tile, "select", &["a", "b"], "`a` where this mask is true, `b` elsewhere."),
    op(On::Tile, "maximum", &["other"], "The larger of each pair of elements; NaN wins."),
    op(On::Tile, "minimum", &["other"], "The smaller of each pair of elements; NaN wins."),
    op(On::Scalar, "min", &["other"], "The smaller; of f32, the other one where one is NaN."),
    op(On::Scalar, "max", &["other"], "The larger; of f32, the other one where one is NaN."),
    op(On::Scalar, "clamp", &["low", "high"], "`low` at least, `high` at most."),
    op(On::Scalar, "exp", &[], "e to the power of the scalar."),
    op(On::Scalar, "exp2", &[], "2 to the power of the scalar."),
    op(On::Scalar, "ln", &[], "Natural logarithm."),
    op(On::Scalar, "log2", &[], "Logarithm to base 2."),
    op(On::Scalar, "sqrt", &[], "Square root."),
    op(On::Scalar, "tanh", &[], "Hyperbolic tangent."),
    op(On::Scalar, "abs", &[], "Magnitude."),
    op(On::Scalar, "recip", &[], "1 over the scalar."),
    op(On::Scalar, "mul_add", &["b", "c"], "`self * b + c`, rounded once."),
    op(On::Scalar, "div_ceil", &["other"], "Quotient rounded up, of sizes."),
    op(On::Scalar, "saturating_sub", &["other"], "Difference, 0 at least, of sizes."),
];

/// The operation `name` on `on`.
pub fn find(on: On, name: &str) -> Option<&'static Builtin> {
    BUILTINS.iter().find(|b| b.on == on && b.name == name)
}

/// Help for an unknown name: the nearest operation, or where the name does exist.
pub fn suggest(on: On, name: &str) -> Option<String> {
    if let Some(near) = nearest(name, BUILTINS.iter().filter(|b| b.on == on).map(|b| b.name)) {
        let builtin = find(on, near)?;
        return Some(format!("did you mean `{}`? {}", builtin.signature(), builtin.doc));
    }
    let other = BUILTINS.iter().find(|b| b.name == name)?;
    let place = match other.on {
        On::Nothing => "a function",
        On::Tensor => "a method of tensors",
        On::Tile => "a method of tiles",
        On::Scalar => "a method of scalars",
    };
    Some(format!("`{name}` is {place}: `{}`", other.signature()))
}
