//! Rules over a Rust file's tokens, so that strings and comments never count
//! and the insides of macros do.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

use super::{Finding, RustSource, Source};

/// Checks one file.
pub fn check(rust: &RustSource<'_>) -> Vec<Finding> {
    let source = rust.source;
    let mut rules = Rules {
        source,
        lines: source.text.lines().collect(),
        may_read_environment: may_read_environment(&source.path),
        in_trait_impl: false,
        findings: Vec::new(),
    };
    if !source.text.lines().any(|line| line.starts_with("//!")) {
        rules.findings.push(source.finding(1, "a module begins with `//!`: say what it is for"));
    }
    rules.stream(rust.tokens.clone());
    rules.findings
}

/// The command line, chores, build scripts and tests.
fn may_read_environment(path: &str) -> bool {
    path.starts_with("crates/cli/")
        || path.starts_with("crates/xtask/")
        || path.ends_with("/build.rs")
        || ["/tests/", "/benches/", "/examples/"].iter().any(|folder| path.contains(folder))
        || path.ends_with("/tests.rs")
}

/// All unsafe code is here, but for the emulator that tests alone use.
fn may_be_unsafe(path: &str) -> bool {
    path.starts_with("crates/backend/")
        || path == "crates/gguf/src/bytes.rs"
        || path == "crates/metal-emulator/src/runtime.rs"
}

struct Rules<'a> {
    source: &'a Source,
    lines: Vec<&'a str>,
    may_read_environment: bool,
    /// Inside of `impl Trait for Type`, where the trait says what is unsafe.
    in_trait_impl: bool,
    findings: Vec<Finding>,
}

