//! API keys: who asks, compared in constant time.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::error::{ApiError, Result};
use crate::state::Server;

/// Paths that need no key: is it alive, and the page that asks for the key.
const PUBLIC: [&str; 4] = ["/", "/health", "/health/live", "/health/ready"];

/// The API keys. Only their hashes are kept, so that all comparisons are of
/// equal length and no dump of memory shows a key for long.
#[derive(Default)]
pub struct Keys {
    keys: Vec<Key>,
}

struct Key {
    name: Arc<str>,
    hash: [u8; 32],
}

/// Why a list of keys was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// A key that could be guessed or mistyped.
    #[error(
        "API key {line} is weak: a key has at least {SHORTEST} visible ASCII characters, {FEWEST_KINDS} of them \
         different, and with fewer than {LONG} not letters or digits alone; `openssl rand -hex 16` makes a good one"
    )]
    Weak {
        /// Its line in the list, from 1.
        line: usize,
    },
    /// A list that was given and lets nobody in.
    #[error("there is no API key in it")]
    Empty,
}

/// Fewest characters of a key.
const SHORTEST: usize = 8;
/// From so many characters on they may all be letters, or all digits.
const LONG: usize = 16;
/// Fewest different characters of a key.
const FEWEST_KINDS: usize = 5;

impl Keys {
    /// Reads a list: a key a line, or `NAME=KEY`; empty lines and lines that
    /// begin with `#` do not count. Keys without a name are `key1`, `key2`, … by line.
    ///
    /// # Errors
    /// [`KeysError`].
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let mut keys = Vec::new();
        for (i, line) in text.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, key) = match line.split_once('=') {
                // Base64 may end in `=`, which names nothing.
                Some((name, key)) if !key.trim_matches('=').is_empty() => (name.trim().into(), key.trim()),
                _ => (format!("key{}", i + 1).into(), line),
            };
            if !is_strong(key) {
                return Err(KeysError::Weak { line: i + 1 });
            }
            keys.push(Key { name, hash: Sha256::digest(key).into() });
        }
        if keys.is_empty() { Err(KeysError::Empty) } else { Ok(Self { keys }) }
    }

    /// Both lists.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.keys.extend(other.keys);
        self
    }

    /// Whether nobody needs a key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whose key this is. Every key is looked at, whichever fits.
    fn find(&self, given: &str) -> Option<Caller> {
        let given: [u8; 32] = Sha256::digest(given).into();
        let (mut found, mut index) = (Choice::from(0), 0u64);
        for (i, key) in self.keys.iter().enumerate() {
            let equal = key.hash.ct_eq(&given);
            index.conditional_assign(&(i as u64), equal);
            found |= equal;
        }
        bool::from(found).then(|| self.keys[index as usize].caller())
    }
}

/// Refuses what is short, cannot be typed, repeats itself, or is what people try first (`password`, `12345678`).
fn is_strong(key: &str) -> bool {
    let kinds = key.bytes().collect::<std::collections::BTreeSet<_>>().len();
    let alike = key.bytes().all(|b| b.is_ascii_alphabetic()) || key.bytes().all(|b| b.is_ascii_digit());
    (key.len() >= LONG || !alike)
        && key.len() >= SHORTEST
        && kinds >= FEWEST_KINDS
        && key.bytes().all(|b| b.is_ascii_graphic())
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| &key.name)).finish()
    }
}

impl Key {
    fn caller(&self) -> Caller {
        let salt = self.hash[..8].try_into().map_or(1, u64::from_le_bytes);
        Caller { name: Some(self.name.clone()), salt: salt.max(1) }
    }
}

/// Who asks.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// The key's name; `None` when no keys are in use.
    pub name: Option<Arc<str>>,
    /// Prompts are found again in the cache only under the same salt, so that
    /// how fast an answer comes tells nothing of what others asked.
    pub salt: u64,
}

/// Lets those pass who have a key, and notes who they are.
pub async fn require_key(
    State(server): State<Arc<Server>>,
    mut request: Request,
    next: Next,
) -> Result<Response> {
    let keys = &server.config.keys;
    let caller = if keys.is_empty() {
        Caller::default()
    } else {
        match key_of(request.headers()).and_then(|key| keys.find(key)) {
            Some(caller) => caller,
            None if is_public(request.uri().path()) => Caller::default(),
            None => return Err(no_key()),
        }
    };
    if let Some(name) = &caller.name {
        tracing::Span::current().record("key", &**name);
    }
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// The page and its parts hold no secrets; what they ask for needs the key.
fn is_public(path: &str) -> bool {
    PUBLIC.contains(&path) || path.starts_with("/assets/")
}

fn no_key() -> ApiError {
    let message = "an API key is needed: `Authorization: Bearer KEY` or `x-api-key: KEY`";
    ApiError { code: Some("invalid_api_key"), ..ApiError::new(StatusCode::UNAUTHORIZED, message) }
}

/// The key as OpenAI's clients send it, or as Anthropic's do.
fn key_of(headers: &HeaderMap) -> Option<&str> {
    if let Some(key) = headers.get("x-api-key") {
        return key.to_str().ok();
    }
    let (scheme, key) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_key_and_its_name() {
        let keys = Keys::parse("# ours\nalice=correct-horse\n\nbattery-staple==\n").expect("two keys");
        let name = |key| keys.find(key).and_then(|caller| caller.name).map(|name| name.to_string());
        assert_eq!(name("correct-horse").as_deref(), Some("alice"));
        assert_eq!(name("battery-staple==").as_deref(), Some("key4"));
        assert_eq!(name("correct-hors"), None);
        assert_eq!(name(""), None);
        let salts: Vec<_> = keys.keys.iter().map(|key| key.caller().salt).collect();
        assert_ne!(salts[0], salts[1]);
    }

    #[test]
    fn weak_keys_are_refused() {
        assert_eq!(Keys::parse("long-enough-key\nshort").err(), Some(KeysError::Weak { line: 2 }));
        assert_eq!(Keys::parse("a=with spaces in it").err(), Some(KeysError::Weak { line: 1 }));
        assert_eq!(Keys::parse("aaaaaaaabbbbbbbb").err(), Some(KeysError::Weak { line: 1 }));
        for weak in ["password", "12345678", "changeme"] {
            assert_eq!(Keys::parse(weak).err(), Some(KeysError::Weak { line: 1 }), "{weak}");
        }
        assert!(Keys::parse("0123456789abcdef").is_ok());
        for empty in ["", "\n \n", "# none yet\n"] {
            assert_eq!(Keys::parse(empty).err(), Some(KeysError::Empty));
        }
    }
}
