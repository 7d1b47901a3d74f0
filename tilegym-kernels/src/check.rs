//! Checks that the contracts share.

use indexmap::IndexMap;
use std::collections::BTreeMap;
use tile::contract::{Contract, ContractError, Found, Problem};
use tile::{Config, DType};

/// Every named size is at least 1 and fits the 32-bit extents of compiled kernels.
pub(crate) fn positive(problem: &Problem, names: &[&str]) -> Result<(), ContractError> {
    for name in names {
        let value = problem.sizes[*name];
        if value < 1 || value > i64::from(i32::MAX) {
            let reason = format!("a size is 1 to {}", i32::MAX);
            return Err(ContractError::Size { name: (*name).to_owned(), value, reason });
        }
    }
    Ok(())
}

/// Every named switch is 0 or 1.
pub(crate) fn switches(problem: &Problem, names: &[&str]) -> Result<(), ContractError> {
    for name in names {
        let value = problem.sizes[*name];
        if value != 0 && value != 1 {
            let reason = "a switch is 0 or 1".to_owned();
            return Err(ContractError::Size { name: (*name).to_owned(), value, reason });
        }
    }
    Ok(())
}

/// The inputs are exactly those expected; each comes with its shape in words.
pub(crate) fn input_names(
    inputs: &BTreeMap<String, Found>,
    expected: &[(&str, &str)],
) -> Result<(), ContractError> {
    let all =
        || expected.iter().map(|(name, shape)| format!("{name} {shape}")).collect::<Vec<_>>().join(", ");
    if let Some((name, _)) = expected.iter().find(|(name, _)| !inputs.contains_key(*name)) {
        return Err(ContractError::MissingInput { name: (*name).to_owned(), expected: all() });
    }
    if let Some(name) = inputs.keys().find(|found| expected.iter().all(|(name, _)| name != found)) {
        return Err(ContractError::UnknownInput { name: name.clone(), expected: all() });
    }
    Ok(())
}

/// The one dtype of the named inputs, which must be among `allowed`.
pub(crate) fn common_dtype(
    allowed: &[DType],
    inputs: &BTreeMap<String, Found>,
    names: &[&str],
) -> Result<DType, ContractError> {
    let first = inputs[names[0]].0;
    for (i, name) in names.iter().enumerate() {
        let found = inputs[*name].0;
        let expected = if i == 0 && !allowed.contains(&found) {
            allowed.iter().map(|d| d.name()).collect::<Vec<_>>().join(", ")
        } else if found != first {
            format!("{first}, that of `{}`", names[0])
        } else {
            continue;
        };
        return Err(ContractError::DType { tensor: (*name).to_owned(), found: found.to_string(), expected });
    }
    Ok(first)
}

/// The extents of an input of rank `R`.
pub(crate) fn extents<const R: usize>(
    inputs: &BTreeMap<String, Found>,
    name: &str,
    expected: &str,
) -> Result<[usize; R], ContractError> {
    let shape = &inputs[name].1;
    <[usize; R]>::try_from(shape.as_slice()).map_err(|_| ContractError::Shape {
        tensor: name.to_owned(),
        found: shape.clone(),
        expected: expected.to_owned(),
    })
}

/// A tensor of a launch has the extents it should have.
pub(crate) fn shape(tensor: &str, found: &[usize], expected: &[usize]) -> Result<(), ContractError> {
    match found == expected {
        true => Ok(()),
        false => Err(ContractError::Shape {
            tensor: tensor.to_owned(),
            found: found.to_vec(),
            expected: format!("{expected:?}"),
        }),
    }
}

/// The problem with sizes read off tensors; a size the user gave must agree with them.
pub(crate) fn problem(
    contract: &dyn Contract,
    dtype: DType,
    read: IndexMap<&str, i64>,
    given: &IndexMap<String, i64>,
) -> Result<Problem, ContractError> {
    for (name, &value) in given {
        if let Some(&found) = read.get(name.as_str())
            && found != value
        {
            let reason = format!("the inputs have {name} = {found}");
            return Err(ContractError::Size { name: name.clone(), value, reason });
        }
    }
    let mut sizes = given.clone();
    sizes.extend(read.into_iter().map(|(name, value)| (name.to_owned(), value)));
    contract.problem(dtype, &sizes)
}

/// How many tiles of the configuration's const parameter `tile` cover the size `size`.
pub(crate) fn blocks(problem: &Problem, size: &str, config: &Config, tile: &str) -> usize {
    problem.size(size).div_ceil(config.consts[tile].max(1) as usize)
}

/// A configuration from its parts.
pub(crate) fn config(consts: &[(&str, i64)], num_warps: u32, num_stages: u32, occupancy: u32) -> Config {
    let consts = consts.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    Config { consts, num_warps, num_stages, occupancy, ..Config::default() }
}
