//! That the emulated GPU would see it: a kernel that loses any one of its waits, arrivals and fences is found out.

use codegen_ptx::{Compiled, Target};
use ptx_emu::{Launch, Memory, Module, Param, TensorMap};
use tile::jit::{self, TensorFacts};
use tile::{Bindings, DType};
use tilegym_kernels::matmul;

const N: usize = 128;

/// What keeps threads, copies and products in order. Each stands for itself in the text.
const ORDER: [&str; 12] = [
    "bar.sync",
    "fence.proxy.async.shared::cta;",
    "wgmma.fence.sync.aligned;",
    "wgmma.wait_group.sync.aligned",
    "mbarrier.arrive.shared::cta.b64",
    "mbarrier.arrive.expect_tx.shared::cta.b64",
    "mbarrier.try_wait.parity.shared::cta.b64",
    "cp.async.wait_group",
    "cp.async.bulk.wait_group",
    "barrier.cluster.arrive",
    "barrier.cluster.wait",
    "mbarrier.arrive.shared::cluster.b64",
];

fn compile(target: &'static Target, settings: &[(&str, i64)]) -> Compiled {
    let mut config = matmul::KERNEL.default_config();
    let all = [("TILE_N", 128), ("TILE_K", 64), ("RHS_IS_NK", 1)];
    all.iter().chain(settings).for_each(|(name, value)| config.set(name, *value));
    let dtypes = [("T", DType::BF16), ("O", DType::BF16)].map(|(name, dtype)| (name.to_owned(), dtype));
    let bindings = Bindings { consts: config.consts.clone(), dtypes: dtypes.into_iter().collect() };
    let facts = [TensorFacts::ALIGNED; 3];
    jit::compile(&matmul::KERNEL, &bindings, &config, target, &facts, false)
        .unwrap_or_else(|e| panic!("{e}"))
        .compiled
}

/// Small whole numbers, whose sums of products are exact.
fn values(seed: u32, count: usize) -> Vec<f32> {
    (0..count as u32).map(|i| ((i.wrapping_mul(2_654_435_761) ^ seed) >> 13 & 3) as f32 - 1.0).collect()
}

/// A tensor's bytes in 16-byte words, so that it is aligned.
fn words(values: &[f32]) -> Vec<u128> {
    let bits = |value: &f32| u128::from(half::bf16::from_f32(*value).to_bits());
    values.chunks(8).map(|c| c.iter().rev().fold(0, |word, value| word << 16 | bits(value))).collect()
}

/// Runs the text in place of the kernel's own, in blocks of so many of the product's rows; whether the product is right,
/// or what was wrong.
fn run(compiled: &Compiled, text: &str, [m, block]: [usize; 2], k: usize, seed: u64) -> Result<bool, String> {
    let (lhs, rhs) = (values(1, m * k), values(2, N * k));
    let product = |i: usize| (0..k).map(|at| lhs[i / N * k + at] * rhs[i % N * k + at]).sum::<f32>();
    let expected = words(&(0..m * N).map(product).collect::<Vec<_>>());
    let (mut lhs, mut rhs, mut out) = (words(&lhs), words(&rhs), vec![0u128; m * N / 8]);
    let mut memory = Memory::new();
    let (mut params, mut tensors) = (Vec::new(), Vec::new());
    for (words, [rows, columns]) in [(&mut lhs, [m, k]), (&mut rhs, [N, k]), (&mut out, [m, N])] {
        let address = memory.lend(bytemuck::cast_slice_mut(words));
        let extents = [rows, columns, columns, 1].map(|n| Param::Word(n as u64));
        params.push(Param::Word(address));
        params.extend(extents);
        tensors.push((address, [rows, columns]));
    }
    let grid = [m.div_ceil(block), N / 128, 1].map(|extent| extent as u32);
    let ctas = if compiled.persistent {
        params.extend(grid.map(|extent| Param::Word(extent.into())));
        [2, 1, 1]
    } else {
        grid
    };
    for map in &compiled.tensor_maps {
        let (address, shape) = tensors[map.tensor];
        let layout = (&shape[..], &[shape[1], 1][..]);
        let map = TensorMap::of_tensor(address, 16, layout, &map.box_shape, map.swizzle_bytes);
        params.push(Param::Map(map.expect("the tensors are aligned")));
    }
    let module = Module::parse(text).map_err(|e| e.to_string())?;
    let launch = Launch {
        shared_bytes: compiled.smem_bytes,
        seed,
        max_instructions: 1_000_000,
        ..Launch::new(ctas, compiled.num_threads)
    };
    let entry = module.entry(&compiled.entry).expect("the kernel");
    entry.run(&launch, &params, &mut memory).map_err(|fault| fault.to_string())?;
    drop(memory);
    Ok(out == expected)
}

