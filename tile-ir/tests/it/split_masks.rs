//! Masks that are applied only where they are needed hide what they hid before.

use crate::interpret::Random;
use crate::kernels::{FMHA, lower, program};
use tile_ir::interpret::{Arg, HostTensor, Interpreter, Scalar};
use tile_ir::types::{Val, args_of, blocks_of, element_type, erase, nested_ops, ops_of, with_dtype};
use tile_ir::types::{dtype_of, name_of, type_of};
use tile_ir::{Builder, Module, STANDARD_PASSES, passes, run_passes, verify, with_context};
use tile_lang::DType;

const SHELL: &str = "func.func @masks(%out: !tile.view<2 : i64, f32>, %a: i32, %b: i32, %c: i32) { return }";
const SHAPE: [usize; 2] = [32, 64];
const TRIPS: usize = 6;

/// Makes conditions out of comparisons of ranges.
struct Maker<'r, 'c> {
    random: &'r mut Random,
    scalars: Vec<Val<'c>>,
}

impl<'c> Maker<'_, 'c> {
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.random.below(from.len())]
    }

    /// An i32 tile.
    fn side(&mut self, b: &Builder<'c>, depth: usize) -> Val<'c> {
        if depth == 0 {
            return match self.random.below(5) {
                0 => b.broadcast(b.reshape(b.iota(SHAPE[0]), &[SHAPE[0], 1]), &SHAPE),
                1 | 2 => b.broadcast(b.reshape(b.iota(SHAPE[1]), &[1, SHAPE[1]]), &SHAPE),
                3 => {
                    let number = self.pick(&[0.0, 1.0, 31.0, -64.0, 100.0]);
                    b.splat_const(DType::I32, &SHAPE, number)
                }
                _ => {
                    let scalars = self.scalars.clone();
                    b.splat(self.pick(&scalars), &SHAPE)
                }
            };
        }
        let (x, y) = (self.side(b, depth - 1), self.side(b, depth - 1));
        match self.random.below(8) {
            0 => {
                let by = self.pick(&[-3.0, -1.0, 0.0, 2.0, 1000.0]);
                b.same("arith.muli", &[x, b.splat_const(DType::I32, &SHAPE, by)])
            }
            1 => b.same("arith.subi", &[x, y]),
            2 => b.same("arith.minsi", &[x, y]),
            3 => b.same("arith.maxsi", &[x, y]),
            _ => b.same("arith.addi", &[x, y]),
        }
    }

    fn cond(&mut self, b: &Builder<'c>) -> Val<'c> {
        let (left, right) = (self.random.below(3), self.random.below(3));
        let (x, y) = (self.side(b, left), self.side(b, right));
        let predicate = self.pick(&[2, 3, 4, 5]);
        let ty = with_dtype(b.context(), type_of(x), DType::Bool);
        let holds = b.value("arith.cmpi", &[x, y], ty, &[("predicate", b.int(predicate))]);
        match self.random.below(3) {
            0 => b.same("arith.andi", &[holds, self.cond(b)]),
            _ => holds,
        }
    }
}

/// A loop that stores, in each iteration, ones where a random condition holds and zeros elsewhere.
fn make<'c>(module: &Module<'c>, random: &mut Random) {
    let context = module.context();
    let args = args_of(module.entry());
    let b = Builder::before(context, ops_of(module.entry()).last().unwrap());
    let [zero, trips, one, width] = [0, TRIPS, 1, SHAPE[1]].map(|n| b.index(n as i64));
    let made = b.for_loop([zero, trips, one], &[], |b, j, _| {
        let at = b.same("arith.muli", &[j, width]);
        let at = b.value("arith.index_cast", &[at], element_type(context, DType::I32), &[]);
        let mut scalars = args[1..].to_vec();
        scalars.extend([at, at, b.same("arith.addi", &[at, args[1]])]);
        let cond = Maker { random, scalars }.cond(b);
        let [shown, hidden] = [1.0, 0.0].map(|n| b.splat_const(DType::F32, &SHAPE, n));
        let tile = b.value("arith.select", &[cond, shown, hidden], type_of(shown), &[]);
        b.store(args[0], &[j, b.index(0)], tile);
        Ok::<_, ()>(Vec::new())
    });
    assert_eq!(made, Ok(Vec::new()));
}

fn run(module: &Module, scalars: [i32; 3]) -> Vec<f64> {
    let mut out = HostTensor::zeros(DType::F32, &[TRIPS * SHAPE[0], SHAPE[1]]);
    let mut args = vec![Arg::Tensor(&mut out)];
    args.extend(scalars.map(|s| Arg::Scalar(Scalar::I32(s))));
    Interpreter::new(module).unwrap().run(&mut args, [1, 1, 1]).unwrap();
    out.to_f64()
}

/// Makes the branches without a mask give twos.
fn mark(module: &Module) {
    for op in nested_ops(module.function()).into_iter().filter(|op| name_of(*op) == "scf.if") {
        let end = ops_of(blocks_of(op)[0]).last().unwrap();
        let b = Builder::before(module.context(), end);
        let two = b.splat_const(DType::F32, &SHAPE, 2.0);
        b.op("scf.yield", &[two], &[], &[]);
        erase(end);
    }
}

