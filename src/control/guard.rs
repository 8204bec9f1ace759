//! What a browser may be made to send to a server on the network, and must not (reference/supervisord.md §10).
//!
//! A page of another site can post to us with the user's own rights (CSRF), and, once its name leads to our address, it
//! can read the answers too (DNS rebinding). The first shows in `Origin`, the second in `Host`. A server that asks for
//! a login is safe from the second, since the browser has none for the other site's name; so a proxy in front of it may
//! keep the name that people know. A unix socket is out of a browser's reach.

use std::net::IpAddr;

use super::api::failure;
use super::http::{Answer, Request};
use crate::plan::{Address, Server};

/// The answer that turns the request away, if it must be.
pub fn check(server: &Server, own_name: &str, request: &Request) -> Result<(), Answer> {
    let Address::Inet { host: own_host, .. } = &server.address else { return Ok(()) };
    let host = request.header("host");
    if server.login.is_none()
        && let Some(host) = host
        && !is_own(name_of(host), own_host, own_name)
    {
        let why = format!(
            "{:?} is not a name of this server: use its address, or have it ask for a login",
            host.chars().take(100).collect::<String>()
        );
        return Err(failure(421, why));
    }
    let only_looks = matches!(request.method.as_str(), "GET" | "HEAD");
    if !only_looks && is_foreign(request) {
        return Err(failure(403, "a page of another site may not do this".into()));
    }
    Ok(())
}

/// Sent by a page that is not ours.
pub fn is_foreign(request: &Request) -> bool {
    let site = request.header("sec-fetch-site").unwrap_or("none");
    if site == "cross-site" || site == "same-site" {
        return true;
    }
    let Some(origin) = request.header("origin") else { return false };
    let authority = origin.split_once("://").map_or(origin, |(_, authority)| authority);
    !request.header("host").is_some_and(|host| host.eq_ignore_ascii_case(authority))
}

/// Whether a browser sent it; every one says so, and none can be made not to.
pub fn is_from_browser(request: &Request) -> bool {
    let says_so =
        ["sec-fetch-mode", "sec-fetch-site", "origin", "referer"].iter().any(|name| request.header(name).is_some());
    says_so || request.header("user-agent").is_some_and(|agent| agent.starts_with("Mozilla/"))
}

/// An address needs no name service that could lie.
fn is_own(name: &str, own_host: &str, own_name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let short = own_name.split('.').next().unwrap_or_default();
    name.parse::<IpAddr>().is_ok()
        || name == "localhost"
        || name.ends_with(".localhost")
        || name.eq_ignore_ascii_case(own_host)
        || (!short.is_empty() && [own_name, short].iter().any(|own| name.eq_ignore_ascii_case(own)))
}

/// Without the port: `[::1]:9001` and `h:9001`.
fn name_of(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Login;

    fn status(login: bool, method: &str, headers: &[(&str, &str)]) -> u16 {
        let login = login.then(|| Login { username: "u".into(), password: "p".into() });
        let address = Address::Inet { host: "10.0.0.1".into(), port: 9001 };
        let server = Server { name: "s".into(), address, login };
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let request = Request { method: method.into(), headers, ..Request::default() };
        check(&server, "box.example.com", &request).err().map_or(200, |answer| answer.status)
    }

    #[test]
    fn a_name_that_is_not_ours_is_turned_away_where_no_login_protects() {
        for host in
            ["127.0.0.1:9001", "[::1]:9001", "localhost", "a.localhost:1", "10.0.0.1", "box", "BOX.example.com."]
        {
            assert_eq!(status(false, "GET", &[("host", host)]), 200, "{host}");
        }
        for host in ["evil.com", "evil.com:9001", "localhost.evil.com", "127.0.0.1.evil.com", ""] {
            assert_eq!(status(false, "GET", &[("host", host)]), 421, "{host}");
            assert_eq!(status(true, "GET", &[("host", host)]), 200, "{host}");
        }
        // A client that knows no Host is no browser.
        assert_eq!(status(false, "POST", &[]), 200);
    }

    #[test]
    fn a_page_of_another_site_may_look_but_not_act() {
        let post = |origin: &str| status(true, "POST", &[("host", "sv.example.com:80"), ("origin", origin)]);
        assert_eq!(post("http://sv.example.com:80"), 200);
        for origin in ["http://evil.com", "null", "http://sv.example.com:81", "http://sv.example.com:80.evil.com", ""] {
            assert_eq!(post(origin), 403, "{origin}");
        }
        assert_eq!(status(true, "GET", &[("origin", "http://evil.com")]), 200);
        assert_eq!(status(true, "POST", &[("sec-fetch-site", "cross-site")]), 403);
        assert_eq!(status(true, "POST", &[("sec-fetch-site", "same-origin")]), 200);
    }
}
