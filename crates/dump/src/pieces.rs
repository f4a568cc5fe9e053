//! Where an encoder puts its bytes: pieces of a bounded size. One buffer that grows with a row group
//! would be copied each time that it grows, and would hold twice as much as it needs.

use std::io::{self, Write};

use bytes::Bytes;

/// The size of a piece.
const PIECE_BYTES: usize = 1 << 20;

/// Bytes in the order in which they were written.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    full: Vec<Bytes>,
    /// Shorter than a piece.
    open: Vec<u8>,
}

impl Pieces {
    /// All that was written since the last call.
    pub fn take(&mut self) -> Vec<Bytes> {
        self.end_piece();
        std::mem::take(&mut self.full)
    }

    fn end_piece(&mut self) {
        if !self.open.is_empty() {
            self.full.push(std::mem::take(&mut self.open).into());
        }
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE_BYTES - self.open.len();
        let taken = &bytes[..bytes.len().min(room)];
        self.open.extend_from_slice(taken);
        if self.open.len() == PIECE_BYTES {
            self.end_piece();
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The last `count` bytes of the pieces together; `None` where they are fewer.
pub(crate) fn last_bytes(pieces: &[Bytes], count: usize) -> Option<Bytes> {
    let mut missing = count;
    let mut parts = vec![];
    for piece in pieces.iter().rev() {
        let part = piece.slice(piece.len().saturating_sub(missing)..);
        missing -= part.len();
        parts.push(part);
        if missing == 0 {
            break;
        }
    }
    let whole: Vec<u8> = parts.into_iter().rev().flatten().collect();
    (missing == 0).then(|| whole.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_comes_in_pieces_of_one_size() {
        let mut pieces = Pieces::default();
        let bytes: Vec<u8> = (0..2 * PIECE_BYTES + 5).map(|n| n as u8).collect();
        pieces.write_all(&bytes[..3]).expect("room");
        pieces.write_all(&bytes[3..]).expect("room");
        let taken = pieces.take();
        assert_eq!(taken.iter().map(Bytes::len).collect::<Vec<_>>(), [PIECE_BYTES, PIECE_BYTES, 5]);
        assert_eq!(taken.concat(), bytes);
        assert!(pieces.take().is_empty());
    }

    #[test]
    fn the_last_bytes_may_lie_in_several_pieces() {
        let pieces = [&b"ab"[..], b"c", b"de"].map(Bytes::from_static);
        let last = |count| last_bytes(&pieces, count).map(|bytes| bytes.to_vec());
        assert_eq!(last(0), Some(vec![]));
        assert_eq!(last(1), Some(b"e".to_vec()));
        assert_eq!(last(4), Some(b"bcde".to_vec()));
        assert_eq!(last(5), Some(b"abcde".to_vec()));
        assert_eq!(last(6), None);
    }
}
