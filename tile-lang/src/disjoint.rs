//! Whether two programs of a launch can write one element.
//!
//! Store indices are read as sums of invariant multiples of *atoms*: program ids, loop variables, `iota` lanes,
//! quotients and remainders. From the place that a store writes, the analysis recovers what atoms it can:
//!
//! - `c * x + invariant` with a number `c != 0` gives `x`;
//! - `x + c * (..)` with `x` in `0..r` and `r` dividing `c` gives `x` and the rest (mixed radix);
//! - `x / n` together with `x % n` gives `x`.
//!
//! A place in a slice is counted from the tensor's own start, so where a slice starts takes part.
//!
//! Where a program is the last of those that arrived at a counter, the axes that the counter's index does not give
//! back do not matter: one program of those that differ along them alone is there. What it loads was stored before
//! it, if by programs of its own counter.
//!
//! A grid axis whose id every store gives back is proved: programs that differ there write different elements. Any
//! other axis must have extent 1 for the launch to be safe.

use crate::ast::{BinaryOp, UnaryOp};
use crate::diag::Span;
use crate::dim::Dim;
use crate::typed::{Expr, ExprKind, ParamId, ParamKind, Program, Stmt, Type, VarId, View};
use std::collections::{BTreeMap, BTreeSet};

/// A grid axis on which the stores of a kernel are not proved disjoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unproved {
    /// The axis, 0 to 2.
    pub axis: usize,
    /// The access that does not tell programs along the axis apart.
    pub span: Span,
    /// Why, in the words of the source.
    pub reason: String,
}

/// The grid axes that must have extent 1 for the stores of a kernel to be disjoint: none when every launch is safe.
pub fn unproved_axes(program: &Program) -> Vec<Unproved> {
    let mut analysis = Analysis {
        program,
        assigned: BTreeSet::new(),
        values: BTreeMap::new(),
        accesses: Vec::new(),
        opaque: 0,
        arrival: None,
        is_last: false,
        varies: false,
        refused: Vec::new(),
    };
    analysis.find_assigned(&program.body);
    analysis.visit(&program.body);
    analysis.judge()
}

/// `coeff` times invariants by their canonical text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Product {
    coeff: i64,
    factors: Vec<String>,
}

impl Product {
    fn number(coeff: i64) -> Product {
        Product { coeff, factors: Vec::new() }
    }

    fn symbol(name: String) -> Product {
        Product { coeff: 1, factors: vec![name] }
    }

    fn times(&self, other: &Product) -> Product {
        let mut factors = [self.factors.clone(), other.factors.clone()].concat();
        factors.sort();
        Product { coeff: self.coeff.saturating_mul(other.coeff), factors }
    }

    /// `self / divisor` where it leaves no rest, whatever the invariants are.
    fn divide(&self, divisor: &Product) -> Option<Product> {
        if divisor.coeff == 0 || self.coeff % divisor.coeff != 0 {
            return None;
        }
        let mut factors = self.factors.clone();
        for factor in &divisor.factors {
            factors.remove(factors.iter().position(|f| f == factor)?);
        }
        Some(Product { coeff: self.coeff / divisor.coeff, factors })
    }
}

/// The extent of the grid along an axis.
fn num_programs(axis: usize) -> Product {
    Product::symbol(format!("num_programs({axis})"))
}

/// How the text of a scalar argument begins; unlike sizes it may be negative.
const PARAMETER: &str = "parameter ";

/// What is not the same for every program, or for every iteration and element.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Atom {
    ProgramId(usize),
    /// A loop variable or lane in `0..range`, when that is known.
    Ranged {
        name: String,
        range: Option<Product>,
    },
    Quotient(Box<Form>, Product),
    Remainder(Box<Form>, Product),
    /// A value the analysis cannot read.
    Opaque(usize),
}

impl Atom {
    /// `r` where the atom's values are in `0..r`.
    fn range(&self) -> Option<Product> {
        match self {
            Atom::ProgramId(axis) => Some(num_programs(*axis)),
            Atom::Ranged { range, .. } => range.clone(),
            // Truncating division leaves a negative rest of a negative value.
            Atom::Remainder(x, n) => x.never_negative().then(|| n.clone()),
            _ => None,
        }
    }
}

