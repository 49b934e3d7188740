//! What the coordinators have for their node, and why a request is not answered. What follows is left to the node.

use thalweg_control::{GroupAnswer, GroupError, OFFSETS_TOPIC};
use thalweg_model::{BrokerId, Offset, TopicPartition};
use thalweg_replica::{ProduceError, Ticket};
use thiserror::Error;

use crate::machine::Unanswered;

/// What the coordinators have for their node.
#[derive(Debug)]
pub(crate) enum GroupOutput {
    Answer(Ticket, Result<GroupAnswer, CoordinatorError>),
    /// The assignment of a group's member changed.
    Changed(String, String),
    /// The leaders of these partitions are to be asked whether they go on up to these offsets. `Coordinators::told`
    /// takes the answers.
    AskEnds(u64, Vec<(TopicPartition, Offset)>),
}

/// Why a group's request was not answered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CoordinatorError {
    /// Another broker coordinates the group.
    #[error("{}", not_coordinator(*leader))]
    NotCoordinator {
        /// Which, as far as this one knows.
        leader: Option<BrokerId>,
    },
    /// The request is refused; nothing changes.
    #[error(transparent)]
    Refused(#[from] GroupError),
    /// The log of the groups does not take it.
    #[error("{OFFSETS_TOPIC}: {0}")]
    Log(ProduceError),
    /// Too many requests wait.
    #[error("{waiting} requests wait for this group's coordinator already; try again")]
    Busy {
        /// How many requests wait.
        waiting: usize,
    },
}

fn not_coordinator(leader: Option<BrokerId>) -> String {
    match leader {
        Some(broker) => format!("broker {broker} coordinates this group, not this one"),
        None => "nobody coordinates this group at the moment: its partition of __consumer_offsets has no leader".into(),
    }
}

impl From<ProduceError> for CoordinatorError {
    fn from(error: ProduceError) -> Self {
        match error {
            ProduceError::NotLeader { leader } => CoordinatorError::NotCoordinator { leader },
            other => CoordinatorError::Log(other),
        }
    }
}

impl From<Unanswered<GroupError>> for CoordinatorError {
    fn from(why: Unanswered<GroupError>) -> Self {
        match why {
            Unanswered::Refused(error) => CoordinatorError::Refused(error),
            Unanswered::Log(error) => error.into(),
            Unanswered::Busy(waiting) => CoordinatorError::Busy { waiting },
        }
    }
}
