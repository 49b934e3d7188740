//! The records of `__consumer_offsets` and their bytes.
//!
//! A record starts with its kind (u8) and the version of its layout (u8, 1). Numbers are little-endian, or LEB128 where
//! the table says varint; texts and bytes carry a u32 length. docs/formats/groups.md has the tables, tests/formats the
//! fixtures.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::{Buf, BufMut, Bytes};
use thalweg_model::limits::{GROUP_TOPICS_MAX, PARTITIONS_MAX, PLUGIN_CONFIG_BYTES_MAX};
use thalweg_model::{Assignor, Committed, OnFailure, TopicId, TopicPartition};

use crate::coding::{put_bytes, take_array, take_bytes, take_name};
use crate::record::RecordError;

/// The filter of a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupFilter {
    /// The plugin as "name@version"; the version was resolved when the first member joined.
    pub reference: String,
    /// The parameters that its instances get.
    pub config: Bytes,
    /// What members do with a record on which the filter fails.
    pub on_failure: OnFailure,
}

/// What all members of a group must agree on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Terms {
    /// The assignor by which partitions are shared out.
    pub assignor: Assignor,
    /// The filter that records must pass; `None`: every record is delivered.
    pub filter: Option<GroupFilter>,
}

/// SHA-256 of the secret that a member chose when it joined. Only requests with that secret count as the member's. The
/// digest is what is stored, replicated and shown to operators; the secret does not follow from it.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretDigest(pub [u8; 32]);

impl fmt::Debug for SecretDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretDigest(…)")
    }
}

/// A partition that a member may read, or that it has not yet confirmed to have stopped reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Holding {
    /// The member epoch with which the member got the partition.
    pub since: u32,
    /// The member epoch that takes the partition away; another member may get it once this one has confirmed that
    /// epoch. `None`: the member keeps it.
    pub revoked_by: Option<u32>,
}

/// A member of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Member {
    /// The digest of the secret that proves the member's requests.
    pub secret: SecretDigest,
    /// A name that outlives the process, for static membership.
    pub instance: Option<String>,
    /// The name that its client gives itself, such as "thalweg-python".
    pub client: String,
    /// The address from which the member connected.
    pub host: String,
    /// The topics that it wants to read, sorted: names, and patterns, which begin with `^`.
    pub topics: Vec<String>,
    /// Session time-out in ms: without a heartbeat for so long, the member is removed.
    pub session_ms: u32,
    /// The number of its present assignment, which grows with every change of it.
    pub epoch: u32,
    /// True for a static member that has left and will come back: its partitions are kept for it until its session
    /// ends.
    pub is_away: bool,
    /// The partitions that it should hold, as the assignor has computed.
    pub target: BTreeSet<TopicPartition>,
    /// The partitions that it may be reading now.
    pub holdings: BTreeMap<TopicPartition, Holding>,
}

/// One change of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupRecord {
    /// A group was made, or has other terms.
    GroupChanged {
        /// The id of the group.
        group: String,
        /// The largest member epoch that the group has given out so far.
        epoch: u32,
        /// The assignor and the filter, which all members share.
        terms: Terms,
        /// When its last member left, or it was made, in ms since the Unix epoch.
        idle_since_ms: u64,
    },
    /// A member joined, or changed.
    MemberChanged {
        /// The id of the group.
        group: String,
        /// The id of the member.
        member: String,
        /// The member with all its fields, as it is from now on.
        state: Member,
    },
    /// A member left, or its session ended without a heartbeat.
    MemberGone {
        /// The id of the group.
        group: String,
        /// The id of the member.
        member: String,
        /// When this happened, in ms since the Unix epoch; 0 where the time was not known.
        at_ms: u64,
    },
    /// Offsets of the group were committed.
    OffsetsCommitted {
        /// The id of the group.
        group: String,
        /// When this happened, in ms since the Unix epoch; 0 where the time was not known.
        at_ms: u64,
        /// The offsets, and what was left out below them, by partition.
        offsets: Vec<(TopicPartition, Committed)>,
    },
    /// The group's offsets of partitions whose topics were deleted are forgotten.
    OffsetsForgotten {
        /// The id of the group.
        group: String,
        /// The partitions whose offsets are forgotten.
        partitions: Vec<TopicPartition>,
    },
    /// The group was deleted, with its offsets.
    GroupGone {
        /// The id of the group.
        group: String,
    },
}

