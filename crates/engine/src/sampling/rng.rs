//! Random numbers as a function of seed and position, so that neither the
//! batch nor a preemption can change what a request samples.

/// What a random number is for. Each use at a position has a number of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Draw,
    Xtc,
}

/// A number in `[0, 1)` for the token at `position` of a request with `seed`:
/// SplitMix64's finaliser (Steele et al. 2014) over both.
pub fn uniform(seed: u64, position: u64) -> f64 {
    uniform_of(seed, position, Stage::Draw)
}

/// As [`uniform`], for another stage of the same token.
pub(super) fn uniform_of(seed: u64, position: u64, stage: Stage) -> f64 {
    let stream = match stage {
        Stage::Draw => mix(seed),
        Stage::Xtc => mix(mix(seed) ^ 0x5854_4353_7461_6765),
    };
    let bits = mix(stream.wrapping_add(position.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_uniform_over_positions_and_differs_by_seed_and_stage() {
        let n = 100_000;
        let mean = (0..n).map(|i| uniform(7, i)).sum::<f64>() / n as f64;
        // The mean of n uniforms has standard deviation 1/sqrt(12 n) = 0.0009; five of them.
        assert!((mean - 0.5).abs() < 0.0046, "{mean}");
        assert!((0..n).all(|i| (0.0..1.0).contains(&uniform(7, i))));
        let same = (0..n).filter(|&i| uniform(7, i) == uniform(8, i)).count();
        assert_eq!(same, 0);
        let covariance =
            (0..n).map(|i| (uniform(7, i) - 0.5) * (uniform_of(7, i, Stage::Xtc) - 0.5)).sum::<f64>()
                / n as f64;
        // The product of two independent ones has standard deviation 1/12; five of the mean's.
        assert!(covariance.abs() < 5.0 / 12.0 / (n as f64).sqrt(), "{covariance}");
    }
}
