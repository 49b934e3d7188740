//! Records are placed anew, once their topic has another partitioner or more partitions.
//!
//! When that is due is left to `thalweg_client_core::ProducerCore`.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use thalweg_api::{ErrorCode, ErrorKind, MetadataRequest, Topic};
use thalweg_client_core::{Failure, Unplaced};

use super::receipt::Token;
use super::shared::{Obstacle, Shared};
use crate::admin::topics::the_topic;
use crate::client::FOREVER;
use crate::link::Link;
use crate::lock::lock;
use crate::placement::{Placed, SharedPlacement, place_all};
use crate::{Error, Result};

/// Records that are being placed anew, and are in no core meanwhile. What is left of them when this is dropped fails.
struct BeingPlaced {
    shared: Arc<Shared>,
    records: Vec<Unplaced<Token>>,
}

impl BeingPlaced {
    fn from_core(shared: &Arc<Shared>) -> BeingPlaced {
        let records = shared.core().take_unplaced();
        BeingPlaced { shared: shared.clone(), records }
    }

    /// Has those fail that are late, and waits a moment with the others; `None` if there are none. `why` will pass.
    async fn later(mut self, why: &Error) -> Option<BeingPlaced> {
        let now_ms = self.shared.now_ms();
        let (late, left) = self.records.drain(..).partition(|unplaced| unplaced.expires_ms <= now_ms);
        self.records = left;
        let late: Vec<Unplaced<Token>> = late;
        let error = Error::from(Failure::TimedOut(Some(why.to_string())));
        self.shared.refuse(late.into_iter().map(|unplaced| (unplaced, error.clone())));
        if self.records.is_empty() {
            return None;
        }
        tokio::time::sleep(PLACE_AGAIN).await;
        Some(self)
    }

    /// How long until the first of them is late, in ms.
    fn left_ms(&self) -> u64 {
        let first = self.records.iter().map(|unplaced| unplaced.expires_ms).min();
        first.unwrap_or(u64::MAX).saturating_sub(self.shared.now_ms())
    }

    fn into_records(mut self) -> Vec<Unplaced<Token>> {
        std::mem::take(&mut self.records)
    }
}

impl Drop for BeingPlaced {
    fn drop(&mut self) {
        let abandoned = Error::from(Failure::Abandoned);
        self.shared.refuse(self.records.drain(..).map(|unplaced| (unplaced, abandoned.clone())));
    }
}

/// What placing anew needs.
pub(super) struct Placing {
    pub(super) placement: SharedPlacement,
    pub(super) on_broker: bool,
}

/// How the topic's records are placed under a newer pin than `old`.
async fn newer_placement(link: &Rc<Link>, topic: &Topic, old: u32, on_broker: bool) -> Result<Placed> {
    loop {
        let request = MetadataRequest { topics: vec![topic.name.clone()], ..Default::default() };
        let found = the_topic(link.call_all(request).await?)?;
        if found.id != topic.id {
            return Err(Error::topic_gone(&topic.name));
        }
        if found.pin_epoch.0 > old {
            return Placed::of_topic(link, &found, on_broker).await;
        }
        // This broker does not know the newer pin yet.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The topic has another partitioner, or more partitions: what is not written yet is placed anew. Called once the fate
/// of everything else is known.
pub(super) async fn place_anew(link: Rc<Link>, shared: Arc<Shared>, topic: Arc<Topic>, placing: Rc<Placing>) {
    let mut known = shared.core().pin_epoch();
    let mut unplaced: Option<BeingPlaced> = None;
    let (fresh, records, places) = loop {
        let asked = Instant::now();
        // Those that stand in the core fail there when they are late.
        let left = Duration::from_millis(unplaced.as_ref().map_or(u64::MAX, BeingPlaced::left_ms)).min(FOREVER);
        let newer = tokio::time::timeout(left, newer_placement(&link, &topic, known, placing.on_broker)).await;
        let late = |_| Err(Error::new(ErrorKind::Timeout, "no broker tells how to place records"));
        let newer = newer.unwrap_or_else(late);
        let taken = unplaced.take().unwrap_or_else(|| BeingPlaced::from_core(&shared));
        let newer = match newer {
            Ok(newer) => newer,
            Err(error) if error.is_retriable() && error.code() != Some(ErrorCode::UnknownTopic) => {
                match taken.later(&error).await {
                    Some(left) => unplaced = Some(left),
                    None => return shared.wake.notify_one(),
                }
                continue;
            }
            Err(error) => return cannot_place(&shared, taken, asked, error).await,
        };
        let records = taken.records.iter().map(|u: &Unplaced<Token>| (u.record.clone(), u.token.chosen)).collect();
        let fresh = Arc::new(tokio::sync::Mutex::new(newer));
        let (pin_epoch, places) = place_all(&fresh, &link, records).await;
        if places.iter().any(|p| p.as_ref().is_err_and(|e| e.code() == Some(ErrorCode::StalePin))) {
            // It has changed once more.
            (known, unplaced) = (pin_epoch, Some(taken));
            continue;
        }
        // All of them once more, or some would overtake others.
        if let Some(error) = places.iter().find_map(|p| p.as_ref().err().filter(|e| e.is_retriable())) {
            match taken.later(error).await {
                Some(left) => unplaced = Some(left),
                None => return shared.wake.notify_one(),
            }
            continue;
        }
        break (fresh, taken, places);
    };
    *lock(&shared.obstacle) = None;
    let placed = Arc::into_inner(fresh).expect("placing is over").into_inner();
    let (pin_epoch, partitions) = (placed.pin_epoch, placed.partitions);
    *placing.placement.lock().await = placed;
    let refused: Vec<_> = {
        let mut core = shared.core();
        core.placed_anew(pin_epoch, partitions);
        let both = records.into_records().into_iter().zip(places);
        let push = |(unplaced, place): (Unplaced<Token>, Result<u32>)| match place {
            Ok(partition) => {
                core.push(unplaced.since_ms, partition, &unplaced.record, unplaced.token);
                None
            }
            Err(error) => Some((unplaced, error)),
        };
        both.filter_map(push).collect()
    };
    shared.refuse(refused);
    tracing::info!(topic = topic.name, pin_epoch, partitions, "the topic's records are placed anew from now on");
    shared.ledger.progress.notify_waiters();
    shared.wake.notify_one();
}

/// Nothing can be sent without the newest pin: the records that are here fail. Later ones try again, those that wait
/// beside the core too.
async fn cannot_place(shared: &Shared, taken: BeingPlaced, asked: Instant, error: Error) {
    let is_gone = error.code() == Some(ErrorCode::UnknownTopic);
    match is_gone {
        true => shared.gone.store(true, Ordering::Release),
        false => *lock(&shared.obstacle) = Some(Obstacle { asked, error: error.clone() }),
    }
    shared.refuse(taken.into_records().into_iter().map(|unplaced| (unplaced, error.clone())));
    if is_gone {
        tokio::time::sleep(PLACE_AGAIN).await;
    }
    shared.wake.notify_one();
}

/// How long records wait that cannot be placed anew now.
const PLACE_AGAIN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
