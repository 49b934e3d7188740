//! The codecs' libraries, for a build with the feature `codecs`. What a batch does with what comes out is left to
//! `batch`.

use std::io::{Read, Write};

use super::kind::Codec;
use super::snappy;
use crate::BatchError;

/// Compresses `data`; `None` hands it back as it is.
pub(super) fn compress(codec: Codec, data: Vec<u8>) -> Vec<u8> {
    const INFALLIBLE: &str = "compressing into memory cannot fail";
    match codec {
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

/// Decompresses `data` piece by piece, in the memory of the codec's window (16 MiB at most).
pub(super) fn reader(codec: Codec, data: &[u8]) -> Result<CodecReader<'_>, BatchError> {
    let failed = |e: std::io::Error| codec.failed(&e);
    Ok(match codec {
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
