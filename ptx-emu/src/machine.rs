//! Launches: the clusters of a grid, one after the other, and the turns of their warps.

use crate::cluster::Between;
use crate::exec::{Cta, Launched};
use crate::fault::{Fault, Wrong};
use crate::memory::{Memory, Param, Params};
use crate::parse::Entry;
use crate::warp::{LANES, Place, State};

/// How to run a kernel.
#[derive(Clone, Debug)]
pub struct Launch {
    /// CTAs along each axis.
    pub grid: [u32; 3],
    /// Threads of a CTA, along x.
    pub threads: u32,
    /// Dynamic shared memory of a CTA.
    pub shared_bytes: usize,
    /// Decides whose turn it is: any number gives an order that a GPU might choose, equal numbers the same.
    pub seed: u64,
    /// Instructions of a CTA's warps after which it counts as one that never ends.
    pub max_instructions: u64,
}

impl Launch {
    /// A launch of a grid with as many threads a CTA.
    #[must_use]
    pub fn new(grid: [u32; 3], threads: u32) -> Launch {
        Launch { grid, threads, shared_bytes: 0, seed: 0, max_instructions: 1 << 32 }
    }
}

/// What a launch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Instructions that warps executed.
    pub instructions: u64,
}

/// Numbers that look random. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % end as u64) as usize
    }
}

impl Entry {
    /// Runs the kernel; CTAs, or clusters of them, run one after the other, as a GPU with room for one might have them.
    ///
    /// # Errors
    /// [`Fault`], with the place of the first thing that the kernel must not do.
    pub fn run(&self, launch: &Launch, params: &[Param], memory: &mut Memory<'_>) -> Result<Done, Fault> {
        let refuse = |what| Fault { cta: [0; 3], warp: 0, line: 0, text: self.name.clone(), what };
        let params = Params::new(&self.params, params).map_err(refuse)?;
        let threads = launch.threads;
        let fits = (threads as usize).is_multiple_of(LANES)
            && threads > 0
            && self.threads.is_none_or(|wanted| wanted == threads);
        if !fits {
            return Err(refuse(Wrong::Launch(format!("{threads} threads a CTA"))));
        }
        let mut random = Random(launch.seed);
        let mut done = Done::default();
        let [x, y, z] = launch.grid;
        if !x.is_multiple_of(self.cluster) {
            return Err(refuse(Wrong::Launch(format!("clusters of {} CTAs in {x} along x", self.cluster))));
        }
        for z in 0..z {
            for y in 0..y {
                for first in (0..x).step_by(self.cluster as usize) {
                    let at = |rank| {
                        let place = Place { threads, cta: [first + rank, y, z], grid: launch.grid, rank };
                        Launched { entry: self, params: &params, place }
                    };
                    let ctas: Vec<Launched<'_>> = (0..self.cluster).map(at).collect();
                    done.instructions += self.run_cluster(launch, &ctas, &mut random, memory)?;
                }
            }
        }
        Ok(done)
    }

