//! Which machines a name may lead to: the check sits where names become addresses, so that no redirect
//! and no second, different DNS answer (rebinding) slips past it.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// Whether an address is reachable from anywhere (as opposed to loopback, private, link-local and other
/// special ranges of the IANA registries).
pub(crate) fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => {
            let s = ip.segments();
            let embedded =
                |high: u16, low: u16| is_public_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
            match s {
                [0, 0, 0, 0, 0, 0xffff, high, low] => embedded(high, low), // IPv4-mapped
                [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low), // NAT64
                [0x2002, high, low, ..] => embedded(high, low),            // 6to4
                [0x2001, 0x0db8, ..] => false,                             // documentation
                // Of what is left, 2000::/3 is the only block assigned as global unicast.
                [first, ..] => first & 0xe000 == 0x2000,
            }
        }
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let special = match ip.octets() {
        [0 | 10 | 127, ..] | [169, 254, ..] | [192, 168, ..] | [192, 0, 0 | 2, _] => true,
        [100, second, ..] => (64..128).contains(&second), // carriers' NAT
        [172, second, ..] => (16..32).contains(&second),
        [198, 18 | 19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => true,
        [first, ..] => first >= 224, // multicast, reserved, broadcast
    };
    !special
}

/// Why a redirect was refused.
pub(super) const PUBLIC_TO_PRIVATE: &str = "a public server may not send us to a private address";

/// What hosts have resolved to so far; shared by the client's agents.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<HashMap<String, bool>>>);

impl Seen {
    /// Whether `host` was public when first connected to. Unknown (behind a proxy) counts as public.
    pub(crate) fn is_public(&self, host: &str) -> bool {
        *self.lock().get(host).unwrap_or(&true)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, bool>> {
        // The map is valid after any panic: every change is one insert.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A resolver that refuses non-public addresses where it must.
pub(crate) struct Guard {
    inner: Box<dyn Resolver>,
    is_public: fn(IpAddr) -> bool,
    seen: Seen,
    public_only: bool,
}

impl Guard {
    /// With `public_only` false, a host may be private, but one that was public may not become so.
    pub(crate) fn new(seen: Seen, public_only: bool) -> Self {
        Guard { inner: Box::new(DefaultResolver::default()), is_public, seen, public_only }
    }

    /// The same with another idea of what is public, so that tests can play it on loopback.
    #[cfg(all(test, target_os = "linux"))]
    pub(crate) fn with(mut self, inner: impl Resolver, is_public: fn(IpAddr) -> bool) -> Self {
        self.inner = Box::new(inner);
        self.is_public = is_public;
        self
    }
}

/// Carried inside [`ureq::Error`] from the resolver to the client, which makes it a typed error.
#[derive(Debug, thiserror::Error)]
#[error("{address}: {reason}")]
pub(crate) struct Refused {
    pub(crate) address: IpAddr,
    pub(crate) reason: &'static str,
}

impl Resolver for Guard {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let addresses = self.inner.resolve(uri, config, timeout)?;
        if config.proxy().is_some_and(|proxy| proxy.uri().authority() == uri.authority()) {
            return Ok(addresses); // the user's own proxy may well be on loopback
        }
        let private = addresses.iter().map(|a| a.ip()).find(|ip| !(self.is_public)(*ip));
        let host = uri.host().unwrap_or_default().to_ascii_lowercase();
        let was_public = *self.seen.lock().entry(host).or_insert(private.is_none());
        let Some(address) = private else { return Ok(addresses) };
        let reason = match (self.public_only, was_public) {
            (true, _) => PUBLIC_TO_PRIVATE,
            (false, true) => "it was a public address before (DNS rebinding)",
            (false, false) => return Ok(addresses),
        };
        Err(io::Error::other(Refused { address, reason }).into())
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("public_only", &self.public_only).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_ranges_are_not_public() {
        for ip in [
            "127.0.0.1",
            "127.255.0.9",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.0.1",
            "192.0.2.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "::127.0.0.1",
        ] {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "1.1.1.1",
            "172.32.0.1",
            "100.128.0.1",
            "198.20.0.1",
            "192.0.1.1",
            "2606:4700::1",
            "::ffff:1.1.1.1",
        ] {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
    }
}
