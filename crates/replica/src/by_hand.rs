//! Rules of one copy among its neighbours, played by hand: the test says which message arrives, when the disk has
//! synced, and when a process ends. Each rule stands with the planted bug that breaks it.

use std::collections::VecDeque;

use thalweg_commit_log::{Config, Configuration, InstallEnd, MemoryDisk, ProducerTable};
use thalweg_model::{
    BatchBuilder, BrokerId, Bug, Codec, DirectoryId, LeaderEpoch, Offset, PinEpoch, ProducerEpoch, ProducerId,
    ProducerMark, RaftIndex, Record, RecordBatch, ReplicaId, Sequence, TopicId, TopicPartition, assert_finds,
};

use crate::Now;
use crate::group::{Acks, Ticket};
use crate::message::{CatchUp, CatchUpState, EntryBody, EntryContent, PeerBody, PeerMessage, RaftBody, RaftKind};
use crate::replicas::{Output, PartitionSettings, Replicas, TICK_MS, catch_up};

const NAME: TopicPartition = TopicPartition { topic: TopicId([3; 16]), partition: thalweg_model::PartitionId(0) };
fn copy(broker: u32) -> ReplicaId {
    ReplicaId::new(BrokerId(broker), 0)
}

fn settings() -> PartitionSettings {
    let voters: Vec<ReplicaId> = [1, 2, 3].map(copy).into();
    PartitionSettings {
        replica: copy(1),
        first_voters: voters.clone(),
        // Nobody is preferred, so that nobody stands for election unless a test lets time pass.
        target: [2, 3, 1].map(copy).into(),
        ..Default::default()
    }
}

fn config() -> Config {
    Config {
        wal_first_bytes: 64 << 10,
        wal_file_bytes: 64 << 10,
        flush_bytes: 1 << 20,
        tail_bytes: 1 << 20,
        reserve_bytes: 0,
        ballast_bytes: 0,
        kept_files: 0,
        ..Default::default()
    }
}

/// One record in a batch of an epoch, at its place.
fn batch(index: u64, epoch: u32) -> RecordBatch {
    let mut builder = BatchBuilder::new();
    builder.push(&Record { value: Some(vec![epoch as u8; 100].into()), timestamp_ms: 1, ..Default::default() });
    builder.build(Codec::None, None).with_position(Offset(index - 1), LeaderEpoch(epoch))
}

/// The copy on broker 1, of three.
struct Copy {
    replicas: Replicas<MemoryDisk>,
    now: Now,
    /// What it has sent, and nobody has looked at yet.
    sent: VecDeque<PeerMessage>,
    /// Other outputs.
    said: Vec<Output>,
}

impl Copy {
    fn new() -> Copy {
        Copy::open(MemoryDisk::empty(), settings())
    }

    fn open(disk: MemoryDisk, settings: PartitionSettings) -> Copy {
        Copy::open_with(disk, settings, config(), 1 << 40)
    }

    fn open_with(disk: MemoryDisk, settings: PartitionSettings, config: Config, free_bytes: u64) -> Copy {
        let now = Now { mono_ms: 1_000, wall_ms: 1_700_000_000_000 };
        let (mut replicas, _) = Replicas::open(disk, DirectoryId([9; 16]), config, 7).expect("the directory opens");
        replicas.set_room(now, free_bytes);
        replicas.start(now, NAME, settings);
        let mut copy = Copy { replicas, now, sent: VecDeque::new(), said: Vec::new() };
        copy.look();
        copy
    }

    /// The process ends, and starts again from what the disk holds.
    fn restart(&mut self) -> Copy {
        let settings = self.replicas.settings(&NAME).expect("it was started").clone();
        Copy::open(self.replicas.log_mut().disk_mut().image(), settings)
    }

    fn look(&mut self) {
        self.replicas.pump(self.now);
        for output in self.replicas.take_outputs() {
            match output {
                Output::Send(message) => self.sent.push_back(message),
                other => self.said.push(other),
            }
        }
    }

