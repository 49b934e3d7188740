//! The consumer: a batch crosses as one buffer and arrays of positions; `lib/record.js` reads from them.

use napi::Result;
use napi::bindgen_prelude::{Buffer, Float64Array, Uint32Array};
use napi_derive::napi;
use thalweg::{Place, Rebalance, SharedConsumer};

use crate::client::position;
use crate::error::raise;

const NONE: u32 = u32::MAX;

#[napi]
pub struct Consumer {
    inner: SharedConsumer,
}

/// What partitions came or went, and the next batch; neither at the end, or when the consumer is closed meanwhile.
#[napi(object)]
pub struct Next {
    pub changes: Vec<Change>,
    pub batch: Option<Batch>,
}

#[napi(object)]
pub struct Change {
    pub kind: String,
    pub topic: String,
    pub partition: u32,
}

#[napi(object)]
pub struct TopicPartition {
    pub topic: String,
    pub partition: u32,
}

#[napi(object)]
pub struct Commit {
    pub topic: String,
    pub partition: u32,
    pub offset: f64,
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
    pub unreadable: f64,
}

impl Consumer {
    pub(crate) fn new(inner: SharedConsumer) -> Self {
        Consumer { inner }
    }
}

fn place(topic: Option<String>, partition: u32) -> Place {
    topic.map_or_else(|| partition.into(), |topic| (topic, partition).into())
}

fn change(rebalance: Rebalance) -> Change {
    let (kind, topic, partition) = match rebalance {
        Rebalance::Assigned { topic, partition } => ("assigned", topic, partition),
        Rebalance::Revoked { topic, partition } => ("revoked", topic, partition),
        Rebalance::Lost { topic, partition } => ("lost", topic, partition),
    };
    Change { kind: kind.to_owned(), topic, partition }
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
    #[napi]
    pub async fn next(&self) -> Result<Next> {
        let next = self.inner.next().await.map_err(raise)?;
        // A promise cannot be cancelled: it arrives.
        self.inner.taken();
        let changes = next.rebalances.into_iter().map(change).collect();
        Ok(Next { changes, batch: next.batch.map(|b| pack(&b)) })
    }

    /// The record at this offset of the last batch is about to be handed out; false if the batch may be another's by now.
    #[napi]
    pub fn advance(&self, offset: f64, is_last: bool) -> bool {
        self.inner.advance(offset as u64, is_last)
    }

    /// Whether the rest of the last batch may be handed out; waits until that is clear.
    #[napi]
    pub async fn still_holds(&self) -> Result<bool> {
        self.inner.still_holds().await.map_err(raise)
    }

    #[napi]
    pub async fn commit(&self, offsets: Option<Vec<Commit>>) -> Result<()> {
        let offsets = offsets.map(|o| o.into_iter().map(|c| (c.topic, c.partition, c.offset as u64)).collect());
        self.inner.commit(offsets).await.map_err(raise)
    }

    #[napi]
    pub async fn seek(&self, topic: Option<String>, partition: u32, kind: String, value: f64) -> Result<()> {
        let to = position(&kind, value)?;
        self.inner.with(|c| c.seek(place(topic, partition), to)).await.map_err(raise)
    }

    #[napi]
    pub async fn pause(&self, topic: Option<String>, partition: u32) -> Result<()> {
        self.inner.with(|c| c.pause(place(topic, partition))).await.map_err(raise)
    }

    #[napi]
    pub async fn resume(&self, topic: Option<String>, partition: u32) -> Result<()> {
        self.inner.with(|c| c.resume(place(topic, partition))).await.map_err(raise)
    }

    #[napi]
    pub async fn position(&self, topic: Option<String>, partition: u32) -> Result<Option<f64>> {
        let position = self.inner.with(|c| Ok(c.position(place(topic, partition)))).await.map_err(raise)?;
        Ok(position.map(|p| p as f64))
    }

    #[napi]
    pub async fn lag(&self, topic: Option<String>, partition: u32) -> Result<Option<f64>> {
        let lag = self.inner.with(|c| Ok(c.lag(place(topic, partition)))).await.map_err(raise)?;
        Ok(lag.map(|p| p as f64))
    }

    #[napi]
    pub async fn committed(&self, topic: Option<String>, partition: u32) -> Result<Option<f64>> {
        let committed = self.inner.with(|c| c.committed(place(topic, partition))).await.map_err(raise)?;
        Ok(committed.map(|p| p as f64))
    }

    #[napi]
    pub async fn assignment(&self) -> Result<Vec<TopicPartition>> {
        let all = self.inner.with(|c| Ok(c.assignment())).await.map_err(raise)?;
        Ok(all.into_iter().map(|(topic, partition)| TopicPartition { topic, partition }).collect())
    }

    #[napi]
    pub async fn counts(&self) -> Result<Counts> {
        let c = self.inner.with(|c| Ok(c.counts())).await.map_err(raise)?;
        Ok(Counts {
            delivered: c.delivered as f64,
            filtered: c.filtered as f64,
            failed: c.failed as f64,
            unreadable: c.unreadable as f64,
        })
    }

    /// Ends the subscription and whoever waits in `next`.
    #[napi]
    pub async fn close(&self, is_done: bool) -> Result<()> {
        self.inner.close(is_done).await.map_err(raise)
    }
}