/// A sum of multiples of atoms and an invariant.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Form {
    terms: BTreeMap<Atom, Vec<Product>>,
    invariant: Vec<Product>,
}

impl Form {
    fn invariant(product: Product) -> Form {
        let mut form = Form::default();
        add_product(&mut form.invariant, product);
        form
    }

    fn atom(atom: Atom) -> Form {
        Form { terms: BTreeMap::from([(atom, vec![Product::number(1)])]), invariant: Vec::new() }
    }

    fn is_invariant(&self) -> bool {
        self.terms.is_empty()
    }

    /// True for sums of program ids and sizes.
    fn never_negative(&self) -> bool {
        let sizes = |p: &Product| p.coeff >= 0 && p.factors.iter().all(|f| !f.starts_with(PARAMETER));
        let ids = self.terms.iter().all(|(atom, products)| {
            matches!(atom, Atom::ProgramId(_) | Atom::Ranged { .. }) && products.iter().all(sizes)
        });
        ids && self.invariant.iter().all(sizes)
    }

    /// An invariant form as one product; sums become a symbol of their own.
    fn as_product(&self) -> Option<Product> {
        match (self.is_invariant(), self.invariant.as_slice()) {
            (true, []) => Some(Product::number(0)),
            (true, [one]) => Some(one.clone()),
            (true, sum) => Some(Product::symbol(format!("{sum:?}"))),
            _ => None,
        }
    }

    fn add(mut self, other: &Form, sign: i64) -> Form {
        let signed = |p: &Product| p.times(&Product::number(sign));
        for (atom, products) in &other.terms {
            let sum = self.terms.entry(atom.clone()).or_default();
            products.iter().for_each(|p| add_product(sum, signed(p)));
            if sum.is_empty() {
                self.terms.remove(atom);
            }
        }
        other.invariant.iter().for_each(|p| add_product(&mut self.invariant, signed(p)));
        self
    }

    fn scale(&self, by: &Product) -> Form {
        let mut scaled = Form::default();
        for (atom, products) in &self.terms {
            let sum = scaled.terms.entry(atom.clone()).or_default();
            products.iter().for_each(|p| add_product(sum, p.times(by)));
        }
        scaled.terms.retain(|_, products| !products.is_empty());
        self.invariant.iter().for_each(|p| add_product(&mut scaled.invariant, p.times(by)));
        scaled
    }
}

/// Adds into a sum of products in normal form: sorted, like terms joined, zeros dropped.
fn add_product(sum: &mut Vec<Product>, product: Product) {
    match sum.iter_mut().find(|p| p.factors == product.factors) {
        Some(like) => like.coeff += product.coeff,
        None => sum.push(product),
    }
    sum.retain(|p| p.coeff != 0);
    sum.sort();
}

/// A store, or a load of a tensor that is also stored to.
struct Access {
    tensor: ParamId,
    /// In blocks of `shape`, or in elements along the axes that are `sliced`.
    index: Vec<Form>,
    shape: Vec<usize>,
    sliced: BTreeSet<usize>,
    span: Span,
    is_store: bool,
    when: When,
}

/// When an access happens, as seen from the arrival of its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// Before it; in a kernel without arrivals, always.
    Before,
    /// After it, in any program.
    After,
    /// After it, in the last program at the counter alone.
    Last,
}

/// The arrival of a kernel's programs.
struct Arrival {
    /// The variables that hold its answer.
    answers: BTreeSet<VarId>,
    /// The axes whose program ids the counter's index gives back; programs that differ along others share one.
    axes: BTreeSet<usize>,
}

struct Analysis<'a> {
    program: &'a Program,
    assigned: BTreeSet<VarId>,
    values: BTreeMap<VarId, Form>,
    accesses: Vec<Access>,
    opaque: usize,
    arrival: Option<Arrival>,
    /// In a block that the last program at a counter runs alone.
    is_last: bool,
    /// In a block that some programs run and others do not.
    varies: bool,
    /// Axes along which the arrival itself is not what it seems.
    refused: Vec<Unproved>,
}

