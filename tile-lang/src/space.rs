//! Tuning spaces: the candidates a kernel declares, and the configuration used before anything was tuned.

use crate::ast::{BinaryOp, ConstKind, Expr, ExprKind, Function, TuneAxis, UnaryOp};
use crate::config::Config;
use crate::diag::Diagnostic;
use crate::nearest::nearest;
use indexmap::IndexMap;

/// Every configuration of the kernel's space in which its constraints hold, in axis order: the last axis varies
/// fastest.
///
/// `fixed` gives the const parameters that the problem decides (`HEAD_DIM`); an axis of that name is left out.
///
/// # Errors
/// What [`validate`] reports, and const parameters that neither an axis nor `fixed` gives a value.
pub fn candidates(kernel: &Function, fixed: &IndexMap<String, i64>) -> Result<Vec<Config>, Vec<Diagnostic>> {
    let mut errors = validate(kernel);
    for constant in &kernel.const_params {
        let covered = kernel.tune.axes.iter().any(|a| a.name == constant.name);
        if !covered && !fixed.contains_key(&constant.name) {
            let message = format!(
                "const parameter {} has no candidates in `tune(..)` and no value from the problem",
                constant.name
            );
            errors.push(Diagnostic::new(constant.span, message));
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut start = Config::default();
    for (name, value) in fixed {
        start.set(name, *value);
    }
    let axes: Vec<&TuneAxis> = kernel.tune.axes.iter().filter(|a| !fixed.contains_key(&a.name)).collect();
    // Each constraint thins out the configurations as soon as no later axis can change it.
    let last_read = |constraint: &Expr| axes.iter().rposition(|axis| reads(constraint, &axis.name));
    let constraints: Vec<_> = kernel.tune.constraints.iter().map(|c| (last_read(c), c)).collect();
    let thin = |configs: &mut Vec<Config>, last: Option<usize>| {
        let decided: Vec<_> = constraints.iter().filter(|(read, _)| *read == last).collect();
        configs.retain(|config| decided.iter().all(|(_, c)| is_met(c, config)));
    };
    let mut configs = vec![start];
    thin(&mut configs, None);
    for (position, axis) in axes.iter().enumerate() {
        let extend = |config: &Config| -> Vec<Config> {
            let with = |value: &i64| {
                let mut config = config.clone();
                config.set(&axis.name, *value);
                config
            };
            axis.values.iter().map(with).collect()
        };
        configs = configs.iter().flat_map(extend).collect();
        thin(&mut configs, Some(position));
    }
    Ok(configs)
}

/// The first candidate: every axis at its first value, or the nearest after it that the constraints allow.
///
/// # Errors
/// What [`candidates`] reports, and constraints that no candidate meets.
pub fn default_config(kernel: &Function, fixed: &IndexMap<String, i64>) -> Result<Config, Vec<Diagnostic>> {
    candidates(kernel, fixed)?.into_iter().next().ok_or_else(|| {
        let message =
            format!("no configuration in the tuning space of {} meets its constraints", kernel.name);
        vec![Diagnostic::new(kernel.span, message)]
    })
}

/// Whether a constraint holds for a configuration that binds all it names.
fn is_met(constraint: &Expr, config: &Config) -> bool {
    evaluate(constraint, config).is_some_and(|value| value != 0)
}

/// Whether a constraint reads an axis or const parameter.
fn reads(constraint: &Expr, name: &str) -> bool {
    match &constraint.kind {
        ExprKind::Name(read) => read == name,
        ExprKind::Binary(_, lhs, rhs) => reads(lhs, name) || reads(rhs, name),
        ExprKind::Unary(_, operand) => reads(operand, name),
        _ => false,
    }
}

/// What is wrong with a declared space, whatever the problem: unknown or repeated axes, candidates that the axis
/// cannot take, constraints over something else than axes and const parameters.
pub fn validate(kernel: &Function) -> Vec<Diagnostic> {
    let mut errors = Vec::new();
    for (i, axis) in kernel.tune.axes.iter().enumerate() {
        if kernel.tune.axes[..i].iter().any(|a| a.name == axis.name) {
            errors.push(Diagnostic::new(axis.span, format!("tuning axis {} is declared twice", axis.name)));
        }
        check_axis(kernel, axis, &mut errors);
    }
    for constraint in &kernel.tune.constraints {
        check_constraint(kernel, constraint, &mut errors);
    }
    errors
}

fn check_axis(kernel: &Function, axis: &TuneAxis, errors: &mut Vec<Diagnostic>) {
    let mut error = |message: String| errors.push(Diagnostic::new(axis.span, message));
    if axis.values.is_empty() {
        return error(format!("tuning axis {} has no candidates", axis.name));
    }
    let constant = kernel.const_params.iter().find(|c| c.name == axis.name);
    let (allowed, fits): (&str, fn(i64) -> bool) = match (constant.map(|c| c.kind), axis.name.as_str()) {
        (Some(ConstKind::Bool), _) => ("true or false", |v| v == 0 || v == 1),
        (Some(ConstKind::Size), _) => ("at least 1", |v| v >= 1),
        (None, "num_warps") => ("a power of two from 1 to 16", |v| matches!(v, 1 | 2 | 4 | 8 | 16)),
        (None, "num_stages") => ("1 to 8", |v| (1..=8).contains(&v)),
        (None, "occupancy") => ("1 to 32", |v| (1..=32).contains(&v)),
        (None, "num_ctas") => ("a power of two from 1 to 8", |v| matches!(v, 1 | 2 | 4 | 8)),
        (None, "split_tail") => ("0, 1 or 2", |v| (0..=2).contains(&v)),
        (None, name) if Config::is_switch(name) => ("0 or 1", |v| v == 0 || v == 1),
        (None, name) => {
            let names = kernel.const_params.iter().map(|c| c.name.as_str()).chain(Config::LAUNCH_OPTIONS);
            let mut diagnostic = Diagnostic::new(
                axis.span,
                format!("`{name}` is neither a const parameter of {} nor a launch option", kernel.name),
            );
            if let Some(near) = nearest(name, names) {
                diagnostic = diagnostic.help(format!("did you mean `{near}`?"));
            }
            return errors.push(diagnostic);
        }
    };
    for value in axis.values.iter().filter(|v| !fits(**v)) {
        error(format!("{value} is no candidate for {}; expected {allowed}", axis.name));
    }
}

fn check_constraint(kernel: &Function, expr: &Expr, errors: &mut Vec<Diagnostic>) {
    match &expr.kind {
        ExprKind::Int(..) | ExprKind::Bool(_) => {}
        ExprKind::Name(name) => {
            let known = kernel.const_params.iter().any(|c| c.name == *name)
                || Config::LAUNCH_OPTIONS.contains(&name.as_str());
            if !known {
                let message = format!("a constraint reads axes and const parameters; `{name}` is neither");
                errors.push(Diagnostic::new(expr.span, message));
            }
        }
        ExprKind::Binary(_, lhs, rhs) => {
            check_constraint(kernel, lhs, errors);
            check_constraint(kernel, rhs, errors);
        }
        ExprKind::Unary(_, operand) => check_constraint(kernel, operand, errors),
        _ => errors.push(Diagnostic::new(
            expr.span,
            "a constraint is made of numbers, names, arithmetic, comparison and logic",
        )),
    }
}

/// The value of a constraint; bools are 0 and 1. `None` where a name is unbound or arithmetic overflows.
fn evaluate(expr: &Expr, config: &Config) -> Option<i64> {
    match &expr.kind {
        ExprKind::Int(value, _) => Some(*value),
        ExprKind::Bool(value) => Some((*value).into()),
        ExprKind::Name(name) => config.get(name),
        ExprKind::Binary(BinaryOp::AndAnd, lhs, rhs) => match evaluate(lhs, config)? {
            0 => Some(0),
            _ => evaluate(rhs, config),
        },
        ExprKind::Binary(BinaryOp::OrOr, lhs, rhs) => match evaluate(lhs, config)? {
            0 => evaluate(rhs, config),
            _ => Some(1),
        },
        ExprKind::Binary(op, lhs, rhs) => op.fold(evaluate(lhs, config)?, evaluate(rhs, config)?),
        ExprKind::Unary(UnaryOp::Neg, operand) => evaluate(operand, config)?.checked_neg(),
        ExprKind::Unary(UnaryOp::Not, operand) => Some((evaluate(operand, config)? == 0).into()),
        _ => None,
    }
}
