//! Element types.

use serde::{Deserialize, Serialize};
use std::fmt;

/// An element type, spelled as MLIR spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DType {
    /// IEEE binary32.
    #[serde(rename = "f32")]
    F32,
    /// IEEE binary16.
    #[serde(rename = "f16")]
    F16,
    /// bfloat16.
    #[serde(rename = "bf16")]
    BF16,
    /// 32-bit signed integer.
    #[serde(rename = "i32")]
    I32,
    /// 64-bit signed integer; scalars only.
    #[serde(rename = "i64")]
    I64,
    /// A size or block index (`usize` in Rust, `index` in MLIR); scalars only.
    #[serde(rename = "index")]
    Index,
    /// Truth value (`i1` in MLIR, one byte in memory).
    #[serde(rename = "bool")]
    Bool,
    /// OCP FP8 E4M3, finite only with one NaN; a storage type: cast before arithmetic.
    #[serde(rename = "f8E4M3FN")]
    F8E4M3FN,
    /// OCP FP4 E2M1; a storage type, two elements a byte in memory, lower index in the low nibble.
    #[serde(rename = "f4E2M1FN")]
    F4E2M1FN,
}

impl DType {
    /// Every element type.
    pub const ALL: [DType; 9] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::I32,
        DType::I64,
        DType::Index,
        DType::Bool,
        DType::F8E4M3FN,
        DType::F4E2M1FN,
    ];

    /// The MLIR spelling (`f8E4M3FN`), except that `bool` is not written `i1`.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I32 => "i32",
            DType::I64 => "i64",
            DType::Index => "index",
            DType::Bool => "bool",
            DType::F8E4M3FN => "f8E4M3FN",
            DType::F4E2M1FN => "f4E2M1FN",
        }
    }

    /// The type a kernel's Rust source names: `usize` for [`DType::Index`], `f8E4M3FN` and so on as they are.
    pub fn rust_name(self) -> &'static str {
        match self {
            DType::Index => "usize",
            other => other.name(),
        }
    }

    /// Reads a spelling of [`DType::name`] or [`DType::rust_name`].
    pub fn from_name(name: &str) -> Option<DType> {
        DType::ALL.into_iter().find(|d| d.name() == name || d.rust_name() == name)
    }

    /// Bits of one element in memory.
    pub fn bits(self) -> u32 {
        match self {
            DType::F32 | DType::I32 => 32,
            DType::F16 | DType::BF16 => 16,
            DType::I64 | DType::Index => 64,
            DType::Bool | DType::F8E4M3FN => 8,
            DType::F4E2M1FN => 4,
        }
    }

    /// True for every floating-point type, the storage-only ones included.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::BF16 | DType::F8E4M3FN | DType::F4E2M1FN)
    }

    /// True for `i32`, `i64` and `index`.
    pub fn is_int(self) -> bool {
        matches!(self, DType::I32 | DType::I64 | DType::Index)
    }

    /// True for types that only load, store, cast, move and feed `mma`.
    pub fn is_storage_only(self) -> bool {
        matches!(self, DType::F8E4M3FN | DType::F4E2M1FN)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
