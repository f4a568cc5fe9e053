//! Answers with one field wrong: `senders` notices, or the rows are the same all the same, or the
//! documentation names the field.

use std::collections::BTreeSet;

use super::{
    sealed::{Sealed, before_byzantium, of_all_types},
    *,
};

const DOCUMENTATION: &str = include_str!("../../../../../docs/datasets.md");

/// The fields that the documentation lists behind a mark.
fn documented(mark: &str) -> BTreeSet<String> {
    let list = DOCUMENTATION.split_once(&format!("<!-- {mark} -->")).unwrap().1;
    let items = list.trim_start().lines().take_while(|line| line.starts_with('-') || line.starts_with("  "));
    let text = items.collect::<Vec<_>>().join(" ");
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// A value in the answers, as steps from the top.
#[derive(Debug, Clone)]
enum Step {
    Field(String),
    At(usize),
}

/// Every value below `value`.
fn places(value: &Value, here: &mut Vec<Step>, all: &mut Vec<Vec<Step>>) {
    let mut below = |step: Step, value: &Value| {
        here.push(step);
        all.push(here.clone());
        places(value, here, all);
        here.pop();
    };
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| below(Step::Field(name.clone()), value));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, value)| below(Step::At(index), value));
        }
        _ => {}
    }
}

fn at<'a>(value: &'a mut Value, place: &[Step]) -> &'a mut Value {
    place.iter().fold(value, |value, step| match step {
        Step::Field(name) => &mut value[name],
        Step::At(index) => &mut value[index],
    })
}

/// The fields on the way, as the documentation writes them: `receipts.logs.data`.
fn name_of(place: &[Step]) -> String {
    let field = |step: &Step| if let Step::Field(name) = step { Some(name.clone()) } else { None };
    let fields: Vec<_> = place.iter().filter_map(field).collect();
    fields.strip_prefix(&["block".to_owned()]).unwrap_or(&fields).join(".")
}

/// The value, other: in each way in which it may still be what a node sends.
fn others(value: &Value) -> Vec<Value> {
    match value {
        Value::String(text) if text == "0x" => vec![json!("0x01")],
        Value::String(text) => {
            let last = if text.ends_with('1') { "2" } else { "1" };
            vec![json!(format!("{}{last}", &text[..text.len() - 1]))]
        }
        Value::Bool(flag) => vec![json!(!flag)],
        Value::Null => vec![json!(address(0xee))],
        Value::Array(items) if !items.is_empty() => {
            let twice = [&items[..], &items[items.len() - 1..]].concat();
            vec![json!([]), items[..items.len() - 1].into(), twice.into()]
        }
        _ => vec![],
    }
}

/// What becomes of changed blocks.
#[derive(Debug, Default)]
struct Found {
    changes: usize,
    /// Fields whose change is not noticed and changes rows.
    stored: BTreeSet<String>,
    /// Fields whose change is not noticed and changes nothing.
    unread: BTreeSet<String>,
}

impl Found {
    fn try_all(&mut self, sealed: &Sealed) {
        let decoder = decoder(Verify::Senders);
        let right = good(decoder.decode(&[sealed.raw()]));
        let whole = json!({"block": sealed.block, "receipts": sealed.receipts});
        let mut all = vec![];
        places(&whole, &mut vec![], &mut all);
        for place in all.iter().filter(|place| place.len() > 1) {
            let value = at(&mut whole.clone(), place).clone();
            let changed = others(&value).into_iter().map(|other| (other, true));
            let removed = (!value.is_null()).then_some((Value::Null, false));
            for (other, is_change) in changed.chain(removed) {
                let mut whole = whole.clone();
                *at(&mut whole, place) = other;
                let raw = RawBlock {
                    number: right.blocks[0].number,
                    block: answer(&whole["block"]),
                    receipts: Some(answer(&whole["receipts"])),
                };
                self.changes += 1;
                let Some(rows) = decoder.decode(&[raw]).rows else { continue };
                let is_same = rows.blocks == right.blocks
                    && rows.tables.iter().zip(&right.tables).all(|(one, other)| one.batch == other.batch);
                match (is_same, is_change) {
                    (false, _) => drop(self.stored.insert(name_of(place))),
                    (true, true) => drop(self.unread.insert(name_of(place))),
                    // A field that may be left out.
                    (true, false) => {}
                }
            }
        }
    }
}

#[test]
fn every_change_of_a_field_is_caught_but_of_those_that_the_documentation_names() {
    let mut found = Found::default();
    found.try_all(&of_all_types());
    found.try_all(&before_byzantium());
    assert!(found.changes > 1000, "{} changes", found.changes);
    assert_eq!(found.stored, documented("stored, but not checked"));
    assert_eq!(found.unread, documented("not read"));
}
