//! The producer: records in as one buffer and an index, outcomes out as arrays.

use std::sync::Arc;

use bytes::Bytes;
use napi::bindgen_prelude::{Buffer, Float64Array, PromiseRaw, Uint32Array};
use napi::{Env, Result};
use napi_derive::napi;
use thalweg::Record;
use tokio::sync::Mutex;

use crate::error::{invalid, raise};

#[napi]
pub struct Producer {
    inner: thalweg::Producer,
}

#[napi(object)]
pub struct FailedRecord {
    pub index: u32,
    /// As the reason of an error that is thrown.
    pub error: String,
}

/// Those that were delivered, by their places in the call, offset -1 where there is none; and those that were not.
#[napi(object)]
pub struct Outcomes {
    pub at: Uint32Array,
    pub partitions: Uint32Array,
    pub offsets: Float64Array,
    pub failed: Vec<FailedRecord>,
}

/// Reads what `lib/producer.js` packs: for each record its key, its value and its headers (name and value, each with
/// its length in `header_index`), one after the other in `data`.
fn unpack(
    data: &[u8],
    index: &[u32],
    header_index: &[u32],
    timestamps: &[f64],
    topics: &[String],
) -> Result<Vec<Record>> {
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
        if n[3] != NONE {
            record = record.partition(n[3]);
        }
        if n[4] != NONE {
            record = record.topic(topics.get(n[4] as usize).ok_or_else(broken)?);
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
    /// Finds the topic now.
    #[napi]
    pub fn open<'env>(&self, env: &'env Env) -> Result<PromiseRaw<'env, ()>> {
        let producer = self.inner.clone();
        env.spawn_future(async move { producer.open().await.map_err(raise) })
    }

    /// Gives records their places in line.
    #[napi]
    pub fn submit(
        &self,
        data: Buffer,
        index: Uint32Array,
        header_index: Uint32Array,
        timestamps: Float64Array,
        topics: Vec<String>,
        is_waited_for: bool,
    ) -> Result<Receipt> {
        let records = unpack(&data, &index, &header_index, &timestamps, &topics)?;
        let receipt = self.inner.submit(records).map_err(raise)?;
        if !is_waited_for {
            // JavaScript's own half lives until somebody collects it.
            receipt.detach();
        }
        Ok(Receipt { is_buffered: receipt.is_buffered(), inner: Arc::new(Mutex::new(receipt)) })
    }

    /// No more records are taken from now on.
    #[napi]
    pub fn refuse(&self) {
        // What it waits for, `close` waits for.
        drop(self.inner.close());
    }

    /// Records without an outcome.
    #[napi]
    pub fn pending(&self) -> u32 {
        self.inner.pending() as u32
    }

    /// What the next flush would throw by now, in words: how many failed, and why the first one did.
    #[napi]
    pub fn untold(&self) -> Option<String> {
        let error = self.inner.untold()?;
        Some(match error.records() {
            0 | 1 => format!("1 record was not delivered: {error}"),
            _ => error.to_string(),
        })
    }

    #[napi]
    pub fn flush<'env>(&self, env: &'env Env) -> Result<PromiseRaw<'env, ()>> {
        let producer = self.inner.clone();
        env.spawn_future(async move { producer.flush().await.map_err(raise) })
    }

    #[napi]
    pub fn close<'env>(&self, env: &'env Env) -> Result<PromiseRaw<'env, ()>> {
        let producer = self.inner.clone();
        env.spawn_future(async move { producer.close().await.map_err(raise) })
    }
}

/// The outcomes of records that were submitted together.
#[napi]
pub struct Receipt {
    inner: Arc<Mutex<thalweg::Receipt>>,
    is_buffered: bool,
}

#[napi]
impl Receipt {
    /// All had room when they were submitted.
    #[napi(getter)]
    pub fn is_buffered(&self) -> bool {
        self.is_buffered
    }

    /// Waits until all have a place in the buffer.
    #[napi]
    pub fn buffered<'env>(&self, env: &'env Env) -> Result<PromiseRaw<'env, ()>> {
        let receipt = self.inner.clone();
        env.spawn_future(async move {
            receipt.lock().await.buffered().await;
            Ok(())
        })
    }

    /// What has come since the last call, at least one.
    #[napi]
    pub fn settled<'env>(&self, env: &'env Env) -> Result<PromiseRaw<'env, Outcomes>> {
        let receipt = self.inner.clone();
        env.spawn_future(async move {
            let (mut at, mut partitions, mut offsets) = (Vec::new(), Vec::new(), Vec::new());
            let mut failed = Vec::new();
            for (index, outcome) in receipt.lock().await.settled().await {
                match outcome {
                    Ok(delivery) => {
                        at.push(index as u32);
                        partitions.push(delivery.partition);
                        offsets.push(delivery.offset.map_or(-1.0, |o| o as f64));
                    }
                    Err(e) => failed.push(FailedRecord { index: index as u32, error: raise(e).reason.clone() }),
                }
            }
            Ok(Outcomes { at: at.into(), partitions: partitions.into(), offsets: offsets.into(), failed })
        })
    }
}

const NONE: u32 = u32::MAX;
/// Numbers per record in the index: key length, value length, header count, partition, topic.
const STRIDE: usize = 5;
