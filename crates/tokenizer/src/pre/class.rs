//! Character classes of the pre-tokenizers' patterns, by Unicode category.

use unicode_general_category::{GeneralCategory as G, get_general_category};

/// `\p{L}`
pub(super) fn letter(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphabetic();
    }
    upper_or_caseless(c) && !mark(c) || get_general_category(c) == G::LowercaseLetter
}

/// `\p{N}`
pub(super) fn number(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_digit();
    }
    matches!(get_general_category(c), G::DecimalNumber | G::LetterNumber | G::OtherNumber)
}

/// `\p{M}`
pub(super) fn mark(c: char) -> bool {
    !c.is_ascii() && matches!(get_general_category(c), G::NonspacingMark | G::SpacingMark | G::EnclosingMark)
}

/// `\p{P}`
pub(super) fn punctuation(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_punctuation() && !symbol(c);
    }
    matches!(
        get_general_category(c),
        G::ConnectorPunctuation
            | G::DashPunctuation
            | G::OpenPunctuation
            | G::ClosePunctuation
            | G::InitialPunctuation
            | G::FinalPunctuation
            | G::OtherPunctuation
    )
}

/// `\p{S}`
pub(super) fn symbol(c: char) -> bool {
    if c.is_ascii() {
        return matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '`' | '|' | '~');
    }
    matches!(get_general_category(c), G::MathSymbol | G::CurrencySymbol | G::ModifierSymbol | G::OtherSymbol)
}

/// `\s`: Unicode White_Space.
pub(super) fn space(c: char) -> bool {
    c.is_whitespace()
}

/// `[\r\n]`
pub(super) fn newline(c: char) -> bool {
    c == '\r' || c == '\n'
}

/// `[\p{L}\p{M}]`
pub(super) fn letter_or_mark(c: char) -> bool {
    letter(c) || mark(c)
}

/// `[^\s\p{L}\p{N}]`
pub(super) fn other(c: char) -> bool {
    !space(c) && !letter(c) && !number(c)
}

/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
pub(super) fn upper_or_caseless(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_uppercase();
    }
    matches!(get_general_category(c), G::UppercaseLetter | G::TitlecaseLetter) || caseless(c)
}

/// `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
pub(super) fn lower_or_caseless(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_lowercase();
    }
    get_general_category(c) == G::LowercaseLetter || caseless(c)
}

fn caseless(c: char) -> bool {
    matches!(
        get_general_category(c),
        G::ModifierLetter | G::OtherLetter | G::NonspacingMark | G::SpacingMark | G::EnclosingMark
    )
}

/// `\p{Han}`, as its blocks.
pub(super) fn han(c: char) -> bool {
    matches!(c, '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}'
        | '\u{20000}'..='\u{2EBEF}' | '\u{2F800}'..='\u{2FA1F}' | '\u{30000}'..='\u{323AF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ASCII shortcuts must say what the categories say.
    #[test]
    fn ascii_agrees_with_the_categories() {
        for c in (0..128u8).map(char::from) {
            let g = get_general_category(c);
            assert_eq!(letter(c), matches!(g, G::UppercaseLetter | G::LowercaseLetter), "{c:?}");
            assert_eq!(number(c), g == G::DecimalNumber, "{c:?}");
            let s = matches!(g, G::MathSymbol | G::CurrencySymbol | G::ModifierSymbol | G::OtherSymbol);
            assert_eq!(symbol(c), s, "{c:?}");
            assert_eq!(punctuation(c), c.is_ascii_punctuation() && !s, "{c:?}");
        }
    }

    #[test]
    fn letters_of_every_case() {
        for c in ['é', 'É', 'ǅ', 'ʰ', '中', 'ا'] {
            assert!(letter(c) && !mark(c) && !number(c), "{c}");
        }
        assert!(mark('\u{301}') && !letter('\u{301}') && letter_or_mark('\u{301}'));
        assert!(number('½') && number('Ⅷ') && number('๓'));
        assert!(space('\u{A0}') && space('\u{3000}') && !space('\u{200B}'));
    }
}
