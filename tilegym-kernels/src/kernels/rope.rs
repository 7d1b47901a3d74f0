//! Rotary position embedding.

use indexmap::{IndexMap, indexmap};
use std::collections::BTreeMap;
use tile::contract::{
    Contract, ContractError, Draws, Found, Problem, Role, ScalarValue, SizeSpec, TensorSpec,
};
use tile::prelude::*;
use tile::registry::KernelDef;
use tile::{Config, DType};

/// Rotates pairs of elements of each head by angles that depend on the token's position (Su et al., 2021):
/// `(a, b)` becomes `(a cos - b sin, b cos + a sin)`, in f32; `TOKENS` tokens with all their heads a program.
///
/// The pairs are the two halves of a head, element by element (as GPT-NeoX has them), or with `INTERLEAVED` its
/// neighbours. Cosines and sines come from row `positions[token]` of the tables; a position outside of them gives
/// zeros. A NaN or an infinity gives NaN in both elements of its pair, or an infinity where IEEE arithmetic does.
///
/// # Shapes
/// x, y `[tokens, heads, 2, half]`, with `INTERLEAVED` `[tokens, heads, 1, 2 * half]`, both of which are
/// `[tokens, heads, head_dim]` in memory; positions `[tokens]`; cos, sin `[positions, half]`. `HALF` is a power of two
/// that holds `half`.
/// # Grid
/// `[ceil(tokens / TOKENS)]`
/// # Dtypes
/// x, y f16 | bf16 | f32; positions i32; cos, sin f32
#[tile_kernel(tune(
    TOKENS in [1, 2, 4],
    HEADS in [1, 2, 4, 8, 16, 32],
    num_warps in [4, 1, 2, 8],
    num_stages in [1],
    occupancy in [2, 1, 4]
    where TOKENS * HEADS * HALF <= 1024 * num_warps, TOKENS * HEADS * HALF >= 128 * num_warps || num_warps == 1
))]
pub fn rope<T: Float, const HALF: usize, const TOKENS: usize, const HEADS: usize, const INTERLEAVED: bool>(
    x: Tensor<T, 4>,
    positions: Tensor<i32, 1>,
    cos: Tensor<f32, 2>,
    sin: Tensor<f32, 2>,
    y: TensorMut<T, 4>,
) {
    let t = program_id(0);
    let rows = positions.load([t], [TOKENS]).expand_dims(1).broadcast_to([TOKENS, HALF]);
    let columns = iota(HALF).expand_dims(0).broadcast_to([TOKENS, HALF]);
    let (cos, sin) = (cos.gather([rows, columns]), sin.gather([rows, columns]));
    for h in 0..cdiv(x.dim(1), HEADS) {
        if INTERLEAVED {
            let pairs = x.load([t, h, 0, 0], [TOKENS, HEADS, 1, 2 * HALF]).cast::<f32>();
            let pairs = pairs.reshape([TOKENS, HEADS, HALF, 2]);
            let (cos, sin) = (cos.reshape([TOKENS, 1, HALF, 1]), sin.reshape([TOKENS, 1, HALF, 1]));
            let is_first = iota(2).eq(0).reshape([1, 1, 1, 2]).broadcast_to([TOKENS, HEADS, HALF, 2]);
            // One of the two is zero, so that the sum is the other.
            let first = select(is_first, pairs, 0.0).reduce_sum(3);
            let second = select(is_first, 0.0, pairs).reduce_sum(3);
            let turned = select(is_first, first * cos - second * sin, second * cos + first * sin);
            y.store([t, h, 0, 0], turned.reshape([TOKENS, HEADS, 1, 2 * HALF]).cast::<T>());
        } else {
            let pairs = x.load([t, h, 0, 0], [TOKENS, HEADS, 2, HALF]).cast::<f32>();
            let (cos, sin) = (cos.reshape([TOKENS, 1, 1, HALF]), sin.reshape([TOKENS, 1, 1, HALF]));
            let is_first = iota(2).eq(0).reshape([1, 1, 2, 1]).broadcast_to([TOKENS, HEADS, 2, HALF]);
            let first = select(is_first, pairs, 0.0).reduce_sum(2);
            let second = select(is_first, 0.0, pairs).reduce_sum(2);
            let turned = select(is_first, first * cos - second * sin, second * cos + first * sin);
            y.store([t, h, 0, 0], turned.cast::<T>());
        }
    }
}

