//! Prefill attention with a sliding window, sinks, a soft cap and the logarithm of the sums.

use crate::attention::{self, Scoring, normalize, online_softmax};
use indexmap::{IndexMap, indexmap};
use rayon::prelude::*;
use std::collections::BTreeMap;
use tile::contract::{Contract, ContractError, Found, Problem, Role, ScalarValue, SizeSpec, TensorSpec};
use tile::prelude::*;
use tile::registry::KernelDef;
use tile::{Config, DType};

/// Attention as [`fmha`](super::fmha::fmha()) computes it, with four switches, each gone from the code when it is off.
///
/// With `WINDOW`, a query sees only keys less than `window` places from its own: behind it, and ahead of it unless
/// `CAUSAL`. Blocks of keys that no query of the block sees are not read. With `SOFT_CAP`, a score `s` becomes
/// `soft_cap tanh(s / soft_cap)`. With `SINKS`, each head has one more logit, neither scaled nor capped, that takes its
/// part of the softmax and adds no value (as GPT-OSS has it).
///
/// `lse` is the natural logarithm of the sum of a row's exponentials, the sink's among them. A query that sees no key
/// gives zeros, and minus infinity or its sink in `lse`. A NaN in a query, a visible key or a sink gives NaN in the
/// rows it takes part in, and so does a sink of plus infinity; one of minus infinity is as none.
///
/// # Shapes
/// q, k, v, out as [`fmha`](super::fmha::fmha()) has them; sinks `[heads]`, not read without `SINKS`;
/// lse `[batch, heads, seq_q]`
/// # Grid
/// `[ceil(seq_q / TILE_M), heads, batch]`
/// # Dtypes
/// As [`fmha`](super::fmha::fmha()); `window` and `soft_cap` are positive
#[tile_kernel(tune(
    TILE_M in [64, 32, 128, 256],
    TILE_N in [64, 32, 128],
    num_warps in [4, 8],
    num_stages in [2, 1, 3],
    occupancy in [1, 2]
    where TILE_M >= 16 * num_warps, TILE_M <= 32 * num_warps
))]
pub fn fmha_extended<
    T: Factor,
    O: Float,
    const HEAD_DIM: usize,
    const TILE_M: usize,
    const TILE_N: usize,
    const CAUSAL: bool,
    const WINDOW: bool,
    const SOFT_CAP: bool,
    const SINKS: bool,
>(
    q: Tensor<T, 4>,
    k: Tensor<T, 4>,
    v: Tensor<T, 4>,
    sinks: Tensor<f32, 1>,
    out: TensorMut<O, 4>,
    lse: TensorMut<f32, 3>,
    scale: f32,
    window: i32,
    soft_cap: f32,
) {
    // The last queries see the most keys: their programs start first.
    let m = if CAUSAL { num_programs(0) - 1 - program_id(0) } else { program_id(0) };
    let head = program_id(1);
    let batch = program_id(2);
    let kv_head = head / (q.dim(1) / k.dim(1));
    let seq_k = k.dim(2) as i32;
    let seq_q = q.dim(2) as i32;
    // Where the block's first query is among the keys, and how many places a query sees to a side.
    let first = (m * TILE_M) as i32 + seq_k - seq_q;
    let reach = (window - 1).min(seq_k + seq_q);
    // What takes scores, scaled or capped, to base 2.
    let scale_log2 = if SOFT_CAP { soft_cap } else { scale } * std::f32::consts::LOG2_E;

    let queries = q.load([batch, head, m, 0], [1, 1, TILE_M, HEAD_DIM]).reshape([TILE_M, HEAD_DIM]);
    let place = (iota(TILE_M) + first).expand_dims(1);
    // The last key each query sees.
    let last_key = full::<i32>([TILE_M, 1], seq_k - 1);
    let limit = if CAUSAL {
        minimum(place, last_key)
    } else if WINDOW {
        minimum(place + reach, last_key)
    } else {
        last_key
    };
    // The first key that any query of the block sees, and one past the last.
    let begin = if WINDOW { (first - reach).max(0) } else { 0 };
    let end = if CAUSAL {
        (first + TILE_M as i32).min(seq_k).max(0)
    } else if WINDOW {
        (first + TILE_M as i32 + reach).min(seq_k).max(0)
    } else {
        seq_k
    };

    // A sink is as a key that every query has seen, without a value.
    let mut row_max = if SINKS {
        full::<f32>([TILE_M, 1], sinks.at([head]) * std::f32::consts::LOG2_E)
    } else {
        full::<f32>([TILE_M, 1], f32::NEG_INFINITY)
    };
    let mut row_sum = if SINKS { ones::<f32>([TILE_M, 1]) } else { zeros::<f32>([TILE_M, 1]) };
    let mut acc = zeros::<f32>([TILE_M, HEAD_DIM]);
    for j in begin as usize / TILE_N..cdiv(end as usize, TILE_N) {
        let keys = k.load([batch, kv_head, j, 0], [1, 1, TILE_N, HEAD_DIM]).reshape([TILE_N, HEAD_DIM]);
        let dots = mma(queries, keys.t(), zeros::<f32>([TILE_M, TILE_N]));
        let scores = if SOFT_CAP { (dots * (scale / soft_cap)).tanh() } else { dots };
        let cols = (iota(TILE_N) + (j * TILE_N) as i32).expand_dims(0);
        let seen = if WINDOW { cols.le(limit) & cols.ge(place - reach) } else { cols.le(limit) };
        let scores = select(seen, scores, f32::NEG_INFINITY);

        let (weights, rescale, new_max, new_sum) = online_softmax(scores, scale_log2, row_max, row_sum);
        (row_max, row_sum) = (new_max, new_sum);
        let values = v.load([batch, kv_head, j, 0], [1, 1, TILE_N, HEAD_DIM]).reshape([TILE_N, HEAD_DIM]);
        acc = mma(weights.cast::<O>(), values.cast::<O>(), acc * rescale);
    }
    let result = normalize(acc, row_sum).cast::<O>();
    out.store([batch, head, m, 0], result.reshape([1, 1, TILE_M, HEAD_DIM]));
    let sums = (row_max + row_sum.log2()) * std::f32::consts::LN_2;
    lse.store([batch, head, m], sums.reshape([1, 1, TILE_M]));
}

