//! Who may ask. Every route but [`OPEN_ROUTE`] needs a key, when there are keys.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use crate::error::ApiError;

/// The one route that needs no key: a supervisor asks it whether the server lives.
pub const OPEN_ROUTE: &str = "/health";

/// Who may ask.
#[derive(Debug, Default)]
pub struct Access {
    /// Digests of the keys; empty lets everyone in.
    keys: Vec<[u8; 32]>,
    /// Take requests only under a loopback name: a page in a browser may give its own name our address.
    loopback_names_only: bool,
}

impl Access {
    /// Access for the holders of `keys`; for everyone when there are none.
    pub fn new(keys: &[String]) -> Access {
        let keys = keys.iter().map(|key| Sha256::digest(key.as_bytes()).into()).collect();
        Access { keys, loopback_names_only: false }
    }

    /// Whether a key is needed.
    pub fn needs_key(&self) -> bool {
        !self.keys.is_empty()
    }

    /// How many keys there are.
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// Without keys, takes requests only for `localhost` and loopback addresses.
    pub fn loopback_names_only(mut self) -> Access {
        self.loopback_names_only = true;
        self
    }

    /// Which key it is, in a time that tells nothing about the keys.
    fn find(&self, key: &str) -> Option<usize> {
        let digest = Sha256::digest(key.as_bytes());
        let mut found = u64::MAX;
        for (index, known) in self.keys.iter().enumerate() {
            found.conditional_assign(&(index as u64), known.ct_eq(digest.as_slice()));
        }
        usize::try_from(found).ok().filter(|&index| index < self.keys.len())
    }

    fn check(&self, request: &Request) -> Result<Caller, ApiError> {
        if !self.needs_key() {
            if self.loopback_names_only && !has_loopback_name(request) {
                return Err(foreign_host());
            }
            return Ok(Caller::default());
        }
        if request.uri().path() == OPEN_ROUTE {
            return Ok(Caller::default());
        }
        let index = bearer(request).and_then(|key| self.find(key)).ok_or_else(bad_key)?;
        // With one key there is nobody to keep apart.
        Ok(Caller { key: (self.keys.len() > 1).then_some(index) })
    }
}

/// Who asks: one of several keys, or anyone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caller {
    key: Option<usize>,
}

impl Caller {
    /// Who sent a request that went through [`check`].
    pub fn of(request: &Request) -> Caller {
        request.extensions().get().copied().unwrap_or_default()
    }

    /// The salt of the caller's prefix cache: holders of different keys must not learn of each other's prompts
    /// from the time an answer takes.
    pub fn salt(self, asked: Option<String>) -> Option<String> {
        match self.key {
            Some(key) => Some(format!("{key}:{}", asked.unwrap_or_default())),
            None => asked,
        }
    }
}