impl Rules<'_> {
    fn find(&mut self, token: &TokenTree, message: impl Into<String>) {
        self.findings.push(self.source.finding(token.span().start().line, message));
    }

    fn stream(&mut self, stream: TokenStream) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        let mut tests_follow = false;
        for (i, token) in tokens.iter().enumerate() {
            let rest = &tokens[i + 1..];
            match token {
                TokenTree::Ident(ident) => self.ident(token, &ident.to_string(), rest),
                TokenTree::Punct(punct) if punct.as_char() == '#' => {
                    let Some(attribute) = attribute(rest) else { continue };
                    tests_follow |= attribute.stream().to_string().starts_with("cfg (test)")
                        || attribute.stream().to_string().starts_with("cfg(test)");
                    self.attribute(token, attribute);
                }
                TokenTree::Group(group) => {
                    let before = (self.may_read_environment, self.in_trait_impl);
                    self.may_read_environment |= tests_follow;
                    self.in_trait_impl =
                        group.delimiter() == Delimiter::Brace && implements_trait(&tokens[..i]);
                    self.stream(group.stream());
                    (self.may_read_environment, self.in_trait_impl) = before;
                    // The item that an attribute belongs to ends with its body.
                    tests_follow &= group.delimiter() != Delimiter::Brace;
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
    }

    fn ident(&mut self, token: &TokenTree, ident: &str, rest: &[TokenTree]) {
        match ident {
            "todo" | "unimplemented" | "dbg" if is_punct(rest.first(), '!') => {
                self.find(token, format!("`{ident}!` does not belong in finished code"));
            }
            "env" if !self.may_read_environment => {
                if let [TokenTree::Punct(a), TokenTree::Punct(b), TokenTree::Ident(name), ..] = rest
                    && (a.as_char(), b.as_char()) == (':', ':')
                    && ["var", "var_os", "vars", "vars_os", "args", "args_os", "set_var", "remove_var"]
                        .contains(&name.to_string().as_str())
                {
                    self.find(
                        token,
                        format!("`env::{name}`: only `cli` reads the environment; take a parameter"),
                    );
                }
            }
            "unsafe" => self.unsafe_code(token, rest),
            _ => {}
        }
    }

    fn unsafe_code(&mut self, token: &TokenTree, rest: &[TokenTree]) {
        // `unsafe fn(…)` and `unsafe extern "C" fn(…)` without a name are types.
        let function = rest.iter().take(3).position(|t| is_ident(t, "fn"));
        let declares = function.is_some_and(|i| matches!(rest.get(i + 1), Some(TokenTree::Ident(_))));
        if function.is_some() && !declares {
            return;
        }
        if !may_be_unsafe(&self.source.path) {
            self.find(token, "`unsafe` belongs in crates/backend, or in crates/gguf/src/bytes.rs");
            return;
        }
        if declares && self.in_trait_impl {
            return;
        }
        let declares = declares || rest.first().is_some_and(|t| is_ident(t, "trait"));
        let line = token.span().start().line;
        if !self.has_reason(line, declares) {
            let wanted = if declares { "`# Safety` section" } else { "`// SAFETY:` reason" };
            self.find(token, format!("`unsafe` without a {wanted} in the lines above"));
        }
    }

    /// Whether the statement that holds `line`, or the comment and attributes
    /// above it, gives the reason.
    fn has_reason(&self, line: usize, declares: bool) -> bool {
        let gives = |text: &&str| text.contains("SAFETY:") || declares && text.contains("# Safety");
        let above = self.lines[..line].iter().rev();
        let mut statement_ended = false;
        for (i, text) in above.enumerate() {
            let text = text.trim();
            if gives(&text) {
                return true;
            }
            let is_comment = text.starts_with("//") || text.starts_with("#[");
            // Up to six lines of the same statement, then comments only.
            if !is_comment && i > 0 {
                statement_ended |= i > 6 || text.is_empty() || text.ends_with([';', '}']);
            }
            if statement_ended && !is_comment {
                return false;
            }
        }
        false
    }

    fn attribute(&mut self, token: &TokenTree, attribute: &Group) {
        let tokens: Vec<TokenTree> = attribute.stream().into_iter().collect();
        for pair in tokens.windows(2) {
            let [name, TokenTree::Group(arguments)] = pair else { continue };
            let lowers = is_ident(name, "allow") || is_ident(name, "expect");
            let has_reason = arguments.stream().into_iter().any(|t| is_ident(&t, "reason"));
            if lowers && !has_reason {
                self.find(token, format!("`{name}` without `reason = \"…\"`"));
            }
            if is_ident(name, "cfg_attr") {
                self.attribute(token, arguments);
            }
        }
    }
}

/// Whether the tokens before a body end in `impl Trait for Type`.
fn implements_trait(before: &[TokenTree]) -> bool {
    let ends_item = |token: &TokenTree| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        token => is_punct(Some(token), ';'),
    };
    let item = before.iter().rev().take_while(|token| !ends_item(token));
    let found: Vec<_> = item.filter(|t| is_ident(t, "impl") || is_ident(t, "for")).collect();
    found.iter().any(|t| is_ident(t, "impl")) && found.iter().any(|t| is_ident(t, "for"))
}

/// The brackets after `#` or `#!`.
fn attribute(rest: &[TokenTree]) -> Option<&Group> {
    let rest = if is_punct(rest.first(), '!') { &rest[1..] } else { rest };
    match rest.first() {
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Bracket => Some(group),
        _ => None,
    }
}

fn is_punct(token: Option<&TokenTree>, c: char) -> bool {
    matches!(token, Some(TokenTree::Punct(p)) if p.as_char() == c)
}

fn is_ident(token: &TokenTree, name: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident == name)
}

#[cfg(test)]
mod tests {
    use crate::tidy::tests::planted;

    const NONE: [String; 0] = [];

    fn body(code: &str) -> String {
        format!("//! A module.\n\nfn f() {{\n{code}\n}}\n")
    }

    #[test]
    fn missing_module_docs() {
        assert!(planted("crates/gguf/src/a.rs", "fn f() {}\n")[0].starts_with("1: a module begins with"));
    }

