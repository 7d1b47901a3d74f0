//! Matrix product with a bias and an activation.

use crate::activations::{gelu, gelu_reference, silu, silu_reference};
use crate::products;
use indexmap::IndexMap;
use std::collections::BTreeMap;
use tile::contract::{Contract, ContractError, Found, Problem, Role, ScalarValue, SizeSpec, TensorSpec};
use tile::prelude::*;
use tile::registry::KernelDef;
use tile::{Config, DType};

/// `out = activation(lhs rhs + bias)`, one `TILE_M x TILE_N` block of `out` a program, in f32 up to the last rounding.
///
/// Without `BIAS`, `bias` is not read; without an activation and a bias this is [`matmul`](super::matmul::matmul()).
/// The activation, at most one, is `RELU` (`max(x, 0)`), `GELU` by its tanh form, or `SILU`. A NaN of the sum stays one
/// under each of them; an infinite sum of negative sign gives NaN under `GELU` and `SILU`, 0 under `RELU`.
///
/// # Shapes
/// lhs `[M, K]`, out `[M, N]`; rhs `[N, K]` with `RHS_IS_NK`, else `[K, N]`; bias `[N]`
/// # Grid
/// That of [`matmul`](super::matmul::matmul()).
/// # Dtypes
/// lhs, rhs f16 | bf16 | f32 (tf32 on tensor cores) | f8E4M3FN; bias, out f16 | bf16 | f32
#[tile_kernel(tune(
    TILE_M in [64, 128, 256],
    TILE_N in [64, 128, 256],
    TILE_K in [32, 64],
    num_warps in [4, 8],
    num_stages in [3, 2, 4],
    occupancy in [1, 2],
    persistent in [0, 1]
    where TILE_M * TILE_N <= 32768, TILE_M * TILE_N <= 4096 * num_warps,
          persistent == 0 || num_warps == 8 && num_stages >= 3 && occupancy == 1
))]
pub fn linear<
    T: Factor,
    O: Float,
    const TILE_M: usize,
    const TILE_N: usize,
    const TILE_K: usize,
    const RHS_IS_NK: bool,
    const BIAS: bool,
    const RELU: bool,
    const GELU: bool,
    const SILU: bool,
>(
    lhs: Tensor<T, 2>,
    rhs: Tensor<T, 2>,
    bias: Tensor<O, 1>,
    out: TensorMut<O, 2>,
) {
    let m = program_id(2) * num_programs(0) + program_id(0);
    let n = program_id(1);
    let mut acc = zeros::<f32>([TILE_M, TILE_N]);
    for k in 0..cdiv(lhs.dim(1), TILE_K) {
        let a = lhs.load([m, k], [TILE_M, TILE_K]);
        let b = if RHS_IS_NK {
            rhs.load([n, k], [TILE_N, TILE_K]).t()
        } else {
            rhs.load([k, n], [TILE_K, TILE_N])
        };
        acc = mma(a, b, acc);
    }
    if BIAS {
        acc += bias.load([n], [TILE_N]).cast::<f32>().expand_dims(0);
    }
    if RELU {
        acc = maximum(acc, 0.0);
    }
    if GELU {
        acc = gelu(acc);
    }
    if SILU {
        acc = silu(acc);
    }
    out.store([m, n], acc.cast::<O>());
}

/// The contract of [`linear`].
pub struct LinearContract;

tile::register_contract!(LinearContract);

const SIZES: &[SizeSpec] = &[
    SizeSpec { name: "m", default: 4096, exact: false, doc: "rows of lhs and out" },
    SizeSpec { name: "n", default: 4096, exact: false, doc: "columns of out" },
    SizeSpec { name: "k", default: 4096, exact: false, doc: "columns of lhs, the summed dimension" },
    SizeSpec { name: "rhs_is_nk", default: 1, exact: true, doc: "rhs is given as [N, K] (1) or [K, N] (0)" },
    SizeSpec { name: "bias", default: 1, exact: true, doc: "a bias is added (1) or not (0)" },
    SizeSpec { name: "activation", default: 0, exact: true, doc: "none (0), relu (1), gelu (2) or silu (3)" },
];

