//! Short names and accessors for MLIR's handles, types and attributes.
//!
//! Handles here carry the context's lifetime alone: they must not be used after the operation they name was
//! erased or its module dropped.

use melior::Context;
use melior::ir::attribute::{
    ArrayAttribute, Attribute, BoolAttribute, DenseI32ArrayAttribute, DenseI64ArrayAttribute,
    DictionaryAttribute, IntegerAttribute, StringAttribute,
};
use melior::ir::operation::OperationLike;
use melior::ir::r#type::{IntegerType, RankedTensorType, ShapedTypeLike, TypeLike};
use melior::ir::{
    BlockLike, BlockRef, Location, OperationRef, RegionLike, RegionRef, Type, Value, ValueLike,
};
use tile_lang::DType;

/// An operation.
pub type Op<'c> = OperationRef<'c, 'c>;
/// A value.
pub type Val<'c> = Value<'c, 'c>;
/// A block.
pub type Blk<'c> = BlockRef<'c, 'c>;

/// The MLIR type of one element.
pub fn element_type(context: &Context, dtype: DType) -> Type<'_> {
    match dtype {
        DType::F32 => Type::float32(context),
        DType::F16 => Type::float16(context),
        DType::BF16 => Type::bfloat16(context),
        DType::I32 => IntegerType::new(context, 32).into(),
        DType::I64 => IntegerType::new(context, 64).into(),
        DType::Index => Type::index(context),
        DType::Bool => IntegerType::new(context, 1).into(),
        DType::F8E4M3FN => Type::float8_e4m3fn(context),
        DType::F4E2M1FN => Type::float4_e2m1fn(context),
    }
}

/// The dtype of an element type; none for one the tile language does not have.
pub fn element_dtype(ty: Type) -> Option<DType> {
    if ty.is_index() {
        return Some(DType::Index);
    }
    if ty.is_integer() {
        return match IntegerType::try_from(ty).ok()?.width() {
            1 => Some(DType::Bool),
            32 => Some(DType::I32),
            64 => Some(DType::I64),
            _ => None,
        };
    }
    // SAFETY: the type is live; these only look at it.
    let (f32, f16, bf16) = unsafe {
        let raw = ty.to_raw();
        (mlir_sys::mlirTypeIsAF32(raw), mlir_sys::mlirTypeIsAF16(raw), mlir_sys::mlirTypeIsABF16(raw))
    };
    match (f32, f16, bf16) {
        (true, ..) => Some(DType::F32),
        (_, true, _) => Some(DType::F16),
        (_, _, true) => Some(DType::BF16),
        // SAFETY: as above.
        _ if unsafe { mlir_sys::mlirTypeIsAFloat8E4M3FN(ty.to_raw()) } => Some(DType::F8E4M3FN),
        // SAFETY: as above.
        _ if unsafe { mlir_sys::mlirTypeIsAFloat4E2M1FN(ty.to_raw()) } => Some(DType::F4E2M1FN),
        _ => None,
    }
}

/// The type of a tile.
pub fn tile_type<'c>(context: &'c Context, dtype: DType, shape: &[usize]) -> Type<'c> {
    let dims: Vec<u64> = shape.iter().map(|&d| d as u64).collect();
    RankedTensorType::new(&dims, element_type(context, dtype), None).into()
}

/// The same tile type with another element type; a scalar type becomes the element type. The encoding stays.
pub fn with_dtype<'c>(context: &'c Context, ty: Type<'c>, dtype: DType) -> Type<'c> {
    let element = element_type(context, dtype);
    match RankedTensorType::try_from(ty) {
        Ok(tensor) => {
            let dims: Vec<u64> = shape_of(ty).unwrap_or_default().iter().map(|&d| d as u64).collect();
            RankedTensorType::new(&dims, element, tensor.encoding()).into()
        }
        Err(_) => element,
    }
}

/// True for a tile's type.
pub fn is_tile(ty: Type) -> bool {
    ty.is_ranked_tensor()
}

/// The shape of a tile type of static shape; none for other types.
pub fn shape_of(ty: Type) -> Option<Vec<usize>> {
    let tensor = RankedTensorType::try_from(ty).ok()?;
    (0..tensor.rank())
        .map(|i| match tensor.dim_size(i).ok()? {
            melior::ir::r#type::DimSize::Static(size) => Some(size as usize),
            melior::ir::r#type::DimSize::Dynamic => None,
        })
        .collect()
}

/// The dtype of a tile or scalar type.
pub fn dtype_of(ty: Type) -> Option<DType> {
    match RankedTensorType::try_from(ty) {
        Ok(tensor) => element_dtype(tensor.element()),
        Err(_) => element_dtype(ty),
    }
}

