//! How an answer is packed on its way: what the client takes, and of that what costs least.

use std::io::{self, Write};

use axum::http::{HeaderMap, header};
use brotli::CompressorWriter;
use bytes::Bytes;
use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};

use super::qualities;

/// Brotli's quality and window: higher ones take longer than the network does.
const BROTLI: (u32, u32) = (3, 20);
const BROTLI_BUFFER: usize = 4096;

/// The level of Zstandard.
const ZSTD_LEVEL: i32 = 1;

/// A packer that is under way.
pub enum Packing {
    Plain,
    Gzip(Box<GzEncoder<Vec<u8>>>),
    Deflate(Box<ZlibEncoder<Vec<u8>>>),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Zstd(Box<zstd::stream::write::Encoder<'static, Vec<u8>>>),
}

impl Packing {
    /// What the request's `Accept-Encoding` likes best; of equals what is fastest.
    pub fn accepted(headers: &HeaderMap) -> io::Result<Self> {
        const NAMES: [&str; 4] = ["zstd", "gzip", "br", "deflate"];
        let wanted = qualities(headers, &header::ACCEPT_ENCODING);
        let of = |name: &str| {
            let named = wanted.iter().find(|(wanted, _)| wanted.eq_ignore_ascii_case(name));
            named.map_or(0.0, |(_, quality)| *quality)
        };
        // The first of those that are liked alike.
        let best = NAMES.into_iter().rev().max_by(|a, b| of(a).total_cmp(&of(b)));
        Ok(match best.filter(|name| of(name) > 0.0) {
            Some("zstd") => Self::Zstd(Box::new(zstd::stream::write::Encoder::new(vec![], ZSTD_LEVEL)?)),
            Some("gzip") => Self::Gzip(Box::new(GzEncoder::new(vec![], Compression::fast()))),
            Some("br") => {
                let (quality, window) = BROTLI;
                Self::Brotli(Box::new(CompressorWriter::new(vec![], BROTLI_BUFFER, quality, window)))
            }
            // By that name HTTP means the format of zlib (RFC 9110, section 8.4.1.2).
            Some("deflate") => Self::Deflate(Box::new(ZlibEncoder::new(vec![], Compression::fast()))),
            _ => Self::Plain,
        })
    }

    /// The value of `Content-Encoding`; `None` where the answer is not packed.
    pub fn name(&self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Gzip(_) => Some("gzip"),
            Self::Deflate(_) => Some("deflate"),
            Self::Brotli(_) => Some("br"),
            Self::Zstd(_) => Some("zstd"),
        }
    }

    /// Packs bytes so that the client can read all of them now, not only with the next ones.
    pub fn pack(&mut self, bytes: Vec<u8>) -> io::Result<Bytes> {
        fn through<W: Write>(
            packer: &mut W,
            bytes: &[u8],
            out: impl FnOnce(&mut W) -> &mut Vec<u8>,
        ) -> io::Result<Bytes> {
            packer.write_all(bytes)?;
            packer.flush()?;
            Ok(std::mem::take(out(packer)).into())
        }
        match self {
            Self::Plain => Ok(bytes.into()),
            Self::Gzip(packer) => through(&mut **packer, &bytes, GzEncoder::get_mut),
            Self::Deflate(packer) => through(&mut **packer, &bytes, ZlibEncoder::get_mut),
            Self::Brotli(packer) => through(&mut **packer, &bytes, CompressorWriter::get_mut),
            Self::Zstd(packer) => through(&mut **packer, &bytes, zstd::stream::write::Encoder::get_mut),
        }
    }

    /// What ends the packed bytes.
    pub fn finish(self) -> io::Result<Bytes> {
        match self {
            Self::Plain => Ok(Bytes::new()),
            Self::Gzip(packer) => packer.finish().map(Bytes::from),
            Self::Deflate(packer) => packer.finish().map(Bytes::from),
            Self::Brotli(packer) => Ok(packer.into_inner().into()),
            Self::Zstd(packer) => packer.finish().map(Bytes::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use axum::http::HeaderValue;

    use super::*;

    fn accepted(value: &'static str) -> Packing {
        let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))]);
        Packing::accepted(&headers).expect("a packing")
    }

    #[test]
    fn the_client_says_what_it_takes_and_likes() {
        for (value, expected) in [
            ("gzip", Some("gzip")),
            ("deflate, gzip, br, zstd", Some("zstd")),
            ("br, GZIP", Some("gzip")),
            ("deflate, gzip;q=0.5", Some("deflate")),
            ("gzip; q=1, zstd;q=0.9", Some("gzip")),
            ("br", Some("br")),
            ("", None),
            ("gzip;q=0", None),
            ("identity", None),
            ("gzip;q=x", None),
            ("lz4", None),
        ] {
            assert_eq!(accepted(value).name(), expected, "{value}");
        }
    }

    #[test]
    fn what_is_packed_can_be_read_piece_by_piece() {
        let pieces = ["first\n".repeat(1000), "second\n".to_owned(), String::new()];
        for name in ["gzip", "deflate", "br", "zstd"] {
            let mut packing = accepted(name);
            let mut packed = vec![];
            for piece in &pieces {
                packed.extend(packing.pack(piece.clone().into_bytes()).expect("bytes"));
                if name == "gzip" && packed.len() > 20 {
                    // What has come so far says all that was packed.
                    let mut so_far = String::new();
                    flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut so_far).ok();
                    assert!(so_far.ends_with("first\n") || so_far.ends_with("second\n"));
                }
            }
            packed.extend(packing.finish().expect("bytes"));
            let mut text = String::new();
            match name {
                "gzip" => flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut text),
                "deflate" => flate2::read::ZlibDecoder::new(&packed[..]).read_to_string(&mut text),
                "br" => brotli::Decompressor::new(&packed[..], 4096).read_to_string(&mut text),
                _ => zstd::stream::read::Decoder::new(&packed[..])
                    .expect("a decoder")
                    .read_to_string(&mut text),
            }
            .expect(name);
            assert_eq!(text, pieces.concat(), "{name}");
        }
    }
}
