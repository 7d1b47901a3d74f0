//! What happened before what: vector clocks.
//!
//! Every warp, and the engine of bulk copies, is an agent that counts its own steps from one release to the next.
//! Whatever synchronizes hands on what it knows of the steps of all agents.
//!
//! Source of the algorithm: Flanagan and Freund, "FastTrack: efficient and precise dynamic race detection", 2009.

/// For each agent the last step that is known to be over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Clock(Vec<u32>);

impl Clock {
    #[inline]
    pub fn get(&self, agent: usize) -> u32 {
        self.0.get(agent).copied().unwrap_or(0)
    }

    pub fn set(&mut self, agent: usize, step: u32) {
        if self.0.len() <= agent {
            self.0.resize(agent + 1, 0);
        }
        self.0[agent] = step;
    }

    pub fn join(&mut self, other: &Clock) {
        for (agent, &step) in other.0.iter().enumerate() {
            if self.get(agent) < step {
                self.set(agent, step);
            }
        }
    }
}

/// What an agent knows to be over, and which of the writes by threads a proxy fence made visible to asynchronous
/// operations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Knowledge {
    pub clock: Clock,
    pub fenced: Clock,
}

impl Knowledge {
    pub fn join(&mut self, other: &Knowledge) {
        self.clock.join(&other.clock);
        self.fenced.join(&other.fenced);
    }

    /// `fence.proxy.async`.
    pub fn fence(&mut self) {
        let Knowledge { clock, fenced } = self;
        fenced.join(clock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knowledge_is_handed_on_with_its_fences() {
        let mut writer = Knowledge::default();
        writer.clock.set(0, 5);
        let mut unfenced = Knowledge::default();
        unfenced.join(&writer);
        assert_eq!((unfenced.clock.get(0), unfenced.fenced.get(0)), (5, 0));
        writer.fence();
        unfenced.join(&writer);
        assert_eq!((unfenced.fenced.get(0), unfenced.fenced.get(1)), (5, 0));
    }
}
