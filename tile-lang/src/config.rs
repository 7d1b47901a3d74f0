//! What an instantiation binds: const parameters, dtypes, launch options, and facts about the arguments.

use crate::dtype::DType;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// The values of the const parameters and launch options of one instantiation.
///
/// Bools are 0 and 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Const parameters by name.
    #[serde(flatten)]
    pub consts: IndexMap<String, i64>,
    /// Warps of a CTA; a power of two, 1 to 16.
    pub num_warps: u32,
    /// Buffers of a pipelined load; 1 turns pipelining off.
    pub num_stages: u32,
    /// CTAs to fit on one SM: an upper bound on registers and shared memory of each.
    pub occupancy: u32,
    /// CTAs of a cluster.
    pub num_ctas: u32,
    /// Whether copies may have a warp of their own, on targets where that helps.
    pub warp_specialize: bool,
    /// Whether masks are applied only in those iterations of a loop that need them.
    pub split_masks: bool,
    /// Whether warpgroups take turns at the tensor cores, on targets that have warpgroups.
    pub ping_pong: bool,
    /// Whether blocks are stored as bulk copies out of shared memory, on targets that have them.
    pub bulk_stores: bool,
    /// Whether as many CTAs as are resident at once walk over all programs.
    pub persistent: bool,
    /// Whether f32 operands may go to `wgmma`, rounded to tf32 by the tensor maps that copy them.
    pub tf32_wgmma: bool,
    /// Whether a product whose lhs is computed in registers is taken in halves, the lhs of each of which is computed while
    /// the other runs.
    pub compute_ahead: bool,
    /// Whether what a launch reads once leaves L2 first.
    pub stream_loads: bool,
    /// 1 where CTAs that walk over programs split the sums of those that do not fill a round, 2 where they share out the
    /// sums of the last whole round with them (stream-K).
    pub split_tail: u32,
    /// The SM that it was tuned for, such as `sm_90`; a launch on another one refuses it. None for a configuration
    /// that is meant for whatever SM it is used on.
    #[serde(skip)]
    pub tuned_for: Option<&'static str>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            consts: IndexMap::new(),
            num_warps: 4,
            num_stages: 2,
            occupancy: 1,
            num_ctas: 1,
            warp_specialize: true,
            split_masks: true,
            ping_pong: false,
            bulk_stores: true,
            persistent: false,
            tf32_wgmma: false,
            compute_ahead: false,
            stream_loads: false,
            split_tail: 0,
            tuned_for: None,
        }
    }
}

impl Config {
    /// The names of the launch options, in the order they are printed.
    pub const LAUNCH_OPTIONS: [&'static str; 13] = [
        "num_warps",
        "num_stages",
        "occupancy",
        "num_ctas",
        "warp_specialize",
        "split_masks",
        "ping_pong",
        "bulk_stores",
        "persistent",
        "tf32_wgmma",
        "compute_ahead",
        "stream_loads",
        "split_tail",
    ];

    /// Whether a launch option is a switch: 0 or 1, or 2 where there are two ways to switch it on.
    pub fn is_switch(name: &str) -> bool {
        Config::LAUNCH_OPTIONS[4..].contains(&name)
    }

    /// A const parameter or launch option by name.
    pub fn get(&self, name: &str) -> Option<i64> {
        match name {
            "num_warps" => Some(self.num_warps.into()),
            "num_stages" => Some(self.num_stages.into()),
            "occupancy" => Some(self.occupancy.into()),
            "num_ctas" => Some(self.num_ctas.into()),
            "warp_specialize" => Some(self.warp_specialize.into()),
            "split_masks" => Some(self.split_masks.into()),
            "ping_pong" => Some(self.ping_pong.into()),
            "bulk_stores" => Some(self.bulk_stores.into()),
            "persistent" => Some(self.persistent.into()),
            "tf32_wgmma" => Some(self.tf32_wgmma.into()),
            "compute_ahead" => Some(self.compute_ahead.into()),
            "stream_loads" => Some(self.stream_loads.into()),
            "split_tail" => Some(self.split_tail.into()),
            _ => self.consts.get(name).copied(),
        }
    }

    /// Sets a const parameter or launch option by name.
    pub fn set(&mut self, name: &str, value: i64) {
        match name {
            "num_warps" => self.num_warps = value as u32,
            "num_stages" => self.num_stages = value as u32,
            "occupancy" => self.occupancy = value as u32,
            "num_ctas" => self.num_ctas = value as u32,
            "warp_specialize" => self.warp_specialize = value != 0,
            "split_masks" => self.split_masks = value != 0,
            "ping_pong" => self.ping_pong = value != 0,
            "bulk_stores" => self.bulk_stores = value != 0,
            "persistent" => self.persistent = value != 0,
            "tf32_wgmma" => self.tf32_wgmma = value != 0,
            "compute_ahead" => self.compute_ahead = value != 0,
            "stream_loads" => self.stream_loads = value != 0,
            "split_tail" => self.split_tail = value as u32,
            _ => {
                self.consts.insert(name.to_owned(), value);
            }
        }
    }
}

/// What is known at an instantiation: every const parameter, every dtype parameter.
///
/// Inside the macro nothing is bound, and shapes stay symbolic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bindings {
    /// Const parameters by name; bools are 0 and 1.
    pub consts: IndexMap<String, i64>,
    /// Dtype parameters by name.
    pub dtypes: IndexMap<String, DType>,
}

/// What is known about a tensor argument beyond its type; code is specialized on it and a launch checks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TensorFacts {
    /// Largest power of two, at most 16, that divides the base address, every stride but the innermost, and the
    /// innermost extent, in bytes. With it, no aligned vector straddles the edge of the tensor.
    pub align_bytes: u32,
    /// The innermost stride is one element.
    pub contiguous: bool,
}

impl TensorFacts {
    /// A dense tensor whose rows start on 16-byte boundaries.
    pub const ALIGNED: TensorFacts = TensorFacts { align_bytes: 16, contiguous: true };
}
