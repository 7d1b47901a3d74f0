//! Prefill attention.

use crate::attention::{self, Scoring, normalize, online_softmax};
use indexmap::{IndexMap, indexmap};
use rayon::prelude::*;
use std::collections::BTreeMap;
use tile::contract::{Contract, ContractError, Found, Problem, Role, ScalarValue, SizeSpec, TensorSpec};
use tile::prelude::*;
use tile::registry::KernelDef;
use tile::{Config, DType};

/// `out = softmax(scale q kᵀ) v` for every batch and head, one block of `TILE_M` queries a program.
///
/// One pass over the keys with the online softmax of Milakov and Gimelshein (2018), as FlashAttention (Dao et
/// al., 2022) tiles it: a running maximum and sum in f32 a query, in base 2, and an accumulator that is rescaled
/// when the maximum grows.
///
/// With `CAUSAL`, a query sees the keys up to its own place, queries aligned to the end of the keys. A query that
/// sees no key gives zeros. A NaN in a query or a visible key gives NaN in that query's row.
///
/// # Shapes
/// q, out `[batch, heads, seq_q, dim]`; k, v `[batch, kv_heads, seq_k, dim]`, dim at most `HEAD_DIM`; heads a multiple
/// of kv_heads, each kv head serving `heads / kv_heads` neighbouring heads
/// # Grid
/// `[ceil(seq_q / TILE_M), heads, batch]`
/// # Dtypes
/// q, k, v f16 | bf16 | f32 (tf32 on tensor cores) | f8E4M3FN, whose weights and values are multiplied as out's dtype;
/// out f16 | bf16 | f32; `scale` is positive
#[tile_kernel(tune(
    TILE_M in [64, 32, 128, 256],
    TILE_N in [64, 32, 128],
    num_warps in [4, 8, 16],
    num_stages in [2, 1, 3],
    occupancy in [1, 2, 3],
    ping_pong in [0, 1],
    persistent in [0, 1]
    where TILE_M >= 16 * num_warps, TILE_M <= 32 * num_warps, occupancy < 3 || num_warps == 4,
          ping_pong == 0 && persistent == 0 || num_warps >= 8 && num_stages > 1 && occupancy == 1,
          ping_pong == 0 || persistent == 0 && num_warps == 8,
          num_warps < 16 || persistent == 1 && HEAD_DIM <= 64 && TILE_N <= 64
))]
pub fn fmha<
    T: Factor,
    O: Float,
    const HEAD_DIM: usize,
    const TILE_M: usize,
    const TILE_N: usize,
    const CAUSAL: bool,
