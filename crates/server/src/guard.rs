//! Which browsers' pages may ask: Host and Origin are checked, so that a page
//! of another site can neither post here nor, by pointing its own name at this
//! address (DNS rebinding, CVE-2024-28224), read what comes back.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header, uri::Authority};
use axum::middleware::Next;
use axum::response::Response;

use crate::error::{ApiError, Result};
use crate::state::Server;

/// Which names and origins are ours.
#[derive(Debug)]
pub struct Guard {
    hosts: Vec<String>,
    origins: Vec<String>,
    check_host: bool,
}

impl Guard {
    /// `check_host` is false only where a key is asked for and the server
    /// cannot know by which names it is reached.
    pub fn new(hosts: &[String], origins: &[String], check_host: bool) -> Self {
        let lower = |names: &[String]| {
            names.iter().map(|name| name.trim_end_matches('/').to_ascii_lowercase()).collect()
        };
        Self { hosts: lower(hosts), origins: lower(origins), check_host }
    }

    /// Refuses a request that came by a name that is not ours, or from a page that is not ours.
    fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<()> {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        // In absolute form the target decides, and Host must be ignored (RFC 9112, 3.2.2).
        let host = uri.authority().map(Authority::as_str).or(host).unwrap_or_default();
        let Ok(authority) = host.parse::<Authority>() else {
            return Err(ApiError::bad_request("the Host header is missing or malformed"));
        };
        if self.check_host && !self.is_own_host(authority.host()) {
            let message = "this Host is not served here; start the server with --allow-host NAME to serve it";
            return Err(ApiError::new(StatusCode::FORBIDDEN, message));
        }
        let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
        let origin = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        let same = origin.split_once("://").is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(host));
        if same || self.origins.contains(&origin) {
            return Ok(());
        }
        let message =
            "pages of this Origin may not ask; start the server with --allow-origin ORIGIN to let them";
        Err(ApiError::new(StatusCode::FORBIDDEN, message))
    }

    /// Plain addresses are safe: a page that was rebound has a name.
    fn is_own_host(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || address.parse::<IpAddr>().is_ok() || self.hosts.contains(&host)
    }
}

/// Lets those pass whose Host and Origin are ours.
pub async fn check_source(
    State(server): State<Arc<Server>>,
    request: Request,
    next: Next,
) -> Result<Response> {
    server.guard.check(request.uri(), request.headers())?;
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(guard: &Guard, host: &str, origin: Option<&str>) -> Option<u16> {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().expect("a header"));
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().expect("a header"));
        }
        guard.check(&Uri::from_static("/v1/models"), &headers).err().map(|error| error.status.as_u16())
    }

    #[test]
    fn foreign_names_and_pages_are_refused() {
        let guard = Guard::new(&["llm.example".into()], &["https://chat.example/".into()], true);
        for host in ["localhost:8080", "LOCALHOST", "127.0.0.1:8080", "[::1]:8080", "llm.example", "10.0.0.7"]
        {
            assert_eq!(status(&guard, host, None), None, "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8080"] {
            assert_eq!(status(&guard, host, None), Some(403), "{host}");
        }
        assert_eq!(status(&guard, "", None), Some(400));
        let origin = |origin| status(&guard, "localhost:8080", Some(origin));
        assert_eq!(origin("http://localhost:8080"), None);
        assert_eq!(origin("https://chat.example"), None);
        assert_eq!(origin("http://localhost:9999"), Some(403));
        assert_eq!(origin("http://evil.example"), Some(403));
        assert_eq!(origin("null"), Some(403));
    }

    #[test]
    fn with_keys_any_name_may_be_ours_but_pages_may_not() {
        let guard = Guard::new(&[], &[], false);
        assert_eq!(status(&guard, "anything.example", None), None);
        assert_eq!(status(&guard, "anything.example", Some("http://anything.example")), None);
        assert_eq!(status(&guard, "anything.example", Some("http://evil.example")), Some(403));
    }
}
