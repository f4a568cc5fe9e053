//! RLP, appended to one buffer straight from the hex text of an answer.

use alloy_primitives::B256;
use alloy_rlp::{Encodable, Header};

use super::hex::{self, Bad, required};

/// A field that cannot be encoded, by its name in the node's answer.
pub(crate) type BadField = (&'static str, Bad);

/// What an empty byte string, and so the number 0, is encoded as.
const EMPTY_STRING: u8 = 0x80;

/// Encoded items, one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Rlp(Vec<u8>);

impl Rlp {
    /// All that was appended.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Forgets what was appended and keeps the room.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Appends bytes as they are: something encoded, or the type in front of it.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Appends a byte string.
    pub fn string(&mut self, bytes: &[u8]) {
        bytes.encode(&mut self.0);
    }

    /// Appends a number.
    pub fn number(&mut self, number: u128) {
        number.encode(&mut self.0);
    }

    /// Appends the header of a list with so many bytes in it.
    pub fn list_header(&mut self, payload_length: usize) {
        Header { list: true, payload_length }.encode(&mut self.0);
    }

    /// Appends a list of what `fill` appends.
    pub fn list<E>(&mut self, fill: impl FnOnce(&mut Self) -> Result<(), E>) -> Result<(), E> {
        let start = self.0.len();
        fill(self)?;
        // Only now it is known how long the header is.
        let end = self.0.len();
        let header = Header { list: true, payload_length: end - start };
        let length = header.length();
        self.0.resize(end + length, 0);
        self.0.copy_within(start..end, start + length);
        header.encode(&mut &mut self.0[start..start + length]);
        Ok(())
    }

    /// Appends data of `N` bytes, and gives them.
    pub fn fixed<const N: usize>(
        &mut self,
        name: &'static str,
        text: Option<&str>,
    ) -> Result<[u8; N], BadField> {
        let bytes = required(text).and_then(hex::fixed::<N>).map_err(|bad| (name, bad))?;
        self.string(&bytes);
        Ok(bytes)
    }

    /// Appends data of `N` bytes, or an empty string where there is none.
    pub fn fixed_or_empty<const N: usize>(
        &mut self,
        name: &'static str,
        text: Option<&str>,
    ) -> Result<(), BadField> {
        match text {
            Some(_) => self.fixed::<N>(name, text).map(drop),
            None => {
                self.0.push(EMPTY_STRING);
                Ok(())
            }
        }
    }

    /// Appends data of any length.
    pub fn data(&mut self, name: &'static str, text: Option<&str>) -> Result<(), BadField> {
        let text = required(text).map_err(|bad| (name, bad))?;
        // Two digits a byte, behind `0x`.
        let length = (text.len() / 2).saturating_sub(1);
        if length > 1 {
            Header { list: false, payload_length: length }.encode(&mut self.0);
            return hex::append_data(text, &mut self.0).map_err(|bad| (name, bad));
        }
        let start = self.0.len();
        hex::append_data(text, &mut self.0).map_err(|bad| (name, bad))?;
        self.head_short_string(start);
        Ok(())
    }

    /// Appends a quantity of up to 256 bits.
    pub fn quantity(&mut self, name: &'static str, text: Option<&str>) -> Result<(), BadField> {
        let start = self.0.len();
        required(text).and_then(|text| hex::append_quantity(text, &mut self.0)).map_err(|bad| (name, bad))?;
        self.head_short_string(start);
        Ok(())
    }

    /// Puts the header in front of the byte string, of less than 56 bytes, that begins at `start`.
    fn head_short_string(&mut self, start: usize) {
        let is_its_own_encoding = matches!(self.0[start..], [byte] if byte < EMPTY_STRING);
        if !is_its_own_encoding {
            let length = (self.0.len() - start) as u8;
            self.0.insert(start, EMPTY_STRING + length);
        }
    }
}

/// Encoded items that are told apart: the transactions, receipts or withdrawals of a block.
#[derive(Debug, Default)]
pub(crate) struct Items {
    rlp: Rlp,
    ends: Vec<usize>,
}

impl Items {
    /// Forgets the items and keeps the room.
    pub fn clear(&mut self) {
        self.rlp.clear();
        self.ends.clear();
    }

    /// Appends what `fill` appends as one item.
    pub fn push<E>(&mut self, fill: impl FnOnce(&mut Rlp) -> Result<(), E>) -> Result<(), E> {
        fill(&mut self.rlp)?;
        self.ends.push(self.rlp.bytes().len());
        Ok(())
    }

    /// Appends what `fill` appends as one item, where nothing can go wrong.
    pub fn add(&mut self, fill: impl FnOnce(&mut Rlp)) {
        fill(&mut self.rlp);
        self.ends.push(self.rlp.bytes().len());
    }

    /// The items, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> + Clone {
        (0..self.len()).map(|index| self.get(index))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The item at `index`, which must be below [`Self::len`].
    pub fn get(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.rlp.bytes()[start..self.ends[index]]
    }
}

/// Reads a hash that is compared with a computed one.
pub(crate) fn hash(name: &'static str, text: Option<&str>) -> Result<B256, BadField> {
    required(text).and_then(hex::fixed::<32>).map(B256::from).map_err(|bad| (name, bad))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use alloy_primitives::U256;

    use super::*;

    fn encoded(fill: impl FnOnce(&mut Rlp)) -> Vec<u8> {
        let mut rlp = Rlp::default();
        fill(&mut rlp);
        rlp.bytes().to_vec()
    }

    #[test]
    fn quantities_are_encoded_as_another_implementation_does() {
        for text in ["0x0", "0x00", "0x1", "0x7f", "0x80", "0x0080", "0xff", "0x100", "0xabc", "0xdeadbeef"] {
            let number = U256::from_str_radix(&text[2..], 16).unwrap();
            let ours = encoded(|rlp| rlp.quantity("value", Some(text)).unwrap());
            assert_eq!(ours, alloy_rlp::encode(number), "{text}");
        }
        let max = format!("0x{}", "f".repeat(64));
        assert_eq!(encoded(|rlp| rlp.quantity("value", Some(&max)).unwrap()), alloy_rlp::encode(U256::MAX));
        let mut rlp = Rlp::default();
        for (text, bad) in [
            (Some("0x1".to_owned() + &"0".repeat(64)), Bad::TooLarge),
            (Some("0x".into()), Bad::NotHex),
            (Some("0x1g".into()), Bad::NotHex),
            (None, Bad::Missing),
        ] {
            assert_eq!(rlp.quantity("value", text.as_deref()), Err(("value", bad)), "{text:?}");
        }
    }

    #[test]
    fn data_and_lists_of_every_length_are_encoded_as_another_implementation_does() {
        for length in (0..60).chain([255, 256, 257, 70_000]) {
            for byte in [0, 0x7f, 0x80] {
                let bytes = vec![byte; length];
                let text = const_hex::encode_prefixed(&bytes);
                let ours = encoded(|rlp| rlp.data("input", Some(&text)).unwrap());
                assert_eq!(ours, alloy_rlp::encode(&bytes[..]), "{length} bytes of {byte}");
            }
            let numbers = vec![7_u8; length];
            let list = encoded(|rlp| {
                rlp.list(|rlp| {
                    numbers.iter().for_each(|number| rlp.number(u128::from(*number)));
                    Ok::<_, BadField>(())
                })
                .unwrap();
            });
            let words: Vec<u64> = numbers.iter().map(|number| u64::from(*number)).collect();
            assert_eq!(list, alloy_rlp::encode(words), "{length} numbers");
        }
        for bad in ["", "0", "0x0", "0x123", "0xzz", "0xzz11"] {
            assert_eq!(Rlp::default().data("input", Some(bad)), Err(("input", Bad::NotHex)), "{bad:?}");
        }
    }

    #[test]
    fn items_are_told_apart() {
        let mut items = Items::default();
        for text in ["0x01", "0x", "0x0203"] {
            items.push(|rlp| rlp.data("input", Some(text))).unwrap();
        }
        assert_eq!(items.len(), 3);
        assert_eq!(items.iter().collect::<Vec<_>>(), [&[1][..], &[0x80], &[0x82, 2, 3]]);
        items.clear();
        items.add(|rlp| rlp.string(&[4, 5]));
        assert_eq!((items.len(), items.get(0)), (1, &[0x82, 4, 5][..]));
    }
}
