//! A bit for each row.

use arrow::buffer::{BooleanBuffer, Buffer};

/// Bits in the order of their rows, 64 a word, the first in the lowest bit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rows {
    words: Vec<u64>,
    len: usize,
}

impl Rows {
    /// Without bits, with room for so many.
    pub(crate) fn with_capacity(rows: usize) -> Self {
        // One more, as a word that lies across two needs both.
        Self { words: Vec::with_capacity(rows / 64 + 2), len: 0 }
    }

    /// So many bits, none of them set.
    pub(crate) fn none(rows: usize) -> Self {
        let mut none = Self::with_capacity(rows);
        none.push_repeated(false, rows);
        none
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How many bits are set.
    pub(crate) fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Appends the lowest `count` bits of a word, at most 64; those above are zero.
    pub(crate) fn push(&mut self, word: u64, count: usize) {
        debug_assert!(count <= 64 && (count == 64 || word >> count == 0), "{word:x} of {count} bits");
        if count == 0 {
            return;
        }
        let used = self.len % 64;
        match self.words.last_mut().filter(|_| used > 0) {
            Some(last) => {
                *last |= word << used;
                if used + count > 64 {
                    self.words.push(word >> (64 - used));
                }
            }
            None => self.words.push(word),
        }
        self.len += count;
    }

    /// Appends the same bit so many times.
    pub(crate) fn push_repeated(&mut self, bit: bool, mut count: usize) {
        while count > 0 {
            let now = count.min(64);
            self.push(if bit { low_bits(now) } else { 0 }, now);
            count -= now;
        }
    }

    /// Appends all bits of another.
    pub(crate) fn extend(&mut self, other: &Self) {
        for at in (0..other.len).step_by(64) {
            let count = (other.len - at).min(64);
            self.push(other.get(at, count), count);
        }
    }

    /// The `count` bits from `at` on, at most 64.
    pub(crate) fn get(&self, at: usize, count: usize) -> u64 {
        let word = |index: usize| self.words.get(index).copied().unwrap_or(0);
        let (index, shift) = (at / 64, at % 64);
        let low = word(index) >> shift;
        let high = if shift == 0 { 0 } else { word(index + 1) << (64 - shift) };
        (low | high) & low_bits(count)
    }

    /// Whether any of the `count` bits from `at` on is set.
    pub(crate) fn any(&self, at: usize, count: usize) -> bool {
        (0..count).step_by(64).any(|done| self.get(at + done, (count - done).min(64)) != 0)
    }

    /// How many of the `count` bits from `at` on are set.
    pub(crate) fn count_in(&self, at: usize, count: usize) -> usize {
        let words = (0..count).step_by(64);
        words.map(|done| self.get(at + done, (count - done).min(64)).count_ones() as usize).sum()
    }

    /// The `count` bits from `at` on.
    pub(crate) fn slice(&self, at: usize, count: usize) -> Self {
        let mut slice = Self::with_capacity(count);
        for done in (0..count).step_by(64) {
            let now = (count - done).min(64);
            slice.push(self.get(at + done, now), now);
        }
        slice
    }

    /// Keeps the bits that the other has too, which has as many.
    pub(crate) fn keep(&mut self, other: &Self) {
        debug_assert_eq!(self.len, other.len);
        self.words.iter_mut().zip(&other.words).for_each(|(mine, its)| *mine &= its);
    }

    /// Gives each bit that is set here the next of `values`, in their order.
    pub(crate) fn spread(&self, values: &Self) -> Self {
        let mut spread = Self::with_capacity(self.len);
        let mut taken = 0;
        for at in (0..self.len).step_by(64) {
            let mut room = self.get(at, 64.min(self.len - at));
            let width = room.count_ones() as usize;
            let mut next = values.get(taken, width);
            taken += width;
            let word = if room == low_bits(width) {
                next
            } else {
                let mut word = 0;
                while next != 0 {
                    // Rooms below the next bit that is set stay empty.
                    for _ in 0..next.trailing_zeros() {
                        room &= room - 1;
                    }
                    word |= room & room.wrapping_neg();
                    room &= room - 1;
                    next = next >> next.trailing_zeros() >> 1;
                }
                word
            };
            spread.push(word, 64.min(self.len - at));
        }
        spread
    }

    /// The bits at the places that are set in `of`, which has as many: what [`Self::spread`] of `of` undoes.
    pub(crate) fn pack(&self, of: &Self) -> Self {
        let mut packed = Self::with_capacity(self.len);
        for at in (0..self.len).step_by(64) {
            let width = 64.min(self.len - at);
            let (bits, mut places) = (self.get(at, width), of.get(at, width));
            if places == low_bits(width) {
                packed.push(bits, width);
                continue;
            }
            let (mut word, mut count) = (0, 0);
            while places != 0 {
                word |= ((bits >> places.trailing_zeros()) & 1) << count;
                places &= places - 1;
                count += 1;
            }
            packed.push(word, count);
        }
        packed
    }
}

fn low_bits(count: usize) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

impl From<Rows> for BooleanBuffer {
    fn from(rows: Rows) -> Self {
        Self::new(Buffer::from_vec(rows.words), 0, rows.len)
    }
}

impl FromIterator<bool> for Rows {
    fn from_iter<I: IntoIterator<Item = bool>>(bits: I) -> Self {
        let mut rows = Self::default();
        bits.into_iter().for_each(|bit| rows.push(u64::from(bit), 1));
        rows
    }
}
