//! Compiled kernels on disk, shared by every process of a user.
//!
//! One file an entry, named by the hash of its key. A file is written beside its place and renamed into it, so that
//! readers see all of it or nothing; it carries its key and a checksum, and one that does not hold is as good as
//! absent. Nothing here can make a launch fail: a folder that cannot be used costs compilations.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Names the folder, or is `off`.
pub const CACHE_VARIABLE: &str = "TILEWRIGHT_CACHE";

/// Bounds the folder's size, in MiB.
pub const CACHE_SIZE_VARIABLE: &str = "TILEWRIGHT_CACHE_MIB";

/// What the folder may hold unless told otherwise.
const DEFAULT_BYTES: u64 = 512 << 20;

/// How a file starts; changes with the layout of entries.
const MAGIC: &[u8; 8] = b"TWJIT\0\0\x01";

/// A file under its final name.
const EXTENSION: &str = "kernel";

/// What a write under way is called; left behind by a process that was killed.
const UNFINISHED: &str = "unfinished-";

/// Age at which an unfinished file is nobody's any more.
const ABANDONED: Duration = Duration::from_secs(3600);

/// A folder of compiled kernels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskCache {
    folder: PathBuf,
    max_bytes: u64,
}

/// What a folder keeps of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry<T> {
    /// What code generation made.
    pub kernel: T,
    /// The assembled code, where an assembler made some.
    #[serde(skip)]
    pub cubin: Option<Vec<u8>>,
}

/// The head of a file.
#[derive(Serialize, Deserialize)]
struct Head<T> {
    key: String,
    entry: Entry<T>,
    cubin_bytes: Option<usize>,
}

impl DiskCache {
    /// A cache in a folder, which is made when something is written; it keeps to `max_bytes`.
    pub fn new(folder: PathBuf, max_bytes: u64) -> DiskCache {
        DiskCache { folder, max_bytes }
    }

    /// The cache that the environment asks for: in the folder that `TILEWRIGHT_CACHE` names, else in `tilewright`
    /// in the user's folder for caches; none when it is `off`, or there is no such folder. `TILEWRIGHT_CACHE_MIB`
    /// bounds its size, 512 if absent.
    pub fn from_environment() -> Option<DiskCache> {
        let (folder, size) = (std::env::var_os(CACHE_VARIABLE), std::env::var_os(CACHE_SIZE_VARIABLE));
        DiskCache::configured(folder.as_deref(), size.as_deref(), dirs::cache_dir())
    }

