//! Measured sweeps, rehearsed on made-up GPUs, so that they run where there is none.

use crate::support::{Place, json, skipped};
use autotune::install::Source;
use autotune::subject::{Subject, find_contract};
use indexmap::IndexMap;
use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tile::tuning::{ConfigSource, InputDesc};
// Linking the crate registers its kernels.
use tilegym_kernels as _;

const KERNEL: &str = "silu_and_mul";
const SWEEP: [&str; 6] = ["--json", "--target", "sm_90", "--kernel", KERNEL, "--measure"];
/// A configuration with these is the fastest by a tenth; the cost model does not know it.
const FASTEST: &str =
    "[[rule]]\nwhen = { TILE_M = 2, TILE_N = 1024, num_warps = 8, occupancy = 2 }\ntimes = 0.9\n";

/// The tables, but none of the kernel.
fn without_records() -> Place {
    let place = Place::new();
    std::fs::remove_file(place.path(&format!("configs/sm_90/{KERNEL}.toml"))).expect("the tables have it");
    place
}

/// Writes a rehearsal's file: so many GPUs of a part, with these rules.
fn rehearse(place: &Place, part: &str, gpus: usize, rules: &str) -> String {
    let gpu = |index: usize| {
        format!(
            "[[gpu]]\nindex = {index}\nname = \"Made-up {part}\"\npart = \"{part}\"\ndriver = \"580.0\"\nclock_mhz = 1980\n"
        )
    };
    let gpus: String = (0..gpus).map(gpu).collect();
    let log = place.path("log");
    place.write("rehearsal.toml", &format!("us = 100.0\nnoise = 0.01\nlog = {log:?}\n{rules}\n{gpus}"));
    place.path("rehearsal.toml").to_string_lossy().into_owned()
}

/// Sweeps, measuring on made-up GPUs.
fn sweep(place: &Place, file: &str, extra: &[&str]) -> serde_json::Value {
    let ran = place.run(&[&SWEEP[..], &["--rehearse", file], extra].concat());
    assert_eq!(ran.code, 0, "{ran:#?}");
    json(&ran.out)
}

/// How often each request was made: the GPU, what was asked, the configuration.
fn requests(place: &Place) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in std::fs::read_to_string(place.path("log")).unwrap_or_default().lines() {
        *counts.entry(line.to_owned()).or_default() += 1;
    }
    counts
}

fn reasons(sweep: &serde_json::Value) -> Vec<String> {
    let trials = sweep["trials"].as_array().expect("trials");
    trials.iter().filter_map(|t| t["reason"].as_str().map(str::to_owned)).collect()
}

