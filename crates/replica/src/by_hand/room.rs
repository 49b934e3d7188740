//! Rules of a nearly full disk: which entries a copy takes there. When a disk counts as full is left to `commit-log`.

use super::leading::record;
use super::*;
use crate::ProduceError;

/// A copy with six entries of broker 3, whose disk has become full.
fn six_on_a_full_disk() -> Copy {
    let config = Config { reserve_bytes: 1 << 20, ..config() };
    let mut copy = Copy::open_with(MemoryDisk::empty(), settings(), config, 1 << 40);
    copy.append(3, 1, (0, 0), 6, 6);
    copy.sync();
    copy.replicas.set_room(copy.now, 1 << 18);
    copy
}

/// Where only the ballast has left room, a part of a catch-up waits, and the copy goes on with Raft meanwhile:
/// otherwise it would neither vote nor acknowledge for as long as the disk is full. The metadata log, without which
/// nothing could be deleted, does not wait for room.
#[test]
fn raft_goes_on_while_a_part_waits_for_room() {
    for is_vital in [false, true] {
        let ballast_bytes = 1 << 20;
        let config = Config { ballast_bytes, reserve_bytes: 1 << 20, ..config() };
        let settings = PartitionSettings { is_own: true, is_vital, ..settings() };
        let mut copy = Copy::open_with(MemoryDisk::empty(), settings, config, ballast_bytes);
        copy.sync();
        copy.hear(3, PeerBody::CatchUp(CatchUp::Offer { term: LeaderEpoch(2) }));
        bring(&mut copy, 1..=2, 2);
        copy.sync();
        let is_in_segments = copy.log().segments_end().index == RaftIndex(2);
        assert_eq!((copy.replicas.state(&NAME).is_some(), is_in_segments), (!is_vital, is_vital));
        copy.replicas.set_room(copy.now, 1 << 40);
        copy.tick();
        copy.sync();
        copy.hear(3, PeerBody::CatchUp(CatchUp::Done));
        assert!(copy.replicas.state(&NAME).is_some_and(|s| s.high_watermark == Offset(2)), "vital: {is_vital}");
    }
}

/// On a nearly full disk a follower takes records that come before a move of the log start only where more goes than
/// comes. Taken always, they would fill the disk for a leader that moves its log start often, and nothing could be
/// deleted any more.
#[test]
fn records_before_a_move_of_the_log_start_are_taken_without_room_only_where_more_goes() {
    let is_taken = |records: u64, log_start: u64| {
        let config = Config { reserve_bytes: 1 << 20, ..config() };
        let mut copy = Copy::open_with(MemoryDisk::empty(), settings(), config, 1 << 40);
        copy.append(3, 1, (0, 0), 6, 6);
        copy.sync();
        copy.replicas.set_room(copy.now, 1 << 18);
        let mut batches: Vec<RecordBatch> = (7..7 + records).map(|index| batch(index, 1)).collect();
        batches.push(RecordBatch::log_start(Offset(6 + records), LeaderEpoch(1), Offset(log_start), 1));
        let entry = |batch| EntryBody { term: 1, content: EntryContent::Batch(batch) };
        let entries: Vec<EntryBody> = batches.into_iter().map(entry).collect();
        let end = 6 + entries.len() as u64;
        copy.hear_raft(
            3,
            RaftBody {
                kind: RaftKind::Append,
                term: 1,
                index: 6,
                log_term: 1,
                commit: 6,
                entries,
                ..Default::default()
            },
        );
        copy.sync();
        copy.log_end() == end
    };
    assert!(is_taken(0, 1), "a move alone is always taken");
    assert!(is_taken(2, 6));
    assert!(!is_taken(4, 2));
}

/// A leader may not know what a copy holds, because an answer was lost, and send it again: that needs no room.
#[test]
fn what_a_full_disk_holds_already_is_acknowledged_again() {
    let mut copy = six_on_a_full_disk();
    let mut answers_to = |last: u64| {
        copy.sent.clear();
        copy.append(3, 1, (3, 1), last, 6);
        copy.sync();
        copy.sent_of(RaftKind::Appended).iter().filter_map(RaftBody::acknowledged).collect::<Vec<_>>()
    };
    assert_eq!(answers_to(6), [RaftIndex(6)]);
    assert_eq!(answers_to(7), [], "there is a new one among them");
}

