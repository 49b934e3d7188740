//! The producer: records in as one buffer and an index, outcomes out as arrays.

use bytes::Bytes;
use napi::Result;
use napi::bindgen_prelude::{Buffer, Float64Array, Uint32Array};
use napi_derive::napi;
use thalweg::Record;

use crate::error::{invalid, raise};

const NONE: u32 = u32::MAX;
/// Numbers per record in the index: key length, value length, header count.
const STRIDE: usize = 3;

#[napi]
pub struct Producer {
    inner: thalweg::Producer,
}

#[napi(object)]
pub struct FailedRecord {
    pub index: u32,
    pub code: String,
    pub message: String,
}

/// Offset -1 where there is none.
#[napi(object)]
pub struct Outcomes {
    pub partitions: Uint32Array,
    pub offsets: Float64Array,
    pub failed: Vec<FailedRecord>,
}

/// Reads what `lib/producer.js` packs: for each record its key, its value and its headers (name and value, each with its
/// length in `header_index`), one after the other in `data`.
fn unpack(data: &[u8], index: &[u32], header_index: &[u32], timestamps: &[f64]) -> Result<Vec<Record>> {
    let data = Bytes::copy_from_slice(data);
    let broken = || invalid("the packed records do not fit together".to_owned());
    let mut at = 0usize;
    let mut take = |len: u32| -> Result<Option<Bytes>> {
        if len == NONE {
            return Ok(None);
        }
        let end = at.checked_add(len as usize).filter(|e| *e <= data.len()).ok_or_else(broken)?;
        let bytes = data.slice(at..end);
        at = end;
        Ok(Some(bytes))
    };
    let mut headers = header_index.chunks_exact(2);
    let mut records = Vec::with_capacity(index.len() / STRIDE);
    for (n, timestamp_ms) in index.chunks_exact(STRIDE).zip(timestamps) {
        let key = take(n[0])?;
        let mut record = take(n[1])?.map_or_else(Record::tombstone, Record::new);
        if let Some(key) = key {
            record = record.key(key);
        }
        for _ in 0..n[2] {
            let lengths = headers.next().ok_or_else(broken)?;
            let name = take(lengths[0])?.ok_or_else(broken)?;
            let name = String::from_utf8(name.into()).map_err(|_| broken())?;
            record = match take(lengths[1])? {
                Some(value) => record.header(name, value),
                None => record.null_header(name),
            };
        }
        if !timestamp_ms.is_nan() {
            record = record.timestamp_ms(*timestamp_ms as i64);
        }
        records.push(record);
    }
    Ok(records)
}

impl Producer {
    pub(crate) fn new(inner: thalweg::Producer) -> Self {
        Producer { inner }
    }
}

#[napi]
impl Producer {
    #[napi]
    pub async fn send_batch(
        &self,
        data: Buffer,
        index: Uint32Array,
        header_index: Uint32Array,
        timestamps: Float64Array,
    ) -> Result<Outcomes> {
        let records = unpack(&data, &index, &header_index, &timestamps)?;
        let outcomes = self.inner.send_batch(records).await.map_err(raise)?;
        let (mut partitions, mut offsets, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        for (i, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                Ok(at) => {
                    partitions.push(at.partition);
                    offsets.push(at.offset.map_or(-1.0, |o| o as f64));
                }
                Err(e) => {
                    partitions.push(0);
                    offsets.push(-1.0);
                    failed.push(FailedRecord { index: i as u32, code: e.kind().code().into(), message: e.to_string() });
                }
            }
        }
        Ok(Outcomes { partitions: partitions.into(), offsets: offsets.into(), failed })
    }

    #[napi]
    pub async fn enqueue_batch(
        &self,
        data: Buffer,
        index: Uint32Array,
        header_index: Uint32Array,
        timestamps: Float64Array,
    ) -> Result<()> {
        let records = unpack(&data, &index, &header_index, &timestamps)?;
        self.inner.enqueue_batch(records).await.map(drop).map_err(raise)
    }

    #[napi]
    pub async fn flush(&self) -> Result<()> {
        self.inner.flush().await.map_err(raise)
    }

    #[napi]
    pub async fn close(&self) -> Result<()> {
        self.inner.close().await.map_err(raise)
    }
}
