//! Addresses and tokens, made safe for messages.
//!
//! An address may hold a key in its path, its query or before its host. So nothing of it but the
//! host is ever shown, and what a provider says is cleaned of it before it is passed on.

use url::{Host, Url};

/// How much of a provider's own words an error carries.
const MAX_MESSAGE_CHARS: usize = 300;

/// What messages call the provider: its host and port, or the path of its socket.
pub(crate) fn address(url: &Url) -> String {
    if is_path(url) {
        return url.path().to_owned();
    }
    let host = url.host_str().unwrap_or_default();
    url.port_or_known_default().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether the address is a path of this machine.
pub(crate) fn is_path(url: &Url) -> bool {
    matches!(url.scheme(), "ipc" | "file")
}

/// Whether what it names is on this machine.
pub(crate) fn is_near(url: &Url) -> bool {
    is_path(url) || is_loopback(url)
}

/// Whether the host is this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// What a provider's words must be cleaned of, longest first.
#[derive(Clone)]
pub(crate) struct Secrets(Vec<String>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

impl Secrets {
    /// Those of an address and of the token that is sent there.
    pub fn of(url: &Url, token: Option<&str>) -> Self {
        let mut secrets: Vec<String> = token.map(str::to_owned).into_iter().collect();
        if !is_path(url) {
            secrets.extend(of_url(url));
        }
        secrets.retain(|secret| secret.len() > 3);
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self(secrets)
    }

    /// The words of a provider, cut short, on one line and without the secrets that it may repeat.
    pub fn clean(&self, words: &str) -> String {
        let mut words = words.to_owned();
        for secret in &self.0 {
            words = words.replace(secret, "***");
        }
        words.chars().take(MAX_MESSAGE_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}

fn of_url(url: &Url) -> Vec<String> {
    let mut secrets: Vec<String> = vec![url.username().to_owned(), url.path().to_owned()];
    secrets.extend(url.password().map(str::to_owned));
    secrets.extend(url.query().map(str::to_owned));
    secrets.extend(url.query_pairs().map(|(_, value)| value.into_owned()));
    // Short parts of a path, such as `v3`, are no keys, and words that a node may well say.
    secrets
        .extend(url.path_segments().into_iter().flatten().filter(|part| part.len() >= 8).map(str::to_owned));
    secrets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().expect("a URL")
    }

    #[test]
    fn words_lose_every_part_of_an_address_that_may_be_a_key() {
        let url = url("https://user:passw0rd@node.example/v3/0123456789abcdef?key=s3cret-key");
        let secrets = Secrets::of(&url, Some("t0ken"));
        let said = secrets.clean("user passw0rd 0123456789abcdef s3cret-key t0ken\nv3");
        assert_eq!(said, "*** *** *** *** *** v3");
        assert_eq!(address(&url), "node.example:443");
        assert_eq!(secrets.clean(&"x".repeat(400)).len(), MAX_MESSAGE_CHARS);
    }

    #[test]
    fn a_path_of_this_machine_is_no_secret() {
        let socket = url("ipc:///var/lib/geth/geth.ipc");
        assert_eq!(Secrets::of(&socket, None).clean("/var/lib/geth/geth.ipc"), "/var/lib/geth/geth.ipc");
        assert_eq!(address(&socket), "/var/lib/geth/geth.ipc");
        assert!(is_near(&socket) && is_near(&url("http://[::1]:1")) && !is_near(&url("http://10.0.0.1")));
    }
}
