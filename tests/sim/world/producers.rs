//! Producer ids from the controller, and two kinds of strangers: a thief, who writes under ids that were given to
//! others, and a twin, who has all that a producer has (a copied process, a restored machine) and other records to
//! send.

use std::collections::BTreeMap;

use bytes::Bytes;
use thalweg_api::{ApiError, ErrorCode};
use thalweg_broker_core::{ChangeError, Produce};
use thalweg_client_core::{Acks as ClientAcks, ProducerIdentity};
use thalweg_control::{Answer, Request};
use thalweg_model::{
    BatchBuilder, Codec, Offset, PinEpoch, ProducerEpoch, ProducerId, ProducerMark, Record, RecordBatch, Sequence,
};
use thalweg_replica::{Acks, ProduceError, Ticket};

use super::super::oracle::{COPIED, RecordId};
use super::super::rng::Rng;
use super::{World, name};

/// When a client's sends count as done: most wait for the quorum, as its oracles need, and so does the one that has a
/// twin.
pub(super) fn acks_of(seed: u64, client: usize) -> ClientAcks {
    match Rng::new(seed ^ 0xacc5 ^ (client as u64) << 32).below(6) {
        0 if client != COPIED => ClientAcks::Leader,
        1 if client != COPIED => ClientAcks::None,
        _ => ClientAcks::Quorum,
    }
}

/// As the broker's shell reads it.
pub(super) fn on_broker(acks: ClientAcks) -> Acks {
    match acks {
        ClientAcks::None => Acks::None,
        ClientAcks::Leader => Acks::Leader,
        ClientAcks::Quorum => Acks::Quorum,
        other => panic!("no broker knows {other:?}"),
    }
}

pub(super) struct Producers {
    /// A draw of its own, so that strangers change nothing else that a seed does.
    rng: Rng,
    /// Per million milliseconds.
    thefts: u64,
    /// Per million batches of the client that has a twin.
    twins: u64,
    identities: BTreeMap<usize, ProducerIdentity>,
    asked: BTreeMap<(usize, Ticket), usize>,
    /// How each client numbered its last batch to a partition, and its records: what every reader can see.
    seen: BTreeMap<(usize, u32), (ProducerMark, u32)>,
    /// Records that a leader may acknowledge alone.
    by_leader: BTreeMap<(usize, Ticket), (u32, Vec<RecordId>)>,
    /// Batches under the number 0, where producers are forgotten.
    beginnings: BTreeMap<(usize, Ticket), (u32, ProducerMark)>,
    stolen: BTreeMap<(usize, Ticket), ProducerMark>,
    copied: BTreeMap<(usize, Ticket), (u32, Vec<RecordId>)>,
    /// What the twin was told: noted between two turns, as with clients, because a whole read takes several.
    acked: Vec<(RecordId, u32, u64)>,
    next_record: RecordId,
}

impl Producers {
    pub(super) fn new(seed: u64) -> Producers {
        let mut rng = Rng::new(seed ^ 0x7417_e5ee_d000_0001);
        let thefts = if rng.chance(400_000) { rng.below(20_000) } else { 0 };
        let twins = if rng.chance(250_000) { rng.below(50_000) } else { 0 };
        Producers {
            rng,
            thefts,
            twins,
            identities: BTreeMap::new(),
            asked: BTreeMap::new(),
            seen: BTreeMap::new(),
            by_leader: BTreeMap::new(),
            beginnings: BTreeMap::new(),
            stolen: BTreeMap::new(),
            copied: BTreeMap::new(),
            acked: Vec::new(),
            next_record: 0,
        }
    }

    pub(super) fn calm(&mut self) {
        (self.thefts, self.twins) = (0, 0);
    }

    pub(super) fn broker_gone(&mut self, node: usize) {
        self.asked.retain(|(n, _), _| *n != node);
        self.by_leader.retain(|(n, _), _| *n != node);
        self.beginnings.retain(|(n, _), _| *n != node);
        self.stolen.retain(|(n, _), _| *n != node);
        self.copied.retain(|(n, _), _| *n != node);
    }

    /// A client whose id another one uses, too, may be told so; nothing else is ever refused.
    pub(super) fn may_refuse(&self, client: usize, error: &ApiError) -> bool {
        let twins_fault = matches!(error.code, ErrorCode::SequenceTaken | ErrorCode::UnknownProducer);
        self.twins > 0 && client == COPIED && twins_fault
    }

