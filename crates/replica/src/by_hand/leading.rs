//! Rules of a leader: what it tells clients and readers, and when. Votes and rebuilding are left to the other files.

use thalweg_commit_log::ReadOutcome;

use super::*;
use crate::ProduceError;
use crate::group::election::QUORUM_TICKS;

/// One batch of one record of so many bytes.
pub(super) fn record(bytes: usize) -> RecordBatch {
    let mut builder = BatchBuilder::new();
    builder.push(&Record { value: Some(vec![2; bytes].into()), timestamp_ms: 1, ..Default::default() });
    builder.build(Codec::None, None)
}

/// The mark of the one producer's batch that begins with this sequence number.
fn mark(sequence: u32) -> Option<ProducerMark> {
    Some(ProducerMark { id: ProducerId(5), epoch: ProducerEpoch(0), base_sequence: Sequence(sequence as i32) })
}

/// A copy that leads with the votes of broker 2, and its term.
fn leader() -> (Copy, u64) {
    leader_of(settings())
}

fn leader_of(settings: PartitionSettings) -> (Copy, u64) {
    let mut copy = Copy::open(MemoryDisk::empty(), settings);
    copy.sync();
    let term = copy.lead() as u64;
    (copy, term)
}

/// Syncs all entries of the leader, and has broker 2 acknowledge them.
fn decide(copy: &mut Copy, term: u64) {
    copy.sync();
    let last = copy.log_end();
    copy.acknowledge(2, term, last);
}

/// Has another leader, of the next term, put an entry of its own in the place of the copy's last one.
fn replace_last(copy: &mut Copy, term: u64) {
    let last = copy.log_end();
    copy.append(3, term as u32 + 1, (last - 1, term as u32), last, last);
    copy.sync();
    assert_eq!(copy.answers(), [Err(ProduceError::NotLeader { leader: Some(BrokerId(3)) })]);
    copy.sent.clear();
}

/// Source: Raft §5.3, a majority has stored it; Kafka, `acks=all`.
pub(super) fn an_answer_follows_the_fsyncs_of_a_majority() {
    let (mut copy, term) = leader();
    assert_eq!(copy.produce(None), []);
    let last = copy.log_end();
    copy.acknowledge(2, term, last);
    assert_eq!(copy.answers(), [], "one of three has it on disk");
    copy.sync();
    assert_eq!(copy.answers(), [Ok(Offset(last - 1))]);
}

/// The leader's own disk may be one of the majority, and need not be.
#[test]
fn two_followers_are_a_majority_without_their_leaders_disk() {
    let (mut copy, term) = leader();
    assert_eq!(copy.produce(None), []);
    let last = copy.log_end();
    copy.acknowledge(2, term, last);
    copy.acknowledge(3, term, last);
    assert_eq!(copy.answers().len(), 0, "raft-rs applies what is on this disk");
    assert_eq!(copy.sent_of(RaftKind::Append).iter().map(|a| a.commit).max(), Some(last), "the others need not wait");
    copy.sync();
    assert_eq!(copy.answers(), [Ok(Offset(last - 1))]);
}

#[test]
fn acks_say_when_a_batch_is_answered() {
    let (mut copy, _) = leader();
    let end = copy.log_end();
    copy.produce_with(record(10), PinEpoch(0), Acks::Leader);
    assert_eq!(copy.answers(), [Ok(Offset(end))], "appended, and not synced");
    copy.produce_with(record(10), PinEpoch(0), Acks::None);
    assert_eq!(copy.log_end(), end + 2);
    copy.sync();
    assert_eq!(copy.answers(), []);
}

/// Source: Raft §5.3.
pub(super) fn the_high_watermark_waits_for_a_majority_of_all_voters() {
    let voters: Vec<ReplicaId> = [1, 2, 3, 4, 5].map(self::copy).into();
    let settings =
        PartitionSettings { first_voters: voters, target: [2, 3, 4, 5, 1].map(self::copy).into(), ..settings() };
    let mut copy = Copy::open(MemoryDisk::empty(), settings);
    copy.sync();
    let term = copy.lead_with(&[2, 3]) as u64;
    assert_eq!(copy.produce(None), []);
    copy.sync();
    let last = copy.log_end();
    copy.acknowledge(2, term, last);
    copy.acknowledge(2, term, last);
    assert_eq!((copy.answers(), copy.high_watermark()), (vec![], last - 1), "two of five");
    copy.acknowledge(3, term, last);
    assert_eq!((copy.answers().len(), copy.high_watermark()), (1, last));
}

