//! What the CTAs of a cluster send each other.
//!
//! Arrivals come late, in any order; bulk loads for several CTAs are under way in each of them apart.

use crate::exec::{BulkLoad, Cta, Launched};
use crate::fault::Wrong;
use crate::order::Knowledge;
use crate::shared::By;
use crate::warp::State;

/// Addresses of shared memory have the CTA's rank in front, as they have on GPUs, those of a CTA's own memory too.
const RANK_SHIFT: u32 = 24;

/// The address in the CTA with a rank that corresponds to one in any CTA of the cluster.
pub(crate) fn in_cluster(address: u64, rank: u64) -> u64 {
    within(address) | rank << RANK_SHIFT
}

/// An address without the rank.
fn within(address: u64) -> u64 {
    address & ((1 << RANK_SHIFT) - 1)
}

/// An address without the rank where that is a CTA's own; one of another CTA stays, and is out of bounds.
pub(crate) fn own(address: u64, rank: u32) -> u64 {
    if address >> RANK_SHIFT == rank.into() { within(address) } else { address }
}

/// Something for other CTAs.
#[derive(Debug)]
pub(crate) enum What {
    /// An arrival at the mbarrier with this address.
    Arrival(u64),
    /// A bulk load into the CTAs of a mask.
    Load(BulkLoad, u64),
    /// The warp has come to the cluster's barrier.
    Meeting,
}

/// What a warp sends.
#[derive(Debug)]
pub(crate) struct Sent {
    pub what: What,
    pub agent: usize,
    pub knows: Knowledge,
}

/// What is between the CTAs of a cluster.
#[derive(Debug, Default)]
pub(crate) struct Between {
    /// Arrivals on their way.
    pub arrivals: Vec<Sent>,
    /// Warps that are at the cluster's barrier, and what they know.
    met: usize,
    knowledge: Knowledge,
}

impl Between {
    /// Takes what a CTA sends.
    pub fn take(&mut self, ctas: &mut [Cta], from: usize, at: &Launched<'_>) -> Result<(), Wrong> {
        for sent in std::mem::take(&mut ctas[from].sent) {
            match sent.what {
                What::Arrival(_) => self.arrivals.push(sent),
                What::Meeting => {
                    self.met += 1;
                    self.knowledge.join(&sent.knows);
                }
                What::Load(load, mask) => {
                    if mask >> ctas.len() != 0 {
                        return Err(Wrong::Launch("a bulk load to CTAs that the cluster lacks".to_owned()));
                    }
                    for rank in (0..ctas.len()).filter(|rank| mask >> rank & 1 != 0) {
                        let by = By { agent: sent.agent, knows: &sent.knows, is_async: true };
                        if ctas[rank].has_ended() {
                            return Err(Wrong::Ended);
                        }
                        ctas[rank].receive_load(load.clone(), by, at)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Opens the cluster's barrier when every warp that has not ended is there.
    pub fn meet(&mut self, ctas: &mut [Cta]) {
        let warps = ctas.iter().flat_map(|cta| &cta.warps);
        if self.met == 0 || self.met < warps.filter(|warp| warp.state != State::Done).count() {
            return;
        }
        for cta in ctas {
            cta.meetings += 1;
            cta.met.join(&self.knowledge);
        }
        self.met = 0;
    }

    /// Makes one of the arrivals on their way.
    pub fn arrive(&mut self, ctas: &mut [Cta], index: usize) -> Result<(), Wrong> {
        let Sent { what, agent, knows } = self.arrivals.swap_remove(index);
        let What::Arrival(address) = what else { return Ok(()) };
        let missing = Wrong::Mbarrier { address, what: "is of no CTA of the cluster" };
        let rank = Some((address >> RANK_SHIFT) as usize).filter(|rank| *rank < ctas.len()).ok_or(missing)?;
        if ctas[rank].has_ended() {
            return Err(Wrong::Ended);
        }
        ctas[rank].receive_arrival(within(address), By { agent, knows: &knows, is_async: false })
    }
}