impl Analysis<'_> {
    fn find_assigned(&mut self, stmts: &[Stmt]) {
        for stmt in stmts {
            match stmt {
                Stmt::Assign { var, .. } => {
                    self.assigned.insert(*var);
                }
                Stmt::For { body, .. } => self.find_assigned(body),
                Stmt::While { before, body, .. } => {
                    self.find_assigned(before);
                    self.find_assigned(body);
                }
                Stmt::If { then, otherwise, .. } => {
                    self.find_assigned(then);
                    self.find_assigned(otherwise);
                }
                _ => {}
            }
        }
    }

    fn visit(&mut self, stmts: &[Stmt]) {
        for stmt in stmts {
            match stmt {
                Stmt::Let { var, value } => {
                    let form = self.form(value);
                    if self.is_answer(value)
                        && !self.assigned.contains(var)
                        && let Some(arrival) = &mut self.arrival
                    {
                        arrival.answers.insert(*var);
                    }
                    if !self.assigned.contains(var) {
                        self.values.insert(*var, form);
                    }
                }
                Stmt::Assign { value, .. } => {
                    self.form(value);
                }
                Stmt::For { var, lo, hi, step, body, .. } => {
                    let range = match (&lo.kind, &step.kind) {
                        (ExprKind::Int(0), ExprKind::Int(1)) => self.form(hi).as_product(),
                        _ => None,
                    };
                    let name = format!("loop variable {var}");
                    self.values.insert(*var, Form::atom(Atom::Ranged { name, range }));
                    self.visit(body);
                }
                Stmt::While { before, cond, body, .. } => {
                    self.visit(before);
                    self.form(cond);
                    self.visit(body);
                }
                Stmt::If { cond, then, otherwise, .. } => {
                    let varies = self.varies;
                    self.varies |= !self.form(cond).is_invariant();
                    let was_last = self.is_last;
                    self.is_last |= self.is_answer(cond);
                    self.visit(then);
                    self.is_last = was_last;
                    self.visit(otherwise);
                    self.varies = varies;
                }
                Stmt::ArriveLast { var, index, count, span, .. } => self.arrive(*var, index, count, *span),
                Stmt::Store { tensor, index, value, span } => {
                    self.form(value);
                    self.access(tensor, index, value, *span, true);
                }
                Stmt::Check { cond, .. } => {
                    self.form(cond);
                }
                Stmt::Scatter { tensor, index, value, mask, span } => {
                    self.form(value);
                    if let Some(mask) = mask {
                        self.form(mask);
                    }
                    self.access(tensor, index, value, *span, true);
                }
            }
        }
    }

    /// True for the answer of the arrival.
    fn is_answer(&self, value: &Expr) -> bool {
        let answers = self.arrival.as_ref().map(|arrival| &arrival.answers);
        matches!(value.kind, ExprKind::Var(var) if answers.is_some_and(|answers| answers.contains(&var)))
    }

    /// An arrival: all programs must make it, and `count` must be that of the programs that share a counter.
    fn arrive(&mut self, var: VarId, index: &[Expr], count: &Expr, span: Span) {
        let index: Vec<Form> = index.iter().map(|e| self.form(e)).collect();
        let count = self.form(count).as_product();
        let axes = recover(&index);
        let of_axes = |atom: &Atom| matches!(atom, Atom::ProgramId(axis) if axes.contains(axis));
        let reason = if self.varies {
            Some("not every program arrives here".to_owned())
        } else if !index.iter().all(|form| form.terms.keys().all(of_axes)) {
            Some("which programs share a counter does not follow from its index".to_owned())
        } else {
            let shared = (0..3).filter(|axis| !axes.contains(axis));
            let programs = shared.clone().fold(Product::number(1), |n, axis| n.times(&num_programs(axis)));
            // A grid has one program along an axis that the count leaves out, or it is refused.
            let missing: Vec<usize> = shared.filter(|axis| !names(&count, *axis)).collect();
            let counted =
                missing.iter().fold(count.clone(), |n, axis| n.map(|n| n.times(&num_programs(*axis))));
            if counted == Some(programs) {
                for axis in missing {
                    let reason = format!(
                        "the programs along axis {axis} share a counter, and the count leaves out num_programs({axis})"
                    );
                    self.refused.push(Unproved { axis, span, reason });
                }
                None
            } else {
                Some(
                    "the count is not the product of num_programs over the axes that share a counter"
                        .to_owned(),
                )
            }
        };
        match reason {
            None => self.arrival = Some(Arrival { answers: BTreeSet::from([var]), axes }),
            Some(reason) => {
                self.refused.extend((0..3).map(|axis| Unproved { axis, span, reason: reason.clone() }));
                // What follows is judged as if any program could be the last.
                self.arrival = Some(Arrival { answers: BTreeSet::new(), axes });
            }
        }
    }

    fn access(&mut self, tensor: &View, index: &[Expr], value: &Expr, span: Span, is_store: bool) {
        let shape = match &value.ty {
            Type::Tile { shape, .. } => shape.iter().map(|d| d.as_const().unwrap_or(0) as usize).collect(),
            _ => Vec::new(),
        };
        let blocks = index.iter().all(|e| matches!(e.ty, Type::Scalar(_)));
        let mut index: Vec<Form> = index.iter().map(|e| self.form(e)).collect();
        let sliced: BTreeSet<usize> = tensor.slices.iter().map(|slice| slice.axis).collect();
        for &axis in &sliced {
            let size = match &value.ty {
                Type::Tile { shape, .. } if blocks => shape.get(axis).map(size_of),
                _ => None,
            };
            index[axis] = index[axis].scale(&size.unwrap_or(Product::number(1)));
        }
        for slice in &tensor.slices {
            let start = self.values.get(&slice.start).cloned().unwrap_or_else(|| self.opaque());
            index[slice.axis] = std::mem::take(&mut index[slice.axis]).add(&start, 1);
        }
        let when = match &self.arrival {
            None => When::Before,
            Some(_) if self.is_last => When::Last,
            Some(_) => When::After,
        };
        self.accesses.push(Access { tensor: tensor.param, index, shape, sliced, span, is_store, when });
    }

    fn opaque(&mut self) -> Form {
        self.opaque += 1;
        Form::atom(Atom::Opaque(self.opaque))
    }

    /// Reads an expression; loads inside it are recorded as accesses.
    fn form(&mut self, expr: &Expr) -> Form {
        match &expr.kind {
            ExprKind::Int(value) => Form::invariant(Product::number(*value)),
            ExprKind::Const(name) => Form::invariant(Product::symbol(name.clone())),
            ExprKind::Param(param) => {
                Form::invariant(Product::symbol(format!("{PARAMETER}{}", self.program.params[*param].name)))
            }
            ExprKind::TensorDim(view, axis) if view.slices.iter().all(|slice| slice.axis != *axis) => {
                let name = &self.program.params[view.param].name;
                Form::invariant(Product::symbol(format!("{name}.dim({axis})")))
            }
            ExprKind::TensorDim(..) => self.opaque(),
            ExprKind::NumPrograms(axis) => Form::invariant(num_programs(*axis)),
            ExprKind::ProgramId(axis) => Form::atom(Atom::ProgramId(*axis)),
            ExprKind::Var(var) => self.values.get(var).cloned().unwrap_or_else(|| self.opaque()),
            ExprKind::Iota => {
                let n = match &expr.ty {
                    Type::Tile { shape, .. } => Some(size_of(&shape[0])),
                    _ => None,
                };
                self.opaque += 1;
                Form::atom(Atom::Ranged { name: format!("lane {}", self.opaque), range: n })
            }
            ExprKind::Cast(e)
            | ExprKind::Full(e)
            | ExprKind::Reshape(e)
            | ExprKind::Broadcast(e)
            | ExprKind::Transpose(e, _) => self.form(e),
            ExprKind::Binary(op, lhs, rhs) => {
                let (lhs, rhs) = (self.form(lhs), self.form(rhs));
                self.binary(*op, &lhs, &rhs)
            }
            ExprKind::Unary(UnaryOp::Neg, e) => Form::default().add(&self.form(e), -1),
            ExprKind::Unary(_, e) | ExprKind::Math(_, e) | ExprKind::Reduce(_, e, _) => {
                let e = self.form(e);
                self.function(&format!("{:?}", std::mem::discriminant(&expr.kind)), &[e])
            }
            ExprKind::DivRn(a, b) => {
                let operands = [self.form(a), self.form(b)];
                self.function("div_rn", &operands)
            }
            ExprKind::MmaScaled(operands) => {
                let operands: Vec<_> = operands.iter().map(|e| self.form(e)).collect();
                self.function("mma_scaled", &operands)
            }
            ExprKind::MinMax(is_max, a, b) => {
                let operands = [self.form(a), self.form(b)];
                self.function(if *is_max { "max" } else { "min" }, &operands)
            }
            ExprKind::Fma(a, b, c) | ExprKind::Select(a, b, c) | ExprKind::Mma(a, b, c) => {
                let operands = [self.form(a), self.form(b), self.form(c)];
                self.function(&format!("{:?}", std::mem::discriminant(&expr.kind)), &operands)
            }
            ExprKind::Load { tensor, index } => {
                self.access(tensor, index, expr, expr.span, false);
                self.opaque()
            }
            ExprKind::At { tensor, index } => {
                self.access(tensor, index, expr, expr.span, false);
                let index: Vec<Form> = index.iter().map(|e| self.form(e)).collect();
                let param = &self.program.params[tensor.param];
                let fixed = matches!(param.kind, ParamKind::Tensor { mutable: false, .. });
                if !fixed || !tensor.slices.is_empty() {
                    return self.opaque();
                }
                self.function(&format!("{PARAMETER}{}.at", param.name), &index)
            }
            ExprKind::Gather { tensor, index, mask } => {
                if let Some(mask) = mask {
                    self.form(mask);
                }
                self.access(tensor, index, expr, expr.span, false);
                self.opaque()
            }
            ExprKind::Float(value) => Form::invariant(Product::symbol(format!("{value:?}"))),
        }
    }

    fn binary(&mut self, op: BinaryOp, lhs: &Form, rhs: &Form) -> Form {
        match op {
            BinaryOp::Add => return lhs.clone().add(rhs, 1),
            BinaryOp::Sub => return lhs.clone().add(rhs, -1),
            BinaryOp::Mul => {
                if let Some(by) = rhs.as_product() {
                    return lhs.scale(&by);
                }
                if let Some(by) = lhs.as_product() {
                    return rhs.scale(&by);
                }
            }
            BinaryOp::Div | BinaryOp::Rem if !lhs.is_invariant() => {
                if let Some(n) = rhs.as_product() {
                    let x = Box::new(lhs.clone());
                    let quotient = op == BinaryOp::Div;
                    return Form::atom(if quotient { Atom::Quotient(x, n) } else { Atom::Remainder(x, n) });
                }
            }
            _ => {}
        }
        self.function(&format!("{op:?}"), &[lhs.clone(), rhs.clone()])
    }

    /// A function of invariants is one; of anything else, unreadable.
    fn function(&mut self, name: &str, operands: &[Form]) -> Form {
        if operands.iter().all(Form::is_invariant) {
            let operands: Vec<_> = operands.iter().map(|o| &o.invariant).collect();
            return Form::invariant(Product::symbol(format!("{name}({operands:?})")));
        }
        self.opaque()
    }

    fn judge(&self) -> Vec<Unproved> {
        let stored: BTreeSet<ParamId> =
            self.accesses.iter().filter(|a| a.is_store).map(|a| a.tensor).collect();
        let mut unproved: Vec<Unproved> = Vec::new();
        for refused in &self.refused {
            if unproved.iter().all(|u| u.axis != refused.axis) {
                unproved.push(refused.clone());
            }
        }
        let mut refuse = |axis: usize, span: Span, reason: String| {
            if unproved.iter().all(|u| u.axis != axis) {
                unproved.push(Unproved { axis, span, reason });
            }
        };
        for tensor in stored {
            let name = &self.program.params[tensor].name;
            let all = self.accesses.iter().filter(|a| a.tensor == tensor);
            // What happens after the arrival in any program is in no order with what the last one does.
            let by_last = |a: &&Access| a.when == When::Last && all.clone().all(|a| a.when != When::After);
            if let Some(arrival) = &self.arrival {
                for last in all.clone().filter(by_last) {
                    for (other, axis) in all.clone().flat_map(|other| {
                        let met = last.is_store || other.is_store;
                        let known = recover(&shared_index(last, other));
                        let open = arrival.axes.iter().filter(move |axis| met && !known.contains(axis));
                        open.map(move |axis| (other, *axis))
                    }) {
                        let verb = if last.is_store { "stores to" } else { "loads from" };
                        let reason = format!(
                            "the last program at a counter {verb} `{name}` here, where programs of another counter, along \
                             axis {axis}, may {} too",
                            if other.is_store { "store" } else { "load" }
                        );
                        refuse(axis, last.span, reason);
                    }
                }
            }
            let mut accesses = all.clone().filter(|a| !by_last(a));
            let Some(first) = accesses.clone().find(|a| a.is_store) else { continue };
            let elsewhere =
                |a: &&Access| a.index != first.index || a.shape != first.shape || a.sliced != first.sliced;
            if let Some(other) = accesses.find(elsewhere) {
                let verb = if other.is_store { "stored to" } else { "loaded from" };
                for axis in 0..3 {
                    let reason = format!(
                        "`{name}` is {verb} here and stored to elsewhere at another place; programs along axis {axis} \
                         may meet there"
                    );
                    refuse(axis, other.span, reason);
                }
                continue;
            }
            let recovered = recover(&first.index);
            for axis in (0..3).filter(|axis| !recovered.contains(axis)) {
                let reason = format!(
                    "the place written in `{name}` does not determine program_id({axis}): programs that differ only \
                     along axis {axis} may write the same elements"
                );
                refuse(axis, first.span, reason);
            }
        }
        unproved.sort_by_key(|u| u.axis);
        unproved
    }
}

