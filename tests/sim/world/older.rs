//! A disk that comes back as it was some time ago: a snapshot that was rolled back, a copy that was restored. The
//! others remember that there were more starts of it than it knows, so that it never counts as what it was.

use std::collections::BTreeSet;

use thalweg_model::{RecordBatch, TopicPartition};

use super::super::disk::SimDisk;
use super::super::oracle::RecordId;
use super::super::rng::Rng;
use super::{Broker, Core, WHOLE_MS, World, name, number, starts_of};

/// A copy of a disk.
pub(super) struct Saved {
    disk: SimDisk,
    /// Starts that were counted on it by then.
    starts: u64,
    /// The last one, if that was not known to be registered.
    unregistered: Option<u64>,
    directory: u8,
}

/// A disk that is saved before there are topics.
#[derive(Clone, Copy, Debug)]
pub(super) struct Early {
    node: usize,
    saved_ms: u64,
    from_ms: u64,
}

/// What a broker knows of its disk's being older than it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Older {
    /// Nothing, or nothing that a crash would leave: it takes itself for what it was.
    Unaware,
    /// It has been told, and has written that down. Its copies are lost, and others take their places.
    Told,
}

impl World {
    /// Saves a disk now and then, and puts what was saved back in place of what came of it.
    pub(super) fn older_disks(&mut self, node: usize) {
        let (saves, restores) = (self.rng.chance(2 * self.rates.older), self.rng.chance(self.rates.older));
        if saves {
            self.save(node);
        }
        let remembered = (0..self.nodes.len()).find(|n| restores && self.nodes.len() > 1 && self.is_remembered(*n));
        if let Some(node) = remembered.filter(|_| self.may_harm()) {
            self.restore(node);
        }
        self.restore_early();
    }

    fn restore(&mut self, node: usize) {
        self.harmed();
        self.crash(node, true, false);
        let Some(saved) = self.nodes[node].saved.take() else { return };
        self.note(|| format!("{node}: its disk is as it was after {} starts", saved.starts));
        let n = &mut self.nodes[node];
        (n.disk, n.starts, n.older) = (saved.disk, saved.starts, Some(Older::Unaware));
        n.unregistered = saved.unregistered;
    }

    /// Which disk comes back, in some seeds, as it was before there were topics, when it is saved, and when that
    /// begins: what it comes back without, it never knew.
    pub(super) fn early_of(seed: u64, size: usize) -> Option<Early> {
        // What came later draws for itself, so that seeds stay what they were.
        let mut rng = Rng::new(seed ^ 0x01de_57da);
        let (node, saved_ms, from_ms) = (rng.below(size as u64) as usize, rng.below(600), 1_000 + rng.below(2_500));
        (size > 1 && rng.chance(300_000)).then_some(Early { node, saved_ms, from_ms })
    }

    pub(super) fn save_early(&mut self) {
        if let Some(Early { node, .. }) = self.early.filter(|e| e.saved_ms == self.now_ms) {
            self.save(node);
        }
    }

    /// The broker is killed, so that there is a start which its saved disk does not count; once the others know of
    /// that, the disk comes back.
    fn restore_early(&mut self) {
        let Some(Early { node, .. }) = self.early.filter(|e| e.from_ms <= self.now_ms) else { return };
        let n = &self.nodes[node];
        match n.saved.as_ref().map(|saved| n.starts > saved.starts) {
            _ if self.rates.older == 0 => self.early = None,
            None => self.early = None,
            Some(false) if n.unregistered.is_none() => self.crash(node, false, false),
            Some(false) => {}
            Some(true) if self.is_remembered(node) && self.may_harm() => {
                self.early = None;
                self.restore(node);
            }
            Some(true) => {}
        }
    }

    fn save(&mut self, node: usize) {
        let n = &self.nodes[node];
        let may_save = self.nodes.len() > 1 && self.rates.older > 0 && n.saved.is_none() && n.older.is_none();
        if may_save && n.core.is_some() && !n.torn {
            let saved =
                Saved { disk: n.disk.copy(), starts: n.starts, unregistered: n.unregistered, directory: n.directory };
            self.nodes[node].saved = Some(saved);
            self.note(|| format!("{node}: its disk is copied"));
        }
    }