    /// Runs the CTAs of a cluster, which may be one, to their ends.
    fn run_cluster(
        &self,
        launch: &Launch,
        at: &[Launched<'_>],
        random: &mut Random,
        memory: &mut Memory<'_>,
    ) -> Result<u64, Fault> {
        let cta = |rank| Cta::new(self, launch.threads, launch.shared_bytes, [rank, at.len()]);
        let mut ctas: Vec<Cta> = (0..at.len()).map(cta).collect();
        let mut between = Between::default();
        let mut executed = 0;
        loop {
            between.meet(&mut ctas);
            ctas.iter_mut().for_each(Cta::wake);
            let all =
                ctas.iter().enumerate().flat_map(|(r, cta)| cta.warps.iter().map(move |warp| (r, warp)));
            let ready: Vec<(usize, usize)> = all
                .filter(|(_, warp)| warp.state == State::Ready)
                .map(|(r, warp)| (r, warp.number))
                .collect();
            if !between.arrivals.is_empty() && (ready.is_empty() || random.below(8) == 0) {
                let index = random.below(between.arrivals.len());
                between.arrive(&mut ctas, index).map_err(|what| self.fault(&at[0], &ctas[0], 0, what))?;
                continue;
            }
            if ready.is_empty() {
                // Copies come as late as they can: when nobody gets on without them.
                let loading: Vec<usize> = (0..ctas.len()).filter(|r| !ctas[*r].loads.is_empty()).collect();
                if !loading.is_empty() {
                    let r = loading[random.below(loading.len())];
                    let index = random.below(ctas[r].loads.len());
                    let ended = at.len() > 1 && ctas[r].has_ended();
                    let finished = match ended {
                        true => Err(Wrong::Ended),
                        false => ctas[r].finish_bulk_load(index, &at[r], memory),
                    };
                    finished.map_err(|what| self.fault(&at[r], &ctas[r], 0, what))?;
                    continue;
                }
                let waiting = ctas.iter().enumerate().find_map(|(r, cta)| {
                    cta.warps.iter().find(|warp| warp.state != State::Done).map(|warp| (r, warp.number))
                });
                let Some((r, w)) = waiting else { break };
                let what = Wrong::Deadlock { warps: self.waits(&ctas) };
                return Err(self.fault(&at[r], &ctas[r], w, what));
            }
            let (r, w) = ready[random.below(ready.len())];
            for _ in 0..=random.below(200) {
                if ctas[r].warps[w].state != State::Ready {
                    break;
                }
                ctas[r].step(w, &at[r], memory).map_err(|what| self.fault(&at[r], &ctas[r], w, what))?;
                executed += 1;
                if !ctas[r].sent.is_empty() {
                    let taken = between.take(&mut ctas, r, &at[r]);
                    taken.map_err(|what| self.fault(&at[r], &ctas[r], w, what))?;
                }
            }
            if executed > launch.max_instructions {
                return Err(self.fault(&at[r], &ctas[r], w, Wrong::TooLong(executed)));
            }
        }
        for (at, cta) in at.iter().zip(&ctas) {
            if let Some((w, what)) = cta.unfinished() {
                return Err(self.fault(at, cta, w, Wrong::Unfinished { what }));
            }
        }
        Ok(executed)
    }

    /// What each warp waits for.
    fn waits(&self, ctas: &[Cta]) -> String {
        let one = |warp: &crate::warp::Warp| {
            let line = warp.pc().and_then(|pc| self.code.get(pc)).map_or(0, |inst| inst.line);
            let what = match warp.state {
                State::Barrier(id) => format!("barrier {id}"),
                State::Mbarrier { address, parity } => {
                    format!("phase {parity} of the mbarrier at {address:#x}")
                }
                State::Cluster => "the cluster".to_owned(),
                State::Ready | State::Done => return None,
            };
            Some(format!("warp {} at line {line} for {what}", warp.number))
        };
        ctas.iter().flat_map(|cta| &cta.warps).filter_map(one).collect::<Vec<_>>().join(", ")
    }

    fn fault(&self, at: &Launched<'_>, cta: &Cta, w: usize, what: Wrong) -> Fault {
        let inst = cta.warps[w].pc().and_then(|pc| self.code.get(pc)).or(self.code.last());
        let line = inst.map_or(0, |inst| inst.line);
        let text =
            (line as usize).checked_sub(1).and_then(|at| self.lines.get(at)).map_or("", |line| line.trim());
        let text = text.chars().take(200).collect();
        Fault { cta: at.place.cta, warp: w, line, text, what }
    }
}

impl Cta {
    /// Makes warps ready whose mbarrier's phase is over, or whose cluster has met.
    fn wake(&mut self) {
        for warp in &mut self.warps {
            if warp.state == State::Cluster && warp.meetings <= self.meetings {
                warp.state = State::Ready;
            }
            if let State::Mbarrier { address, parity } = warp.state
                && self.mbarriers.get(&address).is_some_and(|barrier| barrier.is_over(parity))
            {
                warp.state = State::Ready;
            }
        }
    }

    /// True when no warp has anything left to do.
    pub fn has_ended(&self) -> bool {
        self.warps.iter().all(|warp| warp.state == State::Done)
    }

    /// What the CTA leaves under way.
    fn unfinished(&self) -> Option<(usize, &'static str)> {
        self.warps.iter().find_map(|warp| {
            let kinds = [
                (warp.copies.is_empty(), "an asynchronous copy"),
                (warp.stores.is_empty(), "a bulk store"),
                (warp.products.is_empty(), "a wgmma"),
            ];
            kinds.into_iter().find(|(is_empty, _)| !is_empty).map(|(_, what)| (warp.number, what))
        })
    }
}
