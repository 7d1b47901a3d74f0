//! `tile-tune run`.

use super::args::{Common, RunArgs};
use super::{print, print_json};
use crate::error::TuneError;
use crate::files::write_atomically;
use crate::subject::{Subject, find_contract, label, values};
use codegen_ptx::Target;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;
use tile::Device;
use tile::contract::{Role, make_tensors, relative_error, run_steps};
use tile::device::DeviceKind;
use tile::dynamic::{CpuOptions, DynTensor};
use tile_lang::DType;

pub fn run(common: &Common, args: &RunArgs) -> Result<(), TuneError> {
    let contract = find_contract(&args.kernel)?;
    let device = open_device(&args.device)?;
    let inputs = read_tensors(&args.input)?;
    let kernel = contract.kernel().name.to_owned();
    if let Some(asked) = args.subjects.dtype(contract)?
        && let Some((name, tensor)) = inputs.iter().find(|(_, t)| t.dtype != asked)
    {
        let message = format!("`{name}` has dtype {}; --dtype says {asked}", tensor.dtype);
        return Err(TuneError::Tensors { path: args.input.clone(), message });
    }
    let found = inputs.iter().map(|(name, t)| (name.clone(), (t.dtype, t.shape.clone()))).collect();
    let problem = contract
        .from_inputs(&found, &args.subjects.shape())
        .map_err(|source| TuneError::Contract { kernel, source })?;
    let subject = Subject { contract, problem };
    let mut config = contract.default_config(&subject.problem);
    subject.set(&mut config, &args.subjects.set())?;
    subject.programs(&config)?;

    let specs = contract.tensors(&subject.problem);
    let in_order = specs.iter().filter(|spec| spec.role == Role::Input);
    let in_order: Vec<DynTensor> = in_order.filter_map(|spec| inputs.get(spec.name)).cloned().collect();
    let mut tensors = make_tensors(contract, &subject.problem, &config, &in_order);
    let steps = contract.steps(&subject.problem, &config);
    let start = Instant::now();
    run_steps(&steps, &device, &mut tensors, CpuOptions { check_races: args.check_races, checked: false })?;
    let elapsed = start.elapsed();

    let errors = if args.check { compare(&subject, &device, &tensors)? } else { Vec::new() };
    let outputs: Vec<_> = specs.iter().zip(&tensors).filter(|(s, _)| s.role == Role::Output).collect();
    let named = outputs.iter().map(|(spec, tensor)| (spec.name, *tensor));
    write_tensors(&args.output, named)?;
    let ms = elapsed.as_secs_f64() * 1e3;
    if common.json {
        let outputs: Vec<_> = outputs
            .iter()
            .map(|(s, t)| json!({ "name": s.name, "dtype": t.dtype, "shape": t.shape }))
            .collect();
        let errors: BTreeMap<_, _> = errors.into_iter().collect();
        print_json(&json!({
            "kernel": args.kernel, "sizes": subject.problem.sizes, "dtype": subject.problem.dtype, "config": values(&config),
            "device": args.device, "ms": ms, "outputs": outputs, "relative_error": errors, "output": args.output,
        }));
        return Ok(());
    }
    let mut text = format!("{} with {} on {}: {ms:.1} ms\n", args.kernel, label(&config), args.device);
    for (name, error) in &errors {
        text += &format!("{name}: relative error {error:.2e} against the reference\n");
    }
    for (spec, tensor) in &outputs {
        text += &format!(
            "{}: {} {:?} written to {}\n",
            spec.name,
            tensor.dtype,
            tensor.shape,
            args.output.display()
        );
    }
    print(&text);
    Ok(())
}

