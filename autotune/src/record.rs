//! Tuned configurations, and how one is found.
//!
//! A table keeps one record a dtype and shape bucket that was tuned, and rows from vendors' tables, which hold for
//! any dtype and shape they do not restrict. Records are found in this order: tuned for exactly this problem, for
//! its bucket, a row without a shape, then the same for the targets of the same family. When all of that fails,
//! the cost model is asked.

use crate::bucket::{Bucket, holds};
use crate::cost::Timing;
use crate::table::Table;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use tile_lang::{Config, DType};

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
    /// The time in microseconds of ranked candidates: the median of the last runs, or predicted where nothing was
    /// measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub us: Option<f64>,
    /// The predicted time in microseconds, where another was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted_us: Option<f64>,
    /// How often it was run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs: Option<usize>,
    /// Why it was not ranked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How a record was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measurement {
    /// The day, in UTC: `2026-11-21`.
    pub date: String,
    /// Runs that the winner's time is of; its spread is their middle half.
    pub runs: usize,
    /// Candidates that ran and were right.
    pub candidates: usize,
    /// The highest clock of the GPU's SMs in MHz, where the driver says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_mhz: Option<u32>,
    /// Where every candidate was measured to the end: by how much the race's choice is slower than the best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regret: Option<f64>,
}

/// How well the cost model foresaw what was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelScore {
    /// Spearman's rank correlation of predicted and measured times.
    pub rank_correlation: f64,
    /// By how much the model's first choice is slower than the best measured.
    pub first_choice_loss: f64,
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
    /// What was set by hand, where the sweep tried a part of the space.
    pub pinned: IndexMap<String, i64>,
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
    /// How it was measured.
    pub measurement: Option<Measurement>,
    /// How well the cost model foresaw that.
    pub model: Option<ModelScore>,
    /// Measured or predicted time.
    pub time: Option<Timing>,
    /// What the assembler reported.
    pub resources: Option<Resources>,
    /// Every candidate of the sweep.
    pub trials: Vec<TrialNote>,
}

impl Record {
    /// Whether it was tuned for another version of the kernel. Rows of vendors' tables name no version.
    pub fn is_stale(&self, source_hash: &str) -> bool {
        self.source_hash.as_deref().is_some_and(|hash| hash != source_hash)
    }
}

