//! Identifiers of blocks, as the chains behind Substreams write them.

use nozzle_core::BlockHash;

/// The 32 bytes of an identifier: hex with or without `0x`, or base58. `None` where it is neither.
pub(crate) fn parse(id: &str) -> Option<BlockHash> {
    let hex = id.strip_prefix("0x").unwrap_or(id);
    let is_prefixed = hex.len() < id.len() && !hex.is_empty();
    if hex.len() == 64 || is_prefixed {
        // Hashes that are numbers may be written without their leading zeros.
        let padded = format!("{hex:0>64}");
        return const_hex::decode_to_array::<_, 32>(padded).ok().map(BlockHash::from);
    }
    base58(id)
}

/// The alphabet of Bitcoin, Solana and NEAR: no 0, I, O and l.
const ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/// A number to the base 58, which has to have 32 bytes.
fn base58(text: &str) -> Option<BlockHash> {
    // 32 bytes are 32 to 44 digits.
    if !(32..=44).contains(&text.len()) {
        return None;
    }
    let mut bytes = [0_u8; 32];
    for digit in text.bytes() {
        let mut carry = ALPHABET.iter().position(|known| *known == digit)? as u32;
        for byte in bytes.iter_mut().rev() {
            carry += u32::from(*byte) * 58;
            *byte = carry as u8;
            carry >>= 8;
        }
        if carry != 0 {
            return None;
        }
    }
    Some(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_hex_or_base58() {
        let hash = "310a2806f56c3da6d1172b86d527f93ea9396d55ca614a79ebfe6d2b6a25625a";
        let expected: BlockHash = hash.parse().expect("a hash");
        assert_eq!(parse(hash), Some(expected));
        assert_eq!(parse(&format!("0x{hash}")), Some(expected));
        assert_eq!(parse("0x1f"), Some(BlockHash::left_padding_from(&[0x1f])));
        // The genesis of Solana's mainnet, and all zeros.
        let solana = "5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d";
        let expected: BlockHash =
            "45296998a6f8e2a784db5d9f95e18fc23f70441a1039446801089879b08c7ef0".parse().expect("a hash");
        assert_eq!(parse(solana), Some(expected));
        assert_eq!(parse(&"1".repeat(32)), Some(BlockHash::ZERO));
        for bad in ["", "0x", "abc", "0xzz", &"z".repeat(44), &"0".repeat(40), &"g".repeat(64)] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