/// Source: Raft §5.4.2 and §8. By another copy's word a leader knows that entries of an older term are decided. Whether
/// others behind them are, it knows only once an entry of its own term is.
pub(super) fn a_leader_serves_only_once_an_entry_of_its_own_term_is_decided() {
    let mut copy = with_entries();
    copy.hear_raft(2, RaftBody { kind: RaftKind::TimeoutNow, term: 1, ..Default::default() });
    copy.sync();
    copy.hear_raft(3, RaftBody { kind: RaftKind::Voted, term: 2, ..Default::default() });
    copy.sync();
    let (term, from, index) = (LeaderEpoch(2), Offset(4), RaftIndex(5));
    copy.hear(2, PeerBody::CatchUpRequest { term, from, index, after: None, until: None, wants_state: true });
    let state = copy.replicas.state(&NAME).expect("it runs");
    assert_eq!((state.leader, state.high_watermark), (Some(self::copy(1)), Offset(4)));
    assert!(!state.is_serving);
    assert!(matches!(copy.produce(None)[..], [Err(ProduceError::NotLeader { .. })]));
    copy.acknowledge(3, 2, 7);
    let state = copy.replicas.state(&NAME).expect("it runs");
    assert_eq!((state.is_serving, state.high_watermark), (true, Offset(7)));
}

/// "No reader sees a record that could still be lost."
pub(super) fn readers_stop_at_the_high_watermark() {
    let (mut copy, term) = leader();
    let end = copy.high_watermark();
    copy.produce(None);
    copy.sync();
    let is_at_end = |copy: &mut Copy| matches!(copy.replicas.read(&NAME, Offset(end), 1 << 20), ReadOutcome::AtEnd);
    assert!(is_at_end(&mut copy));
    decide(&mut copy, term);
    assert!(!is_at_end(&mut copy));
}

/// Source: Raft §8, "read index".
pub(super) fn latest_is_told_after_the_quorum_has_confirmed_the_leader() {
    let (mut copy, term) = leader();
    copy.sent.clear();
    copy.replicas.confirm(copy.now, NAME, Ticket::Shell(2));
    copy.look();
    let confirmed =
        |copy: &Copy| copy.said.iter().any(|o| matches!(o, Output::Confirmed(Ticket::Shell(2), Ok(Offset(1)))));
    assert!(!confirmed(&copy));
    copy.confirm_round(term);
    assert!(confirmed(&copy));
}

/// Source: KIP-98. A duplicate is answered when its original is, once the quorum has that.
pub(super) fn a_duplicate_is_answered_with_its_original() {
    let (mut copy, term) = leader();
    let end = copy.log_end();
    assert_eq!(copy.produce(mark(0)), []);
    assert_eq!(copy.produce(None), []);
    assert_eq!(copy.produce(mark(0)), []);
    assert_eq!(copy.log_end(), end + 2, "it is appended once");
    decide(&mut copy, term);
    assert_eq!(copy.answers(), [Ok(Offset(end)), Ok(Offset(end)), Ok(Offset(end + 1))]);
    assert_eq!(copy.produce(mark(0)), [Ok(Offset(end))]);
}

/// Two processes under one producer id: the second one's records must not count as written.
pub(super) fn other_records_under_a_number_that_is_taken_are_refused() {
    let (mut copy, term) = leader();
    let end = copy.log_end();
    copy.produce(mark(0));
    decide(&mut copy, term);
    copy.answers();
    copy.sent.clear();
    let mut builder = BatchBuilder::new();
    builder.push(&Record { value: Some("another".into()), timestamp_ms: 1, ..Default::default() });
    copy.produce_with(builder.build(Codec::None, mark(0)), PinEpoch(0), Acks::Quorum);
    assert_eq!(copy.answers(), []);
    copy.confirm_round(term);
    let taken = ProduceError::SequenceTaken { sequence: Sequence(0), offset: Offset(end) };
    assert_eq!(copy.answers(), [Err(taken)]);
}

