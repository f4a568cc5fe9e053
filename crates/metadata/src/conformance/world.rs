//! A dataset with an active revision of two tables, and words to write to it.

use std::{ops::Deref, sync::Arc};

use bytes::Bytes;
use nozzle_core::{BlockHash, BlockNum, BlockRange, DatasetKind, RevisionId, Span};

use super::Database;
use crate::*;

pub(super) struct World {
    pub(super) store: Arc<dyn MetadataStore>,
    pub(super) dataset: DatasetId,
    pub(super) revision: Revision,
    // Last, so that it outlives the connections.
    pub(super) database: Database,
}

impl Deref for World {
    type Target = dyn MetadataStore;

    fn deref(&self) -> &Self::Target {
        &*self.store
    }
}

impl World {
    pub(super) async fn new(database: Database) -> Self {
        let store = database.open().await;
        let dataset = store.register_dataset(&new_dataset("chain", "0.0.0", "{}")).await.unwrap().id();
        let revision = store.create_revision(&new_revision(dataset, RevisionState::Active)).await.unwrap();
        Self { store, dataset, revision, database }
    }

    /// The revision's `n`th table.
    pub(super) fn table(&self, n: usize) -> LocationId {
        self.revision.locations[n].id
    }

    pub(super) async fn claim_one(&self, range: BlockRange) -> Lease {
        let claim = self.claim(self.revision.id, &[range], "a test").await.unwrap();
        assert_eq!(claim.held, []);
        claim.granted[0]
    }

    /// A commit of the spans in both tables, each with a file.
    pub(super) fn commit_of(&self, lease: LeaseId, spans: &[Span]) -> Commit {
        let tables = self.revision.locations.iter();
        let added = tables.flat_map(|table| spans.iter().map(|span| segment(table.id, *span))).collect();
        Commit { lease, added, replaced: vec![] }
    }

    pub(super) async fn add(&self, lease: LeaseId, spans: &[Span]) -> Result<CommitSeq, CommitError> {
        self.store.commit(&self.commit_of(lease, spans)).await
    }

    pub(super) async fn replace(
        &self,
        lease: LeaseId,
        replaced: &[SegmentId],
        spans: &[Span],
    ) -> Result<CommitSeq, CommitError> {
        let commit = Commit { replaced: replaced.to_vec(), ..self.commit_of(lease, spans) };
        self.store.commit(&commit).await
    }

    /// What is seen now of the `n`th table.
    pub(super) async fn seen(&self, n: usize) -> Vec<Segment> {
        let sequence = self.sequence().await.unwrap();
        self.segments(&self.scan(n, sequence)).await.unwrap()
    }

    pub(super) fn scan(&self, n: usize, sequence: CommitSeq) -> Scan {
        Scan { location: self.table(n), sequence, range: BlockRange::from(0) }
    }

    /// The live segments of both tables that begin at a block.
    pub(super) async fn at(&self, start: BlockNum) -> Vec<SegmentId> {
        let mut found = vec![];
        for n in [0, 1] {
            let seen = self.seen(n).await;
            found.extend(seen.iter().filter(|segment| segment.span.range.start() == start).map(|s| s.id));
        }
        found
    }
}

pub(super) fn new_dataset(name: &str, version: &str, manifest: &str) -> NewDataset {
    NewDataset {
        name: name.parse().unwrap(),
        version: version.parse().unwrap(),
        kind: DatasetKind::EvmRpc,
        network: Some("anvil".parse().unwrap()),
        manifest: manifest.into(),
    }
}

pub(super) fn new_revision(dataset: DatasetId, state: RevisionState) -> NewRevision {
    let id = RevisionId::generate();
    let location = |table: &str| NewLocation {
        table: table.parse().unwrap(),
        url: format!("file:///data/chain/{table}/{id}/"),
        schema: format!(r#"{{"of":"{table}"}}"#),
    };
    NewRevision { id, dataset, state, tables: vec![location("transactions"), location("blocks")] }
}

pub(super) fn range(start: BlockNum, end: BlockNum) -> BlockRange {
    BlockRange::new(start, end).unwrap()
}

/// The hash of a block on one of the chains that a test knows.
pub(super) fn hash_on(chain: u8, number: BlockNum) -> BlockHash {
    let mut bytes = [chain; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    BlockHash::from(bytes)
}

/// The span of a range on a chain.
pub(super) fn span_on(chain: u8, start: BlockNum, end: BlockNum) -> Span {
    let prev_hash = start.checked_sub(1).map_or(BlockHash::ZERO, |parent| hash_on(chain, parent));
    Span { range: range(start, end), prev_hash, hash: hash_on(chain, end) }
}

/// The span of a range on the chain that most tests are about.
pub(super) fn span(start: BlockNum, end: BlockNum) -> Span {
    span_on(1, start, end)
}

pub(super) fn segment(location: LocationId, span: Span) -> NewSegment {
    let file = SegmentFile {
        name: format!("{:09}-{}.parquet", span.range.start(), uuid::Uuid::now_v7().simple()),
        size_bytes: 100 * span.range.len(),
        rows: span.range.len(),
        e_tag: Some("tag".into()),
        version: None,
    };
    let footer = Bytes::from(format!("footer of {}", file.name));
    NewSegment { location, span, file: Some(NewFile { file, footer }), sources: None, cursor: None }
}

/// Asserts that something is refused, in words that contain the given ones.
#[track_caller]
pub(super) fn assert_refused<T: std::fmt::Debug>(result: Result<T>, words: &str) {
    match result {
        Err(error @ (MetadataError::Refused(_) | MetadataError::LeaseEnded(_))) => {
            assert!(error.to_string().contains(words), "`{error}` does not say `{words}`");
        }
        other => panic!("{other:?} should be refused because of `{words}`"),
    }
}

/// Asserts that a commit is invalid, in words that contain the given ones.
#[track_caller]
pub(super) fn assert_invalid(result: Result<CommitSeq, CommitError>, words: &str) {
    match result {
        Err(CommitError::Invalid(why)) => assert!(why.contains(words), "`{why}` does not say `{words}`"),
        other => panic!("{other:?} should be invalid because of `{words}`"),
    }
}
