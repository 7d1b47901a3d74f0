//! Checks the rules of the gpu level that the dialect's definition cannot state.

use super::cluster::{ctas_of, part_of, parts_of};
use super::dialect::{Smem, layout_of};
use super::ops::{GpuOp, MmaOperand};
use super::protocol::{self, ProtocolError};
use super::rounding::{self, RoundingError};
use super::staging;
use crate::layout::{LinearLayout, mma, wgmma};
use melior::ir::operation::OperationLike;
use std::fmt;
use tile_ir::Module;
use tile_ir::context::Place;
use tile_ir::types::{
    Op, Val, dtype_of, is_tile, name_of, nested_ops, results_of, shape_of, type_of, view_of,
};
use tile_lang::DType;

/// A rule that an operation breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rule {
    /// MLIR's own verifier objects.
    #[error("{0}")]
    Malformed(String),
    /// A tgpu operation with missing attributes or operands.
    #[error("has missing or malformed attributes or operands")]
    Attributes,
    /// An operation of the tile dialect that the gpu level does not have.
    #[error("is not an operation of the gpu level")]
    Foreign,
    /// A tile without a layout, or with one that does not fit its shape or the number of warps.
    #[error("has a tile without a valid layout: {0}")]
    Layout(String),
    /// A layout that does not follow from the operation's operands.
    #[error("{value} has layout {found}; expected {expected}")]
    Mismatch {
        /// Which value.
        value: &'static str,
        /// Its layout.
        found: String,
        /// What follows from the others.
        expected: String,
    },
    /// Shapes or dtypes that do not fit together.
    #[error("{0} do not fit together")]
    Types(&'static str),
    /// Barriers of a ring of buffers that are out of step.
    #[error("breaks the barriers' protocol: {0}")]
    Protocol(ProtocolError),
    /// An operand of a product that is not rounded as it has to be.
    #[error("{0}")]
    Rounding(RoundingError),
    /// An access of a width that no instruction has.
    #[error("accesses of {found} bytes; expected one of {expected:?}")]
    Width {
        /// The width.
        found: usize,
        /// The widths there are.
        expected: &'static [usize],
    },
}

/// An operation that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The operation's name.
    pub op: String,
    /// The kernel's source line.
    pub place: Option<Place>,
    /// The rule.
    pub rule: Rule,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        write!(f, "{} {}", self.op, self.rule)
    }
}

/// Checks a module of the gpu level.
///
/// # Errors
/// Every violation, in order.
pub fn verify(module: &Module) -> Result<(), Vec<Violation>> {
    let context = module.context();
    context.take_messages();
    let mut violations = Vec::new();
    if !module.mlir().as_operation().verify() {
        for message in context.take_messages() {
            let rule = Rule::Malformed(message.text);
            violations.push(Violation { op: "module".to_owned(), place: message.place, rule });
        }
    }
    let num_warps = tile_ir::types::int_attr(module.function(), "tgpu.num_warps").unwrap_or(1);
    let num_ctas = ctas_of(module.function());
    for op in nested_ops(module.function()) {
        let mut report = |rule| {
            violations.push(Violation { op: name_of(op), place: Place::of(op.location()), rule });
        };
        let mut tiles = op.operands().chain(results_of(op)).filter(|v| is_tile(type_of(*v)));
        let broken = tiles.find(|v| layout_of(type_of(*v)).is_none_or(|l| l.num_warps() as i64 != num_warps));
        if let Some(value) = broken {
            report(Rule::Layout(type_of(value).to_string()));
            continue;
        }
        if let Err(rule) = check(op, num_ctas) {
            report(rule);
        }
    }
    // Until some warp copies, what is copied how is not decided.
    let is_decided = nested_ops(module.function()).iter().any(|op| name_of(*op) == "tgpu.producer");
    let misrounded = if is_decided { rounding::check(module) } else { Vec::new() };
    violations.extend(misrounded.into_iter().map(|(op, error)| Violation {
        op: name_of(op),
        place: Place::of(op.location()),
        rule: Rule::Rounding(error),
    }));
    let out_of_step = protocol::check(module).into_iter().chain(staging::check(module));
    violations.extend(out_of_step.map(|(op, error)| Violation {
        op: name_of(op),
        place: Place::of(op.location()),
        rule: Rule::Protocol(error),
    }));
    if violations.is_empty() { Ok(()) } else { Err(violations) }
}

/// The layout of a tile that has one.
fn layout(value: Val) -> LinearLayout {
    layout_of(type_of(value)).expect("checked to have a layout")
}