/// The partitioner is a property of the topic: a batch that was placed with another one may be in the wrong partition.
pub(super) fn a_batch_that_was_placed_with_an_older_partitioner_is_refused() {
    let (mut copy, term) = leader_of(PartitionSettings { pin_epoch: PinEpoch(2), ..settings() });
    let end = copy.log_end();
    copy.sent.clear();
    copy.produce_with(record(1), PinEpoch(1), Acks::Quorum);
    assert_eq!(copy.answers(), [], "the producer will place its records anew: the quorum is asked first");
    copy.confirm_round(term);
    assert_eq!(copy.answers(), [Err(ProduceError::StalePin { found: PinEpoch(1), current: PinEpoch(2) })]);
    copy.produce_with(record(1), PinEpoch(3), Acks::Quorum);
    assert_eq!(copy.answers(), [Err(ProduceError::PinUnknown { found: PinEpoch(3), current: PinEpoch(2) })]);
    assert_eq!(copy.log_end(), end);
}

/// A batch in an entry that another leader has replaced was not written: the same batch is no duplicate then.
pub(super) fn a_batch_that_another_leader_has_replaced_is_no_duplicate() {
    let (mut copy, term) = leader();
    assert_eq!(copy.produce(mark(0)), []);
    copy.sync();
    replace_last(&mut copy, term);
    let term = copy.lead() as u64;
    let end = copy.log_end();
    assert_eq!(copy.produce(mark(0)), []);
    assert_eq!(copy.log_end(), end + 1);
    decide(&mut copy, term);
    assert_eq!(copy.answers(), [Ok(Offset(end))]);
}

/// Entries that a start finds in the log may be replaced as well: a batch in one that was is no duplicate.
pub(super) fn a_batch_that_was_replaced_after_a_start_is_no_duplicate() {
    let (mut copy, term) = leader();
    assert_eq!(copy.produce(mark(0)), []);
    copy.sync();
    let mut copy = copy.restart();
    copy.sync();
    let last = copy.log_end();
    copy.append(3, term as u32 + 1, (last - 1, term as u32), last, last);
    copy.sync();
    copy.lead();
    let end = copy.log_end();
    assert_eq!(copy.produce(mark(0)), []);
    assert_eq!(copy.log_end(), end + 1);
}

/// Source: KIP-98: sequences follow the log, so a new leader knows what the one before has appended.
#[test]
fn a_new_leader_knows_the_duplicates_of_the_one_before() {
    let mut copy = Copy::new();
    let mut builder = BatchBuilder::new();
    builder.push(&Record { value: Some(vec![1; 10].into()), timestamp_ms: 1, ..Default::default() });
    let batch = builder.build(Codec::None, mark(0)).with_position(Offset(0), LeaderEpoch(1));
    let entries = vec![EntryBody { term: 1, content: EntryContent::Batch(batch) }];
    copy.hear_raft(2, RaftBody { kind: RaftKind::Append, term: 1, entries, ..Default::default() });
    copy.sync();
    copy.lead();
    assert_eq!(copy.produce(mark(0)), [Ok(Offset(0))]);
}

/// A deposed leader's high watermark stays where it was, though its log gets shorter.
#[test]
fn the_high_watermark_never_moves_back() {
    let (mut copy, term) = leader();
    copy.produce(None);
    decide(&mut copy, term);
    let decided = copy.high_watermark();
    copy.answers();
    copy.produce(None);
    copy.produce(None);
    copy.sync();
    copy.append(3, term as u32 + 1, (decided, term as u32), decided + 1, 0);
    copy.sync();
    assert_eq!((copy.log_end(), copy.high_watermark()), (decided + 1, decided));
    // A late message of the former leader, which knew of fewer decided entries.
    copy.hear_raft(3, RaftBody { kind: RaftKind::Heartbeat, term: term + 1, ..Default::default() });
    assert_eq!(copy.high_watermark(), decided);
}

