//! `#[tile_kernel]`.

use crate::{diagnose, eager, helper};
use proc_macro2::{Literal, TokenStream};
use quote::{format_ident, quote};
use syn::{FnArg, Ident, ItemFn, Pat};
use tile_lang::ast::{ConstKind, ConstParam, DTypeBound, DTypeExpr, Function, FunctionKind, Param, TypeExpr};
use tile_lang::{Config, Diagnostic};

/// Expands `#[tile_kernel(..)]`.
pub fn expand(attr: TokenStream, mut item: ItemFn) -> TokenStream {
    let (function, table, parsed) = tile_lang::parse::parse_function(attr, &item, FunctionKind::Kernel);
    let clashes: Vec<_> = function.const_params.iter().filter_map(meets_launch_option).collect();
    let expands = clashes.is_empty() && function.params.len() == item.sig.inputs.len();
    let errors = diagnose::diagnose(&function, &table, [parsed, clashes].concat());
    if !expands {
        // There is no launch or configuration that could be written down; only the messages make sense.
        return errors;
    }
    if !errors.is_empty() {
        diagnose::set_aside_body(&mut item);
    }
    let parts = Parts { item: &item, function: &function };
    let (launcher, module, bodies) = (parts.launcher(), parts.module(), parts.bodies());
    quote! {
        #errors
        #launcher
        #module
        #bodies
    }
}

/// Says that a const parameter would be the field of a launch option.
fn meets_launch_option(param: &ConstParam) -> Option<Diagnostic> {
    let field = param.name.to_lowercase();
    Config::LAUNCH_OPTIONS.contains(&field.as_str()).then(|| {
        let message = format!(
            "const parameter {} would be the field `{field}` of the configuration, which is a launch option",
            param.name
        );
        Diagnostic::new(param.span, message).help("rename it, or tune the launch option itself")
    })
}

struct Parts<'a> {
    item: &'a ItemFn,
    function: &'a Function,
}

