//! What is checked of a block before its rows are written.
//!
//! ```text
//!  links    the block's fields are those of its header, whose parent is the block before
//!  header   the header hashes to the block's root
//!  full     the body hashes to the header's body root
//! ```

use nozzle_core::{BlockNum, block::BlockLink, manifest::Verify};
use serde::Deserialize;
use sonic_rs::LazyValue;

use super::{
    json::{Answer, Header, HeaderAnswer, SignedBlock},
    ssz::{
        Type,
        merkle::{self, Node},
    },
};
use crate::error::SourceError;

/// Why an answer cannot be used, without the words that are the same for all.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// It is whole, but wrong.
    Malformed(String),
    /// It is not whole.
    Unavailable(String),
    /// It is of another moment than what it belongs to.
    Missing(&'static str),
}

impl Problem {
    /// The error of a source.
    pub fn of_block(self, provider: &str, block: BlockNum) -> SourceError {
        let provider = provider.to_owned();
        match self {
            Self::Malformed(why) => SourceError::Malformed { provider, block, why },
            Self::Unavailable(why) => {
                SourceError::Unavailable { provider, source: format!("block {block}: {why}").into() }
            }
            Self::Missing(what) => SourceError::Missing { provider, block, what },
        }
    }

    /// The words for it.
    pub fn why(self) -> String {
        match self {
            Self::Malformed(why) | Self::Unavailable(why) => why,
            Self::Missing(what) => format!("{what} is not there"),
        }
    }
}

/// Reads an answer; what is not JSON to its end may be so next time.
pub(crate) fn parse<'a, T: Deserialize<'a>>(answer: &'a [u8], what: &str) -> Result<T, Problem> {
    sonic_rs::from_slice(answer).map_err(|error| {
        // The library shows a piece of the input on the lines below.
        let why = error.to_string().lines().next().unwrap_or_default().trim_end().to_owned();
        if error.is_unmatched_type() {
            Problem::Malformed(format!("{what} cannot be read: {why}"))
        } else {
            Problem::Unavailable(format!("the answer is not JSON to its end: {why}"))
        }
    })
}

/// Reads a header; from the level `header` on it must hash to its root.
pub(crate) fn header(answer: &[u8], verify: Verify) -> Result<HeaderAnswer, Problem> {
    let answer: Answer<HeaderAnswer> = parse(answer, "the header")?;
    let header = answer.data;
    if verify >= Verify::Header {
        let computed = root_of(&header.header.message);
        if computed != header.root.0 {
            let (computed, root) = (hex(&computed), hex(&header.root.0));
            return Err(Problem::Malformed(format!(
                "its header hashes to {computed}, not to its root {root}"
            )));
        }
    }
    Ok(header)
}

/// How the header links.
pub(crate) fn link(header: &HeaderAnswer) -> BlockLink {
    let message = &header.header.message;
    BlockLink {
        number: message.slot.0,
        hash: header.root.0.into(),
        parent_hash: message.parent_root.0.into(),
    }
}

/// The root of a header.
pub(crate) fn root_of(header: &Header) -> Node {
    let leaves = vec![
        merkle::number(header.slot.0),
        merkle::number(header.proposer_index.0),
        header.parent_root.0,
        header.state_root.0,
        header.body_root.0,
    ];
    merkle::root(leaves, 0)
}

/// Checks that a header is of the slot asked for, and a block the one that the header is of.
pub(crate) fn block<B>(
    slot: BlockNum,
    header: &HeaderAnswer,
    block: &SignedBlock<B>,
    verify: Verify,
) -> Result<(), Problem> {
    let (ours, theirs) = (&header.header.message, &block.message);
    for (what, found) in [("header", ours.slot.0), ("block", theirs.slot.0)] {
        if found != slot {
            return Err(Problem::Malformed(format!("its {what} is of the slot {found}")));
        }
    }
    if verify < Verify::Links {
        return Ok(());
    }
    let is_same = ours.proposer_index == theirs.proposer_index
        && ours.parent_root == theirs.parent_root
        && ours.state_root == theirs.state_root
        && header.header.signature == block.signature;
    // The two were asked for one after the other, and the chain may have been reorganised meanwhile.
    if is_same { Ok(()) } else { Err(Problem::Missing("a header that matches the body")) }
}

/// Checks that a body hashes to the header's body root.
pub(crate) fn body(value: &LazyValue<'_>, body: &Type, header: &HeaderAnswer) -> Result<(), Problem> {
    let computed = body.root(value).map_err(|why| Problem::Malformed(format!("its body {why}")))?;
    let root = header.header.message.body_root.0;
    if computed == root {
        return Ok(());
    }
    let (computed, root) = (hex(&computed), hex(&root));
    Err(Problem::Malformed(format!(
        "its body hashes to {computed}, not to the body root {root} of its header"
    )))
}

fn hex(root: &Node) -> String {
    const_hex::encode_prefixed(root)
}
