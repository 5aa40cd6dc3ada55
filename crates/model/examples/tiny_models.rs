//! Writes every tiny random model to a directory, as GGUF and in Hugging Face
//! layout, with the token ids that the golden logits are for:
//! `cargo run -p quarrel-model --example tiny_models -- DIR`.

use std::io::Write as _;
use std::path::PathBuf;

use quarrel_model::testing;

/// The seed of models and tokens in all committed goldens.
const SEED: u64 = 1;

fn main() -> std::io::Result<()> {
    let dir = PathBuf::from(std::env::args().nth(1).expect("usage: tiny_models DIR"));
    std::fs::create_dir_all(&dir)?;
    for name in testing::tiny_names() {
        let bytes = testing::tiny_bytes(name, SEED).expect("the name is from the list");
        std::fs::write(dir.join(format!("{name}.gguf")), bytes)?;
        let Some((config, safetensors)) = testing::tiny_hf(name, SEED) else { continue };
        std::fs::create_dir_all(dir.join(name))?;
        std::fs::write(dir.join(name).join("config.json"), config)?;
        std::fs::write(dir.join(name).join("model.safetensors"), safetensors)?;
    }
    let mut tokens = std::fs::File::create(dir.join("tokens.txt"))?;
    for id in testing::tiny_tokens(40, SEED) {
        writeln!(tokens, "{id}")?;
    }
    Ok(())
}
