//! What a topic's owner chooses for it, and how far a group has come in one of its partitions. Who checks and stores
//! either is left to other crates.

use crate::limits::{
    SEGMENT_BYTES_DERIVED_MIN, SEGMENT_BYTES_MAX, SEGMENT_MS_DERIVED_MAX, SEGMENT_MS_DERIVED_MIN, TIMESTAMP_AHEAD_MS,
};

/// What a topic's owner may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// How long records are kept, in ms; `None`: for ever.
    pub retention_ms: Option<u64>,
    /// Per partition; `None`: unbounded.
    pub retention_bytes: Option<u64>,
    /// A segment is closed at this size, if it is less than the broker's own limit; `None`: at what
    /// [`segment_bytes_max`](Self::segment_bytes_max) finds.
    pub segment_bytes: Option<u64>,
    /// A segment is closed when it has been open for so long; `None`: for what [`segment_ms_max`](Self::segment_ms_max)
    /// finds.
    pub segment_ms: Option<u64>,
    /// A record may be stamped so far ahead of the broker's clock; `None`: any time. One that is far ahead would keep
    /// its whole segment.
    pub timestamp_ahead_max_ms: Option<u64>,
}

impl TopicConfig {
    /// The size at which a segment is closed. Segments are what retention removes, and one more than is to be kept
    /// stays at most: unless it is set, it is an eighth of what is to be kept.
    pub fn segment_bytes_max(&self) -> u64 {
        let eighth = self.retention_bytes.map_or(SEGMENT_BYTES_MAX, |bytes| bytes / 8);
        self.segment_bytes.unwrap_or(eighth.clamp(SEGMENT_BYTES_DERIVED_MIN, SEGMENT_BYTES_MAX))
    }

    /// How long a segment stays open. What has expired goes with the newest record of its segment: an eighth of the
    /// time for which records are kept.
    pub fn segment_ms_max(&self) -> u64 {
        let eighth = self.retention_ms.map_or(SEGMENT_MS_DERIVED_MAX, |ms| ms / 8);
        self.segment_ms.unwrap_or(eighth.clamp(SEGMENT_MS_DERIVED_MIN, SEGMENT_MS_DERIVED_MAX))
    }
}

impl Default for TopicConfig {
    /// A week, and an hour ahead, as in Kafka.
    fn default() -> Self {
        TopicConfig {
            retention_ms: Some(7 * 24 * 3600 * 1000),
            retention_bytes: None,
            segment_bytes: None,
            segment_ms: None,
            timestamp_ahead_max_ms: Some(TIMESTAMP_AHEAD_MS),
        }
    }
}

/// How far a group has come in one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Committed {
    /// The next offset to be scanned.
    pub offset: u64,
    /// Records that the group's filter has dropped so far.
    pub filtered: u64,
    /// Records on which it has failed so far.
    pub failed: u64,
}
