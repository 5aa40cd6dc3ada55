//! `quarrel quantize`: a model in another number format.

use std::io::IsTerminal;
use std::ops::ControlFlow;

use anyhow::{Context, Result, ensure};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use model::quantize::{Override, Recipe, quantize_file};

use crate::args::QuantizeArgs;
use crate::{device, interrupt, loading, output};

/// Converts a model file.
pub fn run(args: &QuantizeArgs) -> Result<()> {
    let recipe = Recipe::from_name(&args.format).with_context(|| {
        let known: Vec<_> = Recipe::ALL.iter().map(ToString::to_string).collect();
        format!("`{}` is not a format to quantise to; known: {}", args.format, known.join(", "))
    })?;
    let overrides: Vec<Override> =
        args.tensor.iter().map(|text| Override::parse(text)).collect::<Result<_, _>>()?;
    check_output(args)?;
    interrupt::watch()?;
    let path = loading::fetch(&args.input)?.path;
    ensure!(
        !model::hf::is_directory(&path),
        "{} is a Hugging Face directory: its vocabulary cannot be written to a GGUF file yet; \
         load it with `quarrel run --quantize` instead",
        path.display()
    );
    let file = loading::open_file(&path)?;
    let threads = args.threads.map_or_else(device::default_threads, usize::from);
    let bar = progress_bar(file.tensor_bytes());
    quantize_file(&file, &args.output, recipe, &overrides, threads, &mut |progress| {
        bar.set_message(format!("{} {} → {}", progress.tensor, progress.from, progress.to));
        bar.set_position(progress.done);
        if interrupt::is_set() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
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

/// Refuses to overwrite what was not meant: an existing file, or anything that is none.
fn check_output(args: &QuantizeArgs) -> Result<()> {
    let out = args.output.display();
    let Ok(there) = args.output.symlink_metadata() else { return Ok(()) };
    ensure!(there.is_file(), "{out} is not a regular file; quantise to a path of its own");
    ensure!(args.force, "{out} exists already; --force overwrites it");
    Ok(())
}

fn progress_bar(total: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "{bar:30} {binary_bytes}/{binary_total_bytes}  {eta}  {msg}";
    ProgressBar::new(total)
        .with_style(ProgressStyle::with_template(template).expect("the template is a constant"))
}
