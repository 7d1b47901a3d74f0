//! Shared memory of a CTA, which knows for each byte who read and wrote it last.

use crate::fault::Wrong;
use crate::memory::SHARED_BASE;
use crate::order::{Clock, Knowledge};
use std::ops::Range;

/// Shared memory and its history.
#[derive(Debug)]
pub(crate) struct Shared {
    bytes: Vec<u8>,
    /// Agents of each CTA of the cluster, one after the other: its warps, and behind them the engine of bulk copies.
    agents: usize,
    rank: usize,
    /// Who wrote each byte last, plus one; zero where nobody did.
    writer: Vec<u8>,
    written: Vec<u32>,
    /// For each agent, the step in which it last read each byte; empty for one that read nothing.
    read: Vec<Vec<u32>>,
    /// The same of loads alone, which bulk copies may overtake.
    loaded: Vec<Vec<u32>>,
    /// Asynchronous operations that write each byte, and that read it.
    writes_in_flight: Vec<u8>,
    reads_in_flight: Vec<u8>,
}

/// Who accesses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct By<'k> {
    pub agent: usize,
    pub knows: &'k Knowledge,
    /// An asynchronous operation, which sees writes of threads behind a proxy fence alone.
    pub is_async: bool,
}

impl Shared {
    /// That of the CTA with a rank in a cluster of so many.
    pub fn new(bytes: usize, warps: usize, [rank, ctas]: [usize; 2]) -> Shared {
        Shared {
            bytes: vec![0; bytes],
            agents: warps + 1,
            rank,
            writer: vec![0; bytes],
            written: vec![0; bytes],
            read: vec![Vec::new(); (warps + 1) * ctas],
            loaded: vec![Vec::new(); (warps + 1) * ctas],
            writes_in_flight: vec![0; bytes],
            reads_in_flight: vec![0; bytes],
        }
    }

    /// The agent that stands for the engine of bulk copies.
    pub fn engine(&self) -> usize {
        (self.rank + 1) * self.agents - 1
    }

    fn is_engine(&self, agent: usize) -> bool {
        agent % self.agents == self.agents - 1
    }

    fn name(&self, agent: usize) -> String {
        let whose = if agent / self.agents == self.rank { "" } else { " of another CTA" };
        match self.is_engine(agent) {
            true => format!("a bulk copy{whose}"),
            false => format!("warp {}{whose}", agent % self.agents),
        }
    }

    fn range(&self, action: &'static str, address: u64, bytes: usize) -> Result<Range<usize>, Wrong> {
        let outside = Wrong::OutOfBounds { action, space: "shared", address, bytes };
        let start = address.checked_sub(SHARED_BASE).map(|start| start as usize);
        let range = start.map(|start| start..start.saturating_add(bytes));
        range.filter(|range| range.end <= self.bytes.len()).ok_or(outside)
    }

    /// That the last write of each byte is over for who accesses it.
    fn after_writes(&self, action: &'static str, range: &Range<usize>, by: By<'_>) -> Result<(), Wrong> {
        let mut last = None;
        for at in range.clone() {
            let write = (self.writer[at], self.written[at]);
            if last == Some(write) {
                continue;
            }
            last = Some(write);
            let Some(writer) = usize::from(write.0).checked_sub(1) else { continue };
            let address = SHARED_BASE + at as u64;
            // An agent's own writes are in order, as long as they are of the same proxy.
            let ordered = writer == by.agent || by.knows.clock.get(writer) >= write.1;
            if !ordered {
                let other = self.name(writer);
                return Err(Wrong::Race { action, address, other, other_action: "wrote" });
            }
            if by.is_async && !self.is_engine(writer) && by.knows.fenced.get(writer) < write.1 {
                return Err(Wrong::ProxyFence { address, other: self.name(writer) });
            }
        }
        Ok(())
    }

    /// That all reads of each byte are over for who writes it.
    fn after_reads(&self, range: &Range<usize>, by: By<'_>) -> Result<(), Wrong> {
        for (agent, read) in self.read.iter().enumerate() {
            if agent == by.agent || read.is_empty() {
                continue;
            }
            let known = by.knows.clock.get(agent);
            if let Some(at) = read[range.clone()].iter().position(|&step| step > known) {
                let address = SHARED_BASE + (range.start + at) as u64;
                let other = self.name(agent);
                return Err(Wrong::Race { action: "writes", address, other, other_action: "read" });
            }
        }
        // Loads may be overtaken by a copy of the other proxy, though an arrival behind them has been seen.
        for (agent, loaded) in self.loaded.iter().enumerate().filter(|_| by.is_async) {
            let fenced = by.knows.fenced.get(agent);
            let late =
                loaded.get(range.clone()).and_then(|steps| steps.iter().position(|&step| step > fenced));
            if let Some(at) = late {
                let address = SHARED_BASE + (range.start + at) as u64;
                return Err(Wrong::LoadFence { address, other: self.name(agent) });
            }
        }
        Ok(())
    }

