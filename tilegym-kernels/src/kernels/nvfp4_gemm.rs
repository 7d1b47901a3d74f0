//! Products with weights in NVFP4: 4-bit elements with one 8-bit scale for 16 of them and one f32 for all.

use crate::nvfp4::{self, GROUP, SCALES_SHAPE};
use crate::splits;
use indexmap::{IndexMap, indexmap};
use rayon::prelude::*;
use std::collections::BTreeMap;
use tile::contract::{
    Contract, ContractError, Draws, Found, Problem, Role, ScalarValue, SizeSpec, Step, TensorSpec,
};
use tile::prelude::*;
use tile::registry::KernelDef;
use tile::{Config, DType};

/// `out = x Wᵀ` with `W[n, k] = weights[n, k] * scales[n, k / 16] * global_scale`, one `TILE_M x TILE_N` block of
/// `out` a program, accumulated in f32.
///
/// The weights are the rows of the product that is computed, `W xᵀ`, and the few rows of `x` its columns: tensor
/// cores multiply 16 rows by 8 columns at a time. An element times its scale over 256 has at most 6 significant bits
/// and is a multiple of 2^-18, so it is exact in f16 and bf16; `256 global_scale` multiplies the f32 sums.
///
/// With more than one split, each program sums its part of K, and the parts are added in a second step.
///
/// With few rows of x the weights' bytes and widening them bound the speed, so tiles are of many weights, or of so few
/// that all SMs have as many; from 128 rows on products do, and each weight that is widened serves as many rows as
/// accumulators have room for.
///
/// # Shapes
/// x `[M, K]`, K a multiple of 16; weights `[N, K]`; scales `[1, 1, N, K / 16]`, or with `SCALES_128X4`
/// `[ceil(N / 128), ceil(K / 64), 32, 16]`: blocks of 128 rows by 4 scales, in which row `r` and scale `c` lie at
/// `[r % 32, r / 32 * 4 + c]`. global_scale `[1]`; out `[M, N]`; parts `[SPLITS, M, N]`, unused with one split
/// # Grid
/// `[ceil(N / TILE_N), ceil(M / TILE_M), SPLITS]`
/// # Dtypes
/// x and out f16 | bf16
#[tile_kernel(tune(
    TILE_M in [8, 16, 32, 64, 128, 256],
    TILE_N in [64, 128, 256, 32],
    TILE_K in [256, 128, 512, 64],
    SPLITS in [1, 2, 4, 8],
    num_warps in [4, 8],
    num_stages in [3, 2, 4],
    occupancy in [2, 3, 4, 5, 1, 9],
    warp_specialize in [0, 1]
    where TILE_M * TILE_N <= 4096 * num_warps,
        TILE_N >= 16 * num_warps
            || TILE_N == 8 * num_warps && TILE_M == 8 && SPLITS == 1 && warp_specialize == 0,
        warp_specialize == 0 && TILE_M <= 32
            || warp_specialize == 1 && (TILE_M >= 64 || TILE_M * TILE_K == 4096 && SPLITS == 1),
        occupancy <= 3 || TILE_M <= 16 && num_warps == 4,
        occupancy <= 5 || TILE_N == 32,
        TILE_M * TILE_N <= 2048 * num_warps || TILE_M >= 128,
        TILE_M * TILE_K <= 8192
            || TILE_M == 64 && TILE_K == 256 && num_stages == 2 || TILE_M >= 128 && TILE_K <= 128,
        TILE_K >= 128 || TILE_M >= 64
))]
#[allow(clippy::too_many_arguments)]
pub fn nvfp4_gemm<
    T: Float,
    const TILE_M: usize,
    const TILE_N: usize,
    const TILE_K: usize,
    const SPLITS: usize,
    const SCALES_128X4: bool,
