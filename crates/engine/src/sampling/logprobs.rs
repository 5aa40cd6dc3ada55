//! Log-probabilities to report: those of the raw logits, whatever the stages do.

/// How likely a token was: natural logarithms of probabilities, before anything that
/// sampling does to them.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// Of the token itself.
    pub logprob: f32,
    /// The likeliest tokens, likeliest first, as many as were asked for.
    pub top: Vec<(u32, f32)>,
}

/// The log-probabilities of `id` and of the `k` likeliest tokens. A logit that
/// is NaN counts for nothing.
pub(super) fn logprob_of(logits: &[f32], id: u32, k: usize) -> TokenLogprob {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let max = f64::from(max);
    let above = |logit: f32| {
        let above = f64::from(logit) - max;
        // Two equal infinities differ by NaN; such a token is as likely as the likeliest.
        if above.is_nan() && !logit.is_nan() { 0.0 } else { above }
    };
    let sum: f64 = logits.iter().filter(|x| !x.is_nan()).map(|&x| above(x).exp()).sum();
    let log_sum = sum.ln();
    let logprob = |logit: f32| (above(logit) - log_sum) as f32;
    let top = likeliest(logits, k).into_iter().map(|id| (id, logprob(logits[id as usize]))).collect();
    TokenLogprob { logprob: logprob(logits[id as usize]), top }
}

/// The ids of the `k` largest logits, largest first, lower ids first among
/// equals: one pass, for the few that a caller may ask for.
fn likeliest(logits: &[f32], k: usize) -> Vec<u32> {
    let mut top: Vec<u32> = Vec::with_capacity(k.min(logits.len()));
    for (id, &logit) in logits.iter().enumerate() {
        let full = top.len() == k;
        if logit.is_nan() || full && top.last().is_none_or(|&last| logit <= logits[last as usize]) {
            continue;
        }
        let place = top.partition_point(|&other| logits[other as usize] >= logit);
        if full {
            top.pop();
        }
        top.insert(place, id as u32);
    }
    top
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::uniform;

    #[test]
    fn equals_the_softmax_in_f64() {
        for seed in 0..50 {
            let n = 1 + seed as usize * 3;
            let logits: Vec<f32> = (0..n as u64).map(|i| (uniform(seed, i) * 40.0 - 20.0) as f32).collect();
            let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
            let expected = |id: u32| f64::from(logits[id as usize]).exp().ln() - sum.ln();
            let mut order: Vec<u32> = (0..n as u32).collect();
            order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
            let k = seed as usize % 25;
            let got = logprob_of(&logits, 0, k);
            assert!((f64::from(got.logprob) - expected(0)).abs() < 1e-5);
            assert_eq!(got.top.iter().map(|t| t.0).collect::<Vec<_>>(), order[..k.min(n)]);
            assert!(got.top.iter().all(|&(id, p)| (f64::from(p) - expected(id)).abs() < 1e-5));
        }
    }

    #[test]
    fn survives_infinities_and_nan_and_breaks_ties_by_id() {
        let got = logprob_of(&[f32::NAN, f32::NEG_INFINITY, 2.0, 2.0], 3, 9);
        assert_eq!(got.top.iter().map(|t| t.0).collect::<Vec<_>>(), [2, 3, 1]);
        assert!((got.logprob + std::f32::consts::LN_2).abs() < 1e-6);
        assert_eq!(got.top[2].1, f32::NEG_INFINITY);
        let got = logprob_of(&[f32::INFINITY, 0.0, f32::INFINITY], 0, 2);
        assert!((got.logprob + std::f32::consts::LN_2).abs() < 1e-6);
        assert_eq!(got.top.iter().map(|t| t.0).collect::<Vec<_>>(), [0, 2]);
    }
}
