//! What must always hold, checked against what clients were told, what readers see and what replicas hold.
//!
//! Source: the design's promises 1 and 2; Raft §5 (one leader per term, log matching, leader completeness). No
//! acknowledged record is lost; every offset is an acknowledged record, an unacknowledged one or a control batch;
//! nothing stands twice; what was read once stays; what one replica calls decided, no other calls otherwise. And of
//! docs/sdk.md's: a producer's records of one partition stand in the order in which it pushed them, each where the
//! partitioner puts it whose pin the log was under.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use thalweg_model::{ProducerEpoch, ProducerId, ProducerMark, Record, RecordBatch, ReplicaId};

/// A record that some client pushed: client and number.
pub(crate) type RecordId = u64;

/// The clients' partitioner: where the pin of this epoch puts a record.
pub(super) fn place(id: RecordId, pin_epoch: u32, partitions: u32) -> u32 {
    // Neighbours apart, so that each partition gets runs of them.
    ((id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u32).wrapping_add(pin_epoch) % partitions
}

/// The number that a record's value begins with.
/// True for a record that its client stamps so far ahead of every clock that no broker takes it. Not for those of the
/// client that may have a twin: whose batch stands in a log under the number of a refused one is anybody's guess.
pub(super) fn is_ahead(id: RecordId) -> bool {
    (COPIED as u64 + 1..CLIENTS_END).contains(&client_of(id)) && id % 41 == 7
}

pub(super) fn id_of(record: &Record) -> RecordId {
    let value = record.value.as_deref().expect("clients send values");
    u64::from_le_bytes(value[..8].try_into().expect("values start with their number"))
}

#[derive(Default)]
pub(super) struct Oracle {
    /// How many partitions the topic has, by the epoch of its pin.
    partitions: BTreeMap<u32, u32>,
    /// Every record that was pushed: its partition, and its place among all pushes, the latest one if it was placed
    /// anew.
    pushed: BTreeMap<RecordId, (u32, u64)>,
    /// Where else a record was placed before; kept only where producers are forgotten.
    placed_before: BTreeSet<(RecordId, u32)>,
    pushes: u64,
    /// Given up by their clients. Whether they stand anywhere is open.
    timed_out: BTreeSet<RecordId>,
    /// Brokers forget producers that the clients still are, so that what a stopped broker takes late, after its client
    /// has given it up and gone on, may be taken for something new.
    pub(super) producers_are_forgotten: bool,
    /// Under which pin each record was last appended, by partition.
    appended: BTreeMap<(u32, RecordId), u32>,
    /// Where leaders appended each record, and how its batch was numbered; kept only where producers are forgotten.
    appends: BTreeMap<(u32, RecordId), Vec<(u64, Option<ProducerMark>)>>,
    /// The number 0 of a producer's epoch, by partition, producer and epoch; kept only where producers are forgotten.
    begun: BTreeMap<(u32, ProducerId, ProducerEpoch), Begun>,
    /// One past the largest offset at which each producer's batches were appended, by partition; kept only where
    /// producers are forgotten.
    written: BTreeMap<(u32, ProducerId), u64>,
    /// Where a twin's record was first appended, by partition, producer, epoch and number; kept only where producers
    /// are forgotten.
    by_twin: BTreeMap<(u32, ProducerId, ProducerEpoch, i32), u64>,
    /// Acknowledged: partition and offset.
    acked: BTreeMap<RecordId, (u32, u64)>,
    acked_at: BTreeMap<(u32, u64), RecordId>,
    /// Ever read below the high watermark; `None` for a control record.
    seen: BTreeMap<(u32, u64), Option<RecordId>>,
    /// Newest leader epoch that served, and its high watermark.
    serving: BTreeMap<u32, (u32, u64)>,
    leaders: BTreeMap<(u32, u32), ReplicaId>,
    /// Batches that some replica called decided, by offset.
    decided: BTreeMap<(u32, u64), Decided>,
    /// Acknowledged by a leader alone: partition, offset, and the epoch that it led.
    acked_by_leader: BTreeMap<RecordId, (u32, u64, u32)>,
    /// Clients whose records need not stand in the order of their sending.
    unordered: BTreeSet<u64>,
    /// Says nothing any more: what it knows was promised by a disk that has forgotten it.
    pub(super) is_mute: bool,
}

/// What became of the number 0 of an epoch.
struct Begun {
    /// Where it was first appended.
    first: u64,
    appended_count: u32,
    /// A leader that had forgotten the producer refused it since, for its pin.
    is_refused: bool,
}

impl Begun {
    /// A leader took it for a beginning once more, so that what it said of this epoch proves nothing.
    fn is_again(&self) -> bool {
        self.appended_count > 1 || self.is_refused
    }
}

/// A batch.
#[derive(PartialEq, Eq)]
struct Decided {
    end: u64,
    hash: u64,
    length: u64,
    /// Of its newest record, ms since the Unix epoch; `None` without records.
    newest_ms: Option<i64>,
}

/// Who sent a record; strangers have numbers above those of clients.
pub(super) fn client_of(id: RecordId) -> u64 {
    id >> 40
}

impl Oracle {
    pub(super) fn new(partitions: u32, producers_are_forgotten: bool) -> Oracle {
        Oracle { partitions: BTreeMap::from([(1, partitions)]), producers_are_forgotten, ..Oracle::default() }
    }

    /// A broker knows the topic with so many partitions under this pin: so does everybody else, and never fewer under a
    /// later one.
    pub(super) fn has_partitions(&mut self, pin_epoch: u32, partitions: u32) -> Result<(), String> {
        if self.is_mute {
            return Ok(());
        }
        let known = *self.partitions.entry(pin_epoch).or_insert(partitions);
        let before = self.partitions.range(..pin_epoch).next_back().map_or(0, |(_, count)| *count);
        let after = self.partitions.range(pin_epoch + 1..).next().map_or(u32::MAX, |(_, count)| *count);
        match known == partitions && (before..=after).contains(&partitions) {
            true => Ok(()),
            false => Err(format!(
                "the topic has {partitions} partitions under pin epoch {pin_epoch}, where it had {known}, after \
                 {before} and before {after}"
            )),
        }
    }

    /// How many partitions the pin of this epoch places records among.
    fn partitions_under(&self, pin_epoch: u32) -> u32 {
        let earlier = self.partitions.range(..=pin_epoch).next_back();
        *earlier.or(self.partitions.first_key_value()).expect("a topic has partitions").1
    }

    /// Records that were placed in this partition last, by clients that wait for the quorum and have not given them up,
    /// and how many of them are acknowledged.
    pub(super) fn placed_in(&self, partition: u32) -> (usize, usize) {
        let clients: BTreeSet<u64> = self.acked.keys().map(|id| client_of(*id)).filter(|c| *c < CLIENTS_END).collect();
        let is_due = |(id, (at, _)): &(&RecordId, &(u32, u64))| {
            *at == partition && clients.contains(&client_of(**id)) && !self.timed_out.contains(*id)
        };
        let due = self.pushed.iter().filter(is_due);
        due.fold((0, 0), |(due, acked), (id, _)| (due + 1, acked + usize::from(self.acked.contains_key(id))))
    }

    pub(super) fn pushed(&mut self, id: RecordId, partition: u32) {
        self.pushes += 1;
        let before = self.pushed.insert(id, (partition, self.pushes));
        if self.producers_are_forgotten {
            self.placed_before.extend(before.map(|(partition, _)| (id, partition)));
        }
    }

    /// A client has given the record up.
    pub(super) fn timed_out(&mut self, id: RecordId) {
        self.timed_out.insert(id);
    }

    /// A leader that knows this pin has appended a client's batch, from this offset on.
    pub(super) fn appended(&mut self, partition: u32, pin_epoch: u32, offset: u64, batch: &RecordBatch) {
        if let Some(mark) = batch.header().producer.filter(|_| self.producers_are_forgotten) {
            let end = self.written.entry((partition, mark.id)).or_default();
            *end = (offset + u64::from(batch.offsets_count())).max(*end);
            if mark.base_sequence.0 == 0 {
                let begun = Begun { first: offset, appended_count: 0, is_refused: false };
                self.begun.entry((partition, mark.id, mark.epoch)).or_insert(begun).appended_count += 1;
            }
        }
        let records = batch.records().expect("a batch that a client built opens");
        for ((at, offset), (_, record)) in (0..).zip(offset..).zip(records) {
            let key = (partition, id_of(&record));
            self.appended.insert(key, pin_epoch);
            if self.producers_are_forgotten {
                if let Some(m) = batch.header().producer.filter(|_| client_of(key.1) >= CLIENTS_END) {
                    let number = m.base_sequence.plus(at).0;
                    self.by_twin.entry((partition, m.id, m.epoch, number)).or_insert(offset);
                }
                self.appends.entry(key).or_default().push((offset, batch.header().producer));
            }
        }
    }

    /// A leader refused the number 0 of an epoch, because the records were placed with an older pin. It looks at
    /// numbers first: had it known the batch, it would have called it a duplicate. So, if the number 0 was appended
    /// before, it has forgotten the producer, or should not have said so: it remembers `producers_max`, and has
    /// forgotten nobody behind whom fewer have written.
    pub(super) fn refused_for_pin(&mut self, partition: u32, mark: ProducerMark, producers_max: usize) {
        let Some(begun) = self.begun.get_mut(&(partition, mark.id, mark.epoch)) else { return };
        let all = (partition, ProducerId(i64::MIN))..=(partition, ProducerId(i64::MAX));
        let behind = self.written.range(all).filter(|((_, id), end)| *id != mark.id && **end > begun.first).count();
        begun.is_refused |= behind >= producers_max;
    }

    /// What stands here is the record's second copy, which a leader took that had forgotten its producer.
    ///
    /// The number 0 begins an epoch, and so does the number 0 that is sent again because its answer was lost: whoever
    /// has forgotten the producer cannot tell one from the other, takes it, and then takes what follows it. Other
    /// numbers of a forgotten producer are refused. Where that is not its beginning, the leader says that a number does
    /// not follow, which proves to a client that nothing was appended under it, so that the client numbers anew: that
    /// proof is wrong then. So it is where the number 0 comes again with a pin that is not the topic's any more:
    /// refused for that, as if it began, the client takes what it holds of the epoch for not appended, and places it
    /// anew (seeds 3007536, 3009715). A copy is excused under the very number of the first one, which still stands
    /// before it or went with retention, and in a later epoch than one that was begun again in either way. A client
    /// that numbers anew otherwise what may have been appended is not excused, nor is any second copy where nobody is
    /// forgotten.
    fn is_forgotten_copy(
        &self,
        (partition, offset): (u32, u64),
        id: RecordId,
        from: u64,
        places: &BTreeSet<(RecordId, u64)>,
    ) -> bool {
        let appends = self.appends.get(&(partition, id)).map_or(&[][..], Vec::as_slice);
        let here = appends.iter().filter(|(at, _)| *at == offset).map(|(_, mark)| mark.as_ref());
        let is_first = |at: u64| at < offset && (at < from || places.contains(&(id, at)));
        let is_begun_again =
            |m: &ProducerMark| self.begun.get(&(partition, m.id, m.epoch)).is_some_and(Begun::is_again);
        let comes_of = |here: &ProducerMark, first: &ProducerMark| {
            here == first || (here.id == first.id && here.epoch > first.epoch && is_begun_again(first))
        };
        here.into_iter().flatten().any(|here| {
            appends.iter().any(|(at, first)| is_first(*at) && first.as_ref().is_some_and(|first| comes_of(here, first)))
        })
    }

    /// What stands here has a number that a twin's records had first, in an epoch that was begun again since.
    ///
    /// The record was refused then, and what followed the twin's was taken: all of it without an answer that arrived. A
    /// leader that has forgotten the producer takes the whole epoch anew, this time with the record, which so stands
    /// behind the first copies of what followed it.
    fn was_number_of_twin(&self, (partition, offset): (u32, u64), id: RecordId) -> bool {
        let appends = self.appends.get(&(partition, id)).map_or(&[][..], Vec::as_slice);
        appends.iter().filter(|(at, _)| *at == offset).filter_map(|(_, mark)| mark.as_ref()).any(|m| {
            let twins = self.by_twin.get(&(partition, m.id, m.epoch, m.base_sequence.0));
            let begun_count = self.begun.get(&(partition, m.id, m.epoch)).map_or(0, |begun| begun.appended_count);
            twins.is_some_and(|at| *at < offset) && begun_count > 1
        })
    }

    /// Nothing is said about the order of this client's records.
    pub(super) fn is_unordered(&mut self, client: u64) {
        self.unordered.insert(client);
    }

    /// A leader acknowledged this record alone. While it leads, the record stays where it is.
    pub(super) fn acked_by_leader(&mut self, id: RecordId, partition: u32, offset: u64, epoch: u32) {
        self.acked_by_leader.insert(id, (partition, offset, epoch));
    }

    pub(super) fn acked(&mut self, id: RecordId, partition: u32, offset: u64) -> Result<(), String> {
        if self.is_mute {
            return Ok(());
        }
        if is_ahead(id) {
            return Err(format!(
                "record {id} is acknowledged at {partition}/{offset}, and is of a day that has not come"
            ));
        }
        if let Some(before) = self.acked.insert(id, (partition, offset)) {
            return Err(format!("record {id} was acknowledged at {before:?} and again at {partition}/{offset}"));
        }
        if let Some(other) = self.acked_at.insert((partition, offset), id) {
            return Err(format!("offset {partition}/{offset} was acknowledged for record {other} and for {id}"));
        }
        match self.seen.get(&(partition, offset)) {
            Some(there) if *there != Some(id) => {
                Err(format!("record {id} was acknowledged at {partition}/{offset}, where readers saw {there:?}"))
            }
            _ => Ok(()),
        }
    }

    /// Every acknowledged record.
    pub(super) fn acked_ids(&self) -> impl Iterator<Item = RecordId> {
        self.acked.keys().copied()
    }

    /// Partition and offset of an acknowledged record.
    pub(super) fn acked_place(&self, id: RecordId) -> Option<(u32, u64)> {
        self.acked.get(&id).copied()
    }

    /// Where every acknowledged record stands.
    pub(super) fn acked_places(&self) -> impl Iterator<Item = (u32, u64)> {
        self.acked_at.keys().copied()
    }

    /// The acknowledged records at these offsets.
    pub(super) fn acked_in(
        &self,
        partition: u32,
        offsets: std::ops::Range<u64>,
    ) -> impl Iterator<Item = (u64, RecordId)> + '_ {
        let within = (partition, offsets.start)..(partition, offsets.end);
        self.acked_at.range(within).map(|((_, offset), id)| (*offset, *id))
    }

    /// Bytes of decided batches from an offset on; `None` where some of them were never seen.
    pub(super) fn bytes_from(&self, partition: u32, offset: u64) -> Option<u64> {
        let (mut next, mut bytes) = (offset, 0);
        for ((_, base), batch) in self.decided.range((partition, offset)..=(partition, u64::MAX)) {
            if *base != next {
                return None;
            }
            (next, bytes) = (batch.end, bytes + batch.length);
        }
        Some(bytes)
    }

    /// End of the last decided batch that holds one of these offsets and is young by its timestamps, or else of the one
    /// that holds the first of them; `None` where that was never seen.
    pub(super) fn young_end(
        &self,
        partition: u32,
        offsets: std::ops::Range<u64>,
        is_young: impl Fn(i64) -> bool,
    ) -> Option<u64> {
        let first = self.decided.range((partition, 0)..=(partition, offsets.start)).next_back();
        let end = first.map(|(_, batch)| batch.end).filter(|end| *end > offsets.start)?;
        let mut behind = self.decided.range((partition, end)..(partition, offsets.end.max(end)));
        let young = behind.rfind(|(_, batch)| batch.newest_ms.is_some_and(&is_young));
        Some(young.map_or(end, |(_, batch)| batch.end))
    }

    pub(super) fn acked_count(&self) -> usize {
        self.acked.len()
    }

    /// One past the last acknowledged offset: what `latest` may not be below.
    pub(super) fn acked_end(&self, partition: u32) -> u64 {
        let last = self.acked_at.range((partition, 0)..=(partition, u64::MAX)).next_back();
        last.map_or(0, |((_, offset), _)| offset + 1)
    }

    /// The answer to a request for `latest` that was made when `acked_end` was this.
    pub(super) fn latest(&self, partition: u32, acked_end: u64, answer: u64) -> Result<(), String> {
        if self.is_mute {
            return Ok(());
        }
        match answer < acked_end {
            true => Err(format!("latest of {partition} is {answer}, although {acked_end} was acknowledged before")),
            false => Ok(()),
        }
    }

    /// A replica leads in this term; nobody else ever does.
    pub(super) fn leads(&mut self, partition: u32, term: u32, replica: ReplicaId) -> Result<(), String> {
        if self.is_mute {
            return Ok(());
        }
        let first = self.leaders.entry((partition, term)).or_insert(replica);
        match *first == replica {
            true => Ok(()),
            false => Err(format!("{partition} has two leaders in term {term}: replicas {first} and {replica}")),
        }
    }

    /// A replica serves with this high watermark. A newer leader knows all that an older one did; one that was replaced
    /// without knowing it may lag.
    pub(super) fn high_watermark(&mut self, partition: u32, epoch: u32, offset: u64) -> Result<(), String> {
        if self.is_mute {
            return Ok(());
        }
        let (newest, before) = self.serving.get(&partition).copied().unwrap_or((0, 0));
        if epoch >= newest {
            self.serving.insert(partition, (epoch, offset.max(before)));
        }
        match epoch >= newest {
            true if offset < before => {
                Err(format!("the high watermark of {partition} moved back from {before} to {offset} in epoch {epoch}"))
            }
            false if offset > before => {
                Err(format!("epoch {epoch} of {partition} decides up to {offset}, epoch {newest} began with {before}"))
            }
            _ => Ok(()),
        }
    }

    /// A replica calls this batch decided.
    pub(super) fn decided(&mut self, partition: u32, replica: ReplicaId, batch: &RecordBatch) -> Result<(), String> {
        if self.is_mute {
            return Ok(());
        }
        let mut hash = DefaultHasher::new();
        batch.bytes().hash(&mut hash);
        let newest_ms = (!batch.is_control()).then(|| batch.header().max_timestamp_ms);
        let (end, length) = (batch.end_offset().0, batch.bytes().len() as u64);
        let here = Decided { end, hash: hash.finish(), length, newest_ms };
        match self.decided.get(&(partition, batch.base_offset().0)) {
            None => {
                self.decided.insert((partition, batch.base_offset().0), here);
                Ok(())
            }
            Some(first) if *first == here => Ok(()),
            Some(_) => Err(format!("replica {replica} of {partition} holds another batch at {}", batch.base_offset())),
        }
    }

    /// A whole read of a partition, from its log start to its high watermark.
    pub(super) fn read(
        &mut self,
        partition: u32,
        from: u64,
        until: u64,
        is_newest: bool,
        records: &[(u64, Option<RecordId>)],
    ) -> Result<(), String> {
        if self.is_mute {
            return Ok(());
        }
        let mut next = from;
        let places: BTreeSet<(RecordId, u64)> = records.iter().filter_map(|(o, id)| id.map(|id| (id, *o))).collect();
        let mut latest: BTreeMap<u64, (u64, RecordId)> = BTreeMap::new();
        for (offset, id) in records {
            if *offset != next {
                return Err(format!("a reader of {partition} got offset {offset} where {next} follows"));
            }
            next += 1;
            if let Some(id) = id {
                // Of what a broker has appended and then forgotten, it says that it has not: its client then places it
                // anew.
                let is_from_before = self.placed_before.contains(&(*id, partition));
                let order = match self.pushed.get(id) {
                    Some((there, order)) if *there == partition || is_from_before => *order,
                    _ => {
                        return Err(format!(
                            "a reader got record {id} at {partition}/{offset}, which nobody sent there"
                        ));
                    }
                };
                let is_twins = client_of(*id) >= CLIENTS_END;
                match self.appended.get(&(partition, *id)) {
                    Some(_) if is_twins => {}
                    Some(pin_epoch) if place(*id, *pin_epoch, self.partitions_under(*pin_epoch)) == partition => {}
                    pin_epoch => {
                        return Err(format!(
                            "record {id} was appended at {partition}/{offset} under pin epoch {pin_epoch:?}, whose \
                             place it is not"
                        ));
                    }
                }
                let is_late = (self.producers_are_forgotten && self.timed_out.contains(id))
                    || self.unordered.contains(&client_of(*id))
                    || is_twins
                    || is_from_before
                    || self.is_forgotten_copy((partition, *offset), *id, from, &places)
                    || self.was_number_of_twin((partition, *offset), *id);
                let before = if is_late { None } else { latest.insert(client_of(*id), (order, *id)) };
                match before {
                    Some((before, other)) if before > order => {
                        let appends = [id, &other].map(|id| self.appends.get(&(partition, *id)));
                        return Err(format!(
                            "record {id} at {partition}/{offset} was pushed before {other}, which stands before it; \
                             appended {appends:?}"
                        ));
                    }
                    _ => {}
                }
            }
            match self.seen.insert((partition, *offset), *id) {
                Some(before) if before != *id => {
                    return Err(format!("{partition}/{offset} was {before:?} once and is {id:?} now"));
                }
                _ => {}
            }
        }
        if next != until {
            return Err(format!("a reader of {partition} got offsets up to {next}, the high watermark is {until}"));
        }
        for ((first, before), (id, offset)) in places.iter().zip(places.iter().skip(1)) {
            if first == id && !self.is_forgotten_copy((partition, *offset), *id, from, &places) {
                let appends = self.appends.get(&(partition, *id));
                return Err(format!(
                    "record {id} stands twice: {partition}/{before} and {partition}/{offset}; appended {appends:?}"
                ));
            }
        }
        let newest = self.newest_epoch(partition);
        for (id, (_, offset, _)) in
            self.acked_by_leader.iter().filter(|(_, (p, _, epoch))| (*p, *epoch) == (partition, newest))
        {
            if is_newest && (from..until).contains(offset) && !places.contains(&(*id, *offset)) {
                return Err(format!(
                    "record {id} is not at {partition}/{offset}, though the leader that acknowledged it has led all \
                     the time"
                ));
            }
        }
        for ((_, offset), id) in self.acked_at.range((partition, from)..=(partition, u64::MAX)) {
            // A leader that was replaced without knowing it serves a shorter prefix.
            let is_due = is_newest || *offset < until;
            if is_due && !places.contains(&(*id, *offset)) {
                return Err(format!("acknowledged record {id} is not at {partition}/{offset} any more"));
            }
        }
        Ok(())
    }

    /// The newest epoch that has served a partition.
    pub(super) fn newest_epoch(&self, partition: u32) -> u32 {
        self.serving.get(&partition).map_or(0, |(epoch, _)| *epoch)
    }
}

