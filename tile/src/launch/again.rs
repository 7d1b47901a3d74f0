//! The short way of a launch that is like one before it: same kernel, configuration, dtypes and facts of the
//! tensors. What was found out then is remembered by each thread for itself, so that no launch waits for another
//! thread's; what shapes and grid decide is checked anew. Nothing here allocates once it has met a kernel.

use super::TypedConfig;
use super::argument::{Argument, Kind, is_injective, reach};
use super::check::{Launched, MAX_EXTENT, check_grid};
use crate::cuda::{self, Loaded, Stream};
use crate::error::LaunchError;
use crate::jit::facts_of;
use crate::registry::KernelDef;
use smallvec::SmallVec;
use std::cell::RefCell;
use std::sync::{Arc, Weak};
use tile_lang::DType;

/// What decides which code runs, and whether it may.
pub(super) type Key = SmallVec<[u64; 32]>;

/// Sets of places, of which a key has one.
const SETS: usize = 64;
/// Places of a set.
const WAYS: usize = 4;

/// A launch before.
struct Entry {
    key: Key,
    loaded: Weak<Loaded>,
    unproved_axes: u8,
}

#[derive(Default)]
struct Known {
    sets: Vec<SmallVec<[Entry; WAYS]>>,
    /// Which place of a full set goes next.
    turn: usize,
}

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::default();
}

/// The key of a launch; none when a tensor is not on the stream's device.
pub(super) fn key<C: TypedConfig>(
    config: &C,
    dtypes: &[(&'static str, DType)],
    args: &[Argument<'_>],
    stream: &Stream,
) -> Option<Key> {
    let mut key = Key::new();
    key.push(std::ptr::from_ref(C::kernel()).addr() as u64);
    key.push(std::ptr::from_ref(stream.gpu()).addr() as u64);
    config.values(|value| key.push(value));
    key.extend(dtypes.iter().map(|(_, dtype)| *dtype as u64));
    for arg in args {
        key.push(match &arg.0 {
            Kind::Scalar(_, dtype) => *dtype as u64,
            Kind::Tensor(tensor) => {
                let memory = tensor.memory.filter(|memory| std::ptr::eq(memory.gpu(), stream.gpu()))?;
                let facts = facts_of(tensor.dtype, memory.address(), tensor.shape, tensor.strides);
                let flags = [true, facts.contiguous, tensor.writable];
                let flags = flags.iter().fold(0, |flags, &flag| flags << 1 | u64::from(flag));
                let numbers = [tensor.dtype as u64, tensor.shape.len() as u64, facts.align_bytes.into()];
                numbers.iter().fold(flags, |word, number| word << 16 | number)
            }
        });
    }
    Some(key)
}

/// The set of a key.
fn set_of(key: &Key) -> usize {
    // The multiplier of FxHash.
    let mix = |hash: u64, word: &u64| (hash.rotate_left(5) ^ word).wrapping_mul(0x51_7c_c1_b7_27_22_0a_95);
    (key.iter().fold(0, mix) >> 32) as usize % SETS
}

/// What is known of launches with this key.
pub(super) fn find(key: &Key) -> Option<Launched> {
    KNOWN.with_borrow(|known| {
        let entry = known.sets.get(set_of(key))?.iter().find(|entry| entry.key == *key)?;
        let loaded = entry.loaded.upgrade()?;
        Some(Launched { loaded, unproved_axes: entry.unproved_axes })
    })
}

/// Remembers a launch. The kernel may be unloaded all the same, when there are too many.
pub(super) fn remember(key: Key, launched: &Launched) {
    let entry =
        Entry { loaded: Arc::downgrade(&launched.loaded), unproved_axes: launched.unproved_axes, key };
    KNOWN.with_borrow_mut(|known| {
        if known.sets.is_empty() {
            known.sets.resize_with(SETS, SmallVec::new);
        }
        let turn = known.turn;
        let set = &mut known.sets[set_of(&entry.key)];
        if let Some(old) = set.iter_mut().find(|old| old.key == entry.key) {
            *old = entry;
        } else if set.len() < WAYS {
            set.push(entry);
        } else {
            set[turn % WAYS] = entry;
            known.turn = turn.wrapping_add(1);
        }
    });
}

/// Launches a known kernel; nothing when a check fails, to be told by the long way.
pub(super) fn launch(
    kernel: &'static KernelDef,
    known: &Launched,
    args: &[Argument<'_>],
    grid: [usize; 3],
    unproved: bool,
    stream: &Stream,
) -> Option<Result<(), LaunchError>> {
    check_grid(kernel, grid).ok()?;
    let parallel = (0..3).filter(|&axis| grid[axis] > 1).fold(0, |axes, axis| axes | 1 << axis);
    if known.unproved_axes & parallel != 0 && !unproved {
        return None;
    }
    let mut checked: SmallVec<[cuda::Arg<'_>; 12]> = SmallVec::new();
    for arg in args {
        checked.push(match &arg.0 {
            Kind::Scalar(value, dtype) => cuda::Arg::Scalar(value.bits(*dtype)?),
            Kind::Tensor(tensor) => {
                let (shape, strides) = (tensor.shape, tensor.strides);
                let fits =
                    shape.iter().all(|&extent| extent <= MAX_EXTENT) && reach(shape, strides) <= tensor.len;
                if !fits || (tensor.writable && !is_injective(shape, strides)) {
                    return None;
                }
                cuda::Arg::Tensor {
                    dtype: tensor.dtype,
                    address: tensor.base.addr() as u64,
                    shape,
                    strides,
                    memory: tensor.memory?,
                    access: if tensor.writable { cuda::Access::Write } else { cuda::Access::Read },
                }
            }
        });
    }
    Some(cuda::launch(kernel.name, &known.loaded, grid, &checked, stream))
}
