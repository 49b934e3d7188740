//! Who asks on a connection, and how much of it at once: a connection has as many streams as it likes, and a few turns.

use thalweg_api::Right;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::door::Principal;

/// See the module.
pub(crate) struct Asker {
    pub(crate) principal: Principal,
    turns: Semaphore,
}

impl Asker {
    pub(crate) fn new(principal: Principal) -> Asker {
        Asker { principal, turns: Semaphore::new(TURNS) }
    }

    /// Waits for a turn, for what may be large to answer: what looks at much and changes nothing. Other requests, which
    /// wait for others rather than work, take none, nor do those of other brokers.
    pub(crate) async fn turn(&self, right: Right) -> Option<SemaphorePermit<'_>> {
        match right {
            Right::Describe if !self.principal.is_broker() => {
                Some(self.turns.acquire().await.expect("it is never closed"))
            }
            _ => None,
        }
    }
}

/// Requests of one connection that are answered at once. Each is decoded and answered in pieces of about a millisecond,
/// during which everybody else waits.
const TURNS: usize = 4;
