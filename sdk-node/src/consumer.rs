//! The consumer: a batch crosses as one buffer and arrays of positions; `lib/record.js` reads from them.

use std::sync::Arc;

use napi::Result;
use napi::bindgen_prelude::{Buffer, Float64Array, Uint32Array};
use napi_derive::napi;
use tokio::sync::{Mutex, Notify};

use crate::client::position;
use crate::error::raise;

const NONE: u32 = u32::MAX;

#[napi]
pub struct Consumer {
    inner: Arc<Mutex<Option<thalweg::Consumer>>>,
    closing: Arc<Notify>,
}

/// `index`: key offset, key length (0xffffffff for none), value offset, value length, per record.
#[napi(object)]
pub struct Batch {
    pub topic: String,
    pub partition: u32,
    pub data: Buffer,
    pub index: Uint32Array,
    pub offsets: Float64Array,
    pub timestamps: Float64Array,
    pub headers: Vec<RecordHeaders>,
}

/// Only of records that have any.
#[napi(object)]
pub struct RecordHeaders {
    pub record: u32,
    pub names: Vec<String>,
    pub values: Vec<Option<Buffer>>,
}

#[napi(object)]
pub struct Counts {
    pub delivered: f64,
    pub filtered: f64,
    pub failed: f64,
}

impl Consumer {
    pub(crate) fn new(inner: thalweg::Consumer) -> Self {
        Consumer { inner: Arc::new(Mutex::new(Some(inner))), closing: Arc::default() }
    }
}

fn closed() -> napi::Error {
    crate::error::invalid("the consumer is closed".to_owned())
}

fn pack(batch: &thalweg::Batch) -> Batch {
    let count = batch.len();
    let mut data = Vec::new();
    let (mut index, mut offsets) = (Vec::with_capacity(4 * count), Vec::with_capacity(count));
    let (mut timestamps, mut headers) = (Vec::with_capacity(count), Vec::new());
    for part in batch.parts() {
        let base = data.len() as u32;
        data.extend_from_slice(&part.data);
        for span in &part.spans {
            for field in [&span.key, &span.value] {
                match field {
                    None => index.extend([0, NONE]),
                    Some(r) => index.extend([base + r.start as u32, r.len() as u32]),
                }
            }
            if span.headers_count > 0 {
                let list = span.header_list(&part.data);
                let (names, values) =
                    list.into_iter().map(|h| (h.key, h.value.map(|v| Buffer::from(v.to_vec())))).unzip();
                headers.push(RecordHeaders { record: offsets.len() as u32, names, values });
            }
            offsets.push((part.header.base_offset.0 + span.offset_delta as u64) as f64);
            timestamps.push((part.header.base_timestamp_ms + span.timestamp_delta_ms) as f64);
        }
    }
    Batch {
        topic: batch.topic().to_owned(),
        partition: batch.partition(),
        data: data.into(),
        index: index.into(),
        offsets: offsets.into(),
        timestamps: timestamps.into(),
        headers,
    }
}

#[napi]
impl Consumer {
    /// The next batch; null at the end of `untilEnd`, or when the consumer is closed meanwhile.
    #[napi]
    pub async fn next_batch(&self) -> Result<Option<Batch>> {
        let closing = self.closing.notified();
        let mut consumer = self.inner.lock().await;
        let Some(open) = consumer.as_mut() else {
            return Err(closed());
        };
        let batch = tokio::select! {
            batch = open.next_batch() => batch,
            () = closing => return Ok(None),
        };
        Ok(batch.transpose().map_err(raise)?.map(|b| pack(&b)))
    }

    #[napi]
    pub async fn seek(&self, partition: u32, kind: String, value: f64) -> Result<()> {
        let to = position(&kind, value)?;
        self.inner.lock().await.as_mut().ok_or_else(closed)?.seek(partition, to).map_err(raise)
    }

    #[napi]
    pub async fn pause(&self, partition: u32) -> Result<()> {
        self.inner.lock().await.as_mut().ok_or_else(closed)?.pause(partition).map_err(raise)
    }

    #[napi]
    pub async fn resume(&self, partition: u32) -> Result<()> {
        self.inner.lock().await.as_mut().ok_or_else(closed)?.resume(partition).map_err(raise)
    }

    #[napi]
    pub async fn position(&self, partition: u32) -> Result<Option<f64>> {
        Ok(self.inner.lock().await.as_ref().ok_or_else(closed)?.position(partition).map(|p| p as f64))
    }

    #[napi]
    pub async fn counts(&self) -> Result<Counts> {
        let c = self.inner.lock().await.as_ref().ok_or_else(closed)?.counts();
        Ok(Counts { delivered: c.delivered as f64, filtered: c.filtered as f64, failed: c.failed as f64 })
    }

    /// Ends the subscription and whoever waits in `next_batch`.
    #[napi]
    pub async fn close(&self) {
        loop {
            self.closing.notify_waiters();
            if let Ok(mut consumer) = self.inner.try_lock() {
                *consumer = None;
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}
