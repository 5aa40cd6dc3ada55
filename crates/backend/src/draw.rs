//! How a device draws one of an output's likeliest tokens: in whole numbers, so that every device and
//! the host draw the same. `include/draw.h` does what is here with a SIMD-group.

/// How one of the likeliest tokens is drawn: those before which less than `top_p` of all probability
/// stands are kept if they are at least `min_p` times as likely as the first; one of them is drawn by its
/// probability at the temperature.
///
/// Probabilities are weights in 2^-24 of the likeliest token's, so that one which is less likely than
/// that is never drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// How many of the likeliest, from 1 to [`MAX_LIKELIEST`](crate::MAX_LIKELIEST).
    pub top_k: u32,
    /// 2^26 log2(e) by the temperature.
    slope: f32,
    /// In 2^-32; `ALL` for everything.
    top_p: u32,
    /// The weight that a token must have.
    least: u32,
    /// Where in the weights that are left, in 2^-32.
    uniform: u32,
}

/// The weight of the likeliest token.
const ONE: u32 = 1 << 24;
/// All tokens, as a share of their weights.
const ALL: u32 = u32::MAX;
/// `2^26 log2(e)`: the slope at temperature 1.
const SLOPE: f32 = 96_817_624.0;
/// `2^32 ln(2)`
const LN_2: u64 = 2_977_044_472;

impl Draw {
    /// A draw at `uniform`, from 0 to below 1, among the `top_k` likeliest; the temperature is above 0,
    /// `top_p` and `min_p` are from 0 to 1.
    pub fn new(top_k: u32, temperature: f32, top_p: f32, min_p: f32, uniform: f64) -> Self {
        // Conversions saturate; what is below 1 fits.
        let share = |p: f64| (p * (1u64 << 32) as f64) as u32;
        Self {
            top_k,
            // A number even for the lowest temperature, so that it times zero is zero.
            slope: (SLOPE / temperature).min(f32::MAX),
            top_p: if top_p >= 1.0 { ALL } else { share(f64::from(top_p)) },
            least: (min_p * ONE as f32).ceil() as u32,
            uniform: share(uniform),
        }
    }

    /// What the device reads behind the number of tokens and their place.
    pub(crate) fn words(&self) -> [u32; 4] {
        [self.slope.to_bits(), self.top_p, self.least, self.uniform]
    }

    /// The token drawn among these, the likeliest first, with their logits; `None` where there is none. Those
    /// of negative infinity are not there.
    pub fn token(&self, likeliest: impl Iterator<Item = (u32, f32)> + Clone) -> Option<u32> {
        let tokens = likeliest.take(self.top_k as usize).take_while(|&(_, logit)| logit > f32::NEG_INFINITY);
        let (first, largest) = tokens.clone().next()?;
        let weigh = |slope: f32| {
            let weight =
                move |logit: f32| if logit == largest { ONE } else { weight(largest - logit, slope) };
            tokens.clone().map(move |(id, logit)| (id, weight(logit)))
        };
        let mass = share_of(weigh(SLOPE).map(|(_, own)| own).sum(), self.top_p);
        let before = |sum: &mut u32, own: u32| Some(std::mem::replace(sum, *sum + own));
        let is_kept = |&(own, before): &(u32, u32)| own >= self.least && (self.top_p == ALL || before < mass);
        let weights = weigh(SLOPE).map(|(_, own)| own);
        let kept = 1 + weights.clone().zip(weights.scan(0, before)).skip(1).filter(is_kept).count();

        let drawn = share_of(weigh(self.slope).take(kept).map(|(_, own)| own).sum(), self.uniform);
        let mut end = 0;
        let token = weigh(self.slope).take(kept).find(|&(_, own)| {
            end += own;
            end > drawn
        });
        Some(token.map_or(first, |(id, _)| id))
    }
}

/// `ONE e^(-below SLOPE / slope)`, of which `2^-x` by its series.
fn weight(below: f32, slope: f32) -> u32 {
    let scaled = below * slope;
    let exponent = if scaled < 2_147_483_648.0 { scaled as u32 } else { 1 << 31 };
    let y = ((u64::from(exponent & 0x3ff_ffff) << 6) * LN_2) >> 32;
    let power = (1..=11).rev().fold(1u64 << 32, |power, k| (1 << 32) - ((y * power) >> 32) / k);
    (power >> (8 + (exponent >> 26))) as u32
}