impl GroupRecord {
    /// The id of the group that the record is about; it is the record's key in the log.
    pub fn group(&self) -> &str {
        match self {
            GroupRecord::GroupChanged { group, .. }
            | GroupRecord::MemberChanged { group, .. }
            | GroupRecord::MemberGone { group, .. }
            | GroupRecord::OffsetsCommitted { group, .. }
            | GroupRecord::OffsetsForgotten { group, .. }
            | GroupRecord::GroupGone { group } => group,
        }
    }

    /// The bytes of the record, as they stand in the log.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        let kind = match self {
            GroupRecord::GroupChanged { .. } => 1,
            GroupRecord::MemberChanged { .. } => 2,
            GroupRecord::MemberGone { .. } => 3,
            GroupRecord::OffsetsCommitted { .. } => 4,
            GroupRecord::OffsetsForgotten { .. } => 5,
            GroupRecord::GroupGone { .. } => 6,
        };
        out.put_slice(&[kind, 1]);
        put_bytes(&mut out, self.group().as_bytes());
        match self {
            GroupRecord::GroupChanged { epoch, terms, idle_since_ms, .. } => {
                out.put_u32_le(*epoch);
                out.put_u64_le(*idle_since_ms);
                out.put_u8(terms.assignor as u8);
                out.put_u8(terms.filter.is_some() as u8);
                if let Some(filter) = &terms.filter {
                    put_bytes(&mut out, filter.reference.as_bytes());
                    put_bytes(&mut out, &filter.config);
                    out.put_u8(filter.on_failure as u8);
                }
            }
            GroupRecord::MemberChanged { member, state, .. } => {
                put_bytes(&mut out, member.as_bytes());
                put_member(&mut out, state);
            }
            GroupRecord::MemberGone { member, at_ms, .. } => {
                put_bytes(&mut out, member.as_bytes());
                out.put_u64_le(*at_ms);
            }
            GroupRecord::OffsetsCommitted { at_ms, offsets, .. } => {
                out.put_u64_le(*at_ms);
                put_by_topic(&mut out, offsets.iter().map(|(name, c)| (*name, c)), |out, c| {
                    put_varint(out, c.offset);
                    put_varint(out, c.filtered);
                    put_varint(out, c.failed);
                });
            }
            GroupRecord::OffsetsForgotten { partitions, .. } => {
                put_by_topic(&mut out, partitions.iter().map(|name| (*name, ())), |_, ()| {});
            }
            GroupRecord::GroupGone { .. } => {}
        }
        out.into()
    }

    /// Reads a record back.
    ///
    /// # Errors
    /// `Newer` for a kind or layout of a newer version, `Malformed` for anything that `encode` did not write.
    pub fn decode(data: &[u8]) -> Result<GroupRecord, RecordError> {
        let &[kind, layout, ref rest @ ..] = data else {
            return Err(RecordError::Malformed { kind: 0 });
        };
        if !(1..=6).contains(&kind) || layout != 1 {
            return Err(RecordError::Newer { kind, layout });
        }
        let mut rest = rest;
        decode_kind(kind, &mut rest).filter(|_| rest.is_empty()).ok_or(RecordError::Malformed { kind })
    }
}

