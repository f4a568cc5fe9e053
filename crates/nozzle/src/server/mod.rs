//! The servers: Arrow Flight, JSON Lines and the Admin API.
//!
//! Each is a listener of its own over the one query engine of the process. All of them stop to
//! accept when the program is told to end, and finish what they have begun.

mod admin;
mod ahead;
mod auth;
mod error;
mod flight;
mod http;
mod incoming;
mod jsonl;
mod planning;
mod query;
mod stream;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{config::Config, context::Context};
use auth::Gate;
use incoming::{Incoming, Tls};
use query::{Limits, Queries, StreamLimits};

/// How long connections have to end once the last answer is at its end: its bytes may still be on their way.
const LAST_BYTES: Duration = Duration::from_secs(5);

/// Which servers run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selection {
    /// Arrow Flight.
    pub flight: bool,
    /// JSON Lines.
    pub jsonl: bool,
    /// The Admin API.
    pub admin: bool,
}

impl Selection {
    /// Explicit selectors: none set means all.
    pub fn of_flags(flight: bool, jsonl: bool, admin: bool) -> Self {
        let all = !(flight || jsonl || admin);
        Self { flight: flight || all, jsonl: jsonl || all, admin: admin || all }
    }
}

/// Servers that have their sockets but do not answer yet.
#[derive(Debug)]
pub struct Bound {
    context: Arc<Context>,
    queries: Arc<Queries>,
    gate: Gate,
    tls: Option<Tls>,
    /// Whether this process also does jobs.
    has_worker: bool,
    flight: Option<TcpListener>,
    jsonl: Option<TcpListener>,
    admin: Option<TcpListener>,
}

impl Bound {
    /// Takes the configured addresses.
    pub async fn bind(selection: Selection, context: Arc<Context>, has_worker: bool) -> anyhow::Result<Self> {
        let config: &Config = &context.config;
        let gate = Gate::new(&config.auth)?;
        let tls = Tls::of(config).context("the certificate of the servers cannot be used")?;
        let limits = Limits {
            at_a_time: (config.max_concurrent_queries > 0).then_some(config.max_concurrent_queries),
            time: (config.query_timeout_secs > 0.0)
                .then(|| Duration::from_secs_f64(config.query_timeout_secs)),
        };
        let streams = StreamLimits {
            most_blocks: config.server_microbatch_max_interval,
            keep_alive: Duration::from_secs_f64(config.keep_alive_interval_secs),
        };
        let queries =
            Queries::new(context.engine()?, limits, streams).context("starting the threads for queries")?;
        let queries = Arc::new(queries);
        let flight = listen(selection.flight, "flight_addr", &config.flight_addr).await?;
        let jsonl = listen(selection.jsonl, "jsonl_addr", &config.jsonl_addr).await?;
        let admin = listen(selection.admin, "admin_api_addr", &config.admin_api_addr).await?;
        Ok(Self { context, queries, gate, tls, has_worker, flight, jsonl, admin })
    }

    /// Where each server listens, as a client names it.
    pub fn addresses(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        let mut addresses = vec![];
        let (grpc, http) = if self.tls.is_some() { ("grpc+tls", "https") } else { ("grpc", "http") };
        let is_open = self.gate.is_open() && !self.tls.as_ref().is_some_and(Tls::asks_for_certificates);
        for (name, scheme, listener) in [
            ("Arrow Flight", grpc, &self.flight),
            ("JSON Lines", http, &self.jsonl),
            ("Admin API", http, &self.admin),
        ] {
            if let Some(listener) = listener {
                let address = listener.local_addr()?;
                if is_open {
                    warn_if_open(name, address);
                }
                addresses.push((name, format!("{scheme}://{address}")));
            }
        }
        Ok(addresses)
    }

    /// Answers until `stop`, then ends when what was begun is finished.
    pub async fn serve(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut servers = JoinSet::new();
        let incoming = |listener| Incoming::new(listener, self.tls.clone(), http::SILENCE);
        if let Some(listener) = self.flight {
            let queries = Arc::clone(&self.queries);
            servers.spawn(flight::serve(incoming(listener), queries, self.gate.clone(), stop.clone()));
        }
        if let Some(listener) = self.jsonl {
            let router = jsonl::router(Arc::clone(&self.queries), self.gate.clone());
            servers.spawn(http::serve(incoming(listener), router, http::HEAD_TIME, stop.clone()));
        }
        if let Some(listener) = self.admin {
            let admin = admin::Admin::new(self.context, Arc::clone(&self.queries), self.has_worker);
            let router = admin::router(admin, self.gate);
            servers.spawn(http::serve(incoming(listener), router, http::HEAD_TIME, stop.clone()));
        }
        if let Some(tls) = self.tls.clone() {
            servers.spawn(tls.renew(stop.clone()));
        }
        let all_ended = async {
            while let Some(ended) = servers.join_next().await {
                // One that fails takes the others with it: half a server would go unnoticed.
                ended.context("a server ended by a defect")??;
            }
            Ok(())
        };
        // A connection on which nothing was begun, or half a request, is nothing to wait for.
        let answered = async {
            stop.cancelled().await;
            self.queries.all_answered(LAST_BYTES).await;
        };
        tokio::select! {
            ended = all_ended => ended,
            () = answered => Ok(()),
        }
    }
}

async fn listen(wanted: bool, key: &str, address: &str) -> anyhow::Result<Option<TcpListener>> {
    if !wanted {
        return Ok(None);
    }
    let listener = TcpListener::bind(address).await;
    listener.map(Some).with_context(|| {
        format!("cannot listen on {address}; is another server running? Choose another address with {key}")
    })
}

fn warn_if_open(name: &str, address: SocketAddr) {
    if !address.ip().is_loopback() {
        tracing::warn!(
            "{name} on {address} answers everybody who can reach this machine: there is no [auth] in the configuration"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_explicit_and_none_means_all() {
        let selection = |flight, jsonl, admin| Selection { flight, jsonl, admin };
        assert_eq!(Selection::of_flags(false, false, false), selection(true, true, true));
        assert_eq!(Selection::of_flags(true, false, false), selection(true, false, false));
        assert_eq!(Selection::of_flags(false, true, true), selection(false, true, true));
    }
}
