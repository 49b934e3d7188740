//! Checksums of what stands in a log file, sector by sector. What follows from a sector that has changed is decided in
//! `recovery`.

use bytes::Bytes;

use super::frame::SECTOR_BYTES;
use crate::disk::FileName;

/// What stands in each sector of a file: when the file is used again, this tells sectors that the new use has not
/// reached from damaged ones.
///
/// | field | bytes | meaning |
/// |---|---|---|
/// | generation | 8 | of the use that is described |
/// | crc | 4 | CRC-32C of the generation and all that follows |
/// | sums | 4 each | CRC-32C of each sector |
///
/// Little-endian. It stands beside the file as `.old`, synced before the file's first sector is overwritten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SectorSums(pub(crate) Vec<u32>);

impl SectorSums {
    pub(crate) fn of(data: &[u8]) -> SectorSums {
        SectorSums(data.chunks(SECTOR_BYTES as usize).map(crc32c::crc32c).collect())
    }

    /// True when nothing but zeros is described.
    pub(crate) fn is_zero(&self) -> bool {
        let zero = zero_sector_sum();
        self.0.iter().all(|sum| *sum == zero)
    }

    /// Takes note of whole sectors written from position `at` on.
    pub(super) fn written(&mut self, at: u64, buffers: &[Bytes]) {
        let mut sector = (at / SECTOR_BYTES) as usize;
        let (mut crc, mut filled) = (0, 0);
        for buffer in buffers {
            let mut rest = &buffer[..];
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(SECTOR_BYTES as usize - filled));
                crc = crc32c::crc32c_append(crc, now);
                filled += now.len();
                rest = later;
                if filled == SECTOR_BYTES as usize {
                    if self.0.len() <= sector {
                        self.0.resize(sector + 1, zero_sector_sum());
                    }
                    self.0[sector] = crc;
                    sector += 1;
                    (crc, filled) = (0, 0);
                }
            }
        }
    }

    pub(crate) fn encode(&self, generation: u64) -> Bytes {
        let mut body = generation.to_le_bytes().to_vec();
        self.0.iter().for_each(|sum| body.extend_from_slice(&sum.to_le_bytes()));
        let crc = crc32c::crc32c(&body);
        let mut out = body[..8].to_vec();
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&body[8..]);
        out.into()
    }

    /// The generation that is described, and the sums; `None` for anything that `encode` did not write whole.
    pub(crate) fn decode(data: &[u8]) -> Option<(u64, SectorSums)> {
        let (generation, rest) = data.split_first_chunk::<8>()?;
        let (crc, sums) = rest.split_first_chunk::<4>()?;
        let expected = crc32c::crc32c_append(crc32c::crc32c(generation), sums);
        if u32::from_le_bytes(*crc) != expected || !sums.len().is_multiple_of(4) {
            return None;
        }
        let sums = sums.chunks_exact(4).map(|s| u32::from_le_bytes(s.try_into().expect("four bytes"))).collect();
        Some((u64::from_le_bytes(*generation), SectorSums(sums)))
    }

    /// True when `sector` of the file still holds what is described. Beyond the table there were zeros.
    pub(crate) fn is_unchanged(&self, sector: u64, data: &[u8]) -> bool {
        let old = self.0.get(sector as usize).copied().unwrap_or_else(zero_sector_sum);
        crc32c::crc32c(data) == old
    }
}

fn zero_sector_sum() -> u32 {
    crc32c::crc32c(&[0; SECTOR_BYTES as usize])
}

/// The table beside a log file.
pub(crate) fn old_sums_file(file: &FileName) -> FileName {
    FileName::new(file.0.replace(".wal", ".old"))
}
