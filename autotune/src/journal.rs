//! What a sweep has found so far, on disk, so that an interrupted one resumes where it was.

use crate::files::FileError;
use crate::record::Outcome;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// What compiling and assembling one candidate gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Finding {
    /// It compiled.
    Compiled {
        /// Dynamic shared memory of a CTA in bytes.
        smem_bytes: usize,
        /// Registers a thread and bytes it spills, where there is an assembler.
        assembled: Option<(u32, u32)>,
    },
    /// It did not.
    Rejected {
        /// Pruned or failed.
        outcome: Outcome,
        /// Why.
        reason: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Entry {
    key: String,
    config: IndexMap<String, i64>,
    finding: Finding,
}

/// The journal of one sweep: a line of JSON a candidate. It is removed when the sweep's record is written.
pub struct Journal {
    path: PathBuf,
    key: String,
    found: HashMap<String, Finding>,
    file: Mutex<File>,
}

impl Journal {
    /// Opens the journal; what other sweeps left, those of another `key`, is dropped.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn open(path: PathBuf, key: String) -> Result<Journal, FileError> {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(FileError::Read { path, source }),
        };
        // A line that an interruption cut short does not parse, and is tried again.
        let entries = text.lines().filter_map(|line| serde_json::from_str::<Entry>(line).ok());
        let entries: Vec<Entry> = entries.filter(|e| e.key == key).collect();
        let kept: String =
            entries.iter().filter_map(|e| Some(serde_json::to_string(e).ok()? + "\n")).collect();
        crate::files::write_atomically(&path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path);
        let file = file.map_err(|source| FileError::Write { path: path.clone(), source })?;
        let found = entries.into_iter().map(|e| (name(&e.config), e.finding)).collect();
        Ok(Journal { path, key, found, file: Mutex::new(file) })
    }

    /// What an earlier run found of a candidate.
    pub fn find(&self, config: &IndexMap<String, i64>) -> Option<&Finding> {
        self.found.get(&name(config))
    }

    /// How many candidates an earlier run left.
    pub fn resumed(&self) -> usize {
        self.found.len()
    }

    /// Adds a candidate.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add(&self, config: &IndexMap<String, i64>, finding: &Finding) -> Result<(), FileError> {
        let error = |source| FileError::Write { path: self.path.clone(), source };
        let entry = Entry { key: self.key.clone(), config: config.clone(), finding: finding.clone() };
        let line = serde_json::to_string(&entry).map_err(|e| error(e.into()))? + "\n";
        let mut file = self.file.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        file.write_all(line.as_bytes()).map_err(error)
    }

    /// Removes the journal, its sweep being complete.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn finish(self) -> Result<(), FileError> {
        std::fs::remove_file(&self.path)
            .map_err(|source| FileError::Write { path: self.path.clone(), source })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn name(config: &IndexMap<String, i64>) -> String {
    config.iter().map(|(name, value)| format!("{name}={value} ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_sweep_resumes() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("journal");
        let config = |v| IndexMap::from([("TILE_M".to_owned(), v)]);
        let finding = Finding::Compiled { smem_bytes: 16, assembled: Some((32, 0)) };
        let open = |key: &str| Journal::open(path.clone(), key.to_owned()).expect("opens");
        let journal = open("a");
        journal.add(&config(64), &finding).expect("written");
        drop(journal);
        let cut = std::fs::read_to_string(&path).expect("text");
        std::fs::write(&path, format!("{cut}{}", &cut[..cut.len() / 2])).expect("written");

        let journal = open("a");
        assert_eq!((journal.find(&config(64)), journal.resumed()), (Some(&finding), 1));
        assert_eq!(journal.find(&config(32)), None);
        journal.finish().expect("removed");
        assert!(!path.exists());
        assert_eq!(open("b").resumed(), 0);
    }
}
