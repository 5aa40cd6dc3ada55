//! Where a template comes from: a model's file, or a short list of formats
//! that models without a template were trained on.

use gguf::{Array, Metadata, Value};

use super::{Error, Result, SpecialTokens, Template};

/// Macros that the built-in templates share.
const SHARED: &str = include_str!("builtin/text.jinja");

/// Built-in templates by name. They leave the token that begins a text to the
/// tokenizer.
const BUILTIN: [(&str, &str); 7] = [
    ("chatml", include_str!("builtin/chatml.jinja")),
    ("gemma", include_str!("builtin/gemma.jinja")),
    ("llama2", include_str!("builtin/llama2.jinja")),
    ("llama3", include_str!("builtin/llama3.jinja")),
    ("mistral", include_str!("builtin/mistral.jinja")),
    ("phi3", include_str!("builtin/phi3.jinja")),
    ("zephyr", include_str!("builtin/zephyr.jinja")),
];

impl Template {
    /// The names that [`Template::builtin`] takes.
    pub fn builtin_names() -> impl Iterator<Item = &'static str> {
        BUILTIN.iter().map(|(name, _)| *name)
    }

    /// One of the built-in templates.
    ///
    /// # Errors
    /// [`Error::UnknownName`].
    pub fn builtin(name: &str, special: SpecialTokens) -> Result<Self> {
        let Some((_, source)) = BUILTIN.iter().find(|(known, _)| *known == name) else {
            let known = Self::builtin_names().collect::<Vec<_>>().join(", ");
            return Err(Error::UnknownName { name: name.to_owned(), known });
        };
        Self::parse(&format!("{SHARED}{source}"), special)
    }

    /// The template in a model's metadata; `None` when there is none. Then
    /// nobody knows how the model wants to be spoken to: the caller decides,
    /// and says so, whether to refuse, to complete plain text, or to guess a
    /// built-in one (llama.cpp guesses `chatml`).
    ///
    /// # Errors
    /// Those of [`Template::parse`], and [`Error::Metadata`] for keys of the
    /// wrong type.
    pub fn from_metadata(metadata: &Metadata) -> Result<Option<Self>> {
        match metadata.str("tokenizer.chat_template")? {
            Some(source) => Self::parse(source, SpecialTokens::from_metadata(metadata)?).map(Some),
            None => Ok(None),
        }
    }
}

impl SpecialTokens {
    /// The texts of the special tokens that a model's metadata names.
    ///
    /// # Errors
    /// A key of the wrong type.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self> {
        let tokens = match metadata.get("tokenizer.ggml.tokens") {
            Some(Value::Array(Array::String(tokens))) => tokens.as_slice(),
            _ => &[],
        };
        let token = |name: &str| -> Result<Option<String>> {
            let id = metadata.u32(&format!("tokenizer.ggml.{name}_token_id"))?;
            // An id outside the vocabulary is the tokenizer's to refuse.
            Ok(id.and_then(|id| tokens.get(usize::try_from(id).ok()?).cloned()))
        };
        Ok(Self {
            bos_token: token("bos")?,
            eos_token: token("eos")?,
            unk_token: token("unknown")?,
            pad_token: token("padding")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::{ChatInput, Message};

    /// Expected texts from llama.cpp's formats of the same names (`mistral` is
    /// its mistral-v3, `llama2` its llama2-sys-bos), but for `llama2`'s spaces
    /// around an answer, which are in Meta's own code, and `zephyr`'s end
    /// token, which is the model's.
    #[test]
    fn builtins() {
        let expected = [
            "<|im_start|>system\nBe terse.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n\
             <|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
            "<start_of_turn>user\nBe terse.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>\n\
             <start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n",
            "[INST] <<SYS>>\nBe terse.\n<</SYS>>\n\nHi [/INST] Hello </s><s>[INST] Bye [/INST]",
            "<|start_header_id|>system<|end_header_id|>\n\nBe terse.<|eot_id|>\
             <|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>\
             <|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>\
             <|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>\
             <|start_header_id|>assistant<|end_header_id|>\n\n",
            "[INST] Be terse.\n\nHi[/INST] Hello</s>[INST] Bye[/INST]",
            "<|system|>\nBe terse.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nHello<|end|>\n\
             <|user|>\nBye<|end|>\n<|assistant|>\n",
            "<|system|>\nBe terse.</s>\n<|user|>\nHi</s>\n<|assistant|>\nHello</s>\n<|user|>\nBye</s>\n<|assistant|>\n",
        ];
        let special = SpecialTokens {
            bos_token: Some("<s>".into()),
            eos_token: Some("</s>".into()),
            ..SpecialTokens::default()
        };
        let turns = [("system", "Be terse."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye")];
        let chat = ChatInput {
            messages: turns.map(|(role, text)| Message::new(role, text)).into(),
            add_generation_prompt: true,
            ..ChatInput::default()
        };
        for (name, expected) in Template::builtin_names().zip(expected) {
            let template = Template::builtin(name, special.clone()).expect("built in");
            assert_eq!(template.render(&chat).expect("renders"), expected, "{name}");
        }
        let unknown = Template::builtin("alpaca", special).expect_err("not built in").to_string();
        assert!(unknown.contains("chatml, gemma"), "{unknown}");
    }

    #[test]
    fn from_metadata() {
        let mut metadata = Metadata::new();
        assert!(Template::from_metadata(&metadata).expect("valid").is_none());
        metadata
            .insert("tokenizer.chat_template", "{{ bos_token }}|{{ eos_token }}|{{ messages[0].content }}");
        metadata.insert("tokenizer.ggml.tokens", Value::Array(Array::String(vec!["a".into(), "b".into()])));
        metadata.insert("tokenizer.ggml.bos_token_id", 1u32);
        metadata.insert("tokenizer.ggml.eos_token_id", 7u32);
        let template = Template::from_metadata(&metadata).expect("valid").expect("there");
        let chat = ChatInput { messages: vec![Message::new("user", "x")], ..ChatInput::default() };
        assert_eq!(template.render(&chat).expect("renders"), "b||x");
        metadata.insert("tokenizer.chat_template", 1u32);
        assert!(matches!(Template::from_metadata(&metadata), Err(Error::Metadata(_))));
    }
}