#[test]
fn random_masks_hide_the_same() {
    let (mut split, mut full, mut found) = (0, 0, 0);
    for seed in 0..300 {
        with_context(|context| {
            let mut random = Random(seed);
            let mut module = Module::parse(context, SHELL).unwrap();
            make(&module, &mut random);
            verify(&module).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{}", module.to_text()));
            let plain = module.clone();
            let outcome = passes::split_masks(&mut module);
            verify(&module).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{}", module.to_text()));
            match &outcome[..] {
                [(_, Ok(()))] => split += 1,
                [(_, Err(why))] => assert!(why.contains("not known ever"), "seed {seed}: {why}"),
                other => panic!("seed {seed}: {other:?}"),
            }
            let marked = module.clone();
            mark(&marked);
            run_passes(&mut module, STANDARD_PASSES).unwrap();
            for near in [0, 0, i32::MAX, i32::MIN] {
                let scalars = [(); 3].map(|()| near.wrapping_add((random.next() * 300.0) as i32));
                let expected = run(&plain, scalars);
                assert!(
                    run(&module, scalars) == expected,
                    "seed {seed}, {scalars:?}: the pass changed the meaning of\n{}\nto\n{}",
                    plain.to_text(),
                    module.to_text()
                );
                let elems = SHAPE[0] * SHAPE[1];
                for (was, is) in expected.chunks(elems).zip(run(&marked, scalars).chunks(elems)) {
                    full += usize::from(was.iter().all(|x| *x == 1.0));
                    found += usize::from(is.iter().all(|x| *x == 2.0));
                }
            }
        });
    }
    assert!(split >= 170, "most masks can be proved: {split}");
    assert!(
        found <= full && found * 10 >= full * 7,
        "of {full} iterations without hidden elements, {found} have no mask"
    );
}

/// Attention with a window to both sides, over keys that need not fill blocks.
const WINDOW: &str = "
#[tile_kernel]
pub fn window<T: Float, const TILE_M: usize, const TILE_N: usize>(
    k: Tensor<T, 2>, out: TensorMut<T, 2>, window: i32,
) {
    let m = program_id(0);
    let seq_k = k.dim(0) as i32;
    let first = (m * TILE_M) as i32 + seq_k - out.dim(0) as i32;
    let reach = window - 1;
    let place = (iota(TILE_M) + first).expand_dims(1);
    let limit = minimum(place + reach, full::<i32>([TILE_M, 1], seq_k - 1));
    let mut sum = zeros::<f32>([TILE_M, 1]);
    for j in 0..cdiv(seq_k as usize, TILE_N) {
        let keys = k.load([j, 0], [TILE_N, 1]).t().cast::<f32>();
        let cols = (iota(TILE_N) + (j * TILE_N) as i32).expand_dims(0);
        let seen = cols.le(limit) & cols.ge(place - reach);
        sum = sum + select(seen, (keys + zeros::<f32>([TILE_M, TILE_N])), 0.0).reduce_sum(1);
    }
    out.store([m, 0], sum.cast::<T>());
}";

#[test]
fn windows_of_ragged_sequences() {
    let mut random = Random(5);
    with_context(|context| {
        let consts = [("TILE_M", 64), ("TILE_N", 32)];
        let mut module = lower(context, &program(WINDOW, &consts, DType::F32));
        run_passes(&mut module, STANDARD_PASSES).unwrap();
        let plain = Interpreter::new(&module).unwrap();
        let outcome = passes::split_masks(&mut module);
        assert!(matches!(outcome[..], [(Some(_), Ok(()))]), "{outcome:?}");
        run_passes(&mut module, STANDARD_PASSES).unwrap();
        let split = Interpreter::new(&module).unwrap();
        for _ in 0..40 {
            let (seq_q, seq_k) = (1 + random.below(200), 1 + random.below(300));
            let window = 1 + random.below(250) as i32;
            let mut k = random.tensor(DType::F32, &[seq_k, 1]);
            let mut run = |interpreter: &Interpreter| {
                let mut out = HostTensor::zeros(DType::F32, &[seq_q, 1]);
                let mut args = [Arg::Tensor(&mut k), Arg::Tensor(&mut out), Arg::Scalar(Scalar::I32(window))];
                interpreter.run(&mut args, [seq_q.div_ceil(64), 1, 1]).unwrap();
                out.data
            };
            assert_eq!(run(&plain), run(&split), "{seq_q} queries, {seq_k} keys, window {window}");
        }
    });
}

/// The bounds of attention's mask leave the loop but for what the loop variable moves, and nothing of the mask is
/// left beside the branch.
#[test]
fn attention_masks_in_a_branch() {
    with_context(|context| {
        let consts = [("HEAD_DIM", 64), ("TILE_M", 64), ("TILE_N", 64), ("CAUSAL", 1)];
        let mut module = lower(context, &program(FMHA, &consts, DType::F16));
        run_passes(&mut module, STANDARD_PASSES).unwrap();
        let outcome = passes::split_masks(&mut module);
        assert!(matches!(outcome[..], [(Some(_), Ok(()))]), "{outcome:?}");
        run_passes(&mut module, STANDARD_PASSES).unwrap();
        let ops = nested_ops(module.function());
        let inner = *ops.iter().find(|op| name_of(**op) == "scf.for").unwrap();
        let body: Vec<_> = ops_of(blocks_of(inner)[0]).collect();
        let wide = |op: &&tile_ir::types::Op| {
            let ints =
                |v: &Val| dtype_of(type_of(*v)) == Some(DType::I32) && tile_ir::types::is_tile(type_of(*v));
            tile_ir::types::results_of(**op).iter().any(ints)
        };
        assert_eq!(body.iter().filter(wide).count(), 0, "{}", module.to_text());
        let compares = body.iter().filter(|op| name_of(**op) == "arith.cmpi").count();
        assert_eq!(compares, 1, "{}", module.to_text());
    });
}
