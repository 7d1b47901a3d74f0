//! Lowers a checked, fully bound kernel to the tile dialect.
//!
//! Input: a [`Program`] without symbols. Output: one function whose arguments are the kernel's; variables have
//! become SSA values, loops and branches `scf` operations that carry what they assign. Invariant: every
//! operation's location is the kernel source's.

mod convert;
mod expr;

use crate::context::{Place, TileContext};
use crate::module::Module;
use crate::ops::Builder;
use crate::types::{Blk, Val, args_of, type_of, view_type};
use melior::ir::attribute::{
    ArrayAttribute, Attribute, BoolAttribute, DictionaryAttribute, StringAttribute, TypeAttribute,
};
use melior::ir::r#type::FunctionType;
use melior::ir::{Block, BlockLike, Identifier, Location, Region, RegionLike, Type};
use std::cell::RefCell;
use tile_lang::config::TensorFacts;
use tile_lang::typed::{Expr, Param, ParamKind, Program, Stmt, TypedDType, VarId, View};
use tile_lang::{DType, Span};

/// Why a kernel does not lower.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LowerError {
    /// A size or dtype has no value in this instantiation.
    #[error("{place}: `{name}` has no value")]
    Unbound {
        /// Where it is used.
        place: Place,
        /// The const or dtype parameter.
        name: String,
    },
    /// An operation that its operands' dtype does not have.
    #[error("{place}: {operation} is not defined on {dtype}")]
    DType {
        /// Where it is.
        place: Place,
        /// The operation, as written.
        operation: &'static str,
        /// The operands' dtype.
        dtype: DType,
    },
    /// As many facts as tensor arguments are needed.
    #[error("facts were given for {found} tensors; the kernel takes {expected}")]
    Facts {
        /// Tensor arguments of the kernel.
        expected: usize,
        /// Facts given.
        found: usize,
    },
}

/// Lowers a fully bound program; `facts` has one entry a tensor argument, in order.
///
/// # Errors
/// When a size or dtype is unbound, or `facts` does not fit the arguments.
pub fn lower_program<'c>(
    program: &Program,
    facts: &[TensorFacts],
    context: &'c TileContext,
) -> Result<Module<'c>, LowerError> {
    let tensors = program.params.iter().filter(|p| matches!(p.kind, ParamKind::Tensor { .. })).count();
    if tensors != facts.len() {
        return Err(LowerError::Facts { expected: tensors, found: facts.len() });
    }
    let mut lowering = Lowering { program, context, args: Vec::new(), vars: vec![None; program.vars.len()] };
    let span = program.params.first().map_or_else(Span::default, |p| p.span);
    let location = lowering.location(span);
    let module = Module::empty(context, location);

    let mut arguments = Vec::new();
    for param in &program.params {
        arguments.push((lowering.param_type(param)?, lowering.location(param.span)));
    }
    let region = Region::new();
    let entry = region.append_block(Block::new(&arguments));
    // SAFETY: the region owns the block and goes into the module's function below.
    let entry = unsafe { Blk::from_raw(entry.to_raw()) };
    lowering.args = args_of(entry);

    let mut body = Builder::at_end(context, entry, location);
    lowering.block(&mut body, &program.body)?;
    body.set_location(location);
    body.op("func.return", &[], &[], &[]);

    let types: Vec<Type> = arguments.iter().map(|(ty, _)| *ty).collect();
    let function_type = TypeAttribute::new(FunctionType::new(context, &types, &[]).into());
    let attributes = [
        ("sym_name", StringAttribute::new(context, &program.name).into()),
        ("function_type", function_type.into()),
        ("arg_attrs", arg_attributes(context, program, facts)),
    ];
    Builder::at_end(context, module.top(), location).op_with_regions(
        "func.func",
        &[],
        &[],
        &attributes,
        vec![region],
    );
    Ok(module)
}

