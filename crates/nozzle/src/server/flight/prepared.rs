//! Prepared statements. The server keeps nothing of them: a handle is the statement's text and, once they are
//! bound, its parameters. So it holds on any server behind the same address, and what comes back is parsed and
//! checked in full as any other text.

use std::panic::catch_unwind;

use arrow::{
    array::RecordBatch,
    buffer::Buffer,
    ipc::{reader::StreamDecoder, writer::StreamWriter},
};
use bytes::Bytes;
use tonic::Status;

use super::super::query::Statement;

/// The bytes before the text that say how long it is.
const LENGTH_BYTES: usize = 4;

/// The handle of a statement.
pub(super) fn handle(statement: &Statement) -> Result<Bytes, Status> {
    let internal = |error: arrow::error::ArrowError| Status::internal(error.to_string());
    let sql = statement.sql.as_bytes();
    let length =
        u32::try_from(sql.len()).map_err(|_| Status::invalid_argument("the statement is too long"))?;
    let mut bytes = [&length.to_be_bytes()[..], sql].concat();
    if let Some(row) = &statement.parameters {
        let mut writer = StreamWriter::try_new(&mut bytes, &row.schema()).map_err(internal)?;
        writer.write(row).and_then(|()| writer.finish()).map_err(internal)?;
    }
    Ok(bytes.into())
}

/// The statement of a handle.
pub(super) fn statement(handle: &[u8]) -> Result<Statement, Status> {
    let bad = || Status::invalid_argument("the handle is not one of a prepared statement");
    let (length, rest) = handle.split_first_chunk::<LENGTH_BYTES>().ok_or_else(bad)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| bad())?;
    let (sql, parameters) = rest.split_at_checked(length).ok_or_else(bad)?;
    let sql = std::str::from_utf8(sql).map_err(|_| bad())?.to_owned();
    // The library panics at types that it does not know.
    let read = || catch_unwind(|| row(parameters)).ok().flatten().ok_or_else(bad);
    let parameters = if parameters.is_empty() { None } else { Some(read()?) };
    Ok(Statement { sql, parameters })
}

fn row(stream: &[u8]) -> Option<RecordBatch> {
    // Unlike a reader it makes no room for what is only announced: these bytes are a client's.
    let (mut decoder, mut rest) = (StreamDecoder::new(), Buffer::from(stream));
    let row = decoder.decode(&mut rest).ok()??;
    let more = decoder.decode(&mut rest).ok()?;
    (more.is_none() && row.num_rows() == 1 && decoder.finish().is_ok()).then_some(row)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};

    use super::*;

    #[test]
    fn a_handle_is_the_statement_and_nothing_else_is_one() {
        let row = |values: Vec<i64>| {
            let column: ArrayRef = Arc::new(Int64Array::from(values));
            RecordBatch::try_from_iter([("$1", column)]).expect("a batch")
        };
        let plain = Statement::from("SELECT 1".to_owned());
        let bound = Statement { parameters: Some(row(vec![7])), ..plain.clone() };
        for expected in [plain.clone(), bound.clone()] {
            assert_eq!(statement(&handle(&expected).expect("a handle")).expect("a statement"), expected);
        }
        let two = Statement { parameters: Some(row(vec![1, 2])), ..plain };
        assert!(statement(&handle(&two).expect("a handle")).is_err());
        let whole = handle(&bound).expect("a handle");
        assert!(statement(&[]).is_err() && statement(&[0, 0, 1, 0, b'x']).is_err());
        assert!(statement(&[0, 0, 0, 1, 0xff]).is_err());
        (12..whole.len()).for_each(|end| drop(statement(&whole[..end])));
        // Lengths that nothing has room for.
        for place in 12..whole.len() {
            let mut damaged = whole.to_vec();
            damaged[place] ^= 0x7f;
            drop(statement(&damaged));
        }
    }
}
