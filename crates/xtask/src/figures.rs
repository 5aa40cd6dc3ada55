//! What is measured, the figures that come back, and their medians.

/// A measurement of one program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// Threads to compute with.
    pub threads: u32,
    /// Prompt tokens; 0 measures no prefill.
    pub prompt: u32,
    /// Tokens generated, of each sequence; 0 measures no decode.
    pub generated: u32,
    /// Tokens in the context before either.
    pub depth: u32,
    /// Sequences that generate together, of which only decode is measured.
    pub batch: Option<u32>,
}

/// Tokens a second of one measurement.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Figures {
    /// Prompt processing.
    pub prefill: Option<f64>,
    /// Generation, of all sequences together.
    pub decode: Option<f64>,
}

/// One figure of two programs that were measured in turn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Compared {
    /// Median of the first program.
    pub first: f64,
    /// Median of the second.
    pub second: f64,
    /// Median of first / second of each round: rounds differ by what else the
    /// machine does, and the two halves of one round least.
    pub ratio: f64,
}

/// Compares one figure over rounds; `None` where no round has it.
pub fn compare(rounds: &[(Figures, Figures)], figure: fn(&Figures) -> Option<f64>) -> Option<Compared> {
    let pairs: Vec<(f64, f64)> =
        rounds.iter().filter_map(|(first, second)| Some((figure(first)?, figure(second)?))).collect();
    Some(Compared {
        first: median(pairs.iter().map(|pair| pair.0))?,
        second: median(pairs.iter().map(|pair| pair.1))?,
        ratio: median(pairs.iter().map(|pair| pair.0 / pair.1))?,
    })
}

/// The middle value, or the mean of the two in the middle; `None` of nothing.
pub fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = sorted[(sorted.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

/// The value that `percent` of them do not exceed; 0 of nothing.
pub fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median([].into_iter()), None);
        assert_eq!(median([3.0, 10.0, 1.0].into_iter()), Some(3.0));
        assert_eq!(median([4.0, 10.0, 1.0, 2.0].into_iter()), Some(3.0));
    }

    #[test]
    fn percentiles_are_values_that_came() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!([50.0, 99.0, 100.0].map(|p| percentile(&values, p)), [50.0, 99.0, 100.0]);
        assert_eq!(percentile(&[7.0], 1.0), 7.0);
        assert_eq!(percentile(&[], 50.0), 0.0);
    }

    #[test]
    fn the_ratio_is_of_pairs_not_of_medians() {
        let figures = |prefill| Figures { prefill: Some(prefill), decode: None };
        let rounds = [(10.0, 20.0), (30.0, 10.0), (20.0, 40.0)].map(|(a, b)| (figures(a), figures(b)));
        let expected = Compared { first: 20.0, second: 20.0, ratio: 0.5 };
        assert_eq!(compare(&rounds, |f| f.prefill), Some(expected));
        assert_eq!(compare(&rounds, |f| f.decode), None);
    }
}
