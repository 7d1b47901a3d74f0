//! What is said between the search and the processes that measure: a line of JSON each way.

use super::{GpuFacts, Pair};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use tile_lang::{Config, DType};

/// The problem that a process measures, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// The GPU's number.
    pub gpu: usize,
    /// The kernel.
    pub kernel: String,
    /// The dtype of its main inputs.
    pub dtype: DType,
    /// The problem's sizes.
    pub sizes: IndexMap<String, i64>,
}

/// What a process is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Which GPUs there are.
    Gpus,
    /// To measure a problem from here on.
    Open(Opening),
    /// Whether a candidate runs and is right.
    Admit {
        /// The candidate.
        config: Config,
        /// Whose results on the whole problem count as right.
        anchor: Option<Config>,
    },
    /// How long a candidate takes.
    Time {
        /// The candidate.
        config: Config,
        /// What it is timed beside.
        reference: Config,
        /// How often.
        pairs: usize,
    },
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The GPUs.
    Gpus(Vec<GpuFacts>),
    /// It is done.
    Done,
    /// The times.
    Times(Vec<Pair>),
    /// The candidate is out.
    Refused {
        /// Why.
        reason: String,
    },
    /// The candidate is out, and this process with it.
    Lost {
        /// Why.
        reason: String,
    },
    /// What was asked cannot be done at all.
    Unable {
        /// Why.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_take_one_line_and_come_back() {
        let mut config = Config { num_warps: 8, num_ctas: 2, ..Config::default() };
        config.set("TILE_M", 64);
        let request = Request::Time { config: config.clone(), reference: config, pairs: 3 };
        let line = serde_json::to_string(&request).expect("JSON");
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Request>(&line).expect("a request"), request);
        let reply = Reply::Times(vec![Pair { candidate_us: 1.0 / 3.0, reference_us: 7.25 }]);
        let line = serde_json::to_string(&reply).expect("JSON");
        assert_eq!(serde_json::from_str::<Reply>(&line).expect("a reply"), reply);
    }
}
