//! Segments: a block range of one table, linked by hashes to its neighbours, and the file that
//! holds its rows.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    block::{BlockHash, BlockId, BlockLink, BlockNum, SourceCursor},
    name::{Network, TableName},
    range::BlockRange,
};

/// One storage revision of a dataset: all of its tables, built together and switched together.
/// A UUID of version 7, so that revisions sort by when they were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RevisionId(pub Uuid);

impl RevisionId {
    /// A new revision's id.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for RevisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The storage revisions that rows of a derived dataset were computed from: those of all datasets that it is made
/// of, down to the raw ones. Empty where nobody has written them down.
///
/// As text their ids, ascending, between commas.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SourceRevisions(pub BTreeSet<RevisionId>);

impl SourceRevisions {
    /// Whether somebody has written them down.
    pub fn is_known(&self) -> bool {
        !self.0.is_empty()
    }
}

impl fmt::Display for SourceRevisions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<String> = self.0.iter().map(RevisionId::to_string).collect();
        f.write_str(&ids.join(","))
    }
}

impl FromStr for SourceRevisions {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        let ids = text.split(',').filter(|id| !id.is_empty());
        ids.map(|id| id.parse().map(RevisionId)).collect::<Result<_, _>>().map(Self)
    }
}

/// A block range and the hashes that link it to its neighbours.
///
/// A range in which the chain skipped every number carries its predecessor's hash as both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    /// The block numbers covered.
    pub range: BlockRange,
    /// The parent hash of the first block.
    pub prev_hash: BlockHash,
    /// The hash of the last block.
    pub hash: BlockHash,
}

impl Span {
    /// The span of one block.
    pub fn of_block(block: &BlockLink) -> Self {
        Self { range: BlockRange::single(block.number), prev_hash: block.parent_hash, hash: block.hash }
    }

    /// The last block covered. Where the chain skipped the last numbers of the range, the number
    /// is one of those and the hash that of the block before them.
    pub fn tip(&self) -> BlockId {
        BlockId { number: self.range.end(), hash: self.hash }
    }

    /// Whether `next` starts right behind this span.
    pub fn touches(&self, next: &Span) -> bool {
        self.range.end() + 1 == next.range.start()
    }

    /// Whether `next` starts right behind this span, on the same chain.
    pub fn links_to(&self, next: &Span) -> bool {
        self.touches(next) && self.hash == next.prev_hash
    }
}

/// What a file says of itself under the key [`FileMetadata::KEY`] of its Parquet metadata, so that
/// the metadata database can be rebuilt from the files alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMetadata {
    /// The table whose rows the file holds.
    pub table: TableName,
    /// The name of the file.
    pub filename: String,
    /// When the file was written, RFC 3339 UTC.
    pub created_at: String,
    /// The block ranges covered; today always one.
    pub ranges: Vec<RangeMetadata>,
    /// The tables of the dataset that have no row, and so no file, in this file's range. Only the
    /// first table with a file of its own lists them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub empty_tables: Vec<TableName>,
}

impl FileMetadata {
    /// The key of the Parquet key-value metadata.
    pub const KEY: &str = "nozzle_metadata";
}

/// Where a file stands among the others of its revision, under the key [`FileOrigin::KEY`] of its
/// Parquet metadata: what a database that is rebuilt from the files needs to tell which of them count.
///
/// All tables of a revision are cut at the same blocks, and the files of one cut have the same name, each
/// in its table's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileOrigin {
    /// The newest commit of the database when the writer claimed the file's blocks. Whatever the file
    /// replaces was committed by then: of two files of a table that share a block, the one with the
    /// greater number came later.
    pub after_commit: u64,
    /// The lease that it was written under: decides where two writers had seen the same commit.
    pub lease: i64,
    /// The last block that a revision still being built needs before it is read; absent in the files
    /// of one that is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub building_until: Option<BlockNum>,
    /// What the rows were computed from, where the dataset is derived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources: Option<SourceRevisions>,
    /// The dataset's manifest. Only the file that lists its empty sisters has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<serde_json::Value>,
    /// Where the source's stream goes on behind the last block, where it has said so. In the file that has
    /// the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<SourceCursor>,
}

impl FileOrigin {
    /// The key of the Parquet key-value metadata.
    pub const KEY: &str = "nozzle_origin";

    /// The order of files that share a block: the greatest one counts.
    pub fn order(&self) -> (u64, i64) {
        (self.after_commit, self.lease)
    }
}

/// A [`Span`] as files and streams write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeMetadata {
    /// First and last block.
    pub numbers: BlockRange,
    /// The network that the blocks are of.
    pub network: Network,
    /// The hash of the last block.
    pub hash: BlockHash,
    /// The parent hash of the first block.
    pub prev_hash: BlockHash,
}

impl RangeMetadata {
    /// The span on its network.
    pub fn new(span: Span, network: Network) -> Self {
        Self { numbers: span.range, network, hash: span.hash, prev_hash: span.prev_hash }
    }

    /// The span without its network.
    pub fn span(&self) -> Span {
        Span { range: self.numbers, prev_hash: self.prev_hash, hash: self.hash }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_revisions_are_read_as_they_are_written() {
        let [one, other] = [RevisionId::generate(), RevisionId::generate()];
        let both = SourceRevisions([other, one].into());
        assert_eq!(both.to_string(), format!("{},{}", one.min(other), one.max(other)));
        assert_eq!(both.to_string().parse(), Ok(both));
        assert_eq!("".parse(), Ok(SourceRevisions::default()));
        assert!("x".parse::<SourceRevisions>().is_err());
    }

    #[test]
    fn file_metadata_has_the_documented_form() {
        let span = Span {
            range: BlockRange::new(0, 2).expect("a range"),
            prev_hash: BlockHash::ZERO,
            hash: BlockHash::repeat_byte(0xab),
        };
        let metadata = FileMetadata {
            table: "logs".parse().expect("a name"),
            filename: "000000000-0000000000000001.parquet".into(),
            created_at: "2024-01-01T00:00:00Z".into(),
            ranges: vec![RangeMetadata::new(span, "anvil".parse().expect("a name"))],
            empty_tables: vec![],
        };
        let json = serde_json::to_value(&metadata).expect("it serialises");
        let expected = serde_json::json!({
            "table": "logs",
            "filename": "000000000-0000000000000001.parquet",
            "created_at": "2024-01-01T00:00:00Z",
            "ranges": [{
                "numbers": {"start": 0, "end": 2},
                "network": "anvil",
                "hash": format!("0x{}", "ab".repeat(32)),
                "prev_hash": format!("0x{}", "00".repeat(32)),
            }],
        });
        assert_eq!(json, expected);
        let back: FileMetadata = serde_json::from_value(json).expect("it parses");
        assert_eq!(back.ranges[0].span(), span);
    }
}
