//! What kinds of datasets there are.

use arrow_schema::DataType;
use serde::{Deserialize, Serialize};

use crate::{name::TableName, schema::TableDef};

/// The table of a raw dataset that has a row for each block, where its kind has such a table.
pub const BLOCKS: &str = "blocks";

/// What tells the blocks of a raw dataset apart, by what it stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToldBy {
    /// The table [`BLOCKS`], by its columns of a block's hash and of its parent's.
    Blocks([&'static str; 2]),
    /// The rows of all tables, by their blocks' hashes; of blocks without rows nothing is known.
    Rows,
}

/// Where a dataset's rows come from. Matched exhaustively: a new kind is a new arm everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DatasetKind {
    /// An Ethereum execution client's JSON-RPC.
    EvmRpc,
    /// A Firehose endpoint.
    Firehose,
    /// The output of a Substreams module.
    Substreams,
    /// The Ethereum Beacon API.
    EthBeacon,
    /// SQL over other datasets, in one manifest.
    Manifest,
    /// SQL over other datasets, one file a table.
    Sql,
}

impl DatasetKind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [DatasetKind; 6] =
        [Self::EvmRpc, Self::Firehose, Self::Substreams, Self::EthBeacon, Self::Manifest, Self::Sql];

    /// The columns of the table `blocks` that tell a block's hash and its parent's; `None` where a kind has no such
    /// table.
    pub fn link_columns(self) -> Option<[&'static str; 2]> {
        match self {
            Self::EvmRpc | Self::Firehose => Some(["hash", "parent_hash"]),
            Self::EthBeacon => Some(["root", "parent_root"]),
            Self::Substreams | Self::Manifest | Self::Sql => None,
        }
    }

    /// The column of a raw dataset's table that has the hash of each row's block.
    pub fn hash_column(self, table: &TableName) -> &'static str {
        match self.link_columns() {
            Some([hash, _]) if table.as_str() == BLOCKS => hash,
            _ if self == Self::EthBeacon => "block_root",
            _ => "block_hash",
        }
    }

    /// What tells the blocks of a raw dataset that stores these tables. The error is the table and its column that
    /// would have to be stored too.
    pub fn told_by(self, tables: &[TableDef]) -> Result<ToldBy, (TableName, &'static str)> {
        let has = |table: &TableDef, column: &str| {
            let field = table.schema.field_with_name(column);
            field.is_ok_and(|field| *field.data_type() == DataType::FixedSizeBinary(32))
        };
        if let Some(columns) = self.link_columns()
            && let Some(blocks) = tables.iter().find(|table| table.name.as_str() == BLOCKS)
            && columns.iter().all(|column| has(blocks, column))
        {
            return Ok(ToldBy::Blocks(columns));
        }
        // A table without would have rows that are replaced and nobody is told of.
        match tables.iter().find(|table| !has(table, self.hash_column(&table.name))) {
            Some(table) => Err((table.name.clone(), self.hash_column(&table.name))),
            None => Ok(ToldBy::Rows),
        }
    }

    /// The kind as manifests and providers write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EvmRpc => "evm-rpc",
            Self::Firehose => "firehose",
            Self::Substreams => "substreams",
            Self::EthBeacon => "eth-beacon",
            Self::Manifest => "manifest",
            Self::Sql => "sql",
        }
    }
}

impl std::fmt::Display for DatasetKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for DatasetKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|kind| kind.as_str()).collect();
            format!("`{text}` is not a kind of dataset; the kinds are {}", known.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use arrow_schema::Field;

    use super::*;

    #[test]
    fn blocks_are_told_by_their_table_or_by_all_rows() {
        let told_by = |kind: DatasetKind, tables: &[(&str, &[&str])]| {
            let hash = |name: &&str| Field::new(*name, DataType::FixedSizeBinary(32), false);
            let table = |(name, columns): &(&str, &[&str])| {
                TableDef::new(name.parse().expect("a name"), columns.iter().map(hash).collect())
            };
            kind.told_by(&tables.iter().map(table).collect::<Vec<_>>())
                .map_err(|(table, column)| format!("{table}.{column}"))
        };
        use DatasetKind::{EthBeacon, EvmRpc, Substreams};
        let evm: &[(&str, &[&str])] = &[("blocks", &["hash", "parent_hash"]), ("logs", &[])];
        assert_eq!(told_by(EvmRpc, evm), Ok(ToldBy::Blocks(["hash", "parent_hash"])));
        assert_eq!(told_by(EvmRpc, &[("blocks", &["hash"]), ("logs", &["block_hash"])]), Ok(ToldBy::Rows));
        assert_eq!(told_by(EvmRpc, &[("logs", &["block_hash"])]), Ok(ToldBy::Rows));
        assert_eq!(told_by(EvmRpc, &[("blocks", &["hash"]), ("logs", &[])]), Err("logs.block_hash".into()));
        assert_eq!(
            told_by(EthBeacon, &[("blocks", &["root", "parent_root"])]),
            Ok(ToldBy::Blocks(["root", "parent_root"]))
        );
        assert_eq!(told_by(EthBeacon, &[("deposits", &["block_root"])]), Ok(ToldBy::Rows));
        // A package may call a table `blocks` and its columns as it likes.
        assert_eq!(
            told_by(Substreams, &[("blocks", &["hash", "parent_hash"])]),
            Err("blocks.block_hash".into())
        );
        assert_eq!(
            told_by(Substreams, &[("blocks", &["block_hash"]), ("rows", &["block_hash"])]),
            Ok(ToldBy::Rows)
        );
    }
}
