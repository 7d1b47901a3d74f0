//! The GPUs there are: how many SMs, how large, how fast.

use crate::files::{FileError, Source};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tile_lang::DType;
use toml::Spanned;

/// The table that this program was built with, used where no `platforms.toml` is found.
pub const BUILT_IN: &str = include_str!("../../configs/platforms.toml");

/// A GPU, as far as pruning and the cost model need to know it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Platform {
    /// Its name.
    pub name: String,
    /// The part: `sm_121`.
    pub target: String,
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Clock of the SMs under load, in MHz.
    pub clock_mhz: f64,
    /// Threads resident on an SM.
    pub threads_per_sm: u32,
    /// Threads of one CTA.
    pub threads_per_cta: u32,
    /// CTAs resident on an SM.
    pub ctas_per_sm: u32,
    /// 32-bit registers of an SM.
    pub registers_per_sm: u32,
    /// Registers one thread can have.
    pub registers_per_thread: u32,
    /// Shared memory of an SM in bytes.
    pub smem_per_sm_bytes: usize,
    /// Shared memory one CTA can have in bytes.
    pub smem_per_cta_bytes: usize,
    /// L2 cache in bytes.
    pub l2_bytes: usize,
    /// Bandwidth of device memory in bytes a second.
    pub dram_bytes_per_s: f64,
    /// Dense tensor peak in TFLOP/s by operand dtype, accumulating in f32; f32 operands are rounded to tf32.
    pub peak_tflops: BTreeMap<DType, f64>,
    /// The share of the peak that `mma.sync` reaches.
    pub mma_sync_share: f64,
    /// Where each figure is from.
    pub sources: IndexMap<String, String>,
}

impl Platform {
    /// Operations a cycle of one SM on `mma.sync` with operands of a dtype; the rate of f32 where it has no own.
    pub fn mma_flops_per_cycle(&self, dtype: DType) -> f64 {
        self.peak_flops_per_cycle(dtype) * self.mma_sync_share
    }

    /// Operations a cycle of one SM at its peak, which products of warpgroups reach.
    pub fn peak_flops_per_cycle(&self, dtype: DType) -> f64 {
        let peak = self.peak_tflops.get(&dtype).or_else(|| self.peak_tflops.get(&DType::F32));
        peak.copied().unwrap_or(1.0) * 1e12 / f64::from(self.sms) / (self.clock_mhz * 1e6)
    }
}

/// Reads a table of platforms.
///
/// # Errors
/// With file and line, for unknown fields, wrong types, figures that cannot be, and figures without a source.
pub fn parse_platforms(source: &Source) -> Result<Vec<Platform>, FileError> {
    let raw: RawTable = source.parse()?;
    let mut platforms = Vec::new();
    for entry in &raw.platform {
        platforms.push(entry.read(&raw.sources, source)?);
    }
    Ok(platforms)
}

