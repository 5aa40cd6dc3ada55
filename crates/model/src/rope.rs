//! Rotary tables: every scaling rule becomes inverse frequencies and one magnitude.

use backend::kernels::rope_store::Rope;

use crate::config::{RopeConfig, RopeFactors, RopeScaling};

impl RopeConfig {
    /// The table for a model loaded with a context of `context` tokens.
    pub fn table(&self, context: u32) -> Rope {
        let factors = self.factors.for_context(context);
        let inv_freq = (0..self.n_dims / 2).map(|pair| {
            let plain = f64::from(self.base).powf(-2.0 * pair as f64 / self.n_dims as f64);
            let factor = factors.map_or(1.0, |factors| f64::from(factors[pair]));
            (plain / factor * self.scaling.multiplier(pair, self.n_dims, self.base)) as f32
        });
        Rope {
            pairs: self.pairs,
            inv_freq: inv_freq.collect(),
            magnitude: self.magnitude * self.scaling.magnitude(),
        }
    }
}

impl RopeFactors {
    fn for_context(&self, context: u32) -> Option<&[f32]> {
        match self {
            Self::None => None,
            Self::Fixed(factors) => Some(factors),
            Self::ByContext { original_context, short, .. } if context <= *original_context => Some(short),
            Self::ByContext { long, .. } => Some(long),
        }
    }
}

impl RopeScaling {
    /// What a pair's angle is multiplied by.
    fn multiplier(&self, pair: usize, n_dims: usize, base: f32) -> f64 {
        match *self {
            Self::Linear { factor } => 1.0 / f64::from(factor),
            Self::Yarn { factor, original_context, beta_fast, beta_slow, .. } => {
                // The pair that makes `turns` full turns over the original context.
                let pair_of = |turns: f32| {
                    let wavelengths =
                        f64::from(original_context) / (f64::from(turns) * std::f64::consts::TAU);
                    n_dims as f64 * wavelengths.ln() / (2.0 * f64::from(base).ln())
                };
                let low = pair_of(beta_fast).floor().max(0.0);
                let high = pair_of(beta_slow).ceil().min(n_dims as f64 - 1.0);
                // A ramp of no width would divide by zero.
                let ramp = ((pair as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                ramp / f64::from(factor) + (1.0 - ramp)
            }
        }
    }

    /// YaRN's attention temperature, applied to the cosine and sine that turn q and k.
    fn magnitude(&self) -> f32 {
        match *self {
            Self::Linear { .. } => 1.0,
            Self::Yarn { factor, log_multiplier, .. } => {
                let mscale = |weight: f32| if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 };
                // A multiplier of 0 makes the divisor 1: no DeepSeek correction.
                mscale(1.0) / mscale(log_multiplier)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use backend::kernels::rope_store::RopePairs;

    use super::*;

    fn config(scaling: RopeScaling) -> RopeConfig {
        RopeConfig {
            pairs: RopePairs::Halves,
            n_dims: 64,
            base: 10_000.0,
            scaling,
            factors: RopeFactors::None,
            magnitude: 1.0,
        }
    }

    #[test]
    fn plain_frequencies_are_powers_of_the_base() {
        let rope = config(RopeScaling::Linear { factor: 1.0 }).table(100);
        assert_eq!(rope.inv_freq.len(), 32);
        assert_eq!(rope.inv_freq[0], 1.0);
        assert!((rope.inv_freq[16] - 0.01).abs() < 1e-9, "base^(-1/2) of 10000 is 0.01");
        assert_eq!(rope.magnitude, 1.0);
    }

    #[test]
    fn yarn_keeps_fast_pairs_and_divides_slow_ones() {
        let plain = config(RopeScaling::Linear { factor: 1.0 }).table(100);
        let yarn = config(RopeScaling::Yarn {
            factor: 4.0,
            original_context: 2048,
            beta_fast: 32.0,
            beta_slow: 1.0,
            log_multiplier: 0.0,
        })
        .table(100);
        assert_eq!(yarn.inv_freq[0], plain.inv_freq[0]);
        assert_eq!(yarn.inv_freq[31], plain.inv_freq[31] / 4.0);
        assert!((yarn.magnitude - (0.1 * 4f32.ln() + 1.0)).abs() < 1e-6);
    }

    #[test]
    fn longrope_chooses_its_table_by_context() {
        let mut long = config(RopeScaling::Linear { factor: 1.0 });
        long.factors = RopeFactors::ByContext {
            original_context: 100,
            short: vec![1.0; 32].into(),
            long: vec![2.0; 32].into(),
        };
        assert_eq!(long.table(100).inv_freq[0], 1.0);
        assert_eq!(long.table(101).inv_freq[0], 0.5);
    }
}
