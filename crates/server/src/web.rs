//! The chat page, embedded in the binary.

use axum::extract::Path;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::error::{ApiError, Result};

/// What the page may load and do: its own files and this server, nothing else.
const POLICY: &str = include_str!("../web/content-security-policy.txt");

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// Names the files of `web/assets` and embeds them.
macro_rules! assets {
    ($($name:literal: $kind:expr,)*) => {
        &[$(($name, $kind, include_str!(concat!("../web/assets/", $name)))),*]
    };
}

/// Name, type and content of each file.
const ASSETS: &[(&str, &str, &str)] = assets! {
    "api.js": SCRIPT,
    "blocks.js": SCRIPT,
    "chat.js": SCRIPT,
    "dom.js": SCRIPT,
    "generation.js": SCRIPT,
    "inline.js": SCRIPT,
    "layout.css": STYLE,
    "markdown.js": SCRIPT,
    "message.css": STYLE,
    "message.js": SCRIPT,
    "scroll.js": SCRIPT,
    "settings.js": SCRIPT,
    "sidebar.js": SCRIPT,
    "store.js": SCRIPT,
    "theme.js": SCRIPT,
};

/// `/`
pub(crate) async fn page() -> Response {
    file(HTML, include_str!("../web/index.html"))
}

/// `/assets/NAME`
pub(crate) async fn asset(Path(name): Path<String>) -> Result<Response> {
    let found = ASSETS.iter().find(|(known, ..)| *known == name);
    let (_, kind, text) =
        found.ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, "there is no such part of the page"))?;
    Ok(file(kind, text))
}

fn file(kind: &'static str, text: &'static str) -> Response {
    let headers: [(HeaderName, &str); 5] = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY.trim_ascii()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_page_is_embedded() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/web/assets");
        let entries = std::fs::read_dir(dir).expect("the page's files are there");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("readable").file_name().into_string().expect("names are ASCII"))
            .collect();
        names.sort();
        assert_eq!(names, ASSETS.iter().map(|(name, ..)| *name).collect::<Vec<_>>());
    }
}
