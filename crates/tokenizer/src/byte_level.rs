//! The alphabet of byte-level BPE: one printable character for each byte.
//!
//! GPT-2's vocabulary is JSON text, so its authors gave every byte a visible
//! character: printable Latin-1 bytes stand for themselves, and the 68 others
//! are U+0100, U+0101, … in order of byte. A space is `Ġ`, a newline `Ċ`.
//! Source: Radford et al. 2019, "Language Models are Unsupervised Multitask
//! Learners", and the encoder published with it.

/// The character that stands for `byte`.
pub(crate) fn to_char(byte: u8) -> char {
    let offset = match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => return char::from(byte),
        0..=0x20 => byte,
        0x7F..=0xA0 => byte - 0x7F + 33,
        0xAD => 67,
    };
    char::from_u32(0x100 + u32::from(offset)).expect("U+0100 to U+0143 are characters")
}

/// The byte that `c` stands for, if it is of the alphabet.
pub(crate) fn to_byte(c: char) -> Option<u8> {
    Some(match u32::from(c) {
        x @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => x as u8,
        x @ 0x100..=0x120 => (x - 0x100) as u8,
        x @ 0x121..=0x142 => (x - 0x121 + 0x7F) as u8,
        0x143 => 0xAD,
        _ => return None,
    })
}

/// The bytes that a token's text stands for. Text with any character outside
/// the alphabet was never byte-encoded and is taken as it is.
pub(crate) fn decode(text: &str) -> Vec<u8> {
    text.chars().map(to_byte).collect::<Option<_>>().unwrap_or_else(|| text.as_bytes().to_vec())
}

/// Appends the text that stands for `bytes`.
pub(crate) fn encode(bytes: &[u8], out: &mut String) {
    out.extend(bytes.iter().map(|&b| to_char(b)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character() {
        let alphabet: std::collections::BTreeSet<char> = (0..=255).map(to_char).collect();
        assert_eq!(alphabet.len(), 256);
        for byte in 0..=255 {
            assert_eq!(to_byte(to_char(byte)), Some(byte));
        }
        assert_eq!((to_char(b' '), to_char(b'\n'), to_char(0xAD)), ('Ġ', 'Ċ', 'Ń'));
        assert_eq!(to_byte('\u{144}'), None);
        assert_eq!(to_byte(' '), None);
    }

    #[test]
    fn text_outside_the_alphabet_is_kept() {
        assert_eq!(decode("Ġhi"), b" hi");
        assert_eq!(decode("<a b>"), b"<a b>");
    }
}
