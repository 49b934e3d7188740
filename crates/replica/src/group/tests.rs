//! Rules of one Raft group: its calls, and the effects that they give. Several copies are left to `by_hand.rs`.

use thalweg_commit_log::PRODUCERS_MAX;
use thalweg_model::{Acks, BatchBuilder, Bug, Codec, PinEpoch, Record, TopicId, assert_finds};

use super::*;
use crate::message::{EntryBody, EntryContent, RaftKind};

fn config() -> GroupConfig {
    GroupConfig { kept_bytes: 1 << 20, producers_max: PRODUCERS_MAX }
}

/// The group of a partition with a single replica, which leads and has synced all entries.
fn leader() -> Group {
    let me = ReplicaId::new(BrokerId(1), 0);
    let recovered = Recovered {
        hard_state: HardState { replica: me, ..Default::default() },
        end: SegmentsEnd::default(),
        decided: RaftIndex(0),
        configuration: Configuration::of_voters([me]),
        producers: ProducerTable::default(),
        entries: std::iter::empty(),
    };
    let mut group = Group::new(TopicPartition::new(TopicId([1; 16]), 0), me, config(), recovered);
    let mut effects = Vec::new();
    group.start(true, &mut effects);
    sync(&mut group, effects);
    assert!(group.is_serving());
    group
}

/// Carries out the effects that wait for the disk; answers with the others.
fn sync(group: &mut Group, mut effects: Vec<Effect>) -> Vec<Effect> {
    let mut said = Vec::new();
    while !effects.is_empty() {
        for effect in std::mem::take(&mut effects) {
            match effect {
                Effect::Persist(number, _) => group.persisted(number, &mut effects),
                other => said.push(other),
            }
        }
    }
    said
}

fn produce(group: &mut Group, timestamps_ms: &[i64], ahead_max_ms: Option<u64>) -> Result<Offset, ProduceError> {
    let terms = Terms { pin: (PinEpoch(0), PinEpoch(0)), clock_ms: NOW_MS, ahead_max_ms, may_refuse: true };
    produce_by(group, timestamps_ms, terms)
}

fn produce_by(group: &mut Group, timestamps_ms: &[i64], terms: Terms) -> Result<Offset, ProduceError> {
    let mut builder = BatchBuilder::new();
    timestamps_ms.iter().for_each(|ms| builder.push(&Record { timestamp_ms: *ms, ..Default::default() }));
    let mut effects = Vec::new();
    group.produce(Ticket::Shell(1), builder.build(Codec::None, None), terms, Acks::Quorum, &mut effects);
    let said = sync(group, effects);
    let answer = said.into_iter().find_map(|e| match e {
        Effect::Answer(Answer::Produced(_, result)) => Some(result),
        _ => None,
    });
    answer.expect("it is answered")
}

const NOW_MS: i64 = 1_700_000_000_000;
const HOUR_MS: u64 = 3_600_000;

/// Source: Kafka's `message.timestamp.after.max.ms` (KIP-937).
#[test]
fn a_record_far_ahead_of_the_clock_is_refused_with_its_batch() {
    let ahead = |by_ms: i64| NOW_MS + by_ms;
    let refused = |timestamp_ms| {
        let (clock_ms, ahead_max_ms) = (NOW_MS, HOUR_MS);
        Err(ProduceError::TimestampAhead { timestamp_ms, clock_ms, ahead_max_ms })
    };
    let mut group = leader();
    let first = group.state().log_end;
    let hour = HOUR_MS as i64;
    assert_eq!(produce(&mut group, &[ahead(hour)], Some(HOUR_MS)), Ok(first));
    assert_eq!(produce(&mut group, &[0, ahead(hour + 1)], Some(HOUR_MS)), refused(ahead(hour + 1)));
    assert_eq!(produce(&mut group, &[i64::MAX], Some(HOUR_MS)), refused(i64::MAX));
    assert_eq!(produce(&mut group, &[i64::MAX], Some(u64::MAX)), Ok(first.plus(1)), "no limit is passed");
    assert_eq!(produce(&mut group, &[i64::MAX], None), Ok(first.plus(2)));
}

#[test]
fn planted_bugs_show() {
    assert_finds(Bug::TimestampAheadTaken, a_record_far_ahead_of_the_clock_is_refused_with_its_batch);
}

/// Just after a start it is not known whether the broker's clock is right: the client is to send the batch again, so
/// that no record is taken that could not be removed for years.
#[test]
fn a_record_far_ahead_waits_until_it_is_known_whether_the_clock_is_right() {
    let mut group = leader();
    let terms =
        || Terms { pin: (PinEpoch(0), PinEpoch(0)), clock_ms: NOW_MS, ahead_max_ms: Some(HOUR_MS), may_refuse: false };
    let timestamp_ms = NOW_MS + HOUR_MS as i64 + 1;
    let waits = Err(ProduceError::ClockUnknown { timestamp_ms });
    assert_eq!(produce_by(&mut group, &[timestamp_ms], terms()), waits);
    assert!(produce_by(&mut group, &[NOW_MS], terms()).is_ok());
}

#[test]
fn timestamps_are_not_negative_but_for_none() {
    let mut group = leader();
    let first = group.state().log_end;
    assert_eq!(produce(&mut group, &[-1], None), Ok(first));
    for timestamp_ms in [-2, i64::MIN] {
        let refused = Err(ProduceError::TimestampNegative { timestamp_ms });
        assert_eq!(produce(&mut group, &[timestamp_ms], None), refused);
    }
}

#[test]
fn a_log_start_counts_when_it_is_on_a_quorum_and_is_forgotten_with_its_entry() {
    let (me, other) = (ReplicaId::new(BrokerId(1), 0), ReplicaId::new(BrokerId(2), 0));
    let recovered = Recovered {
        hard_state: HardState { replica: me, ..Default::default() },
        end: SegmentsEnd::default(),
        decided: RaftIndex(0),
        configuration: Configuration::of_voters([me, other]),
        producers: ProducerTable::default(),
        entries: std::iter::empty(),
    };
    let mut group = Group::new(TopicPartition::new(TopicId([1; 16]), 0), me, config(), recovered);
    let entry = |term: u64, content| EntryBody { term, content };
    let append = |term: u64, log: (u64, u64), commit: u64, entries: Vec<EntryBody>| RaftBody {
        kind: RaftKind::Append,
        term,
        index: log.0,
        log_term: log.1,
        commit,
        entries,
        ..Default::default()
    };
    let log_start = |offset: u64, to: u64, term: u32| {
        EntryContent::Batch(RecordBatch::log_start(Offset(offset), LeaderEpoch(term), Offset(to), NOW_MS))
    };
    let heard = |group: &mut Group, body| {
        let mut effects = Vec::new();
        group.step(other, body, &mut effects);
        let said = sync(group, effects);
        said.into_iter().filter_map(|e| if let Effect::LogStart(to) = e { Some(to) } else { None }).collect::<Vec<_>>()
    };
    let first = vec![entry(1, EntryContent::LeaderChange), entry(1, log_start(1, 1, 1))];
    assert_eq!(heard(&mut group, append(1, (0, 0), 1, first)), [], "it is not on a quorum");
    // Another leader replaces the entry.
    let second = vec![entry(2, EntryContent::LeaderChange), entry(2, log_start(2, 9, 2))];
    assert_eq!(heard(&mut group, append(2, (1, 1), 3, second)), [], "what comes after the record cannot be meant");
    assert_eq!(group.log_start, Offset(0));
    assert_eq!(heard(&mut group, append(2, (3, 2), 4, vec![entry(2, log_start(3, 2, 2))])), [Offset(2)]);
}
