//! Signatures and types.

use super::{Parser, text};
use crate::ast::{
    ConstKind, ConstParam, DTypeBound, DTypeExpr, DTypeParam, Function, FunctionKind, Param, TuneSpace,
    TypeExpr,
};
use crate::nearest;
use proc_macro2::TokenStream;
use syn::{
    Expr, FnArg, GenericArgument, GenericParam, ItemFn, Lit, Pat, PathArguments, ReturnType, Type,
    TypeParamBound,
};

const TYPES: &str = "Tensor<T, RANK>, TensorMut<T, RANK>, Tile<T>, f32, i32, i64, usize or bool";

impl Parser {
    /// Reads the whole function.
    pub(super) fn function(&mut self, attr: TokenStream, item: &ItemFn, kind: FunctionKind) -> Function {
        self.refuse_qualifiers(item);
        let (dtype_params, const_params) = self.generics(item);
        let params = item.sig.inputs.iter().filter_map(|input| self.param(input, kind)).collect();
        let returns = self.returns(item, kind);
        let tune = match kind {
            FunctionKind::Kernel => self.tune_space(attr),
            FunctionKind::Helper => {
                if !attr.is_empty() {
                    self.error(&attr, "#[tile_fn] takes no arguments; a tuning space belongs to a kernel");
                }
                TuneSpace::default()
            }
        };
        Function {
            name: item.sig.ident.to_string(),
            file: item.sig.ident.span().file(),
            kind,
            dtype_params,
            const_params,
            params,
            returns,
            body: self.block(&item.block),
            tune,
            span: self.span(&item.sig),
        }
    }

    /// `async`, `extern` and the like mean nothing on a GPU.
    fn refuse_qualifiers(&mut self, item: &ItemFn) {
        let sig = &item.sig;
        let words: [(&dyn quote::ToTokens, bool, &str); 5] = [
            (&sig.constness, sig.constness.is_some(), "const"),
            (&sig.asyncness, sig.asyncness.is_some(), "async"),
            (&sig.unsafety, sig.unsafety.is_some(), "unsafe"),
            (&sig.abi, sig.abi.is_some(), "extern"),
            (&sig.variadic, sig.variadic.is_some(), "variadic"),
        ];
        for (tokens, present, word) in words {
            if present {
                self.error(&tokens.to_token_stream(), format!("a tile function cannot be `{word}`"));
            }
        }
    }

    fn generics(&mut self, item: &ItemFn) -> (Vec<DTypeParam>, Vec<ConstParam>) {
        let (mut dtypes, mut consts) = (Vec::new(), Vec::new());
        if let Some(clause) = &item.sig.generics.where_clause {
            self.error_help(
                clause,
                "a tile function cannot have a where clause",
                "write the bound at the parameter: `T: Float`",
            );
        }
        for param in &item.sig.generics.params {
            match param {
                GenericParam::Lifetime(_) => {
                    self.error(
                        param,
                        "a tile function has no lifetime parameters; tensors are passed by value",
                    );
                }
                GenericParam::Type(ty) => {
                    let name = ty.ident.to_string();
                    let bound = self.bound(ty);
                    self.dtype_params.push(name.clone());
                    let span = self.span(&ty.ident);
                    dtypes.push(DTypeParam { name, bound, span });
                }
                GenericParam::Const(param) => {
                    let kind = match text(&param.ty).as_str() {
                        "usize" => ConstKind::Size,
                        "bool" => ConstKind::Bool,
                        other => {
                            self.error(
                                &param.ty,
                                format!(
                                    "const parameter `{}` is `{other}`; expected `usize` or `bool`",
                                    param.ident
                                ),
                            );
                            ConstKind::Size
                        }
                    };
                    let span = self.span(&param.ident);
                    consts.push(ConstParam { name: param.ident.to_string(), kind, span });
                }
            }
        }
        (dtypes, consts)
    }

    fn bound(&mut self, ty: &syn::TypeParam) -> DTypeBound {
        let names: Vec<_> = ty
            .bounds
            .iter()
            .map(|bound| match bound {
                TypeParamBound::Trait(t) => t.path.segments.last().map(|s| s.ident.to_string()),
                _ => None,
            })
            .collect();
        match names.as_slice() {
            [Some(name)] if name == "Float" => DTypeBound::Float,
            [Some(name)] if name == "Factor" => DTypeBound::Factor,
            [Some(name)] if name == "Element" => DTypeBound::Element,
            _ => {
                self.error(
                    ty,
                    format!(
                        "dtype parameter `{}` needs one bound: `Float` (f32, f16, bf16), `Factor` (those and f8E4M3FN) \
                         or `Element` (every dtype)",
                        ty.ident
                    ),
                );
                DTypeBound::Element
            }
        }
    }

