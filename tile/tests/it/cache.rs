//! Compiled kernels on disk: found again, never mistaken, whole whatever happens to the process that writes them.

use codegen_ptx::Ptxas;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tile::jit::disk::DiskCache;
use tile::jit::{Artifact, Assembler, TensorFacts, obtain};
use tile::prelude::*;
use tile::registry::KernelDef;
use tile::{Bindings, Config};

/// y = a x.
#[tile_kernel(tune(TILE in [32, 64]))]
pub fn scale<T: Float, const TILE: usize>(x: Tensor<T, 1>, y: TensorMut<T, 1>, a: f32) {
    let i = program_id(0);
    y.store([i], (x.load([i], [TILE]).cast::<f32>() * a).cast::<T>());
}

/// y = -a x.
#[tile_kernel(tune(TILE in [32, 64]))]
pub fn unscale<T: Float, const TILE: usize>(x: Tensor<T, 1>, y: TensorMut<T, 1>, a: f32) {
    let i = program_id(0);
    y.store([i], (x.load([i], [TILE]).cast::<f32>() * -a).cast::<T>());
}

/// What a compilation depends on.
#[derive(Clone)]
struct Request {
    kernel: &'static KernelDef,
    dtype: tile::DType,
    config: Config,
    target: &'static str,
    facts: TensorFacts,
}

impl Request {
    fn new() -> Request {
        let (kernel, config) = (&scale::KERNEL, scale::KERNEL.default_config());
        let (dtype, target) = (tile::DType::F16, "sm_90");
        Request { kernel, dtype, config, target, facts: TensorFacts::ALIGNED }
    }

    fn obtain(&self, folder: &Path) -> Artifact {
        self.obtain_with(folder, None)
    }

    fn obtain_with(&self, folder: &Path, assembler: Option<&Assembler>) -> Artifact {
        let disk = DiskCache::new(folder.to_owned(), 64 << 20);
        let bindings = Bindings {
            consts: self.config.consts.clone(),
            dtypes: [("T".to_owned(), self.dtype)].into_iter().collect(),
        };
        let target = codegen_ptx::Target::from_name(self.target).unwrap();
        let facts = [self.facts; 2];
        obtain(self.kernel, &bindings, &self.config, target, &facts, Some(&disk), assembler).unwrap()
    }
}

#[test]
fn a_second_process_would_find_what_the_first_compiled() {
    let folder = tempfile::tempdir().unwrap();
    let first = Request::new().obtain(folder.path());
    assert!(!first.cached && first.remarks.is_empty(), "{:?}", first.remarks);
    let second = Request::new().obtain(folder.path());
    assert!(second.cached);
    assert_eq!(second.compiled, first.compiled);
}

#[test]
fn whatever_decides_the_code_is_part_of_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let base = Request::new();
    assert!(!base.obtain(folder.path()).cached);
    let change = |change: fn(&mut Request)| {
        let mut request = base.clone();
        change(&mut request);
        request
    };
    let others = [
        change(|r| r.kernel = &unscale::KERNEL),
        change(|r| r.dtype = tile::DType::BF16),
        change(|r| r.config.set("TILE", 64)),
        change(|r| r.config.num_warps = 2),
        change(|r| r.config.num_stages = 3),
        change(|r| r.target = "sm_80"),
        change(|r| r.facts.align_bytes = 4),
        change(|r| r.facts.contiguous = false),
    ];
    for (number, other) in others.iter().enumerate() {
        assert!(!other.obtain(folder.path()).cached, "request {number} is its own");
        assert!(other.obtain(folder.path()).cached, "request {number} is kept");
    }
    // For which SM a configuration was tuned does not change its code.
    assert!(change(|r| r.config.tuned_for = Some("sm_90")).obtain(folder.path()).cached);
    assert!(base.obtain(folder.path()).cached);
}

#[test]
fn a_damaged_file_is_compiled_anew() {
    let folder = tempfile::tempdir().unwrap();
    let whole = Request::new().obtain(folder.path());
    let file = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let damages: [fn(&mut Vec<u8>); 2] = [|bytes| bytes.truncate(bytes.len() / 2), |bytes| bytes[200] ^= 1];
    for damage in damages {
        let mut bytes = std::fs::read(&file).unwrap();
        damage(&mut bytes);
        std::fs::write(&file, bytes).unwrap();
        let again = Request::new().obtain(folder.path());
        assert_eq!((again.cached, &again.compiled.ptx), (false, &whole.compiled.ptx));
        assert!(Request::new().obtain(folder.path()).cached);
    }
}

#[test]
fn a_folder_that_cannot_be_written_costs_a_remark() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, b"in the way").unwrap();
    let artifact = Request::new().obtain(&file);
    assert!(!artifact.cached && artifact.compiled.ptx.contains(".entry"));
    assert!(artifact.remarks[0].starts_with("not kept in "), "{:?}", artifact.remarks);
}

