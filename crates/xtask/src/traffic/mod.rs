//! `cargo xtask traffic`: `docs/metal-traffic.md`, what steps on Metal move and compute, and how
//! long that would take on each chip, from the launches of steps that are lowered and run on paper.

mod chips;
mod steps;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use backend::gpu::PaperLaunch;
use gguf::ModelFile;

use crate::error::{Error, Result, at};
use crate::workspace;
use chips::{CHIPS, Chip, GAP_MICROSECONDS};
use steps::{Model, STEPS, Step, lowered};

const FILE: &str = "docs/metal-traffic.md";

/// Options of the command.
#[derive(clap::Args)]
pub struct Args {
    /// Change nothing: fail where the file is not what would be written
    #[arg(long)]
    check: bool,
}

/// Writes the file, or checks it.
///
/// # Errors
/// A step that cannot be lowered; a file that is not current.
pub fn run(args: &Args) -> Result<()> {
    let path = workspace::root()?.join(FILE);
    let text = document()?;
    if args.check {
        let found = std::fs::read_to_string(&path).map_err(at(&path))?;
        if found != text {
            return Err(Error::Missed(vec![format!(
                "{FILE} is not current: `cargo xtask traffic` writes it"
            )]));
        }
        return Ok(());
    }
    std::fs::write(&path, text).map_err(at(Path::new(FILE)))
}

fn document() -> Result<String> {
    let mut text = String::from(include_str!("introduction.md"));
    text += &chips::table();
    for model in Model::ALL {
        let files = [steps::file(model, 1)?, steps::file(model, 2)?];
        for step in STEPS {
            let kernels = kernels(model, &files, step)?;
            section(&mut text, model, step, &kernels);
        }
    }
    Ok(text)
}

/// What the launches of one kernel take together.
#[derive(Debug, Clone, Copy, Default)]
struct Kernel {
    launches: u64,
    /// Launches that wait for those before them.
    waits: u64,
    weights: u64,
    cache: u64,
    rows: u64,
    operations: u64,
}

impl Kernel {
    fn bytes(&self) -> u64 {
        self.weights + self.cache + self.rows
    }

    /// Microseconds on a chip of bytes, of operations, and of gaps between launches.
    fn times(&self, chip: &Chip) -> [f64; 3] {
        let bytes = self.bytes() as f64 / (chip.bandwidth * 1e3);
        let tflops = chip.usable_tflops(self.operations, self.weights);
        let operations = self.operations as f64 / (tflops * 1e6);
        [bytes, operations, self.launches as f64 * GAP_MICROSECONDS]
    }

    fn microseconds(&self, chip: &Chip) -> f64 {
        let [bytes, operations, gaps] = self.times(chip);
        bytes.max(operations) + gaps
    }

    fn limit(&self, chip: &Chip) -> &'static str {
        let [bytes, operations, gaps] = self.times(chip);
        if gaps > bytes.max(operations) {
            "launches"
        } else if bytes > operations {
            "bytes"
        } else {
            "operations"
        }
    }

    fn add(&mut self, launch: &PaperLaunch) {
        let work = launch.shape.work;
        self.launches += 1;
        self.waits += u64::from(launch.shape.waits);
        self.weights += work.weights;
        self.cache += work.cache;
        self.rows += work.rows;
        self.operations += work.operations;
    }

    /// This and `n` times what `more` has more than it.
    fn and_more(&self, more: &Self, n: u64) -> Self {
        let add = |a: u64, b: u64| a + n * b.saturating_sub(a);
        Self {
            launches: add(self.launches, more.launches),
            waits: add(self.waits, more.waits),
            weights: add(self.weights, more.weights),
            cache: add(self.cache, more.cache),
            rows: add(self.rows, more.rows),
            operations: add(self.operations, more.operations),
        }
    }
}

