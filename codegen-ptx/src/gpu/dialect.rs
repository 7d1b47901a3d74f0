//! The `tgpu` dialect's attribute and type: layouts on tiles in registers, and tiles in shared memory.

use crate::layout::{LinearLayout, SharedLayout};
use melior::Context;
use melior::ir::r#type::RankedTensorType;
use melior::ir::{Attribute, Type, TypeLike};
use std::fmt::Write;
use tile_ir::TileContext;
use tile_ir::types::{element_type, shape_of};
use tile_lang::DType;

/// The definition of the dialect, for [`TileContext::with_dialects`].
pub const TGPU_IRDL: &str = include_str!("tgpu.irdl.mlir");

/// A context that knows the tile and gpu-level dialects, and those of `handles`.
pub fn context(handles: &[melior::dialect::DialectHandle]) -> TileContext {
    TileContext::with_dialects(handles, &[TGPU_IRDL])
}

/// The names of the three groups of bases, in order.
const GROUPS: [&str; 3] = ["register", "lane", "warp"];

/// A layout as `#tgpu.layout`. The shape is the tensor's and not part of it.
pub fn layout_attr<'c>(context: &'c Context, layout: &LinearLayout) -> Attribute<'c> {
    let mut text = String::from("#tgpu.layout<\"");
    for (name, bases) in GROUPS.iter().zip([&layout.register, &layout.lane, &layout.warp]) {
        text += if *name == GROUPS[0] { "" } else { " " };
        text += name;
        for basis in bases {
            let mut separator = ' ';
            for coordinate in basis {
                let _ = write!(text, "{separator}{coordinate}");
                separator = ',';
            }
        }
    }
    text += "\">";
    Attribute::parse(context, &text).expect("the context knows the tgpu dialect")
}

/// Reads the bases that [`layout_attr`] wrote.
fn layout_of_attr(attribute: Attribute, shape: Vec<usize>) -> Option<LinearLayout> {
    let text = attribute.to_string();
    let bases = text.strip_prefix("#tgpu.layout<\"")?.strip_suffix("\">")?;
    let mut groups: [Vec<Vec<u32>>; 3] = Default::default();
    let mut group = None;
    for word in bases.split_ascii_whitespace() {
        match GROUPS.iter().position(|name| *name == word) {
            Some(index) => group = Some(index),
            None => {
                let basis = word.split(',').map(str::parse).collect::<Result<_, _>>().ok()?;
                groups[group?].push(basis);
            }
        }
    }
    let [register, lane, warp] = groups;
    LinearLayout::new(shape, register, lane, warp).ok()
}

/// The layout of a tile's type; none where the type is not a tile's, or has no or no valid layout.
pub fn layout_of(ty: Type) -> Option<LinearLayout> {
    let encoding = RankedTensorType::try_from(ty).ok()?.encoding()?;
    layout_of_attr(encoding, shape_of(ty)?)
}

/// The type of a tile in registers.
pub fn distributed_type<'c>(context: &'c Context, dtype: DType, layout: &LinearLayout) -> Type<'c> {
    let dims: Vec<u64> = layout.shape.iter().map(|&d| d as u64).collect();
    RankedTensorType::new(&dims, element_type(context, dtype), Some(layout_attr(context, layout))).into()
}

/// Tiles in shared memory, one a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Smem {
    /// Element type.
    pub dtype: DType,
    /// Where the elements of one tile lie.
    pub layout: SharedLayout,
    /// How many tiles there are.
    pub slots: usize,
}

/// Slots start at multiples of this many bytes.
const SLOT_ALIGN_BYTES: usize = 128;

impl Smem {
    /// Slots for row-major tiles of `rows` by `cols` elements, in the layout that reads best. 4-bit elements lie
    /// two in a byte, as in global memory, and the layout's elements are the bytes.
    pub fn new(rows: usize, cols: usize, dtype: DType, slots: usize) -> Smem {
        let bits = dtype.bits() as usize;
        let layout = SharedLayout::new(rows, cols / Smem::per_byte(dtype), bits.div_ceil(8));
        Smem { dtype, layout, slots }
    }

