//! Answers made wrong: whole JSON of the right form that says something else.

use serde_json::{Value, json};

use crate::rng::Rng;

/// The call of which the answer to `call` becomes another with `params`, as text.
pub(super) fn call_with(id: &str, method: &str, params: &Value) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#)
}

/// An answer with a result of JSON text.
pub(super) fn result(id: &str, result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)
}

/// An error answer.
pub(super) fn error(id: &str, code: i32, message: &str) -> String {
    let error = json!({ "code": code, "message": message });
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
}

/// Receipts without one of their logs; `None` where there is none.
pub(super) fn without_a_log(mut answer: Value, rng: &mut Rng) -> Option<Value> {
    let receipts = answer.get_mut("result")?.as_array_mut()?;
    let mut lists: Vec<&mut Vec<Value>> =
        receipts.iter_mut().filter_map(|receipt| receipt.get_mut("logs")?.as_array_mut()).collect();
    lists.retain(|logs| !logs.is_empty());
    let count = lists.len() as u64;
    let logs = lists.into_iter().nth(rng.below(count) as usize)?;
    logs.remove(rng.below(logs.len() as u64) as usize);
    Some(answer)
}

/// A block with another value of a transaction, or receipts with other data of a log; `None` where
/// there is none.
pub(super) fn with_another_amount(mut answer: Value, rng: &mut Rng) -> Option<Value> {
    let result = answer.get_mut("result")?;
    let mut amounts: Vec<&mut Value> = match result.get_mut("transactions") {
        Some(transactions) => {
            transactions.as_array_mut()?.iter_mut().filter_map(|tx| tx.get_mut("value")).collect()
        }
        None => {
            let lists = result.as_array_mut()?.iter_mut().filter_map(|receipt| receipt.get_mut("logs"));
            lists.filter_map(Value::as_array_mut).flatten().filter_map(|log| log.get_mut("data")).collect()
        }
    };
    let count = amounts.len() as u64;
    let amount = amounts.get_mut(rng.below(count) as usize)?;
    **amount = Value::from(another(amount.as_str()?));
    Some(answer)
}

/// Another last digit, which leaves a quantity without leading zeros; a byte where there is none.
fn another(hex: &str) -> String {
    let (start, last) = hex.split_at(hex.len() - 1);
    match u8::from_str_radix(last, 16) {
        Ok(digit) => format!("{start}{:x}", (digit + 1) % 16),
        Err(_) => format!("{hex}01"),
    }
}

/// The answers of a batch in another order.
pub(super) fn reordered(mut answers: Vec<String>, rng: &mut Rng) -> Option<Vec<String>> {
    if answers.len() < 2 {
        return None;
    }
    let by = 1 + rng.below(answers.len() as u64 - 1);
    answers.rotate_left(by as usize);
    Some(answers)
}

/// One answer of a batch in the place of another one, so that their number is right.
pub(super) fn duplicated(mut answers: Vec<String>, rng: &mut Rng) -> Option<Vec<String>> {
    if answers.len() < 2 {
        return None;
    }
    let lost = rng.below(answers.len() as u64) as usize;
    answers[lost] = answers[(lost + 1) % answers.len()].clone();
    Some(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipts(logs: [usize; 3]) -> Value {
        let of = |count: usize| -> Vec<Value> {
            (0..count).map(|log| json!({ "data": format!("0x{log}") })).collect()
        };
        json!({ "result": logs.map(|count| json!({ "logs": of(count) })) })
    }

    fn counts(answer: &Value) -> Vec<usize> {
        let receipts = answer["result"].as_array().expect("receipts");
        receipts.iter().map(|receipt| receipt["logs"].as_array().expect("logs").len()).collect()
    }

    #[test]
    fn exactly_one_log_goes_missing_where_there_is_one() {
        let mut rng = Rng::new(1);
        for _ in 0..20 {
            let without = counts(&without_a_log(receipts([2, 0, 1]), &mut rng).expect("a log less"));
            assert!(without == [1, 0, 1] || without == [2, 0, 0], "{without:?}");
        }
        assert_eq!(without_a_log(receipts([0, 0, 0]), &mut rng), None);
        assert_eq!(without_a_log(json!({ "result": null }), &mut rng), None);
    }

    #[test]
    fn exactly_one_amount_changes_where_there_is_one() {
        let mut rng = Rng::new(2);
        let block = json!({ "result": { "transactions": [{ "value": "0x0" }, { "value": "0x1f" }] } });
        let changed = with_another_amount(block.clone(), &mut rng).expect("another value");
        let values = ["/result/transactions/0/value", "/result/transactions/1/value"];
        let differing = values.iter().filter(|at| changed.pointer(at) != block.pointer(at)).count();
        assert_eq!(differing, 1);
        let changed = with_another_amount(receipts([1, 0, 0]), &mut rng).expect("other data");
        assert_eq!(changed["result"][0]["logs"][0]["data"], "0x1");
        assert_eq!(with_another_amount(json!({ "result": { "transactions": [] } }), &mut rng), None);
        assert_eq!(with_another_amount(receipts([0, 0, 0]), &mut rng), None);
        assert_eq!([another("0x0"), another("0xff"), another("0x")], ["0x1", "0xf0", "0x01"]);
    }

    #[test]
    fn a_batch_keeps_its_number_of_answers() {
        let mut rng = Rng::new(3);
        let answers: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
        let mut again = reordered(answers.clone(), &mut rng).expect("another order");
        assert_ne!(again, answers);
        again.sort();
        assert_eq!(again, answers);
        let mut twice = duplicated(answers.clone(), &mut rng).expect("one twice");
        assert_eq!(twice.len(), 3);
        twice.sort();
        twice.dedup();
        assert_eq!(twice.len(), 2);
        assert_eq!(reordered(vec!["a".into()], &mut rng).or(duplicated(vec!["a".into()], &mut rng)), None);
    }
}
