//! The compression of a batch's records; the broker opens a batch to check it when it comes, and to filter it.

mod kind;
#[cfg(not(feature = "codecs"))]
#[path = "codec/absent.rs"]
mod libraries;
#[cfg(feature = "codecs")]
mod libraries;
#[cfg(feature = "codecs")]
mod snappy;

use std::io::Read;

pub use self::kind::Codec;
use self::libraries::CodecReader;
use crate::BatchError;

impl Codec {
    /// Compresses `data`; `None` hands it back as it is.
    ///
    /// # Panics
    /// On a codec that is not built in.
    pub(crate) fn compress(self, data: Vec<u8>) -> Vec<u8> {
        libraries::compress(self, data)
    }

    /// Decompresses `data` into at most `limit` bytes; memory grows with what really comes out.
    pub(crate) fn decompress(self, data: &[u8], limit: usize) -> Result<Vec<u8>, BatchError> {
        let mut out = Vec::new();
        self.reader(data)?.take(limit as u64 + 1).read_to_end(&mut out).map_err(|e| self.failed(&e))?;
        if out.len() > limit {
            return Err(BatchError::TooLarge { what: "decompressed batch", found: out.len(), limit });
        }
        Ok(out)
    }

    /// Decompresses `data` piece by piece, in the memory of the codec's window (16 MiB at most).
    pub(crate) fn reader(self, data: &[u8]) -> Result<CodecReader<'_>, BatchError> {
        libraries::reader(self, data)
    }
}
