//! Values as the Beacon API writes them: numbers as decimal text, bytes as hex text.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};

/// A number of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Num(pub u64);

/// Bytes of one length: roots, keys, signatures, addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fixed<const N: usize>(pub [u8; N]);

/// Bytes of any length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Data(pub Vec<u8>);

/// 32 bytes: a root, a hash, credentials.
pub(crate) type Root = Fixed<32>;
/// A BLS public key.
pub(crate) type Key = Fixed<48>;
/// A BLS signature.
pub(crate) type Signature = Fixed<96>;
/// An address of the execution layer.
pub(crate) type Address = Fixed<20>;

/// Hex text behind `0x` as bytes.
fn hex<E: Error>(text: &str) -> Result<Vec<u8>, E> {
    let digits = text.strip_prefix("0x").ok_or_else(|| E::custom("bytes must begin with 0x"))?;
    const_hex::decode(digits).map_err(|_| E::custom("bytes must be hex digits, two for each"))
}

impl<'de> Deserialize<'de> for Num {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Numbers;
        impl Visitor<'_> for Numbers {
            type Value = Num;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of 64 bits as decimal text")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Num, E> {
                let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                let number = text.parse().ok().filter(|_| is_plain);
                number.map(Num).ok_or_else(|| E::custom("it must be a number of 64 bits as decimal text"))
            }

            /// The API says text; a node that says a number means the same.
            fn visit_u64<E: Error>(self, number: u64) -> Result<Num, E> {
                Ok(Num(number))
            }
        }
        deserializer.deserialize_any(Numbers)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Fixed<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes<const N: usize>;
        impl<const N: usize> Visitor<'_> for Bytes<N> {
            type Value = Fixed<N>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{N} bytes as hex text")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Fixed<N>, E> {
                let mut bytes = [0; N];
                let digits = text.strip_prefix("0x").filter(|digits| digits.len() == 2 * N);
                let digits = digits.ok_or_else(|| E::custom(format_args!("it must be 0x and {N} bytes")))?;
                const_hex::decode_to_slice(digits, &mut bytes)
                    .map_err(|_| E::custom("bytes must be hex digits, two for each"))?;
                Ok(Fixed(bytes))
            }
        }
        deserializer.deserialize_str(Bytes)
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Data;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes as hex text")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Data, E> {
                hex(text).map(Data)
            }
        }
        deserializer.deserialize_str(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_decimal_text_or_numbers() {
        let number = |json: &str| sonic_rs::from_str::<Num>(json).ok().map(|number| number.0);
        assert_eq!(number("\"0\""), Some(0));
        assert_eq!(number("\"18446744073709551615\""), Some(u64::MAX));
        assert_eq!(number("12"), Some(12));
        for bad in
            ["\"\"", "\"+1\"", "\"-1\"", "\"0x1\"", "\"18446744073709551616\"", "-1", "1.5", "null", "[]"]
        {
            assert_eq!(number(bad), None, "{bad}");
        }
    }

    #[test]
    fn bytes_are_hex_text_of_their_length() {
        let two = |json: &str| sonic_rs::from_str::<Fixed<2>>(json).ok().map(|bytes| bytes.0);
        assert_eq!(two("\"0xAb01\""), Some([0xab, 1]));
        for bad in ["\"ab01\"", "\"0xab\"", "\"0xab0102\"", "\"0xzz01\"", "\"0xé1\"", "1", "null"] {
            assert_eq!(two(bad), None, "{bad}");
        }
        let any = |json: &str| sonic_rs::from_str::<Data>(json).ok().map(|bytes| bytes.0);
        assert_eq!(any("\"0x\""), Some(vec![]));
        assert_eq!(any("\"0x010203\""), Some(vec![1, 2, 3]));
        assert_eq!((any("\"0x1\""), any("\"1\"")), (None, None));
    }
}
