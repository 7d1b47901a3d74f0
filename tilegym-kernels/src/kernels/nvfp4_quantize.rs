//! Rounding of a matrix to NVFP4.

use crate::nvfp4::{self, GROUP};
use indexmap::{IndexMap, indexmap};
use std::collections::BTreeMap;
use tile::contract::{Contract, ContractError, Found, Problem, Role, ScalarValue, SizeSpec, TensorSpec};
use tile::prelude::*;
use tile::registry::KernelDef;
use tile::{Config, DType};

/// Rounds `x` to 4-bit elements with one 8-bit scale for 16 along a row, one `TILE_M x TILE_K` block a program.
///
/// With `g` the global scale, all in f32 and each operation rounded to nearest:
/// `scale = e4m3(max |x| of the group / (6 g))`, `element = e2m1(x / (scale g))`, both conversions to nearest even
/// and saturating, so that `element * scale * g` is near `x`. The global scale that uses the whole range of the
/// scales is the largest magnitude of the tensor over 6 * 448.
///
/// A group whose scale rounds to zero, or is NaN because the group holds a NaN, has elements 0. Infinities
/// saturate.
///
/// # Shapes
/// x `[M, K]`, K a multiple of 16; global_scale `[1]`; elements `[M, K]`; scales `[1, 1, M, K / 16]`, or with
/// `SCALES_128X4` `[ceil(M / 128), ceil(K / 64), 32, 16]`: blocks of 128 rows by 4 scales, in which row `r` and
/// scale `c` lie at `[r % 32, r / 32 * 4 + c]`, zero where they pad
/// # Grid
/// `[ceil(M / TILE_M), ceil(K / TILE_K)]`
/// # Dtypes
/// x f16 | bf16 | f32
/// # Source
/// TensorRT Model Optimizer, `NVFP4QTensor`.
#[tile_kernel(tune(
    TILE_M in [128],
    TILE_K in [64, 128],
    num_warps in [8, 4],
    num_stages in [1],
    occupancy in [2, 1]
))]
pub fn nvfp4_quantize<T: Float, const TILE_M: usize, const TILE_K: usize, const SCALES_128X4: bool>(
    x: Tensor<T, 2>,
    global_scale: Tensor<f32, 1>,
    elements: TensorMut<f4E2M1FN, 2>,
    scales: TensorMut<f8E4M3FN, 4>,
) {
    let (m, k) = (program_id(0), program_id(1));
    let values = x.load([m, k], [TILE_M, TILE_K]).cast::<f32>().reshape([TILE_M, TILE_K / 16, 16]);
    let global = global_scale.load([0], [1]).reshape([1, 1, 1]);
    let scale = div_rn(values.abs().reduce_max(2), global * 6.0).cast::<f8E4M3FN>();
    let step = scale.cast::<f32>() * global;
    let rounded = select(step.gt(0.0), div_rn(values, step), 0.0).cast::<f4E2M1FN>();
    elements.store([m, k], rounded.reshape([TILE_M, TILE_K]));
    if SCALES_128X4 {
        let blocks = scale.reshape([TILE_M / 128, 4, 32, TILE_K / 64, 4]).permute([0, 3, 2, 1, 4]);
        scales.store([m, k, 0, 0], blocks.reshape([TILE_M / 128, TILE_K / 64, 32, 16]));
    } else {
        scales.store([0, 0, m, k], scale.reshape([1, 1, TILE_M, TILE_K / 16]));
    }
}

/// The contract of [`nvfp4_quantize`].
pub struct Nvfp4QuantizeContract;

tile::register_contract!(Nvfp4QuantizeContract);

const SIZES: &[SizeSpec] = &[
    SizeSpec { name: "m", default: 4096, exact: false, doc: "rows of x" },
    SizeSpec { name: "k", default: 4096, exact: false, doc: "columns of x, a multiple of 16" },
    SizeSpec {
        name: "scales_128x4",
        default: 1,
        exact: true,
        doc: "scales go to blocks of 128 rows by 4 (1) or row by row (0)",
    },
];

