//! One clear message, the right exit code, no panic, nothing half-written.

use crate::support::Place;

const SWEEP: [&str; 4] = ["--target", "sm_121", "--kernel", "fmha"];

#[test]
fn names_that_do_not_exist_get_the_nearest() {
    let place = Place::new();
    place.fails(
        &["--target", "sm_121", "--kernel", "fmah"],
        2,
        &["unknown kernel `fmah`", "did you mean `fmha`?"],
    );
    place.fails(&["--target", "sm_122"], 2, &["unknown target `sm_122`", "did you mean `sm_12"]);
    place.fails(
        &[&SWEEP[..], &["--set", "TILE_P=64"]].concat(),
        2,
        &["no parameter `TILE_P`", "did you mean `TILE_"],
    );
    place.fails(&[&SWEEP[..], &["--shape", "bach=2"]].concat(), 2, &["unknown size `bach`", "batch"]);
    place.fails(
        &[&SWEEP[..], &["--dtype", "bf61"]].concat(),
        2,
        &["found dtype `bf61`", "did you mean `bf16`?"],
    );
    place.fails(&["emitt"], 2, &["emit"]);
    place.fails(&["emit", "fmha", "--stage", "ptxx", "--target", "sm_121"], 2, &["ptx"]);
}

#[test]
fn values_that_cannot_be_say_what_can() {
    let place = Place::new();
    let sweep = |extra: [&'static str; 2]| [&SWEEP[..], &extra].concat();
    place.fails(&sweep(["--set", "TILE_M=48"]), 2, &["TILE_M = 48", "a power of two"]);
    place.fails(&sweep(["--set", "num_warps=3"]), 2, &["num_warps = 3", "1, 2, 4, 8 or 16"]);
    place.fails(&sweep(["--set", "HEAD_DIM=64"]), 2, &["`HEAD_DIM`", "--shape"]);
    place.fails(&sweep(["--set", "TILE_M"]), 2, &["expected NAME=VALUE"]);
    place.fails(&sweep(["--shape", "heads=many"]), 2, &["`many` is no whole number"]);
    place.fails(&sweep(["--shape", "head_dim=80"]), 2, &["head_dim = 80"]);
    place.fails(&sweep(["--shape", "seq_q=0"]), 2, &["seq_q = 0"]);
    place.fails(&sweep(["--dtype", "i32"]), 2, &["bf16, f16, f32", "i32"]);
}

#[test]
fn a_sweep_needs_a_target_and_shapes_a_kernel() {
    let place = Place::new();
    place.fails(&[], 2, &["--target sm_121"]);
    place.fails(&["--target", "sm_121", "--shape", "batch=1"], 2, &["--kernel"]);
    place.fails(&["emit", "fmha", "--stage", "ptx"], 2, &["needs a target"]);
    place.fails(&["--target", "sm_121", "list"], 2, &["put the command first"]);
}

#[test]
fn an_assembler_that_is_not_there_is_a_missing_tool() {
    let place = Place::new();
    place.fails(
        &[&SWEEP[..], &["--ptxas", "/no/such/ptxas"]].concat(),
        4,
        &["there is no ptxas at /no/such/ptxas"],
    );
    let args = ["emit", "fmha", "--target", "sm_121", "--stage", "sass", "--ptxas", "/no/such/ptxas"];
    place.fails(&args, 4, &["there is no ptxas at /no/such/ptxas"]);
}

/// Changes the table of sm_121, after which a sweep must refuse it and leave it alone.
fn refused_table(from: &str, to: &str, needles: &[&str]) {
    let place = Place::new();
    let table = "configs/sm_121/fmha.toml";
    let text = place.read(table);
    assert!(text.contains(from), "{text}");
    let changed = text.replacen(from, to, 1);
    place.write(table, &changed);
    let before = place.files();
    place.fails(&SWEEP, 3, needles);
    assert_eq!(place.read(table), changed);
    assert_eq!(place.files(), before);
}

#[test]
fn tables_are_refused_with_file_line_and_what_is_allowed() {
    let line = |n: u32, col: u32| format!("fmha.toml:{n}:{col}: ");
    refused_table("TILE_M = 64", "TILE_M = 48", &[&line(10, 21), "TILE_M is 48; allowed: a power of two"]);
    refused_table("TILE_M = 64", "TILE_Q = 64", &[&line(10, 12), "unknown field `TILE_Q`", "`TILE_M`"]);
    refused_table("TILE_M = 64", "TILE_M = \"wide\"", &[&line(10, 21), "invalid type: string \"wide\""]);
    refused_table("occupancy = 2", "occupancy = 99", &["occupancy is 99; allowed: 1 to 32"]);
    refused_table(
        "TILE_N = 64",
        "TILE_N = 4096",
        &[&line(10, 21), "bytes of shared memory", "at most 101376 bytes"],
    );
    refused_table(
        "provenance",
        "provenence",
        &[&line(8, 1), "unknown field `provenence`", "did you mean `provenance`?"],
    );
    refused_table("vendor_table", "hearsay", &["unknown variant `hearsay`", "`measured`"]);
    refused_table("target = \"sm_121\"", "target = \"sm_120\"", &[&line(5, 10), "allowed: \"sm_121\""]);
    refused_table(
        "source = ",
        "shape = { seq = 5 }\nsource = ",
        &["unknown field `seq` in shape", "did you mean `seq_"],
    );
    refused_table(
        "source = ",
        "shape = { seq_q = [9, 5] }\nsource = ",
        &["seq_q is [9, 5]", "first at most last"],
    );
    refused_table("config = ", "config ", &[&line(10, 8)]);
}

#[test]
fn a_wrong_platform_table_is_refused() {
    let place = Place::new();
    let text = place.read("configs/platforms.toml").replacen("sms = { value = 108", "sms = { value = -3", 1);
    place.write("configs/platforms.toml", &text);
    place.fails(&["targets"], 3, &["platforms.toml:22:17: ", "-3"]);
}

fn refused_tensors(input: &str, place: &Place, code: i32, needles: &[&str]) {
    let before = place.files();
    place.fails(&["run", "fmha", "--input", input, "--output", "out.safetensors"], code, needles);
    assert_eq!(place.files(), before, "nothing is written");
}

#[test]
fn tensors_that_do_not_fit_are_refused_before_anything_runs() {
    let place = Place::new();
    let shape: &[usize] = &[1, 2, 16, 64];
    refused_tensors("absent.safetensors", &place, 3, &["absent.safetensors: cannot be read"]);

    place.tensors("two.safetensors", &[("q", shape), ("k", shape)]);
    refused_tensors("two.safetensors", &place, 3, &["input `v` is missing"]);

    place.tensors("rank.safetensors", &[("q", &[2, 16, 64]), ("k", shape), ("v", shape)]);
    refused_tensors("rank.safetensors", &place, 3, &["`q` has shape [2, 16, 64]"]);

    place.tensors("odd.safetensors", &[("q", shape), ("k", shape), ("v", &[1, 2, 8, 64])]);
    refused_tensors("odd.safetensors", &place, 3, &["`v` has shape [1, 2, 8, 64]", "[1, 2, 16, 64]"]);

    place.tensors("extra.safetensors", &[("q", shape), ("k", shape), ("v", shape), ("w", shape)]);
    refused_tensors("extra.safetensors", &place, 3, &["`w` is not an argument"]);

    place.tensors("whole.safetensors", &[("q", shape), ("k", shape), ("v", shape)]);
    let whole = std::fs::read(place.path("whole.safetensors")).expect("bytes");
    std::fs::write(place.path("cut.safetensors"), &whole[..whole.len() - 100]).expect("written");
    refused_tensors("cut.safetensors", &place, 3, &["not a whole safetensors file"]);
    std::fs::write(place.path("stub.safetensors"), &whole[..5]).expect("written");
    refused_tensors("stub.safetensors", &place, 3, &["not a whole safetensors file of 5 bytes"]);
}

#[test]
fn devices_and_dtypes_that_are_not_there_are_refused() {
    let place = Place::new();
    let shape: &[usize] = &[1, 1, 16, 64];
    place.tensors("in.safetensors", &[("q", shape), ("k", shape), ("v", shape)]);
    let run = |extra: &[&str], code, needles: &[&str]| {
        let args =
            [&["run", "fmha", "--input", "in.safetensors", "--output", "out.safetensors"], extra].concat();
        place.fails(&args, code, needles);
        assert!(!place.path("out.safetensors").exists());
    };
    run(&["--device", "tpu"], 2, &["unknown device `tpu`", "cpu"]);
    run(&["--device", "cuda"], 1, &["cuda:0"]);
    run(&["--device", "emulated:sm_75"], 2, &["sm_75", "sm_121"]);
    run(&["--dtype", "bf16"], 3, &["has dtype f32; --dtype says bf16"]);
    run(&["--set", "TILE_M=3"], 2, &["a power of two"]);
    run(&["--shape", "seq_q=32"], 2, &["seq_q"]);
}

#[test]
fn errors_are_json_when_asked_for() {
    let place = Place::new();
    let ran = place.run(&["--json", "--target", "sm_999"]);
    let error: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!((ran.code, &error["exit_code"]), (2, &serde_json::json!(2)));
    assert!(error["error"].as_str().is_some_and(|e| e.contains("unknown target `sm_999`")));
}