>(
    x: Tensor<T, 2>,
    weights: Tensor<f4E2M1FN, 2>,
    scales: Tensor<f8E4M3FN, 4>,
    global_scale: Tensor<f32, 1>,
    out: TensorMut<T, 2>,
    parts: TensorMut<f32, 3>,
) {
    let (n, m, split) = (program_id(0), program_id(1), program_id(2));
    let blocks = cdiv(x.dim(1), TILE_K);
    let share = cdiv(blocks, SPLITS);
    let (first, end) =
        if SPLITS == 1 { (0, blocks) } else { (split * share, ((split + 1) * share).min(blocks)) };
    let mut acc = zeros::<f32>([TILE_N, TILE_M]);
    for k in first..end {
        let elements = weights.load([n, k], [TILE_N, TILE_K]).cast::<T>();
        let groups = if SCALES_128X4 {
            scales
                .load([n, k, 0, 0], [TILE_N / 128, TILE_K / 64, 32, 16])
                .reshape([TILE_N / 128, TILE_K / 64, 32, 4, 4])
                .permute([0, 3, 2, 1, 4])
                .reshape([TILE_N, TILE_K / 16, 1])
        } else {
            scales.load([0, 0, n, k], [1, 1, TILE_N, TILE_K / 16]).reshape([TILE_N, TILE_K / 16, 1])
        };
        // Scales below 2, so that the power of two by which elements are widened fits into them.
        let by_group = groups.cast::<T>() * (1.0 / 256.0);
        let by_element = by_group.broadcast_to([TILE_N, TILE_K / 16, 16]).reshape([TILE_N, TILE_K]);
        acc = mma(elements * by_element, x.load([m, k], [TILE_M, TILE_K]).t(), acc);
    }
    let product = (acc * (global_scale.load([0], [1]) * 256.0).reshape([1, 1])).t();
    if SPLITS == 1 {
        out.store([m, n], product.cast::<T>());
    } else {
        parts.store([split, m, n], product.reshape([1, TILE_M, TILE_N]));
    }
}

/// As [`nvfp4_gemm`], of an x in NVFP4 too: products of 4-bit elements by `mma_scaled`.
///
/// # Shapes
/// x `[M, K]`, x_scales as scales with M in the place of N, x_global_scale `[1]`; the others as there
/// # Grid
/// `[ceil(N / TILE_N), ceil(M / TILE_M), SPLITS]`
/// # Dtypes
/// out f16 | bf16
#[tile_kernel(tune(
    TILE_M in [64, 16, 32, 128],
    TILE_N in [128, 64],
    TILE_K in [256, 128, 64],
    SPLITS in [1, 2, 4, 8],
    num_warps in [4, 8],
    num_stages in [3, 2, 4],
    occupancy in [1, 2]
    where TILE_M * TILE_N <= 2048 * num_warps
))]
#[allow(clippy::too_many_arguments)]
pub fn nvfp4_gemm_scaled<
    T: Float,
    const TILE_M: usize,
    const TILE_N: usize,
    const TILE_K: usize,
    const SPLITS: usize,
    const SCALES_128X4: bool,
>(
    x: Tensor<f4E2M1FN, 2>,
    x_scales: Tensor<f8E4M3FN, 4>,
    x_global_scale: Tensor<f32, 1>,
    weights: Tensor<f4E2M1FN, 2>,
    scales: Tensor<f8E4M3FN, 4>,
    global_scale: Tensor<f32, 1>,
    out: TensorMut<T, 2>,
    parts: TensorMut<f32, 3>,
) {
    let (n, m, split) = (program_id(0), program_id(1), program_id(2));
    let blocks = cdiv(x.dim(1), TILE_K);
    let share = cdiv(blocks, SPLITS);
    let (first, end) =
        if SPLITS == 1 { (0, blocks) } else { (split * share, ((split + 1) * share).min(blocks)) };
    let mut acc = zeros::<f32>([TILE_N, TILE_M]);
    for k in first..end {
        let (of_weights, of_x) = if SCALES_128X4 {
            let of_weights = scales
                .load([n, k, 0, 0], [TILE_N / 128, TILE_K / 64, 32, 16])
                .reshape([TILE_N / 128, TILE_K / 64, 32, 4, 4])
                .permute([0, 3, 2, 1, 4])
                .reshape([TILE_N, TILE_K / 16]);
            let of_x = x_scales
                .load([m, k, 0, 0], [TILE_M / 128, TILE_K / 64, 32, 16])
                .reshape([TILE_M / 128, TILE_K / 64, 32, 4, 4])
                .permute([0, 3, 2, 1, 4])
                .reshape([TILE_M, TILE_K / 16]);
            (of_weights, of_x)
        } else {
            let of_weights = scales.load([0, 0, n, k], [1, 1, TILE_N, TILE_K / 16]);
            let of_x = x_scales.load([0, 0, m, k], [1, 1, TILE_M, TILE_K / 16]);
            (of_weights.reshape([TILE_N, TILE_K / 16]), of_x.reshape([TILE_M, TILE_K / 16]))
        };
        let elements = weights.load([n, k], [TILE_N, TILE_K]);
        let rows = x.load([m, k], [TILE_M, TILE_K]);
        acc = mma_scaled(elements, of_weights, rows.t(), of_x.t(), acc);
    }
    let factor = (global_scale.load([0], [1]) * x_global_scale.load([0], [1])).reshape([1, 1]);
    let product = (acc * factor).t();
    if SPLITS == 1 {
        out.store([m, n], product.cast::<T>());
    } else {
        parts.store([split, m, n], product.reshape([1, TILE_M, TILE_N]));
    }
}

