//! Addresses, parsed strictly: what two parsers could read differently is refused.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::address::is_public;
use crate::Error;

/// An http(s) address without credentials and fragment.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Url {
    https: bool,
    /// In lower case; an IPv6 address in brackets.
    host: String,
    port: u16,
    /// Path and query, beginning with `/`.
    target: String,
    /// It came with `user:password@`, which is dropped.
    had_credentials: bool,
}

impl Url {
    /// Parses an absolute address.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let bad = |reason| Error::BadUrl { url: shown(text), reason };
        if text.len() > 8192 {
            return Err(bad("it is longer than 8192 bytes"));
        }
        // Browsers read a backslash as a slash, other parsers as part of the host (CVE-2026-24779).
        if text.bytes().any(|b| !b.is_ascii_graphic() || b == b'\\') {
            return Err(bad("it holds a backslash, a space, a control or a non-ASCII character"));
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| bad("it does not begin with https://"))?;
        let https = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(bad("only http and https are fetched")),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let (userinfo, host_port) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        if userinfo.is_some_and(|user| user.contains('@')) {
            return Err(bad("it holds more than one '@' before its path"));
        }
        let (host, port) = split_port(host_port).ok_or_else(|| bad("its port is not a number"))?;
        let host = host.to_ascii_lowercase();
        if !is_host(&host) {
            return Err(bad("its host is not a name or an address"));
        }
        let slash = if target.starts_with('/') { "" } else { "/" };
        let target = format!("{slash}{}", encode_excluded(target));
        let port = port.unwrap_or(if https { 443 } else { 80 });
        Ok(Url { https, host, port, target, had_credentials: userinfo.is_some() })
    }

    /// Where a `Location` header leads.
    pub(crate) fn join(&self, location: &str) -> Result<Self, Error> {
        let bad = |reason| Error::BadUrl { url: shown(location), reason };
        let scheme = if self.https { "https" } else { "http" };
        let joined = if location.starts_with("//") {
            Url::parse(&format!("{scheme}:{location}"))?
        } else if location.starts_with('/') {
            Url::parse(&format!("{scheme}://{}:{}{location}", self.host, self.port))?
        } else {
            Url::parse(location)?
        };
        if joined.had_credentials {
            return Err(bad("a redirect may not carry credentials"));
        }
        if self.https && !joined.https {
            return Err(bad("a redirect may not lead from https to http"));
        }
        Ok(joined)
    }

    /// Scheme, host and port are equal: credentials for one are credentials for the other.
    pub(crate) fn same_origin(&self, other: &Url) -> bool {
        (self.https, &self.host, self.port) == (other.https, &other.host, other.port)
    }

    /// The host, in lower case.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Whether the host, as written, is this machine or an address that is not public. Names are looked
    /// up later.
    pub(crate) fn is_written_private(&self) -> bool {
        let literal = self.host.trim_matches(['[', ']']).parse::<IpAddr>();
        let name = self.host.trim_end_matches('.');
        literal.is_ok_and(|ip| !is_public(ip)) || name == "localhost" || name.ends_with(".localhost")
    }

    /// The address to request, without credentials.
    pub(crate) fn to_request(&self) -> String {
        format!("{}{}", self.origin(), self.target)
    }

    /// Scheme, host and port.
    fn origin(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        let default = if self.https { 443 } else { 80 };
        if self.port == default {
            format!("{scheme}://{}", self.host)
        } else {
            format!("{scheme}://{}:{}", self.host, self.port)
        }
    }
}

/// Without credentials and query, which may hold signatures.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.target.split('?').next().unwrap_or_default();
        write!(f, "{}{path}", self.origin())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({self})")
    }
}

/// Percent-encodes the printable characters that RFC 3986 keeps out of addresses and servers still send.
fn encode_excluded(target: &str) -> String {
    let mut encoded = String::with_capacity(target.len());
    for c in target.chars() {
        match c {
            '"' | '<' | '>' | '^' | '`' | '{' | '|' | '}' => encoded.push_str(&format!("%{:02X}", c as u32)),
            _ => encoded.push(c),
        }
    }
    encoded
}

/// What may be shown of an address that did not parse: no credentials, no query, not much of it.
fn shown(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    let tail = text.rsplit_once('@').map_or(text, |(_, tail)| tail);
    tail.chars().take(200).collect()
}

/// Splits `host[:port]`; `None` if the port is malformed.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let after_host =
        if text.starts_with('[') { text.find(']')? + 1 } else { text.find(':').unwrap_or(text.len()) };
    let (host, port) = text.split_at(after_host);
    match port.strip_prefix(':') {
        None => port.is_empty().then_some((host, None)),
        // Digits only: `parse` would accept a sign.
        Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            Some((host, Some(digits.parse().ok()?)))
        }
        Some(_) => None,
    }
}