/// A deposed leader answers its requests with "not the leader": their entries may be decided all the same.
#[test]
fn a_leader_that_hears_nobody_steps_down_and_answers_what_waits() {
    let (mut copy, _) = leader();
    assert_eq!(copy.produce(None), []);
    copy.replicas.confirm(copy.now, NAME, Ticket::Shell(2));
    for _ in 0..3 * QUORUM_TICKS {
        copy.tick();
    }
    let refused = |o: &Output| matches!(o, Output::Confirmed(Ticket::Shell(2), Err(ProduceError::NotLeader { .. })));
    assert!(copy.said.iter().any(refused));
    assert!(matches!(copy.answers()[..], [Err(ProduceError::NotLeader { .. })]));
    assert!(copy.replicas.state(&NAME).is_some_and(|s| !s.is_serving && s.leader.is_none()));
}

/// A copy that catches up sends nothing else. If the leader stepped down, it could not be elected again without that
/// copy's vote, which gives none while it catches up.
#[test]
fn a_leader_leads_on_while_it_is_asked_by_who_catches_up() {
    let (mut copy, term) = leader();
    for _ in 0..3 * QUORUM_TICKS {
        let term = LeaderEpoch(term as u32);
        let (from, index, after, until) = (Offset(0), RaftIndex(1), None, None);
        copy.hear(2, PeerBody::CatchUpRequest { term, from, index, after, until, wants_state: false });
        copy.tick();
    }
    assert!(copy.replicas.state(&NAME).is_some_and(|s| s.is_serving));
}

#[test]
fn only_a_leader_proposes() {
    let mut copy = with_entries();
    assert_eq!(copy.produce(None), [Err(ProduceError::NotLeader { leader: Some(BrokerId(2)) })]);
    assert_eq!(copy.log_end(), 6);
    assert!(
        copy.sent.iter().all(|m| !matches!(&m.body, PeerBody::Raft(body) if !body.entries.is_empty())),
        "forwarded"
    );
}

/// raft-rs has kinds of messages that a replica sends to itself, proposals among them. A peer's message of such a kind
/// is ignored.
#[test]
fn what_is_no_message_between_replicas_means_nothing() {
    let mut copy = with_entries();
    let (state, end) = (copy.replicas.state(&NAME), copy.log_end());
    for number in 0..=u8::MAX {
        let kind = RaftKind::from_number(number);
        if matches!(kind, RaftKind::Other(_)) {
            let entries = vec![EntryBody { term: 1, content: EntryContent::Batch(batch(7, 1)) }];
            copy.hear_raft(
                2,
                RaftBody { kind, term: 1, index: 6, log_term: 1, commit: 6, entries, ..Default::default() },
            );
        }
    }
    assert_eq!((copy.replicas.state(&NAME), copy.log_end(), copy.sent.len()), (state, end, 0));
}

/// Source: Raft §10.2.1 of the dissertation, writing to the leader's disk in parallel. The bytes are one buffer.
#[test]
fn an_entry_leaves_its_leader_at_once_and_is_not_copied() {
    let (mut copy, _) = leader();
    copy.sent.clear();
    copy.produce(None);
    let sent = copy.sent_of(RaftKind::Append);
    let batch = |e: &EntryBody| if let EntryContent::Batch(batch) = &e.content { Some(batch.clone()) } else { None };
    let sent = sent.iter().flat_map(|body| &body.entries).find_map(batch).expect("it is sent at once");
    let (_, stored) = copy.log().entries().last().expect("it is in the log");
    assert_eq!(sent.bytes().as_ptr(), stored.bytes().as_ptr());
}

/// A leader whose log takes large batches.
fn leader_of_large_batches() -> Copy {
    let config = Config { wal_first_bytes: 4 << 20, wal_file_bytes: 4 << 20, ..config() };
    let mut copy = Copy::open_with(MemoryDisk::empty(), settings(), config, 1 << 40);
    copy.sync();
    copy.lead();
    copy
}

/// Entries on their way to a follower that does not answer are bounded, because they are held in memory: 32 messages of
/// at most 256 KiB.
#[test]
fn a_slow_follower_costs_no_more_than_is_bounded() {
    let mut copy = leader_of_large_batches();
    copy.sent.clear();
    (0..120).for_each(|_| copy.produce_with(record(100 << 10), PinEpoch(0), Acks::Quorum));
    let to_2 = std::mem::take(&mut copy.sent).into_iter().filter(|m| m.to == self::copy(2));
    let bytes: usize = to_2.map(|m| m.batch_bytes()).sum();
    assert!((1 << 20..9 << 20).contains(&bytes), "{bytes}");
}

