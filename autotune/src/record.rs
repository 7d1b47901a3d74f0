//! Tuned configurations: `configs/<part>/<kernel>.toml`.
//!
//! A table keeps one record a dtype and shape bucket that was tuned, and rows from vendors' tables, which hold for
//! any dtype and shape they do not restrict. Records are found in this order: tuned for exactly this problem, for
//! its bucket, a row without a shape, then the same for the targets of the same family. When all of that fails,
//! the cost model is asked.

use crate::bucket::{Bucket, Extent, holds};
use crate::cost::Timing;
use crate::files::{FileError, Source, write_atomically};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::path::Path;
use tile_lang::ast::{ConstKind, Function};
use tile_lang::{Config, DType, nearest};
use toml::Spanned;

/// How a record came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provenance {
    /// Ranked by the cost model, no GPU at hand.
    Modelled,
    /// Taken from a table that a vendor published.
    VendorTable,
    /// Timed on a GPU.
    Measured,
}

/// What the assembler reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Registers a thread.
    pub registers: u32,
    /// Shared memory of a CTA in bytes.
    pub smem_bytes: usize,
    /// Bytes a thread spills, stores and reloads together.
    pub spill_bytes: u32,
    /// CTAs that fit on an SM.
    pub ctas_per_sm: u32,
}

/// How a candidate of a sweep ended, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Compiled and ranked.
    Ranked,
    /// Needs tensor memory, which code for this target does not use yet.
    AwaitsTcgen05,
    /// Left out, for the reason given.
    Pruned,
    /// Did not compile or assemble.
    Failed,
}

/// One candidate of the sweep that found a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrialNote {
    /// The configuration.
    pub config: IndexMap<String, i64>,
    /// How it ended.
    pub outcome: Outcome,
    /// The predicted time in microseconds, of ranked candidates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub us: Option<f64>,
    /// Why it was not ranked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A configuration and what it is for.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// How it came about.
    pub provenance: Provenance,
    /// Where a row of a vendor's table was published.
    pub source: Option<String>,
    /// The dtype it is for; any when absent.
    pub dtype: Option<DType>,
    /// The sizes it is for; any when absent.
    pub shape: Bucket,
    /// The sizes it was tuned at.
    pub tuned_at: IndexMap<String, i64>,
    /// Const parameters and launch options; those absent are the first of the kernel's space that fit the others.
    pub config: IndexMap<String, i64>,
    /// Hash of the kernel's source at the time.
    pub source_hash: Option<String>,
    /// The compiler's version.
    pub compiler: Option<String>,
    /// The assembler and its version.
    pub assembler: Option<String>,
    /// The GPU it was timed on.
    pub gpu: Option<String>,
    /// That GPU's driver.
    pub driver: Option<String>,
    /// Measured or predicted time.
    pub time: Option<Timing>,
    /// What the assembler reported.
    pub resources: Option<Resources>,
    /// Every candidate of the sweep.
    pub trials: Vec<TrialNote>,
}

/// The names and values that a kernel's table may hold.
#[derive(Clone, Debug)]
pub struct Schema {
    /// The kernel.
    pub kernel: String,
    /// Const parameters that a configuration sets, and what they may be.
    pub consts: Vec<(String, ConstRule)>,
    /// The problem's sizes.
    pub sizes: Vec<String>,
}

/// What a const parameter may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConstRule {
    /// A tile's dimension: a power of two.
    Tile,
    /// Any size from 1.
    Size,
    /// 0 or 1.
    Switch,
}

impl Schema {
    /// The schema of a kernel whose problem has the sizes given. A size whose declared candidates are all powers
    /// of two is taken for a tile's dimension.
    pub fn new(kernel: &Function, sizes: impl IntoIterator<Item = &'static str>) -> Schema {
        let rule = |name: &str, values: &[i64]| {
            let constant = kernel.const_params.iter().find(|c| c.name == name)?;
            let is_tile = values.iter().all(|v| *v > 0 && v & (v - 1) == 0);
            Some(match constant.kind {
                ConstKind::Bool => ConstRule::Switch,
                ConstKind::Size if is_tile => ConstRule::Tile,
                ConstKind::Size => ConstRule::Size,
            })
        };
        let consts = kernel
            .tune
            .axes
            .iter()
            .filter_map(|a| Some((a.name.clone(), rule(&a.name, &a.values)?)))
            .collect();
        Schema { kernel: kernel.name.clone(), consts, sizes: sizes.into_iter().map(str::to_owned).collect() }
    }

