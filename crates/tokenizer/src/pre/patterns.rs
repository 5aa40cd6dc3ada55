//! The patterns themselves, one function for each alternation.
//!
//! Each doc comment is the regular expression as the model's publisher has it
//! in `tokenizer.json`; the function says the same with matchers.

use super::class::{
    han, letter, letter_or_mark, lower_or_caseless, mark, newline, number, other, punctuation, space, symbol,
    upper_or_caseless,
};
use super::scan::{
    Class, contraction, one, prefixed_run, run, run0, space_to_newline, spaced_run, spaced_run_then, spaces,
    up_to,
};

/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
pub(super) fn gpt2(t: &str) -> Option<usize> {
    contraction(t, false)
        .or_else(|| spaced_run(t, letter))
        .or_else(|| spaced_run(t, number))
        .or_else(|| spaced_run(t, other))
        .or_else(|| spaces(t))
}

/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
pub(super) fn llama3(t: &str) -> Option<usize> {
    contraction(t, true).or_else(|| words(t, 3))
}

/// As [`llama3`], with `\p{N}` for `\p{N}{1,3}`.
pub(super) fn qwen2(t: &str) -> Option<usize> {
    contraction(t, true).or_else(|| words(t, 1))
}

/// As [`llama3`], with `\p{N}+` for `\p{N}{1,3}`.
pub(super) fn llama3_long_numbers(t: &str) -> Option<usize> {
    contraction(t, true).or_else(|| words(t, usize::MAX))
}

/// As [`qwen2`], without contractions.
pub(super) fn qwen2_plain(t: &str) -> Option<usize> {
    words(t, 1)
}

/// `[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,max}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
fn words(t: &str, max_digits: usize) -> Option<usize> {
    prefixed_run(t, before_word, letter)
        .or_else(|| up_to(t, max_digits, number))
        .or_else(|| spaced_run_then(t, other, newline))
        .or_else(|| space_to_newline(t))
        .or_else(|| spaces(t))
}

/// `[^\r\n\p{L}\p{N}]`
fn before_word(c: char) -> bool {
    !newline(c) && !letter(c) && !number(c)
}

/// `(?i:'s|…)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
pub(super) fn qwen35(t: &str) -> Option<usize> {
    contraction(t, true)
        .or_else(|| prefixed_run(t, before_word, letter_or_mark))
        .or_else(|| one(t, number))
        .or_else(|| spaced_run_then(t, |c| other(c) && !mark(c), newline))
        .or_else(|| space_to_newline(t))
        .or_else(|| spaces(t))
}

/// `(?i:'s|…)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+`
pub(super) fn seed_coder(t: &str) -> Option<usize> {
    contraction(t, true)
        .or_else(|| prefixed_run(t, before_word, letter))
        .or_else(|| one(t, number))
        .or_else(|| spaced_run(t, other))
        .or_else(|| space_to_newline(t))
        .or_else(|| spaces(t))
}

/// `(?i:'s|…)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+`
pub(super) fn exaone_moe(t: &str) -> Option<usize> {
    let symbols = |t: &str| {
        let len = spaced_run(t, other)?;
        Some(len + one(&t[len..], newline_or_slash).unwrap_or(0))
    };
    let phrase_after = |skip: usize| phrase(&t[skip..]).map(|len| skip + len);
    contraction(t, true)
        .or_else(|| phrase_after(one(t, before_word).unwrap_or(0)))
        .or_else(|| one(t, number))
        .or_else(|| symbols(t))
        .or_else(|| space_to_newline(t))
        .or_else(|| spaces(t))
}

/// `(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+`: words with single spaces between.
fn phrase(t: &str) -> Option<usize> {
    let mut len = one(t, letter)?;
    loop {
        len += run0(&t[len..], letter_or_mark);
        match t[len..].strip_prefix(' ').and_then(|rest| one(rest, letter)) {
            Some(next) => len += 1 + next,
            None => return Some(len),
        }
    }
}

/// ``[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+``
pub(super) fn deepseek_v3(t: &str) -> Option<usize> {
    let mark_and_word = || {
        let skip = one(t, |c| c.is_ascii_punctuation())?;
        Some(skip + run(&t[skip..], |c| c.is_ascii_alphabetic())?)
    };
    mark_and_word()
        .or_else(|| {
            let prefix = |c| !newline(c) && !letter(c) && !punctuation(c) && !symbol(c);
            prefixed_run(t, prefix, letter_or_mark)
        })
        .or_else(|| spaced_run_then(t, |c| punctuation(c) || symbol(c), newline))
        .or_else(|| space_to_newline(t))
        .or_else(|| spaces(t))
}

/// `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
pub(super) fn tekken(t: &str) -> Option<usize> {
    cased_word(t, upper_or_caseless, lower_or_caseless).or_else(|| after_cased_word(t, 1, newline_or_slash))
}

/// As [`tekken`], with contractions after a word and `\p{N}{1,3}`.
pub(super) fn gpt4o(t: &str) -> Option<usize> {
    cased_word(t, upper_or_caseless, lower_or_caseless)
        .map(|len| len + contraction(&t[len..], true).unwrap_or(0))
        .or_else(|| after_cased_word(t, 3, newline_or_slash))
}

