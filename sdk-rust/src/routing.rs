//! Who leads each partition of a topic: the brokers push it, whenever it changes.
//!
//! Several brokers are listened to at once, because the one that dies tells nobody. Of what they say, the newest leader
//! epoch of a partition counts.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use thalweg_api::{ApiError, ErrorCode, MetadataRequest, MetadataWatch, Paged, Topic, TopicError};
use thalweg_model::TopicId;
use tokio::sync::watch;

use crate::Result;
use crate::address::Address;
use crate::link::{ATTEMPT, Link};
use crate::stream::{FrameReader, send};
use crate::streams::{Kept, Lost, again};

/// The leader of each partition: its epoch, and where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Routing {
    topic: TopicId,
    leaders: Vec<(u32, Option<Address>)>,
    pin_epoch: u32,
    /// How often a broker has named no such topic, or another one of its name. That broker may be late.
    doubts: u64,
}

impl Routing {
    pub(crate) fn of(topic: &Topic) -> Routing {
        let leaders = vec![(0, None); topic.partitions.len()];
        let mut routing = Routing { topic: topic.id, leaders, pin_epoch: topic.pin_epoch.0, doubts: 0 };
        routing.follow(topic);
        routing
    }

    /// Takes what is newer; true if anything is.
    fn follow(&mut self, topic: &Topic) -> bool {
        let pin_epoch = topic.pin_epoch.0;
        let mut is_news = pin_epoch > self.pin_epoch;
        self.pin_epoch = self.pin_epoch.max(pin_epoch);
        if topic.partitions.len() > self.leaders.len() {
            // Never fewer: a broker that says so is late.
            self.leaders.resize(topic.partitions.len(), (0, None));
            is_news = true;
        }
        for p in &topic.partitions {
            let Some(known) = self.leaders.get_mut(p.partition.0 as usize) else { continue };
            let leader = p.leader.as_ref().map(|l| Address { host: l.host.clone(), port: l.port });
            let epoch = p.leader_epoch.0;
            let is_newer = epoch > known.0 || (epoch == known.0 && known.1.is_none());
            if leader.is_some() && is_newer && *known != (epoch, leader.clone()) {
                *known = (epoch, leader);
                is_news = true;
            }
        }
        is_news
    }

    /// Grows when a broker does not know the topic, or knows another one of its name.
    pub(crate) fn doubts(&self) -> u64 {
        self.doubts
    }

    /// Epoch of the topic's pin.
    pub(crate) fn pin_epoch(&self) -> u32 {
        self.pin_epoch
    }

    /// How many partitions the topic has, as far as any broker has said.
    pub(crate) fn partitions(&self) -> u32 {
        self.leaders.len() as u32
    }

    /// True for the answer of a broker that has not heard yet that the topic has grown: it will know the partition,
    /// so it is asked again.
    pub(crate) fn is_of_late_broker(&self, partition: u32, error: &ApiError) -> bool {
        error.code == ErrorCode::UnknownPartition && partition < self.partitions()
    }

    /// Where a partition's leader is; `None` while none is known.
    pub(crate) fn leader(&self, partition: u32) -> Option<&Address> {
        self.leaders.get(partition as usize)?.1.as_ref()
    }
}

/// Follows a topic's leaders until the receiver is gone.
pub(crate) fn follow(link: &Rc<Link>, topic: &Topic) -> watch::Receiver<Routing> {
    listen_to_some(link, vec![topic.name.clone()], Routing::of(topic))
}

/// What several brokers send of topics, put together.
pub(crate) trait Hears: 'static {
    /// Takes what one of the brokers sends: true if it is news.
    fn hear(&mut self, topics: &[std::result::Result<Topic, TopicError>]) -> bool;
}

impl Hears for Routing {
    fn hear(&mut self, topics: &[std::result::Result<Topic, TopicError>]) -> bool {
        match topics.first() {
            None => false,
            // A topic that was made anew under the name is another one.
            Some(Ok(found)) if found.id == self.topic => self.follow(found),
            Some(Err(e)) if e.error.code != ErrorCode::UnknownTopic => false,
            Some(_) => {
                self.doubts += 1;
                true
            }
        }
    }
}