/// The client that has a twin, if any has.
pub(super) const COPIED: usize = 0;
/// Above it, records are strangers'.
const CLIENTS_END: u64 = 1 << 8;

#[cfg(test)]
mod tests {
    use thalweg_model::{BatchBuilder, Codec, Sequence};

    use super::*;

    /// Two records of a client, appended by leaders at 0, 1 and again at 2, 3: the second time in this epoch.
    fn twice(producers_are_forgotten: bool, epoch: i16) -> (Oracle, [RecordId; 2]) {
        let mut oracle = Oracle::new(2, producers_are_forgotten);
        let mut ids = (0..).filter(|id| place(*id, 0, 2) == 0);
        let ids = [ids.next(), ids.next()].map(|id| id.expect("every partition gets some"));
        ids.iter().for_each(|id| oracle.pushed(*id, 0));
        for (offset, epoch) in [(0, 0), (2, epoch)] {
            for (at, id) in (0..).zip(ids) {
                let mut builder = BatchBuilder::new();
                builder.push(&Record { value: Some(id.to_le_bytes().to_vec().into()), ..Record::default() });
                let base_sequence = Sequence(at as i32);
                let mark = ProducerMark { id: ProducerId(7), epoch: ProducerEpoch(epoch), base_sequence };
                oracle.appended(0, 0, offset + at, &builder.build(Codec::None, Some(mark)));
            }
        }
        (oracle, ids)
    }