    /// The names a configuration may set.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.consts.iter().map(|(name, _)| name.as_str()).chain(Config::LAUNCH_OPTIONS)
    }

    /// What `value` breaks, in words that say what is allowed; `None` when `name` may have it.
    pub fn complaint(&self, name: &str, value: i64) -> Option<&'static str> {
        let power_of_two = value > 0 && value & (value - 1) == 0;
        let rule = self.consts.iter().find(|(n, _)| n == name).map(|(_, rule)| *rule);
        let (fits, allowed) = match (rule, name) {
            (Some(ConstRule::Tile), _) => (power_of_two && value <= 1 << 16, "a power of two, at most 65536"),
            (Some(ConstRule::Size), _) => (value >= 1, "a whole number from 1"),
            (Some(ConstRule::Switch), _) => ((0..=1).contains(&value), "0 or 1"),
            (None, "num_warps") => (power_of_two && value <= 16, "1, 2, 4, 8 or 16"),
            (None, "num_stages") => ((1..=8).contains(&value), "1 to 8"),
            (None, "occupancy") => ((1..=32).contains(&value), "1 to 32"),
            (None, "num_ctas") => (power_of_two && value <= 16, "1, 2, 4, 8 or 16"),
            _ => (false, "a name the kernel has"),
        };
        (!fits).then_some(allowed)
    }
}

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
    config: IndexMap<Spanned<String>, Spanned<i64>>,
    source_hash: Option<String>,
    compiler: Option<String>,
    assembler: Option<String>,
    gpu: Option<String>,
    driver: Option<String>,
    time: Option<Timing>,
    resources: Option<Resources>,
    #[serde(default)]
    trials: Vec<TrialNote>,
}

impl RawRecord {
    fn check(&self, schema: &Schema, file: &Source, span: &std::ops::Range<usize>) -> Result<(), FileError> {
        for (name, value) in &self.config {
            if !schema.names().any(|n| n == name.get_ref()) {
                return Err(unknown(file, name, "config", &schema.names().collect::<Vec<_>>()));
            }
            if let Some(allowed) = schema.complaint(name.get_ref(), *value.get_ref()) {
                return Err(file.value_error(&value.span(), name.get_ref(), value.get_ref(), allowed));
            }
        }
        for (name, extent) in &self.shape {
            if !schema.sizes.contains(name.get_ref()) {
                return Err(unknown(
                    file,
                    name,
                    "shape",
                    &schema.sizes.iter().map(String::as_str).collect::<Vec<_>>(),
                ));
            }
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
            Provenance::Measured => ("time", self.time.is_none()),
        };
        if absent {
            let allowed = format!("given, for a record of provenance {}", word(&self.provenance));
            return Err(file.value_error(span, field, "absent", allowed));
        }
        Ok(())
    }

    fn into_record(self) -> Record {
        Record {
            provenance: self.provenance,
            source: self.source,
            dtype: self.dtype,
            shape: self.shape.into_iter().map(|(k, v)| (k.into_inner(), v.into_inner())).collect(),
            tuned_at: self.tuned_at,
            config: self.config.into_iter().map(|(k, v)| (k.into_inner(), v.into_inner())).collect(),
            source_hash: self.source_hash,
            compiler: self.compiler,
            assembler: self.assembler,
            gpu: self.gpu,
            driver: self.driver,
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
    /// configuration can run on the target at all: it gives the reason why not.
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
            entry.check(schema, file, &span)?;
            let at = entry.config.values().next().map_or(span.clone(), Spanned::span);
            let record = entry.into_record();
            if let Some(misfit) = fits(&record) {
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

    /// Puts a tuned record in the place of the one with its dtype and bucket; vendors' rows stay.
    pub fn put(&mut self, record: Record) {
        let same = |r: &Record| {
            r.provenance != Provenance::VendorTable && r.dtype == record.dtype && r.shape == record.shape
        };
        match self.records.iter().position(same) {
            Some(index) => self.records[index] = record,
            None => self.records.push(record),
        }
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
        line("config", Some(inline(&self.config)));
        line("source_hash", text(&self.source_hash));
        line("compiler", text(&self.compiler));
        line("assembler", text(&self.assembler));
        line("gpu", text(&self.gpu));
        line("driver", text(&self.driver));
        line("time", self.time.map(|t| inline(&t)));
        line("resources", self.resources.map(|r| inline(&r)));
        if !self.trials.is_empty() {
            let trials: String = self.trials.iter().map(|t| format!("  {},\n", inline(t))).collect();
            line("trials", Some(format!("[\n{trials}]")));
        }
    }

    /// Whether it was tuned for another version of the kernel. Rows of vendors' tables name no version.
    pub fn is_stale(&self, source_hash: &str) -> bool {
        self.source_hash.as_deref().is_some_and(|hash| hash != source_hash)
    }
}

/// A value on one line of TOML.
fn inline<T: Serialize>(value: &T) -> String {
    let mut out = String::new();
    // Every type written here has a TOML form: no nulls, no maps with other than string keys.
    let _ = value.serialize(toml::ser::ValueSerializer::new(&mut out));
    out
}

fn word(provenance: &Provenance) -> &'static str {
    match provenance {
        Provenance::Modelled => "modelled",
        Provenance::VendorTable => "vendor_table",
        Provenance::Measured => "measured",
    }
}

impl std::fmt::Display for Provenance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&word(self).replace('_', " "))
    }
}

