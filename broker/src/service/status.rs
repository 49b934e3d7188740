//! How the cluster is as a whole: counted here, and what the other brokers have out of service.

use std::rc::Rc;
use std::time::Duration;

use thalweg_api::{ApiError, ClusterStatusReply, ClusterStatusRequest, PAGE_ITEMS_MAX, PartitionTrouble, Room};
use thalweg_broker_core::METADATA;
use thalweg_model::{BrokerId, Offset, PartitionId, TopicPartition};

use crate::ctx::Ctx;
use crate::door::{Principal, Service};
use crate::engine::view::View;
use crate::service::describe;
use crate::service::pages::Place;

impl Service<ClusterStatusRequest> for Ctx {
    /// A place is a topic's name and a partition, the first of which it is told whether it is out of service. Only the
    /// first page has all the rest.
    async fn serve(
        self: &Rc<Self>,
        principal: &Principal,
        request: ClusterStatusRequest,
    ) -> Result<ClusterStatusReply, ApiError> {
        let from = Place::of(request.page.clone())?;
        let (me, cluster_id, controllers) = (self.broker_id, self.cluster_id.clone(), self.controllers.clone());
        let is_first = from.is_none();
        let place = from.unwrap_or_default();
        let after = (place.text, PartitionId(place.number));
        let own = move |view: &View<'_>| (overview(view, me, cluster_id, controllers, after), view.live());
        let (mut reply, live) = self.engine.look(own).await;
        if is_first {
            count(self, &mut reply).await;
        }
        // Where another broker is the controller, clients ask that one: it knows who can answer.
        let gathers = reply.controller.is_none_or(|c| c == me);
        if !principal.is_broker() && gathers {
            gather(self, &mut reply, live, request).await;
        }
        Ok(reply)
    }
}

/// The cluster as this broker knows it, and what is out of service here from a partition on; without what is counted.
fn overview(
    view: &View<'_>,
    me: BrokerId,
    cluster_id: String,
    controllers: Vec<BrokerId>,
    from: (String, PartitionId),
) -> ClusterStatusReply {
    let metadata = view.metadata();
    let trouble = |(name, what): (TopicPartition, String)| {
        Some(PartitionTrouble {
            topic: metadata.topic_by_id(name.topic)?.name.clone(),
            partition: name.partition,
            broker: me,
            what,
            log_end_offset: view.state(&name).map_or(Offset(0), |s| s.log_end),
        })
    };
    let mut out_of_service: Vec<_> = view.out_of_service().into_iter().filter_map(trouble).collect();
    out_of_service.retain(|t| (&t.topic, t.partition) >= (&from.0, from.1));
    out_of_service.sort_by(|a, b| key(a).cmp(&key(b)));
    let next = cut(&mut out_of_service);
    ClusterStatusReply {
        cluster_id,
        controller: view.controller(),
        brokers: describe::brokers(view),
        controllers,
        topics: 0,
        partitions: 0,
        without_leader: 0,
        behind: 0,
        asked: me,
        feature_level: metadata.feature_level(),
        out_of_service,
        controllers_behind: view.behind(&METADATA),
        next: next.map(Into::into),
    }
}

/// By which troubles are told, and who holds most of a partition comes first: it knows best.
fn key(t: &PartitionTrouble) -> (&str, PartitionId, u64, BrokerId) {
    (&t.topic, t.partition, u64::MAX - t.log_end_offset.0, t.broker)
}

/// Keeps what has room in a page; answers with the place of the rest.
fn cut(troubles: &mut Vec<PartitionTrouble>) -> Option<Place> {
    let mut room = Room::default();
    let at = troubles.iter().position(|t| !room.take(t))?;
    let next = Place::at(troubles[at].partition.0, &troubles[at].topic);
    troubles.truncate(at);
    Some(next)
}

/// Counts topics and partitions in pieces, so that others come in between.
async fn count(ctx: &Ctx, reply: &mut ClusterStatusReply) {
    let mut from = Some((String::new(), 0));
    while let Some((name, first)) = from {
        let (counts, next) = ctx.engine.look(move |view| piece(view, &name, first)).await;
        let Counts { topics, partitions, without_leader, behind } = counts;
        reply.topics += topics;
        reply.partitions += partitions;
        reply.without_leader += without_leader;
        reply.behind += behind;
        from = next;
    }
}

#[derive(Default)]
struct Counts {
    topics: u32,
    partitions: u32,
    without_leader: u32,
    behind: u32,
}

/// Counts some partitions from one on; answers with where to go on.
fn piece(view: &View<'_>, name: &str, first: u32) -> (Counts, Option<(String, u32)>) {
    let (live, mut counts) = (view.live(), Counts::default());
    for topic in view.metadata().topics_from(name) {
        let first = if topic.name == name { first } else { 0 };
        counts.topics += u32::from(first == 0);
        for index in first..topic.partitions {
            if counts.partitions as usize == PAGE_ITEMS_MAX {
                // A topic of which nothing was counted is counted with its first partition.
                counts.topics -= u32::from(index == 0);
                return (counts, Some((topic.name.clone(), index)));
            }
            let name = TopicPartition::new(topic.id, index);
            counts.partitions += 1;
            counts.without_leader += u32::from(view.leader(&name).is_none_or(|(_, b)| !live.contains(&b)));
            counts.behind += u32::from(!view.behind(&name).is_empty());
        }
    }
    (counts, None)
}

/// Adds what the other brokers say of the same page.
async fn gather(ctx: &Ctx, reply: &mut ClusterStatusReply, live: Vec<BrokerId>, request: ClusterStatusRequest) {
    let is_first = request.page.is_none();
    let mut nexts: Vec<Place> = Place::of(reply.next.take()).ok().flatten().into_iter().collect();
    let mut troubles = std::mem::take(&mut reply.out_of_service);
    for other in live.into_iter().filter(|b| *b != reply.asked) {
        let asking = ctx.peers.ask(other, request.clone());
        let Ok(Ok(theirs)) = tokio::time::timeout(STATUS_PATIENCE, asking).await else { continue };
        troubles.extend(theirs.out_of_service);
        nexts.extend(Place::of(theirs.next).ok().flatten());
        if is_first {
            reply.behind += theirs.behind;
        }
    }
    // Several may tell of the same one. Beyond where the first of them has ended, not all have spoken.
    let next = nexts.into_iter().min_by(|a, b| (&a.text, a.number).cmp(&(&b.text, b.number)));
    if let Some(next) = &next {
        troubles.retain(|t| (&t.topic[..], t.partition.0) < (&next.text[..], next.number));
    }
    troubles.sort_by(|a, b| key(a).cmp(&key(b)));
    troubles.dedup_by(|a, b| (&a.topic, a.partition) == (&b.topic, b.partition));
    reply.next = cut(&mut troubles).or(next).map(Into::into);
    reply.out_of_service = troubles;
}

/// How long another broker may take to say what is out of service there. It says so in its log and its metrics too.
const STATUS_PATIENCE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_troubles_ends_where_the_next_one_begins() {
        let trouble = |partition| PartitionTrouble {
            topic: "t".into(),
            partition: PartitionId(partition),
            broker: BrokerId(1),
            what: "x".repeat(1_000),
            log_end_offset: Offset(0),
        };
        let mut troubles: Vec<_> = (0..2_000).map(trouble).collect();
        let next = cut(&mut troubles).expect("there is a rest");
        assert_eq!((next.number as usize, &next.text[..]), (troubles.len(), "t"));
        assert!(troubles.len() > 100);
        assert_eq!(cut(&mut vec![trouble(1)]), None);
    }
}
