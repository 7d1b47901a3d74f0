//! Barriers of a CTA.

use crate::fault::Wrong;
use crate::order::Knowledge;

/// An mbarrier. Its phase is over when all arrivals and all bytes that it expects have come.
///
/// Source: PTX ISA, "Phase of the mbarrier object".
#[derive(Debug)]
pub(crate) struct Mbarrier {
    count: u32,
    pending: u32,
    /// Bytes expected less bytes that came.
    bytes: i64,
    /// Of the phase under way.
    parity: u64,
    /// What those who arrived in the phase under way know, and in phases that are over.
    arriving: Knowledge,
    over: Knowledge,
}

impl Mbarrier {
    pub fn new(count: u32) -> Mbarrier {
        let (arriving, over) = Default::default();
        Mbarrier { count, pending: count, bytes: 0, parity: 0, arriving, over }
    }

    /// One arrival, which first makes it expect `bytes`.
    pub fn arrive(&mut self, bytes: u64, knows: &Knowledge) -> Result<(), &'static str> {
        self.bytes += bytes as i64;
        self.pending =
            self.pending.checked_sub(1).ok_or("gets more arrivals in a phase than it was initialized for")?;
        self.arriving.join(knows);
        self.end_phase();
        Ok(())
    }

    /// Bytes of a bulk copy have come.
    pub fn complete(&mut self, bytes: u64, knows: &Knowledge) {
        self.bytes -= bytes as i64;
        self.arriving.join(knows);
        self.end_phase();
    }

    fn end_phase(&mut self) {
        if self.pending == 0 && self.bytes == 0 {
            self.parity ^= 1;
            self.pending = self.count;
            let arriving = std::mem::take(&mut self.arriving);
            self.over.join(&arriving);
        }
    }

    /// True when the phase of this parity is over.
    pub fn is_over(&self, parity: u64) -> bool {
        self.parity != parity & 1
    }

    /// What was known to those who arrived in phases that are over.
    pub fn over(&self) -> &Knowledge {
        &self.over
    }
}

/// A barrier of threads, by number.
#[derive(Debug, Default)]
pub(crate) struct Named {
    /// Warps that wait.
    waiting: Vec<usize>,
    arrived: u32,
    knowledge: Knowledge,
    any: bool,
    all: bool,
}

/// Who may go on, once all threads have come.
#[derive(Debug)]
pub(crate) struct Opened {
    pub warps: Vec<usize>,
    pub knowledge: Knowledge,
    /// The disjunction and conjunction of the threads' predicates.
    pub any: bool,
    pub all: bool,
}

impl Named {
    /// A warp arrives, with its threads' predicates; `threads` have to in all.
    pub fn arrive(
        &mut self,
        warp: usize,
        waits: bool,
        threads: u32,
        knows: &Knowledge,
        [any, all]: [bool; 2],
    ) -> Result<Option<Opened>, Wrong> {
        if self.arrived == 0 {
            *self = Named { all: true, ..Named::default() };
        }
        if !threads.is_multiple_of(32) || self.arrived + 32 > threads {
            return Err(Wrong::Launch(format!(
                "a barrier of {threads} threads has {} already",
                self.arrived
            )));
        }
        self.arrived += 32;
        self.any |= any;
        self.all &= all;
        self.knowledge.join(knows);
        if waits {
            self.waiting.push(warp);
        }
        if self.arrived < threads {
            return Ok(None);
        }
        let Named { waiting: warps, knowledge, any, all, .. } = std::mem::take(self);
        Ok(Some(Opened { warps, knowledge, any, all }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::newborn;

    #[test]
    fn a_phase_ends_with_arrivals_and_bytes() {
        let mut barrier = Mbarrier::new(2);
        let knows = newborn(0);
        assert!(barrier.is_over(1) && !barrier.is_over(0));
        barrier.arrive(64, &knows).unwrap();
        barrier.arrive(0, &knows).unwrap();
        assert!(!barrier.is_over(0));
        assert_eq!(barrier.over().clock.get(0), 0);
        barrier.complete(64, &knows);
        assert!(barrier.is_over(0) && !barrier.is_over(1));
        assert_eq!(barrier.over().clock.get(0), 1);
        let mut one = Mbarrier::new(1);
        one.arrive(8, &knows).unwrap();
        assert!(one.arrive(0, &knows).is_err());
    }

    #[test]
    fn a_barrier_opens_for_those_who_wait() {
        let mut barrier = Named::default();
        assert!(barrier.arrive(0, true, 96, &newborn(0), [false, false]).unwrap().is_none());
        assert!(barrier.arrive(1, false, 96, &newborn(1), [true, true]).unwrap().is_none());
        let opened = barrier.arrive(2, true, 96, &newborn(2), [false, false]).unwrap().unwrap();
        assert_eq!((opened.warps, opened.any, opened.all), (vec![0, 2], true, false));
        assert_eq!([0, 1, 2].map(|agent| opened.knowledge.clock.get(agent)), [1, 1, 1]);
    }
}
