//! Where a consumer stands in each partition, and the calls that move it, pause it and go on.
//!
//! How far its group has come is left to `commits.rs`.

use std::future::Future;
use std::sync::Arc;

use thalweg_client_core::Position;

use super::handle::{Consumer, Inner};
use super::reader::Reader;
use crate::Result;
use crate::place::Place;

impl Consumer {
    /// Next offset of a partition that has neither been handed out nor passed over by the filter; `None` before its
    /// leader has looked up where reading starts. After a [`seek`](Self::seek) it is where that goes. A partition that
    /// is revoked still has it during the call of `on_rebalance`.
    ///
    /// # Errors
    /// `not_found` for a partition that this consumer does not read: [`assignment`](Self::assignment) tells which it
    /// does.
    pub fn position(&self, place: impl Into<Place>) -> Result<Option<u64>> {
        let place = place.into();
        let reader = self.inner.reader_or_held(&place)?;
        Ok(self.inner.position(&reader, place.partition))
    }

    /// Records of a partition that are left to hand out or to filter, as far as pushes have named its end; `None`
    /// before the first of them, and where [`position`](Self::position) is.
    ///
    /// # Errors
    /// As [`position`](Self::position).
    pub fn lag(&self, place: impl Into<Place>) -> Result<Option<u64>> {
        let place = place.into();
        let reader = self.inner.reader_or_held(&place)?;
        let position = self.inner.position(&reader, place.partition);
        let end = reader.core().high_watermark(place.partition);
        Ok(position.zip(end).map(|(position, end)| end.saturating_sub(position)))
    }

    /// Moves a partition. Records that wait are dropped; one that was paused stays so. It is moved when this returns,
    /// whether the future is awaited or not. To the first record, the end or a time, the future waits until the leader
    /// has looked that up: from then on [`position`](Self::position) tells where it is, and what is sent comes.
    ///
    /// # Errors
    /// `not_found` for a partition that this consumer does not read: [`assignment`](Self::assignment) tells which it
    /// does. `timeout` when the leader does not answer within the client's time-out: the partition is moved all the
    /// same, as soon as the leader is there. `closed` once the consumer is closed.
    ///
    /// ```no_run
    /// # async fn run(consumer: thalweg::Consumer) -> Result<(), thalweg::Error> {
    /// use thalweg::{ErrorKind, Position};
    ///
    /// while let Some(next) = consumer.next().await {
    ///     match next {
    ///         Ok(record) => println!("{:?}", record.text()?),
    ///         // What is stored there does not decode: on with the record behind it.
    ///         Err(error) if error.kind() == ErrorKind::BadRecord => {
    ///             let place = error.place().expect("an error of a record names its place");
    ///             let (partition, offset) = place.partition.zip(place.offset).expect("as far as the record");
    ///             consumer.seek((&*place.topic, partition), Position::Offset(offset + 1)).await?;
    ///         }
    ///         Err(error) => return Err(error),
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    pub fn seek<P: Into<Place>>(&self, place: P, to: Position) -> impl Future<Output = Result<()>> + Send + use<P> {
        let place = place.into();
        let moved = self.start_seek(&place, to).map(|reader| (reader, place.partition));
        let (io, limit) = (self.inner.client.io.clone(), self.inner.client.timeout());
        async move {
            let (reader, partition) = moved?;
            if matches!(to, Position::Offset(_)) {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = reader.resolved_where(|p| p == partition) => return Ok(()),
                slept = io.sleep(limit) => slept?,
            }
            Err(reader.unanswered(partition, limit))
        }
    }

    fn start_seek(&self, place: &Place, to: Position) -> Result<Arc<Reader>> {
        let mut state = self.inner.lock_open()?;
        let reader = self.inner.reader(place)?;
        let key = reader.key(place.partition);
        reader.change(|core| core.seek(place.partition, to));
        state.drop_what_waits(&key);
        state.failed.remove(&key);
        state.has_ended = false;
        drop(state);
        self.inner.nudge.notify_waiters();
        Ok(reader)
    }

    /// Hands out nothing of a partition from the next record on. What has come of it, within the buffer, is handed out
    /// first when it is resumed.
    ///
    /// # Errors
    /// `not_found` for a partition that this consumer does not read: [`assignment`](Self::assignment) tells which it
    /// does. `closed` once the consumer is closed.
    pub fn pause(&self, place: impl Into<Place>) -> Result<()> {
        let place = place.into();
        let mut state = self.inner.lock_open()?;
        let reader = self.inner.reader(&place)?;
        let key = reader.key(place.partition);
        reader.core().pause(place.partition);
        state.paused.insert(key.clone(), reader.name().to_owned());
        if let Some(hand) = state.current.take_if(|hand| hand.key == key) {
            state.paused_in_hand = Some(key.clone()).filter(|_| state.in_hand);
            state.rests.insert(key, hand);
        }
        Ok(())
    }

    /// Hands out records of a paused partition again.
    ///
    /// # Errors
    /// `not_found` for a partition that this consumer does not read: [`assignment`](Self::assignment) tells which it
    /// does. `closed` once the consumer is closed.
    pub fn resume(&self, place: impl Into<Place>) -> Result<()> {
        let place = place.into();
        let mut state = self.inner.lock_open()?;
        let reader = self.inner.reader(&place)?;
        reader.change(|core| core.resume(place.partition));
        state.paused.remove(&reader.key(place.partition));
        drop(state);
        self.inner.nudge.notify_waiters();
        Ok(())
    }

    /// Topics and partitions that are paused.
    pub fn paused(&self) -> Vec<(String, u32)> {
        self.inner.lock().paused.iter().map(|(key, topic)| (topic.clone(), key.partition)).collect()
    }

    /// Waits until the leaders have resolved where reading starts.
    pub(super) async fn opened(&self, readers: Vec<Arc<Reader>>) -> Result<()> {
        let limit = self.inner.client.timeout();
        let all = async {
            for reader in &readers {
                reader.resolved().await;
            }
        };
        tokio::select! {
            () = all => return Ok(()),
            slept = self.inner.client.io.sleep(limit) => slept?,
        }
        for reader in &readers {
            let core = reader.core();
            // The first record and an offset stay what they are, whenever the leader looks them up.
            let moves = |p: &u32| matches!(core.start(*p), Some(Position::Latest | Position::Timestamp(_)));
            if let Some(partition) = core.unresolved().find(moves) {
                return Err(reader.unanswered(partition, limit));
            }
        }
        Ok(())
    }
}

impl Inner {
    /// Next offset of a partition that is read, or was until it was revoked.
    fn position(&self, reader: &Reader, partition: u32) -> Option<u64> {
        let key = reader.key(partition);
        let handed_to = self.lock().position(&key);
        if handed_to.is_some() {
            return handed_to;
        }
        let core = reader.core();
        if core.reads(partition) {
            // What was done before a seek says nothing of where it went.
            return core.begins_at(partition);
        }
        drop(core);
        self.member().ok()?.cursor(&key)?.progress().map(|done| done.offset)
    }
}
