//! What a sweep has found so far, on disk, so that an interrupted one resumes where it was.

use crate::files::FileError;
use indexmap::IndexMap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

#[derive(Serialize, Deserialize)]
struct Entry {
    key: String,
    stage: String,
    config: IndexMap<String, i64>,
    finding: Value,
}

/// The journal of one sweep: a line of JSON a finding. It is removed when the sweep's record is written.
pub struct Journal {
    path: PathBuf,
    key: String,
    /// What was there when it was opened, by stage and configuration.
    found: HashMap<(String, String), Vec<Value>>,
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
        let mut found: HashMap<_, Vec<Value>> = HashMap::new();
        for entry in entries {
            found.entry((entry.stage, name(&entry.config))).or_default().push(entry.finding);
        }
        Ok(Journal { path, key, found, file: Mutex::new(file) })
    }

    /// What earlier runs found of a candidate at a stage, first to last.
    pub fn find<T: DeserializeOwned>(&self, stage: &str, config: &IndexMap<String, i64>) -> Vec<T> {
        let found = self.found.get(&(stage.to_owned(), name(config)));
        found.into_iter().flatten().filter_map(|v| serde_json::from_value(v.clone()).ok()).collect()
    }

    /// Of how many candidates an earlier run left something.
    pub fn resumed(&self) -> usize {
        let configs: std::collections::HashSet<&String> =
            self.found.keys().map(|(_, config)| config).collect();
        configs.len()
    }

    /// Adds what was found of a candidate at a stage.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add<T: Serialize>(
        &self,
        stage: &str,
        config: &IndexMap<String, i64>,
        finding: &T,
    ) -> Result<(), FileError> {
        let error = |source| FileError::Write { path: self.path.clone(), source };
        let finding = serde_json::to_value(finding).map_err(|e| error(e.into()))?;
        let (key, stage) = (self.key.clone(), stage.to_owned());
        let entry = Entry { key, stage, config: config.clone(), finding };
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
        let open = |key: &str| Journal::open(path.clone(), key.to_owned()).expect("opens");
        let found = |journal: &Journal, stage: &str, v| journal.find::<Vec<f64>>(stage, &config(v));
        let journal = open("a");
        journal.add("time", &config(64), &[1.5, 1.0 / 3.0]).expect("written");
        journal.add("time", &config(64), &[2.0]).expect("written");
        drop(journal);
        let cut = std::fs::read_to_string(&path).expect("text");
        std::fs::write(&path, format!("{cut}{}", &cut[..cut.len() / 4])).expect("written");

        let journal = open("a");
        assert_eq!(found(&journal, "time", 64), [vec![1.5, 1.0 / 3.0], vec![2.0]]);
        assert_eq!(journal.resumed(), 1);
        assert!(found(&journal, "time", 32).is_empty() && found(&journal, "admit", 64).is_empty());
        journal.finish().expect("removed");
        assert!(!path.exists());
        assert_eq!(open("b").resumed(), 0);
    }
}
