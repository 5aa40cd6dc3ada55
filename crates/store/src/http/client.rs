//! One GET at a time, redirects followed by our own rules.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use ureq::config::Config as AgentConfig;
use ureq::tls::{PemItem, RootCerts, TlsConfig};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Body, http::Response};

use super::Url;
use super::address::{Guard, PUBLIC_TO_PRIVATE, Refused, Seen};
use crate::config::Token;
use crate::{Error, Result};

/// Redirects followed for one request; the Hub and package indexes need two or three.
const MAX_REDIRECTS: usize = 8;
/// A server that sends nothing for this long is asked again.
const SILENCE: Duration = Duration::from_secs(60);

/// Credentials for the origin of the first address of a request, and for no other.
#[derive(Debug, Clone)]
pub(crate) enum Auth {
    Bearer(Token),
}

/// What to get.
#[derive(Debug, Clone)]
pub(crate) struct Request<'a> {
    pub(crate) url: &'a Url,
    pub(crate) auth: Option<&'a Auth>,
    /// First byte wanted; 0 for all.
    pub(crate) from: u64,
}

/// A successful answer (200 or 206), or 416 for a range past the end.
pub(crate) struct Reply {
    pub(crate) url: Url,
    response: Response<Body>,
}

/// The client: two agents that differ in the addresses they connect to.
#[derive(Debug)]
pub(crate) struct Client {
    /// For addresses the user configured, and redirects among private ones.
    open: Agent,
    /// For wherever a public server redirects us.
    guarded: Agent,
    seen: Seen,
}

impl Client {
    /// A client trusting the platform's root certificates, or those in `ca_file` (PEM).
    pub(crate) fn new(ca_file: Option<&Path>) -> Result<Self> {
        let roots = match ca_file {
            None => RootCerts::PlatformVerifier,
            Some(path) => read_roots(path)?,
        };
        let seen = Seen::default();
        let guards = [false, true].map(|public_only| Guard::new(seen.clone(), public_only));
        Ok(Client::with_guards(roots, seen, guards))
    }

    /// From the two resolvers: for configured addresses, and for redirects of public servers.
    pub(super) fn with_guards(roots: RootCerts, seen: Seen, [open, guarded]: [Guard; 2]) -> Self {
        let config = || {
            AgentConfig::builder()
                .http_status_as_error(false)
                .max_redirects(0)
                .max_redirects_will_error(false)
                .timeout_resolve(Some(SILENCE))
                .timeout_connect(Some(SILENCE))
                .timeout_recv_response(Some(SILENCE))
                .timeout_per_read(Some(SILENCE))
                .user_agent(concat!("quarrel/", env!("CARGO_PKG_VERSION")))
                .accept_encoding("identity")
                .tls_config(TlsConfig::builder().root_certs(roots.clone()).build())
                .build()
        };
        let agent = |guard| Agent::with_parts(config(), DefaultConnector::default(), guard);
        Client { open: agent(open), guarded: agent(guarded), seen }
    }

    /// Sends the request, following redirects.
    pub(crate) fn get(&self, request: &Request<'_>) -> Result<Reply> {
        let first = request.url;
        let mut url = first.clone();
        let mut agent = &self.open;
        for _ in 0..=MAX_REDIRECTS {
            let mut call = agent.get(url.to_request());
            if request.from > 0 {
                call = call.header("range", format!("bytes={}-", request.from));
            }
            if let Some(Auth::Bearer(token)) = request.auth.filter(|_| url.same_origin(first)) {
                call = call.header("authorization", format!("Bearer {}", token.as_str()));
            }
            let response = call.call().map_err(|error| transport_error(&url, error))?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Reply { url, response }.checked();
            }
            let location = response.headers().get("location").and_then(|l| l.to_str().ok());
            let location = location.ok_or_else(|| Error::BadReply {
                url: url.to_string(),
                reason: "a redirect without a readable Location".into(),
            })?;
            url = url.join(location)?;
            if self.seen.is_public(first.host()) {
                agent = &self.guarded;
                // The resolver refuses these too, but behind a proxy it is not asked.
                if url.is_written_private() {
                    return Err(Error::RefusedAddress {
                        host: first.host().into(),
                        address: url.host().into(),
                        reason: PUBLIC_TO_PRIVATE,
                    });
                }
            }
        }
        Err(Error::TooManyRedirects { url: first.to_string() })
    }

    /// The whole body of a small document, at most `limit` bytes.
    pub(crate) fn get_small(&self, request: &Request<'_>, limit: u64) -> Result<Vec<u8>> {
        let mut reply = self.get(request)?;
        let mut bytes = Vec::new();
        let read = reply.body().take(limit + 1).read_to_end(&mut bytes);
        read.map_err(|error| transport_error(&reply.url, error.into()))?;
        if bytes.len() as u64 > limit {
            let reason = format!("longer than {limit} bytes");
            return Err(Error::BadReply { url: reply.url.to_string(), reason });
        }
        Ok(bytes)
    }
}

impl Reply {
    /// Turns statuses that mean failure into errors.
    fn checked(self) -> Result<Self> {
        let url = self.url.to_string();
        match self.status() {
            200 | 206 | 416 => Ok(self),
            status @ (401 | 403 | 407) => Err(Error::Denied { url, status }),
            404 | 410 => Err(Error::NotFound { url }),
            429 | 503 => {
                let seconds = self.header("retry-after").and_then(|s| s.trim().parse().ok());
                Err(Error::RateLimited { url, retry_after: seconds.map(Duration::from_secs) })
            }
            status => Err(Error::Server { url, status }),
        }
    }

    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// A header's value, if it is there and readable.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The body, not limited in length.
    pub(crate) fn body(&mut self) -> impl Read + use<'_> {
        self.response.body_mut().as_reader()
    }
}

