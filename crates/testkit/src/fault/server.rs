//! The proxy.

use std::{
    collections::{BTreeMap, HashMap},
    net::{Ipv4Addr, TcpListener},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tokio::runtime::Runtime;

use super::{
    call::{Asked, Call},
    forge,
    http::{Connection, Outcome, Response},
    schedule::{Fault, Schedule},
};
use crate::{
    rng::Rng,
    rpc::{hex_quantity, quantity},
};

const PAGE: &str = "<!DOCTYPE html><html><body><h1>We will be back soon</h1></body></html>";

/// A fault that has happened.
#[derive(Debug, Clone, Copy)]
pub struct Fired {
    /// Which.
    pub fault: Fault,
    /// To the answer to what.
    pub asked: Asked,
}

/// A running proxy with a thread of its own; ends when dropped.
#[derive(Debug)]
pub struct FaultServer {
    proxy: Arc<Proxy>,
    url: String,
    /// Only absent while it is being dropped.
    runtime: Option<Runtime>,
}

impl FaultServer {
    /// A proxy before the node at `node`; a node of `other` answers for another chain. The two are
    /// asked only when somebody asks the proxy.
    pub fn start(node: &str, other: &str, schedule: Schedule) -> anyhow::Result<Self> {
        // reqwest wants a provider even for plain http; another caller may have installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build().context("HTTP client")?;
        let proxy = Arc::new(Proxy {
            http,
            node: node.to_owned(),
            other: other.to_owned(),
            schedule,
            is_healed: AtomicBool::new(false),
            state: Mutex::default(),
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen on a free port")?;
        listener.set_nonblocking(true)?;
        let url = format!("http://{}", listener.local_addr()?);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("faults")
            .enable_all()
            .build()?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        runtime.spawn(serve(listener, Arc::clone(&proxy)));
        Ok(Self { proxy, url, runtime: Some(runtime) })
    }

    /// The proxy's address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// From now on nothing goes wrong.
    pub fn heal(&self) {
        self.proxy.is_healed.store(true, Ordering::SeqCst);
    }

    /// What has gone wrong so far, in its order.
    pub fn fired(&self) -> Vec<Fired> {
        self.proxy.state().fired.clone()
    }

    /// How often each fault has happened.
    pub fn counts(&self) -> BTreeMap<Fault, u64> {
        self.fired().iter().fold(BTreeMap::new(), |mut counts, fired| {
            *counts.entry(fired.fault).or_default() += 1;
            counts
        })
    }
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // The owner may itself be asynchronous, where waiting for threads is not allowed.
            runtime.shutdown_background();
        }
    }
}

#[derive(Debug)]
struct Proxy {
    http: reqwest::Client,
    node: String,
    other: String,
    schedule: Schedule,
    is_healed: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How often each question was asked, by its key.
    asked: HashMap<u64, u64>,
    /// The blocks that were given out, by their hashes.
    given: HashMap<String, Given>,
    fired: Vec<Fired>,
}

/// A block that was given out.
#[derive(Debug, Clone, Copy)]
struct Given {
    number: u64,
    is_of_other_chain: bool,
}

/// A question at one of the times that it is asked.
struct Occasion {
    asked: Asked,
    fault: Option<Fault>,
    rng: Rng,
}

/// The answer to one call, or what the whole response becomes.
type Answer = Result<String, Outcome>;

async fn serve(listener: tokio::net::TcpListener, proxy: Arc<Proxy>) {
    // Accepting fails only where the process has no more files: then the test fails for that.
    while let Ok((stream, _)) = listener.accept().await {
        let proxy = Arc::clone(&proxy);
        tokio::spawn(async move {
            let mut connection = Connection::new(stream);
            while let Ok(Some(body)) = connection.receive().await {
                let outcome = proxy.respond(&body).await;
                if !connection.send(outcome).await.unwrap_or(false) {
                    break;
                }
            }
        });
    }
}

impl Proxy {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn respond(&self, body: &[u8]) -> Outcome {
        let answer = if body.trim_ascii_start().first() == Some(&b'[') {
            self.answer_batch(body).await
        } else {
            self.answer(body).await
        };
        answer.map_or_else(|outcome| outcome, |text| Outcome::Response(Response::json(text)))
    }

    async fn answer_batch(&self, body: &[u8]) -> Answer {
        let calls: Vec<&RawValue> = serde_json::from_slice(body).map_err(|error| bad_request(&error))?;
        let mut answers = Vec::with_capacity(calls.len());
        for call in &calls {
            answers.push(self.answer(call.get().as_bytes()).await?);
        }
        let Some(first) = calls.first() else { return Ok("[]".into()) };
        let call: Call<'_> = serde_json::from_str(first.get()).map_err(|error| bad_request(&error))?;
        let asked = self.asked(&call);
        // It has been counted as a call of its own.
        let before = self.state().asked.get(&asked.key).map_or(0, |times| times - 1);
        let mut rng = self.schedule.details(&asked, before);
        let fault = self.schedule.batch_fault(&asked, before).filter(|_| !self.is_healed());
        let forged = match fault {
            Some(Fault::DuplicatedAnswers) => forge::duplicated(answers.clone(), &mut rng),
            Some(Fault::ReorderedAnswers) => forge::reordered(answers.clone(), &mut rng),
            _ => None,
        };
        if let (Some(fault), Some(_)) = (fault, &forged) {
            self.note(fault, asked);
        }
        Ok(format!("[{}]", forged.unwrap_or(answers).join(",")))
    }

    /// The answer to one call.
    async fn answer(&self, body: &[u8]) -> Answer {
        let call: Call<'_> = serde_json::from_slice(body).map_err(|error| bad_request(&error))?;
        let mut occasion = self.occasion(&call);
        let Some(fault) = occasion.fault else { return self.truth(&call, body).await };
        match self.spoilt(fault, &call, body, &mut occasion).await? {
            Some(answer) => {
                self.note(fault, occasion.asked);
                answer
            }
            None => self.truth(&call, body).await,
        }
    }

    fn is_healed(&self) -> bool {
        self.is_healed.load(Ordering::SeqCst)
    }

    fn asked(&self, call: &Call<'_>) -> Asked {
        let state = self.state();
        call.asked(|hash| state.given.get(hash).map(|given| given.number))
    }

    /// Counts that the call's question is asked, and finds what goes wrong.
    fn occasion(&self, call: &Call<'_>) -> Occasion {
        let asked = self.asked(call);
        let before = {
            let mut state = self.state();
            let times = state.asked.entry(asked.key).or_default();
            *times += 1;
            *times - 1
        };
        let fault = self.schedule.fault(&asked, before).filter(|_| !self.is_healed());
        Occasion { asked, fault, rng: self.schedule.details(&asked, before) }
    }

    fn note(&self, fault: Fault, asked: Asked) {
        self.state().fired.push(Fired { fault, asked });
    }

    /// What the node says; for a block of the other chain that was given out before, what its own
    /// node says of it.
    async fn truth(&self, call: &Call<'_>, body: &[u8]) -> Answer {
        let given = call.hash().and_then(|hash| self.state().given.get(hash).copied());
        self.relay(given.is_some_and(|given| given.is_of_other_chain), body).await
    }

    /// The answer with the fault; `None` where there is nothing in it that could be wrong. An error is
    /// of the node's, not one that was meant.
    async fn spoilt(
        &self,
        fault: Fault,
        call: &Call<'_>,
        body: &[u8],
        Occasion { asked, rng, .. }: &mut Occasion,
    ) -> Result<Option<Answer>, Outcome> {
        let failed = |status, retry_after| {
            let body = forge::error(call.id(), -32000, "not now");
            Outcome::Response(Response { status, retry_after, ..Response::json(body) })
        };
        Ok(Some(match fault {
            Fault::Delay => {
                tokio::time::sleep(Duration::from_millis(*rng.pick(&[20, 60, 200]))).await;
                self.truth(call, body).await
            }
            Fault::Silence => Err(Outcome::Silence),
            Fault::Reset => Err(Outcome::Reset),
            Fault::TooManyRequests => Err(failed(429, None)),
            Fault::RetryAfter => Err(failed(429, Some(1))),
            Fault::ServerError => Err(failed(*rng.pick(&[500, 502, 503, 504]), None)),
            Fault::LimitExceeded => Ok(forge::error(call.id(), -32005, "limit exceeded")),
            Fault::Html => {
                let page = Response::json(PAGE.to_owned());
                Err(Outcome::Response(Response { content_type: "text/html", ..page }))
            }
            Fault::CutBody => Err(Outcome::Cut(Response::json(self.truth(call, body).await?))),
            Fault::CutJson => {
                let mut text = self.truth(call, body).await?;
                text.truncate(text.len() / 4 + rng.below(text.len() as u64 / 2) as usize);
                Err(Outcome::Response(Response::json(text)))
            }
            Fault::NullBlock | Fault::NullReceipts => Ok(forge::result(call.id(), "null")),
            Fault::OtherChain => self.relay(true, body).await,
            Fault::LowerHead => Ok(self.lower_head(call, rng).await?),
            Fault::ForeignReceipts => {
                let Some(receipts) = self.foreign_receipts(call, asked).await? else { return Ok(None) };
                Ok(receipts)
            }
            Fault::MissingLog | Fault::ChangedAmount => {
                let answer = parse(&self.truth(call, body).await?)?;
                let forge = if fault == Fault::MissingLog {
                    forge::without_a_log
                } else {
                    forge::with_another_amount
                };
                let Some(answer) = forge(answer, rng) else { return Ok(None) };
                Ok(answer.to_string())
            }
            // Not of a call.
            Fault::DuplicatedAnswers | Fault::ReorderedAnswers => return Ok(None),
        }))
    }

    /// The receipts of the next block, or of the one before the last; `None` where they are no others.
    async fn foreign_receipts(&self, call: &Call<'_>, asked: &Asked) -> Result<Option<String>, Outcome> {
        let Some(number) = asked.block else { return Ok(None) };
        for other in [Some(number + 1), number.checked_sub(1)].into_iter().flatten() {
            let body = forge::call_with(call.id(), "eth_getBlockReceipts", &json!([hex_quantity(other)]));
            let answer = self.relay(false, body.as_bytes()).await?;
            // A block without transactions has nothing that tells it from another.
            if parse(&answer)?["result"].as_array().is_some_and(|receipts| !receipts.is_empty()) {
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }

    /// The head as it was some blocks ago.
    async fn lower_head(&self, call: &Call<'_>, rng: &mut Rng) -> Answer {
        let number = forge::call_with(call.id(), "eth_blockNumber", &json!([]));
        let head = quantity(&parse(&self.relay(false, number.as_bytes()).await?)?["result"]).unwrap_or(0);
        let lower = json!(hex_quantity(head.saturating_sub(1 + rng.below(100))));
        if call.method == "eth_blockNumber" {
            return Ok(forge::result(call.id(), &lower.to_string()));
        }
        let params = json!([lower, call.params.get(1)]);
        let body = forge::call_with(call.id(), &call.method, &params);
        self.relay(false, body.as_bytes()).await
    }

    /// What one of the nodes answers.
    async fn relay(&self, is_other: bool, body: &[u8]) -> Answer {
        let url = if is_other { &self.other } else { &self.node };
        let post = self.http.post(url).header("content-type", "application/json").body(body.to_vec());
        let answer = async { post.send().await?.error_for_status()?.text().await };
        let text = answer.await.map_err(|error| bad_gateway(&error))?;
        self.remember(is_other, &text);
        Ok(text)
    }

    fn remember(&self, is_of_other_chain: bool, answer: &str) {
        #[derive(Deserialize)]
        struct Named {
            result: Id,
        }
        #[derive(Deserialize)]
        struct Id {
            number: Value,
            hash: String,
        }
        let Ok(Named { result: Id { number, hash } }) = serde_json::from_str(answer) else { return };
        let Ok(number) = quantity(&number) else { return };
        self.state().given.insert(hash, Given { number, is_of_other_chain });
    }
}

fn parse(answer: &str) -> Result<Value, Outcome> {
    serde_json::from_str(answer).map_err(|error| bad_gateway(&error))
}

fn bad_request(error: &dyn std::fmt::Display) -> Outcome {
    failure(400, error)
}

/// The node itself has failed, which no schedule has asked for.
fn bad_gateway(error: &dyn std::fmt::Display) -> Outcome {
    failure(502, error)
}

fn failure(status: u16, error: &dyn std::fmt::Display) -> Outcome {
    let body = format!("the fault server cannot answer: {error}");
    Outcome::Response(Response { status, content_type: "text/plain", ..Response::json(body) })
}
