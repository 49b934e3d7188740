//! A client's batch on its way to its partition: whoever numbers it must have been given the producer id.
//!
//! An id alone proves nothing, because every reader of a batch sees it. The order of a producer's batches is
//! `replica`'s business.

use bytes::Bytes;
use thalweg_commit_log::Disk;
use thalweg_model::{Bug, PinEpoch, ProducerId, RecordBatch, TopicPartition, is_planted};
use thalweg_replica::{Acks, Now, ProduceError, Ticket};

use crate::node::{Node, Output};

/// What a client asks to have appended.
#[derive(Clone, Debug)]
pub struct Produce {
    /// Its records have been checked ([`RecordBatch::check_records`]).
    pub batch: RecordBatch,
    /// The token that came with the batch's producer id; anything, also nothing, for a batch that is not numbered.
    pub token: Bytes,
    /// Epoch of the pin that the records were placed with.
    pub pin_epoch: PinEpoch,
    /// When it is answered.
    pub acks: Acks,
}

impl<D: Disk> Node<D> {
    /// Appends a client's batch, or answers why not. The answer is a [`Output::Produced`]; with [`Acks::None`]
    /// only a refusal is answered.
    pub fn produce(&mut self, now: Now, name: TopicPartition, ticket: Ticket, request: Produce) {
        let Produce { batch, token, pin_epoch, acks } = request;
        if let Some(what) = self.lost_copy(&name).filter(|_| self.replicas().settings(&name).is_none()) {
            return self.push_output(Output::Produced(ticket, Err(ProduceError::Lost(what))));
        }
        // A broker that does not lead names the leader before it looks at the token: it may not know the secret yet.
        let is_serving = self.replicas().state(&name).is_some_and(|s| s.is_serving);
        let id = batch.header().producer.filter(|_| is_serving).map(|mark| mark.id);
        match id.map_or(Ok(()), |id| self.prove(id, &token)) {
            Ok(()) => self.replicas_mut().produce(now, name, ticket, batch, pin_epoch, acks),
            Err(error) => self.push_output(Output::Produced(ticket, Err(error))),
        }
    }

    fn prove(&self, id: ProducerId, token: &[u8]) -> Result<(), ProduceError> {
        if is_planted(Bug::ProducerNotProved) {
            return Ok(());
        }
        match self.metadata().producer_secret() {
            None => Err(ProduceError::SecretUnknown),
            Some(secret) if secret.proves(id, token) => Ok(()),
            Some(_) => Err(ProduceError::NotIssued { id }),
        }
    }
}