>(
    q: Tensor<T, 4>,
    k: Tensor<T, 4>,
    v: Tensor<T, 4>,
    out: TensorMut<O, 4>,
    scale: f32,
) {
    // The last queries see the most keys: their programs start first.
    let m = if CAUSAL { num_programs(0) - 1 - program_id(0) } else { program_id(0) };
    let head = program_id(1);
    let batch = program_id(2);
    let kv_head = head / (q.dim(1) / k.dim(1));
    let seq_k = k.dim(2) as i32;
    let offset = seq_k - q.dim(2) as i32;
    let scale_log2 = scale * std::f32::consts::LOG2_E;

    let queries = q.load([batch, head, m, 0], [1, 1, TILE_M, HEAD_DIM]).reshape([TILE_M, HEAD_DIM]);
    // The last key each query sees.
    let last_key = full::<i32>([TILE_M, 1], seq_k - 1);
    let place = (iota(TILE_M) + ((m * TILE_M) as i32 + offset)).expand_dims(1);
    let limit = if CAUSAL { minimum(place, last_key) } else { last_key };
    // One past the last key that any query of the block sees.
    let end = if CAUSAL { (((m + 1) * TILE_M) as i32 + offset).min(seq_k).max(0) } else { seq_k };

    let mut row_max = full::<f32>([TILE_M, 1], f32::NEG_INFINITY);
    let mut row_sum = zeros::<f32>([TILE_M, 1]);
    let mut acc = zeros::<f32>([TILE_M, HEAD_DIM]);
    for j in 0..cdiv(end as usize, TILE_N) {
        let keys = k.load([batch, kv_head, j, 0], [1, 1, TILE_N, HEAD_DIM]).reshape([TILE_N, HEAD_DIM]);
        let dots = mma(queries, keys.t(), zeros::<f32>([TILE_M, TILE_N]));
        let cols = (iota(TILE_N) + (j * TILE_N) as i32).expand_dims(0);
        let hidden = full::<f32>([TILE_M, TILE_N], f32::NEG_INFINITY);
        let scores = select(cols.le(limit), dots, hidden);

        let (weights, rescale, new_max, new_sum) = online_softmax(scores, scale_log2, row_max, row_sum);
        (row_max, row_sum) = (new_max, new_sum);
        let values = v.load([batch, kv_head, j, 0], [1, 1, TILE_N, HEAD_DIM]).reshape([TILE_N, HEAD_DIM]);
        acc = mma(weights.cast::<O>(), values.cast::<O>(), acc * rescale);
    }
    let result = normalize(acc, row_sum).cast::<O>();
    out.store([batch, head, m, 0], result.reshape([1, 1, TILE_M, HEAD_DIM]));
}

/// The contract of [`fmha`], with `scale = 1 / sqrt(head_dim)`.
pub struct FmhaContract;

tile::register_contract!(FmhaContract);

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
];

const TENSOR_SHAPE: &str = "[batch, heads, seq, head_dim]";

