//! The command over a user's own kernel.

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::process::{Command, Output};

fn tool(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_layernorm")).args(args).output().expect("the command runs")
}

#[test]
fn only_the_crates_own_kernel_is_listed() {
    let output = tool(&["list", "--json"]);
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let names: Vec<_> =
        list["kernels"].as_array().expect("kernels").iter().map(|k| k["name"].clone()).collect();
    assert_eq!(names, ["layernorm"]);
}

#[test]
fn the_kernel_runs_on_tensors_and_agrees_with_its_reference() {
    let folder = tempfile::tempdir().expect("a folder");
    let (input, output) = (folder.path().join("x.safetensors"), folder.path().join("y.safetensors"));
    let values: Vec<u8> = (0..7 * 100).flat_map(|i| ((i * 37 % 101) as f32).to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, vec![7, 100], &values).expect("a tensor");
    safetensors::serialize_to_file([("x", view)], None, &input).expect("written");
    let paths = [input.to_str().expect("a path"), output.to_str().expect("a path")];
    let run = tool(&["run", "layernorm", "--input", paths[0], "--output", paths[1], "--check"]);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));

    let bytes = std::fs::read(&output).expect("the output");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let y = tensors.tensor("y").expect("y");
    assert_eq!((y.dtype(), y.shape()), (Dtype::F32, &[7, 100][..]));
}