    fn not_in_flight(&self, action: &'static str, range: &Range<usize>) -> Result<(), Wrong> {
        let busy = |counts: &[u8], other| match counts[range.clone()].iter().position(|&count| count != 0) {
            Some(at) => {
                Err(Wrong::InFlight { action, address: SHARED_BASE + (range.start + at) as u64, other })
            }
            None => Ok(()),
        };
        busy(&self.writes_in_flight, "writes")?;
        if action == "writes" { busy(&self.reads_in_flight, "reads") } else { Ok(()) }
    }

    fn initialized(&self, range: &Range<usize>) -> Result<(), Wrong> {
        match self.writer[range.clone()].iter().position(|&writer| writer == 0) {
            Some(at) => Err(Wrong::Uninitialized { address: SHARED_BASE + (range.start + at) as u64 }),
            None => Ok(()),
        }
    }

    fn note_read(&mut self, range: &Range<usize>, agent: usize, step: u32) {
        let size = self.bytes.len();
        let read = &mut self.read[agent];
        if read.is_empty() {
            read.resize(size, 0);
        }
        read[range.clone()].fill(step);
    }

    fn note_write(&mut self, range: &Range<usize>, agent: usize, step: u32) {
        self.writer[range.clone()].fill(agent as u8 + 1);
        self.written[range.clone()].fill(step);
    }

    /// Reads bytes.
    pub fn read(&mut self, address: u64, bytes: usize, by: By<'_>) -> Result<&[u8], Wrong> {
        let range = self.range("reads", address, bytes)?;
        self.not_in_flight("reads", &range)?;
        self.initialized(&range)?;
        self.after_writes("reads", &range, by)?;
        let step = by.knows.clock.get(by.agent);
        self.note_read(&range, by.agent, step);
        let size = self.bytes.len();
        let loaded = &mut self.loaded[by.agent];
        loaded.resize(size, 0);
        loaded[range.clone()].fill(step);
        Ok(&self.bytes[range])
    }

    /// Bytes to write.
    pub fn write(&mut self, address: u64, bytes: usize, by: By<'_>) -> Result<&mut [u8], Wrong> {
        let range = self.range("writes", address, bytes)?;
        self.not_in_flight("writes", &range)?;
        self.after_writes("writes", &range, By { is_async: false, ..by })?;
        self.after_reads(&range, by)?;
        self.note_write(&range, by.agent, by.knows.clock.get(by.agent));
        Ok(&mut self.bytes[range])
    }

    /// Starts an asynchronous write: from now on nobody touches the bytes.
    pub fn start_write(&mut self, address: u64, bytes: usize, by: By<'_>) -> Result<(), Wrong> {
        let range = self.range("writes", address, bytes)?;
        self.not_in_flight("writes", &range)?;
        self.after_writes("writes", &range, By { is_async: false, ..by })?;
        self.after_reads(&range, by)?;
        self.writes_in_flight[range].fill(1);
        Ok(())
    }

    /// Ends an asynchronous write, in a step of an agent.
    pub fn finish_write(&mut self, address: u64, data: &[u8], agent: usize, step: u32) {
        let start = (address - SHARED_BASE) as usize;
        let range = start..start + data.len();
        self.writes_in_flight[range.clone()].fill(0);
        self.note_write(&range, agent, step);
        self.bytes[range].copy_from_slice(data);
    }

    /// Starts an asynchronous read: from now on nobody writes the bytes.
    pub fn start_read(&mut self, address: u64, bytes: usize, by: By<'_>) -> Result<(), Wrong> {
        let range = self.range("reads", address, bytes)?;
        self.not_in_flight("reads", &range)?;
        self.initialized(&range)?;
        self.after_writes("reads", &range, by)?;
        self.reads_in_flight[range].iter_mut().for_each(|count| *count = count.saturating_add(1));
        Ok(())
    }

    /// Ends an asynchronous read, in a step of an agent, and gives what was read.
    pub fn finish_read(&mut self, address: u64, bytes: usize, agent: usize, step: u32) -> &[u8] {
        let start = (address - SHARED_BASE) as usize;
        let range = start..start + bytes;
        self.reads_in_flight[range.clone()].iter_mut().for_each(|count| *count = count.saturating_sub(1));
        self.note_read(&range, agent, step);
        &self.bytes[range]
    }

    /// That an mbarrier's initialization is over for who uses it.
    pub fn uses_mbarrier(&self, address: u64, by: By<'_>) -> Result<(), Wrong> {
        let range = self.range("reads", address, 8)?;
        self.after_writes("reads", &range, By { is_async: false, ..by })
    }
}

