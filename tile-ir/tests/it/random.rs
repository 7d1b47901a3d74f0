//! Random modules mean the same before and after each pass.

use crate::interpret::Random;
use melior::ir::Type;
use tile_ir::interpret::{Arg, HostTensor, Interpreter};
use tile_ir::ops::ReduceKind;
use tile_ir::types::{Val, args_of, dtype_of, ops_of, shape_of, type_of, with_dtype};
use tile_ir::{Builder, Module, passes, run_passes, verify, with_context};
use tile_lang::DType;

const SHELL: &str = "func.func @random(%a: !tile.view<2 : i64, f32>, %b: !tile.view<2 : i64, f16>,
    %c: !tile.view<2 : i64, i32>, %out: !tile.view<2 : i64, f32>) { return }";

/// Makes operations over a pool of tiles.
struct Maker<'r> {
    random: &'r mut Random,
}

impl Maker<'_> {
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.random.below(from.len())]
    }

    /// A tile of the pool with a dtype, brought to a shape by whatever operations do it.
    fn shaped<'c>(&mut self, b: &Builder<'c>, pool: &[Val<'c>], dtype: DType, shape: &[usize]) -> Val<'c> {
        let fits: Vec<Val> = pool.iter().copied().filter(|v| dtype_of(type_of(*v)) == Some(dtype)).collect();
        if fits.is_empty() || self.random.below(5) == 0 {
            let number = self.pick(&[0.0, -0.0, 1.0, 2.0, -1.0, 0.5]);
            return b.splat_const(dtype, shape, number);
        }
        let value = self.pick(&fits);
        let from = shape_of(type_of(value)).unwrap();
        if from == shape {
            return value;
        }
        if from.iter().product::<usize>() == shape.iter().product::<usize>() {
            return b.reshape(value, shape);
        }
        let reduced = (0..from.len()).fold(value, |v, axis| match from[axis] == shape[axis] {
            true => v,
            false => b.reduce(v, axis, ReduceKind::Max),
        });
        if shape_of(type_of(reduced)).unwrap() == shape { reduced } else { b.broadcast(reduced, shape) }
    }

    fn step<'c>(&mut self, b: &Builder<'c>, pool: &mut Vec<Val<'c>>, indices: &[Val<'c>]) {
        let value = self.pick(pool);
        let (ty, shape) = (type_of(value), shape_of(type_of(value)).unwrap());
        let dtype = dtype_of(ty).unwrap();
        let float = dtype.is_float();
        let new = match self.random.below(12) {
            0 => b.transpose(value, &[1, 0]),
            1 => b.reshape(value, &[shape[1], shape[0]]),
            2 => {
                let kind = self.pick(&[ReduceKind::Sum, ReduceKind::Max, ReduceKind::Min]);
                b.reduce(value, self.random.below(2), kind)
            }
            3 => {
                let widened: Vec<usize> =
                    shape.iter().map(|&n| if n == 1 { self.pick(&[1, 2, 8]) } else { n }).collect();
                b.broadcast(value, &widened)
            }
            4 if float => {
                let name = self.pick(&["math.exp2", "math.absf", "arith.negf", "math.tanh", "math.sqrt"]);
                b.same(name, &[value])
            }
            5 => {
                let other = self.shaped(b, pool, dtype, &shape);
                let predicate =
                    if float { [1, 2, 4][self.random.below(3)] } else { self.random.below(6) as i64 };
                let name = if float { "arith.cmpf" } else { "arith.cmpi" };
                let mask_ty: Type = with_dtype(b.context(), ty, DType::Bool);
                let mask = b.value(name, &[value, other], mask_ty, &[("predicate", b.int(predicate))]);
                b.value("arith.select", &[mask, value, other], ty, &[])
            }
            6 if dtype == DType::F32 => b.cast(b.cast(value, DType::F8E4M3FN), DType::F32),
            6 if dtype == DType::F16 => {
                b.value("arith.extf", &[value], with_dtype(b.context(), ty, DType::F32), &[])
            }
            7 if dtype == DType::F32 => {
                b.value("arith.truncf", &[value], with_dtype(b.context(), ty, DType::F16), &[])
            }
            7 if dtype == DType::I32 => {
                b.value("arith.sitofp", &[value], with_dtype(b.context(), ty, DType::F32), &[])
            }
            8 => {
                let index = self.pick(indices);
                let scalar = b.value(
                    "arith.index_cast",
                    &[index],
                    tile_ir::types::element_type(b.context(), DType::I32),
                    &[],
                );
                b.splat(scalar, &shape)
            }
            _ => {
                let other = self.shaped(b, pool, dtype, &shape);
                let name = match float {
                    true => self.pick(&[
                        "arith.addf",
                        "arith.subf",
                        "arith.mulf",
                        "arith.maximumf",
                        "arith.minimumf",
                    ]),
                    false => {
                        self.pick(&["arith.addi", "arith.subi", "arith.muli", "arith.maxsi", "arith.xori"])
                    }
                };
                b.same(name, &[value, other])
            }
        };
        pool.push(new);
    }

    fn steps<'c>(&mut self, b: &Builder<'c>, pool: &mut Vec<Val<'c>>, indices: &[Val<'c>], count: usize) {
        for _ in 0..count {
            self.step(b, pool, indices);
        }
    }
}