/// The device by name: `cpu`, `cuda` or `cuda:<index>`, `emulated:<target>`.
fn open_device(name: &str) -> Result<Device, TuneError> {
    if let Some(target) = name.strip_prefix("emulated:") {
        return Ok(Device::emulated(Target::from_name(target)?, 0));
    }
    let index = name
        .strip_prefix("cuda")
        .map(|rest| rest.strip_prefix(':').unwrap_or(if rest.is_empty() { "0" } else { rest }));
    match (name, index.map(str::parse::<usize>)) {
        ("cpu", _) => Ok(Device::cpu()),
        (_, Some(Ok(index))) => Ok(Device::cuda(index)?),
        _ => Err(TuneError::Usage(format!(
            "unknown device `{name}`; there are: cpu, cuda:<index>, emulated:<target>"
        ))),
    }
}

/// The relative error of each output against the contract's reference.
fn compare(
    subject: &Subject,
    device: &Device,
    tensors: &[DynTensor],
) -> Result<Vec<(&'static str, f64)>, TuneError> {
    let specs = subject.contract.tensors(&subject.problem);
    let of_role = |role| specs.iter().zip(tensors).filter(move |(s, _)| s.role == role);
    let inputs: Vec<Vec<f64>> = of_role(Role::Input).map(|(_, t)| t.to_f64()).collect();
    let reference = subject.contract.oracle(&subject.problem, &inputs);
    let tolerance = subject.contract.tolerance(subject.problem.dtype, device.kind() != DeviceKind::Cpu);
    let mut errors = Vec::new();
    for ((spec, tensor), reference) in of_role(Role::Output).zip(&reference) {
        let error = relative_error(&tensor.to_f64(), reference);
        if error > tolerance || error.is_nan() {
            return Err(TuneError::Disagrees { tensor: spec.name.to_owned(), error, tolerance });
        }
        errors.push((spec.name, error));
    }
    Ok(errors)
}

/// Every tensor of a safetensors file.
fn read_tensors(path: &Path) -> Result<BTreeMap<String, DynTensor>, TuneError> {
    let error = |message: String| TuneError::Tensors { path: path.to_owned(), message };
    let bytes = std::fs::read(path).map_err(|e| error(format!("cannot be read: {e}")))?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|e| error(format!("not a whole safetensors file of {} bytes: {e}", bytes.len())))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        let Some(dtype) = dtype_of(view.dtype()) else {
            let message = format!(
                "`{name}` has dtype {:?}; tensors may be F32, F16, BF16, I32, BOOL or F8_E4M3",
                view.dtype()
            );
            return Err(error(message));
        };
        let tensor = DynTensor::from_bytes(dtype, view.shape(), view.data().to_vec())
            .map_err(|e| error(format!("`{name}`: {e}")))?;
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

fn write_tensors<'a>(
    path: &Path,
    tensors: impl Iterator<Item = (&'a str, &'a DynTensor)>,
) -> Result<(), TuneError> {
    let error = |message: String| TuneError::Tensors { path: path.to_owned(), message };
    let mut views = Vec::new();
    for (name, tensor) in tensors {
        let Some(dtype) = safetensors_dtype(tensor.dtype) else {
            return Err(error(format!(
                "`{name}` has dtype {}, which safetensors has no name for",
                tensor.dtype
            )));
        };
        let view = TensorView::new(dtype, tensor.shape.clone(), &tensor.data);
        views.push((name, view.map_err(|e| error(format!("`{name}`: {e}")))?));
    }
    let bytes = safetensors::serialize(views, None).map_err(|e| error(e.to_string()))?;
    Ok(write_atomically(path, &bytes)?)
}

/// The dtypes that both sides know.
const DTYPES: [(DType, Dtype); 6] = [
    (DType::F32, Dtype::F32),
    (DType::F16, Dtype::F16),
    (DType::BF16, Dtype::BF16),
    (DType::I32, Dtype::I32),
    (DType::Bool, Dtype::BOOL),
    (DType::F8E4M3FN, Dtype::F8_E4M3),
];

fn dtype_of(dtype: Dtype) -> Option<DType> {
    DTYPES.iter().find(|(_, theirs)| *theirs == dtype).map(|(ours, _)| *ours)
}

fn safetensors_dtype(dtype: DType) -> Option<Dtype> {
    DTYPES.iter().find(|(ours, _)| *ours == dtype).map(|(_, theirs)| *theirs)
}
