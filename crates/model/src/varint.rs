//! Zig-zag varints as in Kafka's records (and protobuf's `sint64`).
//!
//! Which fields of a record are varints is left to `batch.rs`.

use crate::BatchError;

/// Bytes that `value` takes.
pub(crate) fn len(value: i64) -> usize {
    let zigzag = ((value << 1) ^ (value >> 63)) as u64;
    (64 - (zigzag | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends `value` as a varint.
pub(crate) fn put(out: &mut Vec<u8>, value: i64) {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    while zigzag >= 0x80 {
        out.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

/// Reads one at `*at` and moves past it.
#[inline(always)]
pub(crate) fn take(data: &[u8], at: &mut usize) -> Result<i64, BatchError> {
    // Nearly all numbers of a record take one byte or two, and there are some seven of them in each.
    match data.get(*at..) {
        Some([a @ 0..0x80, ..]) => {
            *at += 1;
            Ok(signed(*a as u64))
        }
        Some([a, b @ 0..0x80, ..]) => {
            *at += 2;
            Ok(signed((*a & 0x7f) as u64 | (*b as u64) << 7))
        }
        _ => take_long(data, at),
    }
}

#[inline(always)]
fn signed(zigzag: u64) -> i64 {
    (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64)
}

#[inline(never)]
fn take_long(data: &[u8], at: &mut usize) -> Result<i64, BatchError> {
    let mut zigzag = 0u64;
    for shift in [0, 7, 14, 21, 28, 35, 42, 49, 56, 63] {
        let byte = *data.get(*at).ok_or(BatchError::Truncated { needed: *at + 1, found: data.len() })?;
        *at += 1;
        if shift == 63 && byte > 1 {
            break;
        }
        zigzag |= ((byte & 0x7f) as u64) << shift;
        if byte & 0x80 == 0 {
            return Ok(signed(zigzag));
        }
    }
    Err(BatchError::Field { field: "varint", reason: "longer than 64 bits" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_comes_back() {
        for value in [0, 1, -1, 63, 64, -64, -65, 8191, 8192, i32::MAX as i64, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            put(&mut out, value);
            assert_eq!(out.len(), len(value), "{value}");
            let mut at = 0;
            assert_eq!(take(&out, &mut at), Ok(value));
            assert_eq!(at, out.len());
        }
    }

    #[test]
    fn overlong_and_truncated_are_refused() {
        assert!(matches!(take(&[0xff; 11], &mut 0), Err(BatchError::Field { .. })));
        assert!(matches!(take(&[0x80], &mut 0), Err(BatchError::Truncated { .. })));
    }
}