/// The entries of a group without a quorum are bounded, because they are held in memory.
#[test]
fn no_more_waits_for_a_quorum_than_is_bounded() {
    let mut copy = leader_of_large_batches();
    for _ in 0..20 {
        copy.produce_with(record(1 << 20), PinEpoch(0), Acks::Quorum);
    }
    let answers = copy.answers();
    assert!(answers.len() >= 4 && answers.iter().all(|a| *a == Err(ProduceError::Backlog)), "{answers:?}");
}

/// Before a clean stop leadership goes to the voter that lacks fewest entries, and no batch is taken meanwhile.
#[test]
fn a_leader_hands_over_before_it_stops() {
    let (mut copy, _) = leader();
    copy.replicas.transfer_all(copy.now);
    copy.look();
    let asked = copy.sent.iter().filter(|m| matches!(&m.body, PeerBody::Raft(b) if b.kind == RaftKind::TimeoutNow));
    assert_eq!(asked.map(|m| m.to).collect::<Vec<_>>(), [self::copy(2)]);
    assert!(matches!(copy.produce(None)[..], [Err(ProduceError::NotLeader { .. })]));
}

/// Source: Raft §5.3: what was acknowledged in an older term may have been replaced since.
pub(super) fn an_acknowledgement_of_an_older_term_does_not_count() {
    let mut copy = Copy::new();
    // Another replica was elected in between.
    copy.hear_raft(2, asks_for_vote(RaftKind::Vote, 5, (0, 0)));
    copy.sync();
    let term = copy.lead() as u64;
    assert_eq!(copy.produce(None), []);
    copy.sync();
    let last = copy.log_end();
    copy.acknowledge(3, term - 1, last);
    assert_eq!(copy.answers(), []);
    copy.acknowledge(3, term, last);
    assert_eq!(copy.answers().len(), 1);
}

/// A leader's heartbeat names the term of the entry up to which all is decided, also when that entry is not in memory
/// any more. Of an entry whose term it does not remember, it says only that the follower has acknowledged it.
#[test]
fn a_heartbeat_names_the_term_of_what_it_decides() {
    let mut copy = Copy::new();
    copy.append(2, 1, (0, 0), 6, 6);
    copy.sync();
    copy.replicas.flush_all(copy.now);
    copy.sync();
    let disk = copy.replicas.log_mut().disk_mut().image();
    let mut copy = Copy::open_with(disk, settings(), Config { kept_bytes: 1 << 10, ..config() }, 1 << 40);
    copy.sync();
    let term = copy.lead() as u64;
    let beat = |copy: &mut Copy| {
        copy.sent.clear();
        (0..3).for_each(|_| copy.tick());
        let of_3 = |m: &PeerMessage| match &m.body {
            PeerBody::Raft(body) if m.to == self::copy(3) && body.kind == RaftKind::Heartbeat => Some(body.clone()),
            _ => None,
        };
        let body = copy.sent.iter().find_map(of_3).expect("a leader is heard");
        (body.index, body.commit, body.commit_term)
    };
    assert_eq!(beat(&mut copy), (0, 0, 0), "it has acknowledged nothing");
    copy.acknowledge(3, term, 5);
    assert_eq!(beat(&mut copy), (5, 0, 0), "the copy has started with 6 entries in segments");
    copy.acknowledge(3, term, 6);
    assert_eq!(beat(&mut copy), (0, 6, 1));
    copy.acknowledge(3, term, 7);
    assert_eq!(beat(&mut copy), (0, 7, term));
    for _ in 0..500 {
        copy.produce(None);
        copy.sync();
        let last = copy.log_end();
        copy.acknowledge(2, term, last);
    }
    assert_eq!(beat(&mut copy), (0, 7, term), "none of the first entries is in memory any more");
}

