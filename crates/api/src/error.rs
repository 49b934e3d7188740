//! The one error of all requests: its exact code, and the few kinds that a caller acts on. Which error of a machine has
//! which code stands beside that machine's errors.

use std::fmt;

use thiserror::Error;

/// What a caller can do about an error; the same words in all SDKs (one class each in Python and Node).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Nothing came back in time: try again or wait longer.
    Timeout,
    /// No broker could be reached: check address and network; retried meanwhile.
    Disconnected,
    /// The topic, partition or plugin does not exist: create it or mend the name.
    NotFound,
    /// Not allowed: certificate or permission.
    Denied,
    /// The request itself is wrong: fix it.
    Invalid,
    /// Another owns this now (a newer producer or group epoch): rejoin.
    Rebalanced,
    /// A plugin failed on a record: fix the plugin or the record.
    PluginFailed,
    /// The broker's disk or a published bound is full: free space or slow down.
    StorageFull,
    /// Stored data is damaged and there is no other copy: the broker's operator puts it right.
    Damaged,
    /// A broken invariant: report it.
    Internal,
    /// This version or build cannot do it: upgrade, or build with the feature that the message names.
    Unsupported,
    /// The log does not hold the position (any more, or yet): seek to where it does.
    OffsetOutOfRange,
    /// What is stored there does not decode: seek past it, or skip such records.
    BadRecord,
    /// It is there already: use it, or take another name.
    AlreadyExists,
    /// The client, producer or consumer was closed.
    Closed,
}

impl ErrorKind {
    /// All kinds, for tests that check every language against them.
    pub const ALL: [ErrorKind; 15] = [
        ErrorKind::Timeout,
        ErrorKind::Disconnected,
        ErrorKind::NotFound,
        ErrorKind::Denied,
        ErrorKind::Invalid,
        ErrorKind::Rebalanced,
        ErrorKind::PluginFailed,
        ErrorKind::StorageFull,
        ErrorKind::Damaged,
        ErrorKind::Internal,
        ErrorKind::Unsupported,
        ErrorKind::OffsetOutOfRange,
        ErrorKind::BadRecord,
        ErrorKind::AlreadyExists,
        ErrorKind::Closed,
    ];

    /// The `code` that SDK users see, in every language.
    pub fn code(self) -> &'static str {
        match self {
            ErrorKind::Timeout => "timeout",
            ErrorKind::Disconnected => "disconnected",
            ErrorKind::NotFound => "not_found",
            ErrorKind::Denied => "denied",
            ErrorKind::Invalid => "invalid",
            ErrorKind::Rebalanced => "rebalanced",
            ErrorKind::PluginFailed => "plugin_failed",
            ErrorKind::StorageFull => "storage_full",
            ErrorKind::Damaged => "damaged",
            ErrorKind::Internal => "internal",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::OffsetOutOfRange => "offset_out_of_range",
            ErrorKind::BadRecord => "bad_record",
            ErrorKind::AlreadyExists => "already_exists",
            ErrorKind::Closed => "closed",
        }
    }

    /// True where the same call may succeed later without a change.
    pub fn is_retriable(self) -> bool {
        matches!(self, ErrorKind::Timeout | ErrorKind::Disconnected | ErrorKind::StorageFull)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $kind:ident, $retry:literal;)*) => {
        /// The exact error of a broker. Numbers are never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $($(#[$doc])* $name = $code,)*
        }

        impl ErrorCode {
            /// Every code, for tests.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$name),*];

            /// The code with this number; a number of a newer broker is `Internal`.
            pub fn from_number(number: u32) -> ErrorCode {
                match number {
                    $($code => ErrorCode::$name,)*
                    _ => ErrorCode::Internal,
                }
            }

            /// What the caller can do about it.
            pub fn kind(self) -> ErrorKind {
                match self {
                    $(ErrorCode::$name => ErrorKind::$kind,)*
                }
            }

            /// True where the client itself sends the same request again within the delivery time-out.
            pub fn client_retries(self) -> bool {
                match self {
                    $(ErrorCode::$name => $retry,)*
                }
            }
        }
    };
}

