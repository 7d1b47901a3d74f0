//! What candidates are checked on: a smaller problem that the oracle is quick on, inputs of the whole one, and
//! whether two results agree.

use rayon::prelude::*;
use tile::contract::{Contract, Draws, Problem, TensorSpec};
use tile::dynamic::DynTensor;

/// What the oracle may cost: operations, a tensor's element counting as many as it takes to draw one.
pub const ORACLE_COST: f64 = 4e9;
const ELEMENT_COST: f64 = 1e3;
/// Sizes from here on are halved first: they are lengths, of which many tiles remain.
const LONG: i64 = 2048;
/// What sizes keep of their remainders, so that rows stay aligned and ragged as they were.
const GRAIN: i64 = 256;
/// Normal draws that long inputs repeat: twice a prime, so that no tile starts twice at the same one, and an even
/// number, so that 4-bit elements fill bytes.
const BLOCK: usize = 2 * 524_287;

/// A problem of the same class that costs no more than `most`: the same switches and exact sizes, lengths with the same
/// remainders, and the same proportions where they can be kept.
pub fn smaller(contract: &dyn Contract, problem: &Problem, most: f64) -> Problem {
    let mut small = problem.clone();
    let is_range = |name: &str| contract.sizes().iter().any(|s| s.name == name && !s.exact);
    while cost(contract, &small) > most {
        let sizes = || small.sizes.iter().filter(|(name, v)| is_range(name) && **v > 1);
        let long: Vec<String> = sizes().filter(|(_, v)| **v >= LONG).map(|(name, _)| name.clone()).collect();
        let all: Vec<String> = sizes().map(|(name, _)| name.clone()).collect();
        let short = sizes().filter(|(_, v)| **v < GRAIN).map(|(name, _)| name.clone()).collect();
        let steps = [long, short, all.clone()].into_iter().chain(all.into_iter().map(|name| vec![name]));
        let Some(next) = steps
            .map(|names| halved(&small, &names))
            .find(|next| contract.check(next).is_ok() && cost(contract, next) < cost(contract, &small))
        else {
            break;
        };
        small = next;
    }
    small
}

fn halved(problem: &Problem, names: &[String]) -> Problem {
    let mut problem = problem.clone();
    for name in names {
        let value = problem.sizes[name];
        let half = value / 2;
        problem.sizes[name] = if half < GRAIN { half.max(1) } else { half / GRAIN * GRAIN + value % GRAIN };
    }
    problem
}

fn cost(contract: &dyn Contract, problem: &Problem) -> f64 {
    let elements: usize = contract.tensors(problem).iter().map(|t| t.shape.iter().product::<usize>()).sum();
    contract.flops(problem).max(elements as f64 * ELEMENT_COST)
}

/// An input of a problem of any size: what the contract fills it with, else normal draws, of which long tensors
/// repeat a block.
pub fn whole_input(contract: &dyn Contract, problem: &Problem, spec: &TensorSpec, seed: u64) -> DynTensor {
    let count: usize = spec.shape.iter().product();
    if let Some(values) = contract.fill(problem, spec, seed) {
        return DynTensor::from_f64(spec.dtype, &spec.shape, &values);
    }
    let mut draws = Draws::new(seed);
    let values: Vec<f64> = (0..count.min(BLOCK)).map(|_| draws.normal()).collect();
    let block = DynTensor::from_f64(spec.dtype, &[values.len()], &values);
    let mut whole = DynTensor::zeros(spec.dtype, &spec.shape);
    if !block.data.is_empty() {
        for piece in whole.data.chunks_mut(block.data.len()) {
            piece.copy_from_slice(&block.data[..piece.len()]);
        }
    }
    whole
}

