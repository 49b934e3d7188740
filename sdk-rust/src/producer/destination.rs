//! One topic that a producer sends to, as its connection's side knows it.
//!
//! Where the partitions of the topic are led is left to `drive.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use thalweg_client_core::ProducerConfig;

use super::receipt::Ledger;
use crate::{Error, Record};

/// What the connection's thread knows of one topic that a producer sends to.
pub(super) struct Options {
    pub(super) topic: Destination,
    pub(super) config: ProducerConfig,
    pub(super) place_on_broker: bool,
    pub(super) rest_after: Duration,
    /// The moment from which the core counts time.
    pub(super) started: Instant,
    pub(super) ledger: Arc<Ledger>,
}

/// The topic, as its records and errors name it.
#[derive(Clone)]
pub(super) struct Destination {
    pub(super) name: Arc<str>,
    /// True where each record names its topic, so that it is given back with that name.
    pub(super) is_one_of_many: bool,
}

impl Destination {
    /// The error of one of its records, which gives the record back as it was sent.
    pub(super) fn error_of(&self, error: Error, record: thalweg_model::Record, chosen: Option<u32>) -> Error {
        let record = Record::sent(record, chosen);
        let record = if self.is_one_of_many { record.topic(&*self.name) } else { record };
        error.of_record(&self.name, record)
    }
}