    #[test]
    fn unfinished_code() {
        for name in ["todo", "unimplemented", "dbg"] {
            let found = planted("crates/gguf/src/a.rs", &body(&format!("    {name}!();")));
            assert!(found[0].starts_with(&format!("4: `{name}!`")), "{found:?}");
            let quoted = body(&format!("    let _ = \"{name}!()\"; // {name}!()"));
            assert_eq!(planted("crates/gguf/src/a.rs", &quoted), NONE);
        }
    }

    #[test]
    fn environment() {
        let code = body("    std::env::var(\"HOME\");");
        assert_eq!(planted("crates/gguf/src/a.rs", &code).len(), 1);
        for path in ["crates/cli/src/a.rs", "crates/gguf/tests/a.rs", "crates/backend/build.rs"] {
            assert_eq!(planted(path, &code), NONE);
        }
        let in_tests = format!("//! A module.\n#[cfg(test)]\nmod tests {{\n{code}}}\n");
        let in_tests = in_tests.replace("{\n//! A module.\n", "{\n");
        assert_eq!(planted("crates/gguf/src/a.rs", &in_tests), NONE);
        let after_tests = format!("{in_tests}fn g() {{ std::env::vars_os(); }}\n");
        assert_eq!(planted("crates/gguf/src/a.rs", &after_tests).len(), 1);
    }

    #[test]
    fn unsafe_code() {
        let bare = body("    unsafe { g() }");
        assert!(planted("crates/model/src/a.rs", &bare)[0].contains("belongs in crates/backend"));
        assert!(planted("crates/backend/src/a.rs", &bare)[0].contains("without a `// SAFETY:`"));
        for reasoned in [
            "    // SAFETY: g has no conditions.\n    unsafe { g() }",
            "    // SAFETY: g has no conditions,\n    // none at all.\n    let x =\n        unsafe { g() };",
        ] {
            assert_eq!(planted("crates/backend/src/a.rs", &body(reasoned)), NONE);
        }
        let far = body("    // SAFETY: another.\n    unsafe { g() };\n    h();\n    unsafe { g() }");
        assert_eq!(planted("crates/backend/src/a.rs", &far).len(), 1);
        let in_macro = "//! A module.\nmacro_rules! m { () => { unsafe { g() } } }\n";
        assert_eq!(planted("crates/backend/src/a.rs", in_macro).len(), 1);
        let declared = "//! A module.\n\n/// # Safety\n/// None.\n#[inline]\npub unsafe fn g() {}\n\ntype F = unsafe fn(i32);\n";
        assert_eq!(planted("crates/backend/src/a.rs", declared), NONE);
        let declared = "//! A module.\n\n/// # Safety\n/// None.\npub unsafe trait T {}\n";
        assert_eq!(planted("crates/backend/src/a.rs", declared), NONE);
        let implemented =
            "//! A module.\n// SAFETY: none.\nunsafe impl T for u8 {\n    unsafe fn g() {}\n}\n";
        assert_eq!(planted("crates/backend/src/a.rs", implemented), NONE);
        for bare in ["impl u8 { unsafe fn g() {} }", "pub unsafe fn g() {}", "unsafe impl T for u8 {}"] {
            assert_eq!(planted("crates/backend/src/a.rs", &format!("//! A module.\n{bare}\n")).len(), 1);
        }
    }

    #[test]
    fn lowered_lints() {
        let cases = [
            ("#[allow(dead_code)]", 1),
            ("#[allow(dead_code, reason = \"a test\")]", 0),
            ("#[cfg_attr(test, allow(dead_code))]", 1),
            ("#[derive(Debug)]", 0),
        ];
        for (attribute, count) in cases {
            let text = format!("//! A module.\n\n{attribute}\nstruct S;\n");
            assert_eq!(planted("crates/gguf/src/a.rs", &text).len(), count, "{attribute}");
        }
    }
}
