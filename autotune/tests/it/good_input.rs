//! What the command does when all is well.

use crate::support::{Place, json, repository_ptxas, skipped};
use safetensors::tensor::SafeTensors;

#[test]
fn kernels_and_targets_are_listed() {
    let place = Place::new();
    let list = place.run(&["list"]);
    assert!(list.code == 0 && list.out.contains("fmha") && list.out.contains("matmul"), "{list:#?}");
    let targets = place.run(&["targets"]);
    for part in ["sm_80", "sm_90", "sm_100", "sm_120", "sm_121", "273 GB/s", "sources:"] {
        assert!(targets.out.contains(part), "{part}: {}", targets.out);
    }
    let platforms = json(&place.run(&["targets", "--json"]).out);
    assert_eq!(platforms["platforms"].as_array().map(Vec::len), Some(5));
}

/// A part of the space, so that the test stays short.
#[test]
fn a_sweep_ranks_prunes_and_leaves_no_partial_record() {
    let place = Place::new();
    let table = place.read("configs/sm_121/fmha.toml");
    let set = "TILE_N=64,num_stages=2,num_warps=4";
    let part = ["--json", "--target", "sm_121", "--kernel", "fmha", "--set", set];
    let ran = place.run(&part);
    assert_eq!(ran.code, 0, "{ran:#?}");
    let sweep = json(&ran.out);
    let trials = sweep["trials"].as_array().expect("trials");
    assert!(trials.len() >= 4, "{trials:#?}");
    for trial in trials {
        let ranked = trial["outcome"] == "ranked";
        assert_eq!(ranked, trial["time"].is_object(), "{trial}");
        assert_eq!(ranked, trial["reason"].is_null(), "{trial}");
        assert_eq!(trial["config"]["TILE_N"], 64);
    }
    let times: Vec<f64> = trials.iter().filter_map(|t| t["time"]["us"].as_f64()).collect();
    assert!(times.is_sorted() && !times.is_empty(), "{times:?}");
    assert_eq!(sweep["best"], trials[0]);
    // A sweep of a part of the space is no record of the whole, unless it is asked for and says so.
    assert_eq!(place.read("configs/sm_121/fmha.toml"), table);
    let recorded = place.run(&[&part[..], &["--record"]].concat());
    assert_eq!(recorded.code, 0, "{recorded:#?}");
    assert!(place.read("configs/sm_121/fmha.toml").contains("pinned = { TILE_N = 64"), "{recorded:#?}");
    assert!(place.files().iter().all(|f| !f.to_string_lossy().contains("journal")));
}

#[test]
fn a_whole_sweep_writes_a_record_that_the_next_command_uses() {
    let place = Place::new();
    let matmul = ["--target", "sm_80", "--kernel", "matmul", "--shape", "m=256,n=256,k=256"];
    let ran = place.run(&matmul);
    assert_eq!(ran.code, 0, "{ran:#?}");
    for word in [
        "configuration",
        "registers",
        "smem",
        "spills",
        "occupancy",
        "predicted",
        "limiter",
        "verdict",
        "best",
    ] {
        assert!(ran.out.contains(word), "{word}: {}", ran.out);
    }
    let table = place.read("configs/sm_80/matmul.toml");
    for field in
        ["provenance = \"modelled\"", "source_hash = ", "compiler = ", "tuned_at = ", "time = ", "trials = ["]
    {
        assert!(table.contains(field), "{field}: {table}");
    }
    let emit = ["emit", "matmul", "--target", "sm_80", "--shape", "m=200,n=256,k=129", "--json"];
    let emitted = json(&place.run(&emit).out);
    assert_eq!(emitted["config_from"], "table of sm_80, modelled record for its bucket");

    place.write("configs/sm_80/matmul.toml", &table.replace("source_hash = \"", "source_hash = \"0"));
    let stale = place.run(&emit);
    assert!(stale.err.contains("warning: stale record of matmul"), "{stale:#?}");
    assert_eq!(json(&stale.out)["config_from"], "cost model");

    let again = place.run(&matmul);
    assert!(again.code == 0 && again.err.contains("stale"), "{again:#?}");
    assert_eq!(place.read("configs/sm_80/matmul.toml").matches("[[record]]").count(), 1);
}

