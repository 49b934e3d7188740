//! How a partition is named by a user, and by what was read from it.
//!
//! Whether somebody reads that partition is left to the consumer.

use bytes::Bytes;

/// The topic that something was read from. Another one may bear its name by now.
#[derive(Debug)]
pub(crate) struct TopicName {
    pub(crate) name: String,
    /// The topic's id, 16 bytes; empty for what was not read.
    pub(crate) id: Bytes,
}

/// Names a partition of what a consumer reads: a number where it reads one topic, else topic and number.
///
/// ```
/// let place: thalweg::Place = ("orders", 3).into();
/// assert_eq!(place.to_string(), "partition 3 of topic \"orders\"");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub(crate) topic: Option<String>,
    /// The id of the topic, 16 bytes, where the place comes from a record: another topic may bear the name by now.
    pub(crate) topic_id: Option<Bytes>,
    pub(crate) partition: u32,
}

impl Place {
    /// A partition of just this topic, and of no later one of its name; for the bindings.
    #[doc(hidden)]
    pub fn of_topic_id(topic: &str, id: Bytes, partition: u32) -> Place {
        Place { topic: Some(topic.to_owned()), topic_id: Some(id).filter(|id| !id.is_empty()), partition }
    }

    /// True for a partition of this topic.
    pub(crate) fn is_of(&self, topic: &TopicName) -> bool {
        self.bears_name_of(topic) && self.topic_id.as_ref().is_none_or(|id| *id == topic.id)
    }

    /// True for a partition of this topic, or of another one that bears its name.
    pub(crate) fn bears_name_of(&self, topic: &TopicName) -> bool {
        self.topic.as_deref().is_none_or(|name| name == topic.name)
    }
}

impl From<u32> for Place {
    fn from(partition: u32) -> Self {
        Place { topic: None, topic_id: None, partition }
    }
}

impl<T: Into<String>> From<(T, u32)> for Place {
    fn from((topic, partition): (T, u32)) -> Self {
        Place { topic: Some(topic.into()), topic_id: None, partition }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.topic {
            Some(topic) => write!(f, "partition {} of topic {topic:?}", self.partition),
            None => write!(f, "partition {}", self.partition),
        }
    }
}
