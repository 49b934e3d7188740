//! Rules of the replicas of one partition, played by hand over disks in memory: the test says which message arrives,
//! when the disk has synced, how time passes, and when a process ends. Here are the copy that it happens to, its
//! neighbours' messages, and which planted bug each rule finds; the rules stand in the files below. What comes of
//! chance, and of many faults at once, is left to `tests/sim`.

mod following;
mod leading;
mod phases;
mod rebuilding;
mod room;
mod trio;
mod votes;

use std::collections::VecDeque;

use thalweg_commit_log::{Config, Configuration, InstallEnd, MemoryDisk, PartitionRef, ProducerTable};
use thalweg_model::{
    Acks, BatchBuilder, BrokerId, Bug, Codec, DirectoryId, LeaderEpoch, Offset, PinEpoch, ProducerEpoch, ProducerId,
    ProducerMark, RaftIndex, Record, RecordBatch, ReplicaId, Sequence, TopicId, TopicPartition, assert_finds,
};

use crate::clock::Now;
use crate::group::Ticket;
use crate::group::election::TICK_MS;
use crate::message::{CatchUp, CatchUpState, EntryBody, EntryContent, PeerBody, PeerMessage, RaftBody, RaftKind};
use crate::replicas::{Output, PartitionSettings, Replicas, Stage, catch_up};

fn copy(broker: u32) -> ReplicaId {
    ReplicaId::new(BrokerId(broker), 0)
}