/// The vendor's rows among the candidates with these values, their outcomes and resources.
fn vendor_rows(place: &Place, target: &str, set: &str, ptxas: &[&str]) -> Vec<serde_json::Value> {
    let ran = place.run(&[&["--json", "--target", target, "--kernel", "fmha", "--set", set], ptxas].concat());
    let rows = json(&ran.out)["trials"].as_array().cloned().unwrap_or_default();
    rows.into_iter().filter(|t| t["vendor"] == true).collect()
}

#[test]
fn vendors_rows_that_need_tensor_memory_are_kept_and_wait() {
    let place = Place::new();
    let mut tiles = Vec::new();
    for row in vendor_rows(&place, "sm_100", "TILE_N=128", &[]) {
        assert_eq!(row["outcome"], "awaits_tcgen05", "{row}");
        tiles.push((row["config"]["TILE_M"].as_i64(), row["config"]["occupancy"].as_i64()));
    }
    tiles.sort();
    assert_eq!(tiles, [(Some(128), Some(2)), (Some(256), Some(1))]);
}

#[test]
fn the_vendors_row_for_sm_121_assembles_without_spills_at_its_occupancy() {
    let Some(ptxas) = repository_ptxas() else {
        let test = "the_vendors_row_for_sm_121_assembles_without_spills_at_its_occupancy";
        return skipped(test, "no ptxas");
    };
    let rows = vendor_rows(&Place::new(), "sm_121", "TILE_M=64,TILE_N=64", &["--ptxas", &ptxas]);
    let [row] = rows.as_slice() else { panic!("one row: {rows:#?}") };
    assert_eq!(row["outcome"], "ranked", "{row}");
    assert_eq!(row["resources"]["spill_bytes"], 0, "{row}");
    assert!(row["resources"]["ctas_per_sm"].as_i64() >= Some(2), "{row}");
    assert!(row["resources"]["registers"].as_i64() > Some(32), "{row}");
}

#[test]
fn every_stage_is_emitted() {
    let place = Place::new();
    let stages = [
        ("ast", "\"name\": \"fmha\""),
        ("tile", "tile.mma"),
        ("gpu", "tgpu."),
        ("llvm", "define"),
        ("ptx", ".target sm_121a"),
    ];
    for (stage, needle) in stages {
        let ran = place.run(&["emit", "fmha", "--target", "sm_121", "--stage", stage, "--set", "TILE_M=64"]);
        assert!(ran.code == 0 && ran.out.contains(needle), "{stage}: {} {}", ran.code, ran.err);
    }
    let ran = place.run(&["emit", "fmha", "--target", "sm_121", "--output", "fmha.ptx"]);
    assert!(ran.code == 0 && ran.out.is_empty() && place.read("fmha.ptx").contains(".entry"), "{ran:#?}");
    let choice = &ran.err;
    assert!(choice.contains("TILE_M=64 TILE_N=64") && choice.contains("occupancy=2"), "{choice}");
    assert!(choice.contains("table of sm_121, vendor table record for any shape"), "{choice}");
}

#[test]
fn machine_code_is_emitted_where_there_is_an_assembler() {
    let Some(ptxas) = repository_ptxas() else {
        return skipped("machine_code_is_emitted_where_there_is_an_assembler", "no ptxas");
    };
    let ran = Place::new().run(&["emit", "fmha", "--target", "sm_121", "--stage", "sass", "--ptxas", &ptxas]);
    assert!(ran.code == 0 && ran.out.contains("HMMA"), "{} {}", ran.code, ran.err);
}

