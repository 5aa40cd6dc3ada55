//! The tokens still in the running, and the stages that cut them down.

use std::cmp::Ordering;

use model::Draw;

/// A token still in the running.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub id: u32,
    pub logit: f32,
    /// Among the candidates, as of the last normalisation.
    pub p: f64,
    /// What [`Candidates::keep_mass`] sorts by, smallest first.
    key: f64,
}

/// A set of tokens with probabilities; there is always at least one.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    list: Vec<Candidate>,
}

impl Candidates {
    /// Takes the `k` largest logits, largest first, lower ids first among
    /// equals; all of them in the order of ids if `k` is 0. Returns whether
    /// there is one: negative infinity and NaN never are.
    pub fn collect(&mut self, logits: &[f32], k: usize) -> bool {
        self.list.clear();
        let mut floor = f32::NEG_INFINITY;
        let full = if k == 0 { usize::MAX } else { k.saturating_mul(4).max(1024) };
        for (id, &logit) in (0..).zip(logits) {
            if logit > floor {
                self.list.push(Candidate { id, logit, p: 0.0, key: 0.0 });
                if self.list.len() == full {
                    // What comes later must beat the k-th of these; an equal has the higher id.
                    self.largest(k);
                    floor = self.list[k - 1].logit;
                }
            }
        }
        if k > 0 {
            self.largest(k);
            self.list.sort_unstable_by(likelier);
        }
        !self.list.is_empty()
    }

    /// Takes what [`collect`](Self::collect) does, where these tokens hold the `k` likeliest.
    pub fn take(&mut self, tokens: impl Iterator<Item = (u32, f32)>, k: usize) -> bool {
        self.list.clear();
        let there = tokens.filter(|&(_, logit)| logit > f32::NEG_INFINITY);
        self.list.extend(there.map(|(id, logit)| Candidate { id, logit, p: 0.0, key: 0.0 }));
        self.list.sort_unstable_by(likelier);
        self.list.truncate(k);
        !self.list.is_empty()
    }

    fn largest(&mut self, k: usize) {
        if k < self.list.len() {
            self.list.select_nth_unstable_by(k - 1, likelier);
            self.list.truncate(k);
        }
    }

    /// Sets the probabilities: the softmax of the logits at `temperature`.
    pub fn softmax(&mut self, temperature: f32) {
        let max = self.list.iter().map(|c| c.logit).fold(f32::NEG_INFINITY, f32::max);
        for c in &mut self.list {
            let above = f64::from(c.logit) - f64::from(max);
            // Two equal infinities differ by NaN; the candidate is as likely as the likeliest.
            c.p = if above.is_nan() { 1.0 } else { (above / f64::from(temperature)).exp() };
        }
        self.normalise();
    }

    fn normalise(&mut self) {
        let sum: f64 = self.list.iter().map(|c| c.p).sum();
        self.list.iter_mut().for_each(|c| c.p /= sum);
    }

    /// Locally typical sampling: keeps those nearest to the expected surprise that together reach `mass`.
    pub fn keep_typical(&mut self, mass: f32) {
        if mass >= 1.0 {
            return;
        }
        let entropy: f64 = self.list.iter().filter(|c| c.p > 0.0).map(|c| -c.p * c.p.ln()).sum();
        self.list.iter_mut().for_each(|c| c.key = (-c.p.ln() - entropy).abs());
        self.keep_mass(mass);
        self.normalise();
    }

    /// Keeps the likeliest that together reach `mass`.
    pub fn keep_top_p(&mut self, mass: f32) {
        if mass >= 1.0 {
            return;
        }
        self.list.iter_mut().for_each(|c| c.key = -f64::from(c.logit));
        self.keep_mass(mass);
        self.normalise();
    }

    /// Keeps the first by `key` whose probabilities reach `mass`, at least one.
    /// Sorts no more than it must: a piece from the front, then a larger one.
    fn keep_mass(&mut self, mass: f32) {
        let mut sum = 0.0;
        let (mut sorted, mut piece) = (0, 64);
        while sorted < self.list.len() {
            let rest = &mut self.list[sorted..];
            let n = piece.min(rest.len());
            if n < rest.len() {
                rest.select_nth_unstable_by(n - 1, first_by_key);
            }
            rest[..n].sort_unstable_by(first_by_key);
            let enough = rest[..n].iter().position(|c| {
                sum += c.p;
                sum >= f64::from(mass)
            });
            if let Some(i) = enough {
                self.list.truncate(sorted + i + 1);
                return;
            }
            sorted += n;
            piece *= 8;
        }
    }

    /// Keeps those at least `min_p` times as likely as the likeliest.
    pub fn keep_min_p(&mut self, min_p: f32) {
        if min_p <= 0.0 {
            return;
        }
        let max = self.list.iter().map(|c| c.p).fold(0.0, f64::max);
        self.list.retain(|c| c.p >= max * f64::from(min_p));
        self.normalise();
    }

    /// Drops every candidate at least `threshold` likely but the least likely of them.
    pub fn exclude_top_choices(&mut self, threshold: f32) {
        let threshold = f64::from(threshold);
        let top = self.list.iter().filter(|c| c.p >= threshold);
        let Some(last) = top.copied().max_by(likelier) else { return };
        self.list.retain(|c| c.p < threshold || c.id == last.id);
        self.normalise();
    }

    /// Keeps those whose surprise is at most `mu` bits, at least the likeliest.
    /// Returns the probability that they had together.
    pub fn keep_unsurprising(&mut self, mu: f64) -> f64 {
        let least = (-mu).exp2();
        let likeliest = self.likeliest();
        self.list.retain(|c| c.p >= least || c.id == likeliest);
        let mass = self.list.iter().map(|c| c.p).sum();
        self.normalise();
        mass
    }

    /// The id of the likeliest, the lowest among equals.
    pub fn likeliest(&self) -> u32 {
        self.list.iter().min_by(|a, b| likelier(a, b)).map_or(0, |c| c.id)
    }

    /// The token that a device draws of candidates in order.
    pub fn draw_by(&self, draw: &Draw) -> u32 {
        let tokens = self.list.iter().map(|c| (c.id, c.logit));
        draw.token(tokens).expect("there is always a candidate")
    }

    /// The candidate at `u`, uniform in `[0, 1)`.
    pub fn draw(&self, u: f64) -> Candidate {
        let mut sum = 0.0;
        let drawn = self.list.iter().find(|c| {
            sum += c.p;
            u < sum
        });
        // Rounding can leave the sum a little under 1.
        let last = || self.list.iter().rfind(|c| c.p > 0.0);
        *drawn.or_else(last).expect("probabilities of at least one candidate sum to about 1")
    }

    #[cfg(test)]
    pub fn as_slice(&self) -> &[Candidate] {
        &self.list
    }
}

/// Larger logits first, then lower ids; none is NaN, and both zeros are equal.
fn likelier(a: &Candidate, b: &Candidate) -> Ordering {
    // Adding zero makes the negative zero a positive one.
    (b.logit + 0.0).total_cmp(&(a.logit + 0.0)).then_with(|| a.id.cmp(&b.id))
}

fn first_by_key(a: &Candidate, b: &Candidate) -> Ordering {
    a.key.total_cmp(&b.key).then_with(|| a.id.cmp(&b.id))
}
