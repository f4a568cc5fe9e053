//! The root of the trie that a block's transactions, receipts or withdrawals form: item `i` under
//! the RLP of `i`. (Yellow Paper, appendix D.)

use alloy_primitives::{B256, b256, keccak256};
use alloy_rlp::{EMPTY_STRING_CODE, Encodable, Header};

use super::{
    keccak::keccak256_each,
    rlp::{Items, Rlp},
};

/// The root where there is no item: the hash of an empty string.
pub(crate) const EMPTY_ROOT: B256 = b256!("56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421");

/// Nodes below this length stand in their parent, others by their hash.
const HASH_LENGTH: usize = 32;

/// A branch has the longest encoding of the nodes that are put together here: 16 hashes.
const LONGEST_BRANCH: usize = 3 + 16 * (1 + HASH_LENGTH) + 1;

/// The root over all items.
pub(crate) fn ordered_root(items: &Items) -> B256 {
    if items.len() == 0 {
        return EMPTY_ROOT;
    }
    let keys: Vec<Key> = in_key_order(items.len()).map(Key::new).collect();
    match node(&mut leaves(items, &keys).into_iter(), &keys, 0) {
        Node::Short(rlp) => keccak256(rlp),
        Node::Long(hash) => hash,
    }
}

/// The indices below `count` as their keys sort: the RLP of 0 is above that of 127.
fn in_key_order(count: usize) -> impl Iterator<Item = usize> {
    (1..count.min(128)).chain([0]).chain(128..count)
}

/// A key has a byte for its length and at most eight for the index.
const MAX_NIBBLES: usize = 2 * (1 + 8);

/// The key of an item in nibbles.
struct Key {
    index: usize,
    nibbles: [u8; MAX_NIBBLES],
    length: usize,
}

impl Key {
    fn new(index: usize) -> Self {
        let mut key = Self { index, nibbles: [0; MAX_NIBBLES], length: 0 };
        for byte in alloy_rlp::encode(index) {
            key.nibbles[key.length] = byte >> 4;
            key.nibbles[key.length + 1] = byte & 15;
            key.length += 2;
        }
        key
    }

    fn path(&self) -> &[u8] {
        &self.nibbles[..self.length]
    }
}

/// A node as its parent has it.
enum Node {
    /// Its RLP, which is shorter than a hash.
    Short(Vec<u8>),
    /// The hash of its RLP.
    Long(B256),
}

impl Node {
    fn of_rlp(rlp: Vec<u8>) -> Self {
        if rlp.len() < HASH_LENGTH { Self::Short(rlp) } else { Self::Long(keccak256(rlp)) }
    }

    fn length(&self) -> usize {
        match self {
            Self::Short(rlp) => rlp.len(),
            Self::Long(_) => 1 + HASH_LENGTH,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Short(rlp) => out.extend_from_slice(rlp),
            Self::Long(hash) => hash.encode(out),
        }
    }
}

/// The leaf of each key. They are what is long and many, so all are hashed together.
fn leaves(items: &Items, keys: &[Key]) -> Vec<Node> {
    let mut rlps = Items::default();
    for (index, key) in keys.iter().enumerate() {
        let before = index.checked_sub(1).map(|before| &keys[before]);
        let neighbours = before.into_iter().chain(keys.get(index + 1));
        // Below the branch that takes its way and that of a neighbour apart.
        let depth = neighbours.map(|other| shared(key.path(), other.path()) + 1).max().unwrap_or(0);
        rlps.add(|rlp| leaf(items.get(key.index), &key.path()[depth..], rlp));
    }
    let hashes = keccak256_each(rlps.iter());
    let node = |(rlp, hash): (&[u8], B256)| {
        if rlp.len() < HASH_LENGTH { Node::Short(rlp.to_vec()) } else { Node::Long(hash) }
    };
    rlps.iter().zip(hashes).map(node).collect()
}

/// How many nibbles two paths have in common.
fn shared(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

/// The node for keys, in their order, that have the first `depth` nibbles in common; their leaves are
/// the next ones. No key is the beginning of another, so a branch never has a value of its own.
fn node(leaves: &mut impl Iterator<Item = Node>, keys: &[Key], depth: usize) -> Node {
    let (first, last) = (keys[0].path(), keys[keys.len() - 1].path());
    if keys.len() == 1 {
        return leaves.next().expect("a leaf for each key");
    }
    // They are sorted: what the first and the last share, all share.
    let shared = shared(&first[depth..], &last[depth..]);
    if shared == 0 {
        return branch(leaves, keys, depth);
    }
    let path = compact(&first[depth..depth + shared], false);
    let child = branch(leaves, keys, depth + shared);
    let mut rlp = Vec::with_capacity(64);
    Header { list: true, payload_length: path[..].length() + child.length() }.encode(&mut rlp);
    path[..].encode(&mut rlp);
    child.put(&mut rlp);
    Node::of_rlp(rlp)
}

fn branch(leaves: &mut impl Iterator<Item = Node>, keys: &[Key], depth: usize) -> Node {
    let mut children = Vec::with_capacity(LONGEST_BRANCH);
    let mut rest = keys;
    for nibble in 0..16 {
        let (child, others) = rest.split_at(rest.partition_point(|key| key.nibbles[depth] == nibble));
        rest = others;
        if child.is_empty() {
            children.push(EMPTY_STRING_CODE);
        } else {
            node(leaves, child, depth + 1).put(&mut children);
        }
    }
    children.push(EMPTY_STRING_CODE);
    let mut rlp = Vec::with_capacity(LONGEST_BRANCH);
    Header { list: true, payload_length: children.len() }.encode(&mut rlp);
    rlp.extend_from_slice(&children);
    Node::of_rlp(rlp)
}

/// Appends the leaf of an item.
fn leaf(item: &[u8], path: &[u8], rlp: &mut Rlp) {
    let path = compact(path, true);
    rlp.list_header(path[..].length() + item.length());
    rlp.string(&path);
    rlp.string(item);
}

/// Nibbles as bytes behind a flag for a leaf and for an odd number of them.
fn compact(nibbles: &[u8], is_leaf: bool) -> Vec<u8> {
    let flag = if is_leaf { 0x20 } else { 0 };
    let (odd, even) = nibbles.split_at(nibbles.len() % 2);
    let first = odd.first().map_or(flag, |nibble| flag | 0x10 | nibble);
    std::iter::once(first).chain(even.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1])).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use alloy_consensus::proofs::ordered_trie_root_with_encoder;

    use super::*;

    #[test]
    fn roots_are_those_of_another_implementation() {
        for count in [0, 1, 2, 3, 15, 16, 17, 127, 128, 129, 200, 255, 256, 257, 300, 4097] {
            for length in [1, 5, 28, 31, 32, 33, 200] {
                let values: Vec<Vec<u8>> = (0..count).map(|index| vec![index as u8; length]).collect();
                let mut items = Items::default();
                for value in &values {
                    items.add(|rlp| rlp.raw(value));
                }
                let other =
                    ordered_trie_root_with_encoder(&values, |value, out| out.extend_from_slice(value));
                assert_eq!(ordered_root(&items), other, "{count} items of {length} bytes");
            }
        }
    }
}
