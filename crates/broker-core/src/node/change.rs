//! A change of the metadata that waits for its turn, and why one is not made. When it is decided is left to
//! `controller`.

use thalweg_control::{ControlError, Request};
use thalweg_model::BrokerId;
use thalweg_replica::{ProduceError, Ticket};
use thiserror::Error;

/// Why a change was not made, or may not have been.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ChangeError {
    /// This broker is not the controller.
    #[error("{}", not_controller(*leader))]
    NotController {
        /// Which, as far as this one knows.
        leader: Option<BrokerId>,
    },
    /// The request is refused; nothing changes.
    #[error(transparent)]
    Refused(#[from] ControlError),
    /// The metadata log does not take it.
    #[error("cluster metadata: {0}")]
    Log(ProduceError),
    /// Too many changes wait.
    #[error("{CHANGES_MAX} changes wait already")]
    Busy,
}

fn not_controller(leader: Option<BrokerId>) -> String {
    match leader {
        Some(broker) => format!("broker {broker} is the controller, not this one"),
        None => {
            "no controller is known here: too few of the cluster's controllers can be reached, or they are electing one"
                .into()
        }
    }
}

pub(super) struct Change {
    /// `None` for one of the node's own.
    pub(super) ticket: Option<Ticket>,
    pub(super) request: Request,
}

/// Changes that may wait for their turn.
pub(super) const CHANGES_MAX: usize = 1_024;
