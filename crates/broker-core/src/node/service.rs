//! Copies that are out of service, and what an operator can do about them. What is decided when one does is left to
//! `control`.

use std::collections::{BTreeMap, BTreeSet};

use thalweg_commit_log::Disk;
use thalweg_control::{Copies, Copy};
use thalweg_model::{BrokerId, LeaderEpoch, RaftIndex, ReplicaId, TopicPartition};
use thalweg_replica::Now;

use super::Node;
use super::output::Output;
use crate::message::METADATA;

impl<D: Disk> Node<D> {
    /// Where this directory's copy of the metadata log ends: term and index of its last entry.
    ///
    /// # Errors
    /// The directory holds no copy, or a copy that is damaged or half rebuilt.
    pub fn metadata_end(&self) -> Result<(LeaderEpoch, RaftIndex), String> {
        if self.replicas.settings(&METADATA).is_none() {
            return Err("it holds no copy of the cluster's metadata; run this on one of the controllers".into());
        }
        self.replicas.end(&METADATA).map(|(epoch, index, _)| (epoch, index)).ok_or_else(|| {
            let offline = self.replicas.log().partition(&METADATA).and_then(|log| log.offline());
            let what = offline.unwrap_or("it was being rebuilt from the others");
            format!("its copy of the cluster's metadata cannot be used: {what}")
        })
    }

    /// Goes on with this directory's copy of the metadata log alone, because the other controllers are lost for ever.
    /// Call it before [`start`](Self::start) is followed by anything else; the copy then elects itself.
    ///
    /// # Errors
    /// As [`metadata_end`](Self::metadata_end).
    pub fn recover_metadata(&mut self, now: Now) -> Result<(), String> {
        self.metadata_end()?;
        self.replicas.take_over(now, METADATA);
        self.after(now);
        Ok(())
    }

    /// The copies that this broker holds of topics' partitions, under the names that stand on its disk.
    pub fn copies(&self) -> Vec<(TopicPartition, Copy)> {
        self.copies_from(None).collect()
    }

    /// The same one by one, from a partition on.
    pub fn copies_from(&self, from: Option<TopicPartition>) -> impl Iterator<Item = (TopicPartition, Copy)> {
        let names =
            self.replicas.log().names().filter(move |name| *name != METADATA && from.is_none_or(|f| *name >= f));
        names.filter_map(|name| Some((name, self.copy(&name)?)))
    }

    fn copy(&self, name: &TopicPartition) -> Option<Copy> {
        let (log, settings) = (self.replicas.log().partition(name)?, self.replicas.settings(name)?);
        // One without a first term has no name yet.
        let stored = log.hard_state().replica;
        let configuration =
            self.replicas.members(name).or_else(|| log.last_configuration().cloned()).unwrap_or_default();
        Some(Copy {
            replica: if stored == ReplicaId(0) { settings.replica } else { stored },
            end: self.replicas.end(name),
            is_lost: log.offline().is_some() && !log.is_diverged(),
            voters: configuration.voters,
            voters_outgoing: configuration.voters_outgoing,
            is_serving: self.replicas.state(name).is_some_and(|s| s.is_serving),
        })
    }

    /// Why the only copy of a partition is not there any more, if that is so, wherever it should be.
    pub fn lost_copy(&self, name: &TopicPartition) -> Option<String> {
        let topic = self.metadata.machine().topic_by_id(name.topic)?;
        if !self.metadata.machine().lost_its_only_copy(topic, name.partition.0) {
            return None;
        }
        let broker = topic.replicas.get(name.partition.0 as usize)?.first()?.broker();
        Some(format!(
            "its only copy was on the disk that broker {broker} had before; put that disk back, or give up what was \
             on it with \
             `thalweg cluster recover`"
        ))
    }

    /// Partitions that are here, or should be, and out of service until somebody does something: damaged, lost, or
    /// without a majority.
    pub fn out_of_service(&self) -> Vec<(TopicPartition, String)> {
        let offline = self.offline.iter().map(|(name, what)| (*name, what.clone()));
        let lost = self.lost.iter().map(|(name, what)| (*name, what.clone()));
        let said = self.without_majority.iter().filter(|(_, (_, is_said))| *is_said);
        let stuck = said.filter_map(|(name, _)| Some((*name, self.lacks_majority(name)?)));
        offline.chain(lost).chain(stuck).collect()
    }

    /// What the copy here knows of a group that has lost its majority for certain; `None` while it may have one, or
    /// somebody else leads.
    fn lacks_majority(&self, name: &TopicPartition) -> Option<String> {
        let topic = self.metadata.machine().topic_by_id(name.topic)?;
        // Of most partitions this is all that is looked at.
        if self.leader(name).is_some() {
            return None;
        }
        let mine = self.copy(name)?;
        let copies = Copies::from([((name.topic, name.partition.0), vec![mine.clone()])]);
        let all = self.metadata.machine().without_majority_of(topic, name.partition.0, &[], &copies)?;
        let is_lost = |r: &&ReplicaId| !all.left.contains(r);
        let lost: BTreeSet<BrokerId> = mine.voters.iter().filter(is_lost).map(|r| r.broker()).collect();
        let lost = lost.iter().map(BrokerId::to_string).collect::<Vec<_>>().join(", ");
        let held = match all.survivor.and_then(|c| c.end) {
            Some((_, _, end)) => {
                format!("the one on broker {} holds offsets up to {end} (exclusive)", self.config.broker.id)
            }
            None => format!("broker {} holds nothing of it", self.config.broker.id),
        };
        Some(format!(
            "no majority of its copies is left: those on brokers {lost} were damaged or lost with their disks, \
             {held}; see \
             `thalweg cluster recover`"
        ))
    }

    /// Looks for Raft groups that cannot elect a leader any more without an operator, and reports each once.
    pub(super) fn watch_majorities(&mut self, now: Now) {
        let names: Vec<TopicPartition> = self.replicas.log().names().filter(|name| *name != METADATA).collect();
        let mut stuck = BTreeMap::new();
        for name in names.into_iter().filter(|name| !self.offline.contains_key(name)) {
            let Some(what) = self.lacks_majority(&name) else { continue };
            let (since_ms, is_said) = self.without_majority.get(&name).copied().unwrap_or((now.mono_ms, false));
            let says = !is_said && now.mono_ms >= since_ms + MAJORITY_PATIENCE_MS;
            if says {
                self.outputs.push(Output::OutOfService(name, what));
            }
            stuck.insert(name, (since_ms, is_said || says));
        }
        self.without_majority = stuck;
    }
}

/// A partition without a majority is called so when it has been without one for so long: a change of members may be on
/// its way.
const MAJORITY_PATIENCE_MS: u64 = 3_000;