/// The layer around all routes, known and unknown.
pub async fn check(State(access): State<Arc<Access>>, mut request: Request, next: Next) -> Response {
    match access.check(&request) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

/// The key of an `Authorization: Bearer KEY` header.
fn bearer(request: &Request) -> Option<&str> {
    let (scheme, key) = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

fn bad_key() -> ApiError {
    ApiError::new(
        StatusCode::UNAUTHORIZED,
        "invalid_api_key",
        "a valid API key is needed: send the header `Authorization: Bearer KEY`",
    )
}

fn has_loopback_name(request: &Request) -> bool {
    let Some(host) = request.headers().get(header::HOST) else {
        // HTTP/1.0 has none, and no browser speaks it.
        return true;
    };
    let authority: Option<Authority> = host.to_str().ok().and_then(|host| host.parse().ok());
    authority.is_some_and(|authority| {
        let name = authority.host().trim_start_matches('[').trim_end_matches(']');
        name.eq_ignore_ascii_case("localhost")
            || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    })
}

fn foreign_host() -> ApiError {
    ApiError::new(
        StatusCode::FORBIDDEN,
        "host_not_allowed",
        "without an API key only requests for localhost are taken; start the server with a key to use other names",
    )
}

/// The keys in a key file: one per line; empty lines and lines that begin with `#` are skipped.
///
/// # Errors
/// When it is no text.
pub fn parse_keys(file: &[u8]) -> Result<Vec<String>, &'static str> {
    let text = decode(file).ok_or("not a text in UTF-8, or in UTF-16 with a byte-order mark")?;
    let lines = text.lines().map(str::trim);
    Ok(lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(String::from).collect())
}

/// The text of a file. Editors on Windows begin one with a byte-order mark, and PowerShell writes UTF-16.
fn decode(file: &[u8]) -> Option<String> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let (units, rest) = bytes.as_chunks();
        rest.is_empty()
            .then(|| String::from_utf16(&units.iter().copied().map(unit).collect::<Vec<_>>()).ok())?
    };
    match file {
        [0xef, 0xbb, 0xbf, text @ ..] => String::from_utf8(text.into()).ok(),
        [0xff, 0xfe, text @ ..] => utf16(text, u16::from_le_bytes),
        [0xfe, 0xff, text @ ..] => utf16(text, u16::from_be_bytes),
        text => String::from_utf8(text.into()).ok(),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn request(path: &str, name: &str, value: &str) -> Request {
        Request::builder().uri(path).header(name, value).body(Body::empty()).unwrap()
    }

    fn access() -> Access {
        Access::new(&["first".into(), "second".into()])
    }

    #[test]
    fn the_right_key_is_found() {
        assert_eq!(access().find("first"), Some(0));
        assert_eq!(access().find("second"), Some(1));
        for wrong in ["", "firs", "first ", "First", "third"] {
            assert_eq!(access().find(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_health_is_open() {
        for (path, open) in [
            ("/health", true),
            ("/health/", false),
            ("//health", false),
            ("/%68ealth", false),
            ("/v1/models", false),
        ] {
            assert_eq!(access().check(&request(path, "host", "localhost")).is_ok(), open, "{path}");
        }
    }

    #[test]
    fn the_scheme_is_bearer() {
        for (value, right) in [
            ("Bearer first", true),
            ("bearer second", true),
            ("first", false),
            ("Basic first", false),
            ("Bearer", false),
        ] {
            assert_eq!(access().check(&request("/", "authorization", value)).is_ok(), right, "{value}");
        }
    }

    #[test]
    fn foreign_names_are_refused_without_a_key() {
        let access = Access::new(&[]).loopback_names_only();
        for (host, right) in [
            ("localhost:8000", true),
            ("127.0.0.1:8000", true),
            ("[::1]:8000", true),
            ("127.9.9.9", true),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("10.0.0.1:8000", false),
            ("a/b", false),
        ] {
            assert_eq!(access.check(&request("/v1/models", "host", host)).is_ok(), right, "{host}");
        }
    }

    #[test]
    fn callers_with_different_keys_share_no_prefixes() {
        let salt = |key| Caller { key }.salt(Some("s".into()));
        assert_ne!(salt(Some(0)), salt(Some(1)));
        assert_eq!(salt(None).as_deref(), Some("s"));
    }

    #[test]
    fn key_files_have_comments() {
        let keys = parse_keys(b"# keys\n\n alpha \nbeta # no comment\n").unwrap();
        assert_eq!(keys, ["alpha", "beta # no comment"]);
    }

    #[test]
    fn key_files_may_begin_with_a_byte_order_mark() {
        let text = "alpha\r\n# keys\r\n\u{3b2}eta\r\n";
        let units = || text.encode_utf16();
        let files = [
            text.as_bytes().to_vec(),
            [&b"\xef\xbb\xbf"[..], text.as_bytes()].concat(),
            units().fold(b"\xff\xfe".to_vec(), |file, unit| [file, unit.to_le_bytes().into()].concat()),
            units().fold(b"\xfe\xff".to_vec(), |file, unit| [file, unit.to_be_bytes().into()].concat()),
        ];
        for file in files {
            assert_eq!(parse_keys(&file).unwrap(), ["alpha", "\u{3b2}eta"], "{file:?}");
        }
        for marks in [&b"\xef\xbb\xbf"[..], b"\xff\xfe", b"\xfe\xff", b"", b"\xef\xbb\xbf# none\n"] {
            assert_eq!(parse_keys(marks).unwrap(), Vec::<String>::new(), "{marks:?}");
        }
        for wrong in [&b"\xff"[..], b"\xef\xbb", b"\xff\xfea", b"\xff\xfe\x00\xd8"] {
            assert!(parse_keys(wrong).is_err(), "{wrong:?}");
        }
    }
}
