//! What stands in place of the codecs' libraries in a build without the feature `codecs`: bytes that are not
//! compressed. What a batch does with them is left to `batch`.

use std::io::Read;

use super::kind::Codec;
use crate::BatchError;

/// Hands `data` back as it is.
pub(super) fn compress(codec: Codec, data: Vec<u8>) -> Vec<u8> {
    assert!(codec.is_built_in(), "{} is not built in: whoever chooses a codec asks first", codec.name());
    data
}

/// Reads `data` as it is; every codec but `None` is refused by its name.
pub(super) fn reader(codec: Codec, data: &[u8]) -> Result<CodecReader<'_>, BatchError> {
    match codec.is_built_in() {
        true => Ok(CodecReader(data)),
        false => Err(BatchError::CodecNotBuiltIn { codec: codec.name() }),
    }
}

/// Bytes that no codec has packed.
pub(crate) struct CodecReader<'a>(&'a [u8]);

impl CodecReader<'_> {
    /// True when nothing is left.
    pub(crate) fn ended_whole(self) -> bool {
        self.0.is_empty()
    }
}

impl Read for CodecReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(out)
    }
}
