//! What the profile gains: both builds measured in turn.

use std::path::PathBuf;

use crate::compare::speed;
use crate::error::Result;
use crate::figures::{Compared, Figures, Workload, compare};
use crate::quarrel::Quarrel;

const WORKLOAD: Workload = Workload { threads: 2, prompt: 512, generated: 128, depth: 0, batch: None };

const HEAD: &str = "\
| model | prefill, with profile | without | gain | decode, with profile | without | gain |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
";

/// Measures both builds `rounds` times on each file and prints a table.
///
/// # Errors
/// A measurement that fails.
pub fn run(
    profiled: &Quarrel,
    plain: &Quarrel,
    names: &[String],
    files: &[PathBuf],
    rounds: u32,
) -> Result<()> {
    let Workload { threads, prompt, generated, .. } = WORKLOAD;
    println!(
        "`quarrel bench --prompt {prompt} --gen {generated} --threads {threads} -r 1`, tokens a second,"
    );
    println!("medians of {rounds} rounds in turn.\n");
    print!("{HEAD}");
    for (name, file) in names.iter().zip(files) {
        let mut figures = Vec::new();
        for _ in 0..rounds {
            let with = profiled.bench(file, &WORKLOAD)?;
            let without = plain.bench(file, &WORKLOAD)?;
            figures.push((with.figures, without.figures));
        }
        println!("{}", row(name, &figures));
    }
    Ok(())
}

fn row(name: &str, rounds: &[(Figures, Figures)]) -> String {
    let prefill = cells(compare(rounds, |f| f.prefill));
    let decode = cells(compare(rounds, |f| f.decode));
    format!("| {name} | {prefill} | {decode} |")
}

fn cells(compared: Option<Compared>) -> String {
    compared.map_or_else(
        || "– | – | –".to_owned(),
        |c| format!("{} | {} | {:+.1} %", speed(c.first), speed(c.second), (c.ratio - 1.0) * 100.0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row() {
        let figures = |prefill, decode| Figures { prefill: Some(prefill), decode: Some(decode) };
        let rounds = [(figures(550.0, 97.0), figures(500.0, 100.0))];
        assert_eq!(row("m", &rounds), "| m | 550 | 500 | +10.0 % | 97.0 | 100 | -3.0 % |");
        assert_eq!(HEAD.lines().next().map(|head| head.matches('|').count()), Some(8));
    }
}