/// The relative error of one dense tensor against another, as [`tile::contract::relative_error`] has it.
pub fn difference(found: &DynTensor, reference: &DynTensor) -> f64 {
    const PIECE_BYTES: usize = 1 << 16;
    let pieces = found.data.par_chunks(PIECE_BYTES).zip(reference.data.par_chunks(PIECE_BYTES));
    let (difference, norm) = pieces
        .map(|(found_bytes, reference_bytes)| {
            let (found, reference) = (widened(found, found_bytes), widened(reference, reference_bytes));
            let both = found.iter().zip(&reference).filter(|(f, r)| !(f.is_nan() && r.is_nan()));
            both.fold((0.0, 0.0), |(d, n), (f, r)| (d + (f - r) * (f - r), n + r * r))
        })
        .reduce(|| (0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
    if norm == 0.0 { difference.sqrt() } else { (difference / norm).sqrt() }
}

/// Some of a tensor's bytes as values.
fn widened(tensor: &DynTensor, bytes: &[u8]) -> Vec<f64> {
    let count = bytes.len() * 8 / tensor.dtype.bits() as usize;
    let piece = DynTensor { dtype: tensor.dtype, shape: vec![count], strides: vec![1], data: bytes.to_vec() };
    piece.to_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::{Subject, find_contract};
    use indexmap::IndexMap;
    use tile::contract::relative_error;
    use tile_lang::DType;
    // Linking the crate registers its kernels.
    use tilegym_kernels as _;

    fn small(kernel: &str, sizes: &[(&str, i64)]) -> (Problem, f64) {
        let contract = find_contract(kernel).unwrap_or_else(|e| panic!("{e}"));
        let sizes: IndexMap<String, i64> = sizes.iter().map(|(name, v)| ((*name).to_owned(), *v)).collect();
        let subject = Subject::new(contract, None, &sizes).unwrap_or_else(|e| panic!("{e}"));
        let small = smaller(contract, &subject.problem, ORACLE_COST);
        let cost = cost(contract, &small);
        (small, cost)
    }

    #[test]
    fn a_smaller_problem_keeps_its_class() {
        let (problem, cost) = small("fmha", &[("kv_heads", 8), ("seq_q", 4100), ("seq_k", 4100)]);
        assert!(cost <= ORACLE_COST, "{problem:?}");
        let size = |name: &str| problem.size(name);
        assert_eq!((size("head_dim"), size("causal")), (128, 1));
        assert_eq!((size("heads") / size("kv_heads"), size("seq_q") % 256, size("seq_k") % 256), (4, 4, 4));
        assert!(size("seq_q") >= 512, "several tiles remain: {problem:?}");
        let (problem, cost) = small("matmul", &[("m", 16), ("n", 37888), ("k", 3584)]);
        assert!(cost <= ORACLE_COST && problem.size("m") == 16, "{problem:?}");
        let (problem, _) = small("matmul", &[("m", 100), ("n", 130), ("k", 70)]);
        assert_eq!((problem.size("m"), problem.size("n"), problem.size("k")), (100, 130, 70));
    }

    #[test]
    fn the_default_problem_of_every_kernel_can_be_checked() {
        for contract in tile::contract::contracts() {
            let (problem, cost) = small(contract.kernel().name, &[]);
            assert!(cost <= ORACLE_COST, "{}: {problem:?}", contract.kernel().name);
        }
    }

    #[test]
    fn differences_are_relative_errors() {
        let mut draws = Draws::new(2);
        let count = 100_000;
        let values = |draws: &mut Draws| (0..count).map(|_| draws.normal()).collect::<Vec<f64>>();
        let (a, b) = (values(&mut draws), values(&mut draws));
        for dtype in [DType::F32, DType::BF16, DType::F4E2M1FN] {
            let tensor = |values: &[f64]| DynTensor::from_f64(dtype, &[count / 10, 10], values);
            let (a, b) = (tensor(&a), tensor(&b));
            let expected = relative_error(&a.to_f64(), &b.to_f64());
            assert!((difference(&a, &b) / expected - 1.0).abs() < 1e-9, "{dtype}");
            assert_eq!(difference(&a, &a), 0.0);
        }
        let mut poisoned = DynTensor::from_f64(DType::BF16, &[count], &a);
        let whole = poisoned.clone();
        poisoned.data[150_000..150_002].fill(0xff);
        assert!(difference(&poisoned, &whole).is_nan());
    }

    #[test]
    fn long_inputs_repeat_normal_draws() {
        let contract = find_contract("matmul").unwrap_or_else(|e| panic!("{e}"));
        let sizes = IndexMap::from([("m".to_owned(), 3000), ("k".to_owned(), 1000)]);
        let problem = contract.problem(DType::F32, &sizes).unwrap_or_else(|e| panic!("{e}"));
        let spec = &contract.tensors(&problem)[0];
        let values = whole_input(contract, &problem, spec, 1).to_f64();
        assert_eq!(values.len(), 3_000_000);
        assert_eq!(values[..100], values[BLOCK..BLOCK + 100]);
        let variance = values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64;
        assert!((variance - 1.0).abs() < 0.01, "{variance}");
    }
}