/// A step's kernels by their names: two lowered layers tell of the others.
fn kernels(model: Model, files: &[ModelFile; 2], step: Step) -> Result<BTreeMap<String, Kernel>> {
    let of = |file| {
        let mut kernels = BTreeMap::<String, Kernel>::new();
        for launch in lowered(file, step)? {
            kernels.entry(launch.entry.clone()).or_default().add(&launch);
        }
        Ok::<_, Error>(kernels)
    };
    let (one, two) = (of(&files[0])?, of(&files[1])?);
    let more = model.n_layers() as u64 - 1;
    let all = two.iter().map(|(name, two)| {
        let one = one.get(name).copied().unwrap_or_default();
        (name.clone(), one.and_more(two, more))
    });
    Ok(all.collect())
}

fn section(text: &mut String, model: Model, step: Step, kernels: &BTreeMap<String, Kernel>) {
    let total = |f: &dyn Fn(&Kernel) -> f64| kernels.values().map(f).sum::<f64>();
    let launches = total(&|kernel| kernel.launches as f64);
    let bytes = total(&|kernel| kernel.bytes() as f64);
    let m1 = &CHIPS[0];
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    line(format!("\n## {}: {}\n", model.name(), step.name()));
    // The first has nothing before it.
    let barriers = total(&|kernel| kernel.waits as f64) - 1.0;
    line(format!(
        "{launches} launches and {barriers} barriers; {} and {} a layer.\n",
        a_layer(model, kernels, |kernel| kernel.launches),
        a_layer(model, kernels, |kernel| kernel.waits)
    ));
    line("| kernel | launches | weights MB | cache MB | rows MB | Gop | on an M1 limited by |".to_owned());
    line("|---|---|---|---|---|---|---|".to_owned());
    for (name, kernel) in kernels {
        let mb = |n: u64| n as f64 / 1e6;
        line(format!(
            "| `{name}` | {} | {:.2} | {:.2} | {:.2} | {:.3} | {} |",
            kernel.launches,
            mb(kernel.weights),
            mb(kernel.cache),
            mb(kernel.rows),
            kernel.operations as f64 / 1e9,
            kernel.limit(m1)
        ));
    }
    line("\n| chip | ms a step | tokens/s | share of bandwidth | most time |".to_owned());
    line("|---|---|---|---|---|".to_owned());
    for chip in CHIPS {
        let us = total(&|kernel| kernel.microseconds(chip));
        let slowest = kernels.iter().max_by(|a, b| a.1.microseconds(chip).total_cmp(&b.1.microseconds(chip)));
        let (name, kernel) = slowest.expect("a step has launches");
        let mut row = String::new();
        let _ = write!(row, "| {} | {:.2} | {:.0} |", chip.name, us / 1e3, step.tokens() as f64 / us * 1e6);
        let _ = write!(row, " {:.0} % |", 100.0 * bytes / (chip.bandwidth * 1e3) / us);
        line(format!(
            "{row} `{name}`, {:.0} %, {} |",
            100.0 * kernel.microseconds(chip) / us,
            kernel.limit(chip)
        ));
    }
}

/// What a layer has of something, of kernels that have it as often in each, but for the first or last.
fn a_layer(model: Model, kernels: &BTreeMap<String, Kernel>, of: fn(&Kernel) -> u64) -> u64 {
    let n_layers = model.n_layers() as u64;
    kernels.values().map(|kernel| (of(kernel) + n_layers / 2) / n_layers).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_extrapolated_from_two() {
        let kernel = |launches, weights| Kernel { launches, weights, ..Kernel::default() };
        let all = kernel(3, 100).and_more(&kernel(5, 140), 31);
        assert_eq!((all.launches, all.weights), (3 + 31 * 2, 100 + 31 * 40));
    }

    #[test]
    fn a_kernel_is_limited_by_what_takes_longest() {
        let chip = Chip { name: "", bandwidth: 100.0, tflops: 2.0 };
        let kernel =
            |bytes, operations| Kernel { launches: 1, weights: bytes, operations, ..Kernel::default() };
        assert_eq!(kernel(100_000_000, 1_000_000).limit(&chip), "bytes");
        assert_eq!(kernel(1_000_000, 100_000_000_000).limit(&chip), "operations");
        assert_eq!(kernel(1000, 1000).limit(&chip), "launches");
        let us = kernel(100_000_000, 0).microseconds(&chip);
        assert!((us - 1000.0 - GAP_MICROSECONDS).abs() < 1e-9, "{us}");
    }
}
