//! What one guest call sees: an index of offsets, and bytes.

use bytes::Bytes;
use thalweg_model::limits::{CHUNK_BYTES_MAX, CHUNK_RECORDS_MAX};
use thalweg_model::{BatchHeader, Header, Record, RecordSpan};

/// Some records, laid out as the contract says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// [`STRIDE`] numbers per record.
    pub index: Vec<u32>,
    /// What they point into.
    pub data: Bytes,
}

impl Chunk {
    /// How many records are in it.
    pub fn len(&self) -> usize {
        self.index.len() / STRIDE
    }

    /// True when it has no records.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Lays out owned records: what a producer partitions.
    pub fn of_records<'a>(records: impl IntoIterator<Item = &'a Record>) -> Chunk {
        let mut data = Vec::new();
        let mut index = Vec::new();
        for record in records {
            for field in [&record.key, &record.value] {
                index.push(data.len() as u32);
                index.push(field.as_ref().map_or(NONE, |b| b.len() as u32));
                data.extend_from_slice(field.as_deref().unwrap_or_default());
            }
            index.push(data.len() as u32);
            let before = data.len();
            put_headers(&mut data, &record.headers);
            index.push((data.len() - before) as u32);
            index.extend(halves(record.timestamp_ms));
        }
        Chunk { index, data: data.into() }
    }

    /// Lays out records of an opened batch. Without headers the bytes are shared, not copied.
    pub fn of_spans(data: &Bytes, header: &BatchHeader, spans: &[RecordSpan]) -> Chunk {
        let (Some(first), Some(last)) = (spans.first(), spans.last()) else {
            return Chunk::default();
        };
        let from = first.raw.start;
        let mut shared = data.slice(from..last.raw.end);
        let mut extra = Vec::new();
        let mut index = Vec::with_capacity(spans.len() * STRIDE);
        for span in spans {
            for field in [&span.key, &span.value] {
                match field {
                    None => index.extend([0, NONE]),
                    Some(r) => index.extend([(r.start - from) as u32, r.len() as u32]),
                }
            }
            let before = extra.len();
            if span.headers_count > 0 {
                put_headers(&mut extra, &span.header_list(data));
            }
            index.extend([(shared.len() + before) as u32, (extra.len() - before) as u32]);
            index.extend(halves(header.base_timestamp_ms.wrapping_add(span.timestamp_delta_ms)));
        }
        if !extra.is_empty() {
            shared = [&shared[..], &extra[..]].concat().into();
        }
        Chunk { index, data: shared }
    }

    /// How many of the first records fit into one chunk; a single larger record is a chunk of its own.
    pub fn fitting(bytes: impl IntoIterator<Item = usize>) -> usize {
        let mut total = 0;
        let fits = |bytes: &usize| {
            total += *bytes;
            total <= CHUNK_BYTES_MAX
        };
        bytes.into_iter().take(CHUNK_RECORDS_MAX).take_while(fits).count().max(1)
    }
}

fn halves(timestamp_ms: i64) -> [u32; 2] {
    [timestamp_ms as u32, (timestamp_ms >> 32) as u32]
}

fn put_headers(out: &mut Vec<u8>, headers: &[Header]) {
    if headers.is_empty() {
        return;
    }
    out.extend((headers.len() as u32).to_le_bytes());
    for header in headers {
        out.extend((header.key.len() as u32).to_le_bytes());
        out.extend_from_slice(header.key.as_bytes());
        out.extend(header.value.as_ref().map_or(NONE, |v| v.len() as u32).to_le_bytes());
        out.extend_from_slice(header.value.as_deref().unwrap_or_default());
    }
}

/// Numbers per record in the index.
pub const STRIDE: usize = 8;
const NONE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use thalweg_model::{BatchBuilder, Codec};

    use super::*;

    /// What a guest reads at record `i`.
    fn read(chunk: &Chunk, i: usize) -> (Option<&[u8]>, Option<&[u8]>, &[u8], i64) {
        let n = &chunk.index[i * STRIDE..][..STRIDE];
        let field = |o: u32, l: u32| (l != NONE).then(|| &chunk.data[o as usize..][..l as usize]);
        let timestamp = (n[7] as i64) << 32 | n[6] as i64;
        (field(n[0], n[1]), field(n[2], n[3]), field(n[4], n[5]).unwrap(), timestamp)
    }

    #[test]
    fn owned_and_stored_records_look_the_same_to_a_guest() {
        for with_headers in [false, true] {
            let records: Vec<Record> = (0..5i64)
                .map(|i| Record {
                    key: (i != 1).then(|| format!("k{i}").into()),
                    value: (i != 2).then(|| format!("value {i}").into()),
                    headers: match with_headers && i == 3 {
                        true => vec![
                            Header { key: "h".into(), value: None },
                            Header { key: "i".into(), value: Some("x".into()) },
                        ],
                        false => vec![],
                    },
                    timestamp_ms: -1 - i * 10_000_000_000,
                })
                .collect();
            let owned = Chunk::of_records(&records);
            let mut builder = BatchBuilder::new();
            records.iter().for_each(|r| builder.push(r));
            let batch = builder.build(Codec::None, None);
            let spans = batch.open().unwrap();
            let (data, header) = (spans.data().clone(), *spans.header());
            let spans: Vec<_> = spans.map(Result::unwrap).collect();
            let stored = Chunk::of_spans(&data, &header, &spans[1..]);
            for i in 1..5 {
                assert_eq!(read(&owned, i), read(&stored, i - 1));
            }
            assert_eq!(read(&owned, 4).3, -40_000_000_001);
        }
    }
}
