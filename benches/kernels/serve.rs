//! Runs and times kernels for another program, on tensors that it keeps in files: a line of JSON each way.

use crate::gpu::Session;
use autotune::measure::problem::whole_input;
use autotune::subject::{Subject, find_contract, label};
use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::{Value, json};
use std::error::Error;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use tile::DType;
use tile::contract::{Role, TensorSpec};
use tile::dynamic::DynTensor;

/// A kernel to run and time.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    kernel: String,
    dtype: DType,
    sizes: IndexMap<String, i64>,
    /// Where inputs are, by name: raw elements in row-major order. Others are drawn.
    inputs: IndexMap<String, PathBuf>,
    /// Where to put outputs, by name.
    outputs: IndexMap<String, PathBuf>,
    /// How often to run.
    runs: u64,
    /// Const parameters and launch options to set in the configuration.
    #[serde(default)]
    set: IndexMap<String, i64>,
}

/// Answers every line of the standard input until it ends.
pub fn serve(session: &Session) {
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let reply = answer(session, &line).unwrap_or_else(|error| json!({ "error": error.to_string() }));
        let mut out = std::io::stdout().lock();
        if writeln!(out, "{reply}").and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}

fn answer(session: &Session, line: &str) -> Result<Value, Box<dyn Error>> {
    let request: Request = serde_json::from_str(line)?;
    let subject = Subject::new(find_contract(&request.kernel)?, Some(request.dtype), &request.sizes)?;
    let mut choice = session.choose(&subject)?;
    subject.set(&mut choice.config, &request.set)?;
    let (contract, problem) = (subject.contract, &subject.problem);

    let mut given = IndexMap::new();
    for (name, path) in &request.inputs {
        let specs = contract.tensors(problem);
        let found = specs.iter().find(|spec| spec.role == Role::Input && spec.name == name);
        let spec = found.ok_or_else(|| format!("{} has no input `{name}`", request.kernel))?;
        let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        given.insert(name.clone(), DynTensor::from_bytes(spec.dtype, &spec.shape, bytes)?);
    }
    let input = |spec: &TensorSpec| match given.swap_remove(spec.name) {
        Some(tensor) => tensor,
        None => whole_input(contract, problem, spec, 1),
    };
    let ready = session.prepare(&subject, &choice.config, input)?;
    let results = session.results(&ready)?;
    for (name, path) in &request.outputs {
        let specs = contract.tensors(problem);
        let found = specs.iter().position(|spec| spec.role == Role::Output && spec.name == name);
        let index = found.ok_or_else(|| format!("{} has no output `{name}`", request.kernel))?;
        std::fs::write(path, &results[index].data).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    let times = session.time(&ready, request.runs)?;
    Ok(json!({
        "times": times, "config": label(&choice.config), "origin": choice.origin,
        "flops": contract.flops(problem), "bytes": contract.bytes(problem),
    }))
}
