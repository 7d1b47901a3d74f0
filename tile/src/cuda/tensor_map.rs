//! Tensor maps: what bulk copies know of the tensors that they take blocks of.

use super::params::Params;
use super::prepared::Arg;
use codegen_ptx::TensorMap;
use cudarc::driver::sys;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::sync::Mutex;
use tile_lang::DType;

/// Words of an encoded map.
const WORDS: usize = 16;
/// Launches whose maps a kernel keeps: those of a few problems in turn.
const KEPT: usize = 8;

type Encoded = [u64; WORDS];

/// The tensors of a launch, as far as maps depend on them: address, extents and strides, one after the other.
type Tensors = SmallVec<[u64; 64]>;

/// The maps that a kernel takes, encoded for the tensors of its latest launches.
pub(super) struct TensorMaps {
    wanted: Vec<TensorMap>,
    recent: Mutex<VecDeque<(Tensors, Vec<Encoded>)>>,
}

impl TensorMaps {
    /// Maps of which nothing is encoded yet.
    pub fn new(wanted: Vec<TensorMap>) -> TensorMaps {
        TensorMaps { wanted, recent: Mutex::default() }
    }

    /// Adds the maps of a launch to its parameters; false when a tensor has none, because it is empty or because
    /// the driver refuses it.
    pub fn push(&self, args: &[Arg<'_>], params: &mut Params) -> bool {
        if self.wanted.is_empty() {
            return true;
        }
        let mut key = Tensors::new();
        for arg in args {
            if let Arg::Tensor { address, shape, strides, .. } = arg {
                key.push(*address);
                key.extend(shape.iter().chain(*strides).map(|&n| n as u64));
            }
        }
        let mut recent = self.recent.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((_, maps)) = recent.iter().find(|(tensors, _)| *tensors == key) {
            maps.iter().for_each(|map| params.push_block(map));
            return true;
        }
        let Some(maps) = self.wanted.iter().map(|map| encode(map, args)).collect::<Option<Vec<_>>>() else {
            return false;
        };
        maps.iter().for_each(|map| params.push_block(map));
        recent.truncate(KEPT - 1);
        recent.push_front((key, maps));
        true
    }
}

/// What a map says its elements are; none for what maps have no form of.
///
/// As `TFLOAT32`, f32 is rounded while it is copied to shared memory: CUTLASS relies on it for its f32 products by
/// `wgmma`. The driver's manual does not name the mode; a test of Triton's (its descriptors' `round_f32_to_tf32`, on
/// sm_120) has ties go to even, and infinities and NaN stay as they are.
fn element_type(dtype: DType, rounds: bool) -> Option<sys::CUtensorMapDataType> {
    use sys::CUtensorMapDataType as Type;
    match dtype {
        DType::F32 if rounds => Some(Type::CU_TENSOR_MAP_DATA_TYPE_TFLOAT32),
        _ if rounds => None,
        DType::F32 => Some(Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT32),
        DType::F16 => Some(Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT16),
        DType::BF16 => Some(Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16),
        DType::I32 => Some(Type::CU_TENSOR_MAP_DATA_TYPE_INT32),
        DType::F8E4M3FN | DType::F4E2M1FN => Some(Type::CU_TENSOR_MAP_DATA_TYPE_UINT8),
        _ => None,
    }
}

/// What comes from DRAM at once where a box takes a part of it: two lines of 128 bytes, of which a loop takes the second
/// in its next iteration. Of boxes with shorter rows it would take many iterations to use both up, and all CTAs, which
/// are in step, would ask for more at the same time; they get one.
fn promotion(map: &TensorMap, dtype: DType) -> sys::CUtensorMapL2promotion {
    let row_bits = map.box_shape.last().map_or(0, |n| n * dtype.bits().max(8) as usize);
    match row_bits < 128 * 8 {
        true => sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
        false => sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
    }
}

/// Encodes one map.
fn encode(map: &TensorMap, args: &[Arg<'_>]) -> Option<Encoded> {
    let mut tensors = args.iter().filter(|arg| matches!(arg, Arg::Tensor { .. }));
    let Arg::Tensor { dtype, address, shape, strides, .. } = tensors.nth(map.tensor)? else { return None };
    let ty = element_type(*dtype, map.rounds)?;
    let swizzle = match map.swizzle_bytes {
        128 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
        64 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
        32 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_32B,
        _ => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
    };
    if shape.contains(&0) {
        return None;
    }
    // The driver counts dimensions from the innermost, whose stride it takes to be one element: of 4-bit ones, a
    // byte of two.
    let bits = u64::from(dtype.bits());
    let mut extents: Vec<u64> = shape.iter().rev().map(|&n| n as u64).collect();
    extents[0] /= u64::from(8 / dtype.bits().min(8));
    let strides: Vec<u64> = strides.iter().rev().skip(1).map(|&n| n as u64 * bits / 8).collect();
    let box_shape: Vec<u32> = map.box_shape.iter().rev().map(|&n| n as u32).collect();
    let steps = vec![1u32; extents.len()];
    let mut encoded = sys::CUtensorMap { opaque: [0; WORDS] };
    // SAFETY: the arrays have as many entries as the driver reads, and it writes only the map, which is aligned as
    // it asks. The address is noted, not read.
    let result = unsafe {
        sys::cuTensorMapEncodeTiled(
            &mut encoded,
            ty,
            extents.len() as u32,
            std::ptr::with_exposed_provenance_mut(*address as usize),
            extents.as_ptr(),
            strides.as_ptr(),
            box_shape.as_ptr(),
            steps.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            promotion(map, *dtype),
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    result.result().ok().map(|()| encoded.opaque)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_maps_that_are_to_round_do() {
        use sys::CUtensorMapDataType as Type;
        assert_eq!(element_type(DType::F32, true), Some(Type::CU_TENSOR_MAP_DATA_TYPE_TFLOAT32));
        assert_eq!(element_type(DType::F32, false), Some(Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT32));
        assert_eq!(element_type(DType::F16, true), None);
    }

    #[test]
    fn short_rows_come_a_line_at_a_time() {
        use sys::CUtensorMapL2promotion as Promotion;
        let of = |cols, dtype| {
            let map = TensorMap { tensor: 0, box_shape: vec![128, cols], swizzle_bytes: 0, rounds: false };
            promotion(&map, dtype)
        };
        assert_eq!(of(64, DType::BF16), Promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B);
        assert_eq!(of(32, DType::BF16), Promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B);
        // Pairs of 4-bit elements are counted as one.
        assert_eq!(of(128, DType::F4E2M1FN), Promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B);
        assert_eq!(of(32, DType::F4E2M1FN), Promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B);
    }
}