    fn batch(&mut self, first: RecordId, count: u32, mark: ProducerMark) -> (RecordBatch, Vec<RecordId>) {
        let ids: Vec<RecordId> = (0..count as u64).map(|i| first + self.next_record + i).collect();
        self.next_record += count as u64;
        let mut builder = BatchBuilder::new();
        for id in &ids {
            builder.push(&Record { value: Some(id.to_le_bytes().to_vec().into()), ..Record::default() });
        }
        (builder.build(Codec::None, Some(mark)), ids)
    }
}

impl World {
    /// Clients without an id ask the controller for one, again if the answer was lost.
    pub(super) fn ask_for_ids(&mut self, node: usize) {
        let now = self.now();
        if !now.mono_ms.is_multiple_of(ASK_EVERY_MS) {
            return;
        }
        for client in 0..self.clients.len() {
            let is_controller = self.nodes[node].core.as_ref().is_some_and(|c| c.is_controller());
            if !is_controller || self.producers.identities.contains_key(&client) {
                continue;
            }
            let ticket = self.ticket();
            self.producers.asked.insert((node, ticket), client);
            let secret = std::array::from_fn(|_| self.producers.rng.below(256) as u8);
            let core = self.nodes[node].core.as_mut().expect("just looked");
            core.change(now, ticket, Request::InitProducer { secret });
        }
    }

    pub(super) fn id_given(&mut self, node: usize, ticket: Ticket, result: Result<Answer, ChangeError>) {
        let Some(client) = self.producers.asked.remove(&(node, ticket)) else { return };
        let Ok(Answer::Producer(id, token)) = result else { return };
        // A client asks until it hears something: it may be given several, and takes the first.
        if let std::collections::btree_map::Entry::Vacant(place) = self.producers.identities.entry(client) {
            let identity = ProducerIdentity { id, epoch: ProducerEpoch(0), token };
            place.insert(identity);
            self.clients[client].core.identify(identity);
        }
    }

    /// Hands a client's batch to its broker. A twin may come a moment earlier or later, with the same number and other
    /// records.
    pub(super) fn hand_over(&mut self, node: usize, client: usize, partition: u32, ticket: Ticket, produce: Produce) {
        let mark = produce.batch.header().producer;
        let count = produce.batch.records_count();
        let twin = mark.filter(|_| {
            let producers = &mut self.producers;
            client == COPIED && producers.twins > 0 && !self.healing && producers.rng.chance(producers.twins)
        });
        let comes_first = self.producers.rng.chance(500_000);
        let (now, pin_epoch, token) = (self.now(), produce.pin_epoch, produce.token.clone());
        if let Some(mark) = mark {
            self.producers.seen.insert((client, partition), (mark, count));
            if self.oracle.producers_are_forgotten && mark.base_sequence == Sequence(0) {
                self.producers.beginnings.insert((node, ticket), (partition, mark));
            }
        }
        if produce.acks == Acks::Leader {
            let records = produce.batch.records().expect("built by a client").into_iter();
            let number = |r: Record| r.value.and_then(|v| v.first_chunk::<8>().map(|b| u64::from_le_bytes(*b)));
            let ids = records.filter_map(|(_, r)| number(r)).collect();
            self.producers.by_leader.insert((node, ticket), (partition, ids));
        }
        let mut all = vec![(ticket, produce)];
        if let Some(mark) = twin {
            let other = self.producers.rng.below(count as u64 + 2) as u32 + 1;
            let count = if self.producers.rng.chance(600_000) { count } else { other };
            let (batch, ids) = self.producers.batch(TWIN, count, mark);
            ids.iter().for_each(|id| self.oracle.pushed(*id, partition));
            let ticket = self.ticket();
            self.note(|| format!("{node}: a twin writes {mark:?} with {count} records"));
            self.producers.copied.insert((node, ticket), (partition, ids));
            let produce = Produce { batch, token, pin_epoch, acks: Acks::Quorum };
            all.insert(if comes_first { 0 } else { 1 }, (ticket, produce));
        }
        let group = name(partition);
        for (ticket, produce) in all {
            let core = self.nodes[node].core.as_mut().expect("the caller has looked");
            let (batch, before) = (produce.batch.clone(), core.replicas().state(&group).map(|s| s.log_end));
            core.produce(now, group, ticket, produce);
            let settings = core.replicas().settings(&group);
            let is_longer = core.replicas().state(&group).map(|s| s.log_end) != before;
            if let (Some(settings), Some(offset), true) = (settings, before, is_longer) {
                self.oracle.appended(partition, settings.pin_epoch.0, offset.0, &batch);
            }
        }
    }

