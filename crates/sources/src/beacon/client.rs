//! One question to a beacon node, and what its failures mean.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{BeaconConfig, json::Said};
use crate::{
    error::SourceError,
    http::{BadStatus, Failure, Http, Response},
    limit::{Limiter, Throttle},
    secrets::{Secrets, address},
};

const CHECK_URL: &str = "check that `url` is the address of a Beacon API, such as http://localhost:5052, without \
                         `/eth/v1`, and not the JSON-RPC of an execution client";

/// A node that can be asked.
pub(crate) struct Client {
    provider: String,
    /// What messages call the node.
    address: String,
    secrets: Secrets,
    http: Http,
    limiter: Arc<Limiter>,
    /// Whether it has ever answered as a beacon node does.
    has_answered: AtomicBool,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("provider", &self.provider).field("address", &self.address).finish()
    }
}

/// Why a question has no answer.
enum Unanswered {
    Unavailable(String),
    PushedBack { why: String, rest: Option<Duration> },
    Refused(String),
}

impl Client {
    /// A client for the node; nothing is sent yet.
    pub fn new(config: &BeaconConfig) -> Result<Self, SourceError> {
        let refused = |why| SourceError::Refused { provider: config.provider.clone(), why };
        let scheme = config.url.scheme();
        if !matches!(scheme, "http" | "https") {
            return Err(refused(format!(
                "the scheme of `url` is `{scheme}`; a Beacon API has http or https"
            )));
        }
        Ok(Self {
            provider: config.provider.clone(),
            address: address(&config.url),
            secrets: Secrets::of(&config.url, config.auth_token.as_deref()),
            http: Http::new(&config.http()).map_err(refused)?,
            limiter: config
                .throttle
                .clone()
                .unwrap_or_else(|| Throttle::new(&config.limits()))
                .limiter()
                .clone(),
            has_answered: AtomicBool::new(false),
        })
    }

    /// The provider's name.
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// What lets requests through.
    pub fn limiter(&self) -> &Arc<Limiter> {
        &self.limiter
    }

    /// The answer to a question, a path without its first slash; `None` where the node does not have
    /// what is asked for. What is pushed back is asked again for a while. The caller has a turn.
    pub async fn get(&self, path: &str) -> Result<Option<Bytes>, SourceError> {
        let mut pushed_back_since = None;
        loop {
            let sent = match self.limiter.ready(1).await {
                Ok(sent) => sent,
                Err(rest) => return Err(self.pushed_back(rest.to_string())),
            };
            let why = match self.ask(path).await {
                Ok(answer) => {
                    self.limiter.kept_up(sent);
                    return Ok(answer);
                }
                Err(Unanswered::Unavailable(why)) => return Err(self.unavailable(why)),
                Err(Unanswered::Refused(why)) => return Err(self.refused(why)),
                Err(Unanswered::PushedBack { why, rest }) => {
                    self.limiter.pushed_back(&self.provider, &why, sent, rest);
                    why
                }
            };
            if !self.limiter.has_patience(*pushed_back_since.get_or_insert_with(Instant::now)) {
                return Err(self.pushed_back(why));
            }
        }
    }

    async fn ask(&self, path: &str) -> Result<Option<Bytes>, Unanswered> {
        let response = self.http.get_json(path).await.map_err(|failure| match failure {
            Failure::Unavailable(why) => Unanswered::Unavailable(self.secrets.clean(&why)),
            Failure::Refused(why) => Unanswered::Refused(self.secrets.clean(&why)),
        })?;
        let is_json = is_object(&response.body);
        match response.bad_status() {
            None if is_json => {
                self.has_answered.store(true, Ordering::Relaxed);
                Ok(Some(response.body))
            }
            None => Err(self.foreign("it does not answer with JSON")),
            // Where the address is right, this is what nodes say of blocks that they do not have.
            Some(BadStatus::Other) if response.status == 404 && is_json && self.has_answered() => Ok(None),
            Some(bad) => Err(self.bad_status(&response, bad)),
        }
    }

    fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Relaxed)
    }

    fn bad_status(&self, Response { status, body, retry_after }: &Response, bad: BadStatus) -> Unanswered {
        let said: Option<Said> = sonic_rs::from_slice(body).ok();
        let words = said.map(|said| format!(": {}", self.secrets.clean(&said.message))).unwrap_or_default();
        let answers = format!("it answers HTTP {status}{words}");
        match bad {
            BadStatus::Denied => {
                Unanswered::Refused(format!("{answers}; check `auth_token` and the key in `url`"))
            }
            BadStatus::PushesBack => Unanswered::PushedBack { why: answers, rest: *retry_after },
            BadStatus::Unavailable => Unanswered::Unavailable(answers),
            BadStatus::Redirects => {
                Unanswered::Refused(format!("{answers}, a redirection; set `url` to where it leads"))
            }
            BadStatus::Other => self.foreign(&answers),
        }
    }

    /// What answers is not a beacon node. Where one has answered before, something stands before it
    /// now, such as the page of a proxy, that may go away; elsewhere the address is wrong.
    fn foreign(&self, why: &str) -> Unanswered {
        if self.has_answered() {
            Unanswered::Unavailable(why.to_owned())
        } else {
            Unanswered::Refused(format!("{why}; {CHECK_URL}"))
        }
    }

    /// Begins to be told of events. `None` where the node does not tell any, an error where it may do
    /// so later.
    pub async fn open_events(&self, path: &str) -> Result<Option<reqwest::Response>, String> {
        match self.http.open_events(path).await {
            Ok(response) if response.status().is_success() => Ok(Some(response)),
            Ok(response) if response.status().is_server_error() || response.status() == 429 => {
                Err(format!("it answers HTTP {}", response.status()))
            }
            Ok(_) => Ok(None),
            Err(Failure::Unavailable(why) | Failure::Refused(why)) => Err(self.secrets.clean(&why)),
        }
    }

    /// Gives up what is connected; the next request connects anew.
    pub fn redial(&self) {
        self.http.redial();
    }

    /// The answer may be had later.
    pub fn unavailable(&self, why: String) -> SourceError {
        SourceError::Unavailable { provider: self.provider.clone(), source: why.into() }
    }

    fn pushed_back(&self, why: String) -> SourceError {
        SourceError::PushedBack { provider: self.provider.clone(), why }
    }

    /// Asking again does not help.
    pub fn refused(&self, why: String) -> SourceError {
        SourceError::Refused { provider: self.provider.clone(), why }
    }
}

fn is_object(body: &[u8]) -> bool {
    body.trim_ascii_start().first() == Some(&b'{')
}