/// Every pass of the target has its line, and buffers add up to what a CTA takes.
#[test]
fn remarks_say_what_passes_did_and_what_the_kernel_takes() {
    let place = Place::new();
    let matmul = ["emit", "matmul", "--target", "sm_90", "--remarks"];
    let set = ["--set", "TILE_M=128,TILE_N=128,TILE_K=64,num_warps=8,num_stages=3,occupancy=1"];
    let ran = place.run(&[&matmul[..], &set].concat());
    assert_eq!(ran.code, 0, "{ran:#?}");
    for word in [
        "warp-specialize",
        "a warp of its own makes 2 copies",
        "did not fire",
        "no product has scales",
        "ring of 3 x 128x64 bf16, bulk copies from lhs (",
        "barriers",
        "warps compute",
        "warps copy",
        "limited by L2",
    ] {
        assert!(ran.out.contains(word), "{word}: {}", ran.out);
    }
    assert!(!ran.out.contains(".target"), "no stage was asked for: {}", ran.out);

    let beside = place.run(&[&matmul[..], &set, &["--stage", "gpu"]].concat());
    assert!(beside.out.contains("tgpu.") && !beside.out.contains("did not fire"), "{}", beside.out);
    assert!(beside.err.contains("did not fire"), "{}", beside.err);

    let off = ["--set", "num_stages=3,warp_specialize=false", "--json"];
    let document = json(&place.run(&[&matmul[..], &off].concat()).out);
    assert!(document["text"].is_null() && document["remarks"]["limiter"].is_string(), "{document}");
    let launch = &document["remarks"]["launches"][0];
    let passes = launch["passes"].as_array().expect("passes");
    let names: Vec<&str> = passes.iter().filter_map(|p| p["pass"].as_str()).collect();
    let target = codegen_ptx::Target::from_name("sm_90").expect("a target");
    assert_eq!(names, target.passes.iter().map(|p| p.name()).collect::<Vec<_>>());
    let silent = |p: &&serde_json::Value| p["remarks"].as_array().is_none_or(Vec::is_empty);
    assert_eq!(passes.iter().find(silent), None);
    let specialize = passes.iter().find(|p| p["pass"] == "warp-specialize").expect("the pass");
    assert_eq!(specialize["fired"], false);
    assert_eq!(specialize["remarks"][0], "switched off by warp_specialize=0");
    let ends = launch["buffers"].as_array().expect("buffers").iter();
    let ends = ends.map(|b| b["offset"].as_u64().unwrap_or(0) + b["bytes"].as_u64().unwrap_or(0));
    assert_eq!(ends.max(), launch["smem_bytes"].as_u64());
}

#[test]
fn remarks_of_a_kernel_need_a_target() {
    Place::new().fails(&["emit", "matmul", "--remarks"], 2, &["--remarks needs a target"]);
}

#[test]
fn a_kernel_runs_on_tensors_from_a_file() {
    let place = Place::new();
    let shapes: [(&str, &[usize]); 3] =
        [("q", &[1, 4, 15, 64]), ("k", &[1, 2, 63, 64]), ("v", &[1, 2, 63, 64])];
    place.tensors("in.safetensors", &shapes);
    let run =
        ["run", "fmha", "--input", "in.safetensors", "--output", "out.safetensors", "--check", "--json"];
    for (extra, tolerance) in [
        (&["--set", "TILE_M=16"][..], 1e-5),
        (&["--device", "cpu", "--shape", "causal=false", "--check-races"], 1e-5),
        // Tensor cores round to tf32.
        (&["--device", "emulated:sm_121"], 2e-3),
    ] {
        let ran = place.run(&[&run[..], extra].concat());
        assert_eq!(ran.code, 0, "{ran:#?}");
        let error = json(&ran.out)["relative_error"]["out"].as_f64().expect("an error");
        assert!(error < tolerance, "{error}");
        let bytes = std::fs::read(place.path("out.safetensors")).expect("the output");
        let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
        assert_eq!(tensors.tensor("out").expect("out").shape(), [1, 4, 15, 64]);
    }
}
