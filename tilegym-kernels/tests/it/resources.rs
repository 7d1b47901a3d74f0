//! Every kernel's default configuration through the assembler, for every target: no spills, and no more registers
//! or shared memory than `tests/resources.toml` says. `TILE_BLESS=1` rewrites that file.

use crate::support::problem;
use codegen_ptx::{Ptxas, Target};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use tile::contract::{Contract, contracts};
use tile::jit::{self, TensorFacts};
use tile_lang::{Config, DType};

/// The most that a step of a problem takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resources {
    registers: u32,
    smem_bytes: usize,
}

/// The assembler whose reports `tests/resources.toml` holds; another allocates registers its own way.
const RATCHET_VERSION: &str = "13.0.88";

/// `kernel dtype sizes` to target to resources.
type Ratchet = BTreeMap<String, BTreeMap<String, Resources>>;

/// The problems whose default configurations are kept: each switch and exact size that changes the code. A launch
/// option among them is set in the configuration.
fn cases(contract: &dyn Contract) -> Vec<Vec<(&'static str, i64)>> {
    match contract.kernel().name {
        "fmha" => [64, 128]
            .into_iter()
            .flat_map(|dim| [0, 1].map(|causal| vec![("head_dim", dim), ("causal", causal)]))
            .chain([vec![("head_dim", 256), ("causal", 1)]])
            .collect(),
        "decode_attention" => {
            let caches = [(0, 0), (0, 64), (1, 16)];
            let case = |dim| {
                caches.map(|(f8, page)| {
                    vec![("head_dim", dim), ("f8_cache", f8), ("page_size", page), ("batch", 1)]
                })
            };
            [64, 128].into_iter().flat_map(case).collect()
        }
        "nvfp4_gemm" => [1, 16, 256]
            .into_iter()
            .flat_map(|m| [0, 1].map(|order| vec![("m", m), ("scales_128x4", order)]))
            .collect(),
        "nvfp4_gemm_scaled" => [0, 1].map(|order| vec![("scales_128x4", order)]).to_vec(),
        "nvfp4_quantize" => [0, 1].map(|order| vec![("scales_128x4", order)]).to_vec(),
        "fmha_varlen" => [128, 256].map(|dim| vec![("head_dim", dim), ("causal", 1)]).to_vec(),
        "fmha_extended" => [128, 256]
            .map(|dim| vec![("head_dim", dim), ("window", 1024), ("soft_cap", 1), ("sinks", 1)])
            .to_vec(),
        "matmul" | "matmul_splitk" => [0, 1].map(|is_nk| vec![("rhs_is_nk", is_nk)]).to_vec(),
        "linear" => [0, 1, 2, 3]
            .map(|activation| vec![("activation", activation)])
            .into_iter()
            .chain([vec![(TF32_WGMMA, 1)]])
            .collect(),
        "rope" => [0, 1].map(|interleaved| vec![("interleaved", interleaved)]).to_vec(),
        // A short row, one that is kept in registers, one of several blocks.
        "rms_norm" | "add_rms_norm" | "layer_norm" | "softmax" => {
            [100, 8192, 40000].map(|columns| vec![("columns", columns)]).to_vec()
        }
        _ => vec![Vec::new()],
    }
}

/// Matters to products of f32 alone.
const TF32_WGMMA: &str = "tf32_wgmma";

fn measure(
    contract: &dyn Contract,
    dtype: DType,
    sizes: &[(&str, i64)],
    target: &'static Target,
    assembler: &Ptxas,
) -> Resources {
    let (options, sizes): (Vec<_>, Vec<_>) =
        sizes.iter().copied().partition(|(name, _)| Config::is_switch(name));
    let problem = problem(contract, dtype, &sizes);
    let mut config = contract.default_config(&problem);
    options.into_iter().for_each(|(name, value)| config.set(name, value));
    let mut most = Resources { registers: 0, smem_bytes: 0 };
    for step in contract.steps(&problem, &config) {
        let facts = vec![TensorFacts::ALIGNED; step.tensors().count()];
        let compiled = jit::compile(step.kernel, &step.bindings, &step.config, target, &facts, false)
            .unwrap_or_else(|e| panic!("{problem:?}: {e}"))
            .compiled;
        let report = assembler.assemble(&compiled.ptx, target).unwrap_or_else(|e| panic!("{problem:?}: {e}"));
        let spills = report.spill_store_bytes + report.spill_load_bytes;
        assert_eq!(spills, 0, "{problem:?} {config:?} spills for {target}");
        most.registers = most.registers.max(report.registers);
        most.smem_bytes = most.smem_bytes.max(compiled.smem_bytes);
    }
    most
}

#[test]
fn default_configurations_fit_every_target() {
    let assembler = match Ptxas::find(None) {
        Ok(found) => found,
        Err(error) => {
            let reason = error.to_string();
            let reason = reason.lines().next().unwrap_or_default();
            writeln!(std::io::stderr(), "SKIPPED default_configurations_fit_every_target: {reason}").unwrap();
            return;
        }
    };
    let mut found = Ratchet::new();
    for contract in contracts() {
        for &dtype in contract.dtypes() {
            let is_idle = |(name, _): &(&str, i64)| *name == TF32_WGMMA && dtype != DType::F32;
            for sizes in cases(contract).into_iter().filter(|sizes| !sizes.iter().any(is_idle)) {
                let sizes_text: Vec<_> =
                    sizes.iter().map(|(name, value)| format!("{name}={value}")).collect();
                let case = format!("{} {dtype} {}", contract.kernel().name, sizes_text.join(" "));
                let row = found.entry(case).or_default();
                for target in Target::all() {
                    row.insert(target.to_string(), measure(contract, dtype, &sizes, target, &assembler));
                }
            }
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/resources.toml");
    if std::env::var_os("TILE_BLESS").is_some() {
        std::fs::write(&path, toml::to_string(&found).expect("plain tables")).expect("the file is writable");
        return;
    }
    if !assembler.version().is_some_and(|v| v.contains(RATCHET_VERSION)) {
        let mut err = std::io::stderr();
        writeln!(err, "SKIPPED comparison with the ratchet: it holds for ptxas {RATCHET_VERSION}").unwrap();
        return;
    }
    let allowed: Ratchet = toml::from_str(&std::fs::read_to_string(&path).expect("the ratchet is there"))
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    for (case, targets) in &found {
        for (target, resources) in targets {
            let limit = allowed.get(case).and_then(|row| row.get(target));
            let limit = limit.unwrap_or_else(|| panic!("no entry for {case} on {target}; bless the file"));
            let within = resources.registers <= limit.registers && resources.smem_bytes <= limit.smem_bytes;
            assert!(within, "{case} on {target}: {resources:?}, the ratchet allows {limit:?}");
        }
    }
}