/// The platform that stands for a part.
pub fn platform_of<'a>(platforms: &'a [Platform], part: &str) -> Option<&'a Platform> {
    platforms.iter().find(|p| p.target == part)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTable {
    sources: IndexMap<String, String>,
    platform: Vec<RawPlatform>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Figure<T> {
    value: Spanned<T>,
    source: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPlatform {
    name: Spanned<String>,
    target: Spanned<String>,
    sms: Figure<u32>,
    clock_mhz: Figure<f64>,
    threads_per_sm: Figure<u32>,
    threads_per_cta: Figure<u32>,
    ctas_per_sm: Figure<u32>,
    registers_per_sm: Figure<u32>,
    registers_per_thread: Figure<u32>,
    smem_per_sm_bytes: Figure<u32>,
    smem_per_cta_bytes: Figure<u32>,
    l2_bytes: Figure<u32>,
    dram_bytes_per_s: Figure<f64>,
    peak_tflops: IndexMap<Spanned<String>, Figure<f64>>,
    mma_sync_share: Figure<f64>,
}

impl RawPlatform {
    fn read(&self, sources: &IndexMap<String, String>, file: &Source) -> Result<Platform, FileError> {
        let mut found = IndexMap::new();
        let known = || sources.keys().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ");
        let mut cite = |field: &str, source: &Spanned<String>| match sources.get(source.get_ref()) {
            Some(text) => {
                found.insert(field.to_owned(), text.clone());
                Ok(())
            }
            None => {
                let allowed = format!("a key of [sources]: {}", known());
                Err(file.value_error(
                    &source.span(),
                    format!("{field}.source"),
                    quoted(source.get_ref()),
                    allowed,
                ))
            }
        };
        let mut count = |field: &str, figure: &Figure<u32>| -> Result<u32, FileError> {
            cite(field, &figure.source)?;
            match *figure.value.get_ref() {
                0 => Err(file.value_error(&figure.value.span(), field, 0, "a positive whole number")),
                value => Ok(value),
            }
        };
        let sms = count("sms", &self.sms)?;
        let threads_per_sm = count("threads_per_sm", &self.threads_per_sm)?;
        let threads_per_cta = count("threads_per_cta", &self.threads_per_cta)?;
        let ctas_per_sm = count("ctas_per_sm", &self.ctas_per_sm)?;
        let registers_per_sm = count("registers_per_sm", &self.registers_per_sm)?;
        let registers_per_thread = count("registers_per_thread", &self.registers_per_thread)?;
        let smem_per_sm_bytes = count("smem_per_sm_bytes", &self.smem_per_sm_bytes)? as usize;
        let smem_per_cta_bytes = count("smem_per_cta_bytes", &self.smem_per_cta_bytes)? as usize;
        let l2_bytes = count("l2_bytes", &self.l2_bytes)? as usize;
        let mut rate =
            |field: &str, figure: &Figure<f64>, most: f64, allowed: &str| -> Result<f64, FileError> {
                cite(field, &figure.source)?;
                let value = *figure.value.get_ref();
                if value > 0.0 && value <= most {
                    return Ok(value);
                }
                Err(file.value_error(&figure.value.span(), field, value, allowed))
            };
        let clock_mhz = rate("clock_mhz", &self.clock_mhz, 1e5, "MHz, above 0 and at most 100000")?;
        let dram_bytes_per_s = rate(
            "dram_bytes_per_s",
            &self.dram_bytes_per_s,
            1e15,
            "bytes a second, above 0 and at most 1e15",
        )?;
        let mma_sync_share = rate("mma_sync_share", &self.mma_sync_share, 1.0, "above 0 and at most 1")?;
        let mut peak_tflops = BTreeMap::new();
        for (name, figure) in &self.peak_tflops {
            let Some(dtype) = DType::from_name(name.get_ref()).filter(|d| d.is_float()) else {
                let floats: Vec<_> = DType::ALL.iter().filter(|d| d.is_float()).map(|d| d.name()).collect();
                let span = name.span();
                return Err(file.value_error(
                    &span,
                    "peak_tflops",
                    quoted(name.get_ref()),
                    floats.join(", "),
                ));
            };
            let field = format!("peak_tflops.{dtype}");
            peak_tflops.insert(dtype, rate(&field, figure, 1e6, "TFLOP/s, above 0 and at most 1e6")?);
        }
        if smem_per_cta_bytes > smem_per_sm_bytes {
            let allowed = format!("at most smem_per_sm_bytes = {smem_per_sm_bytes}");
            let span = self.smem_per_cta_bytes.value.span();
            return Err(file.value_error(&span, "smem_per_cta_bytes", smem_per_cta_bytes, allowed));
        }
        if !self.target.get_ref().starts_with("sm_") {
            let span = self.target.span();
            return Err(file.value_error(
                &span,
                "target",
                quoted(self.target.get_ref()),
                "a part such as \"sm_121\"",
            ));
        }
        Ok(Platform {
            name: self.name.get_ref().clone(),
            target: self.target.get_ref().clone(),
            sms,
            clock_mhz,
            threads_per_sm,
            threads_per_cta,
            ctas_per_sm,
            registers_per_sm,
            registers_per_thread,
            smem_per_sm_bytes,
            smem_per_cta_bytes,
            l2_bytes,
            dram_bytes_per_s,
            peak_tflops,
            mma_sync_share,
            sources: found,
        })
    }
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built_in() -> Vec<Platform> {
        parse_platforms(&Source::new("platforms.toml", BUILT_IN)).expect("the built-in table is right")
    }

    fn error_of(from: &str, to: &str) -> String {
        assert!(BUILT_IN.contains(from), "{from}");
        let text = BUILT_IN.replacen(from, to, 1);
        parse_platforms(&Source::new("p.toml", text)).expect_err("refused").to_string()
    }

    #[test]
    fn every_target_has_a_platform() {
        let platforms = built_in();
        let parts = ["sm_80", "sm_90", "sm_100", "sm_120", "sm_121"];
        assert!(parts.iter().all(|part| platform_of(&platforms, part).is_some()));
    }

    #[test]
    fn the_tensor_rate_is_that_of_the_sm() {
        let platforms = built_in();
        let rate = |part: &str, dtype| {
            platform_of(&platforms, part).map(|p| p.mma_flops_per_cycle(dtype)).unwrap_or(0.0)
        };
        assert!((rate("sm_121", DType::BF16) / 1024.0 - 1.0).abs() < 0.01);
        assert!((rate("sm_80", DType::F32) / 1024.0 - 1.0).abs() < 0.01);
        assert!((rate("sm_120", DType::F16) / 512.0 - 1.0).abs() < 0.01);
    }

    #[test]
    fn an_unknown_field_names_line_and_neighbours() {
        let error = error_of("sms = { value = 108", "sm = { value = 108");
        assert!(error.starts_with("p.toml:22:1: unknown field `sm`, expected one of `name`"), "{error}");
        assert!(error.ends_with("did you mean `sms`?"), "{error}");
    }

    #[test]
    fn a_wrong_type_names_the_line_and_the_type() {
        let error = error_of("value = 108,", "value = \"many\",");
        assert!(error.starts_with("p.toml:22:17: invalid type: string \"many\", expected u32"), "{error}");
    }

    #[test]
    fn figures_must_be_possible_and_cited() {
        assert!(
            error_of("value = 108,", "value = 0,").contains("sms is 0; allowed: a positive whole number")
        );
        assert!(
            error_of("value = 0.63", "value = 1.5")
                .contains("mma_sync_share is 1.5; allowed: above 0 and at most 1")
        );
        assert!(error_of("peak_tflops.f16", "peak_tflops.f15").contains("allowed: f32, f16, bf16"));
        assert!(
            error_of("source = \"native\"", "source = \"hearsay\"")
                .contains("a key of [sources]: `cuda_guide`")
        );
        assert!(error_of("value = 166912", "value = 999999").contains("at most smem_per_sm_bytes = 167936"));
    }
}