/// What a view type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Number of dimensions.
    pub rank: usize,
    /// Element type.
    pub dtype: DType,
}

/// The type of a tensor argument.
///
/// # Panics
/// For `i64` and `index`, which only scalars can be.
pub fn view_type(context: &Context, rank: usize, dtype: DType) -> Type<'_> {
    let element = if dtype == DType::Bool { "i1" } else { dtype.name() };
    Type::parse(context, &format!("!tile.view<{rank} : i64, {element}>")).expect("a dtype tensors can have")
}

/// Rank and dtype of a view type; none for other types.
pub fn view_of(ty: Type) -> Option<View> {
    if ty.is_ranked_tensor() || ty.is_index() || ty.is_integer() || ty.is_float() {
        return None;
    }
    let text = ty.to_string();
    let (rank, element) = text.strip_prefix("!tile.view<")?.strip_suffix('>')?.split_once(" : i64, ")?;
    let dtype = if element == "i1" { DType::Bool } else { DType::from_name(element)? };
    Some(View { rank: rank.parse().ok()?, dtype })
}

/// The argument that a view is, or that it is a part of.
pub fn root_view(mut view: Val) -> Val {
    while let Some(op) = defining_op(view) {
        let Some(&sliced) = operands_of(op).first() else { break };
        view = sliced;
    }
    view
}

/// The type of a value.
pub fn type_of<'c>(value: Val<'c>) -> Type<'c> {
    value.r#type()
}

/// An operation's name: `tile.load`.
pub fn name_of(op: Op) -> String {
    op.name().as_string_ref().as_str().unwrap_or_default().to_owned()
}

/// The operations of a block in order.
pub fn ops_of<'c>(block: Blk<'c>) -> impl Iterator<Item = Op<'c>> {
    std::iter::successors(block.first_operation(), |op| op.next_in_block())
}

/// The blocks of every region of an operation.
pub fn blocks_of<'c>(op: Op<'c>) -> Vec<Blk<'c>> {
    let blocks = |region: RegionRef<'c, 'c>| {
        std::iter::successors(region.first_block(), |block| block.next_in_region()).collect::<Vec<_>>()
    };
    op.regions().flat_map(blocks).collect()
}

/// Every operation inside `op`, outer before inner, `op` itself not included.
pub fn nested_ops<'c>(op: Op<'c>) -> Vec<Op<'c>> {
    let mut found = Vec::new();
    collect_nested(op, &mut found);
    found
}

fn collect_nested<'c>(op: Op<'c>, found: &mut Vec<Op<'c>>) {
    for inner in blocks_of(op).into_iter().flat_map(ops_of) {
        found.push(inner);
        collect_nested(inner, found);
    }
}

/// The arguments of a block.
pub fn args_of<'c>(block: Blk<'c>) -> Vec<Val<'c>> {
    (0..block.argument_count()).filter_map(|i| block.argument(i).ok()).map(Into::into).collect()
}

/// The operands of an operation.
pub fn operands_of<'c>(op: Op<'c>) -> Vec<Val<'c>> {
    op.operands().collect()
}

/// The results of an operation.
pub fn results_of<'c>(op: Op<'c>) -> Vec<Val<'c>> {
    op.results().map(Into::into).collect()
}

/// The operation that computes a value; none for a block argument.
pub fn defining_op<'c>(value: Val<'c>) -> Option<Op<'c>> {
    if !value.is_operation_result() {
        return None;
    }
    // SAFETY: the value is an operation's result, so its owner is a live operation.
    Some(unsafe { Op::from_raw(mlir_sys::mlirOpResultGetOwner(value.to_raw())) })
}

/// True when nothing uses the value.
pub fn is_unused(value: Val) -> bool {
    // SAFETY: the value is live.
    unsafe { mlir_sys::mlirOpOperandIsNull(mlir_sys::mlirValueGetFirstUse(value.to_raw())) }
}

/// An operation that uses the value.
pub fn first_user<'c>(value: Val<'c>) -> Option<Op<'c>> {
    // SAFETY: the value is live; the owner of one of its uses is a live operation.
    unsafe {
        let operand = mlir_sys::mlirValueGetFirstUse(value.to_raw());
        (!mlir_sys::mlirOpOperandIsNull(operand))
            .then(|| Op::from_raw(mlir_sys::mlirOpOperandGetOwner(operand)))
    }
}

/// Makes every use of `old` a use of `new`.
pub fn replace_uses(old: Val, new: Val) {
    // SAFETY: both are live values of one context.
    unsafe { mlir_sys::mlirValueReplaceAllUsesOfWith(old.to_raw(), new.to_raw()) }
}

