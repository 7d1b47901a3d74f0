//! The zoo's kernels, executed on emulated GPUs, against the interpreter of the tile dialect.
//!
//! Each case draws a kernel with sizes, dtypes, places of its tensors in memory, and a way to compile it. Equal numbers
//! draw equal cases; `TILEWRIGHT_EMULATE_CASES=2000` runs more of them, `TILEWRIGHT_EMULATE_CASES=17..18` only some.

use crate::problems::{Draw, Placed, Problem, Tolerance, bytes_of};
use crate::support::{kernel, kernels};
use codegen_ptx::gpu::passes::PassError;
use codegen_ptx::{
    CompileOptions, Compiled, LowerError, Switches, Target, TensorFacts, compile, with_context,
};
use ptx_emu::{Launch, Memory, Param, TensorMap};
use std::fmt;
use std::ops::Range;
use tile_ir::Module;
use tile_ir::interpret::{Arg, Interpreter, Scalar};

/// How a case is compiled and launched.
#[derive(Clone)]
struct Way {
    target: &'static Target,
    num_warps: u32,
    num_stages: u32,
    switches: Switches,
    /// CTAs that walk over the programs, where they do.
    ctas: u32,
    seed: u64,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Way { target, num_warps, num_stages, switches, ctas, seed } = self;
        write!(
            f,
            "{target} num_warps={num_warps} num_stages={num_stages} {switches:?} ctas={ctas} seed={seed}"
        )
    }
}

fn way(draw: &mut Draw) -> Way {
    let all = Target::all();
    let hopper = Target::from_name("sm_90").expect("a target");
    // Most passes are for Hopper alone.
    let target = match draw.below(10) {
        0..4 => hopper,
        4 => Target::sm_121a_on_sm_90a(),
        _ => all[draw.below(all.len())],
    };
    Way {
        target,
        num_warps: draw.pick(&[1, 2, 4, 4, 8, 8]),
        num_stages: draw.pick(&[1, 2, 3, 4]),
        switches: Switches {
            warp_specialize: draw.chance(2, 3),
            bulk_stores: draw.chance(2, 3),
            split_masks: draw.chance(1, 2),
            ping_pong: draw.chance(1, 3),
            persistent: draw.chance(1, 3),
            compute_ahead: draw.chance(1, 3),
            stream_loads: draw.chance(1, 3),
            split_tail: 0,
            tf32_wgmma: draw.chance(1, 3),
        },
        ctas: draw.pick(&[1, 2, 3, 5]),
        seed: draw.below(1 << 20) as u64,
    }
}

impl Way {
    fn compile(&self, module: &Module, facts: &[TensorFacts]) -> Result<Compiled, LowerError> {
        let options = CompileOptions {
            target: self.target,
            num_warps: self.num_warps,
            num_stages: self.num_stages,
            occupancy: 1,
            num_ctas: 1,
            switches: self.switches,
            facts: facts.to_vec(),
            keep_stages: false,
        };
        compile(module, &options)
    }

    /// As a launch does where a tensor has no map.
    fn without_maps(&self) -> Way {
        let switches = Switches { warp_specialize: false, bulk_stores: false, ..self.switches };
        Way { switches, ..self.clone() }
    }
}

/// The map of a tensor at an address; none where it cannot have one.
fn tensor_map(tensor: &Placed, map: &codegen_ptx::TensorMap, address: u64) -> Option<TensorMap> {
    let tensor = &tensor.tensor;
    let layout = (&tensor.shape[..], &tensor.strides[..]);
    let bits = tensor.dtype.bits();
    let whole = TensorMap::of_tensor(address, bits, layout, &map.box_shape, map.swizzle_bytes).ok()?;
    Some(if map.rounds { whole.rounding_to_tf32() } else { whole })
}

/// What was executed, and the tensors' bytes after it.
struct Executed {
    ptx: String,
    tensors: Vec<Vec<u8>>,
}

