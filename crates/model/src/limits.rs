//! The published limits (docs/LIMITS.md); both ends enforce them from here.
//!
//! What happens beyond a limit is left to whoever checks it.

/// Largest record: key, value and headers together.
pub const RECORD_BYTES_MAX: usize = 1 << 20;
/// Largest record batch, both as stored and when its records are decompressed.
pub const BATCH_BYTES_MAX: usize = 16 << 20;
/// Most records in one batch.
pub const BATCH_RECORDS_MAX: usize = 1_000_000;
/// Most headers on one record.
pub const HEADERS_COUNT_MAX: usize = 256;
/// Largest key of a header, in bytes.
pub const HEADER_KEY_BYTES_MAX: usize = 1024;
/// Largest key of a record, in bytes.
pub const KEY_BYTES_MAX: usize = 64 << 10;
/// Longest topic or plugin name.
pub const NAME_BYTES_MAX: usize = 249;
/// Most partitions of one topic.
pub const PARTITIONS_MAX: u32 = 10_000;
/// Most topics in a cluster.
pub const TOPICS_MAX: usize = 10_000;
/// Most client connections to one broker.
pub const CONNECTIONS_MAX: usize = 4_096;
/// Most batches of one producer in flight to one partition.
pub const IN_FLIGHT_BATCHES_MAX: usize = 64;
/// Most bytes of one producer in flight to one partition.
pub const IN_FLIGHT_BYTES_MAX: usize = 8 << 20;
/// Most bytes proposed to one partition and not yet on a quorum; produce is refused above it.
pub const UNCOMMITTED_BYTES_MAX: usize = 16 << 20;
/// Smallest size at which a topic's owner may have segments closed.
pub const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// Largest segment. Kafka's default; its index reaches no further than 4 GiB.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Smallest segment that follows from a topic's retention by size: four files and some fsyncs each.
pub const SEGMENT_BYTES_DERIVED_MIN: u64 = 1 << 20;
/// Shortest time for which a topic's owner may have segments stay open.
pub const SEGMENT_MS_MIN: u64 = 1_000;
/// A record may be stamped so far ahead of the broker's clock, unless its topic's owner chooses otherwise. Kafka's
/// default since 4.0 (KIP-1030).
pub const TIMESTAMP_AHEAD_MS: u64 = 3600 * 1000;
/// Shortest time for which a segment stays open, where it follows from a topic's retention by time.
pub const SEGMENT_MS_DERIVED_MIN: u64 = 5_000;
/// Longest time for which a segment stays open, unless a topic's owner chooses a longer one. Kafka's default.
pub const SEGMENT_MS_DERIVED_MAX: u64 = 7 * 24 * 3600 * 1000;
/// Largest plugin module by default.
pub const MODULE_BYTES_MAX: usize = 4 << 20;
/// Largest plugin module that a broker may be configured to accept.
pub const MODULE_BYTES_CEILING: usize = 32 << 20;
/// Largest `config` of a plugin.
pub const PLUGIN_CONFIG_BYTES_MAX: usize = 64 << 10;
/// Most records in one call of a guest.
pub const CHUNK_RECORDS_MAX: usize = 1_000;
/// Most record bytes in one call of a guest; a single larger record is a chunk of its own.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;
/// Most replicas of one partition.
pub const REPLICATION_FACTOR_MAX: u32 = 7;
/// Longest id of a consumer group, of a member, of an instance.
pub const GROUP_ID_BYTES_MAX: usize = 249;
/// Most consumer groups in one partition of `__consumer_offsets`; no more are made while it holds so many.
pub const GROUPS_MAX: usize = 1_000;
/// Shortest session time-out that a member of a group may ask for, in ms.
pub const SESSION_MS_MIN: u32 = 500;
/// Longest session time-out that a member of a group may ask for, in ms.
pub const SESSION_MS_MAX: u32 = 600_000;
/// Most members of one consumer group.
pub const GROUP_MEMBERS_MAX: usize = 1_000;
/// Random bytes that prove that a frame is a member's own.
pub const MEMBER_SECRET_BYTES: usize = 16;
/// Most members that one join names as gone, because their joins were never answered; older ones end with their
/// sessions.
pub const GROUP_GONE_MAX: usize = 64;
/// Most topics that one member subscribes to.
pub const GROUP_TOPICS_MAX: usize = 100;