    /// True when a copy of the disk is there, and every other broker knows of a later start than the last one that it
    /// counts.
    fn is_remembered(&self, node: usize) -> bool {
        let Some(saved) = self.nodes[node].saved.as_ref().filter(|s| s.directory == self.nodes[node].directory) else {
            return false;
        };
        let directory = self.config(node).broker.directory;
        let is_later = |b: &Broker| b.directory == directory && starts_of(b.incarnation) > saved.starts;
        let knows = |core: &Core<SimDisk>| core.metadata().brokers().any(is_later);
        let others = self.nodes.iter().enumerate().filter(|(n, _)| *n != node);
        self.nodes[node].core.is_some() && others.into_iter().all(|(_, n)| n.core.as_ref().is_some_and(knows))
    }

    /// A start that is known to be registered is followed by another one.
    pub(super) fn is_counted(&mut self, node: usize) {
        let n = &mut self.nodes[node];
        if n.core.as_ref().is_some_and(Core::is_registered) {
            n.unregistered = None;
        }
    }

    /// A broker says that its disk is older than others remember.
    pub(super) fn found_out(&mut self, node: usize, incarnation: u64, remembered: u64) -> Result<(), String> {
        let (start, known) = (starts_of(incarnation), starts_of(remembered));
        self.note(|| format!("{node} hears that its disk is older: start {start}, remembered {known}"));
        match self.nodes[node].older {
            Some(_) => Ok(()),
            None => Err(format!("{node} takes its disk for older, though it is not")),
        }
    }

    /// Its copies are written down as lost: it goes on as another start. Whatever ended before that is told once more.
    pub(super) fn renew(&mut self, node: usize, incarnation: u64) {
        let n = &mut self.nodes[node];
        (n.starts, n.chance, n.older) = (starts_of(incarnation), incarnation, Some(Older::Told));
        let now = self.now();
        self.nodes[node].core.as_mut().expect("it has just spoken").renew(now, incarnation);
    }

    /// An older disk leads nothing before its copies are replaced.
    pub(super) fn may_lead(&self, node: usize) -> Result<(), String> {
        match self.nodes[node].older {
            Some(Older::Unaware) if !self.two_histories => {
                Err(format!("{node} leads with a disk that is older than it was"))
            }
            _ => Ok(()),
        }
    }

    /// A copy that takes part in its group, be it with a vote, holds at least what it acknowledged under its name.
    pub(super) fn may_take_part(&self, node: usize, group: TopicPartition, log_end: u64) -> Result<(), String> {
        let Some(replica) = self.replica(group, node) else { return Ok(()) };
        let vouched = self.vouched.get(&(replica, group)).copied().unwrap_or(0);
        // Nobody hears one that has not been told yet.
        match log_end < vouched && self.nodes[node].older != Some(Older::Unaware) && !self.two_histories {
            true => Err(format!(
                "{node} takes part in {} as copy {replica}, which had acknowledged what stands below {vouched}: it \
                 holds what \
                 stands below {log_end}",
                number(group)
            )),
            false => Ok(()),
        }
    }

