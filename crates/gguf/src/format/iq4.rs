//! The formats of 4 bits through a non-linear table: `IQ4_NL`, `IQ4_XS`.

use super::Format;
use super::block::{Block, Half, Quantize, block};
use super::fit::{self, Levels};
use super::legacy::{pack_nibbles, unpack_nibbles};

/// What the 16 codes of `IQ4_NL` and `IQ4_XS` stand for: denser around zero,
/// as weights are.
pub const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

block! {
    /// `d * IQ4_VALUES[q]`, `q` of 4 bits, 32 elements.
    IQ4_NL {
        /// Scale.
        d: Half,
        /// Elements, two a byte, halves 16 apart.
        qs: [u8; 16],
    }
}

block! {
    /// `d * (s - 32) * IQ4_VALUES[q]`: eight groups of 32 with a 6-bit scale each.
    IQ4_XS {
        /// Scale of the scales.
        d: Half,
        /// Upper two bits of each group's scale, group `g` in bits `2g..2g + 2`.
        scales_h: [u8; 2],
        /// Lower four bits of each group's scale, two a byte.
        scales_l: [u8; 4],
        /// Elements, 16 bytes a group as in `IQ4_NL`.
        qs: [[u8; 16]; 8],
    }
}

/// Replaces codes by what they stand for in `values`.
#[inline(always)]
pub(super) fn look_up(values: &[i8; 16], q: &mut [i8]) {
    for q in q {
        *q = values[usize::from(*q as u8 & 15)];
    }
}

impl Block for IQ4_NL {
    const FORMAT: Format = Format::IQ4_NL;
    const GROUP: usize = 32;
    const HAS_OFFSET: bool = false;
    const RANGE: (i8, i8) = (-127, 113);

    #[inline(always)]
    fn unpack(&self, q: &mut [i8], scales: &mut [f32], _: &mut [f32]) {
        unpack_nibbles(&self.qs, q);
        look_up(&IQ4_VALUES, &mut q[..32]);
        scales[0] = self.d.to_f32();
    }
}

impl Block for IQ4_XS {
    const FORMAT: Format = Format::IQ4_XS;
    const GROUP: usize = 32;
    const HAS_OFFSET: bool = false;
    const RANGE: (i8, i8) = (-127, 113);

    #[inline(always)]
    fn unpack(&self, q: &mut [i8], scales: &mut [f32], _: &mut [f32]) {
        let d = self.d.to_f32();
        let high = u16::from_le_bytes(self.scales_h);
        for (g, (qs, q)) in self.qs.iter().zip(q.chunks_exact_mut(32)).enumerate() {
            unpack_nibbles(qs, q);
            look_up(&IQ4_VALUES, q);
            let low = self.scales_l[g / 2] >> (g % 2 * 4) & 15;
            let scale = i16::from(low) | ((high >> (2 * g) & 3) << 4) as i16;
            scales[g] = d * f32::from(scale - 32);
        }
    }
}

/// The entries of [`IQ4_VALUES`] as levels.
struct Table;

/// The code nearest to each `x` of `[-128, 128)` in steps of one half, by
/// `floor(2 * x) + 256`: thresholds are whole halves.
const NEAREST: [u8; 512] = {
    let mut nearest = [0; 512];
    let (mut i, mut code) = (0, 0);
    while i < 512 {
        // The threshold between two entries is half their sum.
        while code < 15 && i - 256 >= IQ4_VALUES[code] as i32 + IQ4_VALUES[code + 1] as i32 {
            code += 1;
        }
        nearest[i as usize] = code as u8;
        i += 1;
    }
    nearest
};

impl Table {
    /// The code of the entry nearest to `x`.
    #[inline(always)]
    fn code(x: f32) -> u8 {
        let at = (x.clamp(-127.0, 127.0) + 128.0) * 2.0;
        NEAREST[at as usize & 511]
    }
}

impl Levels for Table {
    const PEAK: f32 = IQ4_VALUES[0] as f32;
    const STEP: f32 = IQ4_VALUES[0] as f32 - IQ4_VALUES[1] as f32;

    #[inline(always)]
    fn nearest(x: f32) -> f32 {
        f32::from(IQ4_VALUES[usize::from(Self::code(x))])
    }
}

impl Quantize for IQ4_NL {
    fn quantize(x: &[f32]) -> Self {
        let x = fit::finite::<32>(x);
        let d = Half::saturating(fit::scale::<Table, 32>(&x));
        let inverse = fit::inverse(d.to_f32());
        Self { d, qs: pack_nibbles(&x.map(|x| Table::code(x * inverse))) }
    }
}
