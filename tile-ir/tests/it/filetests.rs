//! Runs `tests/filetests/*.mlir`: a header line says what to do, the comment block at the end what comes out.
//!
//! `// run: canonicalize, cse` runs passes and expects the module; `// verify` expects the violations.
//! `TILE_BLESS=1` writes what came out into the files.

use std::path::Path;
use tile_ir::{Module, passes, run_passes, verify, with_context};

const EXPECTED: &str = "\n// expected:\n";

fn run_one(path: &Path, text: &str) -> String {
    let header = text.lines().find(|l| l.starts_with("// run:") || l.starts_with("// verify"));
    let header = header.unwrap_or_else(|| panic!("{path:?} has no `// run:` or `// verify` line"));
    with_context(|c| {
        let mut module = Module::parse(c, text).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let Some(names) = header.strip_prefix("// run:") else {
            let error = verify(&module).expect_err("a `// verify` test breaks a rule");
            return error.violations.iter().map(|v| format!("{v}\n")).collect();
        };
        for name in names.split(',').map(str::trim) {
            let pass = passes::ALL_PASSES.iter().find(|p| p.name == name);
            let pass = pass.unwrap_or_else(|| panic!("{path:?}: no pass is named {name}"));
            run_passes(&mut module, &[*pass]).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        }
        module.to_text()
    })
}

#[test]
fn filetests() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/filetests");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    let mut wrong = Vec::new();
    for path in &paths {
        let text = std::fs::read_to_string(path).unwrap();
        let (input, expected) = text.split_once(EXPECTED).unwrap_or((&text, ""));
        let found = run_one(path, input);
        let found: String =
            found.trim_end().lines().map(|l| format!("// {l}").trim_end().to_owned() + "\n").collect();
        if found == expected {
            continue;
        }
        if std::env::var_os("TILE_BLESS").is_some() {
            std::fs::write(path, format!("{}{EXPECTED}{found}", input.trim_end().to_owned() + "\n")).unwrap();
        } else {
            wrong.push(format!("{}:\n{found}", path.display()));
        }
    }
    assert!(paths.len() >= 5, "the filetests are gone");
    assert!(wrong.is_empty(), "other output than expected (TILE_BLESS=1 accepts it):\n{}", wrong.join("\n"));
}
