//! Several calls in one request: the answers are told apart by their ids, and nothing else.

use std::{
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use sonic_rs::JsonValueTrait;
use tokio::time::Instant;

use super::client::{CallError, Client, Reply, ResponseBody};

/// The error of an answer that a node leaves out of a batch, because the whole would be too large.
const RESPONSE_TOO_LARGE: i64 = -32003;

/// A call that has not been made.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// The method.
    pub method: &'static str,
    /// A JSON array.
    pub params: String,
}

/// How many calls a request may have, as far as the node has shown.
#[derive(Debug)]
pub(crate) struct BatchLimit(AtomicUsize);

impl BatchLimit {
    /// At most `most` calls; none and one both mean that there are no batches.
    pub fn new(most: usize) -> Self {
        Self(AtomicUsize::new(most.max(1)))
    }

    /// The most calls of a request.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Notes that a batch of `refused` calls was too large; whether that is news.
    fn lower(&self, refused: usize) -> bool {
        let half = (refused / 2).max(1);
        self.0.fetch_min(half, Ordering::Relaxed) > half
    }
}

/// What is wrong with the answer to a call of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unpaired {
    Missing,
    Repeated,
}

impl From<Unpaired> for CallError {
    fn from(unpaired: Unpaired) -> Self {
        Self::Unavailable(match unpaired {
            Unpaired::Missing => "the answers of the batch have none with its id".into(),
            Unpaired::Repeated => "the answers of the batch have several with its id".into(),
        })
    }
}

/// What has become of a batch.
#[derive(Debug)]
enum Sorted {
    /// For each call its answer, or what is wrong with that.
    Answers(Vec<Result<Bytes, Unpaired>>),
    /// One answer instead of as many as there are calls.
    Other(Bytes),
    /// It cannot be read to its end.
    Cut,
}

/// Cuts a batch's answers out of its body, and gives each call the one with its id.
fn sort_out(body: &Bytes, ids: Range<u64>) -> Sorted {
    if body.trim_ascii_start().first() != Some(&b'[') {
        return Sorted::Other(body.clone());
    }
    let mut slots: Vec<_> = ids.clone().map(|_| Err(Unpaired::Missing)).collect();
    let (mut count, mut last) = (0, None);
    for element in sonic_rs::to_array_iter(&body[..]) {
        let Ok(element) = element else { return Sorted::Cut };
        let answer = body.slice_ref(element.as_raw_str().as_bytes());
        let id = sonic_rs::get(&answer[..], ["id"]).ok().and_then(|id| id.as_u64());
        let place = id.filter(|id| ids.contains(id)).map(|id| (id - ids.start) as usize);
        if let Some(slot) = place.and_then(|place| slots.get_mut(place)) {
            *slot = match slot {
                Err(Unpaired::Missing) => Ok(answer.clone()),
                _ => Err(Unpaired::Repeated),
            };
        }
        count += 1;
        last = Some(answer);
    }
    match last {
        // Nodes that refuse a batch also say so in an array of one error.
        Some(only) if count == 1 && slots.len() > 1 => Sorted::Other(only),
        _ => Sorted::Answers(slots),
    }
}

/// An answer; `None` where it is to be asked for with fewer others.
type PartAnswer = Option<Result<Reply, CallError>>;

impl Client {
    /// Calls methods, in as many requests as the node wants; the answers are in the order of the
    /// calls. What is pushed back is asked again for a while. The caller has one turn; where there are
    /// free ones, requests go side by side.
    pub async fn call_all(&self, calls: &[Call]) -> Vec<Result<Reply, CallError>> {
        let size = self.batch_limit().get();
        let mut answers: Vec<_> = calls.iter().map(|_| None).collect();
        let places: Vec<usize> = (0..calls.len()).collect();
        let mut parts: Vec<Vec<usize>> = places.chunks(size).map(<[usize]>::to_vec).collect();
        let mut pushed_back_since = None;
        while !parts.is_empty() {
            let further = self.limiter().further_turns(parts.len() - 1);
            let asking: Vec<_> = parts.drain(..).map(|part| self.call_part(calls, part)).collect();
            let mut asking = stream::iter(asking).buffer_unordered(1 + further.len());
            while let Some((part, part_answers)) = asking.next().await {
                let is_patient = self.has_patience(&part_answers, &mut pushed_back_since);
                let (mut smaller, mut later) = (vec![], vec![]);
                for (place, answer) in part.iter().zip(part_answers) {
                    match answer {
                        None => smaller.push(*place),
                        Some(Err(CallError::PushedBack { .. })) if is_patient => later.push(*place),
                        Some(answer) => answers[*place] = Some(answer),
                    }
                }
                if !smaller.is_empty() {
                    self.lower_batch_limit(part.len());
                    parts.extend(smaller.chunks((part.len() / 2).max(1)).map(<[usize]>::to_vec));
                }
                parts.extend((!later.is_empty()).then_some(later));
            }
        }
        let lost = || Err(CallError::Unavailable("the call was not made".into()));
        answers.into_iter().map(|answer| answer.unwrap_or_else(lost)).collect()
    }

    /// Whether what was pushed back is asked again. `since` is when nothing else has come since.
    fn has_patience(&self, answers: &[PartAnswer], since: &mut Option<Instant>) -> bool {
        if answers.iter().any(|answer| matches!(answer, Some(Ok(_)))) {
            *since = None;
        }
        if !answers.iter().any(|answer| matches!(answer, Some(Err(CallError::PushedBack { .. })))) {
            return true;
        }
        self.limiter().has_patience(*since.get_or_insert_with(Instant::now))
    }

