//! The `#[tile_kernel]` and `#[tile_fn]` attribute macros; use them through the crate `tile`.
//!
//! A function keeps its body as ordinary Rust over eager CPU tiles, and is recorded as a syntax tree for the
//! compiler. Mistakes are reported at the author's spans while the macro expands.

mod diagnose;
mod eager;
mod helper;
mod kernel;

use proc_macro::TokenStream;
use syn::ItemFn;

/// Makes a kernel of a function: a launch builder of the same name, a module of the same name with its `Config`,
/// and an entry in the registry.
///
/// `#[tile_kernel(tune(TILE_M in [64, 128], num_stages in [2, 3] where TILE_M <= 128))]` declares the tuning space.
/// Parameters are `Tensor<T, RANK>`, `TensorMut<T, RANK>` and the scalars `f32`, `i32`, `i64`, `usize`, `bool`;
/// generics are dtypes (`T: Float`, `T: Factor`, `T: Element`) and consts (`const TILE_M: usize`, `const CAUSAL: bool`).
#[proc_macro_attribute]
pub fn tile_kernel(attr: TokenStream, item: TokenStream) -> TokenStream {
    expand(attr, item, kernel::expand)
}

/// Makes a helper of a function, which kernels and other helpers call and the compiler inlines.
///
/// On the CPU it is an ordinary function, except that its const parameters come first among its arguments: a call
/// `scale::<f32, 64>(x)` in a kernel is `scale::<f32>(64, x)` anywhere else.
#[proc_macro_attribute]
pub fn tile_fn(attr: TokenStream, item: TokenStream) -> TokenStream {
    expand(attr, item, helper::expand)
}

fn expand(
    attr: TokenStream,
    item: TokenStream,
    with: fn(proc_macro2::TokenStream, ItemFn) -> proc_macro2::TokenStream,
) -> TokenStream {
    match syn::parse::<ItemFn>(item.clone()) {
        Ok(function) => with(attr.into(), function).into(),
        Err(error) => {
            // The item stays, so that tools still see what its author is typing.
            let mut out = TokenStream::from(error.to_compile_error());
            out.extend(item);
            out
        }
    }
}