/// The contract of [`fmha_extended`], with `scale = 1 / sqrt(head_dim)`.
pub struct FmhaExtendedContract;

tile::register_contract!(FmhaExtendedContract);

const SIZES: &[SizeSpec] = &[
    SizeSpec { name: "batch", default: 4, exact: false, doc: "sequences" },
    SizeSpec { name: "heads", default: 32, exact: false, doc: "query heads" },
    SizeSpec { name: "kv_heads", default: 32, exact: false, doc: "key and value heads; divides heads" },
    SizeSpec { name: "seq_q", default: 4096, exact: false, doc: "queries a sequence" },
    SizeSpec { name: "seq_k", default: 4096, exact: false, doc: "keys a sequence" },
    SizeSpec { name: "head_dim", default: 128, exact: true, doc: "elements of a head: 64, 96, 128 or 256" },
    SizeSpec {
        name: "causal",
        default: 1,
        exact: true,
        doc: "a query sees keys up to its own place (1) or all (0)",
    },
    SizeSpec {
        name: "window",
        default: 0,
        exact: false,
        doc: "a query sees keys less than so many places away; 0 for all",
    },
    SizeSpec {
        name: "soft_cap",
        default: 0,
        exact: true,
        doc: "scores are capped softly at 50 (1) or not (0)",
    },
    SizeSpec { name: "sinks", default: 0, exact: true, doc: "each head has a sink (1) or not (0)" },
];

/// The cap of contracts with one: Gemma 2's.
const CAP: f32 = 50.0;

const TENSOR_SHAPE: &str = "[batch, heads, seq, head_dim]";

fn window(p: &Problem) -> Option<usize> {
    Some(p.size("window")).filter(|&window| window > 0)
}

