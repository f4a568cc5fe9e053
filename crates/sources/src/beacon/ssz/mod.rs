//! Hash-tree-roots of what a node sends as JSON.
//!
//! A [`Type`] says what a value is in the consensus specification's *simple serialize* (SSZ). The
//! root is computed while the JSON text is walked, so that only the types say what a fork is like:
//! <https://github.com/ethereum/consensus-specs/blob/master/ssz/simple-serialize.md>.

pub(crate) mod merkle;

use alloy_primitives::U256;
use sonic_rs::{JsonType, JsonValueTrait, LazyValue};

use merkle::Node;

/// What a value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Type {
    /// A number of so many bytes: 8 or 32.
    Number(usize),
    /// So many bytes.
    Bytes(usize),
    /// At most so many bytes.
    ByteList(u64),
    /// So many bits.
    Bits(u64),
    /// At most so many bits.
    BitList(u64),
    /// So many values of one type.
    Vector(Box<Type>, u64),
    /// At most so many values of one type.
    List(Box<Type>, u64),
    /// Named values.
    Container(Vec<(&'static str, Type)>),
}

/// A number of 64 bits.
pub(crate) const U64: Type = Type::Number(8);

impl Type {
    /// The root of a JSON value; the error says where it is not of this type, and why.
    pub fn root(&self, value: &LazyValue<'_>) -> Result<Node, String> {
        match self {
            Self::Number(_) => packed_number(value, 32)
                .filter(|bytes| {
                    self.packed_size().is_some_and(|size| bytes[size..].iter().all(|byte| *byte == 0))
                })
                .and_then(|bytes| bytes.try_into().ok())
                .ok_or_else(|| "is not a number of that size".to_owned()),
            Self::Bytes(length) => {
                let bytes = bytes(value)?;
                if bytes.len() != *length {
                    return Err(format!("has {} bytes, not {length}", bytes.len()));
                }
                Ok(merkle::root(merkle::leaves(&bytes), 0))
            }
            Self::ByteList(limit) => {
                let bytes = bytes(value)?;
                let length = within(bytes.len(), *limit)?;
                Ok(merkle::with_length(merkle::root(merkle::leaves(&bytes), limit.div_ceil(32)), length))
            }
            Self::Bits(count) => {
                let bytes = bytes(value)?;
                if bytes.len() as u64 != count.div_ceil(8) || has_bit_from(&bytes, *count) {
                    return Err(format!("does not have {count} bits"));
                }
                Ok(merkle::root(merkle::leaves(&bytes), count.div_ceil(256)))
            }
            Self::BitList(limit) => bit_list_root(bytes(value)?, *limit),
            Self::Vector(item, count) => {
                let (leaves, found) = items(item, value, *count)?;
                if found != *count {
                    return Err(format!("has {found} values, not {count}"));
                }
                Ok(merkle::root(leaves, 0))
            }
            Self::List(item, limit) => {
                let (leaves, found) = items(item, value, *limit)?;
                let room = match item.packed_size() {
                    Some(size) => limit.saturating_mul(size as u64).div_ceil(32),
                    None => *limit,
                };
                Ok(merkle::with_length(merkle::root(leaves, room), found))
            }
            Self::Container(fields) => container_root(fields, value),
        }
    }

    /// Whether a JSON value is one of this type, as far as that can be told without what lies within it, and
    /// without the sizes of lists.
    pub fn is_like(&self, value: &LazyValue<'_>) -> bool {
        match self {
            Self::Number(size) => packed_number(value, *size).is_some(),
            Self::Bytes(length) => bytes(value).is_ok_and(|bytes| bytes.len() == *length),
            Self::ByteList(_) | Self::Bits(_) | Self::BitList(_) => bytes(value).is_ok(),
            Self::Vector(..) | Self::List(..) => value.get_type() == JsonType::Array,
            Self::Container(_) => value.get_type() == JsonType::Object,
        }
    }

    /// The size of a value of which several share a leaf.
    fn packed_size(&self) -> Option<usize> {
        if let Self::Number(size) = self { Some(*size) } else { None }
    }
}

fn container_root(fields: &[(&'static str, Type)], value: &LazyValue<'_>) -> Result<Node, String> {
    let mut leaves: Vec<Option<Node>> = vec![None; fields.len()];
    if value.get_type() != JsonType::Object {
        return Err("is not an object".into());
    }
    for field in sonic_rs::to_object_iter(value.as_raw_str()) {
        let (name, value) = field.map_err(|_| "is not JSON to its end")?;
        let place = fields.iter().position(|(known, _)| *known == name);
        let place = place.ok_or_else(|| format!("has the field `{name}`, which its fork does not have"))?;
        let leaf = fields[place].1.root(&value).map_err(|why| at(&name, &why))?;
        if leaves[place].replace(leaf).is_some() {
            return Err(format!("has the field `{name}` twice"));
        }
    }
    let whole: Option<Vec<Node>> = leaves.iter().copied().collect();
    let lacking =
        || leaves.iter().zip(fields).find(|(leaf, _)| leaf.is_none()).map_or("", |(_, field)| field.0);
    whole.map(|leaves| merkle::root(leaves, 0)).ok_or_else(|| format!("lacks the field `{}`", lacking()))
}

/// The leaves of a list's items, and how many items there are; more than `most` are not read.
fn items(item: &Type, value: &LazyValue<'_>, most: u64) -> Result<(Vec<Node>, u64), String> {
    if value.get_type() != JsonType::Array {
        return Err("is not a list".into());
    }
    let (mut leaves, mut packed, mut count) = (vec![], vec![], 0_u64);
    for value in sonic_rs::to_array_iter(value.as_raw_str()) {
        let value = value.map_err(|_| "is not JSON to its end")?;
        if count == most {
            return Err(format!("has more than {most} values"));
        }
        let of_item = |why: &str| at(&count.to_string(), why);
        match item.packed_size() {
            Some(size) => {
                packed.extend(
                    packed_number(&value, size).ok_or_else(|| of_item("is not a number of that size"))?,
                );
            }
            None => leaves.push(item.root(&value).map_err(|why| of_item(&why))?),
        }
        count += 1;
    }
    leaves.extend(merkle::leaves(&packed));
    Ok((leaves, count))
}

/// The path to a value, and what is wrong there.
fn at(name: &str, why: &str) -> String {
    match why.strip_prefix('`') {
        // Only a path begins with this.
        Some(rest) => format!("`{name}.{rest}"),
        None => format!("`{name}` {why}"),
    }
}

/// A decimal text, or a number, as little-endian bytes.
fn packed_number(value: &LazyValue<'_>, size: usize) -> Option<Vec<u8>> {
    let number = match value.as_str() {
        Some(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            U256::from_str_radix(text, 10).ok()?
        }
        Some(_) => return None,
        None => U256::from(value.as_u64()?),
    };
    let bytes = number.to_le_bytes::<32>();
    bytes[size..].iter().all(|byte| *byte == 0).then(|| bytes[..size].to_vec())
}

fn bytes(value: &LazyValue<'_>) -> Result<Vec<u8>, String> {
    let digits = value.as_str().and_then(|text| text.strip_prefix("0x"));
    digits.and_then(|digits| const_hex::decode(digits).ok()).ok_or_else(|| "is not bytes as hex text".into())
}

fn within(length: usize, limit: u64) -> Result<u64, String> {
    let length = length as u64;
    if length <= limit { Ok(length) } else { Err(format!("has {length} bytes; at most {limit} are allowed")) }
}

fn has_bit_from(bytes: &[u8], count: u64) -> bool {
    let used = count % 8;
    used > 0 && bytes.last().is_some_and(|last| last >> used > 0)
}

/// A list of bits ends with a bit that is not one of them.
fn bit_list_root(mut bytes: Vec<u8>, limit: u64) -> Result<Node, String> {
    let last = bytes.last_mut().filter(|last| **last > 0).ok_or("has no end")?;
    let end = 7 - last.leading_zeros();
    *last ^= 1 << end;
    let count = (bytes.len() as u64 - 1) * 8 + u64::from(end);
    if count > limit {
        return Err(format!("has {count} bits; at most {limit} are allowed"));
    }
    bytes.truncate(count.div_ceil(8) as usize);
    Ok(merkle::with_length(merkle::root(merkle::leaves(&bytes), limit.div_ceil(256)), count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(of: &Type, json: &str) -> Result<Node, String> {
        of.root(&sonic_rs::from_str(json).expect("JSON"))
    }

    #[test]
    fn what_is_not_of_its_type_is_named() {
        let pair = Type::Container(vec![("a", U64), ("b", Type::List(Box::new(Type::Bytes(2)), 2))]);
        let why = |json| root(&pair, json).expect_err("it is bad");
        assert!(root(&pair, r#"{"b":["0x0102"],"a":"1"}"#).is_ok());
        assert_eq!(why(r#"{"a":"1"}"#), "lacks the field `b`");
        assert_eq!(why(r#"{"a":"1","b":[],"c":1}"#), "has the field `c`, which its fork does not have");
        assert_eq!(why(r#"{"a":"1","a":"1","b":[]}"#), "has the field `a` twice");
        assert_eq!(why(r#"{"a":"18446744073709551616","b":[]}"#), "`a` is not a number of that size");
        assert_eq!(why(r#"{"a":"1","b":["0x0102","0x01"]}"#), "`b.1` has 1 bytes, not 2");
        assert_eq!(why(r#"{"a":"1","b":["0x0102","0x0102","0x0102"]}"#), "`b` has more than 2 values");
        assert_eq!(why(r#"{"a":"1","b":{}}"#), "`b` is not a list");
        assert_eq!(why("[]"), "is not an object");
    }

    #[test]
    fn bits_and_bytes_keep_to_their_limits() {
        for (bits, is_good) in
            [("0x01", true), ("0x1f", true), ("0x20", false), ("0x00", false), ("0x", false)]
        {
            assert_eq!(root(&Type::BitList(4), &format!("\"{bits}\"")).is_ok(), is_good, "{bits}");
        }
        for (bits, is_good) in [("0x0f", true), ("0x1f", false), ("0x0f00", false), ("0x", false)] {
            assert_eq!(root(&Type::Bits(4), &format!("\"{bits}\"")).is_ok(), is_good, "{bits}");
        }
        assert!(
            root(&Type::ByteList(1), "\"0x01\"").is_ok() && root(&Type::ByteList(1), "\"0x0102\"").is_err()
        );
        assert!(root(&Type::Vector(Box::new(U64), 2), r#"["1"]"#).is_err());
        assert_ne!(root(&Type::BitList(64), "\"0x01\""), root(&Type::BitList(64), "\"0x02\""));
    }

    #[test]
    fn numbers_share_leaves_in_lists_and_are_leaves_alone() {
        let list = Type::List(Box::new(U64), 8);
        let mut leaf = merkle::number(1);
        leaf[8] = 2;
        let expected = merkle::with_length(merkle::root(vec![leaf], 2), 2);
        assert_eq!(root(&list, r#"["1","2"]"#), Ok(expected));
        assert_eq!(root(&U64, "\"258\""), Ok(merkle::number(258)));
        let large = format!("\"{}\"", U256::MAX);
        assert_eq!(root(&Type::Number(32), &large), Ok([0xff; 32]));
    }
}
