//! Values that depend on const parameters alone.

use crate::ast::BinaryOp;
use crate::dim::Dim;

/// A binary operation on const values; what no polynomial can say becomes an opaque symbol.
pub(super) fn binary(op: BinaryOp, a: Option<&Dim>, b: Option<&Dim>) -> Option<Dim> {
    let (a, b) = (a?, b?);
    match op {
        BinaryOp::Add => return Some(a.clone() + b.clone()),
        BinaryOp::Sub => return Some(a.clone() - b.clone()),
        BinaryOp::Mul => return Some(a.clone() * b.clone()),
        _ => {}
    }
    if let (Some(a), Some(b)) = (a.as_const(), b.as_const()) {
        return op.fold(a, b).map(Dim::constant);
    }
    match op {
        BinaryOp::Div => {
            if let Some(quotient) = a.exact_div(b) {
                return Some(quotient);
            }
        }
        BinaryOp::Eq | BinaryOp::Le | BinaryOp::Ge if a == b => return Some(Dim::constant(1)),
        BinaryOp::Ne | BinaryOp::Lt | BinaryOp::Gt if a == b => return Some(Dim::constant(0)),
        _ => {}
    }
    Some(Dim::symbol(&format!("({} {} {})", a, symbol(op), b)))
}

/// A named function of const values: its number, or an opaque symbol.
pub(super) fn function(
    name: &str,
    args: &[Option<&Dim>],
    numbers: impl FnOnce(&[i64]) -> Option<i64>,
) -> Option<Dim> {
    let args: Vec<&Dim> = args.iter().copied().collect::<Option<_>>()?;
    match args.iter().map(|a| a.as_const()).collect::<Option<Vec<_>>>() {
        Some(values) => numbers(&values).map(Dim::constant),
        None => {
            let args: Vec<_> = args.iter().map(|a| a.to_string()).collect();
            Some(Dim::symbol(&format!("{name}({})", args.join(", "))))
        }
    }
}

/// How the source writes an operator.
pub(super) fn symbol(op: BinaryOp) -> &'static str {
    match op {
        BinaryOp::Add => "+",
        BinaryOp::Sub => "-",
        BinaryOp::Mul => "*",
        BinaryOp::Div => "/",
        BinaryOp::Rem => "%",
        BinaryOp::And => "&",
        BinaryOp::Or => "|",
        BinaryOp::Xor => "^",
        BinaryOp::Shl => "<<",
        BinaryOp::Shr => ">>",
        BinaryOp::Eq => "==",
        BinaryOp::Ne => "!=",
        BinaryOp::Lt => "<",
        BinaryOp::Le => "<=",
        BinaryOp::Gt => ">",
        BinaryOp::Ge => ">=",
        BinaryOp::AndAnd => "&&",
        BinaryOp::OrOr => "||",
    }
}