/// Removes and frees an operation whose results have no uses.
pub fn erase(op: Op) {
    debug_assert!(op.results().all(|r| is_unused(r.into())), "erased operation is still used: {op}");
    // SAFETY: nothing uses it; callers keep no handle to it.
    unsafe { mlir_sys::mlirOperationDestroy(op.to_raw()) }
}

/// True for a loop.
pub fn is_loop(op: Op) -> bool {
    matches!(name_of(op).as_str(), "scf.for" | "scf.while")
}

/// True when the value is defined in a region of `op`.
pub fn is_made_in(value: Val, op: Op) -> bool {
    // SAFETY: the value is live, and so is the block that defines it.
    let block = unsafe {
        let raw = value.to_raw();
        match value.is_block_argument() {
            true => mlir_sys::mlirBlockArgumentGetOwner(raw),
            false => mlir_sys::mlirOperationGetBlock(mlir_sys::mlirOpResultGetOwner(raw)),
        }
    };
    // SAFETY: as above.
    let block = unsafe { Blk::from_raw(block) };
    std::iter::successors(block.parent_operation(), |o| o.parent_operation()).any(|ancestor| ancestor == op)
}

/// Moves an operation in front of another.
pub fn move_before(op: Op, other: Op) {
    // SAFETY: both are live and in blocks.
    unsafe { mlir_sys::mlirOperationMoveBefore(op.to_raw(), other.to_raw()) }
}

/// The operation whose region holds the block.
pub fn parent_op(block: Blk<'_>) -> Option<Op<'_>> {
    block.parent_operation()
}

/// An attribute by name.
pub fn attr<'c>(op: Op<'c>, name: &str) -> Option<Attribute<'c>> {
    op.attribute(name).ok()
}

/// An integer attribute by name.
pub fn int_attr(op: Op, name: &str) -> Option<i64> {
    IntegerAttribute::try_from(attr(op, name)?).ok().map(|a| a.value())
}

/// A bool attribute by name.
pub fn bool_attr(op: Op, name: &str) -> Option<bool> {
    BoolAttribute::try_from(attr(op, name)?).ok().map(|a| a.value())
}

/// A string attribute by name.
pub fn str_attr(op: Op, name: &str) -> Option<String> {
    StringAttribute::try_from(attr(op, name)?).ok().map(|a| a.value().to_owned())
}

/// A dense array attribute of integers by name.
pub fn array_attr(op: Op, name: &str) -> Option<Vec<i64>> {
    let attribute = attr(op, name)?;
    if let Ok(array) = DenseI64ArrayAttribute::try_from(attribute) {
        return (0..array.len()).map(|i| array.element(i).ok()).collect();
    }
    let array = DenseI32ArrayAttribute::try_from(attribute).ok()?;
    (0..array.len()).map(|i| array.element(i).ok().map(i64::from)).collect()
}

/// Sets an attribute.
pub fn set_attr<'c>(op: Op<'c>, name: &str, attribute: Attribute<'c>) {
    use melior::ir::attribute::AttributeLike;
    let name = melior::StringRef::new(name);
    // SAFETY: operation and attribute are live and of one context.
    unsafe { mlir_sys::mlirOperationSetAttributeByName(op.to_raw(), name.to_raw(), attribute.to_raw()) }
}

/// Gives an operation another source location.
pub fn set_location<'c>(op: Op<'c>, location: Location<'c>) {
    // SAFETY: operation and location are live and of one context.
    unsafe { mlir_sys::mlirOperationSetLocation(op.to_raw(), location.to_raw()) }
}

/// A 64-bit integer attribute.
pub fn integer_attr(context: &Context, value: i64) -> Attribute<'_> {
    IntegerAttribute::new(IntegerType::new(context, 64).into(), value).into()
}

/// A bool attribute of a function's argument.
pub fn bool_attr_of_arg(argument: Val, name: &str) -> Option<bool> {
    BoolAttribute::try_from(arg_attr(argument, name)?).ok().map(|a| a.value())
}

/// An attribute of a function's argument.
pub fn arg_attr<'c>(argument: Val<'c>, name: &str) -> Option<Attribute<'c>> {
    if !argument.is_block_argument() {
        return None;
    }
    // SAFETY: the value is a live block argument.
    let (block, number) = unsafe {
        let block = mlir_sys::mlirBlockArgumentGetOwner(argument.to_raw());
        (Blk::from_raw(block), mlir_sys::mlirBlockArgumentGetArgNumber(argument.to_raw()))
    };
    let all = ArrayAttribute::try_from(attr(block.parent_operation()?, "arg_attrs")?).ok()?;
    let own = DictionaryAttribute::try_from(all.element(number as usize).ok()?).ok()?;
    own.element_by_name(name)
}
