//! Which pages may ask from within a browser. A browser lets a page read the answers of another site's server only
//! where the server allows it, and asks that first (a preflight) for requests such as ours.

use std::{str::FromStr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

/// What a page may read of an answer's headers, besides the few that it always may.
const EXPOSED: HeaderValue =
    HeaderValue::from_static("x-request-id, x-ignored-params, openai-processing-ms, retry-after");

/// The methods of the routes.
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST");

/// Seconds for which a browser need not ask again.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

const ANY: HeaderValue = HeaderValue::from_static("*");

/// Where a page comes from, as browsers name it in the header `Origin`: `https://app.example`, or `*` for anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(HeaderValue);

impl FromStr for Origin {
    type Err = String;

    /// Reads `*` or `scheme://host[:port]`, in the spelling of browsers.
    fn from_str(text: &str) -> Result<Origin, String> {
        if text == "*" {
            return Ok(Origin(ANY));
        }
        let wrong =
            || format!("`{text}` is not an origin; write it as https://app.example:8443, without a path");
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(wrong());
        };
        if authority.as_str().contains(['@', '*'])
            || text.len() != scheme.len() + "://".len() + authority.as_str().len()
        {
            return Err(wrong());
        }
        // Browsers leave out the port that the scheme implies.
        let implied = match scheme {
            "http" => ":80",
            "https" => ":443",
            _ => "",
        };
        let origin = text.strip_suffix(implied).unwrap_or(text).to_ascii_lowercase();
        HeaderValue::from_str(&origin).map(Origin).map_err(|_| wrong())
    }
}

/// The origins that may ask; by default none.
#[derive(Debug, Default)]
pub struct Cors {
    origins: Vec<Origin>,
}

impl Cors {
    /// Lets pages of these origins ask.
    pub fn new(origins: Vec<Origin>) -> Cors {
        Cors { origins }
    }

    /// The origin that the answer to a request allows, if any.
    fn allowed(&self, request: &HeaderMap) -> Option<HeaderValue> {
        let allows = |origin: &HeaderValue| self.origins.iter().any(|known| known.0 == origin);
        if allows(&ANY) {
            return Some(ANY);
        }
        request.get(header::ORIGIN).filter(|origin| allows(origin)).cloned()
    }
}

/// The outermost layer: a preflight has no key, and a page must be able to read errors.
pub async fn allow(State(cors): State<Arc<Cors>>, request: Request, next: Next) -> Response {
    if cors.origins.is_empty() {
        return next.run(request).await;
    }
    let allowed = cors.allowed(request.headers());
    let mut response = if allowed.is_some() && is_preflight(&request) {
        preflight(&request)
    } else {
        next.run(request).await
    };
    let mut insert = |name: HeaderName, value| response.headers_mut().insert(name, value);
    if allowed != Some(ANY) {
        insert(header::VARY, HeaderValue::from_static("origin"));
    }
    if let Some(origin) = allowed {
        insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
    response
}

fn is_preflight(request: &Request) -> bool {
    let headers = request.headers();
    request.method() == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Allows whatever headers the page wants to send: clients bring many of their own, and none opens anything.
fn preflight(request: &Request) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    if let Some(wanted) = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_spelled_as_browsers_do() {
        for (text, origin) in [
            ("*", "*"),
            ("https://app.example", "https://app.example"),
            ("HTTPS://App.Example:8443", "https://app.example:8443"),
            ("https://app.example:443", "https://app.example"),
            ("http://localhost:80", "http://localhost"),
            ("http://[::1]:5173", "http://[::1]:5173"),
            ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ] {
            assert_eq!(text.parse::<Origin>().unwrap().0, origin);
        }
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in [
            "",
            "null",
            "app.example",
            "https://",
            "https://app.example/",
            "https://app.example/chat",
            "https://me@app.example",
            "https://app.example?x",
            "https://*.example",
            "https://a b",
            "https://späß.example",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }
}
