//! The compression of a batch's records; the broker opens a batch to check it when it comes, and to filter it.

#[cfg(not(feature = "codecs"))]
#[path = "codec/absent.rs"]
mod libraries;
#[cfg(feature = "codecs")]
mod libraries;
#[cfg(feature = "codecs")]
mod snappy;

use std::io::Read;

pub(crate) use self::libraries::CodecReader;
use crate::BatchError;

/// Compression codec of a batch, by Kafka's attribute ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Codec {
    /// Records as they are (id 0).
    #[default]
    None,
    /// gzip (id 1), level 1.
    Gzip,
    /// Snappy (id 2), in the blocks of the xerial library as Kafka's Java client writes it; one block without them is
    /// read too, as librdkafka writes it.
    Snappy,
    /// LZ4 frame format (id 3).
    Lz4,
    /// Zstandard (id 4), level 1.
    Zstd,
}

impl Codec {
    /// The codec of the three low attribute bits.
    pub(crate) fn from_id(id: u8) -> Result<Codec, BatchError> {
        match id {
            0 => Ok(Codec::None),
            1 => Ok(Codec::Gzip),
            2 => Ok(Codec::Snappy),
            3 => Ok(Codec::Lz4),
            4 => Ok(Codec::Zstd),
            _ => Err(BatchError::Codec { id }),
        }
    }

    /// Its id in the attributes.
    pub(crate) fn id(self) -> u8 {
        match self {
            Codec::None => 0,
            Codec::Gzip => 1,
            Codec::Snappy => 2,
            Codec::Lz4 => 3,
            Codec::Zstd => 4,
        }
    }

    /// Its name on command lines and in options.
    pub fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Gzip => "gzip",
            Codec::Snappy => "snappy",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        }
    }

    /// Every codec, in the order of its id in a batch.
    pub const ALL: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    /// The codec called `name`, if there is one.
    pub fn from_name(name: &str) -> Option<Codec> {
        Self::ALL.into_iter().find(|c| c.name() == name)
    }

    /// True where this build can compress with it and read it: always for `None`, for all others with the feature
    /// `codecs`, which is on by default.
    pub const fn is_built_in(self) -> bool {
        cfg!(feature = "codecs") || matches!(self, Codec::None)
    }

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

    /// What the codec's library says, as an error of the batch.
    pub(crate) fn failed(self, error: &std::io::Error) -> BatchError {
        BatchError::Decompress { codec: self.name(), reason: error.to_string() }
    }
}
