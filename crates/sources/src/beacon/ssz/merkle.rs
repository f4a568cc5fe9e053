//! Merkle trees of the consensus specification's *simple serialize*: SHA-256 over pairs of 32 bytes.
//!
//! <https://github.com/ethereum/consensus-specs/blob/master/ssz/simple-serialize.md#merkleization>

use std::sync::LazyLock;

use sha2::{Digest, Sha256};

/// A leaf or an inner node.
pub(crate) type Node = [u8; 32];

/// The greatest depth of a tree: its limits are of 64 bits.
const MAX_DEPTH: usize = 64;

/// The roots of trees of zeros, by their depth.
static ZEROS: LazyLock<[Node; MAX_DEPTH + 1]> = LazyLock::new(|| {
    let mut zeros = [[0; 32]; MAX_DEPTH + 1];
    for depth in 1..=MAX_DEPTH {
        zeros[depth] = pair(&zeros[depth - 1], &zeros[depth - 1]);
    }
    zeros
});

fn pair(left: &Node, right: &Node) -> Node {
    Sha256::new().chain_update(left).chain_update(right).finalize().into()
}

/// The root of a tree that has room for `limit` leaves, at least as many as there are; what is not
/// there counts as zeros.
pub(crate) fn root(mut layer: Vec<Node>, limit: u64) -> Node {
    let room = limit.max(layer.len() as u64).max(1);
    let depth = (u64::BITS - (room - 1).leading_zeros()) as usize;
    if layer.is_empty() {
        return ZEROS[depth];
    }
    for zero in ZEROS.iter().take(depth) {
        let (pairs, rest) = layer.as_chunks::<2>();
        let mut above: Vec<Node> = pairs.iter().map(|[left, right]| pair(left, right)).collect();
        above.extend(rest.first().map(|left| pair(left, zero)));
        layer = above;
    }
    layer[0]
}

/// Bytes as leaves, the last one filled up with zeros.
pub(crate) fn leaves(bytes: &[u8]) -> Vec<Node> {
    let leaf = |part: &[u8]| {
        let mut leaf = [0; 32];
        leaf[..part.len()].copy_from_slice(part);
        leaf
    };
    bytes.chunks(32).map(leaf).collect()
}

/// A root together with the length of what it is of.
pub(crate) fn with_length(root: Node, length: u64) -> Node {
    pair(&root, &number(length))
}

/// A number as a leaf.
pub(crate) fn number(number: u64) -> Node {
    let mut leaf = [0; 32];
    leaf[..8].copy_from_slice(&number.to_le_bytes());
    leaf
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the specification says it, with all the zeros.
    fn slow(leaves: &[Node], limit: u64) -> Node {
        let room = limit.max(1).next_power_of_two() as usize;
        let mut layer = leaves.to_vec();
        layer.resize(room, [0; 32]);
        while layer.len() > 1 {
            layer = layer.chunks(2).map(|two| pair(&two[0], &two[1])).collect();
        }
        layer[0]
    }

    #[test]
    fn the_root_is_that_of_the_whole_tree() {
        for count in 0..=9_u64 {
            let leaves: Vec<Node> = (1..=count).map(number).collect();
            for limit in [count, count + 1, 8, 9, 16, 100] {
                if limit >= count {
                    assert_eq!(root(leaves.clone(), limit), slow(&leaves, limit), "{count} of {limit}");
                }
            }
        }
        assert_eq!(root(vec![], 1), [0; 32]);
        assert_eq!(leaves(&[7; 33]).len(), 2);
        assert!(leaves(&[]).is_empty());
    }
}
