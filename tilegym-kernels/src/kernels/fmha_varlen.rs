//! Prefill attention over sequences of different lengths, packed one after another.

use crate::attention::{self, Scoring, normalize, online_softmax};
use indexmap::{IndexMap, indexmap};
use rayon::prelude::*;
use std::collections::BTreeMap;
use tile::contract::{
    Contract, ContractError, Draws, Found, Problem, Role, ScalarValue, SizeSpec, TensorSpec,
};
use tile::prelude::*;
use tile::registry::KernelDef;
use tile::{Config, DType};

/// Attention as [`fmha`](super::fmha::fmha()) computes it, of each sequence of a packed batch over its own keys.
///
/// Sequence `b` has the queries from `cu_seqlens_q[b]` up to `cu_seqlens_q[b + 1]` and the keys from `cu_seqlens_k[b]`
/// up to `cu_seqlens_k[b + 1]`, which never go down; the queries are aligned to the end of the keys. With `WINDOW`, a
/// query sees only keys less than `window` places from its own. A query that sees no key gives zeros; rows of `out`
/// that no sequence has are not written. Programs beyond the end of their sequence do nothing.
///
/// Sequences that overlap would make programs store to one element, which no analysis of the kernel can exclude: a
/// typed launch takes `launch_unchecked`.
///
/// # Shapes
/// q, out `[total_q, heads, dim]`; k, v `[total_k, kv_heads, dim]`, dim at most `HEAD_DIM`; heads a multiple of kv_heads;
/// cu_seqlens_q, cu_seqlens_k `[batch + 1]`
/// # Grid
/// `[ceil(max_seq_q / TILE_M), heads, batch]`, no sequence having more than max_seq_q queries
/// # Dtypes
/// As [`fmha`](super::fmha::fmha()); `window` is positive
#[tile_kernel(tune(
    TILE_M in [64, 32, 128, 256],
    TILE_N in [64, 32, 128],
    num_warps in [4, 8],
    num_stages in [2, 1, 3],
    occupancy in [1, 2]
    where TILE_M >= 16 * num_warps, TILE_M <= 32 * num_warps
))]
pub fn fmha_varlen<
    T: Factor,
    O: Float,
    const HEAD_DIM: usize,
    const TILE_M: usize,
    const TILE_N: usize,
    const CAUSAL: bool,
    const WINDOW: bool,
>(
    q: Tensor<T, 3>,
    k: Tensor<T, 3>,
    v: Tensor<T, 3>,
    cu_seqlens_q: Tensor<i32, 1>,
    cu_seqlens_k: Tensor<i32, 1>,
    out: TensorMut<O, 3>,
    scale: f32,
    window: i32,
) {
    // The last queries see the most keys: their programs start first.
    let m = if CAUSAL { num_programs(0) - 1 - program_id(0) } else { program_id(0) };
    let head = program_id(1);
    let batch = program_id(2);
    let kv_head = head / (q.dim(1) / k.dim(1));
    let (start_q, start_k) = (cu_seqlens_q.at([batch]), cu_seqlens_k.at([batch]));
    let seq_q = cu_seqlens_q.at([batch + 1]) - start_q;
    let seq_k = cu_seqlens_k.at([batch + 1]) - start_k;
    check(seq_q >= 0 && seq_k >= 0, "cu_seqlens never go down");
    check(start_k + seq_k <= k.dim(0) as i32, "cu_seqlens_k ends with the keys");
    let own_q = q.slice(0, start_q as usize, seq_q as usize);
    let own_k = k.slice(0, start_k as usize, seq_k as usize);
    let own_v = v.slice(0, start_k as usize, seq_k as usize);
    let first = (m * TILE_M) as i32 + seq_k - seq_q;
    let reach = (window - 1).min(seq_k + seq_q);
    let scale_log2 = scale * std::f32::consts::LOG2_E;

    let queries = own_q.load([m, head, 0], [TILE_M, 1, HEAD_DIM]).reshape([TILE_M, HEAD_DIM]);
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
    let seen_end = if CAUSAL {
        (first + TILE_M as i32).min(seq_k).max(0)
    } else if WINDOW {
        (first + TILE_M as i32 + reach).min(seq_k).max(0)
    } else {
        seq_k
    };
    let end = if ((m * TILE_M) as i32) < seq_q { seen_end } else { 0 };

    let mut row_max = full::<f32>([TILE_M, 1], f32::NEG_INFINITY);
    let mut row_sum = zeros::<f32>([TILE_M, 1]);
    let mut acc = zeros::<f32>([TILE_M, HEAD_DIM]);
    for j in begin as usize / TILE_N..cdiv(end as usize, TILE_N) {
        let keys = own_k.load([j, kv_head, 0], [TILE_N, 1, HEAD_DIM]).reshape([TILE_N, HEAD_DIM]);
        let dots = mma(queries, keys.t(), zeros::<f32>([TILE_M, TILE_N]));
        let cols = (iota(TILE_N) + (j * TILE_N) as i32).expand_dims(0);
        let seen = if WINDOW { cols.le(limit) & cols.ge(place - reach) } else { cols.le(limit) };
        let scores = select(seen, dots, f32::NEG_INFINITY);

        let (weights, rescale, new_max, new_sum) = online_softmax(scores, scale_log2, row_max, row_sum);
        (row_max, row_sum) = (new_max, new_sum);
        let values = own_v.load([j, kv_head, 0], [TILE_N, 1, HEAD_DIM]).reshape([TILE_N, HEAD_DIM]);
        acc = mma(weights.cast::<O>(), values.cast::<O>(), acc * rescale);
    }
    let result = normalize(acc, row_sum).cast::<O>().reshape([TILE_M, 1, HEAD_DIM]);
    out.slice(0, start_q as usize, seq_q as usize).store([m, head, 0], result);
}

