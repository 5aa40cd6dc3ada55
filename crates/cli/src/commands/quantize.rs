//! `quarrel quantize`: a model in another number format.

use std::io::IsTerminal;

use anyhow::{Context, Result, ensure};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use model::quantize::{Override, Recipe, quantize_file};

use crate::args::QuantizeArgs;
use crate::{loading, output};

/// Converts a model file.
pub fn run(args: &QuantizeArgs) -> Result<()> {
    let recipe = Recipe::from_name(&args.format).with_context(|| {
        let known: Vec<_> = Recipe::ALL.iter().map(ToString::to_string).collect();
        format!("`{}` is not a format to quantise to; known: {}", args.format, known.join(", "))
    })?;
    let overrides: Vec<Override> =
        args.tensor.iter().map(|text| Override::parse(text)).collect::<Result<_, _>>()?;
    ensure!(
        args.force || !args.output.exists(),
        "{} exists already; --force overwrites it",
        args.output.display()
    );
    let file = loading::open_file(&loading::fetch(&args.input)?.path)?;
    let threads = args.threads.map_or_else(loading::default_threads, usize::from);
    let bar = progress_bar(file.tensor_bytes());
    quantize_file(&file, &args.output, recipe, &overrides, threads, &mut |progress| {
        bar.set_message(format!("{} {} → {}", progress.tensor, progress.from, progress.to));
        bar.set_position(progress.done);
    })?;
    bar.finish_and_clear();
    let (before, after) = (file.tensor_bytes(), loading::open_file(&args.output)?.tensor_bytes());
    Ok(output::show(&format!(
        "{}: {} of tensors ({} before)\n",
        args.output.display(),
        HumanBytes(after),
        HumanBytes(before)
    ))?)
}

fn progress_bar(total: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "{bar:30} {binary_bytes}/{binary_total_bytes}  {eta}  {msg}";
    ProgressBar::new(total)
        .with_style(ProgressStyle::with_template(template).expect("the template is a constant"))
}
