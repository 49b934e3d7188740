//! Which codecs there are, by number and by name. What they do is left to `codec`.

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

    /// What the codec's library says, as an error of the batch.
    pub(crate) fn failed(self, error: &std::io::Error) -> BatchError {
        BatchError::Decompress { codec: self.name(), reason: error.to_string() }
    }
}