/// Asks several brokers for these topics, or for all where none is named, and for their changes, until the receiver is
/// gone.
pub(crate) fn listen_to_some<T: Hears>(link: &Rc<Link>, topics: Vec<String>, heard: T) -> watch::Receiver<T> {
    let (sender, receiver) = watch::channel(heard);
    tokio::task::spawn_local(keep_listening(link.clone(), topics, Rc::new(sender)));
    receiver
}

async fn keep_listening<T: Hears>(link: Rc<Link>, topics: Vec<String>, heard: Rc<watch::Sender<T>>) {
    let mut kept = Kept::default();
    loop {
        let wanted: Vec<Address> = link.addresses().into_iter().take(LISTENED_MAX).collect();
        let listen = |address: &Address| {
            let (link, topics, heard, address) = (link.clone(), topics.clone(), heard.clone(), address.clone());
            async move {
                again(None, async || {
                    let Err(error) = hear(&link, &address, &topics, &heard).await;
                    Some(Lost { error, has_served: false })
                })
                .await;
            }
        };
        kept.follow(&wanted, |_| {}, listen);
        tokio::select! {
            () = tokio::time::sleep(LOOK_OVER_EVERY) => {}
            () = heard.closed() => return,
        }
    }
}

/// Listens to a broker until that is lost.
async fn hear<T: Hears>(
    link: &Rc<Link>,
    address: &Address,
    topics: &[String],
    heard: &watch::Sender<T>,
) -> Result<Infallible> {
    let connection = link.connection_to(address, ATTEMPT).await?;
    let (mut sender, receiver) = connection.open_bi().await.map_err(crate::stream::lost_by)?;
    send(&mut sender, MetadataWatch { topics: topics.to_vec() }).await?;
    let mut frames = FrameReader::new(receiver);
    loop {
        let mut reply = frames.reply::<MetadataRequest>().await?;
        while MetadataRequest::take_next(&mut reply).is_some() {
            MetadataRequest::append(&mut reply, frames.reply::<MetadataRequest>().await?);
        }
        link.learn(&reply.brokers);
        heard.send_if_modified(|heard| heard.hear(&reply.topics));
    }
}

/// Brokers that are listened to at once.
const LISTENED_MAX: usize = 3;
/// How often the brokers to listen to are looked over.
const LOOK_OVER_EVERY: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use thalweg_model::{LeaderEpoch, PartitionId, PinEpoch};

    use super::*;

    fn topic(pin_epoch: u32, leaders: &[u16]) -> Topic {
        let led = |(number, port): (u32, &u16)| thalweg_api::Partition {
            partition: PartitionId(number),
            leader: Some(thalweg_api::BrokerAddress { id: Default::default(), host: "b".into(), port: *port }),
            leader_epoch: LeaderEpoch(1),
            ..Default::default()
        };
        let partitions = (0..).zip(leaders).map(led).collect();
        Topic { partitions, pin_epoch: PinEpoch(pin_epoch), ..Default::default() }
    }

    #[test]
    fn a_topic_that_grows_is_followed_and_a_late_broker_takes_nothing_back() {
        let mut routing = Routing::of(&topic(1, &[1, 2]));
        assert!(!routing.follow(&topic(1, &[1, 2])));
        assert!(routing.follow(&topic(2, &[1, 2, 3])));
        assert!(!routing.follow(&topic(1, &[1])));
        assert_eq!((routing.partitions(), routing.pin_epoch()), (3, 2));
        let ports = (0..4).map(|p| routing.leader(p).map(|l| l.port));
        assert_eq!(ports.collect::<Vec<_>>(), [Some(1), Some(2), Some(3), None]);
        let late = |partition, code| routing.is_of_late_broker(partition, &ApiError::new(code, ""));
        assert!(late(2, ErrorCode::UnknownPartition) && !late(2, ErrorCode::PartitionOffline));
        assert!(!late(3, ErrorCode::UnknownPartition));
    }
}
