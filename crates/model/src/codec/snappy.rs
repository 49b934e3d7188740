//! Snappy as Kafka's clients write it: a header of the xerial library, then blocks, each behind its length; or one
//! block and nothing else.
//!
//! Which batches are compressed so is left to `codec.rs`.

use std::io::{Error, ErrorKind, Read, Result};

use crate::limits::BATCH_BYTES_MAX;

pub(crate) fn compress(data: &[u8]) -> Vec<u8> {
    let mut out = HEADER.to_vec();
    let mut encoder = snap::raw::Encoder::new();
    for block in data.chunks(BLOCK_BYTES) {
        let packed = encoder.compress_vec(block).expect("a block is far below the format's limit");
        out.extend((packed.len() as u32).to_be_bytes());
        out.extend(packed);
    }
    out
}

/// Opens block after block.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    is_framed: bool,
    block: Vec<u8>,
    /// Bytes of `block` that were read.
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Reader<'a> {
        let framed = data.strip_prefix(&HEADER);
        Reader { rest: framed.unwrap_or(data), is_framed: framed.is_some(), block: Vec::new(), at: 0 }
    }

    fn open_next(&mut self) -> Result<()> {
        let invalid = |what: &str| Error::new(ErrorKind::InvalidData, what);
        let packed = match self.is_framed {
            false => std::mem::take(&mut self.rest),
            true => {
                let (length, rest) = self.rest.split_first_chunk().ok_or_else(|| invalid("a block's length is cut"))?;
                let length = u32::from_be_bytes(*length) as usize;
                let (packed, rest) = rest.split_at_checked(length).ok_or_else(|| invalid("a block is cut"))?;
                self.rest = rest;
                packed
            }
        };
        let bytes = snap::raw::decompress_len(packed)?;
        // Three bytes stand for 64 at the most: memory is not taken for more than can come.
        if bytes > BATCH_BYTES_MAX || bytes > packed.len() * (64 / 3 + 1) {
            return Err(invalid("a block claims to hold more than it can"));
        }
        self.block.resize(bytes, 0);
        snap::raw::Decoder::new().decompress(packed, &mut self.block)?;
        self.at = 0;
        Ok(())
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        while self.at == self.block.len() {
            if self.rest.is_empty() {
                return Ok(0);
            }
            self.open_next()?;
        }
        let count = out.len().min(self.block.len() - self.at);
        out[..count].copy_from_slice(&self.block[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// Magic number, version and lowest version that can read it. Source: xerial snappy-java, SnappyCodec.
const HEADER: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
/// Bytes of a block before compression. Source: as above, the default of SnappyOutputStream.
const BLOCK_BYTES: usize = 32 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn open(data: &[u8]) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        Reader::new(data).read_to_end(&mut out).map(|_| out)
    }

    #[test]
    fn blocks_come_back_and_one_block_alone_is_read_too() {
        for length in [0, 1, BLOCK_BYTES, BLOCK_BYTES + 1, 200_000] {
            let data: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            assert_eq!(open(&compress(&data)).unwrap(), data);
            assert_eq!(open(&snap::raw::Encoder::new().compress_vec(&data).unwrap()).unwrap(), data);
        }
        // By hand, from the format: 5 bytes, a literal of 5.
        assert_eq!(open(b"\x05\x10hello").unwrap(), b"hello");
        let framed = [&HEADER[..], &[0, 0, 0, 7], b"\x05\x10hello", &[0, 0, 0, 3], b"\x01\x00!"].concat();
        assert_eq!(open(&framed).unwrap(), b"hello!");
    }

    #[test]
    fn what_is_cut_or_claims_too_much_is_refused_before_memory_is_taken() {
        let whole = compress(&[7; 100_000]);
        let ends: Vec<usize> =
            (0..whole.len()).filter(|at| open(&whole[..*at]).is_ok_and(|o| o.len() < 100_000)).collect();
        // Between two blocks nothing is missing that could be seen here: the batch's own counts see it.
        assert!(ends.len() <= 5, "{ends:?}");
        // Blocks that say they hold 4 GiB, and 16 MiB.
        assert!(open(b"\xff\xff\xff\xff\x0f\x00").is_err());
        assert!(open(b"\x80\x80\x80\x08\x00").is_err());
        let framed = [&HEADER[..], &[0xff, 0xff, 0xff, 0xff], b"x"].concat();
        assert!(open(&framed).is_err());
    }
}