impl Contract for FmhaExtendedContract {
    fn kernel(&self) -> &'static KernelDef {
        &fmha_extended::KERNEL
    }

    fn summary(&self) -> &'static str {
        "attention with a sliding window, sinks, a soft cap and log-sum-exp"
    }

    fn sizes(&self) -> &'static [SizeSpec] {
        SIZES
    }

    fn dtypes(&self) -> &'static [DType] {
        crate::products::DTYPES
    }

    fn check(&self, p: &Problem) -> Result<(), ContractError> {
        crate::check::positive(p, &["batch", "heads", "kv_heads", "seq_q", "seq_k"])?;
        crate::check::switches(p, &["causal", "soft_cap", "sinks"])?;
        let size = |name: &str, reason: String| {
            Err(ContractError::Size { name: name.to_owned(), value: p.sizes[name], reason })
        };
        if !attention::HEAD_DIMS.contains(&p.size("head_dim")) {
            return size("head_dim", format!("fmha_extended is written for {:?}", attention::HEAD_DIMS));
        }
        if !p.size("heads").is_multiple_of(p.size("kv_heads")) {
            return size("heads", format!("a multiple of kv_heads = {}", p.size("kv_heads")));
        }
        if !(0..=i64::from(i32::MAX)).contains(&p.sizes["window"]) {
            return size("window", format!("0 for none, or up to {}", i32::MAX));
        }
        Ok(())
    }

    fn from_inputs(
        &self,
        inputs: &BTreeMap<String, Found>,
        given: &IndexMap<String, i64>,
    ) -> Result<Problem, ContractError> {
        let mut names = ["q", "k", "v"].map(|name| (name, TENSOR_SHAPE)).to_vec();
        names.push(("sinks", "[heads]"));
        crate::check::input_names(inputs, &names)?;
        let dtype = crate::check::common_dtype(self.dtypes(), inputs, &["q", "k", "v"])?;
        crate::check::common_dtype(&[DType::F32], inputs, &["sinks"])?;
        let [batch, heads, seq_q, head_dim] = crate::check::extents::<4>(inputs, "q", TENSOR_SHAPE)?;
        let k @ [_, kv_heads, seq_k, _] = crate::check::extents::<4>(inputs, "k", TENSOR_SHAPE)?;
        let v = crate::check::extents::<4>(inputs, "v", TENSOR_SHAPE)?;
        let [sinks] = crate::check::extents::<1>(inputs, "sinks", "[heads]")?;
        let shape_error = |tensor: &str, found: &[usize], expected: String| {
            Err(ContractError::Shape { tensor: tensor.to_owned(), found: found.to_vec(), expected })
        };
        if k[0] != batch || k[3] != head_dim {
            return shape_error("k", &k, format!("[{batch}, kv_heads, seq_k, {head_dim}], as q has it"));
        }
        if v != k {
            return shape_error("v", &v, format!("{k:?}, the shape of k"));
        }
        if sinks != heads {
            return shape_error("sinks", &[sinks], format!("[{heads}], one a head of q"));
        }
        let sizes = indexmap! {
            "batch" => batch as i64, "heads" => heads as i64, "kv_heads" => kv_heads as i64,
            "seq_q" => seq_q as i64, "seq_k" => seq_k as i64, "head_dim" => head_dim as i64,
        };
        crate::check::problem(self, dtype, sizes, given)
    }

    fn tensors(&self, p: &Problem) -> Vec<TensorSpec> {
        let (batch, heads, seq_q, dim) =
            (p.size("batch"), p.size("heads"), p.size("seq_q"), p.size("head_dim"));
        let keys = [batch, p.size("kv_heads"), p.size("seq_k"), dim];
        let spec =
            |name, dtype, shape: &[usize], role| TensorSpec { name, dtype, shape: shape.to_vec(), role };
        vec![
            spec("q", p.dtype, &[batch, heads, seq_q, dim], Role::Input),
            spec("k", p.dtype, &keys, Role::Input),
            spec("v", p.dtype, &keys, Role::Input),
            spec("sinks", DType::F32, &[heads], Role::Input),
            spec("out", crate::products::out_dtype(p), &[batch, heads, seq_q, dim], Role::Output),
            spec("lse", DType::F32, &[batch, heads, seq_q], Role::Output),
        ]
    }

    fn scalars(&self, p: &Problem) -> Vec<ScalarValue> {
        let scale = 1.0 / (p.size("head_dim") as f32).sqrt();
        let window = window(p).unwrap_or(1) as i32;
        vec![ScalarValue::F32(scale), ScalarValue::I32(window), ScalarValue::F32(CAP)]
    }

    fn consts(&self, p: &Problem) -> IndexMap<String, i64> {
        indexmap! {
            "HEAD_DIM".to_owned() => attention::padded_dim(p),
            "CAUSAL".to_owned() => p.sizes["causal"],
            "WINDOW".to_owned() => window(p).is_some().into(),
            "SOFT_CAP".to_owned() => p.sizes["soft_cap"],
            "SINKS".to_owned() => p.sizes["sinks"],
        }
    }

    fn dtype_bindings(&self, p: &Problem) -> IndexMap<String, DType> {
        crate::products::dtype_bindings(p)
    }

    fn grid(&self, p: &Problem, config: &Config) -> [usize; 3] {
        [crate::check::blocks(p, "seq_q", config, "TILE_M"), p.size("heads"), p.size("batch")]
    }

    fn flops(&self, p: &Problem) -> f64 {
        let lens = [p.size("seq_q"), p.size("seq_k")];
        let seen = |i| attention::visible(i, lens, p.switch("causal"), window(p)).len();
        let pairs: usize = (0..lens[0]).map(seen).sum();
        4.0 * (p.size("batch") * p.size("heads") * p.size("head_dim")) as f64 * pairs as f64
    }

    fn oracle(&self, p: &Problem, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let (seq_q, seq_k, dim) = (p.size("seq_q"), p.size("seq_k"), p.size("head_dim"));
        let (heads, kv_heads) = (p.size("heads"), p.size("kv_heads"));
        let [q, k, v, sinks] = inputs else { return Vec::new() };
        let row = |index: usize| {
            let (batch, head, i) = (index / (heads * seq_q), index / seq_q % heads, index % seq_q);
            let first = (batch * kv_heads + head / (heads / kv_heads)) * seq_k;
            let keys = attention::visible(i, [seq_q, seq_k], p.switch("causal"), window(p));
            let (key, value) = (|j| &k[(first + j) * dim..][..dim], |j| &v[(first + j) * dim..][..dim]);
            let scoring = Scoring {
                soft_cap: p.switch("soft_cap").then_some(f64::from(CAP)),
                sink: p.switch("sinks").then(|| sinks[head]),
            };
            attention::attend(&q[index * dim..][..dim], keys, key, value, scoring)
        };
        let rows: Vec<_> = (0..p.size("batch") * heads * seq_q).into_par_iter().map(row).collect();
        let (out, lse): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        vec![out.concat(), lse]
    }

    fn tolerance(&self, dtype: DType, gpu: bool) -> f64 {
        crate::oracle::product_tolerance(dtype, gpu)
    }

    fn default_config(&self, p: &Problem) -> Config {
        attention::default_config(p)
    }
}