pub(crate) fn word(provenance: &Provenance) -> &'static str {
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
/// where none agrees, the first candidate with the values put in. Switches that it does not name are as they are by
/// default, if a candidate has them so: a record names only the others.
pub fn complete<K: Ord>(
    partial: &IndexMap<String, i64>,
    candidates: &[Config],
    obstacle: impl Fn(&Config) -> K,
) -> Option<Config> {
    let usual = Config::default();
    let switches = Config::LAUNCH_OPTIONS.into_iter().filter(|name| Config::is_switch(name));
    let unnamed: Vec<(&str, Option<i64>)> =
        switches.filter(|name| !partial.contains_key(*name)).map(|name| (name, usual.get(name))).collect();
    let is_usual = |c: &Config| unnamed.iter().all(|(name, value)| c.get(name) == *value);
    let agrees = |c: &&Config| partial.iter().all(|(name, value)| c.get(name) == Some(*value));
    if let Some(config) = candidates.iter().filter(agrees).min_by_key(|c| (!is_usual(c), obstacle(c))) {
        return Some(config.clone());
    }
    let mut config = candidates.first()?.clone();
    unnamed.iter().for_each(|(name, value)| config.set(name, value.unwrap_or_default()));
    partial.iter().for_each(|(name, value)| config.set(name, *value));
    Some(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::Extent;
    use crate::files::Source;
    use crate::schema::{ConstRule, Schema};

    const TEXT: &str = "# Head.\n\nkernel = \"k\"\ntarget = \"sm_80\"\n\n[[record]]\nprovenance = \"vendor_table\"\n\
        source = \"a table\"\nconfig = { TILE = 64 }\n";

    fn schema() -> Schema {
        Schema {
            kernel: "k".to_owned(),
            consts: vec![("TILE".to_owned(), ConstRule::Tile), ("FLAG".to_owned(), ConstRule::Switch)],
            sizes: vec!["m".to_owned(), "n".to_owned()],
            source_hash: "a".to_owned(),
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
            pinned: IndexMap::new(),
            config: IndexMap::from([("TILE".to_owned(), tile), ("num_warps".to_owned(), 8)]),
            source_hash: Some(hash.to_owned()),
            compiler: Some("c \"quoted\" \\ 1".to_owned()),
            assembler: Some("ptxas 13.0".to_owned()),
            gpu: None,
            driver: None,
            measurement: None,
            model: None,
            time: Some(Timing { us: 12.0, low_us: 8.125, high_us: 1e9 }),
            resources: Some(Resources { registers: 168, smem_bytes: 65_536, spill_bytes: 0, ctas_per_sm: 2 }),
            trials: vec![TrialNote {
                config: IndexMap::from([("TILE".to_owned(), tile)]),
                outcome: Outcome::Pruned,
                us: None,
                predicted_us: None,
                runs: None,
                reason: Some("too large".to_owned()),
            }],
        }
    }

    fn measured(m: i64, tile: i64) -> Record {
        let record = tuned(m, tile, "a");
        let date = "2026-11-21".to_owned();
        Record {
            provenance: Provenance::Measured,
            gpu: Some("NVIDIA H200".to_owned()),
            driver: Some("580.159.03".to_owned()),
            measurement: Some(Measurement {
                date,
                runs: 32,
                candidates: 61,
                clock_mhz: Some(1980),
                regret: Some(0.004),
            }),
            model: Some(ModelScore { rank_correlation: 0.75, first_choice_loss: 0.125 }),
            trials: vec![TrialNote {
                outcome: Outcome::Ranked,
                us: Some(12.5),
                predicted_us: Some(10.25),
                runs: Some(67),
                reason: None,
                ..record.trials[0].clone()
            }],
            ..record
        }
    }

    #[test]
    fn tables_come_back_as_they_were_written() {
        let mut table = parse(TEXT).expect("a table");
        assert_eq!(table.preamble, "# Head.\n");
        table.put(tuned(100, 64, "a"));
        table.put(measured(5000, 128));
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
        // What a record leaves out is as usual, whatever comes first or has the least obstacle.
        let unusual = Config { warp_specialize: false, ..config(64, 4) };
        let space = [unusual.clone(), config(64, 4)];
        let rank = |c: &Config| i32::from(c.warp_specialize);
        assert_eq!(complete(&partial(64, 1), &space, rank), Some(config(64, 4)));
        assert!(complete(&partial(64, 2), &space, rank).is_some_and(|c| c.warp_specialize));
        assert_eq!(complete(&partial(64, 1), &space[..1], rank), Some(unusual));
    }

    #[test]
    fn a_stale_record_may_name_what_is_gone() {
        let stale = |hash: &str| {
            let mut record = tuned(100, 48, hash);
            record.config.insert("GONE".to_owned(), 3);
            record.shape.insert("gone".to_owned(), Extent::exactly(1));
            parse(&Table { records: vec![record], ..Table::empty("k", "sm_80") }.to_toml())
        };
        assert_eq!(stale("old").expect("kept").records[0].config["GONE"], 3);
        assert!(stale("a").is_err_and(|e| e.contains("TILE is 48")));
    }

    #[test]
    fn provenance_asks_for_its_evidence() {
        let error = parse(&TEXT.replace("source = \"a table\"\n", "")).expect_err("refused");
        assert!(error.starts_with("k.toml:6:1: source is absent"), "{error}");
        let error = parse(&TEXT.replace("vendor_table", "measured")).expect_err("refused");
        assert!(error.contains("source_hash is absent"), "{error}");
        for (field, change) in [
            ("gpu", (|r| r.gpu = None) as fn(&mut Record)),
            ("driver", |r| r.driver = None),
            ("measurement", |r| r.measurement = None),
            ("time", |r| r.time = None),
        ] {
            let mut record = measured(5000, 128);
            change(&mut record);
            let table = Table { records: vec![record], ..Table::empty("k", "sm_80") };
            let error = parse(&table.to_toml()).expect_err("refused");
            assert!(error.contains(&format!("{field} is absent")), "{error}");
        }
    }
}
