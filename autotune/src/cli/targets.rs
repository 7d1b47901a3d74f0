//! `tile-tune targets`.

use super::args::Common;
use super::table::{bytes, table};
use super::{print, print_json};
use crate::configs::Configs;
use crate::error::TuneError;
use indexmap::IndexMap;

pub fn run(common: &Common, configs: &Configs) -> Result<(), TuneError> {
    let platforms = configs.platforms();
    if common.json {
        print_json(&serde_json::json!({ "platforms": platforms }));
        return Ok(());
    }
    let header = [
        "target",
        "platform",
        "SMs",
        "clock",
        "smem/SM",
        "smem/CTA",
        "regs/SM",
        "threads/SM",
        "CTAs/SM",
        "L2",
        "DRAM",
        "dense tensor peaks (TFLOP/s)",
    ];
    let rows = platforms.iter().map(|p| {
        let peaks: Vec<String> =
            p.peak_tflops.iter().map(|(dtype, peak)| format!("{dtype} {peak}")).collect();
        vec![
            p.target.clone(),
            p.name.clone(),
            p.sms.to_string(),
            format!("{:.2} GHz", p.clock_mhz / 1000.0),
            bytes(p.smem_per_sm_bytes),
            bytes(p.smem_per_cta_bytes),
            p.registers_per_sm.to_string(),
            p.threads_per_sm.to_string(),
            p.ctas_per_sm.to_string(),
            bytes(p.l2_bytes),
            format!("{:.0} GB/s", p.dram_bytes_per_s / 1e9),
            peaks.join(", "),
        ]
    });
    let mut text = table(&header, rows.collect(), 2..11) + "\nsources:\n";
    for platform in platforms {
        let mut by_source: IndexMap<&str, Vec<&str>> = IndexMap::new();
        for (figure, source) in &platform.sources {
            by_source.entry(source).or_default().push(figure);
        }
        for (source, figures) in by_source {
            text += &format!("  {}: {}: {source}\n", platform.target, figures.join(", "));
        }
    }
    print(&text);
    Ok(())
}