/// A leader that was deposed knows fewer batches of a producer than its successor: it must not make the producer number
/// those anew which stand in the successor's log.
pub(super) fn a_gap_is_told_after_the_quorum_has_confirmed_the_leader() {
    let mut copy = Copy::new();
    copy.sync();
    let term = copy.lead() as u64;
    let mark =
        |sequence| ProducerMark { id: ProducerId(5), epoch: ProducerEpoch(0), base_sequence: Sequence(sequence) };
    copy.produce(Some(mark(0)));
    copy.sync();
    let last = copy.log_end();
    copy.acknowledge(2, term, last);
    assert_eq!(copy.answers().len(), 1);
    copy.sent.clear();
    assert_eq!(copy.produce(Some(mark(7))), [], "nobody has confirmed yet that it leads");
    let asked = copy.sent_of(RaftKind::Heartbeat).pop().expect("it asks");
    let answer =
        RaftBody { kind: RaftKind::HeartbeatAnswer, term, context: asked.context.clone(), ..Default::default() };
    copy.hear_raft(2, answer);
    assert!(matches!(copy.answers()[..], [Err(crate::ProduceError::OutOfOrder { .. })]));
}

/// Before another broker is stopped, a leader can tell which brokers' copies do not count at the moment.
#[test]
fn a_leader_names_the_brokers_whose_copies_do_not_count_yet() {
    let brokers = |copy: &Copy| copy.replicas.behind(&NAME).iter().map(|b| b.0).collect::<Vec<_>>();
    let mut copy = Copy::new();
    copy.sync();
    assert_eq!(brokers(&copy), [], "it does not lead");
    let term = copy.lead() as u64;
    assert_eq!(brokers(&copy), [3], "not a word of it yet");
    let last = copy.log_end();
    copy.acknowledge(3, term, last);
    assert_eq!(brokers(&copy), []);
    // The broker comes with another disk: its copy there has another id and is no member yet, although messages of the
    // old one came just now.
    let mut settings = copy.replicas.settings(&NAME).expect("it was started").clone();
    settings.target[1] = self::copy(3).successor();
    copy.replicas.configure(copy.now, NAME, settings);
    copy.look();
    assert_eq!(brokers(&copy), [3]);
    for _ in 0..=crate::group::ACTIVE_TICKS {
        copy.acknowledge(3, term, last);
        copy.tick();
    }
    assert_eq!(brokers(&copy), [2, 3], "the second is silent");
}

/// While a copy is replaced, the old one counts for the majority, too; a follower goes by the change only once it knows
/// that the change is decided.
#[test]
fn a_replaced_copy_counts_when_the_one_before_is_not_needed_and_all_know_it() {
    let mut copy = Copy::new();
    copy.sync();
    let term = copy.lead() as u64;
    let fresh = self::copy(3).successor();
    let mut settings = copy.replicas.settings(&NAME).expect("it was started").clone();
    settings.target[1] = fresh;
    copy.replicas.configure(copy.now, NAME, settings);
    let acknowledge = |copy: &mut Copy, from: ReplicaId, commit: u64| {
        let body = RaftBody { kind: RaftKind::Appended, term, index: copy.log_end(), commit, ..Default::default() };
        copy.replicas
            .step(copy.now, PeerMessage { partition: NAME, from, to: self::copy(1), body: PeerBody::Raft(body) });
        copy.look();
        copy.sync();
    };
    let members = |copy: &Copy| copy.replicas.members(&NAME).expect("it runs");
    let mut was_joint = false;
    while !members(&copy).voters.contains(&fresh) || !members(&copy).voters_outgoing.is_empty() {
        was_joint |= !members(&copy).voters_outgoing.is_empty();
        assert!(copy.replicas.behind(&NAME).contains(&BrokerId(3)), "{:?}", members(&copy));
        assert!(copy.now.mono_ms < 20_000, "it is never replaced: {:?}", members(&copy));
        copy.tick();
        copy.sync();
        acknowledge(&mut copy, self::copy(2), 0);
        acknowledge(&mut copy, fresh, 0);
    }
    assert!(was_joint, "the change goes by way of both majorities");
    let decided = copy.log_end();
    assert_eq!(copy.replicas.behind(&NAME), [2, 3].map(BrokerId), "nobody has said so yet");
    acknowledge(&mut copy, self::copy(2), decided);
    acknowledge(&mut copy, fresh, decided - 1);
    assert_eq!(copy.replicas.behind(&NAME), [BrokerId(3)]);
    acknowledge(&mut copy, fresh, decided);
    assert_eq!(copy.replicas.behind(&NAME), []);
}
