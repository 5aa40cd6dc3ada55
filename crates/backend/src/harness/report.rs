//! How a device stands the harness's cases, for those who must trust it.

use gguf::Format;

use super::choices::{self, check_choices};
use super::{Case, Outcome, Random, Used, cases, layer};
use crate::{Backend, Error, Result};

/// How many cases went how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Within their bounds.
    pub within: usize,
    /// The backend says in writing that it has no such kernel.
    pub absent: usize,
    /// What each of the others got wrong.
    pub failures: Vec<String>,
}

impl Report {
    /// Whether something ran and nothing failed.
    pub fn is_good(&self) -> bool {
        self.within > 0 && self.failures.is_empty()
    }

    fn add(&mut self, case: &Case, backend: &mut dyn Backend, seed: u64) {
        match case.check(backend, seed) {
            Ok(Outcome::Within(_)) => self.within += 1,
            Ok(Outcome::Absent(_)) => self.absent += 1,
            Err(problem) => self.failures.push(problem),
        }
    }

    fn add_choices(&mut self, case: &Case, backend: &mut dyn Backend, seed: u64) {
        match check_choices(case, backend, seed) {
            Ok(()) => self.within += 1,
            Err(problem) => self.failures.push(problem),
        }
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { within, absent, failures } = self;
        write!(f, "{within} cases within bounds, {absent} absent, {} failed", failures.len())
    }
}

/// Every case of every op, whole layers, and what a device that overlaps steps chooses.
pub fn check_all(backend: &mut dyn Backend, seed: u64) -> Report {
    let mut report = Report::default();
    for case in &cases(seed) {
        report.add(case, backend, seed);
    }
    if backend.overlaps() {
        choices::choices(seed).iter().for_each(|case| report.add_choices(case, backend, seed));
    }
    report
}

/// Whole tiny models, of the formats that a model has: the ops that most models have, for prompts
/// longer than kernels take together and rows generated beside them, and for short ones with a window;
/// and what is chosen, of a device that overlaps steps. What is absent is said when the model is loaded.
///
/// # Errors
/// [`Error::Unavailable`] with what was wrong.
pub fn self_test(backend: &mut dyn Backend, used: &[Used], seed: u64) -> Result<()> {
    let (mut random, mut report) = (Random::new(seed), Report::default());
    report.add(&layer::case(&mut random, Format::Q8_0), backend, seed);
    for used in used {
        report.add(&layer::long_case(&mut random, used), backend, seed);
    }
    if backend.overlaps() {
        report.add_choices(&choices::small(&mut random), backend, seed);
    }
    if report.is_good() {
        return Ok(());
    }
    let reason = format!("it did not pass its test ({report})");
    Err(Error::Unavailable { backend: backend.name(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Gpu, Paper};
    use crate::{Cpu, CpuConfig, KvFormat};

    #[test]
    fn what_computes_passes_and_what_does_not_fails() {
        let used = |weights, cache| Used { weights, keys: cache, values: cache };
        let used = [used(Format::Q4_K, KvFormat::Q8_0), used(Format::F16, KvFormat::F16)];
        self_test(&mut Cpu::new(CpuConfig::default()).unwrap(), &used, 1).unwrap();
        let mut paper = Gpu::new(Paper::new("metal"));
        let error = self_test(&mut paper, &used, 1).unwrap_err().to_string();
        assert!(error.contains("0 cases within bounds, 0 absent, 4 failed"), "{error}");
    }
}