fn share_of(total: u32, share: u32) -> u32 {
    ((u64::from(total) * u64::from(share)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::Random;

    #[test]
    fn weights_are_those_of_the_exponential_function() {
        let mut random = Random::new(1);
        for temperature in [0.01, 0.8, 1.0, 3.0, 100.0] {
            for below in random.values(1000, 20.0).into_iter().map(f32::abs) {
                let exact = f64::from(ONE) * (-f64::from(below) / f64::from(temperature)).exp();
                // Rounding down, and an exponent of 24 bits: up to 32 in steps of 2^-19.
                let error = (f64::from(weight(below, SLOPE / temperature)) - exact).abs();
                assert!(error < 1.0 + exact * 2.0f64.powi(-18), "{below} {temperature}: {error} of {exact}");
            }
        }
        assert_eq!([0.0, f32::MIN_POSITIVE].map(|below| weight(below, f32::MAX)), [ONE, ONE - 1]);
        assert_eq!([f32::MAX, f32::INFINITY, f32::NAN].map(|below| weight(below, SLOPE)), [0; 3]);
    }

    /// As the papers have it, with logits in order; `None` where a cut or the draw is too close to tell.
    fn slow(logits: &[f32], [temperature, top_p, min_p]: [f32; 3], uniform: f64) -> Option<usize> {
        // A weight is off by 1 and 2^-18 of itself, and so a share of up to 128 by no more than 2^-17 and 2^-18, twice.
        const CLOSE: f64 = 1.0 / 32_768.0;
        let softmax = |logits: &[f32], temperature: f32| -> Vec<f64> {
            let scaled = |logit: &f32| (f64::from(logit - logits[0]) / f64::from(temperature)).exp();
            let sum: f64 = logits.iter().map(scaled).sum();
            logits.iter().map(|logit| scaled(logit) / sum).collect()
        };
        let is_far = |a: f64, b: f64| (a - b).abs() > CLOSE;
        let (mut kept, mut sum) = (0, 0.0);
        for p in softmax(logits, 1.0) {
            let (share, least) = (f64::from(top_p), f64::from(min_p) * softmax(logits, 1.0)[0]);
            if kept > 0 && (top_p < 1.0 && !is_far(sum, share) || min_p > 0.0 && !is_far(p, least)) {
                return None;
            }
            if kept > 0 && (sum >= share && top_p < 1.0 || p < least) {
                break;
            }
            (kept, sum) = (kept + 1, sum + p);
        }
        let mut end = 0.0;
        for (i, p) in softmax(&logits[..kept], temperature).into_iter().enumerate() {
            end += p;
            if !is_far(end, uniform) {
                return None;
            }
            if end > uniform {
                return Some(i);
            }
        }
        None
    }

    #[test]
    fn draws_are_those_of_the_formulas() {
        let mut told = 0;
        for seed in 0..5000 {
            let mut random = Random::new(seed);
            let n = 1 + random.below(crate::MAX_LIKELIEST);
            let mut logits = random.values(n, 10.0);
            logits.sort_by(|a, b| b.total_cmp(a));
            let mut from = |low: f32, high: f32| low + (random.values(1, 1.0)[0] + 1.0) / 2.0 * (high - low);
            let cuts = [from(0.1, 3.0), from(0.0, 1.1).min(1.0), from(-0.1, 0.3).max(0.0)];
            let uniform = f64::from(from(0.0, 0.9999));
            let draw = Draw::new(crate::MAX_LIKELIEST as u32, cuts[0], cuts[1], cuts[2], uniform);
            let token = draw.token((0..).zip(logits.iter().copied()));
            let Some(expected) = slow(&logits, cuts, uniform) else { continue };
            assert_eq!(token, Some(expected as u32), "seed {seed}: {cuts:?} at {uniform}");
            told += 1;
        }
        assert!(told > 4000, "{told} of 5000 could be told");
    }

    #[test]
    fn extremes_are_drawn_from() {
        let infinite = [(7, f32::INFINITY), (8, f32::INFINITY), (9, 0.0), (u32::MAX, f32::NEG_INFINITY)];
        let draw = |uniform| Draw::new(4, 0.8, 1.0, 0.0, uniform).token(infinite.into_iter());
        assert_eq!([0.0, 0.499, 0.5, 0.999_999_9].map(draw), [7, 7, 8, 8].map(Some));
        let none = [(u32::MAX, f32::NEG_INFINITY)];
        assert_eq!(Draw::new(4, 0.8, 1.0, 0.0, 0.5).token(none.into_iter()), None);
        let cut = |top_k, top_p, min_p| {
            Draw::new(top_k, 5.0, top_p, min_p, 0.999_999_9).token([(1, 2.0), (2, 1.9)].into_iter())
        };
        assert_eq!(
            [cut(2, 1.0, 0.0), cut(1, 1.0, 0.0), cut(2, 0.0, 0.0), cut(2, 1.0, 1.0)],
            [2, 1, 1, 1].map(Some)
        );
    }
}