/// The text without one instruction, which starts at `at`.
fn without(text: &str, at: usize) -> String {
    let end = at + text[at..].find(';').expect("instructions end") + 1;
    // A wait in a loop that tries again says yes at once.
    let again = text[at..end].starts_with("mbarrier.try_wait");
    let instead = if again { "setp.eq.b32 over, 0, 0;" } else { "" };
    // So does its guard: nothing is left to execute.
    let start = text[..at].rfind([';', '\n', '{']).map_or(0, |i| i + 1);
    let guard = text[start..at].find('@').map_or(at, |i| start + i);
    format!("{}{instead}{}", &text[..if again { at } else { guard }], &text[end..])
}

#[test]
fn whatever_keeps_order_is_missed() {
    let sm_80 = Target::from_name("sm_80").expect("a target");
    let sm_90 = Target::from_name("sm_90").expect("a target");
    let settings = |warps, stages, persistent, bulk, ctas| {
        let roles = [("num_warps", warps), ("num_stages", stages), ("persistent", persistent)];
        [&roles[..], &[("bulk_stores", bulk), ("num_ctas", ctas)]].concat()
    };
    // CTAs that walk over programs: others need not hand back the buffers of their last blocks.
    let kernels = [
        (sm_80, settings(4, 3, 0, 0, 1), [256, 64]),
        (sm_90, settings(4, 2, 1, 1, 1), [256, 64]),
        (sm_90, settings(8, 3, 1, 1, 1), [256, 64]),
        (sm_90, settings(4, 2, 0, 1, 2), [256, 64]),
        (sm_90, settings(8, 3, 1, 1, 2), [256, 64]),
        // Of the last block one of two warpgroups has no rows.
        (sm_90, settings(8, 2, 1, 1, 1), [320, 128]),
        (sm_90, settings(8, 2, 1, 1, 2), [448, 128]),
    ];
    let mut tried = 0;
    for (target, settings, rows) in kernels {
        let settings = [&[("TILE_M", rows[1] as i64)], &settings[..]].concat();
        let compiled = compile(target, &settings);
        assert_eq!(settings.last(), Some(&("num_ctas", compiled.num_ctas.into())));
        // Which buffer of a ring comes last decides what its end may reuse.
        let run = |text: &str, n: u64| run(&compiled, text, rows, [192, 256, 320][n as usize % 3], n);
        for n in 0..9 {
            assert_eq!(run(&compiled.ptx, n), Ok(true), "{target} {settings:?}");
        }
        for kind in ORDER {
            for (at, _) in compiled.ptx.match_indices(kind) {
                let text = without(&compiled.ptx, at);
                let line = compiled.ptx[..at].lines().count();
                let missed = (0..9).map(|n| run(&text, n)).find(|result| *result != Ok(true));
                assert!(missed.is_some(), "{target} {settings:?}: nobody misses `{kind}` in line {line}");
                tried += 1;
            }
        }
    }
    assert!(tried > 30, "only {tried} instructions were left out");
}