/// Bytes that a move of the log start will remove make room for records once, also where two moves are under way.
#[test]
fn what_goes_with_a_move_of_the_log_start_is_counted_once() {
    let mut copy = six_on_a_full_disk();
    let hear = |copy: &mut Copy, after: u64, commit: u64| {
        let mut batches: Vec<RecordBatch> = (after + 1..after + 4).map(|index| batch(index, 1)).collect();
        batches.push(RecordBatch::log_start(Offset(after + 3), LeaderEpoch(1), Offset(6), 1));
        let entry = |batch| EntryBody { term: 1, content: EntryContent::Batch(batch) };
        let entries = batches.into_iter().map(entry).collect();
        let body = RaftBody {
            kind: RaftKind::Append,
            term: 1,
            index: after,
            log_term: 1,
            commit,
            entries,
            ..Default::default()
        };
        copy.hear_raft(3, body);
        copy.sync();
        copy.log_end()
    };
    assert_eq!(hear(&mut copy, 6, 6), 10);
    assert_eq!(hear(&mut copy, 10, 6), 10, "the same six records were to make room for both");
    assert_eq!(hear(&mut copy, 6, 6), 10, "what it has already may come again");
}

/// What was placed by an older pin is never appended, and needs no room. While it is not told so, its producer holds
/// everything else of the topic back.
#[test]
fn a_full_disk_holds_up_nobody_who_has_to_place_records_anew() {
    let config = Config { reserve_bytes: 1 << 20, ..config() };
    let settings = PartitionSettings { pin_epoch: PinEpoch(2), ..settings() };
    let mut copy = Copy::open_with(MemoryDisk::empty(), settings, config, 1 << 40);
    copy.sync();
    let term = copy.lead() as u64;
    copy.replicas.set_room(copy.now, 1 << 18);
    copy.produce_with(record(1), PinEpoch(2), Acks::Quorum);
    assert_eq!(copy.answers(), [Err(ProduceError::StorageFull)]);
    copy.produce_with(record(1), PinEpoch(1), Acks::Quorum);
    copy.confirm_round(term);
    assert_eq!(copy.answers(), [Err(ProduceError::StalePin { found: PinEpoch(1), current: PinEpoch(2) })]);
}

/// On a disk without room no entry is taken that would wait for a place in the log, not even a move of the log start:
/// the log writes in order, and a deletion, which makes room, would wait behind it.
#[test]
fn without_room_nothing_is_taken_that_finds_no_place_in_the_log() {
    let config = Config { reserve_bytes: 1 << 20, ..config() };
    let mut copy = Copy::open_with(MemoryDisk::empty(), settings(), config, 1 << 40);
    copy.append(3, 1, (0, 0), 6, 6);
    copy.sync();
    copy.replicas.set_room(copy.now, 0);
    copy.replicas.log_mut().disk_mut().room = Some(0);
    let hear = |copy: &mut Copy| {
        let after = copy.log_end();
        let batch = RecordBatch::log_start(Offset(after), LeaderEpoch(1), Offset(1), 1);
        let entries = vec![EntryBody { term: 1, content: EntryContent::Batch(batch) }];
        copy.hear_raft(
            3,
            RaftBody { kind: RaftKind::Append, term: 1, index: after, log_term: 1, entries, ..Default::default() },
        );
        copy.sync();
        copy.log_end() > after
    };
    let taken = (0..100).take_while(|_| hear(&mut copy)).count();
    assert!((5..90).contains(&taken), "{taken}");
    assert!(copy.replicas.log().is_idle(), "nothing waits in the log");
    copy.replicas.log_mut().disk_mut().room = None;
    copy.replicas.set_room(copy.now, 1 << 18);
    assert!(hear(&mut copy));
}
