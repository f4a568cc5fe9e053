//! The root of the trie that a block's transactions, receipts or withdrawals form: item `i` under
//! the RLP of `i`.

use alloy_primitives::{B256, b256, keccak256};
use alloy_rlp::Encodable;

use super::rlp;

/// The root where there is no item.
pub(super) const EMPTY_ROOT: B256 = b256!("56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421");

/// A key in nibbles and its value.
type Entry<'a> = (Vec<u8>, &'a [u8]);

/// The root over encoded items.
pub(super) fn ordered_root<T: AsRef<[u8]>>(items: &[T]) -> B256 {
    if items.is_empty() {
        return EMPTY_ROOT;
    }
    let entries = items.iter().enumerate().map(|(index, item)| (nibbles(index), item.as_ref()));
    let mut entries: Vec<Entry<'_>> = entries.collect();
    entries.sort_unstable();
    keccak256(node(&entries, 0))
}

fn nibbles(index: usize) -> Vec<u8> {
    alloy_rlp::encode(index).iter().flat_map(|byte| [byte >> 4, byte & 15]).collect()
}

/// The node for entries that have the first `depth` nibbles in common. No key is the beginning of
/// another, so a branch never has a value of its own.
fn node(entries: &[Entry<'_>], depth: usize) -> Vec<u8> {
    let (first, last) = (&entries[0].0, &entries[entries.len() - 1].0);
    if entries.len() == 1 {
        let path = compact(&first[depth..], true);
        return rlp::list(|out| {
            path[..].encode(out);
            entries[0].1.encode(out);
        });
    }
    // They are sorted: what the first and the last share, all share.
    let shared = first[depth..].iter().zip(&last[depth..]).take_while(|(one, other)| one == other).count();
    if shared > 0 {
        let path = compact(&first[depth..depth + shared], false);
        let child = node(entries, depth + shared);
        return rlp::list(|out| {
            path[..].encode(out);
            put_child(&child, out);
        });
    }
    rlp::list(|out| put_branch(entries, depth, out))
}

fn put_branch(entries: &[Entry<'_>], depth: usize, out: &mut Vec<u8>) {
    let mut rest = entries;
    for nibble in 0..16 {
        let (child, others) = rest.split_at(rest.partition_point(|(key, _)| key[depth] == nibble));
        rest = others;
        if child.is_empty() {
            out.push(alloy_rlp::EMPTY_STRING_CODE);
        } else {
            put_child(&node(child, depth + 1), out);
        }
    }
    out.push(alloy_rlp::EMPTY_STRING_CODE);
}

/// Short nodes stand in their parent, others by their hash.
fn put_child(child: &[u8], out: &mut Vec<u8>) {
    if child.len() < 32 { out.extend_from_slice(child) } else { keccak256(child).encode(out) }
}

/// Nibbles as bytes behind a flag for a leaf and for an odd number of them.
fn compact(nibbles: &[u8], leaf: bool) -> Vec<u8> {
    let flag = u8::from(leaf) << 5;
    let (odd, even) = nibbles.split_at(nibbles.len() % 2);
    let first = odd.first().map_or(flag, |nibble| flag | 16 | nibble);
    std::iter::once(first).chain(even.chunks_exact(2).map(|pair| (pair[0] << 4) | pair[1])).collect()
}

#[cfg(test)]
mod tests {
    use alloy_consensus::proofs::ordered_trie_root_with_encoder;

    use super::*;

    #[test]
    fn roots_are_those_of_another_implementation() {
        for count in [0, 1, 2, 3, 16, 17, 127, 128, 129, 200, 256, 257, 300] {
            for length in [1, 5, 28, 40, 200] {
                let items: Vec<Vec<u8>> = (0..count).map(|index| vec![index as u8; length]).collect();
                let other = ordered_trie_root_with_encoder(&items, |item, out| out.extend_from_slice(item));
                assert_eq!(ordered_root(&items), other, "{count} items of {length} bytes");
            }
        }
    }
}