impl Contract for FmhaContract {
    fn kernel(&self) -> &'static KernelDef {
        &fmha::KERNEL
    }

    fn summary(&self) -> &'static str {
        "out = softmax(q kᵀ / sqrt(head_dim)) v, causal or full, grouped-query heads"
    }

    fn sizes(&self) -> &'static [SizeSpec] {
        SIZES
    }

    fn dtypes(&self) -> &'static [DType] {
        crate::products::DTYPES
    }

    fn check(&self, p: &Problem) -> Result<(), ContractError> {
        crate::check::positive(p, &["batch", "heads", "kv_heads", "seq_q", "seq_k"])?;
        crate::check::switches(p, &["causal"])?;
        let size = |name: &str, reason: String| {
            Err(ContractError::Size { name: name.to_owned(), value: p.sizes[name], reason })
        };
        if !attention::HEAD_DIMS.contains(&p.size("head_dim")) {
            return size("head_dim", format!("fmha is written for {:?}", attention::HEAD_DIMS));
        }
        if !p.size("heads").is_multiple_of(p.size("kv_heads")) {
            return size("heads", format!("a multiple of kv_heads = {}", p.size("kv_heads")));
        }
        Ok(())
    }

    fn from_inputs(
        &self,
        inputs: &BTreeMap<String, Found>,
        given: &IndexMap<String, i64>,
    ) -> Result<Problem, ContractError> {
        let names = ["q", "k", "v"].map(|name| (name, TENSOR_SHAPE));
        crate::check::input_names(inputs, &names)?;
        let dtype = crate::check::common_dtype(self.dtypes(), inputs, &["q", "k", "v"])?;
        let [batch, heads, seq_q, head_dim] = crate::check::extents::<4>(inputs, "q", TENSOR_SHAPE)?;
        let k @ [_, kv_heads, seq_k, _] = crate::check::extents::<4>(inputs, "k", TENSOR_SHAPE)?;
        let v = crate::check::extents::<4>(inputs, "v", TENSOR_SHAPE)?;
        let shape_error = |tensor: &str, found: [usize; 4], expected: String| {
            Err(ContractError::Shape { tensor: tensor.to_owned(), found: found.to_vec(), expected })
        };
        if k[0] != batch || k[3] != head_dim {
            return shape_error("k", k, format!("[{batch}, kv_heads, seq_k, {head_dim}], as q has it"));
        }
        if v != k {
            return shape_error("v", v, format!("{k:?}, the shape of k"));
        }
        let sizes = indexmap! {
            "batch" => batch as i64, "heads" => heads as i64, "kv_heads" => kv_heads as i64,
            "seq_q" => seq_q as i64, "seq_k" => seq_k as i64, "head_dim" => head_dim as i64,
        };
        crate::check::problem(self, dtype, sizes, given)
    }

    fn tensors(&self, p: &Problem) -> Vec<TensorSpec> {
        let (batch, head_dim) = (p.size("batch"), p.size("head_dim"));
        let queries = vec![batch, p.size("heads"), p.size("seq_q"), head_dim];
        let keys = vec![batch, p.size("kv_heads"), p.size("seq_k"), head_dim];
        let input = |name, shape: &[usize]| TensorSpec {
            name,
            dtype: p.dtype,
            shape: shape.to_vec(),
            role: Role::Input,
        };
        let dtype = crate::products::out_dtype(p);
        let (q, k, v) = (input("q", &queries), input("k", &keys), input("v", &keys));
        vec![q, k, v, TensorSpec { name: "out", dtype, shape: queries, role: Role::Output }]
    }

    fn scalars(&self, p: &Problem) -> Vec<ScalarValue> {
        vec![ScalarValue::F32(1.0 / (p.size("head_dim") as f32).sqrt())]
    }

    fn consts(&self, p: &Problem) -> IndexMap<String, i64> {
        indexmap! { "HEAD_DIM".to_owned() => attention::padded_dim(p), "CAUSAL".to_owned() => p.sizes["causal"] }
    }

    fn dtype_bindings(&self, p: &Problem) -> IndexMap<String, DType> {
        indexmap! { "T".to_owned() => p.dtype, "O".to_owned() => crate::products::out_dtype(p) }
    }

    fn grid(&self, p: &Problem, config: &Config) -> [usize; 3] {
        [crate::check::blocks(p, "seq_q", config, "TILE_M"), p.size("heads"), p.size("batch")]
    }

    fn flops(&self, p: &Problem) -> f64 {
        let (seq_q, seq_k) = (p.size("seq_q"), p.size("seq_k"));
        let visible = |i| attention::visible(i, [seq_q, seq_k], p.switch("causal"), None).len();
        let pairs: usize = (0..seq_q).map(visible).sum();
        4.0 * (p.size("batch") * p.size("heads") * p.size("head_dim")) as f64 * pairs as f64
    }

    fn oracle(&self, p: &Problem, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let (seq_q, seq_k, dim) = (p.size("seq_q"), p.size("seq_k"), p.size("head_dim"));
        let (heads, kv_heads) = (p.size("heads"), p.size("kv_heads"));
        let group = heads / kv_heads;
        let (q, k, v) = (&inputs[0], &inputs[1], &inputs[2]);
        let row = |index: usize| -> Vec<f64> {
            let (batch, head, i) = (index / (heads * seq_q), index / seq_q % heads, index % seq_q);
            let first = (batch * kv_heads + head / group) * seq_k;
            let visible = attention::visible(i, [seq_q, seq_k], p.switch("causal"), None);
            let (key, value) = (|j| &k[(first + j) * dim..][..dim], |j| &v[(first + j) * dim..][..dim]);
            attention::attend(&q[index * dim..][..dim], visible, key, value, Scoring::default()).0
        };
        vec![(0..p.size("batch") * heads * seq_q).into_par_iter().flat_map_iter(row).collect()]
    }

    fn tolerance(&self, dtype: DType, gpu: bool) -> f64 {
        crate::oracle::product_tolerance(dtype, gpu)
    }

    fn default_config(&self, p: &Problem) -> Config {
        attention::default_config(p)
    }
}