/// `[\p{Han}]+|`, then as [`gpt4o`] with words free of Han and `[\r\n]*`.
pub(super) fn kimi_k2(t: &str) -> Option<usize> {
    run(t, han)
        .or_else(|| {
            let len =
                cased_word(t, |c| upper_or_caseless(c) && !han(c), |c| lower_or_caseless(c) && !han(c))?;
            Some(len + contraction(&t[len..], true).unwrap_or(0))
        })
        .or_else(|| after_cased_word(t, 3, newline))
}

fn newline_or_slash(c: char) -> bool {
    newline(c) || c == '/'
}

fn after_cased_word(t: &str, max_digits: usize, tail: Class) -> Option<usize> {
    up_to(t, max_digits, number)
        .or_else(|| spaced_run_then(t, other, tail))
        .or_else(|| space_to_newline(t))
        .or_else(|| spaces(t))
}

/// `P?U*L+|P?U+L*` where `P` is `[^\r\n\p{L}\p{N}]`.
fn cased_word(t: &str, upper: Class, lower: Class) -> Option<usize> {
    let skip = one(t, before_word).unwrap_or(0);
    let at = |skip: usize, f: fn(&str, Class, Class) -> Option<usize>| {
        f(&t[skip..], upper, lower).map(|len| skip + len)
    };
    at(skip, ends_low)
        .or_else(|| at(0, ends_low))
        .or_else(|| at(skip, starts_high))
        .or_else(|| at(0, starts_high))
}

/// `U*L+`, where the two classes overlap: when no `L` follows the `U`s, they
/// give back as far as the last that is an `L` too.
fn ends_low(t: &str, upper: Class, lower: Class) -> Option<usize> {
    let uppers = run0(t, upper);
    match run(&t[uppers..], lower) {
        Some(lowers) => Some(uppers + lowers),
        None => t[..uppers].char_indices().rfind(|&(_, c)| lower(c)).map(|(i, c)| i + c.len_utf8()),
    }
}

/// `U+L*`
fn starts_high(t: &str, upper: Class, lower: Class) -> Option<usize> {
    let uppers = run(t, upper)?;
    Some(uppers + run0(&t[uppers..], lower))
}

/// ` ?[^(\s|.,!?…。，、।۔،)]+`
pub(super) fn bloom(t: &str) -> Option<usize> {
    spaced_run(t, |c| {
        let stop = ['(', '|', '.', ',', '!', '?', '…', '。', '，', '、', '।', '۔', '،', ')'];
        !space(c) && !stop.contains(&c)
    })
}

/// `\s?\p{L}+`
pub(super) fn deepseek_coder_letters(t: &str) -> Option<usize> {
    prefixed_run(t, space, letter)
}

/// `\s?\p{P}+`
pub(super) fn deepseek_coder_punctuation(t: &str) -> Option<usize> {
    prefixed_run(t, space, punctuation)
}

/// `[一-龥ࠀ-一가-퟿]+`: the second range, as published, runs from U+0800.
pub(super) fn deepseek_cjk(t: &str) -> Option<usize> {
    run(t, |c| matches!(c, '\u{800}'..='龥' | '가'..='\u{D7FF}'))
}

/// `[一-龥぀-ゟ゠-ヿ]+`
pub(super) fn deepseek_v3_cjk(t: &str) -> Option<usize> {
    run(t, |c| matches!(c, '一'..='龥' | '\u{3040}'..='\u{30FF}'))
}

/// `\s?[!-/:-~！-／：-～‘-‟　-。]+`
pub(super) fn deepseek_llm_punctuation(t: &str) -> Option<usize> {
    prefixed_run(
        t,
        space,
        |c| matches!(c, '!'..='/' | ':'..='~' | '！'..='／' | '：'..='～' | '‘'..='‟' | '\u{3000}'..='。'),
    )
}

/// `\s?[A-Za-zµÀ-Ö…𞤀-𞥃]+`: letters of scripts that have case.
pub(super) fn deepseek_llm_letters(t: &str) -> Option<usize> {
    prefixed_run(t, space, super::ranges::cased_letter)
}

/// ``[\p{P}\$\+<=>\^~\|`]+``
pub(super) fn falcon_punctuation(t: &str) -> Option<usize> {
    run(t, |c| punctuation(c) || matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '~' | '|' | '`'))
}

/// `[\p{P}\$\+<=>\^~\|]+`
pub(super) fn default_punctuation(t: &str) -> Option<usize> {
    run(t, |c| punctuation(c) || matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '~' | '|'))
}

/// `[0-9][0-9][0-9]`
pub(super) fn three_digits(t: &str) -> Option<usize> {
    (t.len() >= 3 && t.as_bytes()[..3].iter().all(u8::is_ascii_digit)).then_some(3)
}

/// `\p{N}`
pub(super) fn digit(t: &str) -> Option<usize> {
    one(t, number)
}

/// `\p{N}+`
pub(super) fn digits(t: &str) -> Option<usize> {
    run(t, number)
}

/// `\p{N}{1,3}`
pub(super) fn digits3(t: &str) -> Option<usize> {
    up_to(t, 3, number)
}

/// `[\r\n]`
pub(super) fn line_break(t: &str) -> Option<usize> {
    one(t, newline)
}

/// `[^\n]+|[\n]+`
pub(super) fn lines(t: &str) -> Option<usize> {
    run(t, |c| c != '\n').or_else(|| run(t, |c| c == '\n'))
}