    /// The disk does one thing more. False when there is nothing to be done.
    fn disk(&mut self) -> bool {
        let done = self.replicas.log_mut().disk_mut().step_any();
        let has_done = done.is_some();
        done.into_iter().for_each(|done| self.replicas.complete(self.now, done));
        self.look();
        has_done
    }

    fn sync(&mut self) {
        while self.disk() {}
    }

    fn tick(&mut self) {
        self.now.mono_ms += TICK_MS;
        self.now.wall_ms += TICK_MS as i64;
        self.replicas.tick(self.now);
        self.look();
    }

    fn hear(&mut self, from: u32, body: PeerBody) {
        self.replicas.step(self.now, PeerMessage { group: NAME, from: copy(from), to: copy(1), body });
        self.look();
    }

    fn hear_raft(&mut self, from: u32, body: RaftBody) {
        self.hear(from, PeerBody::Raft(body));
    }

    /// Raft messages of a kind that it has sent since the last look.
    fn sent_of(&mut self, kind: RaftKind) -> Vec<RaftBody> {
        let of = |m: PeerMessage| match m.body {
            PeerBody::Raft(body) if body.kind == kind => Some(body),
            _ => None,
        };
        std::mem::take(&mut self.sent).into_iter().filter_map(of).collect()
    }

    /// A leader appends entries `from..=to` of its term; what is decided may go with it.
    fn append(&mut self, leader: u32, term: u32, after: (u64, u32), to: u64, commit: u64) {
        let entry = |index| EntryBody { term: term as u64, content: EntryContent::Batch(batch(index, term)) };
        let body = RaftBody {
            kind: RaftKind::Append,
            term: term as u64,
            index: after.0,
            log_term: after.1 as u64,
            commit,
            entries: (after.0 + 1..=to).map(entry).collect(),
            ..Default::default()
        };
        self.hear_raft(leader, body);
    }

    /// Lets time pass until it is the leader of a term, with the votes and acknowledgements of broker 2; answers with
    /// the term.
    fn lead(&mut self) -> u32 {
        for _ in 0..100 {
            self.tick();
            self.sync();
            for (asked, answer) in [(RaftKind::PreVote, RaftKind::PreVoted), (RaftKind::Vote, RaftKind::Voted)] {
                if let Some(body) = self.sent.iter().find_map(|m| match &m.body {
                    PeerBody::Raft(body) if body.kind == asked && m.to == copy(2) => Some(body.clone()),
                    _ => None,
                }) {
                    self.sent.clear();
                    self.hear_raft(2, RaftBody { kind: answer, term: body.term, ..Default::default() });
                    self.sync();
                }
            }
            if let Some(append) = self.sent_of(RaftKind::Append).last() {
                let index = append.index + append.entries.len() as u64;
                self.acknowledge(2, append.term, index);
                self.sync();
                assert!(self.replicas.state(&NAME).expect("it is there").is_serving);
                return append.term as u32;
            }
        }
        panic!("it never stands for election");
    }

    fn acknowledge(&mut self, from: u32, term: u64, index: u64) {
        self.hear_raft(from, RaftBody { kind: RaftKind::Appended, term, index, ..Default::default() });
    }

    fn log_end(&self) -> u64 {
        self.replicas.end(&NAME).map_or(0, |(_, index, _)| index.0)
    }

    fn produce(&mut self, mark: Option<ProducerMark>) -> Vec<Result<Offset, crate::ProduceError>> {
        let mut builder = BatchBuilder::new();
        builder.push(&Record { value: Some(vec![1; 10].into()), timestamp_ms: 1, ..Default::default() });
        let batch = builder.build(Codec::None, mark);
        self.replicas.produce(self.now, NAME, Ticket(1), batch, PinEpoch(0), Acks::Quorum);
        self.look();
        self.answers()
    }

    fn answers(&mut self) -> Vec<Result<Offset, crate::ProduceError>> {
        let of = |o| match o {
            Output::Produced(_, result) => Some(result),
            _ => None,
        };
        std::mem::take(&mut self.said).into_iter().filter_map(of).collect()
    }
}

