//! What a client knows a partition by: a topic that is made again under its name has another id.

use thalweg_model::{TopicId, TopicPartition};

/// A partition of a topic, by the topic's id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionKey {
    /// The id of the topic.
    pub topic_id: TopicId,
    /// The partition's number in its topic.
    pub partition: u32,
}

impl From<TopicPartition> for PartitionKey {
    fn from(partition: TopicPartition) -> PartitionKey {
        PartitionKey { topic_id: partition.topic, partition: partition.partition.0 }
    }
}

impl From<&PartitionKey> for TopicPartition {
    fn from(key: &PartitionKey) -> TopicPartition {
        TopicPartition::new(key.topic_id, key.partition)
    }
}