/// True when a product has the number of programs along an axis as a factor.
fn names(product: &Option<Product>, axis: usize) -> bool {
    let name = num_programs(axis).factors;
    product.as_ref().is_some_and(|product| product.factors.iter().any(|f| name.contains(f)))
}

/// The parts of an index that two accesses have in common: where the accesses meet, these have one value.
fn shared_index(a: &Access, b: &Access) -> Vec<Form> {
    let same = |axis: &usize| {
        let size = |x: &Access| x.shape.get(*axis).copied();
        a.index[*axis] == b.index[*axis]
            && size(a) == size(b)
            && a.sliced.contains(axis) == b.sliced.contains(axis)
    };
    (0..a.index.len()).filter(same).map(|axis| a.index[axis].clone()).collect()
}

/// A size of a tile.
fn size_of(size: &Dim) -> Product {
    match size.as_const() {
        Some(number) => Product::number(number),
        None => Product::symbol(size.to_string()),
    }
}

/// The grid axes whose program ids follow from the values of `index`.
fn recover(index: &[Form]) -> BTreeSet<usize> {
    let mut known: Vec<Form> = index.to_vec();
    let mut atoms: BTreeSet<Atom> = BTreeSet::new();
    loop {
        let before = atoms.len();
        known.iter().for_each(|form| solve(form.clone(), &mut atoms));
        if atoms.len() == before {
            break;
        }
        for atom in &atoms {
            if let Atom::Quotient(x, n) = atom
                && atoms.contains(&Atom::Remainder(x.clone(), n.clone()))
            {
                known.push((**x).clone());
            }
        }
    }
    atoms.iter().filter_map(|a| if let Atom::ProgramId(axis) = a { Some(*axis) } else { None }).collect()
}

