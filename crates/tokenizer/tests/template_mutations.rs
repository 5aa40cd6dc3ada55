//! Real templates with random damage: whatever comes of it, it is a text or a
//! typed error, soon.

use std::path::Path;
use std::time::{Duration, Instant};

use quarrel_tokenizer::template::{ChatInput, Error, SpecialTokens, Template};
use serde_json::Value;

/// Many times what the slowest takes (0.6 s in a debug build: what the fuel of
/// this conversation pays for).
const TIME: Duration = Duration::from_secs(20);

/// Xorshift; Marsaglia, "Xorshift RNGs", 2003.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n as u64).expect("below a usize")
    }
}

/// `source` with some pieces taken out, doubled, swapped, or put in.
fn damaged(source: &str, random: &mut Random) -> String {
    let mut pieces: Vec<&str> =
        source.split_inclusive([' ', '(', ')', '[', ']', '.', '|', '\'', '}', '{']).collect();
    let words = [
        "{%", "%}", "{{", "}}", "-", "not ", " + x", " ~ ns ", "[::-1]", "* 99999", "loop", "(", ")",
        "messages",
    ];
    for _ in 0..=random.below(8) {
        let i = random.below(pieces.len());
        let j = random.below(pieces.len());
        match random.below(4) {
            0 => {
                pieces.remove(i);
            }
            1 => pieces.insert(j, pieces[i]),
            2 => pieces.swap(i, j),
            _ => pieces.insert(i, words[random.below(words.len())]),
        }
        if pieces.is_empty() {
            break;
        }
    }
    pieces.concat()
}

#[test]
fn damaged_templates_never_panic() {
    let rounds = std::env::var("QUARREL_TEMPLATE_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let data: Value = serde_json::from_str(include_str!("templates/conversations.json")).expect("valid JSON");
    let case = |name: &str| {
        let cases = data["cases"].as_array().expect("cases").iter();
        let case = cases.clone().find(|case| case["name"] == name).expect("a case");
        serde_json::from_value(case["messages"].clone()).expect("messages")
    };
    let input = ChatInput {
        messages: case("thinking_tools"),
        tools: data["tools"]["rich"].as_array().cloned(),
        add_generation_prompt: true,
        ..ChatInput::default()
    };
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fixtures/llama.cpp/models/templates");
    let files = std::fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("{}: {e}; run `cargo xtask fixtures` first", dir.display()));
    let mut paths: Vec<_> = files.map(|file| file.expect("readable").path()).collect();
    paths.sort();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for path in &paths {
        let source = std::fs::read_to_string(path).expect("readable");
        for _ in 0..rounds {
            let damaged = damaged(&source, &mut random);
            let start = Instant::now();
            let result = Template::parse(&damaged, SpecialTokens::default()).and_then(|t| t.render(&input));
            assert!(!matches!(result, Err(Error::Engine)), "the engine panicked on:\n{damaged}");
            assert!(start.elapsed() < TIME, "{:?} for:\n{damaged}", start.elapsed());
        }
    }
}
