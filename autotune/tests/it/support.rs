//! Running the command in a folder of its own.

use safetensors::tensor::{Dtype, TensorView};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder for one test, with a copy of the repository's tables.
pub struct Place {
    folder: tempfile::TempDir,
}

/// What a run of the command gave.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Place {
    pub fn new() -> Place {
        let place = Place { folder: tempfile::tempdir().expect("a folder") };
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs"), &place.path("configs"));
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap_or_else(|e| panic!("{name}: {e}"));
    }

    /// Runs the command here, with this folder's tables.
    pub fn run(&self, args: &[&str]) -> Ran {
        let output = Command::new(env!("CARGO_BIN_EXE_tile-tune"))
            .args(args)
            .current_dir(self.folder.path())
            .env_remove("TILEWRIGHT_CONFIGS")
            .output()
            .expect("the command runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ran { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// Runs the command, which must fail with this code, say all of `needles`, and not panic.
    pub fn fails(&self, args: &[&str], code: i32, needles: &[&str]) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, code, "{args:?}: {ran:#?}");
        assert!(!ran.err.contains("panicked"), "{ran:#?}");
        for needle in needles {
            assert!(ran.err.contains(needle), "{args:?} should say {needle:?}: {}", ran.err);
        }
        ran
    }

    /// Every file below this folder, to see that nothing was left behind.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
                match entry.path().is_dir() {
                    true => folders.push(entry.path()),
                    false => files.push(entry.path()),
                }
            }
        }
        files.sort();
        files
    }

    /// Writes f32 tensors, each with values that differ along every dimension.
    pub fn tensors(&self, name: &str, tensors: &[(&str, &[usize])]) {
        let data: Vec<Vec<u8>> = tensors
            .iter()
            .map(|(_, shape)| {
                let count: usize = shape.iter().product();
                (0..count).flat_map(|i| ((i * 29 % 64) as f32 / 32.0 - 1.0).to_le_bytes()).collect()
            })
            .collect();
        let views = tensors.iter().zip(&data).map(|((name, shape), data)| {
            (*name, TensorView::new(Dtype::F32, shape.to_vec(), data).expect("a tensor"))
        });
        safetensors::serialize_to_file(views.collect::<Vec<_>>(), None, &self.path(name)).expect("written");
    }
}

/// What the command printed with `--json`.
pub fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// The assembler in the repository's tools folder or on the `PATH`.
pub fn repository_ptxas() -> Option<String> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/nvidia");
    let mut found: Vec<PathBuf> = std::fs::read_dir(tools)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path().join("bin/ptxas"))
        .collect();
    let path = std::env::var_os("PATH").unwrap_or_default();
    found.extend(std::env::split_paths(&path).map(|folder| folder.join("ptxas")));
    found.into_iter().find(|f| f.is_file()).and_then(|f| f.to_str().map(str::to_owned))
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("the tables").flatten() {
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => {
                std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
            }
        }
    }
}

/// Says that a test does not run here, past the harness, so that it is counted.
pub fn skipped(test: &str, reason: &str) {
    use std::io::Write;
    writeln!(std::io::stderr(), "SKIPPED {test}: {reason}").expect("standard error is writable");
}
