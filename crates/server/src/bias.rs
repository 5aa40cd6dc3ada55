//! `logit_bias`: OpenAI's map of token ids, and llama.cpp's list of pairs.

use serde_json::Value;
use tokenizer::{Encode, Tokenizer};

use crate::error::{ApiError, Result};

/// Most tokens whose logits a request may change.
const MOST: usize = 4096;
const PARAM: &str = "logit_bias";

/// Reads `{"ID": BIAS, …}` or `[[ID or TEXT, BIAS or false], …]`; a text stands for each of its
/// tokens, `false` bans one. The engine checks ids and ranges.
///
/// # Errors
/// 400 with the place of what is wrong.
pub(crate) fn parse(value: &Value, tokenizer: &Tokenizer) -> Result<Vec<(u32, f32)>> {
    let mut biases = Vec::new();
    match value {
        Value::Null => {}
        Value::Object(map) => {
            for (key, bias) in map {
                let id =
                    key.parse().map_err(|_| wrong(&format!(".{key}"), "its key should be a token's id"))?;
                add(&mut biases, [id], number(bias, || format!(".{key}"))?)?;
            }
        }
        Value::Array(pairs) => {
            for (i, pair) in pairs.iter().enumerate() {
                let Some([token, bias]) = pair.as_array().map(Vec::as_slice) else {
                    return Err(wrong(&format!("[{i}]"), "it should be a token and a number or false"));
                };
                let bias = number(bias, || format!("[{i}][1]"))?;
                add(&mut biases, tokens(token, tokenizer, i)?, bias)?;
            }
        }
        _ => return Err(wrong("", "it should be a map of token ids, or a list of pairs")),
    }
    Ok(biases)
}

fn tokens(token: &Value, tokenizer: &Tokenizer, i: usize) -> Result<Vec<u32>> {
    match token {
        Value::String(text) => {
            Ok(tokenizer.encode(text, Encode { add_special: false, parse_special: false }))
        }
        token => match token.as_u64().and_then(|id| u32::try_from(id).ok()) {
            Some(id) => Ok(vec![id]),
            None => Err(wrong(&format!("[{i}][0]"), "it should be a token's id or a text")),
        },
    }
}

fn number(bias: &Value, place: impl Fn() -> String) -> Result<f32> {
    match bias {
        Value::Bool(false) => Ok(f32::NEG_INFINITY),
        bias => {
            let number = bias.as_f64().ok_or_else(|| wrong(&place(), "it should be a number or false"))?;
            Ok(number as f32)
        }
    }
}

fn add(biases: &mut Vec<(u32, f32)>, ids: impl IntoIterator<Item = u32>, bias: f32) -> Result<()> {
    biases.extend(ids.into_iter().map(|id| (id, bias)));
    if biases.len() > MOST {
        return Err(ApiError::field(PARAM, format!("{PARAM} names more than {MOST} tokens")));
    }
    Ok(())
}

fn wrong(place: &str, what: &str) -> ApiError {
    ApiError::field(format!("{PARAM}{place}"), format!("{PARAM}{place}: {what}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<Vec<(u32, f32)>> {
        let file = model::testing::tiny("llama", 1).expect("the name is known");
        let tokenizer = Tokenizer::from_metadata(&file.metadata).expect("the vocabulary is valid");
        parse(&value, &tokenizer)
    }

    #[test]
    fn both_forms_are_read() {
        assert_eq!(read(Value::Null).ok(), Some(vec![]));
        assert_eq!(read(json!({"7": -100, "8": 0.5})).ok(), Some(vec![(7, -100.0), (8, 0.5)]));
        assert_eq!(read(json!([[7, -1.5], [8, false]])).ok(), Some(vec![(7, -1.5), (8, f32::NEG_INFINITY)]));
        let texts = read(json!([["ab", 2]])).expect("a text is tokens");
        assert!(texts.len() >= 2 && texts.iter().all(|(_, bias)| *bias == 2.0), "{texts:?}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (value, param) in [
            (json!(1), "logit_bias"),
            (json!({"a": 1}), "logit_bias.a"),
            (json!({"-1": 1}), "logit_bias.-1"),
            (json!({"1": "x"}), "logit_bias.1"),
            (json!({"1": true}), "logit_bias.1"),
            (json!([[1, 2], [1]]), "logit_bias[1]"),
            (json!([[1.5, 2]]), "logit_bias[0][0]"),
            (json!([[4294967296u64, 2]]), "logit_bias[0][0]"),
            (json!([[1, null]]), "logit_bias[0][1]"),
            (json!(vec![[1, 2]; MOST + 1]), "logit_bias"),
        ] {
            let error = read(value.clone()).expect_err("it is wrong");
            assert_eq!(error.param.as_deref(), Some(param), "{value}");
        }
    }
}