/// Compiles the problem's kernel and executes it; nothing where it does not fit.
fn emulate(problem: &Problem, module: &Module, way: &Way) -> Result<Option<Executed>, String> {
    let facts: Vec<TensorFacts> = problem.tensors.iter().map(Placed::facts).collect();
    let compiled = match way.compile(module, &facts) {
        Ok(compiled) => compiled,
        Err(LowerError::Pass(PassError::SharedMemory { .. })) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let mut buffers: Vec<Vec<u128>> = problem.tensors.iter().map(Placed::buffer).collect();
    let mut memory = Memory::new();
    let (mut params, mut addresses) = (Vec::new(), Vec::new());
    for (placed, buffer) in problem.tensors.iter().zip(&mut buffers) {
        let Range { start, end } = placed.accessed();
        let bytes = &mut bytes_of(buffer)[start..end];
        let lent = if placed.writable { memory.lend(bytes) } else { memory.lend_to_read(bytes) };
        let address = lent + (placed.bytes().start - start) as u64;
        params.push(Param::Word(address));
        let numbers = placed.tensor.shape.iter().chain(&placed.tensor.strides);
        params.extend(numbers.map(|&n| Param::Word(n as u64)));
        addresses.push(address);
    }
    params.extend(problem.scalars.iter().map(|scalar| match *scalar {
        Scalar::F32(x) => Param::Word(x.to_bits().into()),
        Scalar::I32(x) => Param::Word((x as u32).into()),
        ref other => panic!("no kernel of the zoo takes {other:?}"),
    }));
    let extents = problem.grid.map(|extent| extent as u32);
    let mut grid = extents;
    if compiled.persistent {
        params.extend(extents.map(|extent| Param::Word(extent.into())));
        grid = [way.ctas.min(extents.iter().product()), 1, 1];
    }
    let mut record = [0u8; 16];
    if !compiled.checks.is_empty() {
        params.push(Param::Word(memory.lend(&mut record)));
    }
    for map in &compiled.tensor_maps {
        match tensor_map(&problem.tensors[map.tensor], map, addresses[map.tensor]) {
            Some(map) => params.push(Param::Map(map)),
            None => return emulate(problem, module, &way.without_maps()),
        }
    }
    let ptx = ptx_emu::Module::parse(&compiled.ptx).map_err(|error| error.to_string())?;
    let launch = Launch {
        shared_bytes: compiled.smem_bytes,
        seed: way.seed,
        max_instructions: 20_000_000,
        ..Launch::new(grid, compiled.num_threads)
    };
    let entry = ptx.entry(&compiled.entry).expect("the module has the kernel that it was made for");
    entry.run(&launch, &params, &mut memory).map_err(|fault| fault.to_string())?;
    drop(memory);
    if record != [0; 16] {
        return Err(format!("a check failed: {record:?}"));
    }
    let mut tensors = Vec::new();
    for (placed, buffer) in problem.tensors.iter().zip(&mut buffers) {
        let mut untouched = placed.buffer();
        let (before, after) = (bytes_of(&mut untouched), bytes_of(buffer));
        let Range { start, end } = placed.bytes();
        if before[..start] != after[..start] || before[end..] != after[end..] {
            return Err("something was written beside a tensor".into());
        }
        tensors.push(after[start..end].to_vec());
    }
    Ok(Some(Executed { ptx: compiled.ptx, tensors }))
}

/// The tensors' bytes after the kernel as the interpreter understands it.
fn interpret(problem: &Problem, module: &Module) -> Vec<Vec<u8>> {
    let mut tensors: Vec<_> = problem.tensors.iter().map(|placed| placed.tensor.clone()).collect();
    let mut args: Vec<Arg> = tensors.iter_mut().map(Arg::Tensor).collect();
    args.extend(problem.scalars.iter().map(|scalar| Arg::Scalar(*scalar)));
    let interpreter = Interpreter::new(module).expect("the kernel is of the tile dialect");
    interpreter.run(&mut args, problem.grid).unwrap_or_else(|e| panic!("{}: {e}", problem.kernel));
    tensors.into_iter().map(|tensor| tensor.data).collect()
}

/// What the tensor is after a run, compared with what it should be.
fn compare(placed: &Placed, tolerance: Tolerance, found: &[u8], expected: &[u8]) -> Result<(), String> {
    let [found, expected] = [found, expected].map(|bytes| placed.with(bytes));
    if placed.gaps(&found) != placed.gaps(&expected) {
        return Err("something was written between the tensor's rows".into());
    }
    let (found, expected) = (found.to_f64(), expected.to_f64());
    let largest = expected.iter().fold(0.0, |max, x| f64::max(max, x.abs()));
    let allowed = tolerance.allows(placed.tensor.dtype, largest);
    // Written so that NaN is wrong where a number is expected, and the other way around.
    let is_right = |f: f64, e: f64| f == e || (f - e).abs() <= allowed || f.is_nan() && e.is_nan();
    let wrong: Vec<usize> = (0..found.len()).filter(|&i| !is_right(found[i], expected[i])).collect();
    let Some(&first) = wrong.first() else { return Ok(()) };
    Err(format!(
        "{} of {} elements are wrong; number {first} is {:e} and should be {:e}, within {allowed:.1e}",
        wrong.len(),
        found.len(),
        found[first],
        expected[first]
    ))
}

/// Compares a problem's results; returns what was executed.
fn check(problem: &Problem, way: &Way) -> Result<Option<String>, String> {
    with_context(|context| {
        let module = kernel(context, problem.kernel, problem.dtype, &problem.consts);
        let Some(found) = emulate(problem, &module, way)? else { return Ok(None) };
        let expected = interpret(problem, &module);
        for (n, placed) in problem.tensors.iter().enumerate() {
            compare(placed, problem.tolerance, &found.tensors[n], &expected[n])
                .map_err(|what| format!("tensor {n}: {what}"))?;
        }
        Ok(Some(found.ptx))
    })
}

/// Runs one case; returns what was executed.
fn run(kernels: &[&'static str], number: u64) -> Result<Option<String>, String> {
    let mut draw = Draw::new(number);
    let name = draw.pick(kernels);
    let problem = Problem::draw(name, &mut draw);
    let way = way(&mut draw);
    check(&problem, &way).map_err(|what| format!("case {number}: {problem} {way}: {what}"))
}

/// The numbers of the cases to run, of which a test runs `usual` unless told otherwise.
fn cases(usual: u64) -> Range<u64> {
    let wanted = std::env::var("TILEWRIGHT_EMULATE_CASES").ok();
    let number = |text: &str| text.parse().expect("TILEWRIGHT_EMULATE_CASES is a number or a range");
    match wanted.as_deref().map(|text| (text, text.split_once(".."))) {
        None => 0..usual,
        Some((_, Some((start, end)))) => number(start)..number(end),
        Some((count, None)) => 0..number(count),
    }
}

/// Draws cases among some kernels of the zoo and reports all that fail. Some of them have each of `instructions`.
fn agree(kernels: &[&'static str], usual: u64, instructions: &[&str]) {
    let cases = cases(usual);
    let (mut executed, mut failed) = (0, 0);
    let mut missing = instructions.to_vec();
    for number in cases.clone() {
        match run(kernels, number) {
            Ok(Some(ptx)) => {
                executed += 1;
                missing.retain(|instruction| !ptx.contains(instruction));
            }
            Ok(None) => {}
            Err(failure) => {
                println!("{failure}");
                failed += 1;
            }
        }
    }
    let count = cases.end - cases.start;
    assert_eq!(failed, 0, "of {count} cases");
    if count >= usual {
        assert!(executed * 10 >= count * 8, "only {executed} of {count} cases fit");
        assert!(missing.is_empty(), "no case has {missing:?}");
    }
}

/// The kernels of the zoo, by what is alike in them.
const PRODUCTS: [&str; 8] = [
    "matmul",
    "scaled_lhs",
    "computed_rhs",
    "persistent",
    "outer_operand",
    "product_and_sums",
    "both_ways",
    "two_loops",
];
const NARROW: [&str; 5] = ["widened_rhs", "fp8_matmul", "narrow_weights", "scaled_product", "half_bytes"];
const ATTENTION: [&str; 1] = ["fmha"];
const CONTROL: [&str; 3] = ["powers", "branching", "paged"];
const KEPT: [&str; 1] = ["power_sums"];
const OTHERS: [&str; 8] =
    ["softmax", "column_means", "add", "scaled_whole", "swap_axes", "embed", "spread", "newton"];

#[test]
fn every_kernel_of_the_zoo_is_emulated() {
    let mut emulated = [&PRODUCTS[..], &NARROW, &ATTENTION, &CONTROL, &KEPT, &OTHERS].concat();
    let mut all = kernels();
    emulated.sort_unstable();
    all.sort_unstable();
    assert_eq!(emulated, all);
}

/// Instructions of copies and products, of all targets.
const COPIES: [&str; 6] = [
    "cp.async.ca.shared",
    "cp.async.cg.shared",
    "cp.async.bulk.tensor.2d.shared",
    "cp.async.bulk.tensor.2d.global",
    "mbarrier.try_wait",
    "ldmatrix",
];

#[test]
fn products_agree_with_the_interpreter() {
    agree(&PRODUCTS, 200, &[&COPIES[..], &["mma.sync", "wgmma.mma_async"]].concat());
}

#[test]
fn narrow_dtypes_agree_with_the_interpreter() {
    let products = ["mma.sync.aligned.m16n8k32.row.col.f32.e4m3", "mxf4nvf4", "wgmma.mma_async"];
    agree(&NARROW, 150, &products);
}

#[test]
fn attention_agrees_with_the_interpreter() {
    agree(&ATTENTION, 60, &["mma.sync", "wgmma.mma_async", "bar.sync", "shfl.sync"]);
}

#[test]
fn products_between_branches_and_stores_agree_with_the_interpreter() {
    agree(&CONTROL, 150, &["mma.sync", "wgmma.mma_async", "cp.async"]);
}

#[test]
fn kernels_without_products_agree_with_the_interpreter() {
    agree(&OTHERS, 200, &["shfl.sync", "bar.sync", "st.shared"]);
}

#[test]
fn bases_that_are_kept_agree_with_the_interpreter() {
    agree(&KEPT, 120, &["vote.sync.all", "shfl.sync", "createpolicy"]);
}

/// In some blocks all rows keep their bases, in some only a part: of a warp's lanes, too.
#[test]
fn bases_are_kept_in_some_rows_of_a_warp() {
    let mut draws = (0..).map(|number| Problem::draw("power_sums", &mut Draw::new(number)));
    let problem = draws
        .find(|problem| {
            let [rows, columns] = problem.tensors[0].tensor.shape[..] else { panic!("a matrix") };
            problem.consts == [("ROWS", 64), ("COLS", 32)] && rows >= 64 && columns > 96
        })
        .expect("draws go on");
    let raised = rows_that_raise_their_bases(&problem);
    let is_some = |count: &usize| (4..32).contains(count);
    assert!(raised[1..].contains(&0) && raised[1..].iter().any(is_some), "{raised:?}");
    for target in Target::all() {
        let way = Way { target, num_warps: 4, ..way(&mut Draw::new(0)) };
        let ptx = check(&problem, &way).unwrap_or_else(|what| panic!("{target}: {what}"));
        assert!(ptx.is_some_and(|ptx| ptx.contains("vote.sync.all")), "{target}");
    }
}

/// How many of the first 64 rows raise their bases in each block.
fn rows_that_raise_their_bases(problem: &Problem) -> Vec<usize> {
    let x = &problem.tensors[0].tensor;
    let [Scalar::F32(scale)] = problem.scalars[..] else { panic!("a scale") };
    let (columns, values) = (x.shape[1], x.to_f64());
    let mut raised = vec![0; columns.div_ceil(32)];
    for row in values.chunks(columns).take(64) {
        let mut base = f64::NEG_INFINITY;
        for (block, raised) in row.chunks(32).zip(&mut raised) {
            let max = block.iter().fold(f64::NEG_INFINITY, |max, x| max.max(x * f64::from(scale)));
            if max - base > 8.0 {
                (base, *raised) = (max, *raised + 1);
            }
        }
    }
    raised
}

/// Of 64 rows, eight warps hold each twice.
#[test]
fn one_of_the_warps_with_the_same_rows_writes_their_sum() {
    let mut draws = (0..).map(|number| Problem::draw("column_means", &mut Draw::new(number)));
    let one_column = |problem: &Problem| problem.consts == [("ROWS", 64), ("COLS", 1)];
    let problem = draws.find(one_column).expect("draws go on");
    for target in Target::all() {
        let way = Way { target, num_warps: 8, ..way(&mut Draw::new(0)) };
        let ptx = check(&problem, &way).unwrap_or_else(|what| panic!("{target}: {what}"));
        assert!(ptx.is_some_and(|ptx| ptx.contains("st.shared")), "{target}");
    }
}
