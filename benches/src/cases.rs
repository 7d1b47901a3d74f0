//! What is measured: the cases of `cases.json`, which `peers/peers.py` reads too.

use autotune::TuneError;
use autotune::subject::{Subject, find_contract};
use indexmap::IndexMap;
use serde::Deserialize;
use tile::DType;
// Linking the crate registers its kernels.
use tilegym_kernels as _;

/// What a rate counts.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// Useful floating-point operations.
    Flop,
    /// Bytes that must be moved.
    Byte,
}

/// A kernel at one problem.
#[derive(Clone, Debug, Deserialize)]
pub struct Case {
    /// The group that it is listed under.
    pub op: String,
    /// Its shape in words.
    pub case: String,
    /// The kernel.
    pub kernel: String,
    /// The dtype of its main inputs.
    pub dtype: DType,
    /// The sizes of its contract.
    pub sizes: IndexMap<String, i64>,
    /// What its rate counts.
    pub per: Per,
}

impl Case {
    /// The kernel at this problem.
    pub fn subject(&self) -> Result<Subject, TuneError> {
        Subject::new(find_contract(&self.kernel)?, Some(self.dtype), &self.sizes)
    }
}

/// Every case.
///
/// # Panics
/// When the file is no good, which a run shows at once.
pub fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("../cases.json")).unwrap_or_else(|e| panic!("benches/cases.json: {e}"))
}