#[test]
fn a_measured_sweep_finds_the_fastest_and_keeps_its_evidence() {
    let place = without_records();
    let file = rehearse(&place, "sm_90", 1, FASTEST);
    let sweep = sweep(&place, &file, &["--shape", "rows=4096"]);
    assert_eq!(sweep["best"]["config"]["TILE_N"], 1024, "{}", sweep["best"]);
    assert_eq!(sweep["best"]["config"]["num_warps"], 8);
    assert!((sweep["best"]["measured"]["time"]["us"].as_f64().expect("a time") / 90.0 - 1.0).abs() < 0.02);
    assert!(sweep["measured"]["model"]["rank_correlation"].is_number());
    assert!(sweep["measured"]["model"]["first_choice_loss"].as_f64() > Some(0.05));
    let runs: Vec<u64> = sweep["trials"]
        .as_array()
        .expect("trials")
        .iter()
        .filter_map(|t| t["measured"]["runs"].as_u64())
        .collect();
    let few = runs.iter().filter(|&&n| n <= 3 + 8).count();
    assert!(runs.len() > 20 && few * 2 > runs.len(), "most get few runs: {runs:?}");

    let table = place.read(&format!("configs/sm_90/{KERNEL}.toml"));
    for field in [
        "provenance = \"measured\"",
        "gpu = \"Made-up sm_90\"",
        "driver = \"580.0\"",
        "clock_mhz = 1980",
        "measurement = { date = \"2",
        "rank_correlation",
        "source_hash = ",
        "compiler = \"tilewright",
    ] {
        assert!(table.contains(field), "{field}: {table}");
    }
    // Another length of the bucket starts no sweep.
    let emit = |shape: &str| {
        let ran = place.run(&["emit", KERNEL, "--target", "sm_90", "--shape", shape, "--json"]);
        json(&ran.out)["config_from"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(emit("rows=3000"), "table of sm_90, measured record for its bucket");
    assert_eq!(emit("rows=4096"), "table of sm_90, measured record for this problem");
    // A modelled sweep does not take its place.
    let ran = place.run(&["--target", "sm_90", "--kernel", KERNEL, "--no-measure", "--shape", "rows=4000"]);
    assert!(ran.code == 0 && ran.out.contains("not written"), "{ran:#?}");
    assert_eq!(place.read(&format!("configs/sm_90/{KERNEL}.toml")), table);
}

#[test]
fn a_mishap_costs_its_candidate_alone() {
    let place = without_records();
    let rules = [
        ("TILE_M = 2, TILE_N = 512, num_warps = 4, occupancy = 2", "hangs"),
        ("TILE_M = 2, TILE_N = 512, num_warps = 4, occupancy = 4", "crashes"),
        ("TILE_M = 2, TILE_N = 512, num_warps = 2, occupancy = 2", "breaks_context"),
        ("TILE_M = 2, TILE_N = 512, num_warps = 2, occupancy = 4", "disagrees"),
    ];
    let rules: String = rules
        .iter()
        .map(|(when, what)| format!("[[rule]]\nwhen = {{ {when} }}\nmishap = \"{what}\"\n"))
        .collect();
    let file = rehearse(&place, "sm_90", 1, &(rules + FASTEST));
    let sweep = sweep(&place, &file, &["--time-limit", "0.7"]);
    assert_eq!(sweep["best"]["config"]["TILE_N"], 1024, "{}", sweep["best"]);
    let failed: Vec<&serde_json::Value> = sweep["trials"]
        .as_array()
        .expect("trials")
        .iter()
        .filter(|t| t["outcome"] == "failed" && t["config"]["TILE_N"] == 512 && t["config"]["TILE_M"] == 2)
        .collect();
    let reason = |warps: i64, occupancy: i64| {
        let is_it = |t: &&&serde_json::Value| {
            t["config"]["num_warps"] == warps && t["config"]["occupancy"] == occupancy
        };
        failed.iter().find(is_it).and_then(|t| t["reason"].as_str()).unwrap_or_default().to_owned()
    };
    assert!(reason(4, 2).starts_with("no result within 0.7 s"), "{failed:#?}");
    assert!(reason(4, 4).starts_with("its process ended: signal"), "{failed:#?}");
    assert_eq!(reason(2, 2), "an illegal memory access");
    assert_eq!(reason(2, 4), "differs from the reference");
    assert_eq!(reasons(&sweep).iter().filter(|r| r.contains("illegal")).count(), 1);
    assert!(place.read(&format!("configs/sm_90/{KERNEL}.toml")).contains("an illegal memory access"));
}

#[test]
fn a_killed_sweep_goes_on_where_it_was() {
    let place = without_records();
    let file = rehearse(&place, "sm_90", 2, &format!("pause_ms = 10\n{FASTEST}"));
    let mut child = Command::new(env!("CARGO_BIN_EXE_tile-tune"))
        .args([&SWEEP[..], &["--rehearse", &file]].concat())
        .current_dir(place.path(""))
        .env_remove("TILEWRIGHT_CONFIGS")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the command starts");
    let patience = Instant::now() + Duration::from_secs(120);
    while requests(&place).len() < 20 {
        assert!(Instant::now() < patience, "the sweep does not get on");
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().expect("killed");
    child.wait().expect("gone");
    // Its workers end with it.
    std::thread::sleep(Duration::from_millis(300));
    let before = requests(&place);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(requests(&place), before);
    assert!(!place.path(&format!("configs/sm_90/{KERNEL}.toml")).exists());

    let sweep = sweep(&place, &file, &[]);
    assert!(sweep["resumed"].as_u64() > Some(10), "{}", sweep["resumed"]);
    assert_eq!(sweep["best"]["config"]["TILE_N"], 1024, "{}", sweep["best"]);
    // Each candidate is admitted once, by whichever GPU; those under way when the sweep was killed, twice.
    let mut admitted: BTreeMap<String, usize> = BTreeMap::new();
    for (line, count) in requests(&place) {
        if let Some((_, config)) = line.split_once(" admit ") {
            *admitted.entry(config.to_owned()).or_default() += count;
        }
    }
    let twice = admitted.values().filter(|&&n| n > 1).count();
    assert!(admitted.len() > 40 && twice <= 2 && admitted.values().all(|&n| n <= 2), "{admitted:#?}");
    assert!(place.files().iter().all(|f| !f.to_string_lossy().contains("journal")));
}

#[test]
fn the_gpus_of_a_host_share_the_work() {
    let gpus = |place: &Place| {
        let gpus: std::collections::BTreeSet<String> =
            requests(place).keys().filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect();
        gpus.into_iter().collect::<Vec<_>>().join(" ")
    };
    let place = without_records();
    let file = rehearse(&place, "sm_90", 3, &format!("pause_ms = 2\n{FASTEST}"));
    let all = sweep(&place, &file, &[]);
    assert_eq!((gpus(&place).as_str(), &all["measured"]["gpus"]), ("0 1 2", &serde_json::json!(3)));
    assert_eq!(all["best"]["config"]["TILE_N"], 1024, "{}", all["best"]);

    let place = without_records();
    let file = rehearse(&place, "sm_90", 3, &format!("pause_ms = 2\n{FASTEST}"));
    sweep(&place, &file, &["--gpus", "0,2"]);
    assert_eq!(gpus(&place), "0 2");

    // One that is lost leaves its work to the others; when all are, what was measured is kept.
    let lost = "[[rule]]\nwhen = { TILE_M = 4 }\nmishap = \"loses_device\"\n";
    let place = without_records();
    let file = rehearse(&place, "sm_90", 2, &format!("pause_ms = 2\n{FASTEST}{lost}gpu = 1\n"));
    let one = sweep(&place, &file, &[]);
    assert_eq!(one["best"]["config"]["TILE_N"], 1024, "{}", one["best"]);
    let file = rehearse(&place, "sm_90", 2, &format!("{FASTEST}{lost}"));
    let ran = place.fails(
        &["--target", "sm_90", "--kernel", KERNEL, "--shape", "rows=64", "--rehearse", &file],
        1,
        &["fallen off the bus", "goes on from there"],
    );
    assert!(ran.out.is_empty() && place.files().iter().any(|f| f.to_string_lossy().contains("journal")));
}

#[test]
fn without_a_gpu_of_the_target_the_model_is_asked_and_says_so() {
    let place = without_records();
    let file = rehearse(&place, "sm_121", 1, "");
    let base = ["--target", "sm_90", "--kernel", KERNEL, "--rehearse", &file];
    let ran = place.run(&base);
    assert!(ran.code == 0 && ran.out.contains("not measured (there is Made-up sm_121 (sm_121))"), "{ran:#?}");
    assert!(place.read(&format!("configs/sm_90/{KERNEL}.toml")).contains("provenance = \"modelled\""));
    let needles = ["no GPU of sm_90 to measure on: there is Made-up sm_121 (sm_121)"];
    place.fails(&[&base[..], &["--measure"]].concat(), 4, &needles);
    place.fails(&[&base[..], &["--gpus", "7"]].concat(), 4, &["there is no GPU 7"]);
    place.fails(&[&base[..], &["--measure", "--no-measure"]].concat(), 2, &["cannot be used with"]);
    place.fails(&[&base[..], &["--time-limit", "0"]].concat(), 2, &["no number of seconds above 0"]);
}

#[test]
fn an_exhaustive_sweep_tells_the_regret() {
    let place = without_records();
    let file = rehearse(&place, "sm_90", 1, FASTEST);
    let sweep = sweep(&place, &file, &["--exhaustive"]);
    let regret = sweep["measured"]["measurement"]["regret"].as_f64().expect("a regret");
    assert!((0.0..0.02).contains(&regret), "{regret}");
    assert!(place.read(&format!("configs/sm_90/{KERNEL}.toml")).contains("regret = "));
    let trials = sweep["trials"].as_array().expect("trials").iter();
    assert!(trials.filter_map(|t| t["measured"]["runs"].as_u64()).all(|runs| runs >= 8));
}

#[test]
fn when_the_time_is_up_what_was_measured_counts() {
    let place = without_records();
    let file = rehearse(&place, "sm_90", 1, "pause_ms = 20\n");
    let sweep = sweep(&place, &file, &["--budget", "0.4"]);
    let late = reasons(&sweep).iter().filter(|r| r.contains("the time was up")).count();
    assert!(late > 10 && sweep["best"].is_object(), "{late}");
}

#[test]
fn launches_find_their_configuration_in_the_documented_order() {
    let place = without_records();
    let file = rehearse(&place, "sm_90", 1, FASTEST);
    sweep(&place, &file, &["--shape", "rows=4096"]);
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let open = || {
        let warnings = warnings.clone();
        let warn = move |w: &str| warnings.lock().expect("no panic").push(w.to_owned());
        Source::open(Some(&place.path("configs")), warn).unwrap_or_else(|e| panic!("{e}"))
    };
    let source = open();
    let choose = |source: &Source, rows: i64| {
        let contract = find_contract(KERNEL).unwrap_or_else(|e| panic!("{e}"));
        let sizes = IndexMap::from([("rows".to_owned(), rows)]);
        let subject = Subject::new(contract, None, &sizes).unwrap_or_else(|e| panic!("{e}"));
        let target = codegen_ptx::Target::from_name("sm_90").unwrap_or_else(|e| panic!("{e}"));
        source.choose(&subject, target).unwrap_or_else(|e| panic!("{e}"))
    };
    let tuned = choose(&source, 4096);
    assert_eq!((tuned.get("TILE_N"), tuned.num_warps), (Some(1024), 8));
    assert_eq!(choose(&source, 2500), tuned);
    // Beyond the bucket the model is asked, once for all lengths of a bucket.
    let foreseen = choose(&source, 5000);
    let start = Instant::now();
    (5001..5100).for_each(|rows| assert_eq!(choose(&source, rows), foreseen));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(warnings.lock().expect("no panic").is_empty());

    let path = format!("configs/sm_90/{KERNEL}.toml");
    place.write(&path, &place.read(&path).replace("source_hash = \"", "source_hash = \"0"));
    let source = open();
    choose(&source, 4096);
    choose(&source, 4095);
    let said = warnings.lock().expect("no panic");
    assert!(said.len() == 1 && said[0].contains("stale record"), "{said:?}");
}

/// What launches ask through: inputs in, a configuration out.
#[test]
fn a_launch_asks_with_its_inputs() {
    let place = without_records();
    let source = Source::open(Some(&place.path("configs")), |_| {}).unwrap_or_else(|e| panic!("{e}"));
    let kernel = find_contract(KERNEL).unwrap_or_else(|e| panic!("{e}")).kernel();
    let shape = vec![256, 2, 1024];
    let inputs = [InputDesc { name: "x", dtype: tile::DType::BF16, shape }];
    let find = |device: &tile::Device| source.find(kernel, device, &inputs).unwrap_or_else(|e| panic!("{e}"));
    // The CPU has no tables.
    assert_eq!(find(&tile::Device::cpu()), None);
    match tile::Device::cuda(0) {
        Ok(device) => {
            let config = find(&device).expect("the model has one, if no table does");
            let wrong = [InputDesc { name: "x", dtype: tile::DType::BF16, shape: vec![3] }];
            assert!(config.get("TILE_N").is_some());
            assert_eq!(source.find(kernel, &device, &wrong).unwrap_or_else(|e| panic!("{e}")), None);
        }
        Err(reason) => skipped("a_launch_asks_with_its_inputs (its part on a GPU)", &reason.to_string()),
    }
}

/// The sweep of a small problem on this machine's own GPU.
#[test]
fn a_gpu_is_measured() {
    let device = match tile::Device::cuda(0) {
        Ok(device) => device,
        Err(reason) => return skipped("a_gpu_is_measured", &reason.to_string()),
    };
    let target = device.target().expect("a GPU has a target").part;
    let place = without_records();
    let args = ["--json", "--target", target, "--kernel", KERNEL, "--measure", "--shape", "rows=256"];
    let ran = place.run(&args);
    assert_eq!(ran.code, 0, "{ran:#?}");
    let sweep = json(&ran.out);
    assert!(sweep["best"]["measured"]["time"]["us"].as_f64() > Some(0.5), "{}", sweep["best"]);
    assert!(sweep["measured"]["measurement"]["candidates"].as_u64() > Some(10), "{}", sweep["measured"]);
}
