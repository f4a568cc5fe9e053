//! One block of a bloom filter instead of all of it.
//!
//! The filter of a row group's hashes has some hundred kilobytes, and a value is told by 32 bytes of them
//! (the split block filter of the Parquet format).

use bytes::Bytes;
use parquet::{
    arrow::async_reader::AsyncFileReader, bloom_filter::Sbbf, errors::Result as ParquetResult,
    file::metadata::ColumnChunkMetaData,
};
use twox_hash::XxHash64;

const BLOCK_BYTES: u64 = 32;

/// With more values than this the whole filter is read, if anything.
const MAX_BLOCKS: usize = 64;

/// Whether the chunk may hold one of the values, as far as its bloom filter tells.
pub(crate) async fn may_hold(
    reader: &mut (dyn AsyncFileReader + Send),
    chunk: &ColumnChunkMetaData,
    values: &[&[u8]],
) -> ParquetResult<bool> {
    let (Some(offset), Some(length)) = (chunk.bloom_filter_offset(), chunk.bloom_filter_length()) else {
        return Ok(true);
    };
    let (Ok(offset), Ok(length)) = (u64::try_from(offset), u64::try_from(length)) else { return Ok(true) };
    // The bits are a power of two, and behind a header that is shorter than they are.
    let bitset = if length == 0 { 0 } else { 1 << length.ilog2() };
    let header = length - bitset;
    if bitset >= BLOCK_BYTES && header > 0 && values.len() <= MAX_BLOCKS {
        let block = |value: &&[u8]| {
            let at = offset + header + BLOCK_BYTES * block_of(value, bitset / BLOCK_BYTES);
            at..at + BLOCK_BYTES
        };
        let ranges = std::iter::once(offset..offset + header).chain(values.iter().map(block)).collect();
        let parts = reader.get_byte_ranges(ranges).await?;
        if let Some((header, blocks)) = parts.split_first()
            && bitset_bytes(header) == Some(bitset)
        {
            // A filter of one block has every value in that.
            let may_hold = |(value, block): (&&[u8], &Bytes)| Sbbf::new(block).check(*value);
            return Ok(values.iter().zip(blocks).any(may_hold));
        }
    }
    let filter = Sbbf::from_bytes(&reader.get_bytes(offset..offset + length).await?)?;
    Ok(values.iter().any(|value| filter.check(*value)))
}

/// The block that has the bits of a value.
fn block_of(value: &[u8], blocks: u64) -> u64 {
    ((XxHash64::oneshot(0, value) >> 32) * blocks) >> 32
}

/// The size of the bits that a filter's header tells: its first field, an `i32` in Thrift's compact protocol.
fn bitset_bytes(header: &[u8]) -> Option<u64> {
    let (kind, rest) = header.split_first()?;
    let mut zigzag = 0u64;
    for (place, byte) in rest.iter().take(5).enumerate() {
        zigzag |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return (*kind == 0x15 && zigzag & 1 == 0).then_some(zigzag >> 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_tells_what_the_filter_tells() {
        let mut filter = Sbbf::new_with_ndv_fpp(1_000, 0.01).expect("a filter");
        let value = |number: u32| [number.to_be_bytes(); 8].concat();
        (0..1_000).for_each(|number| filter.insert(value(number).as_slice()));
        let mut bytes = vec![];
        filter.write(&mut bytes).expect("it is written");
        let bitset = bitset_bytes(&bytes).expect("a size");
        assert_eq!(bitset, 1 << bytes.len().ilog2());
        let header = bytes.len() - usize::try_from(bitset).expect("small");
        for number in 0..3_000 {
            let value = value(number);
            let at = header + 32 * usize::try_from(block_of(&value, bitset / 32)).expect("small");
            let block = Sbbf::new(&bytes[at..at + 32]);
            assert_eq!(block.check(value.as_slice()), filter.check(value.as_slice()), "{number}");
        }
    }
}
