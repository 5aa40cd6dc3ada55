//! Random texts: mixed scripts, emoji, white space, controls, marks.

/// SplitMix64 (Steele et al. 2014): the same numbers on every machine.
pub struct Random(pub u64);

impl Random {
    /// The next number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    /// A text of up to 80 characters or words from up to four of [`RANGES`].
    pub fn text(&mut self) -> String {
        let kinds: Vec<usize> = (0..=self.below(4)).map(|_| self.below(RANGES.len() + 3)).collect();
        let len = [1, 2, 3, 5, 8, 13, 21, 40, 80][self.below(9)];
        let mut text = String::new();
        for _ in 0..len {
            match kinds[self.below(kinds.len())].checked_sub(RANGES.len()) {
                Some(0) => text.push_str(self.pick(&WORDS)),
                Some(1) => text.push_str(self.pick(&JOINED)),
                Some(_) => text.extend(char::from_u32(self.below(0x11_0000) as u32)),
                None => {
                    let range = RANGES[kinds[self.below(kinds.len())] % RANGES.len()];
                    let c = range.0 + self.below((range.1 - range.0 + 1) as usize) as u32;
                    text.extend(char::from_u32(c));
                }
            }
        }
        text
    }
}

const RANGES: [(u32, u32); 22] = [
    (0x20, 0x7E), // ASCII
    (b'a' as u32, b'z' as u32),
    (b'0' as u32, b'9' as u32),
    (0x00, 0x1F),       // controls
    (0x80, 0xA0),       // more of them
    (0xC0, 0x24F),      // Latin
    (0x300, 0x36F),     // combining marks
    (0x370, 0x52F),     // Greek, Cyrillic
    (0x590, 0x6FF),     // Hebrew, Arabic
    (0x900, 0x97F),     // Devanagari
    (0xE00, 0xE7F),     // Thai
    (0x10A0, 0x10FF),   // Georgian
    (0x1780, 0x17FF),   // Khmer
    (0x2000, 0x206F),   // spaces, dashes, joiners
    (0x20A0, 0x21FF),   // currency, numbers, arrows
    (0x3000, 0x30FF),   // CJK marks, kana
    (0x4E00, 0x5200),   // Han
    (0xAC00, 0xAE00),   // Hangul
    (0xE000, 0xE0FF),   // private use
    (0xFF00, 0xFFEF),   // full width
    (0x1F300, 0x1F6FF), // emoji
    (0x1F900, 0x1F9FF),
];

const WORDS: [&str; 16] = [
    "the ",
    "The",
    " and",
    "I'm",
    " don't",
    "'LL",
    "'ve",
    "\n",
    "\r\n",
    "\n\n    ",
    "   ",
    "\t",
    " 1234",
    "==",
    "http://",
    "def f(x):",
];

const JOINED: [&str; 6] = ["👨‍👩‍👧‍👦", "🏳️‍🌈", "😶‍🌫️", "👍🏽", "e\u{301}", "🇩🇪"];
