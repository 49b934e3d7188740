//! Why a produce request is refused: the texts reach clients as they stand here. When a refusal may leave is left to
//! `group/produce.rs`.

use thalweg_model::limits::UNCOMMITTED_BYTES_MAX;
use thalweg_model::{BrokerId, Offset, PinEpoch, ProducerEpoch, ProducerId, Sequence};
use thiserror::Error;

/// Why a batch was not appended. Nothing of it was.
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
        /// The batch's.
        found: PinEpoch,
        /// The topic's.
        current: PinEpoch,
    },
    /// The client knows a newer partitioner than this broker, which will hear of it soon.
    #[error("this broker has not heard yet of the topic's partitioner with pin epoch {found}; it knows {current}")]
    PinUnknown {
        /// The batch's.
        found: PinEpoch,
        /// The topic's, here.
        current: PinEpoch,
    },
    /// The producer id was not given out by this cluster, or not to whoever sent the batch.
    #[error(
        "producer id {id} comes without the proof that this cluster gave it to you: it was never given out, or \
         belongs to \
         somebody else; get a new one"
    )]
    NotIssued {
        /// The id.
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
        /// Next in order.
        expected: Sequence,
        /// The batch's first.
        found: Sequence,
    },
    /// A newer epoch of this producer has written.
    #[error("a newer incarnation (epoch {current}) of this producer has written")]
    Fenced {
        /// That epoch.
        current: ProducerEpoch,
    },
    /// Not the first batch, of a producer that is not known here.
    #[error("this partition does not know the producer (any more)")]
    UnknownProducer,
    /// Other records stand under its number: it was not written.
    #[error(
        "other records of this producer id stand under sequence {sequence}, in the batch at offset {offset}: a second \
         process \
         writes under the same id, or this one was copied or restored. These records were not written; close this \
         producer \
         and send them with a new one"
    )]
    SequenceTaken {
        /// The batch's first.
        sequence: Sequence,
        /// Where the other records are.
        offset: Offset,
    },
    /// Written long ago; its offset is forgotten.
    #[error("the batch was written before, too long ago to tell its offset")]
    DuplicateForgotten,
    /// Too many bytes wait for a quorum.
    #[error("{UNCOMMITTED_BYTES_MAX} bytes wait for the quorum already")]
    Backlog,
    /// The disk is full.
    #[error(
        "no space left on the broker's disk, nor on enough others that hold the partition; reads go on, and so do \
         deletes"
    )]
    StorageFull,
    /// The partition is damaged.
    #[error("partition is offline: {0}")]
    Offline(String),
    /// No copy of the partition is left, and nobody has said yet that it may start empty.
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
        /// The record's, ms since the Unix epoch.
        timestamp_ms: i64,
        /// The broker's, as far as it can be trusted.
        clock_ms: i64,
        /// The topic's limit.
        ahead_max_ms: u64,
    },
    /// It is stamped too far ahead of this broker's clock, of which the broker does not know yet whether it is right.
    #[error(
        "a record is stamped {timestamp_ms} ms since 1970, which is too far ahead if this broker's clock is right; it \
         has not heard yet of \
         enough others to know"
    )]
    ClockUnknown {
        /// The record's, ms since the Unix epoch.
        timestamp_ms: i64,
    },
    /// The newest record is stamped before 1970.
    #[error(
        "no record of the batch is stamped later than {timestamp_ms} ms since 1970; timestamps are not negative, and \
         -1 for none"
    )]
    TimestampNegative {
        /// The record's.
        timestamp_ms: i64,
    },
    /// A control batch, or one with fewer records than offsets, from a client.
    #[error("only whole batches of records can be produced")]
    NotProducible,
}

impl ProduceError {
    /// True for a refusal after which a producer may number its batches anew, or send their records elsewhere.
    pub(crate) fn tells_of_earlier_batches(&self) -> bool {
        use ProduceError::{DuplicateForgotten, Fenced, OutOfOrder, SequenceTaken, StalePin, UnknownProducer};
        // A stale pin tells that the batch is not in the log: the producer places its records again.
        // Entries of a leader that has been replaced unawares may be what stands under the number, and may be dropped.
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
