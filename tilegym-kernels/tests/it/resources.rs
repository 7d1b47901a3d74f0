//! Every kernel's default configuration through the assembler, for every target: no spills, and no more registers
//! or shared memory than `tests/resources.toml` says. `TILE_BLESS=1` rewrites that file.

use crate::support::problem;
use codegen_ptx::{CompileOptions, Ptxas, Target, TensorFacts, compile, with_context};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use tile::contract::{Contract, Role, contracts};
use tile_lang::DType;
use tile_lang::config::TensorFacts as Facts;

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

/// The problems whose default configurations are kept: each switch and exact size that changes the code.
fn cases(contract: &dyn Contract) -> Vec<Vec<(&'static str, i64)>> {
    match contract.kernel().name {
        "fmha" => [64, 128]
            .into_iter()
            .flat_map(|dim| [0, 1].map(|causal| vec![("head_dim", dim), ("causal", causal)]))
            .collect(),
        "matmul" => [0, 1].map(|is_nk| vec![("rhs_is_nk", is_nk)]).to_vec(),
        _ => vec![Vec::new()],
    }
}

fn measure(
    contract: &dyn Contract,
    dtype: DType,
    sizes: &[(&str, i64)],
    target: &'static Target,
    assembler: &Ptxas,
) -> Resources {
    let problem = problem(contract, dtype, sizes);
    let config = contract.default_config(&problem);
    let program =
        contract.kernel().instantiate(&contract.bindings(&problem, &config)).expect("a valid kernel");
    let specs = contract.tensors(&problem);
    assert!(specs.iter().any(|s| s.role == Role::Output), "a kernel writes something");
    let aligned = |s: &tile::contract::TensorSpec| {
        TensorFacts::known(&Facts::ALIGNED, s.shape.len(), s.dtype.bits() as usize / 8)
    };
    let options = CompileOptions::new(target, &config, specs.iter().map(aligned).collect());
    let compiled = with_context(|context| {
        let facts = vec![Facts::ALIGNED; specs.len()];
        let mut module = tile_ir::lower_program(&program, &facts, context).expect("the kernel lowers");
        tile_ir::run_passes(&mut module, tile_ir::STANDARD_PASSES).expect("the passes keep the module valid");
        compile(&module, &options).unwrap_or_else(|e| panic!("{problem:?} for {target}: {e}"))
    });
    let report = assembler.assemble(&compiled.ptx, target).unwrap_or_else(|e| panic!("{problem:?}: {e}"));
    let spills = report.spill_store_bytes + report.spill_load_bytes;
    assert_eq!(spills, 0, "{problem:?} {config:?} spills for {target}");
    Resources { registers: report.registers, smem_bytes: compiled.smem_bytes }
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
            for sizes in cases(contract) {
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