/// How a record was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Match {
    /// A row without a shape.
    AnyShape,
    /// Tuned in the problem's bucket.
    Bucket,
    /// Tuned at exactly the problem's sizes.
    Exact,
}

/// A record that holds for a problem.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found<'a> {
    /// The record.
    pub record: &'a Record,
    /// The part whose table it is from; another one of the family where the target's own table has none.
    pub target: &'a str,
    /// How closely it matches.
    pub how: Match,
}

/// Looks a problem up: in the target's own table first, then in those of its family, the closest match of each
/// first, and among equals a measured record before a vendor's row before a modelled one. Stale records are
/// passed over and handed back.
pub fn lookup<'a>(
    tables: &'a [Table],
    dtype: DType,
    sizes: &IndexMap<String, i64>,
    source_hash: &str,
) -> (Option<Found<'a>>, Vec<&'a Record>) {
    let mut stale = Vec::new();
    for table in tables {
        let mut best: Option<Found> = None;
        for record in &table.records {
            if record.dtype.is_some_and(|d| d != dtype) || !holds(&record.shape, sizes) {
                continue;
            }
            if record.is_stale(source_hash) {
                stale.push(record);
                continue;
            }
            let how = match () {
                () if record.tuned_at == *sizes => Match::Exact,
                () if !record.shape.is_empty() => Match::Bucket,
                () => Match::AnyShape,
            };
            let rank = (how, record.provenance);
            if best.is_none_or(|b| rank > (b.how, b.record.provenance)) {
                best = Some(Found { record, target: &table.target, how });
            }
        }
        if best.is_some() {
            return (best, stale);
        }
    }
    (None, stale)
}

