//! What decode attention promises.

use super::decode_attention::{decode_attention, num_splits};
use indexmap::{IndexMap, indexmap};
use rayon::prelude::*;
use std::collections::BTreeMap;
use tile::contract::{
    Contract, ContractError, Draws, Found, Problem, Role, ScalarValue, SizeSpec, TensorSpec,
};
use tile::registry::KernelDef;
use tile::{Config, DType};

/// The contract of [`decode_attention`], `scale = 1 / sqrt(head_dim)`.
///
/// With several splits, the parts in f32, the logarithms of their sums and the counters of programs are the workspace.
pub struct DecodeAttentionContract;

tile::register_contract!(DecodeAttentionContract);

const SIZES: &[SizeSpec] = &[
    SizeSpec { name: "batch", default: 64, exact: false, doc: "sequences" },
    SizeSpec { name: "heads", default: 32, exact: false, doc: "query heads" },
    SizeSpec { name: "kv_heads", default: 8, exact: false, doc: "key and value heads; divides heads" },
    SizeSpec { name: "seq_k", default: 4096, exact: false, doc: "keys there is room for, a sequence" },
    SizeSpec { name: "head_dim", default: 128, exact: true, doc: "elements of a head: 64 or 128" },
    SizeSpec {
        name: "page_size",
        default: 0,
        exact: true,
        doc: "keys a page: 16, 32, 64 or 128; 0: one run a sequence",
    },
    SizeSpec {
        name: "f8_cache",
        default: 0,
        exact: true,
        doc: "keys and values are f8E4M3FN (1) or of q's dtype (0)",
    },
    SizeSpec {
        name: "head_scales",
        default: 0,
        exact: false,
        doc: "scales of the cache for each kv head (1) or one (0)",
    },
];

const QUERY_SHAPE: &str = "[batch, kv_heads, heads / kv_heads, head_dim]";
const CACHE_SHAPE: &str = "[batch, seq_k, kv_heads, head_dim] or [pages, page_size, kv_heads, head_dim]";
const SCALE_SHAPE: &str = "[1] or [kv_heads]";

/// Largest tile of queries: the heads of one kv head.
const MAX_GROUP: usize = 64;
/// Most rows merged at a time: more take registers that loads in flight need.
const MAX_MERGED: usize = 4;
/// Page sizes that there are configurations for.
const PAGE_SIZES: [usize; 4] = [16, 32, 64, 128];

/// The sizes that the tensors' shapes come from.
struct Sizes {
    batch: usize,
    kv_heads: usize,
    group: usize,
    seq_k: usize,
    head_dim: usize,
    /// Keys of a page; none when each sequence has one run.
    page: Option<usize>,
}

impl Sizes {
    fn of(p: &Problem) -> Sizes {
        let kv_heads = p.size("kv_heads");
        Sizes {
            batch: p.size("batch"),
            kv_heads,
            group: p.size("heads") / kv_heads,
            seq_k: p.size("seq_k"),
            head_dim: p.size("head_dim"),
            page: Some(p.size("page_size")).filter(|&page| page != 0),
        }
    }

    /// Pages that a sequence has in the table.
    fn pages(&self) -> usize {
        self.page.map_or(1, |page| self.seq_k.div_ceil(page))
    }

    /// A tensor with a row for each query head.
    fn rows(&self, columns: usize) -> Vec<usize> {
        vec![self.batch, self.kv_heads, self.group, columns]
    }

    fn cache(&self) -> Vec<usize> {
        let [blocks, keys] = match self.page {
            Some(page) => [self.batch * self.pages(), page],
            None => [self.batch, self.seq_k],
        };
        vec![blocks, keys, self.kv_heads, self.head_dim]
    }
}

/// The dtype of keys and values, and that of the products.
fn cache_dtypes(p: &Problem) -> (DType, DType) {
    if p.switch("f8_cache") { (DType::F8E4M3FN, DType::F16) } else { (p.dtype, p.dtype) }
}

/// How many splits a configuration asks for.
pub(crate) fn splits(config: &Config) -> usize {
    config.consts.get("NUM_SPLITS").map_or(1, |&splits| splits.max(1) as usize)
}

