//! Every entry of the repository's tables, compiled for every target and assembled.

use crate::support::{repository_ptxas, skipped};
use autotune::configs::Configs;
use autotune::error::TuneError;
use autotune::record::complete;
use autotune::subject::{Subject, label};
use codegen_ptx::{Ptxas, Target};
use indexmap::IndexMap;
use std::path::Path;
// Linking the crate registers its kernels.
use tilegym_kernels as _;

#[test]
fn every_table_entry_assembles_or_is_refused_for_want_of_room() {
    let Some(ptxas) = repository_ptxas() else {
        return skipped("every_table_entry_assembles_or_is_refused_for_want_of_room", "no ptxas");
    };
    let assembler = Ptxas::find(Some(Path::new(&ptxas))).unwrap_or_else(|e| panic!("{e}"));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let configs = Configs::open(Some(&folder)).unwrap_or_else(|e| panic!("{e}"));
    let mut entries = 0;
    for contract in tile::contract::contracts() {
        let subject = Subject::new(contract, None, &IndexMap::new()).unwrap_or_else(|e| panic!("{e}"));
        let candidates = subject.candidates().unwrap_or_else(|e| panic!("{e}"));
        for home in Target::all() {
            for record in configs.table(&subject, home).unwrap_or_else(|e| panic!("{e}")).records {
                if record.is_stale(&subject.source_hash()) {
                    // Nobody uses it, and the kernel may have lost what it names.
                    continue;
                }
                entries += 1;
                let subject = Subject::new(contract, record.dtype, &IndexMap::new());
                let subject = subject.unwrap_or_else(|e| panic!("{e}"));
                let agrees = |c: &&tile::Config| record.config.iter().all(|(n, v)| c.get(n) == Some(*v));
                let mut agreeing: Vec<_> = candidates.iter().filter(agrees).cloned().collect();
                if agreeing.is_empty() {
                    // It names options that are no part of the space.
                    agreeing.extend(complete(&record.config, &candidates, |_| 0));
                }
                for target in Target::all() {
                    let mut assembled = 0;
                    for config in &agreeing {
                        let builds = match subject.build(config, target, false) {
                            Ok(builds) => builds,
                            Err(TuneError::Lower { source, .. }) if !source.is_bug() => continue,
                            Err(error) => panic!("{} for {target}: {error}", label(config)),
                        };
                        for build in builds {
                            let report = assembler.assemble(&build.compiled.ptx, target);
                            report.unwrap_or_else(|e| panic!("{} for {target}: {e}", label(config)));
                        }
                        assembled += 1;
                    }
                    assert!(
                        assembled > 0 || target != home,
                        "{:?} does not assemble for {home}",
                        record.config
                    );
                }
            }
        }
    }
    assert!(entries >= 3, "the vendor's rows are in the tables");
}