/// Adds to `atoms` what the value of `form` determines.
fn solve(mut form: Form, atoms: &mut BTreeSet<Atom>) {
    loop {
        // What is known is as good as invariant.
        form.terms.retain(|atom, _| !atoms.contains(atom));
        if form.terms.len() == 1
            && let Some((atom, products)) = form.terms.iter().next()
            && let [Product { coeff, factors }] = products.as_slice()
            && *coeff != 0
            && factors.is_empty()
        {
            atoms.insert(atom.clone());
            return;
        }
        let Some((digit, rest)) = lowest_digit(&form) else { return };
        atoms.insert(digit);
        form = rest;
    }
}

/// Where the form is `x + r * rest` with `x` in `0..r`: `x`, and `rest`.
fn lowest_digit(form: &Form) -> Option<(Atom, Form)> {
    for (atom, products) in &form.terms {
        let Some(range) = atom.range() else { continue };
        if products.as_slice() != [Product::number(1)] {
            continue;
        }
        let mut rest = Form::default();
        let divided = form.terms.iter().filter(|(other, _)| *other != atom).all(|(other, products)| {
            let quotients: Option<Vec<_>> = products.iter().map(|p| p.divide(&range)).collect();
            quotients.map(|q| rest.terms.insert(other.clone(), q)).is_some()
        });
        if divided && !rest.terms.is_empty() {
            return Some((atom.clone(), rest));
        }
    }
    None
}
