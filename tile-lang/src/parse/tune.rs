//! The attribute: `tune(TILE_M in [64, 128], num_stages in [2, 3] where TILE_M <= 64, ..)`.

use super::Parser;
use crate::ast::{TuneAxis, TuneSpace};
use proc_macro2::{Ident, TokenStream};
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Expr, Lit, Token};

/// The attribute as `syn` reads it.
struct Attribute {
    axes: Vec<Axis>,
    constraints: Vec<Expr>,
}

/// `TILE_M in [64, 128]`.
struct Axis {
    name: Ident,
    values: Punctuated<Lit, Token![,]>,
}

impl Parse for Axis {
    fn parse(input: ParseStream) -> syn::Result<Self> {
        let name = input.parse()?;
        input.parse::<Token![in]>()?;
        let list;
        syn::bracketed!(list in input);
        Ok(Axis { name, values: list.parse_terminated(Lit::parse, Token![,])? })
    }
}

impl Parse for Attribute {
    fn parse(input: ParseStream) -> syn::Result<Self> {
        let mut attribute = Attribute { axes: Vec::new(), constraints: Vec::new() };
        if input.is_empty() {
            return Ok(attribute);
        }
        let word: Ident = input.parse()?;
        if word != "tune" {
            let message = format!(
                "unknown argument `{word}` of #[tile_kernel]; expected `tune(NAME in [candidates], ..)`"
            );
            return Err(syn::Error::new(word.span(), message));
        }
        let body;
        syn::parenthesized!(body in input);
        while body.peek(syn::Ident) {
            attribute.axes.push(body.parse()?);
            if body.is_empty() || body.peek(Token![where]) {
                break;
            }
            body.parse::<Token![,]>()?;
        }
        if body.peek(Token![where]) {
            body.parse::<Token![where]>()?;
            let constraints = body.parse_terminated(Expr::parse, Token![,])?;
            attribute.constraints = constraints.into_iter().collect();
        }
        if !body.is_empty() {
            return Err(body.error("expected `NAME in [candidates]` or `where condition, ..`"));
        }
        input.parse::<Option<Token![,]>>()?;
        if !input.is_empty() {
            return Err(input.error("expected nothing after `tune(..)`"));
        }
        Ok(attribute)
    }
}

impl Parser {
    /// Reads the attribute's tokens.
    pub(super) fn tune_space(&mut self, attr: TokenStream) -> TuneSpace {
        let attribute = match syn::parse2::<Attribute>(attr) {
            Ok(attribute) => attribute,
            Err(error) => {
                let span = self.record(error.span(), error.span());
                let help = "write `tune(TILE_M in [64, 128], num_stages in [2, 3] where TILE_M <= 64)`";
                self.diagnostics.push(crate::Diagnostic::new(span, error.to_string()).help(help));
                return TuneSpace::default();
            }
        };
        let axes = attribute.axes.iter().map(|axis| self.tune_axis(axis)).collect();
        TuneSpace { axes, constraints: attribute.constraints.iter().map(|c| self.expr(c)).collect() }
    }

    fn tune_axis(&mut self, axis: &Axis) -> TuneAxis {
        let mut values = Vec::new();
        for value in &axis.values {
            match value {
                Lit::Int(int) => match int.base10_parse() {
                    Ok(number) => values.push(number),
                    Err(_) => self.error(value, format!("{int} is too large for a candidate")),
                },
                Lit::Bool(flag) => values.push(flag.value.into()),
                _ => self.error(value, "a candidate is an integer, `true` or `false`"),
            }
        }
        TuneAxis { name: axis.name.to_string(), values, span: self.span(&axis.name) }
    }
}