/// A step that nothing is known of yet ends here: what the agent did is handed on, and its next step begins.
pub(crate) fn release(agent: usize, knows: &mut Knowledge) -> Knowledge {
    let handed = knows.clone();
    let step = knows.clock.get(agent);
    knows.clock.set(agent, step + 1);
    handed
}

/// An agent that starts: in its first step, knowing nothing of others.
pub(crate) fn newborn(agent: usize) -> Knowledge {
    let mut clock = Clock::default();
    clock.set(agent, 1);
    Knowledge { clock, fenced: Clock::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(agent: usize, knows: &Knowledge, is_async: bool) -> By<'_> {
        By { agent, knows, is_async }
    }

    #[test]
    fn unordered_accesses_are_races() {
        let mut shared = Shared::new(64, 2, [0, 1]);
        let (mut a, mut b) = (newborn(0), newborn(1));
        shared.write(SHARED_BASE, 8, by(0, &a, false)).unwrap().fill(3);
        assert!(matches!(shared.read(SHARED_BASE, 4, by(1, &b, false)), Err(Wrong::Race { .. })));
        b.join(&release(0, &mut a));
        assert_eq!(shared.read(SHARED_BASE, 4, by(1, &b, false)).unwrap(), [3; 4]);
        // The other one's read is not known to be over.
        assert!(matches!(shared.write(SHARED_BASE, 4, by(0, &a, false)), Err(Wrong::Race { .. })));
        shared.write(SHARED_BASE + 4, 4, by(0, &a, false)).unwrap();
        a.join(&release(1, &mut b));
        shared.write(SHARED_BASE, 4, by(0, &a, false)).unwrap();
    }

    #[test]
    fn asynchronous_reads_want_a_fence() {
        let mut shared = Shared::new(64, 2, [0, 1]);
        let (mut a, mut b) = (newborn(0), newborn(1));
        shared.write(SHARED_BASE, 16, by(0, &a, false)).unwrap();
        b.join(&release(0, &mut a));
        assert!(matches!(shared.start_read(SHARED_BASE, 16, by(1, &b, true)), Err(Wrong::ProxyFence { .. })));
        b.fence();
        shared.start_read(SHARED_BASE, 16, by(1, &b, true)).unwrap();
        assert!(matches!(shared.write(SHARED_BASE, 1, by(1, &b, false)), Err(Wrong::InFlight { .. })));
        shared.finish_read(SHARED_BASE, 16, 1, 1);
        shared.write(SHARED_BASE, 1, by(1, &b, false)).unwrap();
    }

    #[test]
    fn asynchronous_writes_want_loads_to_be_fenced() {
        let mut shared = Shared::new(64, 2, [0, 1]);
        let (mut a, mut b) = (newborn(0), newborn(1));
        shared.write(SHARED_BASE, 16, by(0, &a, false)).unwrap();
        shared.read(SHARED_BASE, 8, by(0, &a, false)).unwrap();
        // An arrival behind the load, which the copying warp has seen.
        b.join(&release(0, &mut a));
        assert!(matches!(shared.start_write(SHARED_BASE, 16, by(1, &b, true)), Err(Wrong::LoadFence { .. })));
        // What was not loaded, and what threads copy themselves, is in order.
        shared.start_write(SHARED_BASE + 8, 8, by(1, &b, true)).unwrap();
        shared.start_write(SHARED_BASE, 8, by(1, &b, false)).unwrap();
        shared.finish_write(SHARED_BASE, &[0; 16], 1, 1);
        shared.read(SHARED_BASE, 8, by(1, &b, false)).unwrap();
        b.fence();
        a.join(&release(1, &mut b));
        shared.start_write(SHARED_BASE, 16, by(0, &a, true)).unwrap();
    }

    #[test]
    fn nobody_touches_what_is_in_flight() {
        let mut shared = Shared::new(64, 1, [0, 1]);
        let a = newborn(0);
        assert!(matches!(shared.read(SHARED_BASE, 1, by(0, &a, false)), Err(Wrong::Uninitialized { .. })));
        shared.start_write(SHARED_BASE, 16, by(0, &a, false)).unwrap();
        assert!(matches!(shared.read(SHARED_BASE, 1, by(0, &a, false)), Err(Wrong::InFlight { .. })));
        shared.finish_write(SHARED_BASE, &[5; 16], 0, 1);
        assert_eq!(shared.read(SHARED_BASE, 1, by(0, &a, false)).unwrap(), [5]);
        assert!(matches!(shared.read(SHARED_BASE + 60, 8, by(0, &a, false)), Err(Wrong::OutOfBounds { .. })));
    }
}
