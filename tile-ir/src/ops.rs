//! The operations of the tile dialect: how to make each, and how to read one.

use crate::context::TileContext;
use crate::types::{
    Blk, Op, Val, array_attr, dtype_of, element_type, int_attr, operands_of, results_of, shape_of, str_attr,
    tile_type, type_of, view_of,
};
use melior::ir::attribute::{
    Attribute, DenseElementsAttribute, DenseI32ArrayAttribute, DenseI64ArrayAttribute, FloatAttribute,
    IntegerAttribute, StringAttribute,
};
use melior::ir::operation::{OperationBuilder, OperationLike};
use melior::ir::r#type::IntegerType;
use melior::ir::{Block, BlockLike, Identifier, Location, Region, RegionLike, Type};
use tile_lang::DType;
pub use tile_lang::typed::ReduceKind;

/// The spelling of a reduction in the IR.
pub fn reduce_name(kind: ReduceKind) -> &'static str {
    match kind {
        ReduceKind::Sum => "sum",
        ReduceKind::Max => "max",
        ReduceKind::Min => "min",
    }
}

/// An operation of the tile dialect, taken apart. Shapes and dtypes are those of its operands and results.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum TileOp<'c> {
    ProgramId { axis: usize },
    NumPrograms { axis: usize },
    Dim { view: Val<'c>, axis: usize },
    At { view: Val<'c>, index: Vec<Val<'c>> },
    Slice { view: Val<'c>, axis: usize, start: Val<'c>, len: Val<'c> },
    ArriveLast { view: Val<'c>, index: Vec<Val<'c>>, count: Val<'c> },
    JoinParts { workspace: [Val<'c>; 2], numbers: [Val<'c>; 4] },
    Check { cond: Val<'c>, message: String },
    Load { view: Val<'c>, index: Vec<Val<'c>> },
    Store { view: Val<'c>, index: Vec<Val<'c>>, value: Val<'c> },
    Gather { view: Val<'c>, index: Vec<Val<'c>>, mask: Option<Val<'c>> },
    Scatter { view: Val<'c>, index: Vec<Val<'c>>, value: Val<'c>, mask: Option<Val<'c>> },
    Splat { scalar: Val<'c> },
    Iota,
    Reshape { tile: Val<'c> },
    Broadcast { tile: Val<'c> },
    Transpose { tile: Val<'c>, perm: Vec<usize> },
    Reduce { tile: Val<'c>, axis: usize, kind: ReduceKind },
    Mma { lhs: Val<'c>, rhs: Val<'c>, acc: Val<'c> },
    MmaScaled { lhs: Val<'c>, lhs_scales: Val<'c>, rhs: Val<'c>, rhs_scales: Val<'c>, acc: Val<'c> },
    Cast { value: Val<'c> },
}

impl<'c> TileOp<'c> {
    /// Takes an operation apart; none when it is of another dialect or malformed.
    pub fn of(op: Op<'c>) -> Option<TileOp<'c>> {
        let identifier = op.name();
        let name = identifier.as_string_ref().as_str().ok()?.strip_prefix("tile.")?;
        let operands = operands_of(op);
        let axis = || usize::try_from(int_attr(op, "axis")?).ok();
        let first = || operands.first().copied();
        Some(match name {
            "program_id" => TileOp::ProgramId { axis: axis()? },
            "num_programs" => TileOp::NumPrograms { axis: axis()? },
            "dim" => TileOp::Dim { view: first()?, axis: axis()? },
            "at" => TileOp::At { view: first()?, index: operands[1..].to_vec() },
            "slice" => {
                let [view, start, len] = operands[..] else { return None };
                TileOp::Slice { view, axis: axis()?, start, len }
            }
            "arrive_last" => {
                let (count, rest) = operands.split_last()?;
                TileOp::ArriveLast { view: *rest.first()?, index: rest[1..].to_vec(), count: *count }
            }
            "join_parts" => {
                let [parts, counters, place, count, first, slot] = operands[..] else { return None };
                TileOp::JoinParts { workspace: [parts, counters], numbers: [place, count, first, slot] }
            }
            "check" => TileOp::Check { cond: first()?, message: str_attr(op, "message")? },
            "load" => TileOp::Load { view: first()?, index: operands[1..].to_vec() },
            "store" => {
                let (value, rest) = operands.split_last()?;
                TileOp::Store { view: *rest.first()?, index: rest[1..].to_vec(), value: *value }
            }
            "gather" => {
                let [_, rank, masks] = segments(op, operands.len())?;
                let index = operands[1..1 + rank].to_vec();
                TileOp::Gather { view: first()?, index, mask: (masks == 1).then(|| operands[1 + rank]) }
            }
            "scatter" => {
                let [_, rank, _, masks] = segments(op, operands.len())?;
                TileOp::Scatter {
                    view: first()?,
                    index: operands[1..1 + rank].to_vec(),
                    value: operands[1 + rank],
                    mask: (masks == 1).then(|| operands[2 + rank]),
                }
            }
            "splat" => TileOp::Splat { scalar: first()? },
            "iota" => TileOp::Iota,
            "reshape" => TileOp::Reshape { tile: first()? },
            "broadcast" => TileOp::Broadcast { tile: first()? },
            "transpose" => {
                let perm = array_attr(op, "perm")?;
                let perm = perm.into_iter().map(|p| usize::try_from(p).ok()).collect::<Option<_>>()?;
                TileOp::Transpose { tile: first()?, perm }
            }
            "reduce" => {
                let kind = match str_attr(op, "kind")?.as_str() {
                    "sum" => ReduceKind::Sum,
                    "max" => ReduceKind::Max,
                    "min" => ReduceKind::Min,
                    _ => return None,
                };
                TileOp::Reduce { tile: first()?, axis: axis()?, kind }
            }
            "mma" => {
                let [lhs, rhs, acc] = operands[..] else { return None };
                TileOp::Mma { lhs, rhs, acc }
            }
            "mma_scaled" => {
                let [lhs, lhs_scales, rhs, rhs_scales, acc] = operands[..] else { return None };
                TileOp::MmaScaled { lhs, lhs_scales, rhs, rhs_scales, acc }
            }
            "cast" => TileOp::Cast { value: first()? },
            _ => return None,
        })
    }
}

/// The sizes of the operand groups, which add up to `total`.
fn segments<const N: usize>(op: Op, total: usize) -> Option<[usize; N]> {
    let sizes: Vec<usize> = array_attr(op, "operandSegmentSizes")?.into_iter().map(|s| s as usize).collect();
    if sizes.iter().sum::<usize>() != total {
        return None;
    }
    sizes.try_into().ok()
}

/// Where a [`Builder`] puts operations.
#[derive(Clone, Copy, Debug)]
enum Place<'c> {
    End(Blk<'c>),
    Before(Op<'c>),
}

/// Makes operations at one place, with one source location.
#[derive(Clone, Copy, Debug)]
pub struct Builder<'c> {
    context: &'c TileContext,
    place: Place<'c>,
    location: Location<'c>,
}

impl<'c> Builder<'c> {
    /// Appends to a block.
    pub fn at_end(context: &'c TileContext, block: Blk<'c>, location: Location<'c>) -> Builder<'c> {
        Builder { context, place: Place::End(block), location }
    }

    /// Inserts in front of an operation, with its location.
    pub fn before(context: &'c TileContext, op: Op<'c>) -> Builder<'c> {
        Builder { context, place: Place::Before(op), location: op.location() }
    }

    /// The context.
    pub fn context(&self) -> &'c TileContext {
        self.context
    }

    /// The location of the operations that follow.
    pub fn location(&self) -> Location<'c> {
        self.location
    }

    /// Sets the location of the operations that follow.
    pub fn set_location(&mut self, location: Location<'c>) {
        self.location = location;
    }

    /// Adds any operation.
    pub fn op(
        &self,
        name: &str,
        operands: &[Val<'c>],
        results: &[Type<'c>],
        attributes: &[(&str, Attribute<'c>)],
    ) -> Op<'c> {
        self.op_with_regions(name, operands, results, attributes, Vec::new())
    }

    /// Adds any operation with regions.
    ///
    /// # Panics
    /// When MLIR cannot make it: its name is not of a loaded dialect.
    pub fn op_with_regions(
        &self,
        name: &str,
        operands: &[Val<'c>],
        results: &[Type<'c>],
        attributes: &[(&str, Attribute<'c>)],
        regions: Vec<Region<'c>>,
    ) -> Op<'c> {
        let attributes: Vec<_> =
            attributes.iter().map(|(name, value)| (Identifier::new(self.context, name), *value)).collect();
        let op = OperationBuilder::new(name, self.location)
            .add_operands(operands)
            .add_results(results)
            .add_attributes(&attributes)
            .add_regions_vec(regions)
            .build()
            .unwrap_or_else(|e| panic!("{name}: {e}: {:?}", self.context.take_messages()));
        match self.place {
            Place::End(block) => block.append_operation(op),
            Place::Before(next) => {
                let block = next.block().expect("an operation in a block");
                block.insert_operation_before(next, op)
            }
        }
    }

    /// Adds an operation with one result.
    pub fn value(
        &self,
        name: &str,
        operands: &[Val<'c>],
        result: Type<'c>,
        attributes: &[(&str, Attribute<'c>)],
    ) -> Val<'c> {
        results_of(self.op(name, operands, &[result], attributes))[0]
    }

    /// Adds an operation whose result has the type of its first operand: `arith.addf` and its like.
    pub fn same(&self, name: &str, operands: &[Val<'c>]) -> Val<'c> {
        self.value(name, operands, type_of(operands[0]), &[])
    }

    /// A 64-bit integer attribute.
    pub fn int(&self, value: i64) -> Attribute<'c> {
        IntegerAttribute::new(IntegerType::new(self.context, 64).into(), value).into()
    }

    /// A scalar constant; integers and bools are truncated from the number.
    pub fn scalar_const(&self, dtype: DType, value: f64) -> Val<'c> {
        let ty = element_type(self.context, dtype);
        self.value("arith.constant", &[], ty, &[("value", self.number(dtype, value))])
    }

    /// An integer, index or bool constant.
    pub fn int_const(&self, dtype: DType, value: i64) -> Val<'c> {
        let ty = element_type(self.context, dtype);
        let attribute = IntegerAttribute::new(ty, value).into();
        self.value("arith.constant", &[], ty, &[("value", attribute)])
    }

    /// An index constant.
    pub fn index(&self, value: i64) -> Val<'c> {
        self.int_const(DType::Index, value)
    }

    /// The attribute of a number of some dtype.
    pub fn number(&self, dtype: DType, value: f64) -> Attribute<'c> {
        let ty = element_type(self.context, dtype);
        match dtype.is_float() {
            true => FloatAttribute::new(self.context, ty, value).into(),
            false => IntegerAttribute::new(ty, value as i64).into(),
        }
    }

    /// A tile whose elements all are the number.
    pub fn splat_const(&self, dtype: DType, shape: &[usize], value: f64) -> Val<'c> {
        let ty = tile_type(self.context, dtype, shape);
        let dense = DenseElementsAttribute::splat(ty, self.number(dtype, value)).into();
        self.value("arith.constant", &[], ty, &[("value", dense)])
    }

    /// `tile.program_id`.
    pub fn program_id(&self, axis: usize) -> Val<'c> {
        self.value("tile.program_id", &[], Type::index(self.context), &[("axis", self.int(axis as i64))])
    }

    /// `tile.num_programs`.
    pub fn num_programs(&self, axis: usize) -> Val<'c> {
        self.value("tile.num_programs", &[], Type::index(self.context), &[("axis", self.int(axis as i64))])
    }

    /// `tile.dim`.
    pub fn dim(&self, view: Val<'c>, axis: usize) -> Val<'c> {
        self.value("tile.dim", &[view], Type::index(self.context), &[("axis", self.int(axis as i64))])
    }

    /// `tile.at` of an element.
    ///
    /// # Panics
    /// When the first operand is not a view.
    pub fn at(&self, view: Val<'c>, index: &[Val<'c>]) -> Val<'c> {
        let dtype = view_of(type_of(view)).expect("the operand is a view").dtype;
        let operands: Vec<_> = [view].into_iter().chain(index.iter().copied()).collect();
        self.value("tile.at", &operands, element_type(self.context, dtype), &[])
    }

    /// `tile.slice` along an axis.
    pub fn slice(&self, view: Val<'c>, axis: usize, start: Val<'c>, len: Val<'c>) -> Val<'c> {
        let axis = self.int(axis as i64);
        self.value("tile.slice", &[view, start, len], type_of(view), &[("axis", axis)])
    }

    /// `tile.arrive_last` at a counter.
    pub fn arrive_last(&self, view: Val<'c>, index: &[Val<'c>], count: Val<'c>) -> Val<'c> {
        let operands: Vec<_> = [view].into_iter().chain(index.iter().copied()).chain([count]).collect();
        self.value("tile.arrive_last", &operands, element_type(self.context, DType::Bool), &[])
    }

    /// `tile.join_parts` of the sum of the loop in front: `workspace` is the addresses of parts and counters, `numbers`
    /// are place, count, first CTA and slot.
    pub fn join_parts(&self, workspace: [Val<'c>; 2], numbers: [Val<'c>; 4]) -> Val<'c> {
        let operands: Vec<_> = workspace.into_iter().chain(numbers).collect();
        self.value("tile.join_parts", &operands, element_type(self.context, DType::Bool), &[])
    }

    /// `tile.check` of a condition.
    pub fn check(&self, cond: Val<'c>, message: &str) -> Op<'c> {
        let message = StringAttribute::new(self.context, message).into();
        self.op("tile.check", &[cond], &[], &[("message", message)])
    }

    /// `tile.load` of a block of a shape.
    ///
    /// # Panics
    /// When the first operand is not a view; as for the other methods that take one.
    pub fn load(&self, view: Val<'c>, index: &[Val<'c>], shape: &[usize]) -> Val<'c> {
        let operands: Vec<_> = [view].into_iter().chain(index.iter().copied()).collect();
        self.value("tile.load", &operands, self.tile_of_view(view, shape), &[])
    }

    /// `tile.store` of a block.
    pub fn store(&self, view: Val<'c>, index: &[Val<'c>], value: Val<'c>) -> Op<'c> {
        let operands: Vec<_> = [view].into_iter().chain(index.iter().copied()).chain([value]).collect();
        self.op("tile.store", &operands, &[], &[])
    }

    /// `tile.gather`; the result has the shape of the index tiles.
    pub fn gather(&self, view: Val<'c>, index: &[Val<'c>], mask: Option<Val<'c>>) -> Val<'c> {
        let operands: Vec<_> = [view].into_iter().chain(index.iter().copied()).chain(mask).collect();
        let shape = index.first().and_then(|i| shape_of(type_of(*i))).unwrap_or_default();
        let sizes = self.segments(&[1, index.len(), usize::from(mask.is_some())]);
        self.value("tile.gather", &operands, self.tile_of_view(view, &shape), &[sizes])
    }

    /// `tile.scatter`.
    pub fn scatter(&self, view: Val<'c>, index: &[Val<'c>], value: Val<'c>, mask: Option<Val<'c>>) -> Op<'c> {
        let operands: Vec<_> =
            [view].into_iter().chain(index.iter().copied()).chain([value]).chain(mask).collect();
        let sizes = self.segments(&[1, index.len(), 1, usize::from(mask.is_some())]);
        self.op("tile.scatter", &operands, &[], &[sizes])
    }

    fn segments(&self, sizes: &[usize]) -> (&'static str, Attribute<'c>) {
        let sizes: Vec<i32> = sizes.iter().map(|&s| s as i32).collect();
        ("operandSegmentSizes", DenseI32ArrayAttribute::new(self.context, &sizes).into())
    }

    fn tile_of_view(&self, view: Val<'c>, shape: &[usize]) -> Type<'c> {
        let view = view_of(type_of(view)).expect("the operand is a view");
        tile_type(self.context, view.dtype, shape)
    }

    /// `tile.splat` to a shape.
    pub fn splat(&self, scalar: Val<'c>, shape: &[usize]) -> Val<'c> {
        let dtype = dtype_of(type_of(scalar)).expect("a scalar");
        self.value("tile.splat", &[scalar], tile_type(self.context, dtype, shape), &[])
    }

    /// `tile.iota` of a length.
    pub fn iota(&self, len: usize) -> Val<'c> {
        self.value("tile.iota", &[], tile_type(self.context, DType::I32, &[len]), &[])
    }

    fn reshaped(
        &self,
        name: &str,
        tile: Val<'c>,
        shape: &[usize],
        attrs: &[(&str, Attribute<'c>)],
    ) -> Val<'c> {
        let dtype = dtype_of(type_of(tile)).expect("a tile");
        self.value(name, &[tile], tile_type(self.context, dtype, shape), attrs)
    }

    /// `tile.reshape` to a shape.
    pub fn reshape(&self, tile: Val<'c>, shape: &[usize]) -> Val<'c> {
        self.reshaped("tile.reshape", tile, shape, &[])
    }

    /// `tile.broadcast` to a shape.
    pub fn broadcast(&self, tile: Val<'c>, shape: &[usize]) -> Val<'c> {
        self.reshaped("tile.broadcast", tile, shape, &[])
    }

    /// `tile.transpose`.
    pub fn transpose(&self, tile: Val<'c>, perm: &[usize]) -> Val<'c> {
        let from = shape_of(type_of(tile)).unwrap_or_default();
        let shape: Vec<usize> = perm.iter().map(|&p| from[p]).collect();
        let perm: Vec<i64> = perm.iter().map(|&p| p as i64).collect();
        let perm = DenseI64ArrayAttribute::new(self.context, &perm).into();
        self.reshaped("tile.transpose", tile, &shape, &[("perm", perm)])
    }

    /// `tile.reduce` along an axis.
    pub fn reduce(&self, tile: Val<'c>, axis: usize, kind: ReduceKind) -> Val<'c> {
        let mut shape = shape_of(type_of(tile)).unwrap_or_default();
        shape[axis] = 1;
        let kind = StringAttribute::new(self.context, reduce_name(kind)).into();
        self.reshaped("tile.reduce", tile, &shape, &[("axis", self.int(axis as i64)), ("kind", kind)])
    }

    /// `tile.mma`.
    pub fn mma(&self, lhs: Val<'c>, rhs: Val<'c>, acc: Val<'c>) -> Val<'c> {
        self.value("tile.mma", &[lhs, rhs, acc], type_of(acc), &[])
    }

    /// `tile.cast` of a tile or scalar to another dtype.
    pub fn cast(&self, value: Val<'c>, dtype: DType) -> Val<'c> {
        let ty = crate::types::with_dtype(self.context, type_of(value), dtype);
        self.value("tile.cast", &[value], ty, &[])
    }

    /// `scf.for` with carried values; `body` gets the loop variable and the values, and returns the next ones.
    pub fn for_loop<E>(
        &self,
        [lo, hi, step]: [Val<'c>; 3],
        carried: &[Val<'c>],
        body: impl FnOnce(&mut Builder<'c>, Val<'c>, &[Val<'c>]) -> Result<Vec<Val<'c>>, E>,
    ) -> Result<Vec<Val<'c>>, E> {
        let types: Vec<Type> = carried.iter().map(|v| type_of(*v)).collect();
        let arguments: Vec<Type> = [type_of(lo)].into_iter().chain(types.iter().copied()).collect();
        let region = self.region(&arguments, "scf.yield", |b, args| body(b, args[0], &args[1..]))?;
        let operands: Vec<_> = [lo, hi, step].into_iter().chain(carried.iter().copied()).collect();
        Ok(results_of(self.op_with_regions("scf.for", &operands, &types, &[], vec![region])))
    }

    /// `scf.if`; both branches return values of the types.
    pub fn if_else<E>(
        &self,
        cond: Val<'c>,
        types: &[Type<'c>],
        then: impl FnOnce(&mut Builder<'c>) -> Result<Vec<Val<'c>>, E>,
        otherwise: impl FnOnce(&mut Builder<'c>) -> Result<Vec<Val<'c>>, E>,
    ) -> Result<Vec<Val<'c>>, E> {
        let then = self.region(&[], "scf.yield", |b, _| then(b))?;
        let otherwise = self.region(&[], "scf.yield", |b, _| otherwise(b))?;
        Ok(results_of(self.op_with_regions("scf.if", &[cond], types, &[], vec![then, otherwise])))
    }

    /// `scf.while` with carried values; `before` returns the condition and the values that go on, `body` the
    /// next ones.
    pub fn while_loop<E>(
        &self,
        carried: &[Val<'c>],
        before: impl FnOnce(&mut Builder<'c>, &[Val<'c>]) -> Result<Vec<Val<'c>>, E>,
        body: impl FnOnce(&mut Builder<'c>, &[Val<'c>]) -> Result<Vec<Val<'c>>, E>,
    ) -> Result<Vec<Val<'c>>, E> {
        let types: Vec<Type> = carried.iter().map(|v| type_of(*v)).collect();
        let before = self.region(&types, "scf.condition", before)?;
        let body = self.region(&types, "scf.yield", body)?;
        Ok(results_of(self.op_with_regions("scf.while", carried, &types, &[], vec![before, body])))
    }

    /// A region of one block that ends with `terminator` over the values that `body` returns.
    fn region<E>(
        &self,
        arguments: &[Type<'c>],
        terminator: &str,
        body: impl FnOnce(&mut Builder<'c>, &[Val<'c>]) -> Result<Vec<Val<'c>>, E>,
    ) -> Result<Region<'c>, E> {
        let arguments: Vec<_> = arguments.iter().map(|ty| (*ty, self.location)).collect();
        let region = Region::new();
        let block = region.append_block(Block::new(&arguments));
        // SAFETY: the region, which the caller puts into a live operation, owns the block.
        let block = unsafe { Blk::from_raw(block.to_raw()) };
        let mut builder = Builder::at_end(self.context, block, self.location);
        let values = body(&mut builder, &crate::types::args_of(block))?;
        builder.set_location(self.location);
        builder.op(terminator, &values, &[], &[]);
        Ok(region)
    }
}
