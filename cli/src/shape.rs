//! What `--output json` prints: numbers, lists and stable keys, for programs. `docs/cli` has a schema for each command,
//! and a test compares them.
//!
//! What people read is left to the commands.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use thalweg::{
    BrokerInfo, ClusterStatus, ConsumerRecord, FollowerStatus, GroupDescription, GroupInfo, GroupMemberInfo,
    PartitionStatus, PartitionTrouble, PluginInfo, RecoveredPartition, TopicDescription, TopicInfo,
};
use thalweg_broker::SalvagedPartition;

/// A topic, as every command prints it that lists or changes one.
pub(crate) fn topic(t: &TopicInfo) -> Value {
    json!({
        "name": t.name,
        "id": t.id,
        "partitions": t.partitions,
        "partitioner": t.partitioner,
        "retention_ms": t.retention_ms,
        "retention_bytes": t.retention_bytes,
        "segment_bytes": t.segment_bytes,
        "segment_ms": t.segment_ms,
        "timestamp_ahead_max_ms": t.timestamp_ahead_max_ms,
    })
}

/// A topic with each of its partitions.
pub(crate) fn topic_description(d: &TopicDescription) -> Value {
    let follower = |f: &FollowerStatus| {
        json!({
            "broker": f.broker,
            "is_voter": f.is_voter,
            "is_active": f.is_active,
            "lag_batches": f.is_active.then_some(f.lag_batches),
        })
    };
    let partition = |p: &PartitionStatus| {
        let asides = p.asides.iter().map(|a| json!({ "broker": a.broker, "folder": a.folder }));
        json!({
            "partition": p.partition,
            "leader": some_broker(p.leader),
            "leader_epoch": p.leader_epoch,
            "replicas": p.replicas,
            "followers": p.followers.iter().filter(|f| f.broker != p.leader).map(follower).collect::<Vec<_>>(),
            "log_start_offset": p.log_start_offset,
            "high_watermark": p.high_watermark,
            "log_end_offset": p.log_end_offset,
            "bytes": p.bytes,
            "offline": p.offline,
            "asides": asides.collect::<Vec<_>>(),
        })
    };
    json!({ "topic": topic(&d.topic), "partitions": d.partitions.iter().map(partition).collect::<Vec<_>>() })
}

/// How a cluster is.
pub(crate) fn cluster(s: &ClusterStatus) -> Value {
    let broker = |b: &BrokerInfo| {
        json!({
            "broker": b.id,
            "host": b.host,
            "port": b.port,
            "rack": b.rack,
            "is_alive": (s.controller != 0).then_some(b.is_alive),
            "trouble": Some(&b.trouble).filter(|trouble| !trouble.is_empty()),
        })
    };
    let trouble = |t: &PartitionTrouble| {
        let (topic, partition) = (&t.topic, t.partition);
        json!({ "topic": topic, "partition": partition, "broker": t.broker, "what": t.what })
    };
    json!({
        "cluster_id": s.cluster_id,
        "feature_level": s.feature_level,
        "controller": some_broker(s.controller),
        "controllers": s.controllers,
        "controllers_behind": s.controllers_behind,
        "topics": s.topics,
        "partitions": s.partitions,
        "without_leader": s.without_leader,
        "behind": s.behind,
        "out_of_service": s.out_of_service.iter().map(trouble).collect::<Vec<_>>(),
        "brokers": s.brokers.iter().map(broker).collect::<Vec<_>>(),
    })
}

/// A partition that lost the majority of its copies.
pub(crate) fn recovered(p: &RecoveredPartition) -> Value {
    json!({
        "topic": p.topic,
        "partition": p.partition,
        "lost_on": p.lost,
        "kept_by": p.kept_by,
        "end_offset": p.end_offset,
    })
}

/// What is left of a partition whose files are damaged.
pub(crate) fn salvaged(p: &SalvagedPartition) -> Value {
    let range = |(start, end): &(u64, u64)| json!({ "start": start, "end": end });
    json!({
        "topic": p.topic,
        "partition": p.partition,
        "damage": p.damage,
        "offsets": range(&p.offsets),
        "lost": p.lost.iter().map(range).collect::<Vec<_>>(),
        "goes_on_at": p.goes_on_at,
        "has_others": p.has_others,
        "is_known": p.is_known,
        "done": p.is_done,
    })
}

/// A group in a list of them.
pub(crate) fn group(g: &GroupInfo) -> Value {
    json!({ "group": g.group, "state": g.state, "members": g.members })
}

/// A group with its members and how far it has come; `lags` are those of all partitions of its topics.
pub(crate) fn group_description(g: &GroupDescription, lags: &[(String, u32, Option<u64>)]) -> Value {
    let places = |some: &[(String, u32)]| -> Vec<Value> {
        some.iter().map(|(topic, partition)| json!({ "topic": topic, "partition": partition })).collect()
    };
    let member = |m: &GroupMemberInfo| {
        json!({
            "member": m.member,
            "instance": m.instance,
            "client": m.client,
            "host": m.host,
            "is_away": m.is_away,
            "partitions": places(&m.partitions),
            "gives_up": places(&m.revoked),
        })
    };
    let partition = |(topic, partition, lag): &(String, u32, Option<u64>)| {
        let at = g.offsets.iter().find(|o| o.topic == *topic && o.partition == *partition);
        let reader = g.members.iter().find(|m| m.partitions.contains(&(topic.clone(), *partition)));
        json!({
            "topic": topic,
            "partition": partition,
            "committed": at.map(|o| o.committed),
            "lag": lag,
            "filtered": at.map_or(0, |o| o.filtered),
            "failed": at.map_or(0, |o| o.failed),
            "member": reader.map(|m| &m.member),
        })
    };
    json!({
        "group": g.group,
        "state": g.state,
        "epoch": g.epoch,
        "coordinator": g.coordinator,
        "assignor": g.assignor,
        "filter": g.filter,
        "members": g.members.iter().map(member).collect::<Vec<_>>(),
        "partitions": lags.iter().map(partition).collect::<Vec<_>>(),
    })
}

/// A plugin in one version.
pub(crate) fn plugin(p: &PluginInfo) -> Value {
    json!({
        "name": p.name,
        "version": p.version,
        "kind": p.kind,
        "digest": p.digest,
        "bytes": p.bytes,
        "created_ms": p.created_ms,
    })
}

/// A record that was read.
pub(crate) fn record(record: &ConsumerRecord) -> Value {
    let headers: Vec<Value> = record.headers().map(|(key, value)| json!([key, lossless(value)])).collect();
    json!({
        "topic": record.topic(),
        "partition": record.partition(),
        "offset": record.offset(),
        "timestamp": record.timestamp_ms(),
        "key": lossless(record.key()),
        "value": lossless(record.value()),
        "headers": headers,
    })
}

/// Text as it is, other bytes as `{"base64": …}`, so that nothing is lost.
pub(crate) fn lossless(bytes: Option<&bytes::Bytes>) -> Value {
    match bytes.map(|b| std::str::from_utf8(b)) {
        None => Value::Null,
        Some(Ok(text)) => text.into(),
        Some(Err(_)) => json!({ "base64": BASE64_STANDARD.encode(bytes.expect("just seen")) }),
    }
}

/// A broker's number; none is 0 in the SDK, and null in JSON.
fn some_broker(id: u32) -> Option<u32> {
    Some(id).filter(|id| *id != 0)
}