fn make<'c>(module: &Module<'c>, random: &mut Random) {
    let context = module.context();
    let end = ops_of(module.entry()).last().unwrap();
    let args = args_of(module.entry());
    let b = Builder::before(context, end);
    let (i, j) = (b.program_id(0), b.program_id(1));
    let mut maker = Maker { random };
    let mut pool = Vec::new();
    for &view in &args[..3] {
        let shape = [maker.pick(&[1, 2, 4, 8]), maker.pick(&[1, 2, 4, 8])];
        pool.push(b.load(view, &[i, j], &shape));
    }
    maker.steps(&b, &mut pool, &[i, j], 6);
    let [zero, one, three] = [0, 1, 3].map(|n| b.index(n));
    let shape = [maker.pick(&[2, 4]), maker.pick(&[1, 8])];
    let inits = [maker.shaped(&b, &pool, DType::F32, &shape), maker.shaped(&b, &pool, DType::I32, &shape)];
    let results = b.for_loop([zero, three, one], &inits, |b, k, carried| {
        let mut inner = pool.clone();
        inner.extend_from_slice(carried);
        inner.push(b.load(
            args[maker.random.below(3)],
            &[i, if maker.random.below(2) == 0 { k } else { j }],
            &shape,
        ));
        maker.steps(b, &mut inner, &[i, j, k], 8);
        let new = inner.split_off(pool.len());
        let next = [DType::F32, DType::I32].map(|dtype| maker.shaped(b, &new, dtype, &shape));
        Ok::<_, ()>(next.to_vec())
    });
    pool.extend(results.unwrap());
    maker.steps(&b, &mut pool, &[i, j], 4);
    let cond = b.value(
        "arith.cmpi",
        &[i, j],
        tile_ir::types::element_type(context, DType::Bool),
        &[("predicate", b.int(6))],
    );
    let ty = tile_ir::types::tile_type(context, DType::F32, &[4, 4]);
    let branches = b.if_else(
        cond,
        &[ty],
        |b| {
            let mut inner = pool.clone();
            maker.steps(b, &mut inner, &[i, j], 3);
            Ok::<_, ()>(vec![b.splat_const(DType::F32, &[4, 4], 7.0)])
        },
        |b| Ok(vec![b.splat_const(DType::F32, &[4, 4], 9.0)]),
    );
    pool.extend(branches.unwrap());
    // Every value is seen, at a place of its own but for overlaps at the rims.
    for (n, value) in pool.into_iter().enumerate() {
        let ty = with_dtype(context, type_of(value), DType::F32);
        let value = match dtype_of(type_of(value)) {
            Some(DType::F16) => b.value("arith.extf", &[value], ty, &[]),
            Some(DType::I32) => b.value("arith.sitofp", &[value], ty, &[]),
            _ => value,
        };
        b.store(args[3], &[b.same("arith.addi", &[i, b.index(n as i64 * 2)]), j], value);
    }
}

fn run(module: &Module) -> Vec<u64> {
    let mut random = Random(7);
    let mut tensors = [DType::F32, DType::F16, DType::I32].map(|d| random.tensor(d, &[13, 11])).to_vec();
    tensors[2] = HostTensor::from_f64(
        DType::I32,
        &[13, 11],
        &(0..143).map(|i| f64::from(i % 19 - 9)).collect::<Vec<_>>(),
    );
    let mut out = HostTensor::zeros(DType::F32, &[256, 24]);
    let [a, b, c] = &mut tensors[..] else { unreachable!("three tensors") };
    let mut args = [Arg::Tensor(a), Arg::Tensor(b), Arg::Tensor(c), Arg::Tensor(&mut out)];
    // One program after another: their second stores overlap.
    let interpreter = Interpreter::new(module).unwrap();
    rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap()
        .install(|| interpreter.run(&mut args, [2, 3, 1]))
        .unwrap();
    // All NaNs are one: which payload survives is not part of the meaning.
    out.to_f64().into_iter().map(|x| if x.is_nan() { f64::NAN.to_bits() } else { x.to_bits() }).collect()
}

#[test]
fn passes_keep_the_meaning_of_random_modules() {
    let (mut before, mut after, mut nonzero) = (0, 0, 0);
    for seed in 0..400 {
        with_context(|context| {
            let mut module = Module::parse(context, SHELL).unwrap();
            make(&module, &mut Random(seed));
            verify(&module).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{}", module.to_text()));
            let text = module.to_text();
            let expected = run(&module);
            nonzero += usize::from(expected.iter().any(|x| *x != 0));
            before += tile_ir::types::nested_ops(module.function()).len();
            for pass in passes::STANDARD_PASSES.iter().chain([&passes::CANONICALIZE]) {
                run_passes(&mut module, &[*pass]).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{text}"));
                let found = run(&module);
                assert!(
                    found == expected,
                    "seed {seed}: {} changed the meaning of\n{text}\nto\n{}",
                    pass.name,
                    module.to_text()
                );
            }
            after += tile_ir::types::nested_ops(module.function()).len();
            let reparsed = Module::parse(context, &module.to_text()).unwrap();
            assert_eq!(reparsed.to_text(), module.to_text());
        });
    }
    assert!(nonzero > 300, "the random modules compute something: {nonzero}");
    assert!(after * 10 < before * 9, "the passes remove operations: {before} to {after}");
}
