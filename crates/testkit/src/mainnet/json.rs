//! JSON text as nodes write it, without a detour over a tree.

/// A text under construction; commas come by themselves.
#[derive(Debug)]
pub(super) struct Json(Vec<u8>);

impl Json {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// The text, with no room behind it: it may be kept.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.0.shrink_to_fit();
        self.0
    }

    /// An object, within a list or as the whole.
    pub(super) fn object(&mut self, write: impl FnOnce(&mut Self)) {
        self.separate();
        self.0.push(b'{');
        write(self);
        self.0.push(b'}');
    }

    /// The list of what `write` makes of each item, for a [`Json::key`] or as the whole.
    pub(super) fn list<T>(
        &mut self,
        items: impl IntoIterator<Item = T>,
        mut write: impl FnMut(&mut Self, T),
    ) {
        self.0.push(b'[');
        for item in items {
            write(self, item);
        }
        self.0.push(b']');
    }

    /// The name of the value that follows.
    pub(super) fn key(&mut self, name: &str) -> &mut Self {
        self.separate();
        self.0.push(b'"');
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
        self
    }

    /// Bytes as an item of a list.
    pub(super) fn item(&mut self, bytes: &[u8]) {
        self.separate();
        self.hex(bytes);
    }

    /// A field with bytes.
    pub(super) fn data(&mut self, name: &str, bytes: impl AsRef<[u8]>) {
        self.key(name).hex(bytes.as_ref());
    }

    /// A field with bytes, or null.
    pub(super) fn data_or_null(&mut self, name: &str, bytes: Option<impl AsRef<[u8]>>) {
        match bytes {
            Some(bytes) => self.data(name, bytes),
            None => self.key(name).0.extend_from_slice(b"null"),
        }
    }

    /// A field with a number, without leading zeros.
    pub(super) fn quantity(&mut self, name: &str, number: impl Into<u128>) {
        self.word(name, number.into().to_be_bytes());
    }

    /// A field with a number of any width, the highest byte first.
    pub(super) fn word(&mut self, name: &str, bytes: impl AsRef<[u8]>) {
        self.key(name);
        let start = self.0.len();
        self.hex(bytes.as_ref());
        let digits = start + 3..self.0.len() - 1;
        let zeros = self.0[digits.clone()].iter().take_while(|digit| **digit == b'0').count();
        let zeros = zeros.min(digits.len() - 1);
        self.0.drain(digits.start..digits.start + zeros);
    }

    /// A field that is false.
    pub(super) fn no(&mut self, name: &str) {
        self.key(name).0.extend_from_slice(b"false");
    }

    fn hex(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(b"\"0x");
        let start = self.0.len();
        self.0.resize(start + 2 * bytes.len(), 0);
        const_hex::encode_to_slice(bytes, &mut self.0[start..]).expect("two digits a byte");
        self.0.push(b'"');
    }

    fn separate(&mut self) {
        if !matches!(self.0.last(), None | Some(b'{' | b'[' | b':')) {
            self.0.push(b',');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_json_with_quantities_and_data_as_nodes_write_them() {
        let mut json = Json::with_capacity(100);
        json.object(|json| {
            json.quantity("zero", 0u64);
            json.quantity("n", 0x1f0u64);
            json.data("d", [0, 0x1f]);
            json.data("e", []);
            json.data_or_null("x", None::<[u8; 1]>);
            json.key("l").list([[1u8], [2]], |json, item| json.item(&item));
            json.key("o").list([7u64, 8], |json, item| json.object(|json| json.quantity("q", item)));
            json.word("w", [0, 0, 0x0a, 0xff]);
            json.no("removed");
        });
        let text = String::from_utf8(json.finish()).expect("text");
        let expected = r#"{"zero":"0x0","n":"0x1f0","d":"0x001f","e":"0x","x":null,"l":["0x01","0x02"],"o":[{"q":"0x7"},{"q":"0x8"}],"w":"0xaff","removed":false}"#;
        assert_eq!(text, expected);
    }
}
