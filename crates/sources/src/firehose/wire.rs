//! The wire format of protocol buffers, read where it lies: nothing is copied, and what is not wanted is
//! stepped over.

use super::bad::BadWire;

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// A number: every integer, enumeration and yes or no.
    Number(u64),
    /// Bytes, a text or a message.
    Bytes(&'a [u8]),
    /// Eight or four bytes; nothing that is read here has such a field.
    Fixed,
}

impl<'a> Value<'a> {
    /// The number; of a field that should be one and is not, 0.
    #[inline]
    pub fn number(self) -> u64 {
        match self {
            Self::Number(number) => number,
            Self::Bytes(_) | Self::Fixed => 0,
        }
    }

    /// The bytes; of a field that should have some and does not, none.
    #[inline]
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Number(_) | Self::Fixed => &[],
        }
    }
}

/// The fields of a message that are still to be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The fields of a message.
    pub fn new(message: &'a [u8]) -> Self {
        Self(message)
    }

    /// The next field's number and value.
    #[inline]
    pub fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, BadWire> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).map_err(|_| BadWire::FORMAT)?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.fixed(8)?,
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| BadWire::FORMAT)?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.fixed(4)?,
            // Groups, which are long out of use, and what is not of this format.
            _ => return Err(BadWire::FORMAT),
        };
        if number == 0 { Err(BadWire::FORMAT) } else { Ok(Some((number, value))) }
    }

    #[inline]
    fn take(&mut self, length: usize) -> Result<&'a [u8], BadWire> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(BadWire::FORMAT)?;
        self.0 = rest;
        Ok(taken)
    }

    fn fixed(&mut self, length: usize) -> Result<Value<'a>, BadWire> {
        self.take(length).map(|_| Value::Fixed)
    }

    /// A number of up to ten bytes, seven bits each, the lowest first.
    #[inline]
    fn varint(&mut self) -> Result<u64, BadWire> {
        if let [first, rest @ ..] = self.0
            && *first < 0x80
        {
            self.0 = rest;
            return Ok(u64::from(*first));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Result<u64, BadWire> {
        let mut number = 0_u64;
        for (place, byte) in self.0.iter().take(10).enumerate() {
            number |= u64::from(byte & 0x7f) << (7 * place);
            if *byte < 0x80 {
                self.0 = &self.0[place + 1..];
                return if place == 9 && *byte > 1 { Err(BadWire::FORMAT) } else { Ok(number) };
            }
        }
        Err(BadWire::FORMAT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(message: &[u8]) -> Result<Vec<(u32, Value<'_>)>, BadWire> {
        let mut fields = Fields::new(message);
        let mut found = vec![];
        while let Some(field) = fields.next()? {
            found.push(field);
        }
        Ok(found)
    }

    #[test]
    fn fields_of_all_kinds_are_read_or_stepped_over() {
        let message =
            [0x08, 0x96, 0x01, 0x12, 0x02, b'a', b'b', 0x1d, 1, 2, 3, 4, 0x21, 1, 2, 3, 4, 5, 6, 7, 8];
        let expected =
            vec![(1, Value::Number(150)), (2, Value::Bytes(b"ab")), (3, Value::Fixed), (4, Value::Fixed)];
        assert_eq!(all(&message), Ok(expected));
        let greatest = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(all(&greatest), Ok(vec![(1, Value::Number(u64::MAX))]));
    }

    #[test]
    fn what_is_cut_off_or_not_of_the_format_is_bad() {
        for bad in [
            &[0x08][..],
            &[0x08, 0x80],
            &[0x12, 0x05, 1],
            &[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
            &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
            &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
            &[0x0b],
            &[0x0c],
            &[0x00, 0x01],
            &[0x0d, 1, 2, 3],
        ] {
            assert_eq!(all(bad), Err(BadWire::FORMAT), "{bad:?}");
        }
    }
}