fn settings() -> PartitionSettings {
    let voters: Vec<ReplicaId> = [1, 2, 3].map(copy).into();
    PartitionSettings {
        replica: copy(1),
        first_voters: voters.clone(),
        // This copy is not the preferred leader, so it stands for election only when a test lets time pass.
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

/// A batch of one record, of 100 bytes and a little more, as the entry at `index` and of leader epoch `epoch`.
fn batch(index: u64, epoch: u32) -> RecordBatch {
    let mut builder = BatchBuilder::new();
    builder.push(&Record { value: Some(vec![epoch as u8; 100].into()), timestamp_ms: 1, ..Default::default() });
    builder.build(Codec::None, None).with_position(Offset(index - 1), LeaderEpoch(epoch))
}

/// The copy that the rules are about: on broker 1, of three, unless the settings say otherwise.
struct Copy {
    replicas: Replicas<MemoryDisk>,
    me: ReplicaId,
    now: Now,
    /// The messages that it has sent and no test has looked at yet.
    sent: VecDeque<PeerMessage>,
    /// Its other outputs.
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
        let me = settings.replica;
        let now = Now { mono_ms: 1_000, wall_ms: 1_700_000_000_000 };
        let (mut replicas, _) = Replicas::open(disk, DirectoryId([9; 16]), config).expect("the directory opens");
        replicas.set_room(now, free_bytes);
        replicas.start(now, NAME, settings);
        let mut copy = Copy { replicas, me, now, sent: VecDeque::new(), said: Vec::new() };
        copy.look();
        copy
    }

    /// The copy after its process was killed and started again from what the disk holds.
    fn restart(&mut self) -> Copy {
        let settings = self.replicas.settings(&NAME).expect("it was started").clone();
        Copy::open(self.replicas.log_mut().disk_mut().image(), settings)
    }

    fn log(&self) -> PartitionRef<'_> {
        self.replicas.log().partition(&NAME).expect("it was started")
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

    /// The disk carries out one operation more; false when none waits.
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

    /// The connection to a broker is lost.
    fn lose(&mut self, broker: u32) {
        self.replicas.unreachable(self.now, BrokerId(broker));
        self.look();
    }

    fn hear(&mut self, from: u32, body: PeerBody) {
        self.replicas.step(self.now, PeerMessage { partition: NAME, from: copy(from), to: self.me, body });
        self.look();
    }

    fn hear_raft(&mut self, from: u32, body: RaftBody) {
        self.hear(from, PeerBody::Raft(body));
    }

    /// The Raft messages of one kind that the copy has sent since a test looked last; others are dropped.
    fn sent_of(&mut self, kind: RaftKind) -> Vec<RaftBody> {
        let of = |m: PeerMessage| match m.body {
            PeerBody::Raft(body) if body.kind == kind => Some(body),
            _ => None,
        };
        std::mem::take(&mut self.sent).into_iter().filter_map(of).collect()
    }

    /// A leader of `term` appends entries up to `to` behind the entry `after` (index, term), and says that those up to
    /// `commit` are decided.
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

    /// Lets time pass until the copy leads, with the votes and acknowledgements of broker 2; answers with the term.
    fn lead(&mut self) -> u32 {
        self.lead_with(&[2])
    }

    /// Lets time pass until the copy leads, with the votes and acknowledgements of these brokers; answers with the
    /// term.
    fn lead_with(&mut self, helpers: &[u32]) -> u32 {
        for _ in 0..100 {
            self.tick();
            self.sync();
            for (asked, answer) in [(RaftKind::PreVote, RaftKind::PreVoted), (RaftKind::Vote, RaftKind::Voted)] {
                if let Some(body) = self.sent.iter().find_map(|m| match &m.body {
                    PeerBody::Raft(body) if body.kind == asked && m.to == copy(helpers[0]) => Some(body.clone()),
                    _ => None,
                }) {
                    self.sent.clear();
                    for helper in helpers {
                        self.hear_raft(*helper, RaftBody { kind: answer, term: body.term, ..Default::default() });
                    }
                    self.sync();
                }
            }
            if let Some(append) = self.sent_of(RaftKind::Append).last() {
                let index = append.index + append.entries.len() as u64;
                helpers.iter().for_each(|helper| self.acknowledge(*helper, append.term, index));
                self.sync();
                assert!(self.replicas.state(&NAME).expect("it is there").is_serving);
                return append.term as u32;
            }
        }
        panic!("it never stands for election");
    }

    /// Broker 2 answers the last read-index heartbeat, which confirms that this copy leads.
    fn confirm_round(&mut self, term: u64) {
        let asked = self.sent_of(RaftKind::Heartbeat).into_iter().rfind(|b| !b.context.is_empty());
        let context = asked.expect("it asks the quorum").context;
        self.hear_raft(2, RaftBody { kind: RaftKind::HeartbeatAnswer, term, context, ..Default::default() });
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
        self.produce_with(builder.build(Codec::None, mark), PinEpoch(0), Acks::Quorum);
        self.answers()
    }

    fn produce_with(&mut self, batch: RecordBatch, pin_epoch: PinEpoch, acks: Acks) {
        self.replicas.produce(self.now, NAME, Ticket::Shell(1), batch, pin_epoch, acks);
        self.look();
    }

    fn high_watermark(&self) -> u64 {
        self.replicas.state(&NAME).expect("raft-rs runs").high_watermark.0
    }

    fn stage(&self) -> Stage {
        self.replicas.stage(&NAME).expect("it was started")
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

/// A copy with entries 1 to 6 of term 1, all acknowledged and the first two known to be decided, whose leader is
/// silent.
fn with_entries() -> Copy {
    let mut copy = Copy::new();
    copy.append(2, 1, (0, 0), 6, 2);
    copy.sync();
    assert_eq!(copy.sent_of(RaftKind::Appended).iter().map(|a| a.index).max(), Some(6));
    copy
}

/// Members and producers as a leader sends them for a rebuilding.
fn state() -> CatchUpState {
    let configuration = Configuration::of_voters([1, 2, 3].map(copy));
    CatchUpState::of(&InstallEnd { configuration, producers: ProducerTable::default() })
}

/// The leader of term 2, on broker 3, offers a catch-up and says that it holds nothing before `first`; members and
/// producers are known as of entry 20.
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

/// A copy that was rebuilt from entry 31 to 32 of 40 when its leader became silent.
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

macro_rules! rules {
    ($($file:ident::$rule:ident: $($bug:ident)+;)+) => {
        mod rules {
            $(#[test]
            fn $rule() {
                super::$file::$rule();
            })+
        }

        #[test]
        fn planted_bugs_show() {
            $($(assert_finds(Bug::$bug, $file::$rule);)+)+
        }
    };
}

rules! {
    votes::a_vote_leaves_when_it_is_synced_and_is_given_once: VoteNotPersisted VoteNotAwaited;
    votes::a_shorter_log_gets_no_vote: VoteForShorterLog;
    votes::voters_stand_one_after_the_other: AllStandAtOnce;
    votes::of_two_candidates_the_second_gives_way: NobodyGivesWay;
    trio::a_leader_outlasts_a_connection_that_is_taken_for_lost: LostLeaderDeposed;
    rebuilding::a_copy_that_catches_up_gives_its_vote_when_its_leader_is_gone: CatchingUpOutlastsLeader;
    following::an_entry_is_acknowledged_when_it_is_synced: AnswersBeforeFsync;
    following::a_message_for_the_copy_before_is_not_taken: ReplicaIdIgnored;
    following::a_heartbeat_decides_only_what_the_leader_has_there: HeartbeatNotCompared;
    leading::an_answer_follows_the_fsyncs_of_a_majority: AckBeforeFsync;
    leading::the_high_watermark_waits_for_a_majority_of_all_voters: HighWatermarkFromMinority;
    leading::an_acknowledgement_of_an_older_term_does_not_count: StaleAckCounted;
    leading::a_leader_serves_only_once_an_entry_of_its_own_term_is_decided: ServesBeforeOwnTerm;
    leading::readers_stop_at_the_high_watermark: ReadsAboveHighWatermark;
    leading::latest_is_told_after_the_quorum_has_confirmed_the_leader: LatestNotConfirmed;
    leading::a_gap_is_told_after_the_quorum_has_confirmed_the_leader: GapNotConfirmed;
    leading::a_duplicate_is_answered_with_its_original: DuplicateAnsweredEarly DuplicateAnsweredWithEnd;
    leading::other_records_under_a_number_that_is_taken_are_refused: DuplicateByNumber;
    leading::a_batch_that_was_placed_with_an_older_partitioner_is_refused: PinEpochIgnored;
    leading::a_batch_that_another_leader_has_replaced_is_no_duplicate: SequencesNotRewound;
    leading::a_batch_that_was_replaced_after_a_start_is_no_duplicate: UnsettledCountedAsSettled;
    rebuilding::what_a_copy_has_acknowledged_stays_in_a_rebuilding: OwnNotKept;
    rebuilding::a_half_rebuilt_copy_votes_for_no_shorter_log_than_its_own: IncompleteVotesForShorter;
    rebuilding::a_half_rebuilt_copy_stands_for_no_election: IncompleteAwake;
    rebuilding::writes_of_the_raft_before_do_not_count_for_the_one_after: SleepersWritesCount;
    rebuilding::an_announced_end_is_synced: UnsyncedAnnounced;
    rebuilding::who_goes_on_alone_keeps_all_that_it_holds: TakeOverDropsTail;
    rebuilding::a_recovered_partition_goes_on_above_the_epochs_that_it_had: FirstEpochIgnored;
    rebuilding::a_leader_leaves_out_nothing: CatchUpSkipsBatches;
    rebuilding::a_rebuilding_hands_producers_over: ProducersNotHandedOver;
    rebuilding::a_part_counts_when_it_is_synced: InstallNotSynced;
    rebuilding::a_successor_takes_nothing_over_from_the_copy_before: RetiredIdReused;
}

const NAME: TopicPartition = TopicPartition { topic: TopicId([3; 16]), partition: thalweg_model::PartitionId(0) };