codes! {
    /// A broken invariant in the broker.
    Internal = 1, Internal, false;
    /// A frame or message that does not decode.
    Malformed = 2, Invalid, false;
    /// No common protocol version.
    UnsupportedVersion = 3, Unsupported, false;
    /// No such topic.
    UnknownTopic = 4, NotFound, false;
    /// No such partition of a topic.
    UnknownPartition = 5, NotFound, false;
    /// No such plugin or version.
    UnknownPlugin = 6, NotFound, false;
    /// The topic exists already.
    TopicExists = 7, AlreadyExists, false;
    /// A name, count or option out of its range.
    InvalidRequest = 8, Invalid, false;
    /// A batch that does not decode or does not match its checksum.
    CorruptBatch = 9, Invalid, false;
    /// Larger than a published limit.
    TooLarge = 10, Invalid, false;
    /// A sequence that leaves a gap: an earlier batch was lost on the way.
    OutOfOrderSequence = 11, Internal, true;
    /// A newer incarnation of this producer id has written.
    ProducerFenced = 12, Rebalanced, false;
    /// The broker has forgotten this producer id.
    UnknownProducer = 13, Rebalanced, false;
    /// The topic's partitioner, or how many partitions it has, changed since the client read it: read metadata again,
    /// and place again.
    StalePin = 14, Invalid, false;
    /// Another broker leads the partition: read metadata again.
    NotLeader = 15, Disconnected, true;
    /// No space left on the broker's disk; reads go on.
    StorageFull = 16, StorageFull, true;
    /// Too many bytes wait for the quorum.
    Backlog = 17, StorageFull, true;
    /// The partition's data is damaged, and no other copy is there; the message names the file, and what an operator
    /// can do.
    PartitionOffline = 18, Damaged, false;
    /// A position below the log's start or past its end.
    OffsetOutOfRange = 19, OffsetOutOfRange, false;
    /// The module is not a plugin: not wasm, wrong exports, forbidden import, too large or too costly to compile.
    InvalidPlugin = 20, Invalid, false;
    /// A plugin trapped, ran out of time or memory, or answered nonsense.
    PluginFailed = 21, PluginFailed, false;
    /// The plugin is of another kind.
    WrongPluginKind = 22, Invalid, false;
    /// Too many connections or streams, more memory for them than there may be, or no file or process to be had.
    TooMany = 23, StorageFull, true;
    /// The broker is shutting down.
    ShuttingDown = 24, Disconnected, true;
    /// Not allowed for this client.
    Denied = 25, Denied, false;
    /// Not built yet, or switched off.
    Unsupported = 26, Unsupported, false;
    /// A timed-out wait inside the broker.
    Timeout = 27, Timeout, true;
    /// The client knows a newer partitioner of the topic than this broker does yet.
    PinUnknown = 28, Disconnected, true;
    /// Another broker coordinates the group, or nobody does at the moment.
    NotCoordinator = 29, Disconnected, true;
    /// The member left its group, or was not heard of for its whole session.
    UnknownMember = 30, Rebalanced, false;
    /// The member speaks of a partition that is not its own (any more).
    StaleMemberEpoch = 31, Rebalanced, false;
    /// Another member holds this instance id.
    InstanceIdInUse = 32, Invalid, false;
    /// Another member has this id.
    MemberIdInUse = 33, Invalid, false;
    /// The members of a group differ in filter, policy or assignor.
    InconsistentGroup = 34, Invalid, false;
    /// The group has members.
    GroupNotEmpty = 35, Invalid, false;
    /// There is no such group.
    UnknownGroup = 36, NotFound, false;
    /// Other records stand under the batch's producer id and sequence: two write under one id.
    SequenceTaken = 37, Rebalanced, false;
    /// The producer id comes without the proof that it was given to this client: get a new one.
    ProducerNotIssued = 38, Rebalanced, false;
    /// The broker has not caught up yet with the cluster's metadata that the request rests on.
    Behind = 39, Disconnected, true;
    /// A plugin's module is not what was uploaded, or nowhere to be had; the message names the plugin and its digest.
    DamagedPlugin = 40, Internal, false;
    /// A member of a group that is somebody else's: the secret is not the one of its join.
    WrongMemberSecret = 41, Denied, false;
    /// A commit beyond the partition's high watermark.
    OffsetBeyondEnd = 42, Invalid, false;
    /// A record's timestamp is negative, or too far ahead of the broker's clock.
    InvalidTimestamp = 43, Invalid, false;
    /// A stored batch that does not decode, where somebody has to look into it.
    UnreadableBatch = 44, BadRecord, false;
    /// The cluster has brokers enough for what is asked, and too few of them can be reached at the moment.
    BrokersAway = 45, Disconnected, true;
}

/// Why a request, a batch or a partition is refused, as it crosses the wire.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct ApiError {
    /// The exact error, of which a caller acts on the kind.
    pub code: ErrorCode,
    /// What happened, with names and numbers, and what to do next.
    pub message: String,
    /// The plugin that failed, if one has.
    pub fault: Option<Box<PluginFault>>,
    /// Of [`ErrorCode::InvalidTimestamp`]: the newest timestamp that the broker takes, in ms since the Unix epoch,
    /// where it is newer ones that were refused.
    pub timestamp_max_ms: Option<i64>,
}

/// A plugin that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginFault {
    /// The plugin's name, version and digest.
    pub plugin: String,
    /// The trap, the missed deadline, or the answer that is none.
    pub reason: String,
}

impl ApiError {
    /// An error with a message for people.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), fault: None, timestamp_max_ms: None }
    }

    /// Bytes that are no message of their kind.
    pub fn malformed(why: impl fmt::Display) -> Self {
        Self::new(ErrorCode::Malformed, why.to_string())
    }

    /// The same error, and which plugin failed how.
    pub fn with_fault(mut self, fault: Option<(&str, &str)>) -> Self {
        self.fault =
            fault.map(|(plugin, reason)| Box::new(PluginFault { plugin: plugin.into(), reason: reason.into() }));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_keep_their_numbers_and_unknown_ones_are_internal() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_number(*code as u32), *code);
        }
        assert_eq!(ErrorCode::from_number(9999), ErrorCode::Internal);
    }
}
