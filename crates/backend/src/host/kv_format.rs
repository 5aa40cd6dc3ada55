//! Keys and values to what the cache stores, and back: the plain way, which every
//! backend's kernels must agree with.

use half::{bf16, f16};

use crate::{KV_GROUP, KvFormat};

impl KvFormat {
    /// Rounds `values` to the format, little-endian.
    ///
    /// # Panics
    /// When `out` has not exactly the bytes that the values take.
    pub fn encode(self, values: &[f32], out: &mut [u8]) {
        assert_eq!(out.len(), self.bytes(values.len()), "the caller sizes the output");
        match self {
            Self::F32 => each(values, out, f32::to_le_bytes),
            Self::F16 => each(values, out, |x| f16::from_f32(x).to_le_bytes()),
            Self::BF16 => each(values, out, |x| bf16::from_f32(x).to_le_bytes()),
            Self::Q8_0 => encode_q8_0(values, out),
            Self::Fp8 => each(values, out, |x| [to_e4m3(x)]),
        }
    }
}

fn each<const N: usize>(values: &[f32], out: &mut [u8], encode: impl Fn(f32) -> [u8; N]) {
    for (x, out) in values.iter().zip(out.as_chunks_mut::<N>().0) {
        *out = encode(*x);
    }
}

fn encode_q8_0(values: &[f32], out: &mut [u8]) {
    let (bytes, scales) = out.split_at_mut(values.len());
    let groups = values.chunks(KV_GROUP).zip(bytes.chunks_mut(KV_GROUP));
    for ((values, bytes), out) in groups.zip(scales.as_chunks_mut().0) {
        let largest = values.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
        let has_nan = values.iter().any(|x| x.is_nan());
        let scale = if has_nan { f16::NAN } else { f16::from_f32(largest / 127.0) };
        *out = scale.to_le_bytes();
        let inverse = if scale.to_f32() > 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
        for (x, byte) in values.iter().zip(bytes) {
            // The scale was rounded, so that the largest may be a little over 127.
            *byte = (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8 as u8;
        }
    }
}

/// The nearest E4M3 number, ties to even.
fn to_e4m3(x: f32) -> u8 {
    /// The smallest normal number.
    const NORMAL: f32 = 1.0 / 64.0;
    let sign = (x.to_bits() >> 24) as u8 & 0x80;
    let magnitude = x.abs();
    if magnitude.is_nan() {
        return sign | 0x7f;
    }
    if magnitude < NORMAL {
        // Eighths of the smallest normal number; all eight are the normal number itself.
        return sign | (magnitude * 512.0).round_ties_even() as u8;
    }
    // Three bits of fraction, and the exponent biased by 7 instead of 127.
    let bits = magnitude.to_bits();
    let rounded = (bits + 0x7_ffff + (bits >> 20 & 1)) >> 20;
    sign | rounded.saturating_sub(120 << 3).min(0x7e) as u8
}

fn from_e4m3(byte: u8) -> f32 {
    // An IEEE half has the same fields, two zero bits of exponent and seven of fraction more or less.
    let half = u16::from(byte & 0x80) << 8 | u16::from(byte & 0x7f) << 7;
    f16::from_bits(half).to_f32() * 256.0
}

/// The `dim` elements of a stored vector.
pub fn decode(format: KvFormat, dim: usize, bytes: &[u8]) -> Vec<f32> {
    match format {
        KvFormat::F32 => bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect(),
        KvFormat::F16 => bytes.as_chunks().0.iter().map(|x| f16::from_le_bytes(*x).to_f32()).collect(),
        KvFormat::BF16 => bytes.as_chunks().0.iter().map(|x| bf16::from_le_bytes(*x).to_f32()).collect(),
        KvFormat::Q8_0 => {
            let (bytes, scales) = bytes.split_at(dim);
            let scale = |i: usize| f16::from_le_bytes(scales.as_chunks().0[i / KV_GROUP]).to_f32();
            bytes.iter().enumerate().map(|(i, &x)| f32::from(x as i8) * scale(i)).collect()
        }
        KvFormat::Fp8 => bytes.iter().map(|x| from_e4m3(*x)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_e4m3_number_is_its_own_nearest() {
        for byte in 0..=u8::MAX {
            // 0x7f and 0xff read as 480, which is out of range.
            let expected = if byte & 0x7f == 0x7f { byte - 1 } else { byte };
            assert_eq!(to_e4m3(from_e4m3(byte)), expected, "{byte:#x}");
        }
        let all = (0..=0x7e).map(from_e4m3).collect::<Vec<_>>();
        assert_eq!((all[1], all[8], all[0x38], all[0x7e]), (1.0 / 512.0, 1.0 / 64.0, 1.0, 448.0));
        for (byte, pair) in all.windows(2).enumerate() {
            let middle = (pair[0] + pair[1]) / 2.0;
            let even = byte as u8 + (byte as u8 & 1);
            assert_eq!(to_e4m3(middle), even, "halfway above {byte:#x}");
            assert_eq!(to_e4m3(middle.next_up()), byte as u8 + 1);
            assert_eq!(to_e4m3(-middle.next_down()), byte as u8 | 0x80);
        }
        let edges = [f32::INFINITY, -1e9, f32::NAN].map(to_e4m3);
        assert_eq!(edges, [0x7e, 0xfe, 0x7f]);
    }

    #[test]
    fn q8_0_is_off_by_half_a_step_at_most() {
        let values: Vec<f32> = (0..80).map(|i| ((i * 37 % 80) as f32 - 40.0) * 0.3).collect();
        let mut bytes = vec![0; KvFormat::Q8_0.bytes(80)];
        assert_eq!(bytes.len(), 86);
        KvFormat::Q8_0.encode(&values, &mut bytes);
        let found = decode(KvFormat::Q8_0, 80, &bytes);
        for (values, found) in values.chunks(32).zip(found.chunks(32)) {
            let step = values.iter().fold(0.0_f32, |m, x| m.max(x.abs())) / 127.0;
            for (x, y) in values.iter().zip(found) {
                // Half a step, and 127 times what rounding the scale to a half changes it by.
                assert!((x - y).abs() <= step * (0.5 + 127.0 / 2048.0), "{x} became {y}");
            }
        }
        KvFormat::Q8_0.encode(&[0.0, f32::NAN], &mut bytes[..4]);
        assert!(decode(KvFormat::Q8_0, 2, &bytes[..4]).iter().all(|x| x.is_nan()));
        KvFormat::Q8_0.encode(&[0.0; 2], &mut bytes[..4]);
        assert_eq!(decode(KvFormat::Q8_0, 2, &bytes[..4]), [0.0; 2]);
    }
}
