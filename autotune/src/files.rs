//! TOML files: read with errors that name the line, written whole or not at all.

use serde::de::DeserializeOwned;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Why a configuration file is no good.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It cannot be written; what was there before is still there.
    #[error("{}: cannot be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not TOML, an unknown or missing field, or a value of the wrong type.
    #[error("{place}: {message}")]
    Syntax {
        /// Where.
        place: Place,
        /// What was found and what is allowed.
        message: String,
    },
    /// A well-formed value that cannot be.
    #[error("{place}: {field} is {found}; allowed: {allowed}")]
    Value {
        /// Where.
        place: Place,
        /// The field.
        field: String,
        /// Its value.
        found: String,
        /// What it may be.
        allowed: String,
    },
}

/// A place in a file; lines and columns count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// Line.
    pub line: usize,
    /// Column.
    pub col: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.path.display(), self.line, self.col)
    }
}

/// The text of a file, to turn byte ranges into places.
#[derive(Clone, Debug)]
pub struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// Reads a file.
    ///
    /// # Errors
    /// [`FileError::Read`].
    pub fn read(path: &Path) -> Result<Source, FileError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Source { path: path.to_owned(), text }),
            Err(source) => Err(FileError::Read { path: path.to_owned(), source }),
        }
    }

    /// Text that has no file, or was read already.
    pub fn new(path: impl Into<PathBuf>, text: impl Into<String>) -> Source {
        Source { path: path.into(), text: text.into() }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The place of a byte.
    pub fn place(&self, span: &Range<usize>) -> Place {
        let before = &self.text[..span.start.min(self.text.len())];
        let line = before.matches('\n').count() + 1;
        let col = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
        Place { path: self.path.clone(), line, col }
    }

    /// Deserializes the text.
    ///
    /// # Errors
    /// [`FileError::Syntax`] at the line, with what is allowed there.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, FileError> {
        toml::from_str(&self.text).map_err(|error| {
            let place = self.place(&error.span().unwrap_or(0..0));
            FileError::Syntax { place, message: with_suggestion(error.message().trim()) }
        })
    }

    /// A value that cannot be.
    pub fn value_error(
        &self,
        span: &Range<usize>,
        field: impl Into<String>,
        found: impl ToString,
        allowed: impl Into<String>,
    ) -> FileError {
        FileError::Value {
            place: self.place(span),
            field: field.into(),
            found: found.to_string(),
            allowed: allowed.into(),
        }
    }
}

/// Adds the nearest name to a message such as "unknown field `a`, expected one of `b`, `c`".
fn with_suggestion(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let is_unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
    match (is_unknown, quoted.next()) {
        (true, Some(name)) => match tile_lang::nearest(name, quoted) {
            Some(nearest) => format!("{message}; did you mean `{nearest}`?"),
            None => message.to_owned(),
        },
        _ => message.to_owned(),
    }
}

/// Replaces a file in one step: a reader sees the old contents or the new, and a failure leaves the old. Links are
/// followed; what is no file but a device or a pipe (`/dev/null`, `/dev/stdout`) is written to as it stands.
///
/// # Errors
/// [`FileError::Write`].
pub fn write_atomically(path: &Path, contents: &[u8]) -> Result<(), FileError> {
    let error = |source| FileError::Write { path: path.to_owned(), source };
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return std::fs::write(path, contents).map_err(error);
    }
    let followed = path.canonicalize();
    let path = followed.as_deref().unwrap_or(path);
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder).map_err(error)?;
    let mut file = tempfile::Builder::new().prefix(".tile-tune-").tempfile_in(folder).map_err(error)?;
    std::io::Write::write_all(&mut file, contents).map_err(error)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path).map_or(0o644, |m| m.permissions().mode());
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).map_err(error)?;
    }
    file.persist(path).map_err(|e| error(e.error))?;
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::write_atomically;
    use std::fs;

    #[test]
    fn links_are_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "old").expect("written");
        std::os::unix::fs::symlink(&file, &link).expect("linked");
        write_atomically(&link, b"new").expect("written");
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        assert_eq!(fs::read(&file).expect("read"), b"new");
    }

    #[test]
    fn pipes_are_written_to() {
        use std::os::unix::fs::FileTypeExt;
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("coreutils' mkfifo");
        assert!(made.success());
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).expect("read")
        });
        write_atomically(&pipe, b"text").expect("written");
        assert!(fs::metadata(&pipe).expect("there").file_type().is_fifo(), "the pipe was replaced");
        assert_eq!(reader.join().expect("read"), b"text");
    }

    #[test]
    fn a_folder_is_no_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let refused = write_atomically(folder.path(), b"text").expect_err("a folder");
        assert!(refused.to_string().contains(&folder.path().display().to_string()), "{refused}");
        assert!(folder.path().is_dir());
    }
}
