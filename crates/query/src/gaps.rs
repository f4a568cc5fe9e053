//! Blocks that are not stored though later ones are: an answer that reads such a table says so.
//!
//! Tasks of a job end in any order, and a dump may begin anywhere, so that there are holes while blocks are
//! extracted, and maybe for good.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use arrow::datatypes::SchemaRef;
use datafusion::{common::tree_node::TreeNodeRecursion, logical_expr::LogicalPlan};
use nozzle_core::{BlockNum, BlockRange, DatasetRef, Span, range::MAX_BLOCK};
use nozzle_metadata::{CommitSeq, Location, LocationId, Revision, Scan};
use serde_json::{Value, json};

use crate::{error::QueryError, session::Session};

/// The key of a schema's metadata that names the holes.
pub const GAPS: &str = "nozzle.gaps";

/// Holes that an answer names; of more it tells the number.
const NAMED: usize = 100;

/// Tables that are remembered.
const REMEMBERED: usize = 10_000;

/// The holes of tables, each with its name as queries write it. Tables without holes are not among them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gaps(pub BTreeMap<String, Arc<Vec<BlockRange>>>);

impl Gaps {
    /// As answers have it: `{"dataset.table": [{"start": 0, "end": 9}, …]}`, both ends among the missing blocks;
    /// `{"more": n}` ends a list that was cut. `None` where nothing is missing.
    pub fn to_json(&self) -> Option<Value> {
        let each = NAMED / self.0.len().max(1);
        let of_table = |(table, gaps): (&String, &Arc<Vec<BlockRange>>)| {
            let named = gaps.iter().take(each.max(1));
            let mut list: Vec<_> =
                named.map(|gap| json!({ "start": gap.start(), "end": gap.end() })).collect();
            if let Some(more) = gaps.len().checked_sub(list.len()).filter(|more| *more > 0) {
                list.push(json!({ "more": more }));
            }
            (table.clone(), Value::Array(list))
        };
        (!self.0.is_empty()).then(|| Value::Object(self.0.iter().map(of_table).collect()))
    }
}

impl std::fmt::Display for Gaps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN: usize = 3;
        for (index, (table, gaps)) in self.0.iter().enumerate() {
            let shown: Vec<_> =
                gaps.iter().take(SHOWN).map(|gap| format!("{} to {}", gap.start(), gap.end())).collect();
            let more = gaps.len().saturating_sub(SHOWN);
            let more = if more == 0 { String::new() } else { format!(" and {more} more ranges") };
            let before = if index == 0 { "" } else { "; " };
            write!(f, "{before}`{table}` lacks the blocks {}{more}", shown.join(", "))?;
        }
        Ok(())
    }
}

/// The holes of a table at the moment of its newest commit.
type Found = (CommitSeq, Arc<Vec<BlockRange>>);

/// What was found of tables, until their next commit.
#[derive(Debug, Default)]
pub(crate) struct KnownGaps(Mutex<HashMap<LocationId, Found>>);

impl KnownGaps {
    fn of(&self, location: LocationId, changed: CommitSeq) -> Option<Arc<Vec<BlockRange>>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&location).filter(|(of, _)| *of == changed).map(|(_, gaps)| Arc::clone(gaps))
    }

    fn keep(&self, location: LocationId, changed: CommitSeq, gaps: &Arc<Vec<BlockRange>>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(location, (changed, Arc::clone(gaps)));
    }
}

