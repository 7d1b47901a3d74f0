//! The file of a kernel's records on a target: `configs/<part>/<kernel>.toml`.

use crate::bucket::Extent;
use crate::cost::Timing;
use crate::files::{FileError, Source, write_atomically};
use crate::record::{Measurement, ModelScore, Provenance, Record, Resources, TrialNote, word};
use crate::schema::Schema;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::path::Path;
use tile_lang::{DType, nearest};
use toml::Spanned;

/// The records of one kernel on one target.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// The kernel.
    pub kernel: String,
    /// The part.
    pub target: String,
    /// Comment lines at the head of the file, kept as they are.
    pub preamble: String,
    /// The records in the file's order.
    pub records: Vec<Record>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTable {
    kernel: Spanned<String>,
    target: Spanned<String>,
    #[serde(default)]
    record: Vec<Spanned<RawRecord>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRecord {
    provenance: Provenance,
    source: Option<String>,
    dtype: Option<DType>,
    #[serde(default)]
    shape: IndexMap<Spanned<String>, Spanned<Extent>>,
    #[serde(default)]
    tuned_at: IndexMap<String, i64>,
    #[serde(default)]
    pinned: IndexMap<String, i64>,
    config: IndexMap<Spanned<String>, Spanned<i64>>,
    source_hash: Option<String>,
    compiler: Option<String>,
    assembler: Option<String>,
    gpu: Option<String>,
    driver: Option<String>,
    measurement: Option<Measurement>,
    model: Option<ModelScore>,
    time: Option<Timing>,
    resources: Option<Resources>,
    #[serde(default)]
    trials: Vec<TrialNote>,
}

impl RawRecord {
    /// That it has the evidence its provenance asks for, and extents that can be.
    fn check(&self, file: &Source, span: &std::ops::Range<usize>) -> Result<(), FileError> {
        for (name, extent) in &self.shape {
            if extent.get_ref().first > extent.get_ref().last {
                let allowed = "[first, last] with first at most last";
                return Err(file.value_error(&extent.span(), name.get_ref(), extent.get_ref(), allowed));
            }
        }
        let (field, absent) = match self.provenance {
            Provenance::VendorTable => ("source", self.source.is_none()),
            Provenance::Modelled => ("source_hash", self.source_hash.is_none()),
            Provenance::Measured if self.source_hash.is_none() => ("source_hash", true),
            Provenance::Measured if self.gpu.is_none() => ("gpu", true),
            Provenance::Measured if self.driver.is_none() => ("driver", true),
            Provenance::Measured if self.measurement.is_none() => ("measurement", true),
            Provenance::Measured => ("time", self.time.is_none()),
        };
        if absent {
            let allowed = format!("given, for a record of provenance {}", word(&self.provenance));
            return Err(file.value_error(span, field, "absent", allowed));
        }
        Ok(())
    }

    /// That the kernel has its names, and its values are ones they can have.
    fn check_names(&self, schema: &Schema, file: &Source) -> Result<(), FileError> {
        for (name, value) in &self.config {
            if !schema.names().any(|n| n == name.get_ref()) {
                return Err(unknown(file, name, "config", &schema.names().collect::<Vec<_>>()));
            }
            if let Some(allowed) = schema.complaint(name.get_ref(), *value.get_ref()) {
                return Err(file.value_error(&value.span(), name.get_ref(), value.get_ref(), allowed));
            }
        }
        let sizes: Vec<&str> = schema.sizes.iter().map(String::as_str).collect();
        match self.shape.keys().find(|name| !sizes.contains(&name.get_ref().as_str())) {
            Some(name) => Err(unknown(file, name, "shape", &sizes)),
            None => Ok(()),
        }
    }

    fn into_record(self) -> Record {
        Record {
            provenance: self.provenance,
            source: self.source,
            dtype: self.dtype,
            shape: self.shape.into_iter().map(|(k, v)| (k.into_inner(), v.into_inner())).collect(),
            tuned_at: self.tuned_at,
            pinned: self.pinned,
            config: self.config.into_iter().map(|(k, v)| (k.into_inner(), v.into_inner())).collect(),
            source_hash: self.source_hash,
            compiler: self.compiler,
            assembler: self.assembler,
            gpu: self.gpu,
            driver: self.driver,
            measurement: self.measurement,
            model: self.model,
            time: self.time,
            resources: self.resources,
            trials: self.trials,
        }
    }
}

fn unknown(file: &Source, name: &Spanned<String>, field: &str, known: &[&str]) -> FileError {
    let list = known.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    let hint = nearest(name.get_ref(), known.iter().copied());
    let hint = hint.map_or(String::new(), |n| format!("; did you mean `{n}`?"));
    FileError::Syntax {
        place: file.place(&name.span()),
        message: format!("unknown field `{}` in {field}, expected one of {list}{hint}", name.get_ref()),
    }
}

impl Table {
    /// A table without records.
    pub fn empty(kernel: &str, target: &str) -> Table {
        let preamble = format!(
            "# Configurations of `{kernel}` for {target}. `tile-tune --target {target} --kernel {kernel}` rewrites the record of the\n\
             # bucket that it tuned and keeps every other.\n"
        );
        Table { kernel: kernel.to_owned(), target: target.to_owned(), preamble, records: Vec::new() }
    }

    /// Reads a table; a file that does not exist is an empty one.
    ///
    /// # Errors
    /// With file and line, for unknown fields, wrong types and values that cannot be. `fits` judges whether a
    /// configuration can run on the target at all: it gives the reason why not. Of stale records, which nobody uses,
    /// neither names nor values are judged.
    pub fn load(
        path: &Path,
        target: &str,
        schema: &Schema,
        fits: &dyn Fn(&Record) -> Option<Misfit>,
    ) -> Result<Table, FileError> {
        if !path.exists() {
            return Ok(Table::empty(&schema.kernel, target));
        }
        Table::parse(&Source::read(path)?, target, schema, fits)
    }

    /// Reads a table from text.
    ///
    /// # Errors
    /// As [`Table::load`].
    pub fn parse(
        file: &Source,
        target: &str,
        schema: &Schema,
        fits: &dyn Fn(&Record) -> Option<Misfit>,
    ) -> Result<Table, FileError> {
        let raw: RawTable = file.parse()?;
        for (field, found, expected) in
            [("kernel", &raw.kernel, schema.kernel.as_str()), ("target", &raw.target, target)]
        {
            if found.get_ref() != expected {
                let allowed = format!("{expected:?}, as the file's name and folder say");
                return Err(file.value_error(
                    &found.span(),
                    field,
                    format!("{:?}", found.get_ref()),
                    allowed,
                ));
            }
        }
        let mut records = Vec::new();
        for entry in raw.record {
            let span = entry.span();
            let entry = entry.into_inner();
            entry.check(file, &span)?;
            let is_stale = entry.source_hash.as_ref().is_some_and(|hash| *hash != schema.source_hash);
            if !is_stale {
                entry.check_names(schema, file)?;
            }
            let at = entry.config.values().next().map_or(span.clone(), Spanned::span);
            let record = entry.into_record();
            if let Some(misfit) = Some(&record).filter(|_| !is_stale).and_then(fits) {
                return Err(file.value_error(&at, "config", misfit.found, misfit.allowed));
            }
            records.push(record);
        }
        let head: String =
            file.text().lines().take_while(|l| l.starts_with('#')).map(|l| format!("{l}\n")).collect();
        let empty = Table::empty(&schema.kernel, target);
        Ok(Table { preamble: if head.is_empty() { empty.preamble.clone() } else { head }, records, ..empty })
    }

    /// Writes the table, whole or not at all.
    ///
    /// # Errors
    /// [`FileError::Write`].
    pub fn save(&self, path: &Path) -> Result<(), FileError> {
        write_atomically(path, self.to_toml().as_bytes())
    }

    /// Puts a tuned record in the place of the one with its dtype and bucket; vendors' rows stay. A measured record
    /// of the same source is not given up for a modelled one: then nothing changes, and the result is false.
    pub fn put(&mut self, record: Record) -> bool {
        let same = |r: &Record| {
            r.provenance != Provenance::VendorTable && r.dtype == record.dtype && r.shape == record.shape
        };
        match self.records.iter().position(same) {
            Some(index) => {
                let old = &self.records[index];
                if old.provenance > record.provenance && old.source_hash == record.source_hash {
                    return false;
                }
                self.records[index] = record;
            }
            None => self.records.push(record),
        }
        true
    }

    /// The table as text.
    pub fn to_toml(&self) -> String {
        let mut out = format!("{}\nkernel = {:?}\ntarget = {:?}\n", self.preamble, self.kernel, self.target);
        for record in &self.records {
            out += "\n[[record]]\n";
            record.write(&mut out);
        }
        out
    }
}

/// Why a configuration of a table cannot run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// What it asks for.
    pub found: String,
    /// What there is.
    pub allowed: String,
}

