//! A partitioner: all flights of a carrier go to one partition.
//!
//! The partition is murmur2 of the JSON value's top-level string `carrier`, made positive, modulo the partitions. A
//! record without it cannot be placed: the send fails.

use thalweg_guest::{Partitioner, Record, Scalar, murmur2, partitioner, top_level};

struct ByCarrier;

impl Partitioner for ByCarrier {
    fn init(_config: &[u8]) -> Result<Self, String> {
        Ok(ByCarrier)
    }

    fn partition(&self, record: &Record<'_>, partitions: u32) -> u32 {
        match top_level(record.value.unwrap_or_default(), "carrier") {
            Ok(Some(Scalar::Text(carrier))) => (murmur2(carrier.as_bytes()) & 0x7fff_ffff) % partitions,
            _ => panic!("no carrier"),
        }
    }
}

partitioner!(ByCarrier);