impl Contract for LinearContract {
    fn kernel(&self) -> &'static KernelDef {
        &linear::KERNEL
    }

    fn summary(&self) -> &'static str {
        "out = activation(lhs rhs + bias)"
    }

    fn sizes(&self) -> &'static [SizeSpec] {
        SIZES
    }

    fn dtypes(&self) -> &'static [DType] {
        products::DTYPES
    }

    fn check(&self, problem: &Problem) -> Result<(), ContractError> {
        crate::check::positive(problem, &["m", "n", "k"])?;
        crate::check::switches(problem, &["rhs_is_nk", "bias"])?;
        let activation = problem.sizes["activation"];
        if !(0..=3).contains(&activation) {
            let reason = "0 for none, 1 for relu, 2 for gelu, 3 for silu".to_owned();
            return Err(ContractError::Size { name: "activation".to_owned(), value: activation, reason });
        }
        Ok(())
    }

    fn from_inputs(
        &self,
        inputs: &BTreeMap<String, Found>,
        given: &IndexMap<String, i64>,
    ) -> Result<Problem, ContractError> {
        let has_bias = inputs.contains_key("bias");
        let mut expected = vec![("lhs", "[M, K]"), ("rhs", "[N, K] or [K, N]")];
        expected.extend(has_bias.then_some(("bias", "[N], or absent")));
        crate::check::input_names(inputs, &expected)?;
        let products::Operands { dtype, mut sizes, .. } = products::operands::<2>(self, inputs, given)?;
        sizes.insert("bias", has_bias.into());
        let problem = crate::check::problem(self, dtype, sizes, given)?;
        if has_bias {
            crate::check::common_dtype(&[products::out_dtype(&problem)], inputs, &["bias"])?;
            let [found] = crate::check::extents::<1>(inputs, "bias", "[N]")?;
            if found != problem.size("n") {
                return Err(ContractError::Shape {
                    tensor: "bias".to_owned(),
                    found: vec![found],
                    expected: format!("[{}], as many as out has columns", problem.size("n")),
                });
            }
        }
        Ok(problem)
    }

    fn tensors(&self, p: &Problem) -> Vec<TensorSpec> {
        let [lhs, rhs, out] = products::tensors(p, &[]);
        // A bias that is not there still has a place among the arguments.
        let shape = vec![if p.switch("bias") { p.size("n") } else { 1 }];
        let bias = TensorSpec { name: "bias", dtype: out.dtype, shape, role: Role::Input };
        vec![lhs, rhs, bias, out]
    }

    fn scalars(&self, _: &Problem) -> Vec<ScalarValue> {
        Vec::new()
    }

    fn consts(&self, p: &Problem) -> IndexMap<String, i64> {
        let switches = [("RHS_IS_NK", p.sizes["rhs_is_nk"]), ("BIAS", p.sizes["bias"])];
        let activations = ["RELU", "GELU", "SILU"].into_iter().zip(1..);
        let activations = activations.map(|(name, number)| (name, (p.sizes["activation"] == number).into()));
        switches.into_iter().chain(activations).map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn dtype_bindings(&self, p: &Problem) -> IndexMap<String, DType> {
        products::dtype_bindings(p)
    }

    fn grid(&self, p: &Problem, config: &Config) -> [usize; 3] {
        products::grouped_grid(p, config)
    }

    fn flops(&self, p: &Problem) -> f64 {
        2.0 * p.size("m") as f64 * p.size("n") as f64 * p.size("k") as f64
    }

    fn oracle(&self, p: &Problem, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let mut out = products::reference(p, &inputs[0], &inputs[1]);
        if p.switch("bias") {
            let bias = &inputs[2];
            out.iter_mut().zip(bias.iter().cycle()).for_each(|(o, b)| *o += b);
        }
        let activation: fn(f64) -> f64 = match p.size("activation") {
            0 => |x| x,
            1 => |x| if x < 0.0 { 0.0 } else { x },
            2 => gelu_reference,
            _ => silu_reference,
        };
        out.iter_mut().for_each(|o| *o = activation(*o));
        vec![out]
    }

    fn tolerance(&self, dtype: DType, gpu: bool) -> f64 {
        crate::oracle::product_tolerance(dtype, gpu)
    }

    fn default_config(&self, p: &Problem) -> Config {
        products::default_config(p)
    }
}
