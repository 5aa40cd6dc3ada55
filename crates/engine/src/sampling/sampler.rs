//! The stages from logits to one token.

use super::{PenaltyParams, SamplingParams, uniform};

/// A token still in the running.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
}

/// Chooses tokens; its buffers are reused, so that steady state allocates nothing.
#[derive(Debug, Default)]
pub struct Sampler {
    candidates: Vec<Candidate>,
    probabilities: Vec<f64>,
    counts: Vec<u16>,
}

impl Sampler {
    /// A sampler with empty buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next token, given its `logits` (`[n_vocab]`), the tokens so far and its position.
    ///
    /// A logit that is NaN can never be chosen; if all are, token 0 is.
    pub fn sample(&mut self, logits: &[f32], params: &SamplingParams, history: &[u32], position: u64) -> u32 {
        if params.temperature == 0.0 && params.penalties.is_off() {
            return argmax(logits);
        }
        self.collect(logits);
        if !params.penalties.is_off() {
            self.penalise(&params.penalties, history);
        }
        if params.temperature == 0.0 {
            return self.most_likely();
        }
        self.keep_top_k(params.top_k);
        self.normalise(1.0);
        self.keep_top_p(params.top_p);
        self.keep_min_p(params.min_p);
        self.normalise(params.temperature);
        self.draw(uniform(params.seed, position))
    }

    fn collect(&mut self, logits: &[f32]) {
        self.candidates.clear();
        self.candidates.extend(
            logits
                .iter()
                .enumerate()
                .filter(|(_, x)| !x.is_nan())
                .map(|(id, &logit)| Candidate { id: id as u32, logit }),
        );
        if self.candidates.is_empty() {
            self.candidates.push(Candidate { id: 0, logit: 0.0 });
        }
    }

    fn penalise(&mut self, penalties: &PenaltyParams, history: &[u32]) {
        let n_vocab = self.candidates.last().map_or(0, |c| c.id as usize + 1);
        self.counts.clear();
        self.counts.resize(n_vocab, 0);
        for &id in &history[history.len().saturating_sub(penalties.last_n)..] {
            if let Some(count) = self.counts.get_mut(id as usize) {
                *count = count.saturating_add(1);
            }
        }
        for candidate in &mut self.candidates {
            let count = self.counts[candidate.id as usize];
            if count == 0 {
                continue;
            }
            let logit = &mut candidate.logit;
            *logit = if *logit > 0.0 { *logit / penalties.repeat } else { *logit * penalties.repeat };
            *logit -= penalties.presence + penalties.frequency * f32::from(count);
        }
    }

    fn most_likely(&self) -> u32 {
        let mut best = self.candidates[0];
        for &candidate in &self.candidates[1..] {
            if candidate.logit > best.logit {
                best = candidate;
            }
        }
        best.id
    }

    /// Keeps the `k` largest logits, sorted from the largest; ties go to the lower id.
    fn keep_top_k(&mut self, k: usize) {
        let order = |a: &Candidate, b: &Candidate| b.logit.total_cmp(&a.logit).then_with(|| a.id.cmp(&b.id));
        if k > 0 && k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(k - 1, order);
            self.candidates.truncate(k);
        }
        self.candidates.sort_unstable_by(order);
    }

    /// Probabilities of the candidates at `temperature`.
    fn normalise(&mut self, temperature: f32) {
        let max = f64::from(self.candidates[0].logit);
        self.probabilities.clear();
        self.probabilities.extend(self.candidates.iter().map(|c| {
            let above = f64::from(c.logit) - max;
            // Two equal infinities differ by NaN; the candidate is as likely as the likeliest.
            if above.is_nan() { 1.0 } else { (above / f64::from(temperature)).exp() }
        }));
        let sum: f64 = self.probabilities.iter().sum();
        self.probabilities.iter_mut().for_each(|p| *p /= sum);
    }

    fn keep_top_p(&mut self, top_p: f32) {
        if top_p >= 1.0 {
            return;
        }
        let mut sum = 0.0;
        let enough = self.probabilities.iter().position(|p| {
            sum += p;
            sum >= f64::from(top_p)
        });
        self.truncate(enough.map_or(self.candidates.len(), |i| i + 1));
    }

    fn keep_min_p(&mut self, min_p: f32) {
        let least = self.probabilities[0] * f64::from(min_p);
        let keep = self.probabilities.iter().take_while(|&&p| p >= least).count();
        self.truncate(keep.max(1));
    }

    fn truncate(&mut self, n: usize) {
        self.candidates.truncate(n);
        self.probabilities.truncate(n);
    }

    fn draw(&self, u: f64) -> u32 {
        let mut sum = 0.0;
        for (candidate, p) in self.candidates.iter().zip(&self.probabilities) {
            sum += p;
            if u < sum {
                return candidate.id;
            }
        }
        // Rounding can leave the sum a little under 1.
        self.candidates[self.candidates.len() - 1].id
    }
}

