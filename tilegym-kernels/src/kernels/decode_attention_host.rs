//! Decode attention for runtimes: typed tensors in, the launch made.

use super::decode_attention::decode_attention;
use super::decode_attention_contract::{DecodeAttentionContract, default_config, splits};
use crate::check::shape;
use crate::host::{PreparedError, Queue, sms};
use indexmap::IndexMap;
use tile::contract::{Contract, ContractError, Problem};
#[cfg(feature = "cuda")]
use tile::cuda::Stream;
use tile::launch::TypedConfig;
use tile::prelude::*;
use tile::{Config, DType};

/// An element type that keys and values may have under queries of `T`.
pub trait CacheElement<T>: Element {
    /// In what products with it are made.
    type Product: Float;
}

impl CacheElement<f16> for f16 {
    type Product = f16;
}

impl CacheElement<bf16> for bf16 {
    type Product = bf16;
}

impl<T: Float> CacheElement<T> for F8E4M3FN {
    type Product = f16;
}

/// The sizes that decode attention is prepared for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeSizes {
    /// Most sequences of a launch.
    pub batch: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Query heads for each of them.
    pub group: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Most keys of a sequence.
    pub seq_k: usize,
    /// Keys of a page; none for one run of keys a sequence.
    pub page_size: Option<usize>,
}

/// Cached keys and values; the shapes are those of [`decode_attention`].
#[derive(Debug)]
pub struct KvCache<'a, C: Element> {
    /// Keys.
    pub k: &'a TensorBuf<C, 4>,
    /// Values.
    pub v: &'a TensorBuf<C, 4>,
    /// Keys of each sequence.
    pub lengths: &'a TensorBuf<i32, 1>,
    /// The pages of each sequence, where there are pages.
    pub table: Option<&'a TensorBuf<i32, 2>>,
    /// What keys and values are multiplied with, one for all or one a kv head; 1 where absent.
    pub scales: Option<[&'a TensorBuf<f32, 1>; 2]>,
}

/// Decode attention on a device, prepared for some sizes: its configuration and its scratch memory.
///
/// ```
/// use tile::prelude::*;
/// use tilegym_kernels::{DecodeAttention, DecodeSizes, KvCache};
/// let device = Device::cpu();
/// let sizes = DecodeSizes { batch: 2, kv_heads: 1, group: 4, head_dim: 64, seq_k: 40, page_size: None };
/// let mut attention = DecodeAttention::new::<bf16, bf16>(&device, sizes)?;
/// let q = TensorBuf::<bf16, 4>::zeros([2, 1, 4, 64]);
/// let k = TensorBuf::<bf16, 4>::zeros([2, 40, 1, 64]);
/// let v = TensorBuf::full([2, 40, 1, 64], bf16::from_f32(3.0));
/// let lengths = TensorBuf::from_vec([2], vec![40, 0])?;
/// let cache = KvCache { k: &k, v: &v, lengths: &lengths, table: None, scales: None };
/// let (mut out, mut lse) = (TensorBuf::zeros([2, 1, 4, 64]), TensorBuf::zeros([2, 1, 4, 1]));
/// attention.launch(&q, &cache, &mut out, &mut lse, 0.125)?;
/// assert_eq!((out.get([0, 0, 0, 0]).to_f32(), out.get([1, 0, 0, 0]).to_f32()), (3.0, 0.0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct DecodeAttention {
    device: Device,
    sizes: DecodeSizes,
    problem: Problem,
    config: Config,
    scratch: Scratch,
}

/// What a launch needs beside the caller's tensors.
#[derive(Debug)]
struct Scratch {
    parts: TensorBuf<f32, 4>,
    parts_lse: TensorBuf<f32, 4>,
    /// Programs that have stored their parts: zeros between launches.
    counters: TensorBuf<i32, 2>,
    /// The scale where the cache has none.
    one: TensorBuf<f32, 1>,
    /// The table where there are no pages.
    no_table: TensorBuf<i32, 2>,
}

impl DecodeAttention {
    /// Prepares for queries of `T` over a cache of `C`, with the configuration and the number of splits that suit
    /// the device's SMs.
    ///
    /// # Errors
    /// When the sizes are not what the kernel is written for, or the device has too little memory.
    pub fn new<T: Float, C: CacheElement<T>>(
        device: &Device,
        sizes: DecodeSizes,
    ) -> Result<Self, PreparedError> {
        let problem = problem::<T, C>(sizes)?;
        let config = default_config(&problem, sms(device));
        Self::with_config::<T, C>(device, sizes, config)
    }