    /// Tells the limiter how the provider bears what it was sent.
    fn note(&self, sent: Instant, answers: &[PartAnswer]) {
        let pushed_back = answers.iter().find_map(|answer| match answer {
            Some(Err(CallError::PushedBack { why, rest })) => Some((why, *rest)),
            _ => None,
        });
        if let Some((why, rest)) = pushed_back {
            self.limiter().pushed_back(self.provider(), why, sent, rest);
        } else if answers.iter().any(|answer| matches!(answer, Some(Ok(_)))) {
            self.limiter().kept_up(sent);
        }
    }

    fn lower_batch_limit(&self, refused: usize) {
        let before = self.batch_limit().get();
        if self.batch_limit().lower(refused) && before >= refused && self.says_batches_are_refused() {
            let provider = self.provider();
            tracing::warn!(
                provider,
                "the node refuses a batch of {refused} calls; it is asked in smaller ones"
            );
        }
    }

    /// The answers of one request to the calls at some places, with these.
    async fn call_part(&self, calls: &[Call], part: Vec<usize>) -> (Vec<usize>, Vec<PartAnswer>) {
        let calls: Vec<&Call> = part.iter().map(|place| &calls[*place]).collect();
        let answers = match self.limiter().ready(calls.len()).await {
            Ok(sent) => {
                let answers = self.call_together(&calls).await;
                self.note(sent, &answers);
                answers
            }
            Err(rest) => {
                let error = CallError::PushedBack { why: rest.to_string(), rest: None };
                calls.iter().map(|_| Some(Err(error.clone()))).collect()
            }
        };
        (part, answers)
    }

    async fn call_together(&self, calls: &[&Call]) -> Vec<PartAnswer> {
        if let [call] = calls {
            return vec![Some(self.send_call(call).await)];
        }
        let all = |error: CallError| {
            let error = error.of_batch(calls.len());
            calls.iter().map(|_| Some(Err(error.clone()))).collect()
        };
        let ResponseBody { body, ids } = match self.send_calls(calls).await {
            Ok(answer) => answer,
            Err(CallError::Unfit { .. } | CallError::Rpc { .. }) => {
                return calls.iter().map(|_| None).collect();
            }
            Err(error) => return all(error),
        };
        match sort_out(&body, ids) {
            Sorted::Answers(answers) => answers.into_iter().map(|answer| self.of_batch(answer)).collect(),
            Sorted::Other(body) => match self.reply(body) {
                Err(CallError::Rpc { .. }) => calls.iter().map(|_| None).collect(),
                Err(error) => all(error),
                Ok(_) => all(CallError::Unavailable("a batch has only one answer".into())),
            },
            Sorted::Cut => all(CallError::Unavailable("the answer is not JSON to its end".into())),
        }
    }

    fn of_batch(&self, answer: Result<Bytes, Unpaired>) -> PartAnswer {
        match answer.map_err(CallError::from).and_then(|body| self.reply(body)) {
            Err(CallError::Rpc { code: RESPONSE_TOO_LARGE, .. }) => None,
            answer => Some(answer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a body gives to the calls 5, 6 and 7.
    fn sorted(body: &str) -> Vec<String> {
        match sort_out(&Bytes::copy_from_slice(body.as_bytes()), 5..8) {
            Sorted::Answers(answers) => answers
                .into_iter()
                .map(|answer| match answer {
                    Ok(bytes) => String::from_utf8(bytes.to_vec()).expect("text"),
                    Err(why) => format!("{why:?}"),
                })
                .collect(),
            Sorted::Other(_) => vec!["other".into()],
            Sorted::Cut => vec!["cut".into()],
        }
    }

    #[test]
    fn answers_go_to_the_calls_with_their_ids() {
        let [a, b, c] = [5, 6, 7].map(|id| format!(r#"{{"result":{{"id":9}},"id":{id}}}"#));
        let answers = [a.clone(), b.clone(), c.clone()].to_vec();
        assert_eq!(sorted(&format!("[{a},{b},{c}]")), answers);
        assert_eq!(sorted(&format!(" [ {c} ,{a},\n{b} ] ")), answers);
        let foreign = r#"{"id":8,"result":1}"#;
        let nameless = r#"{"id":null,"result":1}"#;
        let text = r#"{"id":"6","result":1}"#;
        for odd in [foreign, nameless, text] {
            assert_eq!(sorted(&format!("[{odd},{c},{a}]")), [a.as_str(), "Missing", &c]);
        }
        assert_eq!(sorted(&format!("[{a},{b},{b},{c}]")), [a.as_str(), "Repeated", &c]);
        assert_eq!(sorted(&format!("[{a},{a},{c}]")), ["Repeated", "Missing", &c]);
        assert_eq!(sorted("[]"), ["Missing", "Missing", "Missing"]);
    }

    #[test]
    fn what_is_no_batch_is_told_apart() {
        assert_eq!(sorted(r#"{"error":{"code":-32600,"message":"batch too large"}}"#), ["other"]);
        assert_eq!(sorted(r#"[{"id":5,"error":{"code":-32600,"message":"batch too large"}}]"#), ["other"]);
        for cut in [r#"[{"id":5,"result":1},{"id":6"#, r#"[{"id":5,"result":1}"#, "["] {
            assert_eq!(sorted(cut), ["cut"], "{cut}");
        }
    }

    #[test]
    fn the_limit_only_falls() {
        let limit = BatchLimit::new(100);
        assert!(limit.lower(100));
        assert_eq!(limit.get(), 50);
        assert!(!limit.lower(100) && limit.lower(3));
        assert_eq!(limit.get(), 1);
        assert!(!limit.lower(1));
        assert_eq!((BatchLimit::new(0).get(), BatchLimit::new(1).get()), (1, 1));
    }
}
