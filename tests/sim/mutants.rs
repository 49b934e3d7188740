//! The planted bugs: a simulator that does not find them proves nothing.

use thalweg_commit_log::Mutant as Log;
use thalweg_control::Mutant as Group;
use thalweg_replica::Mutant as Replica;

/// A planted bug, by the crate that it stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// In `commit-log`.
    Log(Log),
    /// In `replica`.
    Replica(Replica),
    /// In `control`, about consumer groups.
    Group(Group),
}

impl Mutant {
    /// All of them with their names.
    pub const ALL: &[(&str, Mutant)] = &[
        ("ack before fsync", Mutant::Replica(Replica::AckBeforeFsync)),
        ("a synced sector rewritten", Mutant::Log(Log::SyncedSectorRewritten)),
        ("duplicate answered before the original commits", Mutant::Replica(Replica::DuplicateAnsweredEarly)),
        ("a producer id counts without proof", Mutant::Replica(Replica::ProducerNotProved)),
        ("a duplicate is one by its number alone", Mutant::Replica(Replica::DuplicateByNumber)),
        ("a follower answers before its fsync", Mutant::Replica(Replica::AnswersBeforeFsync)),
        ("vote not persisted", Mutant::Replica(Replica::VoteNotPersisted)),
        ("vote recycled away", Mutant::Log(Log::VoteRecycledAway)),
        ("a leader serves before it has committed in its term", Mutant::Replica(Replica::ServesBeforeOwnTerm)),
        ("sequences not rewound when entries are replaced", Mutant::Replica(Replica::SequencesNotRewound)),
        ("pin epoch ignored", Mutant::Replica(Replica::PinEpochIgnored)),
        ("producers not handed over in a rebuilding", Mutant::Replica(Replica::ProducersNotHandedOver)),
        ("a rebuilding leaves out batches", Mutant::Replica(Replica::CatchUpSkipsBatches)),
        ("a half rebuilt replica takes part as a whole one", Mutant::Replica(Replica::IncompleteAwake)),
        ("messages for another copy are taken", Mutant::Replica(Replica::ReplicaIdIgnored)),
        (
            "a copy that goes on alone drops what it did not know as decided",
            Mutant::Replica(Replica::TakeOverDropsTail),
        ),
        ("a replica that lost its disk keeps its id", Mutant::Replica(Replica::RetiredIdReused)),
        ("latest not confirmed by the quorum", Mutant::Replica(Replica::LatestNotConfirmed)),
        ("a gap answered without asking the quorum", Mutant::Replica(Replica::GapNotConfirmed)),
        ("a rebuilding counts before it is synced", Mutant::Replica(Replica::InstallNotSynced)),
        ("reads above the high watermark", Mutant::Replica(Replica::ReadsAboveHighWatermark)),
        ("stale ack counted", Mutant::Replica(Replica::StaleAckCounted)),
        ("high watermark from a minority", Mutant::Replica(Replica::HighWatermarkFromMinority)),
        ("an older disk votes", Mutant::Replica(Replica::OlderDiskTrusted)),
        ("vote for a shorter log", Mutant::Replica(Replica::VoteForShorterLog)),
        ("a log file freed before what lives in it is carried over", Mutant::Log(Log::FreedBeforeCarriedOver)),
        ("a carried-over entry discards those behind it", Mutant::Log(Log::CarriedOverDiscards)),
        ("manifest before its segment is synced", Mutant::Log(Log::ManifestBeforeSegment)),
        ("a rebuilding discards too early", Mutant::Log(Log::InstallDiscardsEarly)),
        ("damage taken for a torn write", Mutant::Log(Log::DamageTakenForTorn)),
        ("rot cut", Mutant::Log(Log::RotCut)),
        ("failed fsync ignored", Mutant::Log(Log::SyncErrorIgnored)),
        ("a copy's successor forgotten", Mutant::Log(Log::SuccessorForgotten)),
        ("retention removes one segment more than due", Mutant::Log(Log::RetentionOneTooMany)),
        ("a segment found at a start has no newest timestamp", Mutant::Log(Log::FoundWithoutTimestamp)),
        ("segments deleted before the manifest without them is synced", Mutant::Log(Log::SegmentsDeletedEarly)),
        ("a copy's damage recycled away", Mutant::Log(Log::DamageForgotten)),
        ("a revoked partition is not waited for", Mutant::Group(Group::RevokedNotAwaited)),
        ("any heartbeat confirms what was revoked", Mutant::Group(Group::AnyEpochConfirms)),
        ("a commit of a former owner is taken", Mutant::Group(Group::StaleCommitTaken)),
        ("anybody speaks for a member", Mutant::Group(Group::SecretNotAsked)),
        ("a commit is taken whatever the partition's end is", Mutant::Group(Group::EndNotAsked)),
        ("a new coordinator ends sessions at once", Mutant::Group(Group::SessionsNotRenewed)),
        ("a deposed coordinator answers", Mutant::Group(Group::AnswersNotConfirmed)),
    ];
}
