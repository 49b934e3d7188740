//! How texts and bytes stand in records: their length as a little-endian u32, then the bytes themselves. What the
//! fields of a record are is left to the two `record` modules.

use bytes::{Buf, BufMut, Bytes};
use thalweg_model::limits::NAME_BYTES_MAX;

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(bytes);
}

pub(crate) fn take_bytes(data: &mut &[u8], limit: usize) -> Option<Bytes> {
    let length = data.try_get_u32_le().ok()? as usize;
    if length > limit || length > data.len() {
        return None;
    }
    let (bytes, rest) = data.split_at(length);
    *data = rest;
    Some(Bytes::copy_from_slice(bytes))
}

pub(crate) fn take_name(data: &mut &[u8]) -> Option<String> {
    String::from_utf8(take_bytes(data, NAME_BYTES_MAX)?.into()).ok()
}

pub(crate) fn take_array<const N: usize>(data: &mut &[u8]) -> Option<[u8; N]> {
    let (array, rest) = data.split_first_chunk::<N>()?;
    *data = rest;
    Some(*array)
}