    /// Somebody writes under a producer id that was seen, guessed or made up.
    pub(super) fn strangers(&mut self) -> Result<(), String> {
        for (id, partition, offset) in std::mem::take(&mut self.producers.acked) {
            self.oracle.acked(id, partition, offset)?;
        }
        let thefts = self.producers.thefts;
        if self.healing || !self.producers.rng.chance(thefts) {
            return Ok(());
        }
        let rng = &mut self.producers.rng;
        let partition = rng.below(self.partitions as u64) as u32;
        let (kind, client, token_kind, near) =
            (rng.below(5), rng.below(3) as usize, rng.below(3), rng.below(20) as i64);
        let random: [u8; 16] = std::array::from_fn(|_| rng.below(256) as u8);
        let Some(node) = self.leader(name(partition)).filter(|n| self.is_running(*n)) else { return Ok(()) };
        let last = self.producers.identities.values().map(|i| i.id.0).max().unwrap_or(0);
        let new = |id: i64| ProducerMark { id: ProducerId(id), epoch: ProducerEpoch(0), base_sequence: Sequence(0) };
        let seen = self.producers.seen.get(&(client, partition)).copied();
        let mark = match (kind, seen) {
            (0, Some((mark, count))) => ProducerMark { base_sequence: mark.base_sequence.plus(count), ..mark },
            (1, Some((mark, _))) => mark,
            (2, Some((mark, _))) => ProducerMark { epoch: ProducerEpoch(i16::MAX), base_sequence: Sequence(0), ..mark },
            (3, _) => new(last + 1 + near),
            _ => new(1_000_000_000_000_000_000),
        };
        let others = self.producers.identities.values().find(|i| i.id != mark.id);
        let token = match (token_kind, others) {
            (0, _) => Bytes::new(),
            // What came with an id that was given out.
            (1, Some(other)) => Bytes::copy_from_slice(&other.token.0),
            _ => Bytes::copy_from_slice(&random),
        };
        let (batch, _) = self.producers.batch(THIEF, 1, mark);
        let ticket = self.ticket();
        self.producers.stolen.insert((node, ticket), mark);
        let pin_epoch = PinEpoch(self.pin_epoch(node).unwrap_or(0));
        let now = self.now();
        let core = self.nodes[node].core.as_mut().expect("it runs");
        core.produce(now, name(partition), ticket, Produce { batch, token, pin_epoch, acks: Acks::Quorum });
        self.outputs(node)
    }

    /// Takes what concerns a stranger; hands back what does not.
    pub(super) fn stranger_answered(
        &mut self,
        node: usize,
        ticket: Ticket,
        result: Result<Offset, ProduceError>,
    ) -> Result<Option<Result<Offset, ProduceError>>, String> {
        if let Some(mark) = self.producers.stolen.remove(&(node, ticket)) {
            return match result {
                Ok(offset) => Err(format!("whoever was not given {mark:?} wrote under it, at {offset}")),
                Err(_) => Ok(None),
            };
        }
        if let Some((partition, mark)) = self.producers.beginnings.remove(&(node, ticket))
            && matches!(result, Err(ProduceError::StalePin { .. }))
        {
            self.oracle.refused_for_pin(partition, mark, self.config.producers_max);
        }
        if let Some((partition, ids)) = self.producers.by_leader.remove(&(node, ticket)) {
            let state = self.nodes[node].replicas().and_then(|r| r.state(&name(partition)));
            if let (Ok(base), Some(state)) = (&result, state) {
                for (at, id) in ids.into_iter().enumerate() {
                    self.oracle.acked_by_leader(id, partition, base.0 + at as u64, state.leader_epoch.0);
                }
            }
            return Ok(Some(result));
        }
        let Some((partition, ids)) = self.producers.copied.remove(&(node, ticket)) else { return Ok(Some(result)) };
        if let Ok(base) = result {
            let places = ids.into_iter().zip(base.0..).map(|(id, offset)| (id, partition, offset));
            self.producers.acked.extend(places);
        }
        Ok(None)
    }
}

/// How often a client without an id asks for one.
const ASK_EVERY_MS: u64 = 50;
/// Records of thieves and of the twin have numbers from here on.
const THIEF: RecordId = 0xdead << 40;
pub(super) const TWIN: RecordId = 0xbeef << 40;
