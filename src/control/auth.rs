//! HTTP Basic authentication (RFC 7617), in one place for every path that a server offers.
//!
//! What is compared is always two digests of the same length, and in constant time: neither the length of the
//! password nor how much of a guess is right shows in the time an answer takes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::http::{Answer, Request};
use crate::plan::Login;

/// Whether the request brings this login along. A login without a user is a token: good as the password of any user, and
/// as a bearer token (RFC 6750).
pub fn admits(login: &Login, request: &Request) -> bool {
    let Some(header) = request.header("authorization") else { return false };
    let is_token = login.username.is_empty();
    let (username, password) = match (given(header), header.split_once(' ')) {
        (Some(given), _) => given,
        (None, Some((scheme, token))) if is_token && scheme.eq_ignore_ascii_case("bearer") => {
            (String::new(), token.trim().as_bytes().to_vec())
        }
        _ => return false,
    };
    let user = is_token | same(username.as_bytes(), login.username.as_bytes());
    let secret = match hashed(&login.password) {
        Some(Hash::Sha1(hex)) => same(to_hex(&Sha1::digest(&password)).as_bytes(), hex.as_bytes()),
        Some(Hash::Sha256(hex)) => same(to_hex(&Sha256::digest(&password)).as_bytes(), hex.as_bytes()),
        None => same(&password, login.password.as_bytes()),
    };
    // Both are looked at, so that a wrong name takes as long as a wrong password.
    user & secret
}

/// The answer for whoever has not.
pub fn challenge() -> Answer {
    let headers = vec![("WWW-Authenticate", "Basic realm=\"default\"".to_owned())];
    Answer { headers, ..super::api::failure(401, "log in with user and password".into()) }
}

enum Hash {
    Sha1(String),
    Sha256(String),
}

fn hashed(password: &str) -> Option<Hash> {
    if let Some(hex) = password.strip_prefix("{SHA}") {
        return Some(Hash::Sha1(hex.to_ascii_lowercase()));
    }
    password.strip_prefix("{SHA256}").map(|hex| Hash::Sha256(hex.to_ascii_lowercase()))
}

/// User and password of a header.
fn given(header: &str) -> Option<(String, Vec<u8>)> {
    let (scheme, code) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let bytes = STANDARD.decode(code.trim()).ok()?;
    let colon = bytes.iter().position(|&b| b == b':')?;
    Some((String::from_utf8(bytes[..colon].to_vec()).ok()?, bytes[colon + 1..].to_vec()))
}

/// In constant time.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    Sha256::digest(a).ct_eq(&Sha256::digest(b)).into()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn admitted(password: &str, header: &str) -> bool {
        let login = Login { username: "user".into(), password: password.into() };
        let request = Request { headers: vec![("authorization".into(), header.into())], ..Request::default() };
        admits(&login, &request)
    }

    fn basic(pair: &str) -> String {
        format!("Basic {}", STANDARD.encode(pair))
    }

    #[test]
    fn the_right_login_is_let_in_and_no_other() {
        assert!(admitted("sec:ret", &basic("user:sec:ret")));
        assert!(admitted("secret", &basic("user:secret").replace("Basic", "basic")));
        for bad in ["user:Secret", "user:secre", "user:secret ", "User:secret", ":secret", "user:", "user", ""] {
            assert!(!admitted("secret", &basic(bad)), "{bad}");
        }
        for bad in ["", "Basic", "Basic !!!", "Bearer c2VjcmV0", "Basic dXNlcg=="] {
            assert!(!admitted("secret", bad), "{bad}");
        }
        let login = Login { username: "user".into(), password: String::new() };
        assert!(!admits(&login, &Request::default()), "no header at all");
    }

    #[test]
    fn a_hashed_password_takes_the_plain_one_and_not_the_hash() {
        // sha1sum and sha256sum of "the password".
        let hashes = [
            "{SHA}f4b8b4ef1ba4ae3f5bd2ba3b6ad81a9be1ce8b6c".to_owned(),
            format!("{{SHA}}{}", to_hex(&Sha1::digest("the password"))),
            format!("{{SHA256}}{}", to_hex(&Sha256::digest("the password"))),
        ];
        assert!(!admitted(&hashes[0], &basic("user:the password")));
        for hash in &hashes[1..] {
            assert!(admitted(hash, &basic("user:the password")));
            assert!(!admitted(hash, &basic(&format!("user:{hash}"))));
            assert!(!admitted(hash, &basic("user:The password")));
        }
    }

    #[test]
    fn a_token_is_taken_from_a_bearer_and_as_the_password_of_anybody() {
        let admitted = |username: &str, header: &str| {
            let login = Login { username: username.into(), password: "t0ken".into() };
            let request = Request { headers: vec![("authorization".into(), header.into())], ..Request::default() };
            admits(&login, &request)
        };
        assert!(admitted("", "Bearer t0ken") && admitted("", "bearer  t0ken") && admitted("", &basic("me:t0ken")));
        assert!(!admitted("", "Bearer t0ke") && !admitted("", "Bearer ") && !admitted("", &basic("me:")));
        assert!(!admitted("user", "Bearer t0ken"), "a password is no token");
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic_or_opens_it(header in "\\PC{0,60}") {
            prop_assert!(!admitted("a rather long password", &header));
        }
    }
}