    /// Slots for row-major tiles cut into panels of one swizzled span.
    pub fn panels(rows: usize, cols: usize, dtype: DType, slots: usize) -> Smem {
        let bits = dtype.bits() as usize;
        let layout = SharedLayout::panels(rows, cols / Smem::per_byte(dtype), bits.div_ceil(8));
        Smem { dtype, layout, slots }
    }

    /// Elements in one element of the layout.
    fn per_byte(dtype: DType) -> usize {
        (8 / dtype.bits() as usize).max(1)
    }

    /// Elements of a row.
    pub fn cols(&self) -> usize {
        self.layout.cols * Smem::per_byte(self.dtype)
    }

    /// Bytes from one slot to the next.
    pub fn slot_bytes(&self) -> usize {
        self.layout.bytes().next_multiple_of(SLOT_ALIGN_BYTES)
    }

    /// Bytes of all slots.
    pub fn bytes(&self) -> usize {
        self.slot_bytes() * self.slots
    }

    /// The MLIR type.
    pub fn ty<'c>(&self, context: &'c Context) -> Type<'c> {
        let SharedLayout { rows, span_bytes: span, pitch_bytes: pitch, .. } = self.layout;
        let cols = self.cols();
        let element = if self.dtype == DType::Bool { "i1" } else { self.dtype.name() };
        let slots = self.slots;
        let text = format!(
            "!tgpu.smem<{rows} : i64, {cols} : i64, {element}, {span} : i64, {pitch} : i64, {slots} : i64>"
        );
        Type::parse(context, &text).expect("the context knows the tgpu dialect")
    }

    /// Reads the MLIR type; none for other types.
    pub fn of(ty: Type) -> Option<Smem> {
        if ty.is_ranked_tensor() || ty.is_index() || ty.is_integer() || ty.is_float() {
            return None;
        }
        let text = ty.to_string();
        let fields = text.strip_prefix("!tgpu.smem<")?.strip_suffix('>')?;
        let fields: Vec<&str> = fields.split(", ").map(|f| f.trim_end_matches(" : i64")).collect();
        let [rows, cols, element, span, pitch, slots] = fields[..] else { return None };
        let dtype = if element == "i1" { DType::Bool } else { DType::from_name(element)? };
        let mut smem = Smem::new(rows.parse().ok()?, cols.parse().ok()?, dtype, slots.parse().ok()?);
        smem.layout.span_bytes = span.parse().ok()?;
        smem.layout.pitch_bytes = pitch.parse().ok()?;
        Some(smem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{blocked, mma};

    #[test]
    fn layouts_and_smem_types_round_trip() {
        let context = context(&[]);
        for layout in [
            mma::acc(64, 32, [4, 1]),
            mma::acc(64, 32, [4, 1]).slice(1),
            blocked(&[1, 2, 64, 32], 4, 8, &[3, 2, 1, 0]),
            blocked(&[1], 1, 1, &[0]),
        ] {
            let ty = distributed_type(&context, DType::BF16, &layout);
            assert_eq!(layout_of(ty), Some(layout.clone()));
            let reread = Type::parse(&context, &ty.to_string());
            assert_eq!(reread, Some(ty));
        }
        let smem = Smem::new(64, 128, DType::F16, 3);
        for smem in [smem, Smem::panels(64, 128, DType::F16, 3)] {
            assert_eq!(Smem::of(smem.ty(&context)), Some(smem));
        }
        assert_eq!((smem.layout.span_bytes, smem.bytes()), (128, 3 * 64 * 256));
        let halves = Smem::new(64, 128, DType::F4E2M1FN, 1);
        assert_eq!(Smem::of(halves.ty(&context)), Some(halves));
        assert_eq!((halves.cols(), halves.layout.cols, halves.bytes()), (128, 64, 64 * 64));
    }

    #[test]
    fn other_types_have_no_layout() {
        let context = context(&[]);
        let plain = tile_ir::types::tile_type(&context, DType::F32, &[4, 4]);
        assert_eq!((layout_of(plain), Smem::of(plain)), (None, None));
        let partial = Type::parse(&context, "tensor<4x4xf32, #tgpu.layout<\"register 0,1\">>").unwrap();
        assert_eq!(layout_of(partial), None);
    }
}
