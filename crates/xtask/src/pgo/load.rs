//! The load whose profile the build is made for.
//!
//! What it does not reach counts as cold and may become slower than without a
//! profile, so it reaches every format that can be written.

use std::path::Path;

use crate::error::{Result, at};
use crate::figures::Workload;
use crate::quarrel::Quarrel;

/// The formats of `quarrel quantize`.
const FORMATS: [&str; 18] = [
    "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L",
    "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ4_NL",
];

/// The formats that people use most, whose loops get most of the counts.
const LONGER: [&str; 3] = ["Q4_0", "Q4_K_M", "Q8_0"];

/// Two, so that what waits for other threads is in the profile.
const THREADS: u32 = 2;

const PROMPT: &str = "Explain in a few sentences why the sky is blue and the evening sun is red.";

/// Runs it: `model` is a small model, `text` a long text, `temp` a directory
/// for models in other formats. With each of `isas` the formats are read once
/// more, since a processor of another kind takes other loops.
///
/// # Errors
/// A command that fails.
pub fn run(quarrel: &Quarrel, model: &Path, text: &Path, temp: &Path, isas: &[String]) -> Result<()> {
    std::fs::create_dir_all(temp).map_err(at(temp))?;
    answers(quarrel, model, text)?;
    let file = temp.join("model.gguf");
    for format in FORMATS {
        eprintln!("profiling {format}");
        quarrel.quantize(model, &file, format)?;
        let length = if LONGER.contains(&format) { (512, 64) } else { (64, 8) };
        bench(quarrel, &file, length)?;
        for isa in isas {
            bench(&Quarrel { isa: Some(isa.clone()), ..quarrel.clone() }, &file, length)?;
        }
    }
    std::fs::remove_file(&file).map_err(at(&file))
}

/// What a person does: start, prompt, sampling, text; and the tokeniser at length.
fn answers(quarrel: &Quarrel, model: &Path, text: &Path) -> Result<()> {
    let (model, text) = (model.to_string_lossy(), text.to_string_lossy());
    let run = ["run", "--model", &model, "--max-tokens", "64", "--seed", "1"];
    quarrel.run("profiling an answer", &[&run[..], &[PROMPT]].concat())?;
    quarrel.run("profiling an answer", &[&run[..], &["--temperature", "0", PROMPT]].concat())?;
    let perplexity = ["perplexity", "--model", &model, "--file", &text, "--ctx", "256", "--chunks", "2"];
    quarrel.run("profiling perplexity", &perplexity).map(drop)
}

fn bench(quarrel: &Quarrel, file: &Path, (prompt, generated): (u32, u32)) -> Result<()> {
    let workload = Workload { threads: THREADS, prompt, generated, depth: 0, batch: None };
    quarrel.bench(file, &workload).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_formats_are_formats() {
        assert!(LONGER.iter().all(|format| FORMATS.contains(format)));
    }
}
