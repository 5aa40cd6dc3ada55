//! Log-probabilities of tokens, as the model gave them.

use crate::TokenLogprob;

/// The log-probability of `id` and of the `k` likeliest tokens under the softmax of
/// `logits`; equals are in order of their ids. NaN counts as impossible.
pub(crate) fn logprobs(logits: &[f32], id: u32, k: usize) -> TokenLogprob {
    let value = |x: f32| if x.is_nan() { f32::NEG_INFINITY } else { x };
    let max = logits.iter().copied().map(value).fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(value(x) - max).exp()).sum();
    let log_sum = f64::from(max) + sum.ln();
    let logprob = |id: u32| (f64::from(value(logits[id as usize])) - log_sum) as f32;
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    let order =
        |a: &u32, b: &u32| value(logits[*b as usize]).total_cmp(&value(logits[*a as usize])).then(a.cmp(b));
    let k = k.min(ids.len());
    if k > 0 && k < ids.len() {
        ids.select_nth_unstable_by(k - 1, order);
    }
    ids.truncate(k);
    ids.sort_unstable_by(order);
    TokenLogprob { logprob: logprob(id), top: ids.into_iter().map(|id| (id, logprob(id))).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_logarithms_of_the_softmax() {
        let logits = [1.0, f32::NAN, 3.0, 3.0, -2.0];
        let found = logprobs(&logits, 0, 3);
        let total: f64 = [1.0f64, 3.0, 3.0, -2.0].iter().map(|x| x.exp()).sum();
        let expected = |x: f64| (x - total.ln()) as f32;
        // Both sides round once to f32.
        assert!((found.logprob - expected(1.0)).abs() < 1e-6);
        assert_eq!(found.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [2, 3, 0]);
        assert!((found.top[0].1 - expected(3.0)).abs() < 1e-6);
        assert_eq!(logprobs(&logits, 1, 0), TokenLogprob { logprob: f32::NEG_INFINITY, top: vec![] });
        assert_eq!(logprobs(&logits, 1, 9).top.len(), 5);
    }
}
