//! What kinds of datasets there are.

use serde::{Deserialize, Serialize};

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
