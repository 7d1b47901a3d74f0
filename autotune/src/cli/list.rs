//! `tile-tune list`.

use super::args::Common;
use super::{print, print_json};
use crate::error::TuneError;
use crate::subject::Subject;
use indexmap::IndexMap;
use serde_json::json;
use tile::contract::contracts;

pub fn run(common: &Common) -> Result<(), TuneError> {
    let mut kernels = Vec::new();
    let mut text = String::new();
    for contract in contracts() {
        let kernel = contract.kernel();
        let candidates = Subject::new(contract, None, &IndexMap::new())?.candidates()?.len();
        let dtypes: Vec<&str> = contract.dtypes().iter().map(|d| d.name()).collect();
        let axes: IndexMap<&str, &[i64]> =
            kernel.ast().tune.axes.iter().map(|a| (a.name.as_str(), a.values.as_slice())).collect();
        text += &format!("{} ({})\n  {}\n", kernel.name, kernel.module_path, contract.summary());
        text += &format!("  dtypes: {}\n  sizes:\n", dtypes.join(", "));
        let width = contract
            .sizes()
            .iter()
            .map(|s| s.name.len() + s.default.to_string().len() + 1)
            .max()
            .unwrap_or(0);
        for size in contract.sizes() {
            text += &format!("    {:width$}  {}\n", format!("{}={}", size.name, size.default), size.doc);
        }
        text += &format!("  parameters ({candidates} candidates):\n");
        for (name, values) in &axes {
            let values: Vec<String> = values.iter().map(i64::to_string).collect();
            text += &format!("    {name} in {}\n", values.join(", "));
        }
        let sizes: Vec<_> = contract
            .sizes()
            .iter()
            .map(|s| json!({ "name": s.name, "default": s.default, "exact": s.exact, "doc": s.doc }))
            .collect();
        kernels.push(json!({
            "name": kernel.name, "module": kernel.module_path, "summary": contract.summary(), "dtypes": dtypes,
            "sizes": sizes, "parameters": axes, "candidates": candidates,
        }));
    }
    match common.json {
        true => print_json(&json!({ "kernels": kernels })),
        false if text.is_empty() => print("no kernels are linked into this program\n"),
        false => print(&text),
    }
    Ok(())
}