/// Completes a partial configuration: of the candidates that agree with it, the first with the least obstacle;
/// where none agrees, the first candidate with the values put in.
pub fn complete<K: Ord>(
    partial: &IndexMap<String, i64>,
    candidates: &[Config],
    obstacle: impl Fn(&Config) -> K,
) -> Option<Config> {
    let agrees = |c: &&Config| partial.iter().all(|(name, value)| c.get(name) == Some(*value));
    if let Some(config) = candidates.iter().filter(agrees).min_by_key(|c| obstacle(c)) {
        return Some(config.clone());
    }
    let mut config = candidates.first()?.clone();
    partial.iter().for_each(|(name, value)| config.set(name, *value));
    Some(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Head.\n\nkernel = \"k\"\ntarget = \"sm_80\"\n\n[[record]]\nprovenance = \"vendor_table\"\n\
        source = \"a table\"\nconfig = { TILE = 64 }\n";

    fn schema() -> Schema {
        Schema {
            kernel: "k".to_owned(),
            consts: vec![("TILE".to_owned(), ConstRule::Tile), ("FLAG".to_owned(), ConstRule::Switch)],
            sizes: vec!["m".to_owned(), "n".to_owned()],
        }
    }

    fn parse(text: &str) -> Result<Table, String> {
        Table::parse(&Source::new("k.toml", text), "sm_80", &schema(), &|_| None).map_err(|e| e.to_string())
    }

    fn sizes(m: i64, n: i64) -> IndexMap<String, i64> {
        IndexMap::from([("m".to_owned(), m), ("n".to_owned(), n)])
    }

    fn tuned(m: i64, tile: i64, hash: &str) -> Record {
        Record {
            provenance: Provenance::Modelled,
            source: None,
            dtype: Some(DType::BF16),
            shape: IndexMap::from([
                ("m".to_owned(), Extent::around(m)),
                ("n".to_owned(), Extent::exactly(7)),
            ]),
            tuned_at: sizes(m, 7),
            config: IndexMap::from([("TILE".to_owned(), tile), ("num_warps".to_owned(), 8)]),
            source_hash: Some(hash.to_owned()),
            compiler: Some("c \"quoted\" \\ 1".to_owned()),
            assembler: Some("ptxas 13.0".to_owned()),
            gpu: None,
            driver: None,
            time: Some(Timing { us: 12.0, low_us: 8.125, high_us: 1e9 }),
            resources: Some(Resources { registers: 168, smem_bytes: 65_536, spill_bytes: 0, ctas_per_sm: 2 }),
            trials: vec![TrialNote {
                config: IndexMap::from([("TILE".to_owned(), tile)]),
                outcome: Outcome::Pruned,
                us: None,
                reason: Some("too large".to_owned()),
            }],
        }
    }

    #[test]
    fn tables_come_back_as_they_were_written() {
        let mut table = parse(TEXT).expect("a table");
        assert_eq!(table.preamble, "# Head.\n");
        table.put(tuned(100, 64, "a"));
        table.put(tuned(5000, 128, "a"));
        assert_eq!(parse(&table.to_toml()), Ok(table));
    }

    #[test]
    fn a_new_record_replaces_that_of_its_bucket_alone() {
        let mut table = parse(TEXT).expect("a table");
        for record in [tuned(100, 64, "a"), tuned(5000, 128, "a"), tuned(128, 32, "b")] {
            table.put(record);
        }
        let tiles: Vec<i64> = table.records.iter().map(|r| r.config["TILE"]).collect();
        assert_eq!(tiles, [64, 32, 128]);
        assert_eq!(table.records[0].provenance, Provenance::VendorTable);
    }

    #[test]
    fn the_closest_record_is_found_first() {
        let mut table = parse(TEXT).expect("a table");
        table.put(tuned(100, 32, "a"));
        table.put(tuned(70, 16, "old"));
        let relative =
            Table { target: "sm_86".to_owned(), records: vec![tuned(5000, 128, "a")], ..table.clone() };
        table.put(tuned(1000, 16, "old"));
        let tables = [table, relative];
        let find = |m, n, dtype| {
            let (found, stale) = lookup(&tables, dtype, &sizes(m, n), "a");
            (found.map(|f| (f.record.config["TILE"], f.how, f.target)), stale.len())
        };
        assert_eq!(find(70, 7, DType::BF16).0, Some((64, Match::AnyShape, "sm_80")));
        assert_eq!(find(5000, 7, DType::BF16).0, Some((64, Match::AnyShape, "sm_80")));
        assert_eq!(find(1000, 7, DType::BF16), (Some((64, Match::AnyShape, "sm_80")), 1));
        assert_eq!(find(70, 8, DType::F32).0, Some((64, Match::AnyShape, "sm_80")));
    }

    #[test]
    fn exact_beats_bucket_beats_family() {
        let own = Table { records: vec![tuned(100, 32, "a")], ..Table::empty("k", "sm_80") };
        let family = Table { records: vec![tuned(5000, 128, "a")], ..Table::empty("k", "sm_86") };
        let tables = [own, family];
        let find = |m| {
            let found = lookup(&tables, DType::BF16, &sizes(m, 7), "a").0?;
            Some((found.record.config["TILE"], found.how, found.target))
        };
        assert_eq!(find(100), Some((32, Match::Exact, "sm_80")));
        assert_eq!(find(101), Some((32, Match::Bucket, "sm_80")));
        assert_eq!(find(6000), Some((128, Match::Bucket, "sm_86")));
        assert_eq!(find(9), None);
    }

    #[test]
    fn partial_configurations_are_completed_from_the_space() {
        let config = |tile, num_warps| {
            let mut config = Config { num_warps, ..Config::default() };
            config.set("TILE", tile);
            config
        };
        let space = [config(32, 4), config(64, 4), config(64, 8)];
        let partial = |tile, occupancy| {
            IndexMap::from([("TILE".to_owned(), tile), ("occupancy".to_owned(), occupancy)])
        };
        assert_eq!(complete(&partial(64, 1), &space, |_| 0), Some(config(64, 4)));
        assert_eq!(complete(&partial(64, 1), &space, |c| c.num_warps == 4), Some(config(64, 8)));
        assert_eq!(complete(&partial(64, 1), &space, |c| c.num_warps), Some(config(64, 4)));
        let beyond = complete(&partial(64, 2), &space, |_| 0).expect("a configuration");
        assert_eq!((beyond.get("TILE"), beyond.occupancy), (Some(64), 2));
    }

    #[test]
    fn provenance_asks_for_its_evidence() {
        let error = parse(&TEXT.replace("source = \"a table\"\n", "")).expect_err("refused");
        assert!(error.starts_with("k.toml:6:1: source is absent"), "{error}");
        let error = parse(&TEXT.replace("vendor_table", "measured")).expect_err("refused");
        assert!(error.contains("source_hash is absent"), "{error}");
    }
}
