//! `tile-tune emit`.

use super::args::{Common, EmitArgs, Stage};
use super::{assembler, print, print_json, subject, warn};
use crate::configs::Configs;
use crate::cost::limiter;
use crate::error::TuneError;
use crate::explain::explain;
use crate::files::write_atomically;
use crate::subject::{label, values};
use codegen_ptx::{PtxasError, Target};
use serde_json::json;
use tile::jit::Jit;

pub fn run(common: &Common, configs: &Configs, args: &EmitArgs) -> Result<(), TuneError> {
    let subject = subject(&args.kernel, &args.subjects)?;
    let target = args.target.as_deref().map(Target::from_name).transpose()?;
    let set = args.subjects.set();
    let (mut config, origin) = match target {
        Some(target) => {
            let choice = configs.choose(&subject, target)?;
            warn(&choice.warnings);
            (choice.config, choice.origin)
        }
        None => (subject.contract.default_config(&subject.problem), "default of the kernel".to_owned()),
    };
    subject.set(&mut config, &set)?;
    let explanation = match args.remarks {
        true => {
            let needed = "--remarks needs a target: add --target sm_121";
            let target = target.ok_or_else(|| TuneError::Usage(needed.to_owned()))?;
            let on = (target, configs.platform(target)?);
            Some(explain(&subject, &config, on, assembler(common)?.as_ref())?)
        }
        false => None,
    };
    // Remarks without a word of a stage are all that is asked for.
    let is_alone = explanation.is_some() && args.stage.is_none() && args.output.is_none();
    let chosen = args.stage.unwrap_or(Stage::Ptx);
    let needed =
        || TuneError::Usage(format!("stage {chosen:?} needs a target: add --target sm_121").to_lowercase());
    let text = match chosen {
        _ if is_alone => String::new(),
        Stage::Ast => serde_json::to_string_pretty(subject.contract.kernel().ast())
            .map_err(|e| TuneError::TileIr { kernel: args.kernel.clone(), message: e.to_string() })?,
        Stage::Tile => subject.tile_text(&config)?,
        stage => {
            let target = target.ok_or_else(needed)?;
            // Looked for before the kernel is compiled, so that a missing tool is reported at once.
            let ptxas = match stage {
                Stage::Sass => Some(assembler(common)?.ok_or(PtxasError::NotFound)?),
                _ => None,
            };
            let stage_of = |build: Jit| match (stage, &ptxas) {
                (Stage::Gpu, _) => Ok(build.compiled.gpu.unwrap_or_default()),
                (Stage::Llvm, _) => Ok(build.compiled.llvm.unwrap_or_default()),
                (_, Some(ptxas)) => ptxas.disassemble(&ptxas.assemble(&build.compiled.ptx, target)?.cubin),
                (_, None) => Ok(build.compiled.ptx),
            };
            // The launches one after another.
            subject.build(&config, target, true)?.into_iter().map(stage_of).collect::<Result<_, _>>()?
        }
    };
    let text = if text.ends_with('\n') || is_alone { text } else { text + "\n" };
    if let Some(path) = &args.output {
        write_atomically(path, text.as_bytes())?;
    }
    if common.json {
        let mut document = json!({
            "kernel": args.kernel, "target": target.map(|t| t.part), "config": values(&config), "config_from": origin,
        });
        if args.output.is_none() && !is_alone {
            document["text"] = text.into();
        }
        if let Some(explanation) = &explanation {
            document["remarks"] = json!(explanation);
            document["remarks"]["limiter"] = json!(limiter(&explanation.limits));
        }
        print_json(&document);
    } else {
        if chosen != Stage::Ast {
            eprintln!(
                "{} with {} ({origin}{})",
                args.kernel,
                label(&config),
                if set.is_empty() { "" } else { ", --set" }
            );
        }
        match explanation.map(|explanation| explanation.render()) {
            Some(lines) if is_alone => print(&lines),
            Some(lines) => eprint!("{lines}"),
            None => {}
        }
        if args.output.is_none() {
            print(&text);
        }
    }
    Ok(())
}