/// Each argument's name, and what is known of a tensor's memory.
fn arg_attributes<'c>(context: &'c TileContext, program: &Program, facts: &[TensorFacts]) -> Attribute<'c> {
    let mut facts = facts.iter();
    let int = |v: u32| crate::types::integer_attr(context, i64::from(v));
    let dictionaries: Vec<Attribute> = program
        .params
        .iter()
        .map(|param| {
            let mut entries = vec![("tile.name", StringAttribute::new(context, &param.name).into())];
            if let (ParamKind::Tensor { mutable, .. }, Some(facts)) =
                (&param.kind, tensor_facts(param, &mut facts))
            {
                entries.push(("tile.align_bytes", int(facts.align_bytes)));
                entries.push(("tile.contiguous", BoolAttribute::new(context, facts.contiguous).into()));
                entries.push(("tile.mutable", BoolAttribute::new(context, *mutable).into()));
            }
            let entries: Vec<_> =
                entries.into_iter().map(|(name, value)| (Identifier::new(context, name), value)).collect();
            DictionaryAttribute::new(context, &entries).into()
        })
        .collect();
    ArrayAttribute::new(context, &dictionaries).into()
}

fn tensor_facts<'f>(param: &Param, facts: &mut std::slice::Iter<'f, TensorFacts>) -> Option<&'f TensorFacts> {
    match param.kind {
        ParamKind::Tensor { .. } => facts.next(),
        ParamKind::Scalar(_) => None,
    }
}

/// The state of one lowering: the value that each variable has at this point.
struct Lowering<'c, 'p> {
    program: &'p Program,
    context: &'c TileContext,
    args: Vec<Val<'c>>,
    vars: Vec<Option<Val<'c>>>,
}

impl<'c, 'p> Lowering<'c, 'p> {
    fn place(&self, span: Span) -> Place {
        let file = self.program.files.get(span.file as usize).cloned().unwrap_or_default();
        Place { file, line: span.line as usize, col: span.col as usize }
    }