/// The contract of [`rope`].
pub struct RopeContract;

tile::register_contract!(RopeContract);

const SIZES: &[SizeSpec] = &[
    SizeSpec { name: "tokens", default: 8192, exact: false, doc: "tokens of all sequences" },
    SizeSpec { name: "heads", default: 32, exact: false, doc: "heads of a token" },
    SizeSpec { name: "head_dim", default: 128, exact: true, doc: "elements of a head, even" },
    SizeSpec { name: "positions", default: 8192, exact: false, doc: "rows of the tables" },
    SizeSpec { name: "interleaved", default: 0, exact: true, doc: "pairs are neighbours (1) or halves (0)" },
];

const INPUT_SHAPE: &str = "[tokens, heads, 2, half] or, interleaved, [tokens, heads, 1, head_dim]";
const TABLE_SHAPE: &str = "[positions, head_dim / 2]";

impl Contract for RopeContract {
    fn kernel(&self) -> &'static KernelDef {
        &rope::KERNEL
    }

    fn summary(&self) -> &'static str {
        "rotary position embedding from tables, pairs of halves or of neighbours"
    }

    fn sizes(&self) -> &'static [SizeSpec] {
        SIZES
    }

    fn dtypes(&self) -> &'static [DType] {
        crate::rows::DTYPES
    }

    fn check(&self, problem: &Problem) -> Result<(), ContractError> {
        crate::check::positive(problem, &["tokens", "heads", "head_dim", "positions"])?;
        crate::check::switches(problem, &["interleaved"])?;
        let (value, most) = (problem.sizes["head_dim"], 1024);
        if value % 2 != 0 || value > most {
            let reason = format!("an even number, at most {most}");
            return Err(ContractError::Size { name: "head_dim".to_owned(), value, reason });
        }
        Ok(())
    }

    fn from_inputs(
        &self,
        inputs: &BTreeMap<String, Found>,
        given: &IndexMap<String, i64>,
    ) -> Result<Problem, ContractError> {
        let tables = [("cos", TABLE_SHAPE), ("sin", TABLE_SHAPE)];
        crate::check::input_names(
            inputs,
            &[("x", INPUT_SHAPE), ("positions", "[tokens]"), tables[0], tables[1]],
        )?;
        let dtype = crate::check::common_dtype(self.dtypes(), inputs, &["x"])?;
        crate::check::common_dtype(&[DType::I32], inputs, &["positions"])?;
        crate::check::common_dtype(&[DType::F32], inputs, &["cos", "sin"])?;
        let x @ [tokens, heads, parts, part] = crate::check::extents::<4>(inputs, "x", INPUT_SHAPE)?;
        let [rows, half] = crate::check::extents::<2>(inputs, "cos", TABLE_SHAPE)?;
        let shape = |tensor: &str, found: Vec<usize>, expected: String| {
            Err(ContractError::Shape { tensor: tensor.to_owned(), found, expected })
        };
        if ![1, 2].contains(&parts) || parts * part != 2 * half {
            return shape(
                "x",
                x.to_vec(),
                format!("{INPUT_SHAPE} with head_dim / 2 = {half}, as cos has it"),
            );
        }
        for (name, expected) in [("sin", vec![rows, half]), ("positions", vec![tokens])] {
            let found = inputs[name].1.clone();
            if found != expected {
                return shape(name, found, format!("{expected:?}"));
            }
        }
        let sizes = indexmap! {
            "tokens" => tokens as i64, "heads" => heads as i64, "head_dim" => 2 * half as i64,
            "positions" => rows as i64, "interleaved" => i64::from(parts == 1),
        };
        crate::check::problem(self, dtype, sizes, given)
    }

    fn tensors(&self, p: &Problem) -> Vec<TensorSpec> {
        let (tokens, half) = (p.size("tokens"), p.size("head_dim") / 2);
        let pairs = if p.switch("interleaved") { [1, 2 * half] } else { [2, half] };
        let x = vec![tokens, p.size("heads"), pairs[0], pairs[1]];
        let table = vec![p.size("positions"), half];
        let spec =
            |name, dtype, shape: &[usize], role| TensorSpec { name, dtype, shape: shape.to_vec(), role };
        vec![
            spec("x", p.dtype, &x, Role::Input),
            spec("positions", DType::I32, &[tokens], Role::Input),
            spec("cos", DType::F32, &table, Role::Input),
            spec("sin", DType::F32, &table, Role::Input),
            spec("y", p.dtype, &x, Role::Output),
        ]
    }

    fn scalars(&self, _: &Problem) -> Vec<ScalarValue> {
        Vec::new()
    }

    fn consts(&self, p: &Problem) -> IndexMap<String, i64> {
        let half = (p.size("head_dim") / 2).next_power_of_two() as i64;
        indexmap! { "HALF".to_owned() => half, "INTERLEAVED".to_owned() => p.sizes["interleaved"] }
    }

    fn dtype_bindings(&self, p: &Problem) -> IndexMap<String, DType> {
        crate::rows::dtype_bindings(p)
    }

    fn grid(&self, p: &Problem, config: &Config) -> [usize; 3] {
        [crate::check::blocks(p, "tokens", config, "TOKENS"), 1, 1]
    }

    /// Positions within the tables; the tables are of angles as models have them.
    fn fill(&self, p: &Problem, tensor: &TensorSpec, seed: u64) -> Option<Vec<f64>> {
        let (count, half) = (tensor.shape.iter().product::<usize>(), p.size("head_dim") / 2);
        let angle = |i: usize| (i / half) as f64 * 10_000f64.powf(-((i % half) as f64) / half as f64);
        let mut draws = Draws::new(seed);
        match tensor.name {
            "positions" => Some((0..count).map(|_| draws.below(p.size("positions")) as f64).collect()),
            "cos" => Some((0..count).map(|i| angle(i).cos()).collect()),
            "sin" => Some((0..count).map(|i| angle(i).sin()).collect()),
            _ => None,
        }
    }

    fn flops(&self, p: &Problem) -> f64 {
        3.0 * (p.size("tokens") * p.size("heads") * p.size("head_dim")) as f64
    }

    /// Rows of the tables are read by each token, but stay in the cache; they count once.
    fn bytes(&self, p: &Problem) -> f64 {
        let tensors = self.tensors(p);
        let bytes =
            |t: &TensorSpec| t.shape.iter().product::<usize>() as f64 * f64::from(t.dtype.bits()) / 8.0;
        let used = p.size("tokens").min(p.size("positions")) as f64 / p.size("positions") as f64;
        let share = |t: &TensorSpec| if ["cos", "sin"].contains(&t.name) { used } else { 1.0 };
        tensors.iter().map(|t| bytes(t) * share(t)).sum()
    }

    fn oracle(&self, p: &Problem, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let [x, positions, cos, sin] = inputs else { unreachable!("four inputs") };
        let (heads, half) = (p.size("heads"), p.size("head_dim") / 2);
        let mut y = x.clone();
        for (head, y) in y.chunks_mut(2 * half).enumerate() {
            let row = positions[head / heads] as i64;
            let is_inside = (0..p.sizes["positions"]).contains(&row);
            for i in 0..half {
                let [a, b] = if p.switch("interleaved") { [2 * i, 2 * i + 1] } else { [i, half + i] };
                let at = |table: &[f64]| if is_inside { table[row as usize * half + i] } else { 0.0 };
                (y[a], y[b]) = (y[a] * at(cos) - y[b] * at(sin), y[b] * at(cos) + y[a] * at(sin));
            }
        }
        vec![y]
    }

    fn tolerance(&self, dtype: DType, _: bool) -> f64 {
        crate::oracle::rounding_tolerance(dtype)
    }

    fn default_config(&self, p: &Problem) -> Config {
        let half = (p.size("head_dim") / 2).next_power_of_two();
        let heads = p.size("heads").next_power_of_two().min(2048 / half).min(32);
        let num_warps = (heads * half / 512).clamp(1, 4) as u32;
        crate::check::config(&[("TOKENS", 1), ("HEADS", heads as i64)], num_warps, 1, 2)
    }
}
