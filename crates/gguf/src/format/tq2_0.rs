//! `TQ2_0`: ternary, for weights trained to be −1, 0 or 1 times one scale
//! (BitNet b1.58, arXiv:2402.17764); 2 bits an element, 256 elements a scale.

use super::Format;
use super::block::{Block, Half, Quantize, block};
use super::fit::{self, Integers, Levels};
use super::q2_k::{pack_pairs, unpack_pairs};

block! {
    /// `d * (q - 1)`, `q` of 2 bits. Nobody writes the code 3, which reads as 2.
    TQ2_0 {
        /// Elements, four a byte, as in `Q2_K`.
        qs: [u8; 64],
        /// Scale.
        d: Half,
    }
}

impl Block for TQ2_0 {
    const FORMAT: Format = Format::TQ2_0;
    const GROUP: usize = 32;
    const HAS_OFFSET: bool = false;
    const RANGE: (i8, i8) = (-1, 2);

    #[inline(always)]
    fn unpack(&self, q: &mut [i8], scales: &mut [f32], _: &mut [f32]) {
        let q = &mut q[..256];
        unpack_pairs(&self.qs, q);
        for q in q {
            *q -= 1;
        }
        scales[..8].fill(self.d.to_f32());
    }
}

impl Quantize for TQ2_0 {
    fn quantize(x: &[f32]) -> Self {
        type Ternary = Integers<-1, 1>;
        let x = fit::finite::<256>(x);
        let d = Half::saturating(fit::scale::<Ternary, 256>(&x));
        let inverse = fit::inverse(d.to_f32());
        Self { qs: pack_pairs(&x.map(|x| (Ternary::nearest(x * inverse) + 1.0) as u8)), d }
    }
}