impl Contract for Nvfp4QuantizeContract {
    fn kernel(&self) -> &'static KernelDef {
        &nvfp4_quantize::KERNEL
    }

    fn summary(&self) -> &'static str {
        "x rounded to NVFP4: 4-bit elements, a scale for each 16"
    }

    fn sizes(&self) -> &'static [SizeSpec] {
        SIZES
    }

    fn dtypes(&self) -> &'static [DType] {
        &[DType::BF16, DType::F16, DType::F32]
    }

    fn check(&self, problem: &Problem) -> Result<(), ContractError> {
        crate::check::positive(problem, &["m", "k"])?;
        nvfp4::whole_groups(problem, "k")?;
        crate::check::switches(problem, &["scales_128x4"])
    }

    fn from_inputs(
        &self,
        inputs: &BTreeMap<String, Found>,
        given: &IndexMap<String, i64>,
    ) -> Result<Problem, ContractError> {
        crate::check::input_names(inputs, &[("x", "[M, K]"), ("global_scale", "[1]")])?;
        let dtype = crate::check::common_dtype(self.dtypes(), inputs, &["x"])?;
        crate::check::common_dtype(&[DType::F32], inputs, &["global_scale"])?;
        let [m, k] = crate::check::extents(inputs, "x", "[M, K]")?;
        let [count] = crate::check::extents(inputs, "global_scale", "[1]")?;
        if count != 1 {
            return Err(ContractError::Shape {
                tensor: "global_scale".into(),
                found: vec![count],
                expected: "[1]".into(),
            });
        }
        crate::check::problem(self, dtype, indexmap! { "m" => m as i64, "k" => k as i64 }, given)
    }

    fn tensors(&self, p: &Problem) -> Vec<TensorSpec> {
        let (m, k) = (p.size("m"), p.size("k"));
        let scales = nvfp4::scales_shape(m, k, p.switch("scales_128x4"));
        vec![
            TensorSpec { name: "x", dtype: p.dtype, shape: vec![m, k], role: Role::Input },
            TensorSpec { name: "global_scale", dtype: DType::F32, shape: vec![1], role: Role::Input },
            TensorSpec { name: "elements", dtype: DType::F4E2M1FN, shape: vec![m, k], role: Role::Output },
            TensorSpec { name: "scales", dtype: DType::F8E4M3FN, shape: scales, role: Role::Output },
        ]
    }

    fn scalars(&self, _: &Problem) -> Vec<ScalarValue> {
        Vec::new()
    }

    fn consts(&self, p: &Problem) -> IndexMap<String, i64> {
        indexmap! { "SCALES_128X4".to_owned() => p.sizes["scales_128x4"] }
    }

    fn dtype_bindings(&self, p: &Problem) -> IndexMap<String, DType> {
        indexmap! { "T".to_owned() => p.dtype }
    }

    fn grid(&self, p: &Problem, config: &Config) -> [usize; 3] {
        [crate::check::blocks(p, "m", config, "TILE_M"), crate::check::blocks(p, "k", config, "TILE_K"), 1]
    }

    fn fill(&self, _: &Problem, tensor: &TensorSpec, _: u64) -> Option<Vec<f64>> {
        // About the largest of a few thousand normal draws over 6 * 448.
        (tensor.name == "global_scale").then(|| vec![f64::from(4.0f32 / 2688.0)])
    }

    fn flops(&self, p: &Problem) -> f64 {
        3.0 * p.size("m") as f64 * p.size("k") as f64
    }

    fn oracle(&self, p: &Problem, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let (m, k, swizzled) = (p.size("m"), p.size("k"), p.switch("scales_128x4"));
        let global = inputs[1][0] as f32;
        let (e4m3, e2m1) = (nvfp4::Magnitudes::e4m3(), nvfp4::Magnitudes::e2m1());
        let mut scales = vec![0.0; nvfp4::scales_shape(m, k, swizzled).iter().product()];
        let mut elements = Vec::with_capacity(m * k);
        for (number, group) in inputs[0].chunks(GROUP).enumerate() {
            let (row, group_number) = (number / (k / GROUP), number % (k / GROUP));
            let peak = if group.iter().any(|v| v.is_nan()) {
                f64::NAN
            } else {
                group.iter().fold(0.0, |peak: f64, v| peak.max(v.abs()))
            };
            let scale = e4m3.nearest(peak as f32 / (6.0 * global));
            let step = scale * global;
            let round = |v: &f64| if step > 0.0 { e2m1.nearest(*v as f32 / step) } else { 0.0 };
            elements.extend(group.iter().map(|v| f64::from(round(v))));
            scales[nvfp4::scale_offset(row, group_number, k, swizzled)] = f64::from(scale);
        }
        vec![elements, scales]
    }

    /// Every bit is defined.
    fn tolerance(&self, _: DType, _: bool) -> f64 {
        0.0
    }

    fn default_config(&self, _: &Problem) -> Config {
        crate::check::config(&[("TILE_M", 128), ("TILE_K", 64)], 8, 1, 2)
    }
}