/// The contract of [`nvfp4_gemm`] or, with x in NVFP4 too, of [`nvfp4_gemm_scaled`].
pub struct Nvfp4GemmContract {
    x_is_nvfp4: bool,
}

impl Nvfp4GemmContract {
    /// x in f16 or bf16.
    pub const WEIGHTS: Nvfp4GemmContract = Nvfp4GemmContract { x_is_nvfp4: false };
    /// Both operands in NVFP4.
    pub const BOTH: Nvfp4GemmContract = Nvfp4GemmContract { x_is_nvfp4: true };
}

tile::register_contract!(Nvfp4GemmContract::WEIGHTS);
tile::register_contract!(Nvfp4GemmContract::BOTH);

const SIZES: &[SizeSpec] = &[
    SizeSpec { name: "m", default: 16, exact: false, doc: "rows of x and out" },
    SizeSpec { name: "n", default: 4096, exact: false, doc: "rows of the weights, columns of out" },
    SizeSpec { name: "k", default: 4096, exact: false, doc: "the summed dimension, a multiple of 16" },
    SizeSpec {
        name: "scales_128x4",
        default: 0,
        exact: true,
        doc: "scales lie in blocks of 128 rows by 4 (1) or row by row (0)",
    },
];

impl Contract for Nvfp4GemmContract {
    fn kernel(&self) -> &'static KernelDef {
        if self.x_is_nvfp4 { &nvfp4_gemm_scaled::KERNEL } else { &nvfp4_gemm::KERNEL }
    }

    fn summary(&self) -> &'static str {
        if self.x_is_nvfp4 {
            "out = x Wᵀ with x and weights in NVFP4, by products of 4-bit elements"
        } else {
            "out = x Wᵀ with weights in NVFP4, widened in registers"
        }
    }

    fn sizes(&self) -> &'static [SizeSpec] {
        SIZES
    }

    fn dtypes(&self) -> &'static [DType] {
        &[DType::BF16, DType::F16]
    }

    fn check(&self, problem: &Problem) -> Result<(), ContractError> {
        crate::check::positive(problem, &["m", "n", "k"])?;
        nvfp4::whole_groups(problem, "k")?;
        crate::check::switches(problem, &["scales_128x4"])
    }

    fn from_inputs(
        &self,
        inputs: &BTreeMap<String, Found>,
        given: &IndexMap<String, i64>,
    ) -> Result<Problem, ContractError> {
        let mut expected =
            vec![("x", "[M, K]"), ("weights", "[N, K]"), ("scales", SCALES_SHAPE), ("global_scale", "[1]")];
        if self.x_is_nvfp4 {
            expected.extend([("x_scales", SCALES_SHAPE), ("x_global_scale", "[1]")]);
        }
        crate::check::input_names(inputs, &expected)?;
        let dtype = if self.x_is_nvfp4 {
            crate::check::common_dtype(&[DType::F4E2M1FN], inputs, &["x"])?;
            // No input shows the dtype of the output.
            self.dtypes()[0]
        } else {
            crate::check::common_dtype(self.dtypes(), inputs, &["x"])?
        };
        let [m, k] = crate::check::extents(inputs, "x", "[M, K]")?;
        let [n, _] = crate::check::extents(inputs, "weights", "[N, K]")?;
        let swizzled = given.get("scales_128x4").copied().unwrap_or(0);
        let sizes =
            indexmap! { "m" => m as i64, "n" => n as i64, "k" => k as i64, "scales_128x4" => swizzled };
        let problem = crate::check::problem(self, dtype, sizes, given)?;
        for spec in self.tensors(&problem).into_iter().filter(|spec| spec.role == Role::Input) {
            crate::check::common_dtype(&[spec.dtype], inputs, &[spec.name])?;
            let found = &inputs[spec.name].1;
            if *found != spec.shape {
                let expected = format!("{:?} beside an x of {:?}", spec.shape, [m, k]);
                let (tensor, found) = (spec.name.to_owned(), found.clone());
                return Err(ContractError::Shape { tensor, found, expected });
            }
        }
        Ok(problem)
    }

    fn tensors(&self, p: &Problem) -> Vec<TensorSpec> {
        let (m, n, k) = (p.size("m"), p.size("n"), p.size("k"));
        let swizzled = p.switch("scales_128x4");
        let input = |name, dtype, shape| TensorSpec { name, dtype, shape, role: Role::Input };
        let mut all = Vec::new();
        if self.x_is_nvfp4 {
            all.push(input("x", DType::F4E2M1FN, vec![m, k]));
            all.push(input("x_scales", DType::F8E4M3FN, nvfp4::scales_shape(m, k, swizzled)));
            all.push(input("x_global_scale", DType::F32, vec![1]));
        } else {
            all.push(input("x", p.dtype, vec![m, k]));
        }
        all.push(input("weights", DType::F4E2M1FN, vec![n, k]));
        all.push(input("scales", DType::F8E4M3FN, nvfp4::scales_shape(n, k, swizzled)));
        all.push(input("global_scale", DType::F32, vec![1]));
        all.push(TensorSpec { name: "out", dtype: p.dtype, shape: vec![m, n], role: Role::Output });
        all
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
        let (n, m) =
            (crate::check::blocks(p, "n", config, "TILE_N"), crate::check::blocks(p, "m", config, "TILE_M"));
        [n, m, splits::of(config)]
    }

    fn workspace(&self, p: &Problem, config: &Config) -> Vec<TensorSpec> {
        vec![splits::parts(p, config)]
    }

    fn steps(&self, p: &Problem, config: &Config) -> Vec<Step> {
        splits::steps(self, p, config, p.dtype)
    }

    fn fill(&self, p: &Problem, tensor: &TensorSpec, seed: u64) -> Option<Vec<f64>> {
        let rows = match tensor.name {
            "scales" => p.size("n"),
            "x_scales" => p.size("m"),
            "global_scale" | "x_global_scale" => return Some(vec![0.0625]),
            _ => return None,
        };
        let mut draws = Draws::new(seed ^ rows as u64);
        Some(nvfp4::random_scales(rows, p.size("k"), p.switch("scales_128x4"), &mut draws))
    }

    fn flops(&self, p: &Problem) -> f64 {
        2.0 * p.size("m") as f64 * p.size("n") as f64 * p.size("k") as f64
    }

    fn oracle(&self, p: &Problem, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let (k, swizzled) = (p.size("k"), p.switch("scales_128x4"));
        // Elements, scales, global scale.
        let wide = |of: &[Vec<f64>]| -> Vec<f64> {
            let value = |(i, element): (usize, &f64)| {
                element * of[1][nvfp4::scale_offset(i / k, i % k / GROUP, k, swizzled)] * of[2][0]
            };
            of[0].par_iter().enumerate().map(value).collect()
        };
        let x = if self.x_is_nvfp4 { wide(&inputs[..3]) } else { inputs[0].clone() };
        let weights = wide(&inputs[inputs.len() - 3..]);
        let row = |a: &[f64]| -> Vec<f64> { weights.chunks(k).map(|b| crate::oracle::dot(a, b)).collect() };
        vec![x.par_chunks(k).flat_map_iter(row).collect()]
    }

    fn tolerance(&self, dtype: DType, gpu: bool) -> f64 {
        crate::oracle::product_tolerance(dtype, gpu)
    }

    fn default_config(&self, p: &Problem) -> Config {
        if self.x_is_nvfp4 {
            // Swizzled scales come for 128 rows of x.
            let tile_m = if p.switch("scales_128x4") { 128 } else { 64 };
            let tiles = [("TILE_M", tile_m), ("TILE_N", 128), ("TILE_K", 128), ("SPLITS", 1)];
            return crate::check::config(&tiles, 8, 3, 1);
        }
        if p.size("m") > 64 {
            let tiles = [("TILE_M", 128), ("TILE_N", 128), ("TILE_K", 64), ("SPLITS", 1)];
            return crate::check::config(&tiles, 8, 3, 1);
        }
        let tile_m = p.size("m").next_power_of_two().clamp(8, 64) as i64;
        // Fewer weights at a time leave registers for more rows of x.
        let tile_k = if tile_m > 16 { 128 } else { 256 };
        // Swizzled scales come for 128 rows of the weights.
        let tile_n = if p.switch("scales_128x4") { 128 } else { 64 };
        let tiles = [("TILE_M", tile_m), ("TILE_N", tile_n), ("TILE_K", tile_k), ("SPLITS", 1)];
        // Many small programs on an SM hide each other's latency, better than a warp that copies for each; where x
        // is small, more of them fit.
        let (stages, occupancy) = if tile_m == 8 && tile_n == 64 { (2, 5) } else { (3, 2) };
        Config { warp_specialize: tile_m > 32, ..crate::check::config(&tiles, 4, stages, occupancy) }
    }
}
