//! Which streams use a piece of memory, and what a new use waits for.
//!
//! A word for each allocation: the stream that wrote it last, and the streams that are ordered behind that write.
//! A use by a stream that is among them costs one load; any other use first makes its stream wait for those it
//! conflicts with. Reads do not wait for reads.

use std::sync::atomic::{AtomicU64, Ordering};

/// Streams of a device that can be told apart; each has a slot.
pub(crate) const MAX_STREAMS: usize = 58;

/// The mark of memory that no stream has written.
const NOBODY: u64 = 63;

/// What a stream does with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reads only.
    Read,
    /// Reads and writes.
    Write,
}

/// Slots of streams, as bits.
pub(crate) type Slots = u64;

/// The uses of one allocation. The last writer's slot is in the upper 6 bits; below, a bit for each slot whose
/// stream is ordered behind the last write and may still use the memory.
#[derive(Debug)]
pub(crate) struct Uses(AtomicU64);

impl Uses {
    /// Memory that nobody uses yet.
    pub fn none() -> Uses {
        Uses(AtomicU64::new(NOBODY << MAX_STREAMS))
    }

    /// Memory that one stream made.
    pub fn written_by(slot: u8) -> Uses {
        Uses(AtomicU64::new(state(slot.into(), 1 << slot)))
    }

    /// True when the stream may use the memory without waiting, and is known to use it.
    pub fn covers(&self, slot: u8, access: Access) -> bool {
        let current = self.0.load(Ordering::Acquire);
        match access {
            Access::Read => current >> slot & 1 == 1,
            Access::Write => current == state(slot.into(), 1 << slot),
        }
    }

    /// Notes a use, and says which streams it waits for. Not to be called by two threads at once.
    pub fn note(&self, slot: u8, access: Access) -> Slots {
        let current = self.0.load(Ordering::Acquire);
        let (writer, readers) = (current >> MAX_STREAMS, current & READERS);
        let written = if writer == NOBODY { 0 } else { 1 << writer };
        let (next, waits) = match access {
            Access::Read if readers >> slot & 1 == 1 => (current, 0),
            Access::Read => (state(writer, readers | 1 << slot), written),
            Access::Write => (state(slot.into(), 1 << slot), written | readers),
        };
        self.0.store(next, Ordering::Release);
        waits & !(1 << slot)
    }

    /// Forgets the uses: they are all done, and nobody else has the memory.
    pub fn settle(&self) {
        self.0.store(NOBODY << MAX_STREAMS, Ordering::Release);
    }

    /// The streams that may still use the memory.
    pub fn users(&self) -> Slots {
        let current = self.0.load(Ordering::Acquire);
        let writer = current >> MAX_STREAMS;
        let written = if writer == NOBODY { 0 } else { 1 << writer };
        current & READERS | written
    }
}

const READERS: u64 = (1 << MAX_STREAMS) - 1;

fn state(writer: u64, readers: u64) -> u64 {
    writer << MAX_STREAMS | readers
}

/// The slots of a set, lowest first.
pub(crate) fn slots(mut set: Slots) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let slot = (set != 0).then(|| set.trailing_zeros() as usize)?;
        set &= set - 1;
        Some(slot)
    })
}

#[cfg(test)]
mod tests {
    use super::Access::{Read, Write};
    use super::*;

    #[test]
    fn one_stream_never_waits() {
        let uses = Uses::written_by(3);
        assert!(uses.covers(3, Write) && uses.covers(3, Read));
        assert_eq!((uses.note(3, Read), uses.note(3, Write), uses.users()), (0, 0, 1 << 3));
        let fresh = Uses::none();
        assert!(!fresh.covers(0, Read) && !fresh.covers(0, Write));
        assert_eq!((fresh.users(), fresh.note(0, Read), fresh.users()), (0, 0, 1));
        assert!(fresh.covers(0, Read) && !fresh.covers(0, Write));
    }

    #[test]
    fn readers_wait_for_the_writer_once_and_not_for_each_other() {
        let uses = Uses::written_by(0);
        assert_eq!(uses.note(1, Read), 1 << 0);
        assert!(uses.covers(1, Read));
        assert_eq!((uses.note(1, Read), uses.note(2, Read)), (0, 1 << 0));
        assert_eq!(uses.users(), 0b111);
    }

    #[test]
    fn a_writer_waits_for_every_user_and_all_wait_for_it() {
        let uses = Uses::written_by(0);
        uses.note(1, Read);
        uses.note(57, Read);
        assert_eq!(uses.note(1, Write), 1 << 0 | 1 << 57);
        assert!(uses.covers(1, Write) && !uses.covers(0, Read) && !uses.covers(57, Read));
        assert_eq!(uses.note(0, Write), 1 << 1);
        assert_eq!(uses.users(), 1);
    }

    #[test]
    fn slots_come_lowest_first() {
        assert_eq!(slots(1 << 57 | 0b101).collect::<Vec<_>>(), [0, 2, 57]);
        assert_eq!(slots(0).count(), 0);
    }
}