    #[test]
    fn a_second_copy_is_excused_only_under_the_number_of_the_first_and_where_producers_are_forgotten() {
        let all = |[a, b]: [RecordId; 2]| [(0, Some(a)), (1, Some(b)), (2, Some(a)), (3, Some(b))];
        let (mut oracle, ids) = twice(true, 0);
        assert_eq!(oracle.read(0, 0, 4, true, &all(ids)), Ok(()));
        // The first copies went with retention.
        assert_eq!(oracle.read(0, 1, 4, true, &all(ids)[1..]), Ok(()));
        let (mut oracle, ids) = twice(false, 0);
        assert!(oracle.read(0, 0, 4, true, &all(ids)).unwrap_err().contains("was pushed before"));
        let (mut oracle, ids) = twice(true, 1);
        assert!(oracle.read(0, 0, 4, true, &all(ids)).unwrap_err().contains("was pushed before"));
    }

    /// Seeds 3007536 and 3009715: a number 0 without an answer came again under a pin that was not the topic's any
    /// more.
    #[test]
    fn what_is_placed_anew_may_stand_twice_only_where_a_number_0_was_appended_forgotten_and_refused_for_its_pin() {
        let mark = |producer: i64, epoch: i16| ProducerMark {
            id: ProducerId(producer),
            epoch: ProducerEpoch(epoch),
            base_sequence: Sequence(0),
        };
        // Who writes between the two copies of record 9, before which append its number 0 is refused, and how many
        // producers are remembered.
        let check = |others: [i64; 2], refused_at: Option<u64>, producers_max: usize, is_excused: bool| {
            let mut oracle = Oracle::new(1, true);
            for (offset, id, mark) in
                [(0, 9, mark(7, 0)), (1, 0, mark(others[0], 0)), (2, 1, mark(others[1], 1)), (3, 9, mark(7, 1))]
            {
                if refused_at == Some(offset) {
                    oracle.refused_for_pin(0, ProducerMark { epoch: ProducerEpoch(0), ..mark }, producers_max);
                }
                oracle.pushed(id, 0);
                let mut builder = BatchBuilder::new();
                builder.push(&Record { value: Some(id.to_le_bytes().to_vec().into()), ..Record::default() });
                oracle.appended(0, 0, offset, &builder.build(Codec::None, Some(mark)));
            }
            let read = oracle.read(0, 0, 4, true, &[(0, Some(9)), (1, Some(0)), (2, Some(1)), (3, Some(9))]);
            assert_eq!(read.is_ok(), is_excused, "{others:?} {refused_at:?} {producers_max}: {read:?}");
            assert!(is_excused || read.is_err_and(|e| e.contains("stands twice")));
        };
        check([8, 5], Some(3), 2, true);
        check([8, 5], None, 2, false);
        // Nothing had been appended; both that wrote since are one; more are remembered than have written.
        check([8, 5], Some(0), 2, false);
        check([8, 8], Some(3), 2, false);
        check([8, 5], Some(3), 3, false);
    }