impl Record {
    fn write(&self, out: &mut String) {
        let mut line = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                // Writing to a string cannot fail.
                let _ = writeln!(out, "{name} = {value}");
            }
        };
        let text = |value: &Option<String>| value.as_ref().map(inline);
        let unless_empty = |empty: bool, value: String| (!empty).then_some(value);
        line("provenance", Some(inline(&self.provenance)));
        line("source", text(&self.source));
        line("dtype", self.dtype.map(|d| inline(&d)));
        line("shape", unless_empty(self.shape.is_empty(), inline(&self.shape)));
        line("tuned_at", unless_empty(self.tuned_at.is_empty(), inline(&self.tuned_at)));
        line("pinned", unless_empty(self.pinned.is_empty(), inline(&self.pinned)));
        line("config", Some(inline(&self.config)));
        line("source_hash", text(&self.source_hash));
        line("compiler", text(&self.compiler));
        line("assembler", text(&self.assembler));
        line("gpu", text(&self.gpu));
        line("driver", text(&self.driver));
        line("measurement", self.measurement.as_ref().map(inline));
        line("model", self.model.as_ref().map(inline));
        line("time", self.time.map(|t| inline(&t)));
        line("resources", self.resources.map(|r| inline(&r)));
        if !self.trials.is_empty() {
            let trials: String = self.trials.iter().map(|t| format!("  {},\n", inline(t))).collect();
            line("trials", Some(format!("[\n{trials}]")));
        }
    }
}

/// A value on one line of TOML.
fn inline<T: Serialize>(value: &T) -> String {
    let mut out = String::new();
    // Every type written here has a TOML form: no nulls, no maps with other than string keys.
    let _ = value.serialize(toml::ser::ValueSerializer::new(&mut out));
    out
}
