//! The commits of a member: said in their order, and said again until they are answered.
//!
//! When to commit by itself is left to `poll` in `membership.rs`.

use std::collections::{BTreeMap, BTreeSet};

use thalweg_model::{Bug, is_planted};
use thalweg_wire::{RemoteError, proto};

use super::{Membership, PartitionKey, Progress, ToCoordinator};

/// A commit without an answer, or a part of one.
#[derive(Debug)]
pub(super) struct Commit {
    /// That was told last when it was made: it tells since when the partitions are held. Under a later one, what waited
    /// while a partition was another's would be taken, and undo what that one has committed.
    pub(super) epoch: u32,
    pub(super) offsets: Vec<(PartitionKey, Progress)>,
}

impl Membership {
    /// Commits these offsets, or all that is done; [`take_outcomes`](Self::take_outcomes) answers under the number
    /// given back.
    pub fn commit(&mut self, offsets: Option<Vec<(PartitionKey, Progress)>>) -> u64 {
        let all = || self.held.keys().filter_map(|key| Some((key.clone(), self.undone(key)?))).collect();
        let offsets: Vec<_> = offsets.unwrap_or_else(all);
        let is_nothing = offsets.is_empty();
        let token = self.make(offsets);
        match is_nothing {
            true => self.outcomes.push((token, Ok(()))),
            false => drop(self.awaited.insert(token)),
        }
        token
    }

    /// A commit is to be said.
    pub(super) fn make(&mut self, offsets: Vec<(PartitionKey, Progress)>) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.want(token, Commit { epoch: self.told_epoch, offsets });
        token
    }

    /// A commit is to be said, or a part of one.
    pub(super) fn want(&mut self, token: u64, commit: Commit) {
        if !commit.offsets.is_empty() {
            let Commit { epoch, offsets } = commit;
            self.wanted.entry(token).or_insert(Commit { epoch, offsets: Vec::new() }).offsets.extend(offsets);
        }
    }

    /// Whoever waits for a commit hears how it ended.
    pub(super) fn end(&mut self, token: u64, result: Result<(), RemoteError>) {
        if self.awaited.remove(&token) {
            self.outcomes.push((token, result));
        }
    }

    /// Drops what a later commit has made pointless, and ends those commits of which nothing is left.
    pub(super) fn settle(&mut self) {
        for (token, commit) in &mut self.wanted {
            commit.offsets.retain(|(key, _)| self.taken.get(key).is_none_or(|last| last < token));
        }
        self.wanted.retain(|_, commit| !commit.offsets.is_empty());
        let open: BTreeSet<u64> = self.open().map(|(token, _)| token).collect();
        for token in self.awaited.difference(&open).copied().collect::<Vec<_>>() {
            self.end(token, Ok(()));
        }
        if open.is_empty() {
            self.taken.clear();
        }
    }

    /// Commits without an answer, with their tokens.
    pub(super) fn open(&self) -> impl Iterator<Item = (u64, &Commit)> {
        let sent = self.commits.values().map(|(token, commit)| (*token, commit));
        sent.chain(self.wanted.iter().map(|(token, commit)| (*token, commit)))
    }

    /// What became of commits since the last call.
    pub fn take_outcomes(&mut self) -> Vec<(u64, Result<(), RemoteError>)> {
        std::mem::take(&mut self.outcomes)
    }

    /// Of each partition the newest commit is said, if it is not under way. An older one waits for what becomes of
    /// that: it would arrive behind it.
    pub(super) fn say_commits(&mut self, out: &mut Vec<ToCoordinator>) {
        if self.wanted.is_empty() {
            return;
        }
        let mut newest = BTreeMap::new();
        for (token, commit) in self.open() {
            for (key, _) in &commit.offsets {
                let newest = newest.entry(key.clone()).or_insert(token);
                *newest = token.max(*newest);
            }
        }
        for (token, Commit { epoch, offsets }) in std::mem::take(&mut self.wanted) {
            let is_newest =
                |(key, _): &(PartitionKey, Progress)| newest[key] == token || is_planted(Bug::CommitOvertaken);
            let (offsets, waits): (Vec<_>, Vec<_>) = offsets.into_iter().partition(is_newest);
            self.want(token, Commit { epoch, offsets: waits });
            if offsets.is_empty() {
                continue;
            }
            let commit = |(key, p): &(PartitionKey, Progress)| proto::PartitionCommit {
                topic_id: key.topic_id.clone(),
                partition: key.partition,
                at: Some(proto::CommittedOffset { offset: p.offset, filtered: p.filtered, failed: p.failed }),
            };
            let (number, said) = (self.number(), offsets.iter().map(commit).collect());
            let under = if is_planted(Bug::CommitUnderLaterEpoch) { self.told_epoch } else { epoch };
            out.push(ToCoordinator::Commit(proto::GroupCommit { number, epoch: under, offsets: said }));
            self.commits.insert(number, (token, Commit { epoch, offsets }));
        }
    }

    /// Follows the answer to a commit; what the group took from this member meanwhile is lost.
    pub fn committed(&mut self, reply: &proto::GroupCommitReply) {
        let Some((token, Commit { epoch, offsets })) = self.commits.remove(&reply.number) else { return };
        let is_refused = |key: &PartitionKey| {
            reply.refused.iter().find(|r| r.topic_id == key.topic_id && r.partition == key.partition)
        };
        // What is wrong, and what is only to be said again: somebody who had to be asked did not answer in time.
        let (mut wrong, mut again) = (None, Vec::new());
        let is_repeated = self.awaited.contains(&token) && !self.is_leaving;
        for (key, progress) in offsets {
            match is_refused(&key).map(|r| RemoteError::from(r.error.clone().unwrap_or_default())) {
                None => {
                    let last = self.taken.entry(key.clone()).or_insert(token);
                    // Answers may overtake each other.
                    if *last <= token {
                        *last = token;
                        if self.held.contains_key(&key) {
                            self.known.insert(key, progress);
                        }
                    }
                }
                Some(error) if error.code.client_retries() && is_repeated => again.push((key, progress)),
                Some(error) => drop(wrong.get_or_insert(error)),
            }
        }
        match wrong {
            Some(error) => self.end(token, Err(error)),
            None => self.want(token, Commit { epoch, offsets: again }),
        }
        self.settle();
    }
}
