//! Protobuf's wire format, read in place: fields in the order in which they were written.
//!
//! Encoding: <https://protobuf.dev/programming-guides/encoding/>.

use std::fmt;

/// How deep groups may be within each other; nobody writes them any more.
const MAX_GROUPS: u32 = 32;

/// One value as it lies in a message.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Raw<'a> {
    /// A number of variable length.
    Varint(u64),
    /// Four bytes.
    Fixed32(u32),
    /// Eight bytes.
    Fixed64(u64),
    /// Text, bytes, a message or packed numbers.
    Bytes(&'a [u8]),
}

impl Raw<'_> {
    /// The wire type in words.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Varint(_) => "a number of variable length",
            Self::Fixed32(_) => "four bytes",
            Self::Fixed64(_) => "eight bytes",
            Self::Bytes(_) => "bytes with a length",
        }
    }
}

/// What is wrong with bytes that should be a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// They end within a field.
    Cut,
    /// A number has more than ten bytes.
    LongNumber,
    /// A field's number is 0 or above 2^29 - 1.
    FieldNumber,
    /// A wire type that is not there, or a group that does not end.
    WireType,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cut => "it is not a protobuf message: it ends within a field",
            Self::LongNumber => "it is not a protobuf message: a number has more than ten bytes",
            Self::FieldNumber => "it is not a protobuf message: a field has an impossible number",
            Self::WireType => "it is not a protobuf message: a field has an unknown wire type",
        })
    }
}

impl std::error::Error for Broken {}

/// The fields of a message, in order. After an error there are no more.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field; groups are passed over.
    fn read(&mut self) -> Result<Option<(u32, Raw<'a>)>, Broken> {
        while !self.rest.is_empty() {
            let (number, wire_type) = self.tag()?;
            if wire_type == 3 {
                self.skip_group(number)?;
                continue;
            }
            return self.value(wire_type).map(|value| Some((number, value)));
        }
        Ok(None)
    }

    fn tag(&mut self) -> Result<(u32, u8), Broken> {
        let tag = varint(&mut self.rest)?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| (1..=MAX_FIELD_NUMBER).contains(number));
        Ok((number.ok_or(Broken::FieldNumber)?, (tag & 7) as u8))
    }

    fn value(&mut self, wire_type: u8) -> Result<Raw<'a>, Broken> {
        Ok(match wire_type {
            0 => Raw::Varint(varint(&mut self.rest)?),
            1 => Raw::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = varint(&mut self.rest)?;
                Raw::Bytes(self.take(usize::try_from(length).map_err(|_| Broken::Cut)?)?)
            }
            5 => Raw::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(Broken::WireType),
        })
    }

    fn skip_group(&mut self, number: u32) -> Result<(), Broken> {
        let mut open = vec![number];
        while let Some(innermost) = open.last().copied() {
            match self.tag()? {
                (number, 4) if number == innermost => {
                    open.pop();
                }
                (number, 3) if open.len() < MAX_GROUPS as usize => open.push(number),
                (_, wire_type) => {
                    self.value(wire_type)?;
                }
            }
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        self.take(N)?.try_into().map_err(|_| Broken::Cut)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Broken> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Broken::Cut)?;
        self.rest = rest;
        Ok(taken)
    }
}

/// The greatest number that a field may have.
pub(crate) const MAX_FIELD_NUMBER: u32 = (1 << 29) - 1;

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Raw<'a>), Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.read().transpose();
        if matches!(item, Some(Err(_))) {
            self.rest = &[];
        }
        item
    }
}

/// Takes a number of variable length off the front.
pub(crate) fn varint(rest: &mut &[u8]) -> Result<u64, Broken> {
    let mut value = 0;
    for (i, byte) in rest.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            *rest = &rest[i + 1..];
            return Ok(value);
        }
    }
    Err(if rest.len() < 10 { Broken::Cut } else { Broken::LongNumber })
}

/// Appends a field of bytes to a message.
pub(crate) fn put_bytes(message: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_varint(message, u64::from(number) << 3 | 2);
    put_varint(message, bytes.len() as u64);
    message.extend_from_slice(bytes);
}

/// Appends a field as it was read to a message.
pub(crate) fn put(message: &mut Vec<u8>, number: u32, value: Raw<'_>) {
    let tag = |wire_type| u64::from(number) << 3 | wire_type;
    match value {
        Raw::Varint(value) => {
            put_varint(message, tag(0));
            put_varint(message, value);
        }
        Raw::Fixed64(value) => {
            put_varint(message, tag(1));
            message.extend_from_slice(&value.to_le_bytes());
        }
        Raw::Bytes(bytes) => put_bytes(message, number, bytes),
        Raw::Fixed32(value) => {
            put_varint(message, tag(5));
            message.extend_from_slice(&value.to_le_bytes());
        }
    }
}

fn put_varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(message: &[u8]) -> Result<Vec<(u32, Raw<'_>)>, Broken> {
        Fields::new(message).collect()
    }

    #[test]
    fn fields_are_read_and_written() {
        let message = [8, 150, 1, 18, 2, 7, 8, 29, 1, 0, 0, 0, 33, 2, 0, 0, 0, 0, 0, 0, 0];
        let fields = read(&message).expect("a message");
        let expected =
            [(1, Raw::Varint(150)), (2, Raw::Bytes(&[7, 8])), (3, Raw::Fixed32(1)), (4, Raw::Fixed64(2))];
        assert_eq!(fields, expected);
        let mut written = Vec::new();
        fields.into_iter().for_each(|(number, value)| put(&mut written, number, value));
        assert_eq!(written, message);
    }

    #[test]
    fn groups_are_passed_over() {
        assert_eq!(read(&[11, 19, 8, 1, 20, 12, 16, 5]), Ok(vec![(2, Raw::Varint(5))]));
        assert_eq!(read(&[11, 8, 1]), Err(Broken::Cut));
        assert_eq!(read(&[11, 20]), Err(Broken::WireType));
        assert!(read(&[11; 1000]).is_err());
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        assert_eq!(read(&[8]), Err(Broken::Cut));
        assert_eq!(read(&[8, 0x80]), Err(Broken::Cut));
        assert_eq!(read(&[10, 5, 1]), Err(Broken::Cut));
        assert_eq!(read(&[10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]), Err(Broken::Cut));
        assert_eq!(read(&[0xff; 11]), Err(Broken::LongNumber));
        assert_eq!(read(&[0]), Err(Broken::FieldNumber));
        assert_eq!(read(&[14]), Err(Broken::WireType));
        assert_eq!(read(&[]), Ok(vec![]));
    }
}