    /// As [`from_environment`](Self::from_environment), from these values.
    fn configured(folder: Option<&OsStr>, mib: Option<&OsStr>, user: Option<PathBuf>) -> Option<DiskCache> {
        let folder = match folder.filter(|name| !name.is_empty()) {
            Some(name) if name == "off" => return None,
            Some(name) => PathBuf::from(name),
            None => user?.join("tilewright"),
        };
        let mib = mib.and_then(OsStr::to_str).and_then(|text| text.trim().parse::<u64>().ok());
        Some(DiskCache::new(folder, mib.map_or(DEFAULT_BYTES, |mib| mib.saturating_mul(1 << 20))))
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The entry of a key; none when there is none that holds.
    pub fn get<T: for<'de> Deserialize<'de>>(&self, key: &str) -> Option<Entry<T>> {
        let path = self.path(key);
        let mut file = File::open(&path).ok()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        let entry = decode(&bytes, key);
        match entry {
            // What was read just now is the last to be thrown away. A folder that cannot be written keeps its order.
            Some(_) => drop(file.set_modified(SystemTime::now())),
            // Damaged: whoever compiles next writes it again.
            None => drop(fs::remove_file(&path)),
        }
        entry
    }

    /// Keeps an entry, and throws away what was used longest ago if the folder grows too large.
    ///
    /// # Errors
    /// When the folder cannot be written; nothing has changed then.
    pub fn put<T: Serialize + Clone>(&self, key: &str, entry: &Entry<T>) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.folder)?;
        file.write_all(&encode(key, entry))?;
        file.persist(self.path(key)).map_err(|error| error.error)?;
        self.prune()
    }

    fn path(&self, key: &str) -> PathBuf {
        let hash = Sha256::digest(key.as_bytes());
        let name: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        self.folder.join(name).with_extension(EXTENSION)
    }

    /// Removes what was used longest ago until the rest fits, and what killed processes left. Another process may
    /// do the same: a file that is gone is fine.
    fn prune(&self) -> io::Result<()> {
        let now = SystemTime::now();
        let mut kept = Vec::new();
        for file in fs::read_dir(&self.folder)?.flatten() {
            let Ok(facts) = file.metadata() else { continue };
            let modified = facts.modified().unwrap_or(now);
            let (name, path) = (file.file_name(), file.path());
            if path.extension() == Some(OsStr::new(EXTENSION)) {
                kept.push((modified, facts.len(), path));
            } else if name.to_string_lossy().starts_with(UNFINISHED)
                && now.duration_since(modified).is_ok_and(|age| age > ABANDONED)
            {
                remove(&path)?;
            }
        }
        let mut total: u64 = kept.iter().map(|(_, bytes, _)| bytes).sum();
        kept.sort();
        for (_, bytes, path) in kept {
            if total <= self.max_bytes {
                break;
            }
            remove(&path)?;
            total -= bytes;
        }
        Ok(())
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Magic, checksum of the rest, length of the head, head, cubin.
fn encode<T: Serialize + Clone>(key: &str, entry: &Entry<T>) -> Vec<u8> {
    let cubin = entry.cubin.as_deref();
    let head = Head { key: key.to_owned(), entry: entry.clone(), cubin_bytes: cubin.map(<[u8]>::len) };
    let head = serde_json::to_vec(&head).expect("an entry is plain data");
    let mut rest = (head.len() as u64).to_le_bytes().to_vec();
    rest.extend(head);
    rest.extend(cubin.unwrap_or_default());
    let mut file = MAGIC.to_vec();
    file.extend(Sha256::digest(&rest));
    file.extend(rest);
    file
}

/// The entry, if the file is whole and of this key.
fn decode<T: for<'de> Deserialize<'de>>(file: &[u8], key: &str) -> Option<Entry<T>> {
    let (checksum, rest) = file.strip_prefix(MAGIC)?.split_at_checked(32)?;
    if Sha256::digest(rest).as_slice() != checksum {
        return None;
    }
    let (length, rest) = rest.split_first_chunk::<8>()?;
    let (head, cubin) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let head: Head<T> = serde_json::from_slice(head).ok()?;
    if head.key != key || head.cubin_bytes.unwrap_or(0) != cubin.len() {
        return None;
    }
    Some(Entry { cubin: head.cubin_bytes.map(|_| cubin.to_vec()), ..head.entry })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str, cubin: Option<&[u8]>) -> Entry<String> {
        Entry { kernel: text.to_owned(), cubin: cubin.map(<[u8]>::to_vec) }
    }

    fn cache() -> (tempfile::TempDir, DiskCache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = DiskCache::new(folder.path().join("kernels"), 1 << 20);
        (folder, cache)
    }

    fn only_file(cache: &DiskCache) -> PathBuf {
        let files: Vec<_> = fs::read_dir(cache.folder()).unwrap().map(|file| file.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        files[0].clone()
    }

    #[test]
    fn entries_come_back_by_their_whole_key() {
        let (_folder, cache) = cache();
        assert_eq!(cache.get::<String>("a"), None);
        cache.put("a", &entry("ptx", Some(&[1, 2, 3]))).unwrap();
        cache.put("b", &entry("other", None)).unwrap();
        assert_eq!(cache.get("a"), Some(entry("ptx", Some(&[1, 2, 3]))));
        assert_eq!(cache.get("b"), Some(entry("other", None)));
        cache.put("a", &entry("newer", Some(&[]))).unwrap();
        assert_eq!(cache.get("a"), Some(entry("newer", Some(&[]))));
        // A file under another key's name is not taken for that key's.
        fs::copy(cache.path("b"), cache.path("c")).unwrap();
        assert_eq!(cache.get::<String>("c"), None);
    }

    #[test]
    fn damaged_files_are_absent_and_replaced() {
        let (_folder, cache) = cache();
        cache.put("a", &entry("some PTX", Some(&[7; 100]))).unwrap();
        let file = only_file(&cache);
        let whole = fs::read(&file).unwrap();
        let mut damaged: Vec<Vec<u8>> =
            (0..whole.len()).step_by(7).map(|length| whole[..length].to_vec()).collect();
        for place in (0..whole.len()).step_by(5) {
            let mut flipped = whole.clone();
            flipped[place] ^= 0x10;
            damaged.push(flipped);
        }
        damaged.push([&whole[..], &[0]].concat());
        for bytes in damaged {
            fs::write(&file, &bytes).unwrap();
            assert_eq!(cache.get::<String>("a"), None, "{} of {} bytes", bytes.len(), whole.len());
            assert!(!file.exists(), "a damaged file goes");
            cache.put("a", &entry("some PTX", None)).unwrap();
            assert_eq!(cache.get("a"), Some(entry("some PTX", None)));
        }
    }

    #[test]
    fn what_was_used_longest_ago_makes_room() {
        let (_folder, mut cache) = cache();
        let large = entry(&"x".repeat(1000), None);
        let names = ["a", "b", "c", "d"];
        for (age, name) in names.iter().enumerate() {
            cache.put(name, &large).unwrap();
            let file = File::options().write(true).open(cache.path(name)).unwrap();
            let hours = Duration::from_secs(3600 * (10 - age as u64));
            file.set_modified(SystemTime::now() - hours).unwrap();
        }
        // Reading the oldest makes it the newest.
        assert!(cache.get::<String>("a").is_some());
        cache.max_bytes = 4000;
        cache.put("e", &large).unwrap();
        let kept: Vec<_> = ["a", "b", "c", "d", "e"].into_iter().filter(|n| cache.path(n).exists()).collect();
        assert_eq!(kept, ["a", "d", "e"]);
        cache.max_bytes = 0;
        cache.put("f", &large).unwrap();
        assert_eq!(fs::read_dir(cache.folder()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_process_left_goes_when_it_is_old() {
        let (_folder, cache) = cache();
        cache.put("a", &entry("x", None)).unwrap();
        let fresh = cache.folder().join(format!("{UNFINISHED}1"));
        let old = cache.folder().join(format!("{UNFINISHED}2"));
        let foreign = cache.folder().join("README");
        for path in [&fresh, &old, &foreign] {
            fs::write(path, b"half of a kern").unwrap();
        }
        let long_ago = SystemTime::now() - ABANDONED * 2;
        for path in [&old, &foreign] {
            File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
        }
        cache.put("b", &entry("y", None)).unwrap();
        assert_eq!((fresh.exists(), old.exists(), foreign.exists()), (true, false, true));
        assert!(cache.get::<String>("a").is_some() && cache.get::<String>("b").is_some());
    }

    #[test]
    fn threads_read_whole_entries_while_others_write() {
        let (_folder, cache) = cache();
        let versions: Vec<_> = (0..4).map(|i| entry(&i.to_string().repeat(5000), Some(&[i; 3000]))).collect();
        cache.put("a", &versions[0]).unwrap();
        std::thread::scope(|scope| {
            for version in &versions {
                scope.spawn(|| (0..50).for_each(|_| cache.put("a", version).unwrap()));
                scope.spawn(|| {
                    for _ in 0..200 {
                        let found = cache.get::<String>("a").expect("there is always one");
                        assert!(versions.contains(&found));
                    }
                });
            }
        });
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error_of_put_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, b"").unwrap();
        let cache = DiskCache::new(file, 1 << 20);
        assert_eq!(cache.get::<String>("a"), None);
        assert!(cache.put("a", &entry("x", None)).is_err());
    }

    #[test]
    fn the_environment_says_where_and_how_large() {
        let configured = |folder: Option<&str>, mib: Option<&str>| {
            let user = Some(PathBuf::from("/home/u/.cache"));
            DiskCache::configured(folder.map(OsStr::new), mib.map(OsStr::new), user)
        };
        let at = |path: &str, bytes| Some(DiskCache::new(path.into(), bytes));
        assert_eq!(configured(None, None), at("/home/u/.cache/tilewright", DEFAULT_BYTES));
        assert_eq!(configured(Some(""), Some("many")), at("/home/u/.cache/tilewright", DEFAULT_BYTES));
        assert_eq!(configured(Some("/tmp/k"), Some("3")), at("/tmp/k", 3 << 20));
        assert_eq!(configured(Some("off"), Some("3")), None);
        assert_eq!(DiskCache::configured(None, None, None), None);
    }
}
