//! Tells builds of the compiler apart, so that what one compiled is never taken for another's work.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::{env, fs};

/// What decides which code comes out: the compiler's crates, where they are beside this one.
const SOURCES: [&str; 4] = ["src/jit", "../tile-lang/src", "../tile-ir/src", "../codegen-ptx/src"];

fn main() {
    let mut hasher = DefaultHasher::new();
    for source in SOURCES.map(Path::new) {
        if source.exists() {
            println!("cargo::rerun-if-changed={}", source.display());
            add(source, &mut hasher);
        }
    }
    for variable in ["CARGO_PKG_VERSION", "TARGET", "PROFILE", "OPT_LEVEL"] {
        env::var_os(variable).hash(&mut hasher);
    }
    println!("cargo::rustc-env=TILEWRIGHT_BUILD={:016x}", hasher.finish());
}

/// Adds the names and contents of a folder's files, in a fixed order.
fn add(path: &Path, hasher: &mut DefaultHasher) {
    if path.is_dir() {
        let entries = fs::read_dir(path).expect("a folder of sources is readable");
        let mut entries: Vec<_> = entries.map(|entry| entry.expect("so are its entries").path()).collect();
        entries.sort();
        entries.iter().for_each(|entry| add(entry, hasher));
    } else {
        path.to_string_lossy().hash(hasher);
        fs::read(path).expect("a source is readable").hash(hasher);
    }
}