/// Sorts the HTTP client's errors into ours.
pub(super) fn transport_error(url: &Url, error: ureq::Error) -> Error {
    if let ureq::Error::Io(io) = &error
        && let Some(Refused { address, reason }) = io.get_ref().and_then(|e| e.downcast_ref())
    {
        return Error::RefusedAddress { host: url.host().into(), address: address.to_string(), reason };
    }
    let reason = error.to_string();
    let url = url.to_string();
    match error {
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::Pem(_) => Error::Tls { url, reason },
        // Handshake failures reach us wrapped in an I/O error.
        ureq::Error::Io(io)
            if io.kind() == std::io::ErrorKind::InvalidData && reason.contains("certificate") =>
        {
            Error::Tls { url, reason }
        }
        _ => Error::Network { url, reason },
    }
}

/// The certificates of a PEM file.
fn read_roots(path: &Path) -> Result<RootCerts> {
    let pem = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let bad = |reason: String| Error::Path { path: path.to_owned(), reason };
    let mut certificates = Vec::new();
    for item in ureq::tls::parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|e| bad(e.to_string()))? {
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() {
        return Err(bad("it holds no PEM certificates".into()));
    }
    Ok(RootCerts::from(certificates))
}

// Elsewhere than on Linux only 127.0.0.1 of the loopback network exists.
#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::Write;
    use std::net::{IpAddr, SocketAddr, TcpListener};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use ureq::config::Config;
    use ureq::http::Uri;
    use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
    use ureq::unversioned::transport::NextTimeout;

    use super::*;

    /// A name server on which every name has these addresses, one after the other.
    #[derive(Debug)]
    struct Names(&'static [SocketAddr], AtomicUsize);

    impl Resolver for Names {
        fn resolve(
            &self,
            uri: &Uri,
            _: &Config,
            _: NextTimeout,
        ) -> std::result::Result<ResolvedSocketAddrs, ureq::Error> {
            let mut found = self.empty();
            match uri.host().and_then(|host| host.parse().ok()) {
                Some(ip) => found.push(SocketAddr::new(ip, uri.port_u16().unwrap_or(80))),
                None => found.push(self.0[self.1.fetch_add(1, Ordering::SeqCst) % self.0.len()]),
            }
            Ok(found)
        }
    }

    /// On these tests' internet 127.0.0.2 is a public address; the rest of loopback is what it is.
    fn plays_public(ip: IpAddr) -> bool {
        ip == IpAddr::from([127, 0, 0, 2])
    }

    fn client(names: &'static [SocketAddr]) -> Client {
        let seen = Seen::default();
        let guard = |public_only| {
            Guard::new(seen.clone(), public_only).with(Names(names, AtomicUsize::new(0)), plays_public)
        };
        Client::with_guards(RootCerts::PlatformVerifier, seen.clone(), [guard(false), guard(true)])
    }

    /// A server that gives every request the same answer; returns its port.
    fn server(address: [u8; 4], answer: String) -> SocketAddr {
        let listener = TcpListener::bind(SocketAddr::from((address, 0))).unwrap();
        let at = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut request = [0; 4096];
                let n = stream.read(&mut request).unwrap();
                assert!(request[..n].ends_with(b"\r\n\r\n"), "a GET of these tests comes in one piece");
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        at
    }

    fn get(client: &Client, url: &str) -> Result<Vec<u8>> {
        let url = Url::parse(url)?;
        client.get_small(&Request { url: &url, auth: None, from: 0 }, 100)
    }

    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";

    fn redirect(to: &str) -> String {
        format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    }

    #[test]
    fn a_public_server_cannot_send_us_to_loopback() {
        let private = server([127, 0, 0, 1], OK.into());
        let public = server([127, 0, 0, 2], redirect(&format!("http://{private}/")));
        let result = get(&client(&[]), &format!("http://{public}/"));
        assert!(matches!(result, Err(Error::RefusedAddress { .. })), "{result:?}");
        // Nor by a name that has a private address.
        let names: &[SocketAddr] = vec![private].leak();
        let public = server([127, 0, 0, 2], redirect("http://innocent.example/"));
        let result = get(&client(names), &format!("http://{public}/"));
        assert!(matches!(result, Err(Error::RefusedAddress { .. })), "{result:?}");
    }

    #[test]
    fn private_servers_may_redirect_among_themselves_and_to_public_ones() {
        let private = server([127, 0, 0, 1], OK.into());
        let public = server([127, 0, 0, 2], OK.into());
        for to in [private, public] {
            let from = server([127, 0, 0, 1], redirect(&format!("http://{to}/")));
            assert_eq!(get(&client(&[]), &format!("http://{from}/")).unwrap(), b"ok");
        }
    }

    #[test]
    fn a_name_that_turns_private_is_refused() {
        // DNS rebinding: the same name, a public address first, loopback the second time.
        let public = server([127, 0, 0, 2], OK.into());
        let private = server([127, 0, 0, 1], OK.into());
        let client = client(vec![public, private].leak());
        assert_eq!(get(&client, "http://hub.example/").unwrap(), b"ok");
        let result = get(&client, "http://hub.example/");
        assert!(matches!(result, Err(Error::RefusedAddress { .. })), "{result:?}");
    }

    #[test]
    fn a_server_that_speaks_no_tls_is_not_spoken_to_in_plain_text() {
        let plain = server([127, 0, 0, 1], OK.into());
        assert!(get(&client(&[]), &format!("https://{plain}/")).is_err());
        let missing = Client::new(Some(Path::new("/nonexistent.pem")));
        assert!(matches!(missing, Err(Error::Io { .. })), "{missing:?}");
    }
}