fn decode_kind(kind: u8, data: &mut &[u8]) -> Option<GroupRecord> {
    let group = take_name(data)?;
    Some(match kind {
        1 => {
            let epoch = data.try_get_u32_le().ok()?;
            let idle_since_ms = data.try_get_u64_le().ok()?;
            let assignor = Assignor::from_number(data.try_get_u8().ok()?.into())?;
            let filter = match data.try_get_u8().ok()? {
                0 => None,
                _ => Some(GroupFilter {
                    reference: take_name(data)?,
                    config: take_bytes(data, PLUGIN_CONFIG_BYTES_MAX)?,
                    on_failure: OnFailure::from_number(data.try_get_u8().ok()?.into())?,
                }),
            };
            GroupRecord::GroupChanged { group, epoch, terms: Terms { assignor, filter }, idle_since_ms }
        }
        2 => GroupRecord::MemberChanged { group, member: take_name(data)?, state: take_member(data)? },
        3 => GroupRecord::MemberGone { group, member: take_name(data)?, at_ms: data.try_get_u64_le().ok()? },
        4 => GroupRecord::OffsetsCommitted {
            group,
            at_ms: data.try_get_u64_le().ok()?,
            offsets: take_by_topic(data, |data| {
                Some(Committed { offset: take_varint(data)?, filtered: take_varint(data)?, failed: take_varint(data)? })
            })?,
        },
        5 => {
            let partitions = take_by_topic(data, |_| Some(()))?.into_iter().map(|(name, ())| name).collect();
            GroupRecord::OffsetsForgotten { group, partitions }
        }
        _ => GroupRecord::GroupGone { group },
    })
}

fn put_member(out: &mut Vec<u8>, m: &Member) {
    out.put_slice(&m.secret.0);
    put_bytes(out, m.instance.as_deref().unwrap_or_default().as_bytes());
    put_bytes(out, m.client.as_bytes());
    put_bytes(out, m.host.as_bytes());
    out.put_u16_le(m.topics.len() as u16);
    m.topics.iter().for_each(|t| put_bytes(out, t.as_bytes()));
    out.put_u32_le(m.session_ms);
    out.put_u32_le(m.epoch);
    out.put_u8(m.is_away as u8);
    put_by_topic(out, m.target.iter().map(|name| (*name, ())), |_, ()| {});
    put_by_topic(out, m.holdings.iter().map(|(name, h)| (*name, h)), |out, h| {
        put_varint(out, h.since as u64);
        put_varint(out, h.revoked_by.unwrap_or(0) as u64);
    });
}

fn take_member(data: &mut &[u8]) -> Option<Member> {
    let secret = SecretDigest(take_array(data)?);
    let instance = Some(take_name(data)?).filter(|i| !i.is_empty());
    let (client, host) = (take_name(data)?, take_name(data)?);
    let topics = data.try_get_u16_le().ok()? as usize;
    if topics > GROUP_TOPICS_MAX {
        return None;
    }
    let topics = (0..topics).map(|_| take_name(data)).collect::<Option<Vec<_>>>()?;
    Some(Member {
        secret,
        instance,
        client,
        host,
        topics,
        session_ms: data.try_get_u32_le().ok()?,
        epoch: data.try_get_u32_le().ok()?,
        is_away: data.try_get_u8().ok()? != 0,
        target: take_by_topic(data, |_| Some(()))?.into_iter().map(|(name, ())| name).collect(),
        holdings: take_by_topic(data, |data| {
            let since = take_varint(data)?.try_into().ok()?;
            let revoked_by = Some(take_varint(data)?.try_into().ok()?).filter(|by| *by != 0);
            Some(Holding { since, revoked_by })
        })?
        .into_iter()
        .collect(),
    })
}

/// Writes partitions and what `put` writes for each: for every topic its id once, then its partitions. Partitions of
/// one topic must follow on each other in `items`.
fn put_by_topic<T>(
    out: &mut Vec<u8>,
    items: impl Iterator<Item = (TopicPartition, T)>,
    mut put: impl FnMut(&mut Vec<u8>, T),
) {
    let mut items = items.peekable();
    let counted = out.len();
    out.put_u32_le(0);
    let mut topics = 0u32;
    while let Some(topic) = items.peek().map(|(name, _)| name.topic) {
        topics += 1;
        out.put_slice(&topic.0);
        let counted = out.len();
        out.put_u32_le(0);
        let mut count = 0u32;
        while let Some((name, item)) = items.next_if(|(name, _)| name.topic == topic) {
            count += 1;
            put_varint(out, name.partition.0 as u64);
            put(out, item);
        }
        out[counted..counted + 4].copy_from_slice(&count.to_le_bytes());
    }
    out[counted..counted + 4].copy_from_slice(&topics.to_le_bytes());
}

