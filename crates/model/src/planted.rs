//! Planted bugs: faults of ours or of others' making that stand in the code behind a switch, so that the tests can
//! prove that they would see them. docs/MUTANTS.md names what finds each.
//!
//! The switch belongs to the thread, because a simulated cluster and a unit test are each one thread: several run
//! beside one another, each with a bug of its own. Without the feature `mutants` there is no switch, and nothing can be
//! planted.

macro_rules! bugs {
    ($($(#[doc = $doc:literal])+ $bug:ident = $name:literal,)+) => {
        /// A fault that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug {
            $($(#[doc = $doc])+ $bug,)+
        }

        impl Bug {
            /// All of them, in the order of docs/MUTANTS.md.
            pub const ALL: &[Bug] = &[$(Bug::$bug,)+];

            /// What docs/MUTANTS.md calls it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Bug::$bug => $name,)+
                }
            }
        }
    };
}

bugs! {
    // In `replica`.
    /// An entry counts as persisted when it is appended, not when its fsync has come back.
    AckBeforeFsync = "ack before fsync",
    /// A duplicate is answered at once, although the original is not on a quorum yet.
    DuplicateAnsweredEarly = "duplicate answered before the original commits",
    /// A duplicate of a batch that is not on a quorum yet is answered with the log's end for an offset.
    DuplicateAnsweredWithEnd = "a duplicate is answered with the log's end",
    /// A producer id counts without proof that it was given to whoever sends it.
    ProducerNotProved = "a producer id counts without proof",
    /// A batch counts as a duplicate by its number alone, whatever its records.
    DuplicateByNumber = "a duplicate is one by its number alone",
    /// A follower's answers leave before what they tell is synced.
    AnswersBeforeFsync = "a follower answers before its fsync",
    /// Term and vote are not written.
    VoteNotPersisted = "vote not persisted",
    /// Term and vote are written, and the answer does not wait until they are synced.
    VoteNotAwaited = "a vote is answered before it is synced",
    /// All voters stand for election at once when the leader is silent.
    AllStandAtOnce = "all voters stand at once",
    /// Of two that stand at once each gives the other its vote in advance.
    NobodyGivesWay = "of two candidates none gives way",
    /// Whoever loses the connection to the leader asks for the vote itself, not for a vote in advance.
    LostLeaderDeposed = "a lost connection deposes a living leader",
    /// A copy that catches up does not vote before its patience is at an end, though its leader is gone.
    CatchingUpOutlastsLeader = "a copy catches up from a dead leader",
    /// A leader serves before it has committed in its own term.
    ServesBeforeOwnTerm = "a leader serves before it has committed in its term",
    /// Entries that are replaced stay in the table of producers' sequences.
    SequencesNotRewound = "sequences not rewound when entries are replaced",
    /// What a start finds beyond the last known high watermark counts as settled in the table of producers' sequences.
    UnsettledCountedAsSettled = "a start settles what may be replaced",
    /// A batch placed with an older partitioner is taken.
    PinEpochIgnored = "pin epoch ignored",
    /// What a replica was rebuilt with has no producers in it.
    ProducersNotHandedOver = "producers not handed over in a rebuilding",
    /// A replica that is being rebuilt leaves out a part of what it is sent.
    CatchUpSkipsBatches = "a rebuilding leaves out batches",
    /// A replica that is being rebuilt takes part in everything, as if it were whole.
    IncompleteAwake = "a half rebuilt replica takes part as a whole one",
    /// A replica that is being rebuilt votes for whoever asks, also with a shorter log than its own.
    IncompleteVotesForShorter = "a half rebuilt replica votes for a shorter log",
    /// A message for another copy of the partition on the same broker is taken.
    ReplicaIdIgnored = "messages for another copy are taken",
    /// What a copy that fell asleep still waits for counts for the copy that takes its place.
    SleepersWritesCount = "writes of a sleeping copy count for the next one",
    /// A copy goes on under its new name without what it may have acknowledged under the old one.
    OwnNotKept = "a copy's own entries are not kept",
    /// A copy that goes on alone leaves out what it did not know to be decided.
    TakeOverDropsTail = "a copy that goes on alone drops what it did not know as decided",
    /// A partition that an operator has recovered has leaders in epochs that lost replicas may have led in.
    FirstEpochIgnored = "a recovered partition goes on in epochs that it had",
    /// A replica that lost its log goes on under its old id.
    RetiredIdReused = "a replica that lost its disk keeps its id",
    /// The confirmed end is answered without asking the quorum.
    LatestNotConfirmed = "latest not confirmed by the quorum",
    /// A gap in a producer's numbers is answered without asking the quorum.
    GapNotConfirmed = "a gap answered without asking the quorum",
    /// An installation counts before it is synced.
    InstallNotSynced = "a rebuilding counts before it is synced",
    /// Followers serve reads from their log's end.
    ReadsAboveHighWatermark = "reads above the high watermark",
    /// An acknowledgement from an older term counts.
    StaleAckCounted = "stale ack counted",
    /// A heartbeat decides the entry under its index, whichever stands there.
    HeartbeatNotCompared = "a heartbeat decides whatever stands under its index",
    /// One follower's acknowledgement counts for another too.
    HighWatermarkFromMinority = "high watermark from a minority",
    /// A replica tells its neighbours the last entry that it has appended for the last one that it has synced.
    UnsyncedAnnounced = "an unsynced end is announced",
    /// A broker whose disk is older than others remember is heard as if it had forgotten nothing.
    OlderDiskTrusted = "an older disk votes",
    /// A second process on a copy of a living broker's directory is heard.
    CloneHeard = "a clone is heard beside its original",
    /// The only copy of a partition is made anew, empty, on a disk that came in place of its own.
    WipedCopyServes = "a wiped only copy serves",
    /// A start counts one more than the one before, also where nobody may have heard of that one.
    UnheardStartsCount = "a start that nobody heard of is counted",
    /// Copies that an older disk never knew keep their names, and are made anew under them.
    ForgottenKeepTheirNames = "forgotten copies keep their names",
    /// A copy is made anew before the metadata knows the present start of its broker.
    MadeBeforeRegistered = "a copy is made before its broker's start is known",
    /// A vote goes to whoever asks, also with a shorter log.
    VoteForShorterLog = "vote for a shorter log",
    /// A record that is stamped far ahead of the clock is taken.
    TimestampAheadTaken = "a record that is stamped far ahead of the clock is taken",

    // In `commit-log`.
    /// A sync batch starts in the sector where the one before it ended.
    SyncedSectorRewritten = "a synced sector rewritten",
    /// Recycling a log file forgets the votes that stand in it.
    VoteRecycledAway = "vote recycled away",
    /// A log file is used again as soon as what lives in it has been appended again, synced or not.
    FreedBeforeCarriedOver = "a log file freed before what lives in it is carried over",
    /// A log file is used again before the frame that says that it is free is synced.
    ReusedBeforeFreed = "a log file is used again before the frame that frees it is synced",
    /// An entry that was carried over discards those behind it on replay.
    CarriedOverDiscards = "a carried-over entry discards those behind it",
    /// A frame says that its own batch is synced already.
    DurableCoversItself = "a frame counts itself as synced",
    /// Nothing marks the log's end as synced when nothing more is written.
    NoIdleMarker = "no marker when the log is idle",
    /// Log files that an earlier process wrote are read without being synced first.
    OpenNotSynced = "log files are not synced before they are read",
    /// A manifest is written before the segment that it covers is synced.
    ManifestBeforeSegment = "manifest before its segment is synced",
    /// A segment's first raft index is one too high after a roll.
    FirstIndexOffByOne = "a segment's first index is one too high",
    /// A rebuilding discards what the replica had with its first part in segments, not with its last.
    InstallDiscardsEarly = "a rebuilding discards too early",
    /// An installation keeps a tail that stands where its last entry is, whatever the tail's epoch.
    InstallKeepsOtherTail = "a rebuilding keeps a tail of another epoch",
    /// Whatever stands at the log's end counts as a write that never ended.
    DamageTakenForTorn = "damage taken for a torn write",
    /// A damaged frame is cut although it was synced.
    RotCut = "rot cut",
    /// A failed fsync counts as done.
    SyncErrorIgnored = "failed fsync ignored",
    /// What is read from segments is not compared with their checksums.
    SegmentSumsNotChecked = "reads of segments skip their checksums",
    /// A crash between a copy and the one that takes its place forgets that there was one.
    SuccessorForgotten = "a copy's successor forgotten",
    /// What shows that a copy has lost something is recycled, and nothing else says so.
    DamageForgotten = "a copy's damage recycled away",
    /// Retention removes one segment more than is due.
    RetentionOneTooMany = "retention removes one segment more than due",
    /// A segment found at the start counts as older than anything.
    FoundWithoutTimestamp = "a segment found at a start has no newest timestamp",
    /// Segments are deleted before the manifest without them is synced.
    SegmentsDeletedEarly = "segments deleted before the manifest without them is synced",

    // In `control`.
    /// A revoked partition is another's before its reader has given it up.
    RevokedNotAwaited = "a revoked partition is not waited for",
    /// Any heartbeat confirms whatever was revoked.
    AnyEpochConfirms = "any heartbeat confirms what was revoked",
    /// A heartbeat confirms what was revoked one epoch after it, too.
    NextEpochConfirmed = "a heartbeat confirms the next epoch's revocations",
    /// What a member wants is what it wanted when it joined.
    TopicsNotFollowed = "a member's change of topics is not followed",
    /// A commit is taken from whoever was a member once.
    StaleCommitTaken = "a commit of a former owner is taken",
    /// Anybody speaks for a member who knows its id.
    SecretNotAsked = "anybody speaks for a member",
    /// A commit is taken whatever the partition's end is.
    EndNotAsked = "a commit is taken whatever the partition's end is",
    /// A new coordinator goes on with the sessions' ends of the old one's start: members count as unheard since long
    /// ago.
    SessionsNotRenewed = "a new coordinator ends sessions at once",
    /// A static member's name goes to whoever asks for it, though its holder lives.
    StaticNameTaken = "a living static member's name is taken over",
    /// A checkpoint leaves out the offsets of groups that have no members.
    IdleOffsetsNotKept = "a checkpoint leaves out idle groups",
    /// A group is forgotten after its time though it has members.
    LiveGroupForgotten = "a group with members is forgotten",
    /// A topic gets more partitions, and its pin keeps its epoch: producers go on placing among the old ones.
    GrowthKeepsPinEpoch = "a topic grows under the epoch of its pin",
    /// A partition that was added to a topic which a group reads already counts as one that the group has left out.
    AddedTakenForOld = "a group begins in an added partition as in an old one",

    // In `broker-core`.
    /// A coordinator answers without asking the quorum whether it still is one.
    AnswersNotConfirmed = "a deposed coordinator answers",
    /// An answer about a group leaves before the records that it rests on are on a quorum.
    AnswerNotAwaited = "an answer does not wait for what it rests on",
    /// The log start moves to the last batch of a checkpoint, not to its first.
    CheckpointStartsAtItsEnd = "the log start moves to a checkpoint's last batch",
    /// A broker's message counts though it speaks in another's name.
    OthersNameTaken = "a message in another broker's name is taken",

    // In `client-core`.
    /// A broker that does not lead makes a producer number all its batches anew.
    NotLeaderRenumbers = "a wrong leader makes a producer number anew",
    /// A producer that a broker has forgotten numbers anew, though what is in flight may have been appended.
    UnknownAlwaysRenumbers = "a forgotten producer always numbers anew",
    /// A batch that was refused goes behind those after it.
    RefusedGoesBehind = "a refused batch goes to the queue's end",
    /// A batch counts as never sent after a lost connection.
    DisconnectForgetsAttempts = "a lost connection makes a batch count as never sent",
    /// A newer partitioner counts as known before what waits was placed with it.
    PinAdoptedUnplaced = "a newer partitioner is adopted without placing anew",
    /// The same, and a batch that is refused for it is sent again as it is.
    PinRefusalResent = "a batch that was placed with an older partitioner is sent again",
    /// A batch that closes goes in front of those that wait to be sent.
    ClosedGoesFirst = "a closed batch overtakes",
    /// A batch that fits into what may be in flight overtakes one that does not.
    SmallOvertakesLarge = "a small batch overtakes one that has no room in flight",
    /// The lease of a member counts from the answer to its join, not from the question.
    LeaseFromAnswer = "a member's lease counts from its answer",
    /// A partition that is being revoked is still delivered.
    RevokedDelivered = "a revoked partition is delivered",
    /// A commit that is said again does not look for later ones of its partitions.
    CommitOvertaken = "a commit that is said again undoes a later one",
    /// A commit is said under the epoch that was told last when it is said, not when it was made.
    CommitUnderLaterEpoch = "a commit is said under a later epoch than its own",
    /// Credit is given for what has been buffered already.
    CreditGivenTwice = "credit is given for what lies in the buffer",
    /// What was buffered of a partition that went to another member stays counted after it has been dropped.
    DroppedStaysHeld = "a dropped partition's bytes stay held",
}

#[cfg(feature = "mutants")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Whether the bug is planted in this thread.
#[inline]
pub fn is_planted(bug: Bug) -> bool {
    #[cfg(feature = "mutants")]
    return PLANTED.get() == Some(bug);
    #[cfg(not(feature = "mutants"))]
    return {
        let _ = bug;
        false
    };
}

/// Runs `job` with the bug planted in this thread, and with none afterwards, even when `job` panics.
///
/// # Panics
/// With a bug, in a build without the feature `mutants`: nothing would be planted.
pub fn with_planted<T>(bug: Option<Bug>, job: impl FnOnce() -> T) -> T {
    #[cfg(feature = "mutants")]
    let _before = Before(PLANTED.replace(bug));
    #[cfg(not(feature = "mutants"))]
    assert_eq!(bug, None, "nothing can be planted in a build without the feature `mutants`");
    job()
}

/// What was planted in this thread before, and is again when this goes.
#[cfg(feature = "mutants")]
struct Before(Option<Bug>);

#[cfg(feature = "mutants")]
impl Drop for Before {
    fn drop(&mut self) {
        PLANTED.set(self.0);
    }
}

/// Asserts that `check`, which passes as the code is, panics with the bug planted. For tests that docs/MUTANTS.md names
/// as a finder.
#[cfg(feature = "mutants")]
pub fn assert_finds(bug: Bug, check: impl Fn()) {
    check();
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| with_planted(Some(bug), &check)));
    assert!(found.is_err(), "nothing here sees that {:?} is planted", bug.name());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let names: std::collections::BTreeSet<_> = Bug::ALL.iter().map(|b| b.name()).collect();
        assert_eq!(names.len(), Bug::ALL.len());
    }

    #[cfg(feature = "mutants")]
    #[test]
    fn a_bug_is_planted_for_a_job_and_no_longer() {
        assert_finds(Bug::RotCut, || assert!(!is_planted(Bug::RotCut)));
        with_planted(Some(Bug::RotCut), || assert!(!is_planted(Bug::AckBeforeFsync)));
        assert!(!is_planted(Bug::RotCut));
    }
}
