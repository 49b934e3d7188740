//! Kafka's key hash, so that a key lands where Kafka's clients would put it.
//!
//! Records without a key are left to `thalweg-client-core`.

/// MurmurHash2, 32 bit, with Kafka's seed.
///
/// Source: `org.apache.kafka.common.utils.Utils.murmur2`.
pub fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut h: u32 = 0x9747_b28c ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word);
        k = k.wrapping_mul(M);
        k ^= k >> 24;
        k = k.wrapping_mul(M);
        h = h.wrapping_mul(M) ^ k;
    }
    if !tail.is_empty() {
        for (i, byte) in tail.iter().enumerate() {
            h ^= (*byte as u32) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

/// The partition of a record with a key: the hash made positive, modulo `partitions`.
///
/// Source: Kafka's `BuiltInPartitioner.partitionForKey`. `partitions` must not be 0.
pub fn partition_for_key(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % partitions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_kafkas_published_vectors() {
        // Source: Kafka's UtilsTest.testMurmur2.
        let vectors: [(&[u8], i32); 7] = [
            (b"21", -973932308),
            (b"foobar", -790332482),
            (b"a-little-bit-long-string", -985981536),
            (b"a-little-bit-longer-string", -1486304829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
            (b"abc", 479470107),
            (b"", 275646681),
        ];
        for (key, expect) in vectors {
            assert_eq!(murmur2(key) as i32, expect, "{:?}", String::from_utf8_lossy(key));
        }
    }
}