/// The contract of [`fmha_varlen`], with `scale = 1 / sqrt(head_dim)`.
pub struct FmhaVarlenContract;

tile::register_contract!(FmhaVarlenContract);

const SIZES: &[SizeSpec] = &[
    SizeSpec { name: "batch", default: 8, exact: false, doc: "sequences" },
    SizeSpec { name: "heads", default: 32, exact: false, doc: "query heads" },
    SizeSpec { name: "kv_heads", default: 32, exact: false, doc: "key and value heads; divides heads" },
    SizeSpec { name: "max_seq_q", default: 4096, exact: false, doc: "queries of the longest sequence" },
    SizeSpec { name: "total_q", default: 16384, exact: false, doc: "queries of all sequences" },
    SizeSpec { name: "total_k", default: 16384, exact: false, doc: "keys of all sequences" },
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
];

const TENSOR_SHAPE: &str = "[total, heads, head_dim]";
const STARTS_SHAPE: &str = "[batch + 1]";

fn window(p: &Problem) -> Option<usize> {
    Some(p.size("window")).filter(|&window| window > 0)
}

/// Where sequences of random lengths start, `total` long together and each at most `longest`.
fn random_starts(batch: usize, total: usize, longest: usize, seed: u64) -> Vec<f64> {
    let mut draws = Draws::new(seed);
    let mut lens: Vec<usize> = (0..batch).map(|b| (total + b) / batch).collect();
    for _ in 0..4 * batch {
        let (from, to) = (draws.below(batch), draws.below(batch));
        let most = lens[from].min(longest.saturating_sub(lens[to]));
        if from != to {
            let moved = draws.below(most + 1);
            lens[from] -= moved;
            lens[to] += moved;
        }
    }
    let mut start = 0;
    let ends = lens.into_iter().map(|len| {
        start += len;
        start as f64
    });
    std::iter::once(0.0).chain(ends).collect()
}

