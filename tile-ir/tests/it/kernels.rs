//! Kernels in source form, and what makes modules of them.

use proc_macro2::TokenStream;
use std::str::FromStr;
use tile_ir::{Module, TileContext, lower_program};
use tile_lang::ast::FunctionKind;
use tile_lang::config::TensorFacts;
use tile_lang::parse::parse_function;
use tile_lang::typed::{ParamKind, Program};
use tile_lang::{Bindings, DType, Library, Mode};

/// Attention with an online softmax, causal or full.
pub const FMHA: &str = "
#[tile_kernel]
pub fn fmha<T: Float, const HEAD_DIM: usize, const TILE_M: usize, const TILE_N: usize, const CAUSAL: bool>(
    q: Tensor<T, 4>, k: Tensor<T, 4>, v: Tensor<T, 4>, out: TensorMut<T, 4>, scale: f32,
) {
    let m = program_id(0);
    let head = program_id(1);
    let batch = program_id(2);
    let kv_head = head / (q.dim(1) / k.dim(1));
    let seq_k = k.dim(2) as i32;
    let offset = seq_k - q.dim(2) as i32;
    let scale_log2 = scale * std::f32::consts::LOG2_E;
    let queries = q.load([batch, head, m, 0], [1, 1, TILE_M, HEAD_DIM]).reshape([TILE_M, HEAD_DIM]);
    let last_key = full::<i32>([TILE_M, 1], seq_k - 1);
    let place = (iota(TILE_M) + ((m * TILE_M) as i32 + offset)).expand_dims(1);
    let limit = if CAUSAL { minimum(place, last_key) } else { last_key };
    let end = if CAUSAL { (((m + 1) * TILE_M) as i32 + offset).min(seq_k).max(0) } else { seq_k };
    let mut row_max = full::<f32>([TILE_M, 1], f32::NEG_INFINITY);
    let mut row_sum = zeros::<f32>([TILE_M, 1]);
    let mut acc = zeros::<f32>([TILE_M, HEAD_DIM]);
    for j in 0..cdiv(end as usize, TILE_N) {
        let keys = k.load([batch, kv_head, j, 0], [1, 1, TILE_N, HEAD_DIM]).reshape([TILE_N, HEAD_DIM]);
        let dots = mma(queries, keys.t(), zeros::<f32>([TILE_M, TILE_N]));
        let cols = (iota(TILE_N) + (j * TILE_N) as i32).expand_dims(0);
        let hidden = full::<f32>([TILE_M, TILE_N], f32::NEG_INFINITY);
        let scores = select(cols.le(limit), dots * scale_log2, hidden);
        let new_max = maximum(row_max, scores.reduce_max(1));
        let base = select(new_max.eq(f32::NEG_INFINITY), zeros::<f32>([TILE_M, 1]), new_max);
        let weights = (scores - base).exp2();
        let rescale = (row_max - base).exp2();
        row_sum = row_sum * rescale + weights.reduce_sum(1);
        let values = v.load([batch, kv_head, j, 0], [1, 1, TILE_N, HEAD_DIM]).reshape([TILE_N, HEAD_DIM]);
        acc = mma(weights.cast::<T>(), values, acc * rescale);
        row_max = new_max;
    }
    let total = select(row_sum.eq(0.0), full::<f32>([TILE_M, 1], 1.0), row_sum);
    let result = (acc / total).cast::<T>().reshape([1, 1, TILE_M, HEAD_DIM]);
    out.store([batch, head, m, 0], result);
}";

/// Checks the last function of `source`, whose helpers are those before it, with everything bound.
pub fn program(source: &str, consts: &[(&str, i64)], dtype: DType) -> Program {
    let tokens = TokenStream::from_str(source).expect("Rust tokens");
    let file: syn::File = syn::parse2(tokens).expect("Rust items");
    let mut functions: Vec<_> = file
        .items
        .into_iter()
        .map(|item| {
            let syn::Item::Fn(mut item) = item else { panic!("expected functions only") };
            let is_kernel = std::mem::take(&mut item.attrs).iter().any(|a| a.path().is_ident("tile_kernel"));
            let kind = if is_kernel { FunctionKind::Kernel } else { FunctionKind::Helper };
            let (mut function, _, diagnostics) = parse_function(TokenStream::new(), &item, kind);
            assert!(diagnostics.is_empty(), "{diagnostics:#?}");
            function.file = "kernel.rs".to_owned();
            function
        })
        .collect();
    let mut library = Library::new(functions.pop().expect("a function"));
    for helper in functions {
        let name = helper.name.clone();
        library.add(0, &name, helper);
    }
    let bindings = Bindings {
        consts: consts.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
        dtypes: [("T".to_owned(), dtype)].into_iter().collect(),
    };
    library.check(&bindings, Mode::Bound).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

/// Lowers a checked program with aligned tensors.
pub fn lower<'c>(context: &'c TileContext, program: &Program) -> Module<'c> {
    let tensors = program.params.iter().filter(|p| matches!(p.kind, ParamKind::Tensor { .. })).count();
    lower_program(program, &vec![TensorFacts::ALIGNED; tensors], context).expect("a checked program lowers")
}