fn asks_for_vote(kind: RaftKind, term: u64, last: (u64, u64)) -> RaftBody {
    RaftBody { kind, term, index: last.0, log_term: last.1, ..Default::default() }
}

/// Source: Raft §5.2, "each server will vote for at most one candidate in a given term", and figure 2: persistent state
/// is updated before responding.
fn a_vote_leaves_when_it_is_synced_and_is_given_once() {
    let mut copy = Copy::new();
    copy.sync();
    copy.hear_raft(2, asks_for_vote(RaftKind::Vote, 5, (0, 0)));
    assert_eq!(copy.sent_of(RaftKind::Voted), [], "the vote is not on the disk yet");
    copy.sync();
    let voted = copy.sent_of(RaftKind::Voted);
    assert!(voted.len() == 1 && !voted[0].reject, "{voted:?}");
    let mut copy = copy.restart();
    copy.sync();
    copy.hear_raft(3, asks_for_vote(RaftKind::Vote, 5, (0, 0)));
    copy.sync();
    assert!(copy.sent_of(RaftKind::Voted).iter().all(|v| v.reject), "it has voted for broker 2 in this term");
}

/// Source: Raft §5.4.1.
fn a_shorter_log_gets_no_vote() {
    let mut copy = Copy::new();
    copy.append(2, 4, (0, 0), 3, 3);
    copy.sync();
    copy.sent.clear();
    // What a leader says when it hands over: the vote is asked for at once, though a leader was heard just now.
    let at_once = |last| RaftBody { context: "CampaignTransfer".into(), ..asks_for_vote(RaftKind::Vote, 9, last) };
    copy.hear_raft(3, at_once((2, 4)));
    copy.sync();
    let voted = copy.sent_of(RaftKind::Voted);
    assert!(voted.len() == 1 && voted[0].reject, "{voted:?}");
    copy.hear_raft(2, at_once((3, 4)));
    copy.sync();
    let voted = copy.sent_of(RaftKind::Voted);
    assert!(voted.len() == 1 && !voted[0].reject, "{voted:?}");
}

/// Source: Raft figure 2.
fn an_entry_is_acknowledged_when_it_is_synced() {
    let mut copy = Copy::new();
    copy.sync();
    copy.append(2, 4, (0, 0), 3, 0);
    assert_eq!(copy.sent_of(RaftKind::Appended), []);
    copy.sync();
    assert_eq!(copy.sent_of(RaftKind::Appended).iter().map(|a| a.index).max(), Some(3));
}

fn a_message_for_the_copy_before_is_not_taken() {
    let mut copy = Copy::new();
    copy.sync();
    copy.sent.clear();
    let body = PeerBody::Raft(asks_for_vote(RaftKind::Vote, 5, (0, 0)));
    let to = ReplicaId::new(BrokerId(1), 1);
    copy.replicas.step(copy.now, PeerMessage { group: NAME, from: self::copy(2), to, body });
    copy.look();
    copy.sync();
    assert_eq!(copy.sent.len(), 0);
}

