//! The logs of blocks, cut out of the text of their receipts.

use std::ops::RangeInclusive;

use alloy_primitives::{Address, B256};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Which logs of its blocks a call wants.
#[derive(Debug, Default, Deserialize)]
pub(super) struct LogFilter {
    #[serde(default)]
    address: Wanted<Address>,
    /// By position; a log may have more of them, not fewer.
    #[serde(default)]
    topics: Vec<Wanted<B256>>,
}

/// What one field of a log may be. A list stands for any of its items, an empty one for anything.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
enum Wanted<T> {
    One(T),
    OneOf(Vec<T>),
    #[default]
    Anything,
}

#[derive(Deserialize)]
struct Receipt<'a> {
    #[serde(borrow)]
    logs: &'a RawValue,
}

#[derive(Deserialize)]
struct Log {
    address: Address,
    topics: Vec<B256>,
}

impl<T: PartialEq> Wanted<T> {
    fn takes_all(&self) -> bool {
        match self {
            Self::One(_) => false,
            Self::OneOf(items) => items.is_empty(),
            Self::Anything => true,
        }
    }

    fn takes(&self, value: &T) -> bool {
        match self {
            Self::One(item) => item == value,
            Self::OneOf(items) => items.is_empty() || items.contains(value),
            Self::Anything => true,
        }
    }
}

impl LogFilter {
    fn takes_all(&self) -> bool {
        self.address.takes_all() && self.topics.is_empty()
    }

    fn takes(&self, log: &Log) -> bool {
        self.address.takes(&log.address)
            && self.topics.len() <= log.topics.len()
            && self.topics.iter().zip(&log.topics).all(|(wanted, topic)| wanted.takes(topic))
    }
}

/// The list of all logs in a list of receipts, each as the text that it is there; `None` where these
/// are not receipts.
pub(super) fn logs_of(receipts: &[u8]) -> Option<Bytes> {
    let receipts: Vec<Receipt<'_>> = serde_json::from_slice(receipts).ok()?;
    Some(joined(receipts.iter().map(|receipt| receipt.logs.get())).into())
}

/// One list of those logs of some blocks that the filter takes. `logs` gives the list of a block;
/// where it has none there is no answer.
pub(super) fn logs_in(
    blocks: RangeInclusive<u64>,
    filter: &LogFilter,
    logs: impl Fn(u64) -> Option<Bytes>,
) -> Option<Bytes> {
    let lists: Vec<Bytes> = blocks.map(logs).collect::<Option<_>>()?;
    let texts = lists.iter().map(|list| std::str::from_utf8(list)).collect::<Result<Vec<_>, _>>().ok()?;
    if filter.takes_all() {
        return Some(match lists.as_slice() {
            [list] => list.clone(),
            _ => joined(texts.into_iter()).into(),
        });
    }
    let mut taken = Vec::new();
    for text in texts {
        for log in serde_json::from_str::<Vec<&RawValue>>(text).ok()? {
            if filter.takes(&serde_json::from_str(log.get()).ok()?) {
                taken.push(log.get());
            }
        }
    }
    Some(format!("[{}]", taken.join(",")).into())
}

/// One list of the items of many.
fn joined<'a>(lists: impl Iterator<Item = &'a str> + Clone) -> String {
    let mut out = String::with_capacity(2 + lists.clone().map(str::len).sum::<usize>());
    out.push('[');
    for list in lists {
        let items = list.trim().trim_start_matches('[').trim_end_matches(']').trim();
        if !items.is_empty() {
            if out.len() > 1 {
                out.push(',');
            }
            out.push_str(items);
        }
    }
    out.push(']');
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn log(address: u8, topics: &[u8]) -> String {
        let topics: Vec<B256> = topics.iter().map(|topic| B256::repeat_byte(*topic)).collect();
        json!({ "address": Address::repeat_byte(address), "topics": topics, "data": "0x" }).to_string()
    }

    #[test]
    fn logs_are_the_text_that_they_are_in_the_receipts() {
        let (a, b, c) = (log(1, &[]), log(2, &[3]), log(4, &[5, 6]));
        let receipts =
            format!(r#"[{{"logs":[]}},{{"logs":[ {a}, {b} ],"x":1}}, {{"logs":[]}},{{"y":2,"logs":[{c}]}}]"#);
        let logs = logs_of(receipts.as_bytes()).expect("receipts");
        assert_eq!(logs, format!("[{a}, {b},{c}]"));
        assert_eq!(logs_of(b"[]").expect("receipts"), "[]");
        assert_eq!(logs_of(br#"[{"x":1}]"#), None);
        let list = |number| if number < 3 { Some(logs.clone()) } else { None };
        let none = LogFilter::default();
        assert_eq!(logs_in(2..=2, &none, list), Some(logs.clone()));
        assert_eq!(logs_in(1..=2, &none, list).expect("logs"), format!("[{a}, {b},{c},{a}, {b},{c}]"));
        assert_eq!(logs_in(2..=3, &none, list), None);
    }

    #[test]
    fn a_filter_takes_addresses_and_topics_by_position() {
        let logs = [log(1, &[]), log(1, &[3]), log(2, &[3, 4]), log(2, &[4, 3])];
        let list = format!("[{}]", logs.join(","));
        let (address, topic) = (Address::repeat_byte, B256::repeat_byte);
        for (filter, expected) in [
            (json!({ "address": address(1) }), vec![0, 1]),
            (json!({ "address": [address(2), address(9)] }), vec![2, 3]),
            (json!({ "address": [] }), vec![0, 1, 2, 3]),
            (json!({ "topics": [topic(3)] }), vec![1, 2]),
            (json!({ "topics": [null, topic(3)] }), vec![3]),
            (json!({ "topics": [[topic(3), topic(4)]], "address": address(2) }), vec![2, 3]),
            (json!({ "topics": [null] }), vec![1, 2, 3]),
            (json!({ "topics": [[]] }), vec![1, 2, 3]),
        ] {
            let parsed = LogFilter::deserialize(&filter).expect("a filter");
            let taken = logs_in(7..=7, &parsed, |_| Some(list.clone().into())).expect("logs");
            let expected: Vec<&str> = expected.into_iter().map(|index: usize| &*logs[index]).collect();
            assert_eq!(taken, format!("[{}]", expected.join(",")), "{filter}");
        }
        assert!(LogFilter::deserialize(json!({ "address": "0x1" })).is_err());
    }
}
