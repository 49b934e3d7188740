//! The topics of a consumer: how they are found, and the calls that change them.
//!
//! Which partitions a member of a group gets of them is left to the group's coordinator.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use thalweg_api::{ErrorCode, ErrorKind, MetadataRequest, Topic};

use super::alone::{ToRead, Wanted};
use super::handle::{Consumer, Inner, Source, Subscribing};
use super::reader::Reader;
use crate::client::Client;
use crate::{Error, Result};

impl Consumer {
    /// The topics that it reads, as they were named: by name, or by pattern.
    pub fn subscription(&self) -> Vec<String> {
        self.inner.lock().subscription.clone()
    }

    /// Reads these topics from now on, instead of those that it read: by name, or by pattern, which begins with `^`.
    /// What stays wanted goes on where it is. Without a group, records that wait of topics that are not wanted any more
    /// are dropped, and a new one starts where the builder says; in a group such partitions are given up as in any
    /// rebalance.
    ///
    /// When this returns, the group's coordinator knows, and shares out; without a group, the start of every new
    /// partition has been resolved.
    ///
    /// Calls take effect in their order.
    ///
    /// # Errors
    /// `not_found` for a topic that does not exist, unless topics are waited for: make it, or mend the name. `invalid`
    /// for what is no name and no pattern, and for a consumer of chosen partitions or with `until_end`: open another
    /// one. Nothing changes in both cases. `timeout` when no leader or coordinator answers within the client's
    /// time-out; the topics change all the same as soon as one does, as [`subscription`](Self::subscription) says.
    /// `closed` once the consumer is closed.
    ///
    /// ```no_run
    /// # async fn run(consumer: thalweg::Consumer) -> Result<(), thalweg::Error> {
    /// // One topic by its name, and all whose names begin with "trains-", those that come later included.
    /// consumer.subscribe(["flights", "^trains-"]).await?;
    /// # Ok(()) }
    /// ```
    pub fn subscribe<T: Into<String>, I: IntoIterator<Item = T>>(
        &self,
        topics: I,
    ) -> impl Future<Output = Result<()>> + Send + use<T, I> {
        let wanted = Wanted::new(topics.into_iter().map(Into::into).collect());
        let consumer = self.clone();
        // The call takes its place in line here, before the future is awaited.
        let mut turn = Box::pin(self.inner.changing.clone().lock_owned());
        let first = turn.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        async move {
            let wanted = wanted?;
            let _turn = match first {
                Poll::Ready(turn) => turn,
                Poll::Pending => turn.await,
            };
            consumer.change_topics(wanted).await
        }
    }

    async fn change_topics(&self, wanted: Wanted) -> Result<()> {
        let inner = &self.inner;
        if let Some(why) = inner.subscribing.fixed {
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        drop(inner.lock_open()?);
        let &Subscribing { waits_for_topics, start, buffer_bytes, .. } = &inner.subscribing;
        let found = find_wanted(&inner.client, &wanted, waits_for_topics).await?;
        let topics = wanted.topics().to_vec();
        match &inner.source {
            Source::Group(member) => {
                let said = member.subscribe(topics.clone());
                // From here on the member goes on asking for these topics, whether or not the answer comes in time.
                inner.lock().subscription = topics;
                let late = "no answer from the group's coordinator in time; the topics change as soon as it answers";
                inner.in_time(said, late).await?;
            }
            Source::Alone(alone) => {
                let before = alone.readers();
                let found = found.into_iter().map(|topic| ToRead::all(topic, start, buffer_bytes)).collect();
                let new = alone.subscribe(wanted, found).await?;
                inner.forget_ended(&before);
                inner.lock().subscription = topics;
                inner.nudge.notify_waiters();
                self.opened(new).await?;
            }
        }
        inner.nudge.notify_waiters();
        Ok(())
    }
}

impl Inner {
    /// Drops what has come of those of these readers that have ended.
    fn forget_ended(&self, readers: &[Arc<Reader>]) {
        let mut state = self.lock();
        for reader in readers.iter().filter(|r| r.has_ended()) {
            let partitions: Vec<u32> = reader.core().partitions().collect();
            for partition in partitions {
                state.forget(&reader.key(partition));
                reader.change(|core| core.revoke(partition));
            }
        }
    }
}

/// The wanted topics that exist. One that is named and does not exist is an error, unless it is waited for.
pub(super) async fn find_wanted(client: &Client, wanted: &Wanted, waits_for_topics: bool) -> Result<Vec<Arc<Topic>>> {
    let mut found: Vec<Arc<Topic>> = Vec::new();
    for name in wanted.names() {
        // A consumer that waits for a topic does not have it made on first use.
        match client.metadata(name, !waits_for_topics).await {
            Ok(topic) => found.push(topic),
            Err(error) if waits_for_topics && error.code() == Some(ErrorCode::UnknownTopic) => {}
            Err(error) => return Err(error),
        }
    }
    if wanted.has_patterns() {
        let all = client.call_all(MetadataRequest::default()).await?;
        found.extend(all.topics.into_iter().flatten().filter(|t| wanted.matches(&t.name)).map(Arc::new));
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found.dedup_by(|a, b| a.id == b.id);
    Ok(found)
}
