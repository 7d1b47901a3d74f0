//! Symbolic sizes: polynomials with integer coefficients over const parameters.

use std::collections::BTreeMap;

/// A size: a polynomial over const parameters, or a number.
///
/// Kept in normal form (no zero coefficients), so that equal polynomials compare equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dim {
    /// Coefficient of each monomial; a monomial is its sorted factors, the constant term the empty one.
    terms: BTreeMap<Vec<String>, i64>,
}

impl Dim {
    /// A number.
    pub fn constant(value: i64) -> Dim {
        let mut terms = BTreeMap::new();
        if value != 0 {
            terms.insert(Vec::new(), value);
        }
        Dim { terms }
    }

    /// A const parameter.
    pub fn symbol(name: &str) -> Dim {
        Dim { terms: BTreeMap::from([(vec![name.to_owned()], 1)]) }
    }

    /// The number, if no symbol is left.
    pub fn as_const(&self) -> Option<i64> {
        match self.terms.len() {
            0 => Some(0),
            1 => self.terms.get(&Vec::new() as &Vec<String>).copied(),
            _ => None,
        }
    }
}