impl Contract for DecodeAttentionContract {
    fn kernel(&self) -> &'static KernelDef {
        &decode_attention::KERNEL
    }

    fn summary(&self) -> &'static str {
        "attention of one query token a sequence over cached keys and values, paged or not"
    }

    fn sizes(&self) -> &'static [SizeSpec] {
        SIZES
    }

    fn dtypes(&self) -> &'static [DType] {
        &[DType::BF16, DType::F16]
    }

    fn check(&self, p: &Problem) -> Result<(), ContractError> {
        crate::check::positive(p, &["batch", "heads", "kv_heads", "seq_k"])?;
        crate::check::switches(p, &["f8_cache", "head_scales"])?;
        let size = |name: &str, reason: String| {
            Err(ContractError::Size { name: name.to_owned(), value: p.sizes[name], reason })
        };
        if ![64, 128].contains(&p.sizes["head_dim"]) {
            return size("head_dim", "decode_attention is written for head_dim 64 and 128".into());
        }
        if p.sizes["page_size"] != 0 && !PAGE_SIZES.iter().any(|&s| s as i64 == p.sizes["page_size"]) {
            return size(
                "page_size",
                "a page holds 16, 32, 64 or 128 keys; 0 is for a cache without pages".into(),
            );
        }
        let kv_heads = p.size("kv_heads");
        if !p.size("heads").is_multiple_of(kv_heads) {
            return size("heads", format!("a multiple of kv_heads = {kv_heads}"));
        }
        if p.size("heads") / kv_heads > MAX_GROUP {
            return size("heads", format!("at most {MAX_GROUP} for each of {kv_heads} kv_heads"));
        }
        Ok(())
    }

    fn from_inputs(
        &self,
        inputs: &BTreeMap<String, Found>,
        given: &IndexMap<String, i64>,
    ) -> Result<Problem, ContractError> {
        let names = [
            ("q", QUERY_SHAPE),
            ("k", CACHE_SHAPE),
            ("v", CACHE_SHAPE),
            ("lengths", "[batch]"),
            ("table", "[batch, pages of a sequence], or [batch, 1] without pages"),
            ("k_scale", SCALE_SHAPE),
            ("v_scale", SCALE_SHAPE),
        ];
        crate::check::input_names(inputs, &names)?;
        let dtype = crate::check::common_dtype(self.dtypes(), inputs, &["q"])?;
        let cache = crate::check::common_dtype(&[dtype, DType::F8E4M3FN], inputs, &["k", "v"])?;
        crate::check::common_dtype(&[DType::I32], inputs, &["lengths", "table"])?;
        crate::check::common_dtype(&[DType::F32], inputs, &["k_scale", "v_scale"])?;
        let [batch, kv_heads, group, head_dim] = crate::check::extents(inputs, "q", QUERY_SHAPE)?;
        let [_, keys, ..] = crate::check::extents::<4>(inputs, "k", CACHE_SHAPE)?;
        let [_, pages] = crate::check::extents(inputs, "table", "[batch, pages of a sequence]")?;
        let [scales] = crate::check::extents(inputs, "k_scale", SCALE_SHAPE)?;
        let paged = given.get("page_size").is_some_and(|&page| page != 0);
        let sizes = indexmap! {
            "batch" => batch as i64, "heads" => (kv_heads * group) as i64, "kv_heads" => kv_heads as i64,
            "seq_k" => (if paged { pages * keys } else { keys }) as i64, "head_dim" => head_dim as i64,
            "page_size" => if paged { keys as i64 } else { 0 },
            "f8_cache" => (cache == DType::F8E4M3FN) as i64, "head_scales" => (scales != 1) as i64,
        };
        let problem = crate::check::problem(self, dtype, sizes, given)?;
        for spec in self.tensors(&problem).iter().filter(|spec| spec.role == Role::Input) {
            let found = &inputs[spec.name].1;
            // Sequences may share a pool of any number of pages.
            let pool = paged && ["k", "v"].contains(&spec.name) && found.len() == 4;
            let from = if pool { 1 } else { 0 };
            if found.len() != spec.shape.len() || found[from..] != spec.shape[from..] {
                return Err(ContractError::Shape {
                    tensor: spec.name.to_owned(),
                    found: found.clone(),
                    expected: format!("{:?}, as q, k and table have it", spec.shape),
                });
            }
        }
        Ok(problem)
    }

    fn tensors(&self, p: &Problem) -> Vec<TensorSpec> {
        let sizes = Sizes::of(p);
        let (cache, _) = cache_dtypes(p);
        let input = |name, dtype, shape| TensorSpec { name, dtype, shape, role: Role::Input };
        let output = |name, dtype, shape| TensorSpec { name, dtype, shape, role: Role::Output };
        let scales = vec![if p.switch("head_scales") { sizes.kv_heads } else { 1 }];
        vec![
            input("q", p.dtype, sizes.rows(sizes.head_dim)),
            input("k", cache, sizes.cache()),
            input("v", cache, sizes.cache()),
            input("lengths", DType::I32, vec![sizes.batch]),
            input("table", DType::I32, vec![sizes.batch, sizes.pages()]),
            input("k_scale", DType::F32, scales.clone()),
            input("v_scale", DType::F32, scales),
            output("out", p.dtype, sizes.rows(sizes.head_dim)),
            output("lse", DType::F32, sizes.rows(1)),
        ]
    }

    fn scalars(&self, p: &Problem) -> Vec<ScalarValue> {
        vec![ScalarValue::F32(1.0 / (p.size("head_dim") as f32).sqrt())]
    }

    fn consts(&self, p: &Problem) -> IndexMap<String, i64> {
        let sizes = Sizes::of(p);
        indexmap! {
            "HEAD_DIM".to_owned() => sizes.head_dim as i64,
            "TILE_G".to_owned() => sizes.group.next_power_of_two().max(16) as i64,
            "MERGE_G".to_owned() => sizes.group.next_power_of_two().min(MAX_MERGED) as i64,
            "PAGE".to_owned() => sizes.page.unwrap_or(PAGE_SIZES[3]) as i64,
            "PAGED".to_owned() => sizes.page.is_some() as i64,
        }
    }

    fn dtype_bindings(&self, p: &Problem) -> IndexMap<String, DType> {
        let (cache, product) = cache_dtypes(p);
        indexmap! {
            "T".to_owned() => p.dtype, "C".to_owned() => cache, "M".to_owned() => product,
        }
    }

    fn grid(&self, p: &Problem, config: &Config) -> [usize; 3] {
        [p.size("kv_heads"), p.size("batch"), splits(config)]
    }

    fn workspace(&self, p: &Problem, config: &Config) -> Vec<TensorSpec> {
        let (sizes, splits) = (Sizes::of(p), splits(config));
        let scratch = |name, dtype, shape| TensorSpec { name, dtype, shape, role: Role::Output };
        let part = |columns| if splits == 1 { vec![1; 4] } else { sizes.rows(columns) };
        vec![
            scratch("parts", DType::F32, part(splits * sizes.head_dim)),
            scratch("parts_lse", DType::F32, part(splits)),
            scratch("counters", DType::I32, vec![sizes.batch, sizes.kv_heads]),
        ]
    }

    /// Every sequence has all the keys there is room for, in pages in random order.
    fn fill(&self, p: &Problem, tensor: &TensorSpec, seed: u64) -> Option<Vec<f64>> {
        let mut draws = Draws::new(seed);
        let count: usize = tensor.shape.iter().product();
        match tensor.name {
            "lengths" => Some(vec![p.size("seq_k") as f64; count]),
            "table" => {
                let mut pages: Vec<usize> = (0..count).collect();
                (1..count).rev().for_each(|i| pages.swap(i, draws.below(i + 1)));
                Some(pages.into_iter().map(|page| page as f64).collect())
            }
            "k_scale" | "v_scale" => Some((0..count).map(|_| 0.5 + draws.below(64) as f64 / 64.0).collect()),
            _ => None,
        }
    }

    fn flops(&self, p: &Problem) -> f64 {
        4.0 * (p.size("batch") * p.size("heads") * p.size("head_dim")) as f64 * p.size("seq_k") as f64
    }

    fn oracle(&self, p: &Problem, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let sizes = Sizes::of(p);
        let (dim, kv_heads) = (sizes.head_dim, sizes.kv_heads);
        let [q, k, v, lengths, table, k_scale, v_scale] = inputs else {
            panic!("the contract has seven inputs, not {}", inputs.len())
        };
        let row = |index: usize| -> (Vec<f64>, f64) {
            let (batch, kv_head) = (index / sizes.group / kv_heads, index / sizes.group % kv_heads);
            let query = &q[index * dim..][..dim];
            let of_head = |scales: &[f64]| scales[kv_head % scales.len()];
            // The elements of key or value `i`.
            let place = |i: usize| {
                let slot = match sizes.page {
                    Some(page) => table[batch * sizes.pages() + i / page] as usize * page + i % page,
                    None => batch * sizes.seq_k + i,
                };
                (slot * kv_heads + kv_head) * dim
            };
            let scale = of_head(k_scale) / (dim as f64).sqrt();
            let keys = 0..lengths[batch] as usize;
            let scores: Vec<f64> =
                keys.map(|i| crate::oracle::dot(query, &k[place(i)..][..dim]) * scale).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let mut out = vec![0.0; dim];
            let total: f64 = scores.iter().map(|score| (score - max).exp()).sum();
            for (i, score) in scores.iter().enumerate() {
                let weight = (score - max).exp() / total * of_head(v_scale);
                out.iter_mut().zip(&v[place(i)..][..dim]).for_each(|(o, x)| *o += weight * x);
            }
            let lse = if scores.is_empty() { f64::NEG_INFINITY } else { max + total.ln() };
            (out, lse)
        };
        let rows: Vec<_> = (0..sizes.batch * kv_heads * sizes.group).into_par_iter().map(row).collect();
        let (out, lse): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        vec![out.concat(), lse]
    }

    fn tolerance(&self, dtype: DType, gpu: bool) -> f64 {
        crate::oracle::product_tolerance(dtype, gpu)
    }

    fn default_config(&self, p: &Problem) -> Config {
        default_config(p, crate::host::DEFAULT_SMS)
    }
}

/// The configuration to use on so many SMs before anything was tuned.
pub(crate) fn default_config(p: &Problem, sms: usize) -> Config {
    let sizes = Sizes::of(p);
    let tile_n = sizes.page.unwrap_or(64).min(64);
    // Two programs on an SM keep its memory busy; more splits would only cost more to merge.
    let splits = num_splits(sms, 2, sizes.batch, sizes.kv_heads, sizes.seq_k, tile_n);
    let consts = [("TILE_N", tile_n as i64), ("NUM_SPLITS", splits as i64)];
    // As many warps as have keys of a tile: they also share the merge, which waits for memory.
    crate::check::config(&consts, (tile_n / 16) as u32, 3, 2)
}