fn take_by_topic<T>(
    data: &mut &[u8],
    mut take: impl FnMut(&mut &[u8]) -> Option<T>,
) -> Option<Vec<(TopicPartition, T)>> {
    let topics = data.try_get_u32_le().ok()?;
    let mut items = Vec::new();
    for _ in 0..topics {
        let topic = TopicId(take_array(data)?);
        let count = data.try_get_u32_le().ok()?;
        // Every partition takes a byte at least: a larger count would allocate more than the data can hold.
        if count > PARTITIONS_MAX || count as usize > data.len() {
            return None;
        }
        for _ in 0..count {
            let partition = take_varint(data)?.try_into().ok()?;
            items.push((TopicPartition::new(topic, partition), take(data)?));
        }
    }
    Some(items)
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn take_varint(data: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = data.try_get_u8().ok()?;
        let bits = (byte & 0x7f) as u64;
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(topic: u8, partition: u32) -> TopicPartition {
        TopicPartition::new(TopicId([topic; 16]), partition)
    }

    #[test]
    fn records_come_back() {
        let group = "billing".to_owned();
        let holding = |since, revoked_by| Holding { since, revoked_by };
        let state = Member {
            secret: SecretDigest([5; 32]),
            instance: Some("a".into()),
            client: "thalweg-rust".into(),
            host: "127.0.0.1".into(),
            topics: vec!["flights".into(), "trains".into()],
            session_ms: 3_000,
            epoch: 7,
            is_away: true,
            target: [name(1, 0), name(1, 3), name(2, 1)].into(),
            holdings: [(name(1, 0), holding(3, None)), (name(2, 200), holding(4, Some(7)))].into(),
        };
        let filter = GroupFilter { reference: "late@1".into(), config: "{}".into(), on_failure: OnFailure::Skip };
        let terms = Terms { assignor: Assignor::Range, filter: Some(filter) };
        let committed = Committed { offset: u64::MAX, filtered: 300, failed: 0 };
        let records = [
            GroupRecord::GroupChanged { group: group.clone(), epoch: 9, terms, idle_since_ms: 5 },
            GroupRecord::GroupChanged { group: group.clone(), epoch: 9, terms: Terms::default(), idle_since_ms: 0 },
            GroupRecord::MemberChanged { group: group.clone(), member: "m".into(), state },
            GroupRecord::MemberGone { group: group.clone(), member: "m".into(), at_ms: 6 },
            GroupRecord::OffsetsCommitted {
                group: group.clone(),
                at_ms: 6,
                offsets: vec![(name(1, 0), committed), (name(1, 2), Committed::default()), (name(3, 0), committed)],
            },
            GroupRecord::OffsetsForgotten { group: group.clone(), partitions: vec![name(1, 0), name(9, 1)] },
            GroupRecord::GroupGone { group },
        ];
        for record in records {
            let bytes = record.encode();
            for cut in 0..bytes.len() {
                assert!(GroupRecord::decode(&bytes[..cut]).is_err());
            }
            assert_eq!(GroupRecord::decode(&bytes), Ok(record));
        }
        assert_eq!(GroupRecord::decode(&[7, 1]), Err(RecordError::Newer { kind: 7, layout: 1 }));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(kind in 0..8u8, bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = GroupRecord::decode(&[&[kind, 1, 1, 0, 0, 0, b'g'], &bytes[..]].concat());
        }

        #[test]
        fn varints_come_back(value in any::<u64>()) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            prop_assert_eq!(take_varint(&mut &out[..]), Some(value));
        }
    }
}