impl Contract for FmhaVarlenContract {
    fn kernel(&self) -> &'static KernelDef {
        &fmha_varlen::KERNEL
    }

    fn summary(&self) -> &'static str {
        "attention over packed sequences of different lengths"
    }

    fn sizes(&self) -> &'static [SizeSpec] {
        SIZES
    }

    fn dtypes(&self) -> &'static [DType] {
        crate::products::DTYPES
    }

    fn check(&self, p: &Problem) -> Result<(), ContractError> {
        crate::check::positive(p, &["batch", "heads", "kv_heads", "max_seq_q", "total_q", "total_k"])?;
        crate::check::switches(p, &["causal"])?;
        let size = |name: &str, reason: String| {
            Err(ContractError::Size { name: name.to_owned(), value: p.sizes[name], reason })
        };
        if !attention::HEAD_DIMS.contains(&p.size("head_dim")) {
            return size("head_dim", format!("fmha_varlen is written for {:?}", attention::HEAD_DIMS));
        }
        if !p.size("heads").is_multiple_of(p.size("kv_heads")) {
            return size("heads", format!("a multiple of kv_heads = {}", p.size("kv_heads")));
        }
        if p.size("total_q") > p.size("batch") * p.size("max_seq_q") {
            return size("total_q", "at most batch * max_seq_q".to_owned());
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
        names.extend(["cu_seqlens_q", "cu_seqlens_k"].map(|name| (name, STARTS_SHAPE)));
        crate::check::input_names(inputs, &names)?;
        let dtype = crate::check::common_dtype(self.dtypes(), inputs, &["q", "k", "v"])?;
        crate::check::common_dtype(&[DType::I32], inputs, &["cu_seqlens_q", "cu_seqlens_k"])?;
        let [total_q, heads, head_dim] = crate::check::extents::<3>(inputs, "q", TENSOR_SHAPE)?;
        let k @ [total_k, kv_heads, _] = crate::check::extents::<3>(inputs, "k", TENSOR_SHAPE)?;
        let v = crate::check::extents::<3>(inputs, "v", TENSOR_SHAPE)?;
        let [starts] = crate::check::extents::<1>(inputs, "cu_seqlens_q", STARTS_SHAPE)?;
        let [starts_k] = crate::check::extents::<1>(inputs, "cu_seqlens_k", STARTS_SHAPE)?;
        let shape_error = |tensor: &str, found: &[usize], expected: String| {
            Err(ContractError::Shape { tensor: tensor.to_owned(), found: found.to_vec(), expected })
        };
        if k[2] != head_dim {
            return shape_error("k", &k, format!("[total_k, kv_heads, {head_dim}], as q has it"));
        }
        if v != k {
            return shape_error("v", &v, format!("{k:?}, the shape of k"));
        }
        if starts < 2 || starts_k != starts {
            return shape_error(
                "cu_seqlens_k",
                &[starts_k],
                format!("[{}], that of cu_seqlens_q", starts.max(2)),
            );
        }
        let sizes = indexmap! {
            "batch" => starts as i64 - 1, "heads" => heads as i64, "kv_heads" => kv_heads as i64,
            "total_q" => total_q as i64, "total_k" => total_k as i64, "head_dim" => head_dim as i64,
        };
        // No sequence has more queries than there are.
        let mut given = given.clone();
        given.entry("max_seq_q".to_owned()).or_insert(total_q as i64);
        crate::check::problem(self, dtype, sizes, &given)
    }

    fn tensors(&self, p: &Problem) -> Vec<TensorSpec> {
        let dim = p.size("head_dim");
        let queries = [p.size("total_q"), p.size("heads"), dim];
        let keys = [p.size("total_k"), p.size("kv_heads"), dim];
        let starts = [p.size("batch") + 1];
        let spec =
            |name, dtype, shape: &[usize], role| TensorSpec { name, dtype, shape: shape.to_vec(), role };
        vec![
            spec("q", p.dtype, &queries, Role::Input),
            spec("k", p.dtype, &keys, Role::Input),
            spec("v", p.dtype, &keys, Role::Input),
            spec("cu_seqlens_q", DType::I32, &starts, Role::Input),
            spec("cu_seqlens_k", DType::I32, &starts, Role::Input),
            spec("out", crate::products::out_dtype(p), &queries, Role::Output),
        ]
    }

    fn fill(&self, p: &Problem, tensor: &TensorSpec, seed: u64) -> Option<Vec<f64>> {
        let (batch, total_k) = (p.size("batch"), p.size("total_k"));
        match tensor.name {
            "cu_seqlens_q" => Some(random_starts(batch, p.size("total_q"), p.size("max_seq_q"), seed)),
            "cu_seqlens_k" => Some(random_starts(batch, total_k, total_k, seed ^ 1)),
            _ => None,
        }
    }

    fn scalars(&self, p: &Problem) -> Vec<ScalarValue> {
        let scale = 1.0 / (p.size("head_dim") as f32).sqrt();
        vec![ScalarValue::F32(scale), ScalarValue::I32(window(p).unwrap_or(1) as i32)]
    }

    fn consts(&self, p: &Problem) -> IndexMap<String, i64> {
        indexmap! {
            "HEAD_DIM".to_owned() => attention::padded_dim(p),
            "CAUSAL".to_owned() => p.sizes["causal"],
            "WINDOW".to_owned() => window(p).is_some().into(),
        }
    }

    fn dtype_bindings(&self, p: &Problem) -> IndexMap<String, DType> {
        crate::products::dtype_bindings(p)
    }

    fn grid(&self, p: &Problem, config: &Config) -> [usize; 3] {
        [crate::check::blocks(p, "max_seq_q", config, "TILE_M"), p.size("heads"), p.size("batch")]
    }

    /// Those of sequences of equal lengths.
    fn flops(&self, p: &Problem) -> f64 {
        let lens = [p.size("total_q"), p.size("total_k")].map(|total| total.div_ceil(p.size("batch")));
        let seen = |i| attention::visible(i, lens, p.switch("causal"), window(p)).len();
        let pairs: usize = (0..lens[0]).map(seen).sum();
        4.0 * (p.size("batch") * p.size("heads") * p.size("head_dim")) as f64 * pairs as f64
    }

    fn oracle(&self, p: &Problem, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let [q, k, v, starts_q, starts_k] = inputs else { return Vec::new() };
        let (heads, kv_heads, dim) = (p.size("heads"), p.size("kv_heads"), p.size("head_dim"));
        let row = |index: usize| {
            let (token, head) = (index / heads, index % heads);
            let batch = starts_q.iter().rposition(|&start| start as usize <= token).unwrap_or(0);
            let (i, first) = (token - starts_q[batch] as usize, starts_k[batch] as usize);
            let lens = [starts_q, starts_k].map(|starts| (starts[batch + 1] - starts[batch]) as usize);
            let keys = attention::visible(i, lens, p.switch("causal"), window(p));
            let at = |j: usize| ((first + j) * kv_heads + head / (heads / kv_heads)) * dim;
            let (key, value) = (|j| &k[at(j)..][..dim], |j| &v[at(j)..][..dim]);
            attention::attend(&q[index * dim..][..dim], keys, key, value, Scoring::default()).0
        };
        vec![(0..p.size("total_q") * heads).into_par_iter().flat_map_iter(row).collect()]
    }

    fn tolerance(&self, dtype: DType, gpu: bool) -> f64 {
        crate::oracle::product_tolerance(dtype, gpu)
    }

    fn default_config(&self, p: &Problem) -> Config {
        attention::default_config(p)
    }
}
