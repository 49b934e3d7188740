//! Who leads each partition of a topic: the brokers push it, whenever it changes.
//!
//! Several brokers are listened to at once, because the one that dies tells nobody. Of what they say, the newest leader epoch
//! of a partition counts.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use thalweg_client_core::Backoff;
use thalweg_wire::{ErrorCode, proto};
use tokio::sync::watch;

use crate::Result;
use crate::address::Address;
use crate::link::{ATTEMPT, Link, chance};
use crate::stream::{FrameReader, send};

/// Brokers that are listened to at once.
const LISTENED_MAX: usize = 3;
/// How often the brokers to listen to are looked over.
const LOOK_OVER_EVERY: Duration = Duration::from_millis(500);

/// The leader of each partition: its epoch, and where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Routing {
    topic_id: Bytes,
    leaders: Vec<(u32, Option<Address>)>,
    pin_epoch: u32,
    /// How often a broker said that there is no such topic, or another one of its name. It may be the one that is late.
    doubts: u64,
}

impl Routing {
    pub(crate) fn of(topic: &proto::Topic) -> Routing {
        let leaders = vec![(0, None); topic.partitions.len()];
        let mut routing = Routing { topic_id: topic.id.clone(), leaders, pin_epoch: topic.pin_epoch, doubts: 0 };
        routing.follow(topic);
        routing
    }

    /// Takes what is newer; true if anything is.
    fn follow(&mut self, topic: &proto::Topic) -> bool {
        let mut is_news = topic.pin_epoch > self.pin_epoch;
        self.pin_epoch = self.pin_epoch.max(topic.pin_epoch);
        for p in &topic.partitions {
            let Some(known) = self.leaders.get_mut(p.index as usize) else { continue };
            let leader = (p.leader != 0).then(|| Address { host: p.host.clone(), port: p.port as u16 });
            let is_newer = p.leader_epoch > known.0 || (p.leader_epoch == known.0 && known.1.is_none());
            if leader.is_some() && is_newer && *known != (p.leader_epoch, leader.clone()) {
                *known = (p.leader_epoch, leader);
                is_news = true;
            }
        }
        is_news
    }

    /// Grows when a broker says that the topic is not there any more.
    pub(crate) fn doubts(&self) -> u64 {
        self.doubts
    }

    /// Epoch of the topic's pin.
    pub(crate) fn pin_epoch(&self) -> u32 {
        self.pin_epoch
    }

    /// Where a partition's leader is; `None` while none is known.
    pub(crate) fn leader(&self, partition: u32) -> Option<&Address> {
        self.leaders.get(partition as usize)?.1.as_ref()
    }
}

/// Follows a topic's leaders until the receiver is gone.
pub(crate) fn follow(link: &Rc<Link>, topic: &proto::Topic) -> watch::Receiver<Routing> {
    let (sender, receiver) = watch::channel(Routing::of(topic));
    tokio::task::spawn_local(listen_to_some(link.clone(), topic.name.clone(), Rc::new(sender)));
    receiver
}

async fn listen_to_some(link: Rc<Link>, topic: String, routing: Rc<watch::Sender<Routing>>) {
    let mut listened: Vec<(Address, tokio::task::JoinHandle<()>)> = Vec::new();
    loop {
        let wanted: Vec<Address> = link.addresses().into_iter().take(LISTENED_MAX).collect();
        listened.retain(|(address, task)| {
            let stays = wanted.contains(address) && !task.is_finished();
            if !stays {
                task.abort();
            }
            stays
        });
        for address in wanted {
            if listened.iter().all(|(a, _)| *a != address) {
                let task = listen(link.clone(), address.clone(), topic.clone(), routing.clone());
                listened.push((address, tokio::task::spawn_local(task)));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_OVER_EVERY) => {}
            () = routing.closed() => {
                listened.into_iter().for_each(|(_, task)| task.abort());
                return;
            }
        }
    }
}

async fn listen(link: Rc<Link>, address: Address, topic: String, routing: Rc<watch::Sender<Routing>>) {
    for attempt in 1.. {
        let lost = hear(&link, &address, &topic, &routing).await;
        if let Err(error) = lost {
            tracing::debug!("broker {address} tells nothing of {topic:?}: {error}");
        }
        tokio::time::sleep(Duration::from_millis(Backoff::default().wait_ms(attempt, chance()))).await;
    }
}

async fn hear(link: &Rc<Link>, address: &Address, topic: &str, routing: &watch::Sender<Routing>) -> Result<()> {
    let connection = link.connection_to(address, ATTEMPT).await?;
    let (mut sender, receiver) = connection.open_bi().await.map_err(crate::stream::lost)?;
    send(&mut sender, &proto::MetadataWatch { topics: vec![topic.to_owned()] }, Bytes::new()).await?;
    let mut frames = FrameReader::new(receiver);
    loop {
        let (reply, _) = frames.expect::<proto::MetadataReply>().await?;
        link.learn(&reply.brokers);
        let Some(found) = reply.topics.first() else { continue };
        let unknown = found.error.as_ref().is_some_and(|e| ErrorCode::from_number(e.code) == ErrorCode::UnknownTopic);
        routing.send_if_modified(|r| match &found.error {
            // A topic that was made anew under the name is another one.
            None if found.id == r.topic_id => r.follow(found),
            Some(_) if !unknown => false,
            _ => {
                r.doubts += 1;
                true
            }
        });
    }
}