/// A DNS name, a dotted IPv4 address or a bracketed IPv6 one. Names whose last label is numeric are
/// refused unless they are dotted addresses: resolvers read `2130706433` and `0x7f.1` as loopback.
fn is_host(host: &str) -> bool {
    if let Some(inner) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        return inner.parse::<Ipv6Addr>().is_ok();
    }
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let mut labels = host.strip_suffix('.').unwrap_or(host).split('.');
    let well_formed = host.len() <= 253 && labels.clone().all(|l| !l.is_empty() && l.chars().all(ok));
    let last = labels.next_back().unwrap_or_default();
    let numeric = last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x");
    well_formed && (!numeric || host.parse::<Ipv4Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_addresses() {
        for (text, request) in [
            ("https://Example.com", "https://example.com/"),
            ("HTTPS://example.com:443/a?b#c", "https://example.com/a?b"),
            ("http://127.0.0.1:8080/x", "http://127.0.0.1:8080/x"),
            ("http://[::1]:80/x", "http://[::1]/x"),
            ("https://h?q=1", "https://h/?q=1"),
            ("https://h/a|b?<{\"}>", "https://h/a%7Cb?%3C%7B%22%7D%3E"),
            ("https://user:pa%40ss@h/x", "https://h/x"),
        ] {
            assert_eq!(Url::parse(text).unwrap().to_request(), request);
        }
        let with_password = Url::parse("https://user:secret@h/x?sig=abc").unwrap();
        assert_eq!(format!("{with_password} {with_password:?}"), "https://h/x Url(https://h/x)");
    }

    #[test]
    fn hostile_addresses() {
        for bad in [
            "file:///etc/passwd",
            "ftp://h/x",
            "gopher://h",
            "/etc/passwd",
            "h/x",
            "https:h",
            "https://",
            "https:///x",
            "https://h\\@evil/x",
            "https://h\\.evil",
            "https://a@b@c/",
            "https://h:99999/",
            "https://h:+80/",
            "https://h:/",
            "https://h /x",
            "https://h\n/x",
            "https://hé/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://127.1/",
            "https://0177.0.0.1.5/",
            "https://[::1/",
            "https://[x]/",
            "https://[::1]x/",
            "https://a..b/",
            "https://%31/",
            "https://.",
        ] {
            assert!(matches!(Url::parse(bad), Err(Error::BadUrl { .. })), "{bad}: {:?}", Url::parse(bad));
        }
        assert!(Url::parse(&format!("https://h/{}", "x".repeat(9000))).is_err());
    }

    #[test]
    fn redirects() {
        let base = Url::parse("https://hub.example:8443/a/b?c").unwrap();
        assert_eq!(base.join("/x?y").unwrap().to_request(), "https://hub.example:8443/x?y");
        assert_eq!(base.join("//cdn.example/x").unwrap().to_request(), "https://cdn.example/x");
        for bad in ["http://hub.example/x", "file:///etc/passwd", "https://u:p@cdn/x", "/\\evil", "x/y", ""] {
            assert!(base.join(bad).is_err(), "{bad}");
        }
        assert!(base.same_origin(&base.join("/x").unwrap()));
        for other in ["https://hub.example/", "http://hub.example:8443/", "https://hub.example.evil:8443/"] {
            assert!(!base.same_origin(&Url::parse(other).unwrap()), "{other}");
        }
    }

    #[test]
    fn hosts_written_as_private_addresses() {
        for private in ["127.0.0.1", "[::1]", "[::ffff:10.0.0.1]", "localhost", "LocalHost.", "a.localhost"] {
            assert!(Url::parse(&format!("https://{private}:8/x")).unwrap().is_written_private(), "{private}");
        }
        for public in ["1.1.1.1", "[2606:4700::1]", "localhost.example", "example"] {
            assert!(!Url::parse(&format!("https://{public}/x")).unwrap().is_written_private(), "{public}");
        }
    }

    #[test]
    fn errors_hide_credentials() {
        let message = Url::parse("https://user:secret@h:x/?sig=secret").unwrap_err().to_string();
        assert!(!message.contains("secret"), "{message}");
    }

    proptest::proptest! {
        #[test]
        fn whatever_parses_can_be_requested_and_parses_again(text in "(https?://)?[ -~é]{0,60}") {
            if let Ok(url) = Url::parse(&text) {
                let again = Url::parse(&url.to_request()).unwrap();
                assert_eq!(again.to_request(), url.to_request());
                assert!(url.to_request().parse::<ureq::http::Uri>().is_ok_and(|u| u.host() == Some(url.host())));
            }
        }
    }
}
