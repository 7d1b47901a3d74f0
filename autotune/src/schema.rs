//! The names and values that a kernel's table may hold.

use tile_lang::Config;
use tile_lang::ast::{ConstKind, Function};

/// The names and values that a kernel's table may hold.
#[derive(Clone, Debug)]
pub struct Schema {
    /// The kernel.
    pub kernel: String,
    /// Const parameters that a configuration sets, and what they may be.
    pub consts: Vec<(String, ConstRule)>,
    /// The problem's sizes.
    pub sizes: Vec<String>,
    /// Hash of the kernel's source. Records of another source may hold names and values that it has no more.
    pub source_hash: String,
}

/// What a const parameter may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConstRule {
    /// A tile's dimension: a power of two.
    Tile,
    /// Any size from 1.
    Size,
    /// 0 or 1.
    Switch,
}

impl Schema {
    /// The schema of a kernel whose problem has the sizes given. A size whose declared candidates are all powers
    /// of two is taken for a tile's dimension.
    pub fn new(
        kernel: &Function,
        sizes: impl IntoIterator<Item = &'static str>,
        source_hash: String,
    ) -> Schema {
        let rule = |name: &str, values: &[i64]| {
            let constant = kernel.const_params.iter().find(|c| c.name == name)?;
            let is_tile = values.iter().all(|v| *v > 0 && v & (v - 1) == 0);
            Some(match constant.kind {
                ConstKind::Bool => ConstRule::Switch,
                ConstKind::Size if is_tile => ConstRule::Tile,
                ConstKind::Size => ConstRule::Size,
            })
        };
        let consts = kernel
            .tune
            .axes
            .iter()
            .filter_map(|a| Some((a.name.clone(), rule(&a.name, &a.values)?)))
            .collect();
        let sizes = sizes.into_iter().map(str::to_owned).collect();
        Schema { kernel: kernel.name.clone(), consts, sizes, source_hash }
    }

    /// The names a configuration may set.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.consts.iter().map(|(name, _)| name.as_str()).chain(Config::LAUNCH_OPTIONS)
    }

    /// What `value` breaks, in words that say what is allowed; `None` when `name` may have it.
    pub fn complaint(&self, name: &str, value: i64) -> Option<&'static str> {
        let power_of_two = value > 0 && value & (value - 1) == 0;
        let rule = self.consts.iter().find(|(n, _)| n == name).map(|(_, rule)| *rule);
        let (fits, allowed) = match (rule, name) {
            (Some(ConstRule::Tile), _) => (power_of_two && value <= 1 << 16, "a power of two, at most 65536"),
            (Some(ConstRule::Size), _) => (value >= 1, "a whole number from 1"),
            (Some(ConstRule::Switch), _) => ((0..=1).contains(&value), "0 or 1"),
            (None, "num_warps") => (power_of_two && value <= 16, "1, 2, 4, 8 or 16"),
            (None, "num_stages") => ((1..=8).contains(&value), "1 to 8"),
            (None, "occupancy") => ((1..=32).contains(&value), "1 to 32"),
            (None, "split_tail") => ((0..=2).contains(&value), "0, 1 or 2"),
            (None, name) if Config::is_switch(name) => ((0..=1).contains(&value), "0 or 1"),
            (None, "num_ctas") => (power_of_two && value <= 8, "1, 2, 4 or 8"),
            _ => (false, "a name the kernel has"),
        };
        (!fits).then_some(allowed)
    }
}
