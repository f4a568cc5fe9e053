//! Lists in RLP.

use alloy_rlp::Header;

/// The list of what `write` puts.
pub(super) fn list(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut payload = Vec::new();
    write(&mut payload);
    let header = Header { list: true, payload_length: payload.len() };
    let mut out = Vec::with_capacity(payload.len() + header.length());
    header.encode(&mut out);
    out.extend_from_slice(&payload);
    out
}

/// Puts the list of what `write` puts.
pub(super) fn put_list(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(&list(write));
}
