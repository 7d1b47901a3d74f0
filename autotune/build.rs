//! Puts the tables of `configs/` into the program, for where there is no such folder at run time.

use std::fmt::Write;
use std::path::{Path, PathBuf};

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut tables = Vec::new();
    for part in entries(&folder).into_iter().filter(|path| path.is_dir()) {
        // A table added to a folder changes the folder alone.
        println!("cargo::rerun-if-changed={}", part.display());
        let is_table = |path: &PathBuf| path.extension().is_some_and(|e| e == "toml");
        tables.extend(
            entries(&part).into_iter().filter(is_table).map(|table| (name(&part), name(&table), table)),
        );
    }
    let mut text = "/// The tables built into this program: the part, the kernel, the text.\n".to_owned();
    text += "const BUILT_IN_TABLES: &[(&str, &str, &str)] = &[\n";
    for (part, kernel, path) in tables {
        writeln!(text, "    ({part:?}, {kernel:?}, include_str!({path:?})),")
            .expect("a string takes any text");
    }
    text += "];\n";
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo names a folder"));
    std::fs::write(out.join("built_in_tables.rs"), text).expect("cargo's folder is writable");
}

fn name(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// What is in a folder, by name; nothing where there is no folder.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let read = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut entries: Vec<PathBuf> = read.map(|entry| entry.path()).collect();
    entries.sort();
    entries
}