impl Parts<'_> {
    fn name(&self) -> &Ident {
        &self.item.sig.ident
    }

    /// The parameters' names as tokens of the author's.
    fn idents(&self) -> Vec<&Ident> {
        let inputs = self.item.sig.inputs.iter();
        inputs
            .filter_map(|arg| match arg {
                FnArg::Typed(typed) => match &*typed.pat {
                    Pat::Ident(ident) => Some(&ident.ident),
                    _ => None,
                },
                FnArg::Receiver(_) => None,
            })
            .collect()
    }

    fn params(&self) -> Vec<(&Ident, &Param)> {
        self.idents().into_iter().zip(&self.function.params).collect()
    }

    fn attrs(&self, doc: bool) -> Vec<&syn::Attribute> {
        self.item.attrs.iter().filter(|a| a.path().is_ident("doc") == doc).collect()
    }

    /// `pub fn matmul<'a, T: Float>(a: &'a TensorBuf<T, 2>, ..) -> matmul::Launch<'a>`.
    fn launcher(&self) -> TokenStream {
        let (name, vis) = (self.name(), &self.item.vis);
        let docs = self.attrs(true);
        let generics = eager::dtype_generics(self.item);
        let params = self.params().into_iter().map(|(ident, param)| {
            let ty = match &param.ty {
                TypeExpr::Tensor { dtype, rank, mutable } => {
                    let (element, rank) = (eager::element_type(dtype), Literal::usize_unsuffixed(*rank));
                    let mutable = mutable.then(|| quote!(mut));
                    quote!(&'tile #mutable ::tile::private::TensorBuf<#element, #rank>)
                }
                TypeExpr::Tile(dtype) | TypeExpr::Scalar(dtype) => eager::element_type(dtype),
            };
            quote!(#ident: #ty)
        });
        let args = self.params().into_iter().map(|(ident, param)| {
            let make = match &param.ty {
                TypeExpr::Tensor { mutable: false, .. } => quote!(read),
                TypeExpr::Tensor { mutable: true, .. } => quote!(write),
                _ => quote!(scalar),
            };
            quote!(::tile::private::Argument::#make(#ident))
        });
        let dtypes = self.dtype_idents().into_iter().map(|ident| {
            let text = ident.to_string();
            quote!((#text, <#ident as ::tile::private::Element>::DTYPE))
        });
        quote! {
            #(#docs)*
            #[allow(clippy::too_many_arguments)]
            #vis fn #name<'tile, #(#generics),*>(#(#params),*) -> #name::Launch<'tile> {
                #name::Launch::new([#(#args),*], [#(#dtypes),*])
            }
        }
    }

    fn dtype_idents(&self) -> Vec<&Ident> {
        self.item.sig.generics.type_params().map(|param| &param.ident).collect()
    }

    /// `pub mod matmul`: `Config`, `Launch`, `KERNEL`, `tuned`.
    fn module(&self) -> TokenStream {
        let (name, vis) = (self.name(), &self.item.vis);
        let text = name.to_string();
        let json = helper::json(self.function);
        let config = self.config();
        let tuned = self.tuned();
        let arg_count = Literal::usize_unsuffixed(self.function.params.len());
        let dtype_count = Literal::usize_unsuffixed(self.function.dtype_params.len());
        let module_doc = format!("Configuration and launch of the kernel [`fn@{name}`].");
        quote! {
            #[doc = #module_doc]
            #[allow(dead_code, clippy::too_many_arguments)]
            #vis mod #name {
                #config

                /// The kernel with its arguments, about to be launched.
                pub type Launch<'tile> = ::tile::private::Launch<'tile, Config, #arg_count, #dtype_count>;

                /// Carries the kernel's body.
                #[doc(hidden)]
                pub struct Kernel;

                /// The recorded kernel.
                pub static KERNEL: ::tile::private::KernelDef = ::tile::private::KernelDef::new(
                    #text,
                    ::core::module_path!(),
                    #json,
                    <Kernel as ::tile::private::KernelBody>::helpers,
                    <Kernel as ::tile::private::KernelBody>::run,
                );

                ::tile::private::inventory::submit! { ::tile::private::KernelEntry(&KERNEL) }

                #tuned
            }
        }
    }

    /// The const parameters' fields and the launch options.
    fn config(&self) -> TokenStream {
        let consts = &self.function.const_params;
        let fields: Vec<Ident> = consts.iter().map(field).collect();
        let names: Vec<&str> = consts.iter().map(|c| c.name.as_str()).collect();
        let docs = consts.iter().map(|c| self.candidates(&c.name));
        let types = consts.iter().map(|c| match c.kind {
            ConstKind::Size => quote!(::core::primitive::usize),
            ConstKind::Bool => quote!(::core::primitive::bool),
        });
        let reads = consts.iter().map(|c| {
            let name = &c.name;
            match c.kind {
                ConstKind::Size => quote!(config.get(#name).unwrap_or(0) as ::core::primitive::usize),
                ConstKind::Bool => quote!(config.get(#name).unwrap_or(0) != 0),
            }
        });
        let sink = own("sink");
        let doc = format!("Tile sizes and launch options of [`fn@super::{}`].", self.name());
        quote! {
            #[doc = #doc]
            ///
            /// The default takes the first candidate of each tuned parameter that the constraints allow; a const
            /// parameter that is not tuned is 0 or false, and to be set.
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
            pub struct Config {
                #(#[doc = #docs] pub #fields: #types,)*
                /// Warps of a CTA: 1, 2, 4, 8 or 16. Without meaning on the CPU.
                pub num_warps: ::core::primitive::u32,
                /// Buffers of a pipelined load. Without meaning on the CPU.
                pub num_stages: ::core::primitive::u32,
                /// CTAs to fit on one SM. Without meaning on the CPU.
                pub occupancy: ::core::primitive::u32,
                /// CTAs of a cluster. Without meaning on the CPU.
                pub num_ctas: ::core::primitive::u32,
                /// Whether copies may have a warp of their own, on targets where that helps.
                pub warp_specialize: ::core::primitive::bool,
                /// Whether masks are applied only in those iterations of a loop that need them.
                pub split_masks: ::core::primitive::bool,
                /// Whether warpgroups take turns at the tensor cores, on targets that have warpgroups.
                pub ping_pong: ::core::primitive::bool,
                /// Whether blocks are stored as bulk copies out of shared memory, on targets that have them.
                pub bulk_stores: ::core::primitive::bool,
                /// Whether as many CTAs as are resident at once walk over all programs.
                pub persistent: ::core::primitive::bool,
                /// Whether f32 operands may go to `wgmma`, rounded to tf32 by the tensor maps that copy them.
                pub tf32_wgmma: ::core::primitive::bool,
                /// Whether a product whose lhs is computed in registers is taken in halves, the lhs of each of which is
                /// computed while the other runs.
                pub compute_ahead: ::core::primitive::bool,
                /// Whether what a launch reads once leaves L2 first.
                pub stream_loads: ::core::primitive::bool,
                /// 1 where CTAs that walk over programs split the sums of those that do not fill a round, 2 where they
                /// share out the sums of the last whole round with them (stream-K).
                pub split_tail: ::core::primitive::u32,
                /// The SM that it was tuned for, such as `sm_90`; a launch on another one refuses it.
                pub tuned_for: ::core::option::Option<&'static ::core::primitive::str>,
            }

            impl ::core::default::Default for Config {
                fn default() -> Self {
                    ::tile::private::TypedConfig::from_config(KERNEL.first_config())
                }
            }

            impl ::tile::private::TypedConfig for Config {
                fn kernel() -> &'static ::tile::private::KernelDef {
                    &KERNEL
                }

                fn to_config(self) -> ::tile::private::Config {
                    let mut config = ::tile::private::Config {
                        num_warps: self.num_warps,
                        num_stages: self.num_stages,
                        occupancy: self.occupancy,
                        num_ctas: self.num_ctas,
                        warp_specialize: self.warp_specialize,
                        split_masks: self.split_masks,
                        ping_pong: self.ping_pong,
                        bulk_stores: self.bulk_stores,
                        persistent: self.persistent,
                        tf32_wgmma: self.tf32_wgmma,
                        compute_ahead: self.compute_ahead,
                        stream_loads: self.stream_loads,
                        split_tail: self.split_tail,
                        tuned_for: self.tuned_for,
                        ..::core::default::Default::default()
                    };
                    #(config.set(#names, self.#fields as ::core::primitive::i64);)*
                    config
                }

                fn values(&self, mut #sink: impl ::core::ops::FnMut(::core::primitive::u64)) {
                    // Every field: one that is left out does not compile.
                    let Config {
                        #(#fields,)* num_warps, num_stages, occupancy, num_ctas, warp_specialize, split_masks, ping_pong,
                        bulk_stores, persistent, tf32_wgmma, compute_ahead, stream_loads, split_tail,
                        tuned_for
                    } = *self;
                    #(#sink(#fields as ::core::primitive::u64);)*
                    for option in [num_warps, num_stages, occupancy, num_ctas, split_tail] {
                        #sink(option.into());
                    }
                    for switch in [
                        warp_specialize, split_masks, ping_pong, bulk_stores, persistent, tf32_wgmma, compute_ahead,
                        stream_loads,
                    ] {
                        #sink(switch.into());
                    }
                    #sink(tuned_for.map_or(0, |name| name.as_ptr().addr() as ::core::primitive::u64));
                }

                fn from_config(config: &::tile::private::Config) -> Self {
                    Config {
                        #(#fields: #reads,)*
                        num_warps: config.num_warps,
                        num_stages: config.num_stages,
                        occupancy: config.occupancy,
                        num_ctas: config.num_ctas,
                        warp_specialize: config.warp_specialize,
                        split_masks: config.split_masks,
                        ping_pong: config.ping_pong,
                        bulk_stores: config.bulk_stores,
                        persistent: config.persistent,
                        tf32_wgmma: config.tf32_wgmma,
                        compute_ahead: config.compute_ahead,
                        stream_loads: config.stream_loads,
                        split_tail: config.split_tail,
                        tuned_for: config.tuned_for,
                    }
                }
            }
        }
    }

    /// One line about a const parameter.
    fn candidates(&self, name: &str) -> String {
        match self.function.tune.axes.iter().find(|axis| axis.name == name) {
            Some(axis) => {
                let values: Vec<_> = axis.values.iter().map(i64::to_string).collect();
                format!("`{name}`; tuned over {}.", values.join(", "))
            }
            None => format!("`{name}`; not tuned."),
        }
    }

    /// `fn tuned(device, inputs..)`.
    fn tuned(&self) -> TokenStream {
        let inputs: Vec<_> = self
            .params()
            .into_iter()
            .filter_map(|(ident, param)| match &param.ty {
                TypeExpr::Tensor { dtype, rank, mutable: false } => Some((ident, dtype, *rank)),
                _ => None,
            })
            .collect();
        let generics: Vec<_> = self
            .dtype_idents()
            .into_iter()
            .zip(&self.function.dtype_params)
            .filter(|(_, p)| inputs.iter().any(|i| *i.1 == DTypeExpr::Param(p.name.clone())))
            .map(|(ident, param)| {
                let bound = bound(param.bound);
                quote!(#ident: #bound)
            })
            .collect();
        let params = inputs.iter().map(|(ident, dtype, rank)| {
            let (element, rank) = (eager::element_type(dtype), Literal::usize_unsuffixed(*rank));
            quote!(#ident: &::tile::private::TensorBuf<#element, #rank>)
        });
        let descriptions = inputs.iter().map(|(ident, ..)| {
            let name = ident.to_string();
            quote!(::tile::private::InputDesc {
                name: #name,
                dtype: #ident.dtype(),
                shape: #ident.shape().to_vec(),
            })
        });
        let device = own("device");
        quote! {
            /// The configuration that the tables hold for these inputs on this device, or the default.
            ///
            /// # Errors
            /// When the tables hold one that does not fit the kernel.
            pub fn tuned<#(#generics),*>(
                #device: &::tile::Device,
                #(#params),*
            ) -> ::core::result::Result<Config, ::tile::private::LaunchError> {
                let found = ::tile::private::tuned(&KERNEL, #device, &[#(#descriptions),*])?;
                ::core::result::Result::Ok(::tile::private::TypedConfig::from_config(&found))
            }
        }
    }

    /// The eager body, and its dispatch over the dtypes that the bounds allow.
    fn bodies(&self) -> TokenStream {
        let (name, params) = (self.name(), self.item.sig.inputs.iter());
        let attrs = self.attrs(false);
        let generics = eager::dtype_generics(self.item);
        let consts = eager::const_arguments(self.function, self.item);
        let body = eager::body(self.item, self.function);
        let helpers = helper::helper_list(self.item);
        let start = match self.dtype_idents().is_empty() {
            true => quote!(#name::Kernel::__typed(call)),
            false => quote!(#name::Kernel::__dispatch_0(call)),
        };
        let dispatch = (0..self.dtype_idents().len()).map(|i| self.dispatch(i));
        let typed = self.typed();
        quote! {
            #[doc(hidden)]
            #[allow(non_snake_case, dead_code, clippy::too_many_arguments)]
            impl #name::Kernel {
                #(#attrs)*
                fn __body<#(#generics),*>(#(#params,)* #(#consts),*) #body

                #typed
                #(#dispatch)*
            }

            #[doc(hidden)]
            impl ::tile::private::KernelBody for #name::Kernel {
                #helpers

                fn run(
                    call: &::tile::private::EagerCall<'_>,
                ) -> ::core::result::Result<(), ::tile::private::LaunchError> {
                    #start
                }
            }
        }
    }

    /// Chooses the type of dtype parameter `i`, those before it being chosen.
    fn dispatch(&self, i: usize) -> TokenStream {
        let idents = self.dtype_idents();
        let params = &self.function.dtype_params;
        let known = idents[..i].iter().zip(params).map(|(ident, param)| {
            let bound = bound(param.bound);
            quote!(#ident: #bound)
        });
        let (this, before) = (format_ident!("__dispatch_{i}"), &idents[..i]);
        let next = if i + 1 == idents.len() {
            format_ident!("__typed")
        } else {
            format_ident!("__dispatch_{}", i + 1)
        };
        let text = &params[i].name;
        let arms = params[i].bound.dtypes().iter().map(|&dtype| {
            let variant = format_ident!("{dtype:?}");
            let ty = eager::known_type(dtype);
            quote! {
                ::core::option::Option::Some(::tile::private::DType::#variant) => {
                    Self::#next::<#(#before,)* #ty>(call)
                }
            }
        });
        quote! {
            fn #this<#(#known),*>(
                call: &::tile::private::EagerCall<'_>,
            ) -> ::core::result::Result<(), ::tile::private::LaunchError> {
                match call.dtype(#text) {
                    #(#arms)*
                    _ => ::core::result::Result::Err(call.refuse_dtype(#text)),
                }
            }
        }
    }

    /// Unpacks the arguments and runs the grid.
    fn typed(&self) -> TokenStream {
        let call = own("call");
        let idents = self.dtype_idents();
        let generics = idents.iter().zip(&self.function.dtype_params).map(|(ident, param)| {
            let bound = bound(param.bound);
            quote!(#ident: #bound)
        });
        let names = self.idents();
        let lets = self.params().into_iter().enumerate().map(|(i, (ident, param))| {
            let index = Literal::usize_unsuffixed(i);
            match &param.ty {
                TypeExpr::Tensor { dtype, rank, mutable } => {
                    let (element, rank) = (eager::element_type(dtype), Literal::usize_unsuffixed(*rank));
                    let method = if *mutable { quote!(tensor_mut) } else { quote!(tensor) };
                    quote!(let #ident = #call.#method::<#element, #rank>(#index);)
                }
                TypeExpr::Tile(dtype) | TypeExpr::Scalar(dtype) => {
                    let ty = eager::element_type(dtype);
                    quote!(let #ident = #call.scalar::<#ty>(#index);)
                }
            }
        });
        let consts = self.function.const_params.iter().map(|param| {
            let name = &param.name;
            match param.kind {
                ConstKind::Size => quote!(#call.size(#name)),
                ConstKind::Bool => quote!(#call.flag(#name)),
            }
        });
        let fresh: Vec<Ident> =
            (0..self.function.const_params.len()).map(|i| format_ident!("__const_{i}")).collect();
        quote! {
            fn __typed<#(#generics),*>(
                #call: &::tile::private::EagerCall<'_>,
            ) -> ::core::result::Result<(), ::tile::private::LaunchError> {
                #(#lets)*
                #(let #fresh = #consts;)*
                #call.run(|| Self::__body::<#(#idents),*>(#(#names,)* #(#fresh),*))
            }
        }
    }
}

/// A local of the expansion's own, which no name of the author's can meet.
fn own(name: &str) -> Ident {
    Ident::new(name, proc_macro2::Span::mixed_site())
}

/// The trait behind a bound.
fn bound(bound: DTypeBound) -> TokenStream {
    match bound {
        DTypeBound::Float => quote!(::tile::private::Float),
        DTypeBound::Factor => quote!(::tile::private::Factor),
        DTypeBound::Element => quote!(::tile::private::Element),
    }
}

/// The field of a const parameter.
fn field(param: &ConstParam) -> Ident {
    let lower = param.name.to_lowercase();
    syn::parse_str(&lower).unwrap_or_else(|_| format_ident!("r#{lower}"))
}