    fn param(&mut self, input: &FnArg, kind: FunctionKind) -> Option<Param> {
        let FnArg::Typed(arg) = input else {
            self.error(input, "a tile function cannot be a method");
            return None;
        };
        let Pat::Ident(ident) = &*arg.pat else {
            self.error(&arg.pat, "a parameter is a plain name");
            return None;
        };
        if let Some(mutable) = &ident.mutability {
            let name = &ident.ident;
            self.error_help(
                mutable,
                format!("parameter `{name}` cannot be `mut`"),
                format!("copy it in the body: `let mut {name} = {name};`"),
            );
        }
        let ty = self.type_expr(&arg.ty)?;
        if kind == FunctionKind::Kernel && matches!(ty, TypeExpr::Tile(_)) {
            self.error_help(
                &arg.ty,
                format!("kernel parameter `{}` is a Tile; a kernel takes tensors and scalars", ident.ident),
                "take a `Tensor` and load the tile from it",
            );
        }
        Some(Param { name: ident.ident.to_string(), ty, span: self.span(&ident.ident) })
    }

    fn returns(&mut self, item: &ItemFn, kind: FunctionKind) -> Vec<TypeExpr> {
        let ReturnType::Type(_, ty) = &item.sig.output else { return Vec::new() };
        let types: Vec<&Type> = match &**ty {
            Type::Tuple(tuple) => tuple.elems.iter().collect(),
            other => vec![other],
        };
        if kind == FunctionKind::Kernel && !types.is_empty() {
            self.error_help(
                ty,
                format!("a kernel returns nothing; found `{}`", text(ty)),
                "store results to a `TensorMut` parameter",
            );
            return Vec::new();
        }
        types.into_iter().filter_map(|t| self.type_expr(t)).collect()
    }

    /// Reads a type; reports one the language does not have.
    pub(super) fn type_expr(&mut self, ty: &Type) -> Option<TypeExpr> {
        let found = text(ty);
        let path = match ty {
            Type::Path(p) if p.qself.is_none() => &p.path,
            Type::Paren(inner) => return self.type_expr(&inner.elem),
            Type::Group(inner) => return self.type_expr(&inner.elem),
            _ => {
                self.error(ty, format!("a tile function cannot use the type `{found}`; expected {TYPES}"));
                return None;
            }
        };
        let segment = path.segments.last()?;
        let name = segment.ident.to_string();
        let args: Vec<&GenericArgument> = match &segment.arguments {
            PathArguments::AngleBracketed(list) => list.args.iter().collect(),
            _ => Vec::new(),
        };
        match (name.as_str(), args.as_slice()) {
            ("Tensor" | "TensorMut", [element, rank]) => {
                let dtype = self.element(element);
                let rank = self.rank(rank);
                Some(TypeExpr::Tensor { dtype: dtype?, rank: rank?, mutable: name == "TensorMut" })
            }
            ("Tensor" | "TensorMut", _) => {
                self.error(ty, format!("`{name}` takes an element type and a rank: `{name}<f32, 2>`"));
                None
            }
            ("Tile", [element]) => self.element(element).map(TypeExpr::Tile),
            ("Tile", _) => {
                self.error(ty, "`Tile` takes an element type: `Tile<f32>`");
                None
            }
            (scalar, []) if self.dtype(scalar).is_some() => self.dtype(scalar).map(TypeExpr::Scalar),
            _ => {
                let known = ["Tensor", "TensorMut", "Tile", "f32", "i32", "i64", "usize", "bool"];
                let message = format!("a tile function cannot use the type `{found}`; expected {TYPES}");
                match nearest(&name, known) {
                    Some(near) => self.error_help(ty, message, format!("did you mean `{near}`?")),
                    None => self.error(ty, message),
                }
                None
            }
        }
    }

    fn element(&mut self, arg: &GenericArgument) -> Option<DTypeExpr> {
        if let GenericArgument::Type(ty) = arg
            && let Some(dtype) = self.dtype_of_type(ty)
        {
            return Some(dtype);
        }
        let found = text(arg);
        self.error(
            arg,
            format!(
                "`{found}` is no element type; expected a dtype parameter or f32, f16, bf16, i32, bool, F8E4M3FN, F4E2M1FN"
            ),
        );
        None
    }

    /// The dtype a type names.
    pub(super) fn dtype_of_type(&self, ty: &Type) -> Option<DTypeExpr> {
        match ty {
            Type::Path(p) if p.qself.is_none() => {
                let segment = p.path.segments.last()?;
                segment.arguments.is_none().then(|| self.dtype(&segment.ident.to_string()))?
            }
            Type::Paren(inner) => self.dtype_of_type(&inner.elem),
            Type::Group(inner) => self.dtype_of_type(&inner.elem),
            _ => None,
        }
    }

    fn rank(&mut self, arg: &GenericArgument) -> Option<usize> {
        if let GenericArgument::Const(Expr::Lit(lit)) = arg
            && let Lit::Int(int) = &lit.lit
            && let Ok(rank @ 1..=8) = int.base10_parse()
        {
            return Some(rank);
        }
        let found = text(arg);
        self.error(arg, format!("a tensor's rank is a number from 1 to 8; found `{found}`"));
        None
    }
}