    fn location(&self, span: Span) -> Location<'c> {
        let file = self.program.files.get(span.file as usize).map_or("", String::as_str);
        Location::new(self.context, file, span.line as usize, span.col as usize)
    }

    fn dtype(&self, dtype: &TypedDType, span: Span) -> Result<DType, LowerError> {
        match dtype {
            TypedDType::Known(dtype) => Ok(*dtype),
            TypedDType::Param(name) => {
                Err(LowerError::Unbound { place: self.place(span), name: name.clone() })
            }
        }
    }

    fn param_type(&self, param: &Param) -> Result<Type<'c>, LowerError> {
        match &param.kind {
            ParamKind::Tensor { dtype, rank, .. } => {
                let dtype = self.dtype(dtype, param.span)?;
                if matches!(dtype, DType::I64 | DType::Index) {
                    return Err(LowerError::DType {
                        place: self.place(param.span),
                        operation: "a tensor argument",
                        dtype,
                    });
                }
                Ok(view_type(self.context, *rank, dtype))
            }
            ParamKind::Scalar(dtype) => {
                Ok(crate::types::element_type(self.context, self.dtype(dtype, param.span)?))
            }
        }
    }

    /// The variable's value here.
    fn var(&self, var: VarId) -> Val<'c> {
        self.vars[var].unwrap_or_else(|| panic!("`{}` is used before it is set", self.program.vars[var].name))
    }

    /// A tensor argument, or the part of it that its slices leave.
    fn view(&self, b: &Builder<'c>, view: &View) -> Val<'c> {
        view.slices.iter().fold(self.args[view.param], |part, slice| {
            b.slice(part, slice.axis, self.var(slice.start), self.var(slice.len))
        })
    }

    fn values(&self, vars: &[VarId]) -> Vec<Val<'c>> {
        vars.iter().map(|&var| self.var(var)).collect()
    }

    fn set_vars(&mut self, vars: &[VarId], values: &[Val<'c>]) {
        for (&var, &value) in vars.iter().zip(values) {
            self.vars[var] = Some(value);
        }
    }

    fn block(&mut self, b: &mut Builder<'c>, stmts: &[Stmt]) -> Result<(), LowerError> {
        stmts.iter().try_for_each(|stmt| self.stmt(b, stmt))
    }

    fn exprs(&mut self, b: &mut Builder<'c>, exprs: &[Expr]) -> Result<Vec<Val<'c>>, LowerError> {
        exprs.iter().map(|e| self.expr(b, e)).collect()
    }

    fn stmt(&mut self, b: &mut Builder<'c>, stmt: &Stmt) -> Result<(), LowerError> {
        match stmt {
            Stmt::Let { var, value } | Stmt::Assign { var, value } => {
                self.vars[*var] = Some(self.expr(b, value)?);
            }
            Stmt::For { var, lo, hi, step, body, carried, span } => {
                let bounds = [self.expr(b, lo)?, self.expr(b, hi)?, self.expr(b, step)?];
                b.set_location(self.location(*span));
                let results = b.for_loop(bounds, &self.values(carried), |b, index, args| {
                    self.vars[*var] = Some(index);
                    self.set_vars(carried, args);
                    self.block(b, body)?;
                    Ok(self.values(carried))
                })?;
                self.set_vars(carried, &results);
            }
            Stmt::While { before, cond, body, carried, span } => {
                b.set_location(self.location(*span));
                let inits = self.values(carried);
                let this = RefCell::new(&mut *self);
                let results = b.while_loop(
                    &inits,
                    |b, args| {
                        let mut this = this.borrow_mut();
                        this.set_vars(carried, args);
                        this.block(b, before)?;
                        let cond = this.expr(b, cond)?;
                        Ok([cond].into_iter().chain(this.values(carried)).collect())
                    },
                    |b, args| {
                        let mut this = this.borrow_mut();
                        this.set_vars(carried, args);
                        this.block(b, body)?;
                        Ok(this.values(carried))
                    },
                )?;
                self.set_vars(carried, &results);
            }
            Stmt::If { cond, then, otherwise, assigned, span } => {
                let cond = self.expr(b, cond)?;
                self.branch(b, cond, [then, otherwise], assigned, *span)?;
            }
            Stmt::Store { tensor, index, value, span } => {
                let index = self.exprs(b, index)?;
                let value = self.expr(b, value)?;
                b.set_location(self.location(*span));
                b.store(self.view(b, tensor), &index, value);
            }
            Stmt::Scatter { tensor, index, value, mask, span } => {
                let value = self.expr(b, value)?;
                let shape = crate::types::shape_of(type_of(value)).unwrap_or_default();
                let index = self.exprs(b, index)?;
                let mask = mask.as_ref().map(|m| self.expr(b, m)).transpose()?;
                b.set_location(self.location(*span));
                let index: Vec<_> = index.into_iter().map(|i| expr::broadcast(b, i, &shape)).collect();
                let mask = mask.map(|m| expr::broadcast(b, m, &shape));
                b.scatter(self.view(b, tensor), &index, value, mask);
            }
            Stmt::ArriveLast { var, tensor, index, count, span } => {
                let index = self.exprs(b, index)?;
                let count = self.expr(b, count)?;
                b.set_location(self.location(*span));
                self.vars[*var] = Some(b.arrive_last(self.view(b, tensor), &index, count));
            }
            Stmt::Check { cond, message, span } => {
                let cond = self.expr(b, cond)?;
                b.set_location(self.location(*span));
                b.check(cond, message);
            }
        }
        Ok(())
    }

    /// An `if` over statements: what each branch assigns becomes a result.
    fn branch(
        &mut self,
        b: &mut Builder<'c>,
        cond: Val<'c>,
        [then, otherwise]: [&[Stmt]; 2],
        assigned: &[VarId],
        span: Span,
    ) -> Result<(), LowerError> {
        b.set_location(self.location(span));
        let before = self.vars.clone();
        // A branch decides the types: a variable that an `if` with a value assigns has none before.
        let this = RefCell::new(&mut *self);
        let lower = |b: &mut Builder<'c>, stmts: &[Stmt]| {
            let mut this = this.borrow_mut();
            this.vars.clone_from(&before);
            this.block(b, stmts)?;
            Ok(this.values(assigned))
        };
        let types = assigned.iter().map(|&var| this.borrow().var_type(var)).collect::<Result<Vec<_>, _>>()?;
        let results = b.if_else(cond, &types, |b| lower(b, then), |b| lower(b, otherwise))?;
        self.vars = before;
        self.set_vars(assigned, &results);
        Ok(())
    }

    fn var_type(&self, var: VarId) -> Result<Type<'c>, LowerError> {
        let var = &self.program.vars[var];
        self.ty(&var.ty, var.span)
    }
}