impl Session {
    /// The holes of the tables that a plan reads, as this session sees them: from the first block that the dataset
    /// is to have to the last one that is stored.
    pub async fn gaps(&self, plan: &LogicalPlan) -> Result<Gaps, QueryError> {
        let mut tables = BTreeSet::new();
        plan.apply_with_subqueries(|node| {
            if let LogicalPlan::TableScan(scan) = node
                && let Some(dataset) = scan.table_name.schema()
            {
                tables.insert((dataset.to_owned(), scan.table_name.table().to_owned()));
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        let mut found = Gaps::default();
        for (dataset, table) in tables {
            let Ok(reference) = dataset.parse::<DatasetRef>() else { continue };
            let Some((_, Some(revision))) = self.active(&reference) else { continue };
            let location = revision.locations.iter().find(|location| location.table.as_str() == table);
            let Some(location) = location else { continue };
            let gaps = self.gaps_of(location, revision, self.start_of(&reference)?).await?;
            if !gaps.is_empty() {
                found.0.insert(format!("{dataset}.{table}"), gaps);
            }
        }
        Ok(found)
    }

    async fn gaps_of(
        &self,
        location: &Location,
        revision: &Revision,
        start: BlockNum,
    ) -> Result<Arc<Vec<BlockRange>>, QueryError> {
        if let Some(known) = self.known_gaps().of(location.id, revision.changed) {
            return Ok(known);
        }
        let stored = self.metadata().coverage(&[revision.id]).await?;
        let stored = stored.iter().find(|of| of.location == location.id && of.changed == revision.changed);
        let is_whole = stored.is_some_and(|stored| match stored.totals.blocks {
            Some(blocks) => stored.linked_from(start) == Some(blocks.end()),
            None => true,
        });
        let gaps = match (is_whole, BlockRange::new(start, MAX_BLOCK)) {
            (false, Some(range)) => {
                let scan = Scan { location: location.id, sequence: self.snapshot().sequence, range };
                between(start, &self.metadata().spans(&scan).await?)
            }
            _ => vec![],
        };
        let gaps = Arc::new(gaps);
        self.known_gaps().keep(location.id, revision.changed, &gaps);
        Ok(gaps)
    }

    /// The columns of a plan's answer, with the holes of what it reads.
    pub async fn answer_schema(&self, plan: &LogicalPlan) -> Result<SchemaRef, QueryError> {
        let schema = Self::schema(plan);
        let Some(gaps) = self.gaps(plan).await?.to_json() else { return Ok(schema) };
        let mut schema = schema.as_ref().clone();
        schema.metadata.insert(GAPS.into(), gaps.to_string());
        Ok(Arc::new(schema))
    }
}

/// What lies between spans, which are ascending, and before the first.
fn between(start: BlockNum, spans: &[Span]) -> Vec<BlockRange> {
    let mut next = start;
    let mut gaps = vec![];
    for span in spans {
        let before = span.range.start().checked_sub(1).filter(|before| *before >= next);
        gaps.extend(before.and_then(|before| BlockRange::new(next, before)));
        next = next.max(span.range.end().saturating_add(1));
    }
    gaps
}

#[cfg(test)]
mod tests {
    use nozzle_core::BlockHash;

    use super::*;

    fn range(start: u64, end: u64) -> BlockRange {
        BlockRange::new(start, end).expect("a range")
    }

    #[test]
    fn holes_lie_below_and_between_what_is_stored() {
        let spans = |ranges: &[(u64, u64)]| -> Vec<Span> {
            let span = |(start, end): &(u64, u64)| Span {
                range: range(*start, *end),
                hash: BlockHash::ZERO,
                prev_hash: BlockHash::ZERO,
            };
            ranges.iter().map(span).collect()
        };
        for (stored, expected) in [
            (&[][..], &[][..]),
            (&[(5, 9), (10, 12)], &[]),
            (&[(7, 9), (12, 12), (20, 30)], &[(5, 6), (10, 11), (13, 19)]),
            (&[(0, 9), (11, 12)], &[(10, 10)]),
        ] {
            let expected: Vec<_> = expected.iter().map(|(start, end)| range(*start, *end)).collect();
            assert_eq!(between(5, &spans(stored)), expected, "{stored:?}");
        }
    }

    #[test]
    fn a_long_list_is_cut_and_says_so() {
        assert_eq!(Gaps::default().to_json(), None);
        let many: Vec<_> = (0..150).map(|index| range(2 * index, 2 * index)).collect();
        let gaps = Gaps(BTreeMap::from([("eth.logs".to_owned(), Arc::new(many))]));
        let list = gaps.to_json().expect("holes")["eth.logs"].clone();
        let list = list.as_array().expect("a list");
        assert_eq!(
            (list.len(), &list[1], &list[100]),
            (101, &json!({"start": 2, "end": 2}), &json!({"more": 50}))
        );
        let text = gaps.to_string();
        assert_eq!(text, "`eth.logs` lacks the blocks 0 to 0, 2 to 2, 4 to 4 and 147 more ranges");
    }
}