fn expect(value: &'static str, found: &LinearLayout, expected: &LinearLayout) -> Result<(), Rule> {
    if found == expected {
        return Ok(());
    }
    Err(Rule::Mismatch { value, found: format!("{found:?}"), expected: format!("{expected:?}") })
}

/// Accesses to global memory are of these widths, those of asynchronous copies of the last three.
const WIDTHS: [usize; 5] = [1, 2, 4, 8, 16];

fn width(found: usize, expected: &'static [usize]) -> Result<(), Rule> {
    if expected.contains(&found) { Ok(()) } else { Err(Rule::Width { found, expected }) }
}

fn types(fit: bool, what: &'static str) -> Result<(), Rule> {
    if fit { Ok(()) } else { Err(Rule::Types(what)) }
}

/// The matrix that a shared-memory operand is.
fn matrix(smem: Val, transposed: bool) -> Option<[usize; 2]> {
    let smem = Smem::of(type_of(smem))?;
    let (rows, cols) = (smem.layout.rows, smem.cols());
    Some(if transposed { [cols, rows] } else { [rows, cols] })
}

fn check(op: Op, num_ctas: usize) -> Result<(), Rule> {
    let name = name_of(op);
    if name.starts_with("tile.") {
        let known = [
            "tile.program_id",
            "tile.num_programs",
            "tile.dim",
            "tile.at",
            "tile.slice",
            "tile.arrive_last",
            "tile.join_parts",
            "tile.check",
            "tile.cast",
        ];
        let known = known.contains(&name.as_str());
        return if known { same_layouts(op) } else { Err(Rule::Foreign) };
    }
    if !name.starts_with("tgpu.") {
        let elementwise = (name.starts_with("arith.") || name.starts_with("math.")) && op.result_count() == 1;
        return if elementwise { same_layouts(op) } else { Ok(()) };
    }
    let gpu_op = GpuOp::of(op).ok_or(Rule::Attributes)?;
    let result = results_of(op).first().copied();
    let shape = |value: Val| shape_of(type_of(value)).unwrap_or_default();
    let dtype = |value: Val| dtype_of(type_of(value));
    let Some(result) = result else {
        return match gpu_op {
            GpuOp::AsyncCopy { view, smem, ref tile_shape, vec_bytes, .. }
            | GpuOp::Copy { view, smem, ref tile_shape, vec_bytes, .. } => {
                let asynchronous = matches!(gpu_op, GpuOp::AsyncCopy { .. });
                width(vec_bytes, if asynchronous { &WIDTHS[2..] } else { &WIDTHS })?;
                let smem = Smem::of(type_of(smem)).ok_or(Rule::Types("copy and shared memory"))?;
                let cols = tile_shape.last().copied().unwrap_or(1);
                let rows = tile_shape.iter().product::<usize>() / cols;
                let fit = (smem.layout.rows, smem.cols()) == (rows, cols)
                    && view_of(type_of(view))
                        .is_some_and(|v| v.dtype == smem.dtype && v.rank == tile_shape.len());
                types(fit, "view, tile and shared memory")
            }
            GpuOp::TmaCopy { view, smem, ref tile_shape, ref box_shape, .. }
            | GpuOp::BulkStore { view, smem, ref tile_shape, ref box_shape, .. } => {
                let smem = Smem::of(type_of(smem)).ok_or(Rule::Types("copy and shared memory"))?;
                let cols = tile_shape.last().copied().unwrap_or(1);
                let rows = tile_shape.iter().product::<usize>() / cols;
                let part = match gpu_op {
                    GpuOp::TmaCopy { cluster: true, .. } => part_of(tile_shape, num_ctas),
                    GpuOp::BulkStore { groups, .. } if parts_of(tile_shape, box_shape) > 1 => {
                        part_of(tile_shape, groups)
                    }
                    _ => Some(tile_shape.clone()),
                };
                let part = part.ok_or(Rule::Types("block and cluster"))?;
                let boxes = match (&part[..], &box_shape[..]) {
                    ([outer @ .., _], [box_outer @ .., inner]) => {
                        outer == box_outer && inner * smem.layout.elem_bytes == smem.layout.pitch_bytes
                    }
                    _ => false,
                };
                let shared = match gpu_op {
                    GpuOp::BulkStore { groups, .. } if part == *tile_shape => {
                        box_shape.last().is_some_and(|inner| (cols / inner).is_multiple_of(groups))
                    }
                    _ => true,
                };
                let fit = boxes
                    && shared
                    && (smem.layout.rows, smem.cols()) == (rows, cols)
                    && view_of(type_of(view))
                        .is_some_and(|v| v.dtype == smem.dtype && v.rank == tile_shape.len());
                types(fit, "view, boxes and shared memory")
            }
            GpuOp::Prefetch { view, ref tile_shape, ref box_shape, .. } => {
                let rank = view_of(type_of(view)).map(|v| v.rank);
                types([tile_shape.len(), box_shape.len()].map(Some) == [rank; 2], "view and boxes")
            }
            GpuOp::LocalStore { tile, smem, .. } => {
                let fit = matrix(smem, false).is_some_and(|m| m[..] == shape(tile)[..])
                    && Smem::of(type_of(smem)).map(|s| s.dtype) == dtype(tile);
                types(fit, "tile and shared memory")
            }
            GpuOp::GlobalStore { view, tile, vec_bytes, .. } => {
                width(vec_bytes, &WIDTHS)?;
                let fit = view_of(type_of(view)).is_some_and(|v| v.rank == shape(tile).len());
                types(fit, "view and tile")
            }
            GpuOp::Scatter { .. } => same_layouts(op),
            _ => Ok(()),
        };
    };
    match gpu_op {
        GpuOp::LocalLoad { smem, transposed, .. } => {
            let fit = matrix(smem, transposed).is_some_and(|m| m[..] == shape(result)[..])
                && Smem::of(type_of(smem)).map(|s| s.dtype) == dtype(result);
            types(fit, "shared memory and tile")
        }
        GpuOp::GlobalLoad { view, vec_bytes, .. } => {
            width(vec_bytes, &WIDTHS)?;
            let fit = view_of(type_of(view)).is_some_and(|v| v.rank == shape(result).len());
            types(fit, "view and tile")
        }
        GpuOp::Gather { .. } => same_layouts(op),
        GpuOp::ConvertLayout { tile, .. } => {
            types(shape(tile) == shape(result) && dtype(tile) == dtype(result), "operand and result")
        }
        GpuOp::MmaScaledSync { lhs, rhs, scales, acc, warps } => {
            let [m, n] = shape(acc)[..] else { return Err(Rule::Types("accumulator and product")) };
            expect("the accumulator", &layout(acc), &mma::acc(m, n, warps))?;
            let read = |operand| match operand {
                MmaOperand::Registers(tile) => shape(tile).try_into().ok().zip(dtype(tile)),
                MmaOperand::Shared { smem, transposed, .. } => {
                    matrix(smem, transposed).zip(Smem::of(type_of(smem)).map(|s| s.dtype))
                }
            };
            let (Some(([lhs_m, k], element)), Some(([rhs_k, rhs_n], other))) = (read(lhs), read(rhs)) else {
                return Err(Rule::Types("operands"));
            };
            types(lhs_m == m && rhs_n == n && k == rhs_k, "operands and accumulator")?;
            types(element == DType::F4E2M1FN && other == element, "dtype and instruction")?;
            types(scales.iter().all(|s| dtype(*s) == Some(DType::F8E4M3FN)), "scales and instruction")?;
            if let MmaOperand::Registers(tile) = lhs {
                expect("the lhs", &layout(tile), &mma::lhs(m, k, warps, element))?;
            }
            if let MmaOperand::Registers(tile) = rhs {
                expect("the rhs", &layout(tile), &mma::rhs(k, n, warps, element))?;
            }
            expect("the scales of the lhs", &layout(scales[0]), &mma::lhs_scales(m, k, warps))?;
            expect("the scales of the rhs", &layout(scales[1]), &mma::rhs_scales(k, n, warps))
        }
        GpuOp::MmaSync { lhs, rhs, acc, warps, order } => {
            let extents = mma::acc_extents(&shape(acc)).ok_or(Rule::Types("accumulator and product"))?;
            expect("the accumulator", &layout(acc), &mma::acc_parts(extents, warps))?;
            let [parts, m, n] = extents;
            let read = |operand| match operand {
                MmaOperand::Registers(tile) => shape(tile).try_into().ok().zip(dtype(tile)),
                MmaOperand::Shared { smem, transposed, .. } => {
                    matrix(smem, transposed).zip(Smem::of(type_of(smem)).map(|s| s.dtype))
                }
            };
            let (Some(([lhs_m, k], element)), Some(([rhs_k, rhs_n], other))) = (read(lhs), read(rhs)) else {
                return Err(Rule::Types("operands"));
            };
            types(lhs_m == m && rhs_n == n && k == rhs_k && element == other, "operands and accumulator")?;
            let depth = mma::depth(element).ok_or(Rule::Types("dtype and instruction"))?;
            types(parts == 1 || k >= parts * depth, "parts of K and instruction")?;
            let expected = mma::operands(extents, k, warps, element, &order);
            for (name, operand, expected) in [("the lhs", lhs, &expected[0]), ("the rhs", rhs, &expected[1])]
            {
                if let MmaOperand::Registers(tile) = operand {
                    expect(name, &layout(tile), expected)?;
                }
            }
            Ok(())
        }
        GpuOp::Wgmma { lhs, rhs, acc, groups, k_first } => {
            let [m, n] = shape(acc)[..] else { return Err(Rule::Types("accumulator and product")) };
            let splits = m.is_multiple_of(wgmma::M * groups[0]) && n.is_multiple_of(mma::N * groups[1]);
            types(splits, "accumulator and warpgroups")?;
            expect("the accumulator", &layout(acc), &wgmma::acc(m, n, groups))?;
            let MmaOperand::Shared { smem, transposed, .. } = rhs else {
                return Err(Rule::Types("operands"));
            };
            let rhs = Smem::of(type_of(smem)).ok_or(Rule::Types("operands"))?;
            let [rhs_k, rhs_n] = matrix(smem, transposed).ok_or(Rule::Types("operands"))?;
            let k = match lhs {
                MmaOperand::Registers(tile) => shape(tile).last().copied().unwrap_or(0),
                MmaOperand::Shared { .. } => rhs_k,
            };
            let read = |smem: Smem, k_major, extent| {
                types(
                    wgmma::Operand::new(smem.layout, smem.dtype, k_major, extent).is_some(),
                    "operand and descriptor",
                )
            };
            read(rhs, transposed, n / groups[1])?;
            let (lhs_shape, element) = match lhs {
                MmaOperand::Registers(tile) => {
                    let dtype = dtype(tile).ok_or(Rule::Types("operands"))?;
                    types(mma::depth(dtype).is_some(), "dtype and instruction")?;
                    expect("the lhs", &layout(tile), &wgmma::lhs(m, k, groups, dtype))?;
                    (shape(tile), dtype)
                }
                MmaOperand::Shared { smem, transposed, .. } => {
                    let lhs = Smem::of(type_of(smem)).ok_or(Rule::Types("operands"))?;
                    read(lhs, !transposed, wgmma::M)?;
                    (matrix(smem, transposed).unwrap_or_default().to_vec(), lhs.dtype)
                }
            };
            let takes = lhs_shape == [m, k] && k_first + k <= rhs_k;
            types(takes && rhs_n == n && element == rhs.dtype, "operands and accumulator")
        }
        GpuOp::WgmmaWait { tiles, .. } => {
            let same = tiles.len() == op.result_count()
                && tiles.iter().zip(results_of(op)).all(|(a, b)| type_of(*a) == type_of(b));
            types(same, "operands and results")
        }
        GpuOp::Columns { tile, first } => {
            let count = shape(result).last().copied().unwrap_or(0);
            let fits =
                count > 0 && first.is_multiple_of(count) && first < shape(tile).last().copied().unwrap_or(0);
            types(fits && dtype(tile) == dtype(result), "columns and tile")?;
            let expected = layout(tile).first_columns(count);
            expect("the result", &layout(result), &expected.ok_or(Rule::Types("columns and layout"))?)
        }
        GpuOp::Reduce { tile, axis, .. } => expect("the result", &layout(result), &layout(tile).slice(axis)),
        GpuOp::AllOnes { tile } => {
            types(matches!(dtype(tile), Some(DType::F32 | DType::Bool)), "f32 or bool")
        }
        GpuOp::ReduceRegisters { tile, axis, .. } => {
            let expected = layout(tile).slice_within_threads(axis);
            expect("the result", &layout(result), &expected.ok_or(Rule::Types("axis and layout"))?)
        }
        GpuOp::Broadcast { tile } => match layout(result).registers_from(&layout(tile)) {
            Some(_) => Ok(()),
            None => Err(Rule::Mismatch {
                value: "the result",
                found: format!("{:?}", layout(result)),
                expected: format!("one within the threads of {:?}", layout(tile)),
            }),
        },
        GpuOp::Reshape { tile } => {
            expect("the result", &layout(result), &layout(tile).reshape(&shape(result)))
        }
        GpuOp::Transpose { tile, perm } => {
            expect("the result", &layout(result), &layout(tile).transpose(&perm))
        }
        _ => Ok(()),
    }
}

/// All tiles of the operation have one layout.
fn same_layouts(op: Op) -> Result<(), Rule> {
    let mut tiles = op.operands().chain(results_of(op)).filter(|v| is_tile(type_of(*v)));
    let Some(first) = tiles.next().map(layout) else { return Ok(()) };
    tiles.try_for_each(|tile| expect("an operand or result", &layout(tile), &first))
}