#[test]
fn machine_code_is_kept_too() {
    let Ok(ptxas) = Ptxas::find(None) else {
        let message = "SKIPPED machine_code_is_kept_too: there is no ptxas; `./x setup` installs it";
        writeln!(std::io::stderr(), "{message}").expect("standard error is writable");
        return;
    };
    let (folder, assembler) = (tempfile::tempdir().unwrap(), Assembler::new(ptxas).unwrap());
    let plain = Request::new().obtain(folder.path());
    assert_eq!(plain.cubin, None);
    let first = Request::new().obtain_with(folder.path(), Some(&assembler));
    assert!(!first.cached, "what the driver is to assemble is another entry");
    assert!(first.cubin.as_ref().unwrap().starts_with(b"\x7fELF"));
    let second = Request::new().obtain_with(folder.path(), Some(&assembler));
    assert_eq!((second.cached, second.cubin), (true, first.cubin));
}

/// An assembler of some release that says `log` to whatever it is given, and counts how often it is asked.
#[cfg(unix)]
fn refusing(folder: &Path, version: &str, log: &str) -> Assembler {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join("ptxas");
    let asked = folder.join("asked");
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = --version ]; then echo 'release {version}, V{version}.1'; exit 0; fi\n\
         echo asked >> '{}'\necho \"{log}\" >&2\nexit 1\n",
        asked.display()
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    Assembler::new(Ptxas::find(Some(&path)).unwrap()).unwrap()
}

#[cfg(unix)]
#[test]
fn an_assembler_that_is_too_old_leaves_it_to_the_driver() {
    let (bin, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = "ptxas kernel.ptx, line 1; fatal   : Unsupported .version 9.0; current version is '8.4'";
    let assembler = refusing(bin.path(), "12.4", log);
    let first = Request::new().obtain_with(folder.path(), Some(&assembler));
    assert_eq!(first.cubin, None);
    assert!(first.remarks[0].contains("ptxas 12.4.1 is too old for sm_90"), "{:?}", first.remarks);
    let mut other = Request::new();
    other.config.num_warps = 2;
    other.obtain_with(folder.path(), Some(&assembler));
    assert_eq!(std::fs::read_to_string(bin.path().join("asked")).unwrap(), "asked\n", "it is asked once");
    let again = Request::new().obtain_with(folder.path(), Some(&assembler));
    assert_eq!((again.cached, &again.remarks), (true, &first.remarks));
}

#[cfg(unix)]
#[test]
fn an_assembler_that_fails_is_asked_again() {
    let (bin, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let assembler = refusing(bin.path(), "13.0", "no space left on device");
    for asked in 1..=2 {
        let artifact = Request::new().obtain_with(folder.path(), Some(&assembler));
        assert_eq!((artifact.cached, &artifact.cubin), (false, &None));
        assert!(artifact.remarks[0].contains("no space left on device"), "{:?}", artifact.remarks);
        let log = std::fs::read_to_string(bin.path().join("asked")).unwrap();
        assert_eq!(log, "asked\n".repeat(asked));
    }
}

/// The folder that the child processes of the tests below write to.
const FOLDER: &str = "TILEWRIGHT_TEST_CACHE_FOLDER";

/// This test binary again, running [`child`].
fn start_child(folder: &Path) -> std::process::Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "cache::child", "--ignored"]).env(FOLDER, folder);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
#[ignore = "the child process of other tests"]
fn child() {
    let folder = std::env::var_os(FOLDER).expect("run by the tests that start it");
    let disk = DiskCache::new(folder.into(), 64 << 20);
    let compiled = Request::new().obtain(disk.folder()).compiled;
    for round in 0..400u32 {
        let entry =
            tile::jit::disk::Entry { kernel: compiled.clone(), cubin: Some(vec![round as u8; 200_000]) };
        disk.put(&format!("shared {}", round % 4), &entry).unwrap();
    }
}

/// Entries that children write are whole: every byte of a cubin is one number.
fn check_shared(folder: &Path) -> usize {
    let disk = DiskCache::new(folder.to_owned(), 64 << 20);
    let entries = (0..4).filter_map(|i| disk.get::<codegen_ptx::Compiled>(&format!("shared {i}")));
    entries
        .map(|entry| {
            let cubin = entry.cubin.unwrap();
            assert!(cubin.len() == 200_000 && cubin.iter().all(|byte| *byte == cubin[0]));
        })
        .count()
}

#[test]
fn two_processes_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let mut children = [start_child(folder.path()), start_child(folder.path())];
    while children.iter_mut().any(|child| child.try_wait().unwrap().is_none()) {
        check_shared(folder.path());
    }
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(check_shared(folder.path()), 4);
    assert!(Request::new().obtain(folder.path()).cached, "what one compiled the other and this one find");
}

#[test]
fn a_killed_process_leaves_whole_entries() {
    let folder = tempfile::tempdir().unwrap();
    for delay_ms in [150, 210, 290] {
        let mut child = start_child(folder.path());
        std::thread::sleep(Duration::from_millis(delay_ms));
        child.kill().unwrap();
        child.wait().unwrap();
        check_shared(folder.path());
    }
    let artifact = Request::new().obtain(folder.path());
    assert!(artifact.compiled.ptx.contains(".entry"));
}
