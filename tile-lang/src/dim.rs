//! Symbolic sizes: polynomials with integer coefficients over const parameters.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Add, Mul, Neg, Sub};

/// A size: a polynomial over const parameters, or a number.
///
/// Kept in normal form (no zero coefficients), so that equal polynomials compare equal; coefficients saturate. What no polynomial can
/// say, such as `cdiv(TILE_M, 32)`, is a symbol that [`Dim::is_opaque`] tells from a const parameter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dim {
    /// Coefficient of each monomial; a monomial is its sorted factors, the constant term the empty one.
    terms: BTreeMap<Vec<String>, i64>,
}

impl Dim {
    /// A number.
    pub fn constant(value: i64) -> Dim {
        Dim::from_terms([(Vec::new(), value)])
    }

    /// A const parameter, or with anything but a name an opaque size.
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

    /// True for the number 1.
    pub fn is_one(&self) -> bool {
        self.as_const() == Some(1)
    }

    /// The symbols, each once.
    pub fn symbols(&self) -> impl Iterator<Item = &str> {
        let mut names: Vec<&str> = self.terms.keys().flatten().map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter()
    }

    /// True when some part is no polynomial, so that equality with another size cannot be decided.
    pub fn is_opaque(&self) -> bool {
        self.symbols().any(|name| !name.chars().all(|c| c.is_alphanumeric() || c == '_'))
    }

    /// Replaces symbols; those that `bind` does not know stay.
    pub fn substitute(&self, bind: impl Fn(&str) -> Option<Dim>) -> Dim {
        let term = |factors: &Vec<String>, coefficient: i64| {
            factors.iter().fold(Dim::constant(coefficient), |product, name| {
                product * bind(name).unwrap_or_else(|| Dim::symbol(name))
            })
        };
        self.terms.iter().fold(Dim::constant(0), |sum, (factors, &c)| sum + term(factors, c))
    }

    /// The quotient, where `divisor` divides without remainder as a polynomial.
    pub fn exact_div(&self, divisor: &Dim) -> Option<Dim> {
        let (lead, lead_coefficient) = divisor.leading()?;
        let mut rest = self.clone();
        let mut quotient = Dim::constant(0);
        while let Some((factors, coefficient)) = rest.leading() {
            let factors = remove_factors(factors, lead)?;
            if coefficient.checked_rem(lead_coefficient)? != 0 {
                return None;
            }
            let term = Dim::from_terms([(factors, coefficient / lead_coefficient)]);
            rest = rest - term.clone() * divisor.clone();
            quotient = quotient + term;
        }
        Some(quotient)
    }

    /// The term of highest degree, the last in alphabet among those; `None` for zero.
    fn leading(&self) -> Option<(&Vec<String>, i64)> {
        self.terms.iter().max_by_key(|(factors, _)| (factors.len(), *factors)).map(|(f, &c)| (f, c))
    }

    fn from_terms(terms: impl IntoIterator<Item = (Vec<String>, i64)>) -> Dim {
        let mut out = BTreeMap::new();
        for (factors, coefficient) in terms {
            let sum: &mut i64 = out.entry(factors).or_default();
            *sum = sum.saturating_add(coefficient);
        }
        out.retain(|_, coefficient| *coefficient != 0);
        Dim { terms: out }
    }
}

/// `factors` without one occurrence of each of `removed`.
fn remove_factors(factors: &[String], removed: &[String]) -> Option<Vec<String>> {
    let mut left = factors.to_vec();
    for name in removed {
        let at = left.iter().position(|f| f == name)?;
        left.remove(at);
    }
    Some(left)
}

impl Add for Dim {
    type Output = Dim;

    fn add(self, other: Dim) -> Dim {
        Dim::from_terms(self.terms.into_iter().chain(other.terms))
    }
}

impl Neg for Dim {
    type Output = Dim;

    fn neg(self) -> Dim {
        self * Dim::constant(-1)
    }
}

impl Sub for Dim {
    type Output = Dim;

    fn sub(self, other: Dim) -> Dim {
        self + -other
    }
}

impl Mul for Dim {
    type Output = Dim;

    fn mul(self, other: Dim) -> Dim {
        let product = |(a, ca): (&Vec<String>, &i64), (b, cb): (&Vec<String>, &i64)| {
            let mut factors = [a.as_slice(), b.as_slice()].concat();
            factors.sort_unstable();
            (factors, ca.saturating_mul(*cb))
        };
        Dim::from_terms(self.terms.iter().flat_map(|a| other.terms.iter().map(move |b| product(a, b))))
    }
}

impl From<i64> for Dim {
    fn from(value: i64) -> Dim {
        Dim::constant(value)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut terms: Vec<_> = self.terms.iter().collect();
        terms.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then(a.cmp(b)));
        if terms.is_empty() {
            return f.write_str("0");
        }
        for (i, (factors, &coefficient)) in terms.into_iter().enumerate() {
            match (i, coefficient < 0) {
                (0, false) => {}
                (0, true) => f.write_str("-")?,
                (_, false) => f.write_str(" + ")?,
                (_, true) => f.write_str(" - ")?,
            }
            let size = coefficient.unsigned_abs();
            match (factors.is_empty(), size) {
                (true, _) => write!(f, "{size}")?,
                (false, 1) => f.write_str(&factors.join("*"))?,
                (false, _) => write!(f, "{size}*{}", factors.join("*"))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Dim;

    fn m() -> Dim {
        Dim::symbol("M")
    }

    fn n() -> Dim {
        Dim::symbol("N")
    }

    #[test]
    fn prints_as_people_write() {
        let d = Dim::constant(2) * m() + Dim::constant(1);
        assert_eq!(d.to_string(), "2*M + 1");
        assert_eq!((m() * n() - Dim::constant(3) * n()).to_string(), "M*N - 3*N");
        assert_eq!((m() - m()).to_string(), "0");
        assert_eq!((-m()).to_string(), "-M");
    }

    #[test]
    fn equal_polynomials_compare_equal() {
        assert_eq!((m() + n()) * (m() - n()), m() * m() - n() * n());
        assert_eq!((m() - m() + Dim::constant(4)).as_const(), Some(4));
    }

    #[test]
    fn divides_exactly_or_not_at_all() {
        assert_eq!((m() * m() - n() * n()).exact_div(&(m() + n())), Some(m() - n()));
        assert_eq!(
            (Dim::constant(6) * m() * n()).exact_div(&(Dim::constant(2) * n())),
            Some(Dim::constant(3) * m())
        );
        assert_eq!((m() + Dim::constant(1)).exact_div(&Dim::constant(2)), None);
        assert_eq!(m().exact_div(&n()), None);
        assert_eq!(m().exact_div(&Dim::constant(0)), None);
    }

    #[test]
    fn substitutes() {
        let d = Dim::constant(2) * m() * n() + n();
        let half = d.substitute(|name| (name == "M").then(|| Dim::constant(3)));
        assert_eq!(half, Dim::constant(7) * n());
    }
}