/// Source: Raft §5.3: what was acknowledged in an older term may have been replaced since.
fn an_acknowledgement_of_an_older_term_does_not_count() {
    let mut copy = Copy::new();
    // Somebody else was elected before.
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

/// Source: Raft figure 2, the consistency check, and §5.3, log matching. Seed 3010557: a disk came back with an end
/// that had been replaced since, and the leader went on from what the copy had acknowledged before.
fn a_heartbeat_decides_only_what_the_leader_has_there() {
    // What stands here: entries 1 to 6 of term 1, of which 1 and 2 are decided.
    let hear = |body: RaftBody| {
        let mut copy = Copy::new();
        copy.append(2, 1, (0, 0), 6, 2);
        copy.sync();
        copy.hear_raft(3, RaftBody { kind: RaftKind::Heartbeat, term: 2, ..body });
        copy.sync();
        let is_lost = copy.replicas.log().offline(&NAME).is_some();
        let decided = copy.replicas.log().decided_end(&NAME).expect("it is there").0.0;
        (is_lost, decided)
    };
    let told = |commit, commit_term| RaftBody { commit, commit_term, ..Default::default() };
    assert_eq!(hear(told(5, 1)), (false, 5));
    assert_eq!(hear(told(5, 2)), (true, 2), "the leader of term 2 has replaced it");
    assert_eq!(hear(told(7, 2)), (true, 2), "it is not here");
    assert_eq!(
        hear(told(2, 2)),
        (false, 2),
        "that two histories are decided only an append may say: both are kept then"
    );
    assert_eq!(hear(told(5, 0)), (false, 5), "a leader of an older version names no term");
    let acknowledged = |index| RaftBody { index, ..Default::default() };
    assert_eq!(hear(acknowledged(5)), (false, 2), "the leader knows no more which entry it was");
    assert_eq!(hear(acknowledged(7)), (true, 2));
}

/// A leader names the entry up to where a follower may take everything for decided, also when it went from memory. Of
/// one that is older than all that it remembers it says only that it was acknowledged.
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

/// A leader that was deposed knows less of a producer than its successor: it must not make the producer number anew
/// what stands there.
fn a_gap_is_told_after_the_quorum_has_confirmed_the_leader() {
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

/// Entries 1 to 6 of a first term, acknowledged, the first two known to be decided; its leader is gone.
fn with_entries() -> Copy {
    let mut copy = Copy::new();
    copy.append(2, 1, (0, 0), 6, 2);
    copy.sync();
    assert_eq!(copy.sent_of(RaftKind::Appended).iter().map(|a| a.index).max(), Some(6));
    copy
}

/// Members and producers of a rebuilding.
fn state() -> CatchUpState {
    let configuration = Configuration::of_voters([1, 2, 3].map(copy));
    CatchUpState::of(&InstallEnd { configuration, producers: ProducerTable::default() })
}

/// A new leader, broker 3 in term 2, holds nothing before `first`, and is about to bring entries up to 20.
fn offer_restart(copy: &mut Copy, first: u64) {
    copy.hear(3, PeerBody::CatchUp(CatchUp::Offer { term: LeaderEpoch(2) }));
    let until = Offset(20);
    let first = Some((Offset(first - 1), RaftIndex(first)));
    copy.hear(3, PeerBody::CatchUp(CatchUp::Restart { first, log_start: Offset(0), until, state: state() }));
}

fn bring(copy: &mut Copy, entries: std::ops::RangeInclusive<u64>, epoch: u32) {
    let index = RaftIndex(*entries.start());
    let batches = entries.map(|index| batch(index, epoch)).collect();
    copy.hear(3, PeerBody::CatchUp(CatchUp::Batches { index, batches }));
}

/// A copy that starts over from an entry of its own keeps what stands after it until all of the rebuilding is there:
/// the rest of it may have been acknowledged, and nobody else may hold it.
fn what_a_copy_has_acknowledged_stays_in_a_rebuilding() {
    let mut copy = with_entries();
    offer_restart(&mut copy, 4);
    bring(&mut copy, 4..=5, 1);
    copy.sync();
    let copy = copy.restart();
    assert_eq!(copy.log_end(), 6);
}

/// A copy was told to start over, and before the first part comes Raft brings it beyond the place where that begins.
#[test]
fn a_part_to_start_over_with_is_not_put_in_place_behind_what_raft_has_brought() {
    let mut copy = with_entries();
    offer_restart(&mut copy, 4);
    copy.append(3, 2, (6, 1), 8, 6);
    copy.sync();
    bring(&mut copy, 4..=6, 1);
    copy.sync();
    assert_eq!(copy.log_end(), 8);
    assert_eq!(copy.replicas.log().decided_end(&NAME), Some((Offset(6), RaftIndex(7))));
    let ends = copy.replicas.log().entries(&NAME).map(|(index, b)| (index.0, b.end_offset().0));
    assert_eq!(ends.last(), Some((8, 8)));
}

/// Rebuilt up to entry 32 of 40, from 31 on, when its leader goes.
fn half_rebuilt() -> Copy {
    let mut copy = with_entries();
    copy.hear(3, PeerBody::CatchUp(CatchUp::Offer { term: LeaderEpoch(2) }));
    let (first, until) = (Some((Offset(30), RaftIndex(31))), Offset(40));
    copy.hear(3, PeerBody::CatchUp(CatchUp::Restart { first, log_start: Offset(30), until, state: state() }));
    bring(&mut copy, 31..=32, 2);
    copy.sync();
    for _ in 0..2 * catch_up::PATIENCE_MS / TICK_MS {
        copy.tick();
    }
    copy.sync();
    copy
}

/// Source: Raft §5.4.1, as far as such a copy can tell.
fn a_half_rebuilt_copy_votes_for_no_shorter_log_than_its_own() {
    let mut copy = half_rebuilt();
    copy.sent.clear();
    copy.hear_raft(2, asks_for_vote(RaftKind::Vote, 9, (31, 2)));
    copy.sync();
    let voted = copy.sent_of(RaftKind::Voted);
    assert!(voted.len() == 1 && voted[0].reject, "{voted:?}");
    copy.hear_raft(2, asks_for_vote(RaftKind::Vote, 10, (32, 2)));
    copy.sync();
    let voted = copy.sent_of(RaftKind::Voted);
    assert!(voted.len() == 1 && !voted[0].reject, "{voted:?}");
}

fn a_half_rebuilt_copy_stands_for_no_election() {
    let mut copy = half_rebuilt();
    copy.sent.clear();
    for _ in 0..100 {
        copy.tick();
        copy.sync();
    }
    assert_eq!(copy.sent_of(RaftKind::PreVote), []);
    let mut copy = copy.restart();
    for _ in 0..100 {
        copy.tick();
        copy.sync();
    }
    assert_eq!(copy.sent_of(RaftKind::PreVote), []);
}

/// What raft-rs wanted synced before it was ended says nothing of the one that is started after it.
fn writes_of_the_raft_before_do_not_count_for_the_one_after() {
    let mut copy = with_entries();
    // Two more, not synced, when the leader of a later term brings decided ones in their place.
    copy.append(2, 1, (6, 1), 8, 6);
    copy.hear(3, PeerBody::CatchUp(CatchUp::Offer { term: LeaderEpoch(2) }));
    bring(&mut copy, 7..=7, 2);
    copy.sent.clear();
    copy.sync();
    let acknowledged = copy.sent_of(RaftKind::Appended);
    assert!(acknowledged.iter().all(|a| a.term != 1), "{acknowledged:?}");
}

/// What is announced after a rebuilding is what is on the disk.
fn an_announced_end_is_synced() {
    let mut copy = with_entries();
    copy.hear(3, PeerBody::CatchUp(CatchUp::Offer { term: LeaderEpoch(2) }));
    copy.append(3, 2, (6, 1), 8, 6);
    copy.sent.clear();
    copy.hear(3, PeerBody::CatchUp(CatchUp::Done));
    let acknowledged = copy.sent_of(RaftKind::Appended);
    assert!(acknowledged.iter().all(|a| a.index <= 6), "{acknowledged:?}");
}

/// Where a disk has forgotten its vote, a term may have had two leaders: equal terms do not make two histories one.
#[test]
fn a_leader_tells_who_has_other_offsets_at_the_same_entries() {
    let mut copy = Copy::new();
    copy.sync();
    let term = copy.lead();
    copy.produce(None);
    copy.sync();
    let last = copy.log_end();
    copy.acknowledge(2, term as u64, last);
    let decided = copy.replicas.state(&NAME).expect("it leads").high_watermark.0;
    let mut answers_to = |from: u64, index: u64| {
        copy.sent.clear();
        let (from, index, after) = (Offset(from), RaftIndex(index), Some(LeaderEpoch(term)));
        let request =
            PeerBody::CatchUpRequest { term: LeaderEpoch(term), from, index, after, until: None, wants_state: false };
        copy.hear(2, request);
        let is_conflict = |m: &PeerMessage| m.body == PeerBody::CatchUp(CatchUp::Conflict);
        (copy.sent.len(), copy.sent.iter().any(is_conflict))
    };
    assert_eq!(answers_to(decided - 1, last), (1, false));
    assert_eq!(answers_to(decided, last + 1), (1, false));
    // As many entries as the leader, or fewer, and more records.
    assert_eq!(answers_to(decided, last), (1, true));
    assert_eq!(answers_to(decided + 100, last), (1, true));
    // More entries, and fewer records.
    assert_eq!(answers_to(decided - 1, last + 1), (1, true));
}

/// Whoever stops another broker wants to know before whether the copies elsewhere count.
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
    // The broker comes with another disk: its copy there is another one, which is no member yet, though the old one was
    // heard of just now.
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

/// While a copy is replaced, the one before is needed for a majority; a follower goes by the change only once it knows
/// that it is decided.
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
        copy.replicas.step(copy.now, PeerMessage { group: NAME, from, to: self::copy(1), body: PeerBody::Raft(body) });
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

/// What a leader knows of a copy takes it out of service for good, also while that leader's successor is asked for what
/// the copy lacks. (It ran again once nobody had answered for a while, and gave its vote.)
#[test]
fn a_copy_that_has_forgotten_something_stays_out_of_service_though_it_was_catching_up() {
    let mut copy = with_entries();
    copy.hear(3, PeerBody::CatchUp(CatchUp::Offer { term: LeaderEpoch(2) }));
    copy.hear_raft(3, RaftBody { kind: RaftKind::Heartbeat, term: 2, index: 9, ..Default::default() });
    assert!(copy.replicas.log().offline(&NAME).is_some(), "it has acknowledged entry 9, the leader says");
    for _ in 0..2 * catch_up::PATIENCE_MS / TICK_MS {
        copy.tick();
        copy.sync();
    }
    assert_eq!(copy.replicas.state(&NAME), None);
    copy.sent.clear();
    copy.hear_raft(2, asks_for_vote(RaftKind::Vote, 9, (20, 2)));
    copy.sync();
    assert_eq!(copy.sent_of(RaftKind::Voted), []);
}

/// An operator says that the majority is lost for ever: all that this copy holds counts as decided.
fn who_goes_on_alone_keeps_all_that_it_holds() {
    let mut copy = with_entries();
    let mut alone = settings();
    (alone.takes_over, alone.replica) = (Some(self::copy(1)), self::copy(1).successor());
    alone.target = vec![alone.replica];
    copy.replicas.configure(copy.now, NAME, alone);
    for _ in 0..50 {
        copy.tick();
        copy.sync();
    }
    let state = copy.replicas.state(&NAME).expect("it is there");
    assert!(state.is_serving && state.high_watermark >= Offset(6), "{state:?}");
    let thalweg_commit_log::ReadOutcome::Batches(batches) = copy.replicas.read(&NAME, Offset(0), 1 << 20) else {
        panic!("they are in memory");
    };
    assert_eq!(batches[..6], (1..=6).map(|index| batch(index, 1)).collect::<Vec<_>>()[..]);
}

/// Two leaders of one term, because a disk forgot that it had voted, have written different entries under the same
/// index.
#[test]
fn a_leader_whose_entries_follow_on_others_of_the_same_term_has_another_history() {
    // By index: what the leader of a later term holds there, of term 1; at the offset of the one that it stands for.
    let diverges = |after: u64, entries: &[(u64, u64)]| {
        let mut copy = with_entries();
        let entry = |(of, at): &(u64, u64)| {
            let batch = batch(*of, 1).with_position(Offset(*at), LeaderEpoch(1));
            EntryBody { term: 1, content: EntryContent::Batch(batch) }
        };
        let entries = entries.iter().map(entry).collect();
        copy.hear_raft(
            3,
            RaftBody { kind: RaftKind::Append, term: 2, index: after, log_term: 1, entries, ..Default::default() },
        );
        copy.sync();
        copy.said.iter().any(|o| matches!(o, Output::Diverged(..)))
    };
    assert!(!diverges(6, &[(7, 6), (8, 7)]), "it goes on where this one ends");
    assert!(!diverges(3, &[(4, 3), (5, 4), (6, 5), (7, 6)]), "it says again what is here");
    assert!(diverges(6, &[(7, 9)]), "there are more records before it than here");
    assert!(diverges(3, &[(4, 3), (5, 5)]), "the same, behind one that is the same");
    let other = |copy: &mut Copy| {
        let mut builder = BatchBuilder::new();
        builder.push(&Record { value: Some(vec![9; 100].into()), timestamp_ms: 1, ..Default::default() });
        let batch = builder.build(Codec::None, None).with_position(Offset(4), LeaderEpoch(1));
        let entries = vec![EntryBody { term: 1, content: EntryContent::Batch(batch) }];
        copy.hear_raft(
            3,
            RaftBody { kind: RaftKind::Append, term: 2, index: 4, log_term: 1, entries, ..Default::default() },
        );
        copy.said.iter().any(|o| matches!(o, Output::Diverged(..)))
    };
    assert!(other(&mut with_entries()), "other records in the same place");
}

/// Where only the ballast has left room, a copy goes on with Raft until a part of what it lacks gets to segments:
/// without it, the copy would neither vote nor acknowledge for as long as the disk is full. The one without which nothing could
/// be deleted does not wait for room.
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
        let is_in_segments = copy.replicas.log().segments_end(&NAME).is_some_and(|end| end.index == RaftIndex(2));
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

/// Two moves of the log start under way at once are not each taken with as many records as will go with either.
#[test]
fn what_goes_with_a_move_of_the_log_start_is_counted_once() {
    let config = Config { reserve_bytes: 1 << 20, ..config() };
    let mut copy = Copy::open_with(MemoryDisk::empty(), settings(), config, 1 << 40);
    copy.append(3, 1, (0, 0), 6, 6);
    copy.sync();
    copy.replicas.set_room(copy.now, 1 << 18);
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

/// The log writes in order: on a disk without room nothing is taken into it that would wait there, not even a move of
/// the log start, or the deletion that makes room would wait behind it.
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

macro_rules! rules {
    ($($rule:ident: $($bug:ident)+;)+) => {
        mod rules {
            $(#[test]
            fn $rule() {
                super::$rule();
            })+
        }

        #[test]
        fn planted_bugs_show() {
            $($(assert_finds(Bug::$bug, $rule);)+)+
        }
    };
}

rules! {
    a_vote_leaves_when_it_is_synced_and_is_given_once: VoteNotPersisted VoteNotAwaited;
    a_shorter_log_gets_no_vote: VoteForShorterLog;
    an_entry_is_acknowledged_when_it_is_synced: AnswersBeforeFsync;
    a_message_for_the_copy_before_is_not_taken: ReplicaIdIgnored;
    an_acknowledgement_of_an_older_term_does_not_count: StaleAckCounted;
    a_heartbeat_decides_only_what_the_leader_has_there: HeartbeatNotCompared;
    a_gap_is_told_after_the_quorum_has_confirmed_the_leader: GapNotConfirmed;
    what_a_copy_has_acknowledged_stays_in_a_rebuilding: OwnNotKept;
    a_half_rebuilt_copy_votes_for_no_shorter_log_than_its_own: IncompleteVotesForShorter;
    a_half_rebuilt_copy_stands_for_no_election: IncompleteAwake;
    writes_of_the_raft_before_do_not_count_for_the_one_after: SleepersWritesCount;
    an_announced_end_is_synced: UnsyncedAnnounced;
    who_goes_on_alone_keeps_all_that_it_holds: TakeOverDropsTail;
}
