//! Files of blocks as Firehose keeps them: `dbin`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use prost::Message;

use super::chain::Served;

/// `sf.bstream.v1.Block`: the envelope of a block in a file.
#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(string, tag = "2")]
    id: String,
    #[prost(string, tag = "3")]
    previous_id: String,
    #[prost(uint64, tag = "5")]
    lib_num: u64,
    #[prost(int32, tag = "7")]
    payload_version: i32,
    #[prost(bytes = "bytes", tag = "8")]
    payload: Bytes,
}

/// The blocks of a file, packed with zstd or not.
pub fn read(path: &Path) -> anyhow::Result<Vec<Served>> {
    let mut bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    if path.extension().is_some_and(|extension| extension == "zst") {
        bytes = zstd::decode_all(&bytes[..]).with_context(|| format!("unpacking {}", path.display()))?;
    }
    parse(&bytes).with_context(|| format!("reading {}", path.display()))
}

/// The blocks of all such files of a folder, each once, ascending.
pub fn read_all(folder: &Path) -> anyhow::Result<Vec<Served>> {
    let what = || format!("reading {}", folder.display());
    let files = std::fs::read_dir(folder).with_context(what)?.map(|entry| Ok(entry?.path()));
    let files = files.collect::<std::io::Result<Vec<PathBuf>>>().with_context(what)?;
    let mut blocks = vec![];
    for file in files.iter().filter(|file| file.to_string_lossy().contains(".dbin")) {
        blocks.extend(read(file)?);
    }
    blocks.sort_by_key(|block| block.number);
    blocks.dedup_by_key(|block| block.number);
    Ok(blocks)
}

/// `dbin`, a version, the type of the content (version 0: three letters and two digits; version 1: a length of two bytes and a name), then
/// messages behind their lengths of four bytes, big-endian.
fn parse(bytes: &[u8]) -> anyhow::Result<Vec<Served>> {
    let rest = bytes.strip_prefix(b"dbin").context("it does not begin with `dbin`")?;
    let (version, rest) = rest.split_first().context("it has no version")?;
    let header = match version {
        0 => 5,
        1 => 2 + usize::from(u16::from_be_bytes(rest.get(..2).context("it is cut off")?.try_into()?)),
        other => bail!("it is of the version {other}"),
    };
    let mut rest = rest.get(header..).context("it is cut off")?;
    let mut blocks = vec![];
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        ensure!(tail.len() >= length, "a block is cut off");
        let (message, tail) = tail.split_at(length);
        let envelope = Envelope::decode(message)?;
        blocks.push(Served {
            number: envelope.number,
            id: envelope.id,
            parent_id: envelope.previous_id,
            final_num: envelope.lib_num,
            payload: envelope.payload,
        });
        rest = tail;
    }
    Ok(blocks)
}