    /// As [`new`](Self::new), with a configuration of [`decode_attention`] that names `TILE_N` and `NUM_SPLITS`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_config<T: Float, C: CacheElement<T>>(
        device: &Device,
        sizes: DecodeSizes,
        config: Config,
    ) -> Result<Self, PreparedError> {
        let problem = problem::<T, C>(sizes)?;
        let splits = splits(&config);
        let rows = |columns: usize| match splits {
            // One split leaves no parts.
            1 => [1, 1, 1, 1],
            _ => [sizes.batch, sizes.kv_heads, sizes.group, columns],
        };
        let scratch = Scratch {
            parts: TensorBuf::zeros_on(device, rows(splits * sizes.head_dim))?,
            parts_lse: TensorBuf::zeros_on(device, rows(splits))?,
            counters: TensorBuf::zeros_on(device, [sizes.batch, sizes.kv_heads])?,
            one: TensorBuf::full([1], 1.0).to_device(device)?,
            no_table: TensorBuf::zeros_on(device, [1, 1])?,
        };
        Ok(DecodeAttention { device: device.clone(), sizes, problem, config, scratch })
    }

    /// The configuration, with the number of splits.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Launches on the device; `out` is like `q`, `lse` `[batch, kv_heads, group, 1]`. There may be fewer
    /// sequences than it was prepared for.
    ///
    /// # Errors
    /// When a tensor does not fit the sizes, or a launch is refused.
    pub fn launch<T: Float, C: CacheElement<T>>(
        &mut self,
        q: &TensorBuf<T, 4>,
        cache: &KvCache<'_, C>,
        out: &mut TensorBuf<T, 4>,
        lse: &mut TensorBuf<f32, 4>,
        scale: f32,
    ) -> Result<(), PreparedError> {
        let device = self.device.clone();
        self.launch_in(Queue::Device(&device), q, cache, (out, lse), scale)
    }

    /// As [`launch`](Self::launch), in a stream.
    ///
    /// # Errors
    /// As [`launch`](Self::launch).
    #[cfg(feature = "cuda")]
    pub fn launch_on<T: Float, C: CacheElement<T>>(
        &mut self,
        stream: &Stream,
        q: &TensorBuf<T, 4>,
        cache: &KvCache<'_, C>,
        out: &mut TensorBuf<T, 4>,
        lse: &mut TensorBuf<f32, 4>,
        scale: f32,
    ) -> Result<(), PreparedError> {
        self.launch_in(Queue::Stream(stream), q, cache, (out, lse), scale)
    }

    fn launch_in<T: Float, C: CacheElement<T>>(
        &mut self,
        queue: Queue<'_>,
        q: &TensorBuf<T, 4>,
        cache: &KvCache<'_, C>,
        (out, lse): (&mut TensorBuf<T, 4>, &mut TensorBuf<f32, 4>),
        scale: f32,
    ) -> Result<(), PreparedError> {
        let batch = q.shape()[0];
        self.check::<T, C>(q, cache, (out.shape(), lse.shape()))?;
        if batch == 0 {
            return Ok(());
        }
        let grid = [self.sizes.kv_heads, batch, splits(&self.config)];
        let typed = decode_attention::Config::from_config(&self.with_consts(&self.config));
        let Scratch { parts, parts_lse, counters, one, no_table } = &mut self.scratch;
        let table = cache.table.unwrap_or(no_table);
        let [k_scale, v_scale] = cache.scales.unwrap_or([one, one]);
        let KvCache { k, v, lengths, .. } = *cache;
        let launch = decode_attention::<T, C, C::Product>(
            q, k, v, lengths, table, k_scale, v_scale, out, lse, parts, parts_lse, counters, scale,
        );
        Ok(queue.launch(launch.grid(grid).config(typed))?)
    }

    /// The configuration with the const parameters that the sizes fix.
    fn with_consts(&self, config: &Config) -> Config {
        let mut config = config.clone();
        config.consts.extend(DecodeAttentionContract.consts(&self.problem));
        config
    }

    /// Checks the shapes that a launch by itself does not.
    fn check<T: Float, C: CacheElement<T>>(
        &self,
        q: &TensorBuf<T, 4>,
        cache: &KvCache<'_, C>,
        (out, lse): ([usize; 4], [usize; 4]),
    ) -> Result<(), ContractError> {
        let DecodeSizes { batch: most, kv_heads, group, head_dim, page_size, .. } = self.sizes;
        let batch = q.shape()[0];
        if batch > most {
            let (name, value) = ("batch".to_owned(), batch as i64);
            return Err(ContractError::Size {
                name,
                value,
                reason: format!("at most {most}, as prepared for"),
            });
        }
        shape("q", &q.shape(), &[batch, kv_heads, group, head_dim])?;
        shape("out", &out, &[batch, kv_heads, group, head_dim])?;
        shape("lse", &lse, &[batch, kv_heads, group, 1])?;
        let [blocks, keys, ..] = cache.k.shape();
        let expected = match page_size {
            Some(page) => [blocks, page, kv_heads, head_dim],
            None => [batch, keys, kv_heads, head_dim],
        };
        shape("k", &cache.k.shape(), &expected)?;
        shape("v", &cache.v.shape(), &expected)?;
        shape("lengths", &cache.lengths.shape(), &[batch])?;
        if let (Some(_), table) = (page_size, cache.table.map(TensorBuf::shape)) {
            let [rows, columns] = table.unwrap_or_default();
            shape("table", &[rows, columns], &[batch, columns.max(1)])?;
        }
        for (name, scale) in ["k_scale", "v_scale"].into_iter().zip(cache.scales.into_iter().flatten()) {
            if scale.shape() != [1] {
                shape(name, &scale.shape(), &[kv_heads])?;
            }
        }
        Ok(())
    }
}

/// The contract's problem for sizes and dtypes.
fn problem<T: Float, C: CacheElement<T>>(sizes: DecodeSizes) -> Result<Problem, ContractError> {
    let DecodeSizes { batch, kv_heads, group, head_dim, seq_k, page_size } = sizes;
    let given = [
        ("batch", batch),
        ("heads", kv_heads * group),
        ("kv_heads", kv_heads),
        ("seq_k", seq_k),
        ("head_dim", head_dim),
        ("page_size", page_size.unwrap_or(0)),
        ("f8_cache", usize::from(C::DTYPE == DType::F8E4M3FN)),
    ];
    let given: IndexMap<_, _> = given.into_iter().map(|(name, n)| (name.to_owned(), n as i64)).collect();
    DecodeAttentionContract.problem(T::DTYPE, &given)
}
