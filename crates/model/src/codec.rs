//! The compression of a batch's records; the broker opens a batch to check it when it comes, and to filter it.

use std::io::{Read, Write};

use crate::{BatchError, snappy};

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

    /// Every codec.
    pub const ALL: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    /// The codec called `name`, if there is one.
    pub fn from_name(name: &str) -> Option<Codec> {
        Self::ALL.into_iter().find(|c| c.name() == name)
    }

    /// Compresses `data`; `None` hands it back as it is.
    pub(crate) fn compress(self, data: Vec<u8>) -> Vec<u8> {
        const INFALLIBLE: &str = "compressing into memory cannot fail";
        match self {
            Codec::None => data,
            Codec::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&data).expect(INFALLIBLE);
                encoder.finish().expect(INFALLIBLE)
            }
            Codec::Snappy => snappy::compress(&data),
            Codec::Lz4 => {
                let mut encoder = lz4::EncoderBuilder::new()
                    .level(1)
                    .block_mode(lz4::BlockMode::Independent)
                    .checksum(lz4::ContentChecksum::NoChecksum)
                    .build(Vec::with_capacity(data.len() / 2 + 64))
                    .expect(INFALLIBLE);
                encoder.write_all(&data).expect(INFALLIBLE);
                let (out, result) = encoder.finish();
                result.expect(INFALLIBLE);
                out
            }
            Codec::Zstd => zstd::bulk::compress(&data, 1).expect(INFALLIBLE),
        }
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
        let failed = |e: std::io::Error| self.failed(&e);
        Ok(match self {
            Codec::None => CodecReader::None(data),
            Codec::Gzip => CodecReader::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(data))),
            Codec::Snappy => CodecReader::Snappy(snappy::Reader::new(data)),
            Codec::Lz4 => CodecReader::Lz4(lz4::Decoder::new(data).map_err(failed)?),
            Codec::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(data).map_err(failed)?;
                // A frame may ask for a window of gigabytes; 16 MiB is all that a batch may hold.
                decoder.window_log_max(24).map_err(failed)?;
                CodecReader::Zstd(decoder)
            }
        })
    }

    /// What the codec's library says, as an error of the batch.
    pub(crate) fn failed(self, error: &std::io::Error) -> BatchError {
        BatchError::Decompress { codec: self.name(), reason: error.to_string() }
    }
}

/// Bytes on their way out of a codec.
pub(crate) enum CodecReader<'a> {
    None(&'a [u8]),
    Gzip(Box<flate2::bufread::MultiGzDecoder<&'a [u8]>>),
    Snappy(snappy::Reader<'a>),
    Lz4(lz4::Decoder<&'a [u8]>),
    Zstd(zstd::stream::read::Decoder<'static, &'a [u8]>),
}

impl CodecReader<'_> {
    /// True when the compression has ended as its format asks for, and nothing stands behind it. Call it once `read`
    /// has answered with 0: the library takes a cut LZ4 frame for a whole one.
    pub(crate) fn ended_whole(self) -> bool {
        match self {
            CodecReader::None(rest) => rest.is_empty(),
            CodecReader::Lz4(decoder) => {
                let (rest, ended) = decoder.finish();
                ended.is_ok() && rest.is_empty()
            }
            // They read piece after piece to the end of their input, and call a cut one an error.
            CodecReader::Gzip(_) | CodecReader::Snappy(_) | CodecReader::Zstd(_) => true,
        }
    }
}

impl Read for CodecReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        match self {
            CodecReader::None(data) => data.read(out),
            CodecReader::Gzip(decoder) => decoder.read(out),
            CodecReader::Snappy(reader) => reader.read(out),
            CodecReader::Lz4(decoder) => decoder.read(out),
            CodecReader::Zstd(decoder) => decoder.read(out),
        }
    }
}