/// The lowest index of the largest number; NaN never wins.
fn argmax(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, &logit) in logits.iter().enumerate() {
        if logit > best.1 {
            best = (id as u32, logit);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn off() -> SamplingParams {
        SamplingParams { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..SamplingParams::default() }
    }

    fn seen(params: &SamplingParams, logits: &[f32], n: u64) -> Vec<usize> {
        let mut sampler = Sampler::new();
        let mut counts = vec![0; logits.len()];
        for position in 0..n {
            counts[sampler.sample(logits, params, &[], position) as usize] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_equals_and_never_nan() {
        let mut sampler = Sampler::new();
        let greedy = SamplingParams::greedy();
        assert_eq!(sampler.sample(&[1.0, 3.0, 3.0], &greedy, &[], 0), 1);
        assert_eq!(sampler.sample(&[f32::NAN, -3.0], &greedy, &[], 0), 1);
        assert_eq!(sampler.sample(&[f32::NAN], &off(), &[], 0), 0);
    }

    #[test]
    fn draws_follow_the_softmax() {
        let logits = [0.0, 1.0, 2.0];
        let n = 60_000;
        let counts = seen(&off(), &logits, n);
        let total: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        for (&count, &logit) in counts.iter().zip(&logits) {
            let p = f64::from(logit).exp() / total;
            let sigma = (p * (1.0 - p) / n as f64).sqrt();
            // Five standard deviations of a binomial share.
            assert!((count as f64 / n as f64 - p).abs() < 5.0 * sigma, "{counts:?}");
        }
    }

    #[test]
    fn cuts_keep_exactly_what_they_say() {
        let logits = [4.0, 3.0, 2.0, 1.0];
        let kept = |params| seen(&params, &logits, 5000).iter().filter(|&&n| n > 0).count();
        assert_eq!(kept(off()), 4);
        assert_eq!(kept(SamplingParams { top_k: 2, ..off() }), 2);
        // Probabilities are 0.64, 0.24, 0.09, 0.03.
        assert_eq!(kept(SamplingParams { top_p: 0.7, ..off() }), 2);
        assert_eq!(kept(SamplingParams { top_p: 0.0, ..off() }), 1);
        assert_eq!(kept(SamplingParams { min_p: 0.1, ..off() }), 3);
        assert_eq!(kept(SamplingParams { min_p: 1.0, ..off() }), 1);
    }

    #[test]
    fn penalties_lower_what_was_said() {
        let mut sampler = Sampler::new();
        let with = |penalties| SamplingParams { penalties, ..SamplingParams::greedy() };
        let none = PenaltyParams::default();
        let logits = [2.0, 1.9];
        assert_eq!(sampler.sample(&logits, &with(none), &[0], 0), 0);
        assert_eq!(sampler.sample(&logits, &with(PenaltyParams { repeat: 1.2, ..none }), &[0], 0), 1);
        assert_eq!(sampler.sample(&logits, &with(PenaltyParams { presence: 0.2, ..none }), &[0], 0), 1);
        let frequency = with(PenaltyParams { frequency: 0.06, ..none });
        assert_eq!(sampler.sample(&logits, &frequency, &[0], 0), 0);
        assert_eq!(sampler.sample(&logits, &frequency, &[0, 0], 0), 1);
        let short = with(PenaltyParams { repeat: 1.2, last_n: 1, ..none });
        assert_eq!(sampler.sample(&logits, &short, &[0, 5], 0), 0);
    }
}