    #[test]
    fn a_record_may_stand_where_it_was_placed_before_only_where_producers_are_forgotten() {
        for (producers_are_forgotten, is_excused) in [(true, true), (false, false)] {
            let (mut oracle, [a, _]) = twice(producers_are_forgotten, 0);
            oracle.pushed(a, 1);
            let read = oracle.read(0, 0, 1, true, &[(0, Some(a))]);
            assert_eq!(read.is_ok(), is_excused, "{read:?}");
        }
    }

    #[test]
    fn a_record_may_stand_behind_what_followed_a_twins_under_its_number_only_where_the_epoch_was_begun_again() {
        // What is appended at 0, 1 and so on: records by number, of a client or of its twin.
        let check = |all: &[(bool, i32)], is_excused: bool| {
            let mut oracle = Oracle::new(2, true);
            let ids: Vec<RecordId> = (0..).filter(|id| place(*id, 0, 2) == 0).take(3).collect();
            let id_of =
                |(is_twins, number): (bool, i32)| if is_twins { CLIENTS_END << 40 } else { ids[number as usize] };
            ids.iter().copied().chain([CLIENTS_END << 40]).for_each(|id| oracle.pushed(id, 0));
            for (offset, record) in (0..).zip(all) {
                let mut builder = BatchBuilder::new();
                builder
                    .push(&Record { value: Some(id_of(*record).to_le_bytes().to_vec().into()), ..Record::default() });
                let mark =
                    ProducerMark { id: ProducerId(7), epoch: ProducerEpoch(0), base_sequence: Sequence(record.1) };
                oracle.appended(0, 0, offset, &builder.build(Codec::None, Some(mark)));
            }
            let records: Vec<_> = (0..).zip(all).map(|(offset, record)| (offset, Some(id_of(*record)))).collect();
            let read = oracle.read(0, 0, all.len() as u64, true, &records);
            assert_eq!(read.is_ok(), is_excused, "{all:?}: {read:?}");
        };
        let (own, twins) = (|number| (false, number), |number| (true, number));
        check(&[own(0), twins(1), own(2), own(0), own(1), own(2)], true);
        check(&[own(0), twins(1), own(2), own(1)], false);
        check(&[own(0), own(2), own(0), own(1), own(2)], false);
    }

    #[test]
    fn the_only_copy_of_a_record_keeps_its_place_in_the_order() {
        let (mut oracle, [a, b]) = twice(true, 0);
        assert!(oracle.read(0, 0, 2, true, &[(0, Some(b)), (1, Some(a))]).unwrap_err().contains("was pushed before"));
    }
}
