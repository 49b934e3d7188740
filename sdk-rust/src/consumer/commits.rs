//! The calls that commit how far a group has come.
//!
//! In which order commits are sent, and when again, is left to `thalweg_client_core::Membership`.

use std::future::Future;

use thalweg_api::{ApiError, ErrorCode};
use thalweg_client_core::Position;

use super::handle::{Consumer, anothers};
use crate::batch::ConsumerRecord;
use crate::place::Place;
use crate::{Error, ErrorPlace, Result};

impl Consumer {
    /// How far the group has come in a partition that this member reads; `None`: not yet at all.
    ///
    /// # Errors
    /// `invalid` without a group: name one. `rebalanced` for a partition that is another member's by now: it goes on
    /// there. `not_found` for a partition that this member never had.
    pub fn committed(&self, place: impl Into<Place>) -> Result<Option<u64>> {
        let place = place.into();
        let member = self.inner.member()?;
        let key = self.inner.held(&place)?.key(place.partition);
        Ok(member.known(&key).map(|p| p.offset))
    }

    /// Commits everything that was handed out so far, what is in hand included.
    ///
    /// # Errors
    /// `invalid` without a group: name one. `rebalanced` when a partition is another member's by now: go on, what was
    /// not committed of it is read again there. `timeout` when no coordinator answers within the client's time-out: the
    /// offsets may be committed or not; commit again, which does no harm.
    ///
    /// ```no_run
    /// # async fn run(client: thalweg::Client) -> Result<(), thalweg::Error> {
    /// let consumer = client.consumer("orders").group("billing").auto_commit(None).build().await?;
    /// while let Some(batch) = consumer.next_batch_of(100).await.transpose()? {
    ///     for record in &batch {
    ///         println!("{:?}", record.text()?);
    ///     }
    ///     consumer.commit().await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn commit(&self) -> Result<()> {
        self.start_commit()?.await
    }

    /// Commits without waiting: the commit is under way when this returns, and the future gives its outcome.
    ///
    /// # Errors
    /// `invalid` without a group: name one. `rebalanced` where the group has taken away the partition of what is in
    /// hand: it is read again there. The future fails as [`commit`](Self::commit) does.
    pub fn start_commit(&self) -> Result<impl Future<Output = Result<()>> + Send + use<>> {
        let member = self.inner.member()?;
        let state = self.inner.lock();
        if let Some(key) = state.claimed.as_ref().filter(|key| state.in_hand && member.cursor(key).is_none()) {
            return Err(anothers(&format!("partition {}, of which something is in hand,", key.partition)));
        }
        state.handed_is_done();
        drop(state);
        Ok(self.inner.in_time(member.commit(None), COMMITTED_OR_NOT))
    }

    /// Commits the position behind one record; all before it in its partition count as done.
    ///
    /// # Errors
    /// As [`commit_offsets`](Self::commit_offsets).
    pub async fn commit_record(&self, record: &ConsumerRecord) -> Result<()> {
        self.commit_offsets([(record.place(), record.offset() + 1)]).await
    }

    /// Commits these offsets: each the next one to be read of its partition.
    ///
    /// # Errors
    /// `offset_out_of_range` for an offset past the end of its partition: commit one that is there. `not_found` for a
    /// partition that this member does not read, or whose topic was deleted. Else as [`commit`](Self::commit).
    pub async fn commit_offsets<P: Into<Place>>(&self, offsets: impl IntoIterator<Item = (P, u64)>) -> Result<()> {
        let (member, client) = (self.inner.member()?, &self.inner.client);
        let offsets: Vec<(Place, u64)> = offsets.into_iter().map(|(place, offset)| (place.into(), offset)).collect();
        let mut wanted = Vec::new();
        for (place, offset) in offsets {
            let reader = self.inner.held(&place)?;
            let seen = reader.core().high_watermark(place.partition).unwrap_or(0);
            if offset > seen {
                let topic = client.metadata(reader.name(), false).await?;
                let end = client.offsets_of(&topic, vec![place.partition], Position::Latest).await?.all()?;
                let end = end.first().map_or(0, |e| e.offset);
                if offset > end {
                    let message = format!(
                        "offset {offset} of topic {:?} partition {} is past its end, {end}",
                        reader.name(),
                        place.partition
                    );
                    let error = Error::from(ApiError::new(ErrorCode::OffsetOutOfRange, message));
                    let place = reader.place(place.partition);
                    return Err(error.at(ErrorPlace { offset: Some(offset), log_end: Some(end), ..place }));
                }
            }
            let key = reader.key(place.partition);
            // What is committed automatically later on does not go back behind it.
            if let Some(cursor) = member.cursor(&key) {
                cursor.raise(offset);
            }
            wanted.push((key, offset));
        }
        self.inner.in_time(member.commit(Some(wanted)), COMMITTED_OR_NOT).await
    }
}

/// The error of a commit without an answer in time.
const COMMITTED_OR_NOT: &str =
    "no answer from the group's coordinator in time; the offsets may or may not be committed";
