//! Loops and branches: blocks whose arguments are the registers of what is carried.

use super::emitter::Cmp;
use super::value::{Lowered, Registers, Tile, packing};
use super::{Lowering, internal};
use crate::error::LowerError;
use melior::ir::{BlockLike, ValueLike};
use std::rc::Rc;
use tile_ir::types::{Blk, Op, Val, args_of, blocks_of, name_of, operands_of, ops_of, results_of};

impl<'c> Lowering<'c> {
    pub(super) fn lower_control(&mut self, op: Op<'c>, kind: &str) -> Result<(), LowerError> {
        match kind {
            "for" => self.lower_for(op),
            "while" => self.lower_while(op),
            "if" => self.lower_if(op),
            // Terminators are read by the operation they end.
            "yield" | "condition" => Ok(()),
            _ => Err(internal(op, "unknown control flow")),
        }
    }

    /// The registers of values, in order.
    fn flatten(&mut self, op: Op, values: &[Lowered<'c>]) -> Result<Vec<Val<'c>>, LowerError> {
        let mut flat = Vec::new();
        for value in values {
            match value {
                Lowered::Scalar(scalar) => flat.push(*scalar),
                Lowered::Tile(tile) => match &tile.registers {
                    Registers::Elements(r) | Registers::Packed(r) | Registers::Nibbles(r, _) => {
                        flat.extend(r.iter().copied());
                    }
                },
                Lowered::View(_) | Lowered::Shared(_) | Lowered::Role { .. } => {
                    return Err(internal(op, "a tensor or buffer is carried by control flow"));
                }
            }
        }
        Ok(flat)
    }

    /// Values like `like`, made of the registers in `flat`.
    fn unflatten(&self, like: &[Lowered<'c>], flat: &[Val<'c>]) -> Vec<Lowered<'c>> {
        let mut at = 0;
        let mut take = |count: usize| {
            at += count;
            flat[at - count..at].to_vec()
        };
        like.iter()
            .map(|value| match value {
                Lowered::Tile(tile) => {
                    let registers = match &tile.registers {
                        Registers::Elements(r) => Registers::Elements(take(r.len()).into()),
                        Registers::Packed(r) => Registers::Packed(take(r.len()).into()),
                        Registers::Nibbles(r, places) => {
                            Registers::Nibbles(take(r.len()).into(), Rc::clone(places))
                        }
                    };
                    Lowered::Tile(Tile { registers, layout: Rc::clone(&tile.layout), ..*tile })
                }
                Lowered::Scalar(_) => Lowered::Scalar(take(1)[0]),
                other => other.clone(),
            })
            .collect()
    }

    /// Brings values into the form (packed or not) of `like`, which they share blocks with.
    fn conform(
        &mut self,
        op: Op,
        values: &[Val<'c>],
        like: &[Lowered<'c>],
    ) -> Result<Vec<Lowered<'c>>, LowerError> {
        let mut conformed = Vec::new();
        for (&value, like) in values.iter().zip(like) {
            let value = self.get(op, value)?.clone();
            conformed.push(match (value, like) {
                (Lowered::Tile(tile), Lowered::Tile(like)) => {
                    if tile.layout != like.layout {
                        return Err(internal(op, "a carried tile changes its layout"));
                    }
                    let registers = match &like.registers {
                        Registers::Elements(_) => Registers::Elements(tile.elements(&mut self.e)),
                        Registers::Packed(_) => Registers::Packed(tile.packed_registers(&mut self.e)),
                        // In order, as `all` makes them.
                        Registers::Nibbles(_, places) => {
                            Registers::Nibbles(tile.packed_registers(&mut self.e), Rc::clone(places))
                        }
                    };
                    Lowered::Tile(Tile { registers, ..tile })
                }
                (value, _) => value,
            });
        }
        Ok(conformed)
    }

    /// The lowered forms of values; 4-bit elements in whole words in order, or one by one.
    fn all(&mut self, op: Op, values: &[Val<'c>]) -> Result<Vec<Lowered<'c>>, LowerError> {
        let mut all = Vec::new();
        for &value in values {
            all.push(match self.get(op, value)?.clone() {
                Lowered::Tile(tile) if matches!(tile.registers, Registers::Nibbles(..)) => {
                    Lowered::Tile(if tile.layout.num_registers() >= packing(tile.dtype) {
                        let words = tile.packed_registers(&mut self.e).to_vec();
                        Tile::packed(tile.dtype, &tile.layout, words)
                    } else {
                        let elements = tile.elements(&mut self.e).to_vec();
                        Tile::new(tile.dtype, &tile.layout, elements)
                    })
                }
                other => other,
            });
        }
        Ok(all)
    }

    fn set_all(&mut self, values: &[Val<'c>], lowered: Vec<Lowered<'c>>) {
        for (&value, lowered) in values.iter().zip(lowered) {
            self.set(value, lowered);
        }
    }

    /// The operands of a block's terminator.
    fn yielded(&self, op: Op, block: Blk<'c>) -> Result<Vec<Val<'c>>, LowerError> {
        let terminator = block.terminator().ok_or_else(|| internal(op, "a block has no terminator"))?;
        Ok(operands_of(terminator))
    }

    /// A new block with an argument for each of `flat`.
    fn block_like(&mut self, flat: &[Val<'c>], first: Option<Val<'c>>) -> (Blk<'c>, Vec<Val<'c>>) {
        let types: Vec<_> = first.iter().chain(flat).map(|v| v.r#type()).collect();
        let block = self.e.add_block(&types);
        (block, args_of(block))
    }

    /// Tests before the first iteration, then at the end of each: the form in which LLVM hoists freely.
    fn lower_for(&mut self, op: Op<'c>) -> Result<(), LowerError> {
        self.expect_stores_of(op);
        let operands = operands_of(op);
        let [lower, upper, step, initial @ ..] = &operands[..] else { return Err(internal(op, "no bounds")) };
        let body = blocks_of(op).first().copied().ok_or_else(|| internal(op, "no body"))?;
        let (lower, upper) = (self.scalar(op, *lower)?, self.scalar(op, *upper)?);
        let step = self.scalar(op, *step)?;
        let initial = self.all(op, initial)?;
        let flat = self.flatten(op, &initial)?;

        let (inside, inside_args) = self.block_like(&flat, Some(lower));
        let (after, after_args) = self.block_like(&flat, None);
        let enters = self.e.icmp(Cmp::Slt, lower, upper);
        let entering: Vec<_> = std::iter::once(lower).chain(flat.iter().copied()).collect();
        self.e.branch_if(enters, (inside, &entering), (after, &flat));

        self.e.switch_to(inside);
        let carried = self.unflatten(&initial, &inside_args[1..]);
        let arguments = args_of(body);
        self.set(arguments[0], Lowered::Scalar(inside_args[0]));
        self.set_all(&arguments[1..], carried);
        self.lower_block(body)?;
        let next = self.yielded(op, body)?;
        let next = self.conform(op, &next, &initial)?;
        let next = self.flatten(op, &next)?;
        let counter = self.e.add(inside_args[0], step);
        let again = self.e.icmp(Cmp::Slt, counter, upper);
        let repeating: Vec<_> = std::iter::once(counter).chain(next.iter().copied()).collect();
        self.e.branch_if(again, (inside, &repeating), (after, &next));

        self.e.switch_to(after);
        self.expect_stores_of(op);
        let results = self.unflatten(&initial, &after_args);
        self.set_all(&results_of(op), results);
        Ok(())
    }

    fn lower_while(&mut self, op: Op<'c>) -> Result<(), LowerError> {
        self.expect_stores_of(op);
        let blocks = blocks_of(op);
        let [before, body] = blocks[..] else { return Err(internal(op, "not two regions")) };
        let initial = self.all(op, &operands_of(op))?;
        let flat = self.flatten(op, &initial)?;
        let (head, head_args) = self.block_like(&flat, None);
        self.e.branch(head, &flat);

        self.e.switch_to(head);
        let carried = self.unflatten(&initial, &head_args);
        self.set_all(&args_of(before), carried);
        self.lower_block(before)?;
        let condition = ops_of(before).find(|o| name_of(*o) == "scf.condition");
        let condition = operands_of(condition.ok_or_else(|| internal(op, "no condition"))?);
        let holds = self.scalar(op, condition[0])?;
        let passed = self.all(op, &condition[1..])?;
        let passed_flat = self.flatten(op, &passed)?;
        let (inside, inside_args) = self.block_like(&passed_flat, None);
        let (after, after_args) = self.block_like(&passed_flat, None);
        self.e.branch_if(holds, (inside, &passed_flat), (after, &passed_flat));

        self.e.switch_to(inside);
        let carried = self.unflatten(&passed, &inside_args);
        self.set_all(&args_of(body), carried);
        self.lower_block(body)?;
        let next = self.yielded(op, body)?;
        let next = self.conform(op, &next, &initial)?;
        let next = self.flatten(op, &next)?;
        self.e.branch(head, &next);

        self.e.switch_to(after);
        self.expect_stores_of(op);
        let results = self.unflatten(&passed, &after_args);
        self.set_all(&results_of(op), results);
        Ok(())
    }

    fn lower_if(&mut self, op: Op<'c>) -> Result<(), LowerError> {
        let operands = operands_of(op);
        let condition = operands.first().copied().ok_or_else(|| internal(op, "no condition"))?;
        if let Lowered::Role { warps, registers } = *self.get(op, condition)? {
            return self.lower_producer(op, warps, registers);
        }
        let condition = self.scalar(op, condition)?;
        let blocks = blocks_of(op);
        let then = blocks.first().copied().ok_or_else(|| internal(op, "no body"))?;
        let (inside, _) = self.block_like(&[], None);
        let (outside, _) = self.block_like(&[], None);
        self.e.branch_if(condition, (inside, &[]), (outside, &[]));

        self.e.switch_to(inside);
        let written = self.written.clone();
        self.lower_block(then)?;
        let after_then = std::mem::replace(&mut self.written, written);
        let results = self.yielded(op, then)?;
        let like = self.all(op, &results)?;
        let flat = self.flatten(op, &like)?;
        let (after, after_args) = self.block_like(&flat, None);
        self.e.branch(after, &flat);

        self.e.switch_to(outside);
        let otherwise = match blocks.get(1) {
            Some(&block) => {
                self.lower_block(block)?;
                let results = self.yielded(op, block)?;
                let results = self.conform(op, &results, &like)?;
                self.flatten(op, &results)?
            }
            None => Vec::new(),
        };
        self.e.branch(after, &otherwise);
        // Either branch may have run.
        self.written.extend(after_then);

        self.e.switch_to(after);
        let results = self.unflatten(&like, &after_args);
        self.set_all(&results_of(op), results);
        Ok(())
    }
}