    /// What nobody can notice at once: a disk comes back older, and only who could tell is down. Acknowledged records
    /// are lost to readers; but when the broker that has them returns, they must be kept, although the others have gone
    /// on without them.
    pub(super) fn make_two_histories(&mut self) -> Result<(), String> {
        let first = self.rng.below(3) as usize;
        let knows = self.sound_from(first + 1);
        let (forgets, behind) = ((knows + 2) % 3, (knows + 1) % 3);
        let saved = self.nodes[forgets].disk.copy();
        let starts = self.nodes[forgets].starts;
        self.note(|| format!("the disk of {forgets} is copied, {behind} stops"));
        self.crash(behind, false, false);
        self.nodes[behind].start_at_ms = u64::MAX;
        let before: BTreeSet<RecordId> = self.oracle.acked_ids().collect();
        let for_ms = 1_000 + self.rng.below(2_000);
        for _ in 0..for_ms {
            self.turn(true)?;
        }
        // What a copy acknowledged last, and did not know to be decided yet when it stopped, is the end of any
        // follower's log: a leader that has something else there takes its place, as always.
        let replicas = self.nodes[knows].replicas();
        let decided = |p: u32| replicas.and_then(|r| r.state(&name(p))).map_or(0, |s| s.high_watermark.0);
        let decided: Vec<u64> = (0..self.partitions).map(decided).collect();
        for _ in 0..NOTED_WITHIN_MS {
            self.turn(true)?;
        }
        let is_decided =
            |id: &RecordId| self.oracle.acked_place(*id).is_some_and(|(p, offset)| offset < decided[p as usize]);
        let since = self.oracle.acked_ids().filter(|id| !before.contains(id) && is_decided(id));
        let since: BTreeSet<RecordId> = since.collect();
        // From here on promises are broken, and no oracle can say anything but that nothing is thrown away.
        self.two_histories = true;
        self.oracle.is_mute = true;
        self.members = None;
        self.crash(knows, false, false);
        self.nodes[knows].start_at_ms = u64::MAX;
        self.crash(forgets, true, false);
        self.note(|| format!("{forgets} has its old disk again, and {behind} starts, without {knows}"));
        let n = &mut self.nodes[forgets];
        (n.disk, n.starts, n.unregistered, n.older) = (saved, starts, None, Some(Older::Unaware));
        for node in [forgets, behind] {
            self.nodes[node].start_at_ms = self.now_ms;
        }
        let for_ms = 3_000 + self.rng.below(2_000);
        for _ in 0..for_ms {
            self.turn(true)?;
        }
        self.note(|| format!("{knows} starts again"));
        self.nodes[knows].start_at_ms = self.now_ms;
        // Two whole partitions are rebuilt from nothing, part by part: that takes its time with a slow disk. Copies
        // must get on, and come to an end. What is kept aside counts no more, so that fewer entries are held then.
        let since_ms = self.lived_ms;
        let (mut held, mut progress_ms) = (self.held(), self.lived_ms);
        while !self.is_whole() {
            let holds = self.held();
            if holds != held {
                (held, progress_ms) = (holds, self.lived_ms);
            }
            if self.lived_ms > progress_ms + WHOLE_MS || self.lived_ms > since_ms + 6 * WHOLE_MS {
                let (after_ms, condition) = (self.lived_ms - since_ms, self.condition());
                return Err(format!(
                    "a partition with two histories is not whole again {after_ms} ms after: {condition}"
                ));
            }
            self.turn(false)?;
        }
        let mut kept = ids(&self.nodes[knows].disk.contents("partitions-aside/"));
        // One flush writes no more than a segment takes: many may be needed.
        let deadline_ms = self.lived_ms + WHOLE_MS;
        let is_flushed = |w: &World| w.nodes.iter().filter_map(|n| n.replicas()).all(|r| r.log().is_flushed());
        while !is_flushed(self) && self.lived_ms < deadline_ms {
            let now = self.now();
            self.nodes.iter_mut().filter_map(|n| n.core.as_mut()).for_each(|c| c.replicas_mut().flush_all(now));
            self.turn(false)?;
        }
        for node in &self.nodes {
            kept.extend(ids(&node.disk.contents("partitions/")));
        }
        match since.iter().find(|id| !kept.contains(id)) {
            Some(lost) => {
                let (place, count) = (self.oracle.acked_place(*lost), since.difference(&kept).count());
                Err(format!(
                    "record {lost} of {place:?} is thrown away with one of two histories, with {count} of {} at stake",
                    since.len()
                ))
            }
            None => Ok(()),
        }
    }

    /// A copy stops because its leader has another history.
    pub(super) fn diverged(&mut self, node: usize, group: TopicPartition, what: &str) -> Result<(), String> {
        self.note(|| format!("{node}: {} has two histories: {what}", number(group)));
        // It begins anew under its own name: what it acknowledged of this history it never had of the other one, which
        // may be shorter. What it acknowledges from here on counts as ever.
        let replica = self.replica(group, node);
        self.vouched.retain(|(copy, name), _| Some(*copy) != replica || *name != group);
        match self.two_histories {
            true => Ok(()),
            false => Err(format!("{group} has two histories on {node}, though no disk has forgotten any: {what}")),
        }
    }

    /// It is kept.
    pub(super) fn kept_aside(
        &mut self,
        node: usize,
        group: TopicPartition,
        folder: Result<String, String>,
    ) -> Result<(), String> {
        match folder {
            Ok(_) if self.two_histories => Ok(()),
            other => Err(format!("{group} is kept aside on {node}: {other:?}")),
        }
    }
}

/// The numbers of all records in some segments.
fn ids(segments: &[bytes::Bytes]) -> BTreeSet<RecordId> {
    let mut found = BTreeSet::new();
    for segment in segments {
        let mut rest = segment.clone();
        while let Ok(batch) = RecordBatch::split_first(&mut rest) {
            let records = batch.records().ok().into_iter().flatten().filter(|_| !batch.is_control());
            let values = records.filter_map(|(_, record)| record.value);
            found.extend(values.filter_map(|v| v.first_chunk::<8>().map(|b| u64::from_le_bytes(*b))));
        }
    }
    found
}

/// What is decided is written down within this.
const NOTED_WITHIN_MS: u64 = 200;
