//! The reasons for which a produce request is refused, and their texts, which reach clients as they stand here. When a
//! refusal may be sent is left to `group/produce.rs`.

use thalweg_model::limits::UNCOMMITTED_BYTES_MAX;
use thalweg_model::{BrokerId, Offset, PinEpoch, ProducerEpoch, ProducerId, Sequence};
use thiserror::Error;

/// Why a batch was refused; none of its records was appended.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProduceError {
    /// This replica does not lead, or has not decided an entry of its own term yet.
    #[error("{}", not_leader(*leader))]
    NotLeader {
        /// Who leads, as far as this replica knows.
        leader: Option<BrokerId>,
    },
    /// The client placed the batch with an older partitioner.
    #[error(
        "the topic's partitioner changed, or how many partitions it has: the batch was placed with pin epoch {found}, \
         it is {current} now"
    )]
    StalePin {
        /// The pin epoch that came with the batch.
        found: PinEpoch,
        /// The topic's pin epoch.
        current: PinEpoch,
    },
    /// The client knows a newer partitioner than this broker, which will hear of it soon.
    #[error("this broker has not heard yet of the topic's partitioner with pin epoch {found}; it knows {current}")]
    PinUnknown {
        /// The pin epoch that came with the batch.
        found: PinEpoch,
        /// The topic's pin epoch, as far as this broker knows.
        current: PinEpoch,
    },
    /// The batch carries no valid token for its producer id: the cluster never gave that id out, or gave it to another
    /// producer.
    #[error(
        "producer id {id} comes without the proof that this cluster gave it to you: it was never given out, or \
         belongs to \
         somebody else; get a new one"
    )]
    NotIssued {
        /// The producer id of the batch.
        id: ProducerId,
    },
    /// This broker cannot check the producer's id yet: it has not followed the metadata that far.
    #[error(
        "this broker has not heard yet of the secret behind producer ids; it is catching up with the cluster's metadata"
    )]
    SecretUnknown,
    /// A batch before this one is missing.
    #[error("sequence {found} does not follow: {expected} is next")]
    OutOfOrder {
        /// The sequence number that the producer's next batch must begin with.
        expected: Sequence,
        /// The sequence number of the batch's first record.
        found: Sequence,
    },
    /// A newer epoch of this producer has written.
    #[error("a newer incarnation (epoch {current}) of this producer has written")]
    Fenced {
        /// The newest producer epoch that has written to the partition.
        current: ProducerEpoch,
    },
    /// The batch is not its producer's first, and the partition does not know the producer.
    #[error("this partition does not know the producer (any more)")]
    UnknownProducer,
    /// Other records of the same producer id stand under the batch's sequence numbers.
    #[error(
        "other records of this producer id stand under sequence {sequence}, in the batch at offset {offset}: a second \
         process \
         writes under the same id, or this one was copied or restored. These records were not written; close this \
         producer \
         and send them with a new one"
    )]
    SequenceTaken {
        /// The sequence number of the batch's first record.
        sequence: Sequence,
        /// Base offset of the batch that holds the other records.
        offset: Offset,
    },
    /// The batch was written before, so long ago that its offset is not remembered.
    #[error("the batch was written before, too long ago to tell its offset")]
    DuplicateForgotten,
    /// Too many bytes of the partition wait for the quorum.
    #[error("{UNCOMMITTED_BYTES_MAX} bytes wait for the quorum already")]
    Backlog,
    /// The leader's disk is full, or so many other disks that no quorum has room.
    #[error(
        "no space left on the broker's disk, nor on enough others that hold the partition; reads go on, and so do \
         deletes"
    )]
    StorageFull,
    /// The only copy of the partition is damaged; what is wrong with it.
    #[error("partition is offline: {0}")]
    Offline(String),
    /// No copy of the partition is left, and no operator has let it start empty.
    #[error("partition is out of service: {0}")]
    Lost(String),
    /// The newest record is stamped too far ahead of the clock.
    #[error(
        "a record is stamped {timestamp_ms} ms since 1970, {} ms ahead of this broker's clock ({clock_ms}); the \
         topic's \
         timestamp_ahead_max_ms allows {ahead_max_ms}. Correct the timestamps, or the clock that is wrong",
        timestamp_ms.abs_diff(*clock_ms)
    )]
    TimestampAhead {
        /// The record's timestamp, in ms since the Unix epoch.
        timestamp_ms: i64,
        /// The latest that the time can be by the brokers' clocks, in ms since the Unix epoch.
        clock_ms: i64,
        /// How far ahead of the clock the topic allows timestamps, in ms.
        ahead_max_ms: u64,
    },
    /// The newest record is stamped too far ahead of this broker's clock, and it is not known yet whether that clock is
    /// right.
    #[error(
        "a record is stamped {timestamp_ms} ms since 1970, which is too far ahead if this broker's clock is right; it \
         has not heard yet of \
         enough others to know"
    )]
    ClockUnknown {
        /// The record's timestamp, in ms since the Unix epoch.
        timestamp_ms: i64,
    },
    /// The newest record is stamped before 1970.
    #[error(
        "no record of the batch is stamped later than {timestamp_ms} ms since 1970; timestamps are not negative, and \
         -1 for none"
    )]
    TimestampNegative {
        /// The largest timestamp of the batch, in ms since the Unix epoch.
        timestamp_ms: i64,
    },
    /// A client has sent a control batch, or a batch with fewer records than offsets.
    #[error("only whole batches of records can be produced")]
    NotProducible,
}

impl ProduceError {
    /// True for a refusal from which a producer concludes something about its earlier batches: it may number its
    /// batches anew, or place their records in other partitions.
    pub(crate) fn tells_of_earlier_batches(&self) -> bool {
        use ProduceError::{DuplicateForgotten, Fenced, OutOfOrder, SequenceTaken, StalePin, UnknownProducer};
        // A stale pin means that the batch is not in the log: the producer places its records again. A leader that does
        // not know yet that it was replaced may judge by entries of its own that the next leader has discarded.
        matches!(
            self,
            OutOfOrder { .. }
                | Fenced { .. }
                | StalePin { .. }
                | SequenceTaken { .. }
                | UnknownProducer
                | DuplicateForgotten
        )
    }
}

fn not_leader(leader: Option<BrokerId>) -> String {
    match leader {
        Some(broker) => format!("this broker does not lead the partition (yet); broker {broker} does"),
        None => "no leader of the partition is known here: too few of its replicas can be reached, or an election is \
                 going on"
            .into(),
    }
}
