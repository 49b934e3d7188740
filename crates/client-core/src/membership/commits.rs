//! The commits of a member, from the call to the answer: sent in their order, and again until they are answered.
//!
//! When to commit by itself, and which partitions the member holds, is left to [`Membership`](super::Membership).

use std::collections::{BTreeMap, BTreeSet};

use thalweg_api::{ApiError, GroupCommit, GroupCommitReply, PartitionCommit};
use thalweg_model::{Bug, Committed, is_planted};

use crate::partition_key::PartitionKey;

/// Commits that have no outcome yet, and the outcomes that nobody has taken yet.
///
/// A commit is known by its token; tokens grow with each commit, so they tell the order. Of a partition only the newest
/// commit is sent, and those before it are sent again only if that one is refused.
#[derive(Debug, Default)]
pub(super) struct Commits {
    /// The last token that was given.
    last_token: u64,
    /// To be sent, for the first time or again, by their tokens.
    waiting: BTreeMap<u64, Commit>,
    /// Sent on the present stream and not answered, by the number of the frame, with their tokens.
    sent: BTreeMap<u64, (u64, Commit)>,
    /// Tokens of the commits for whose outcome the user waits.
    awaited: BTreeSet<u64>,
    /// The last commit of each partition that the group has taken, as long as an older one may have to be sent again.
    taken: BTreeMap<PartitionKey, u64>,
    outcomes: Vec<(u64, Result<(), ApiError>)>,
}

/// A commit without an answer, or a part of one.
#[derive(Debug)]
struct Commit {
    /// Epoch of the last assignment that had come when it was made: it tells since when the partitions are held. Under
    /// a later one, what waited while a partition was another member's would be taken, and undo that one's commits.
    epoch: u32,
    offsets: Vec<(PartitionKey, Committed)>,
}

impl Commits {
    /// A commit that nobody waits for; answers with its token.
    pub(super) fn make(&mut self, epoch: u32, offsets: Vec<(PartitionKey, Committed)>) -> u64 {
        self.last_token += 1;
        self.wait(self.last_token, Commit { epoch, offsets });
        self.last_token
    }

    /// A commit for whose outcome somebody waits; it is there at once where nothing is to be committed.
    pub(super) fn make_awaited(&mut self, epoch: u32, offsets: Vec<(PartitionKey, Committed)>) -> u64 {
        let is_nothing = offsets.is_empty();
        let token = self.make(epoch, offsets);
        match is_nothing {
            true => self.outcomes.push((token, Ok(()))),
            false => drop(self.awaited.insert(token)),
        }
        token
    }

    /// A commit is to be sent, or a part of one.
    fn wait(&mut self, token: u64, Commit { epoch, offsets }: Commit) {
        if !offsets.is_empty() {
            self.waiting.entry(token).or_insert(Commit { epoch, offsets: Vec::new() }).offsets.extend(offsets);
        }
    }

    /// Gives a commit its outcome, where somebody waits for that.
    fn end(&mut self, token: u64, result: Result<(), ApiError>) {
        if self.awaited.remove(&token) {
            self.outcomes.push((token, result));
        }
    }

    /// Drops what a later commit has made pointless, and ends those commits of which nothing is left.
    fn settle(&mut self) {
        for (token, commit) in &mut self.waiting {
            commit.offsets.retain(|(key, _)| self.taken.get(key).is_none_or(|last| last < token));
        }
        self.waiting.retain(|_, commit| !commit.offsets.is_empty());
        let open: BTreeSet<u64> = self.open().map(|(token, _)| token).collect();
        for token in self.awaited.difference(&open).copied().collect::<Vec<_>>() {
            self.end(token, Ok(()));
        }
        if open.is_empty() {
            self.taken.clear();
        }
    }

    /// Commits without an answer, with their tokens.
    fn open(&self) -> impl Iterator<Item = (u64, &Commit)> {
        let sent = self.sent.values().map(|(token, commit)| (*token, commit));
        sent.chain(self.waiting.iter().map(|(token, commit)| (*token, commit)))
    }

    /// The partitions of those commits without an answer that nobody waits for.
    pub(super) fn unawaited(&self) -> BTreeSet<&PartitionKey> {
        let unawaited = self.open().filter(|(token, _)| !self.awaited.contains(token));
        unawaited.flat_map(|(_, commit)| commit.offsets.iter().map(|(key, _)| key)).collect()
    }

    /// The stream is gone. Whether the group has taken what was sent on it is not known: sent again on the next stream,
    /// in their order, these commits do no harm.
    pub(super) fn stream_lost(&mut self) {
        for (token, commit) in std::mem::take(&mut self.sent).into_values() {
            self.wait(token, commit);
        }
        self.settle();
    }

    /// Gives this outcome to all commits that are to be sent.
    pub(super) fn fail_waiting(&mut self, error: &ApiError) {
        for token in std::mem::take(&mut self.waiting).into_keys() {
            self.end(token, Err(error.clone()));
        }
    }

    /// The outcomes since the last call, with their tokens.
    pub(super) fn take_outcomes(&mut self) -> Vec<(u64, Result<(), ApiError>)> {
        std::mem::take(&mut self.outcomes)
    }

    /// What to send now: of each partition the newest commit, if it is not under way. An older one waits for the answer
    /// to that: it would arrive behind it. `number` gives each frame its number, `assigned_epoch` is that of the last
    /// assignment.
    pub(super) fn send(&mut self, mut number: impl FnMut() -> u64, assigned_epoch: u32) -> Vec<GroupCommit> {
        let mut frames = Vec::new();
        if self.waiting.is_empty() {
            return frames;
        }
        let mut newest = BTreeMap::new();
        for (token, commit) in self.open() {
            for (key, _) in &commit.offsets {
                let newest = newest.entry(key.clone()).or_insert(token);
                *newest = token.max(*newest);
            }
        }
        for (token, Commit { epoch, offsets }) in std::mem::take(&mut self.waiting) {
            let is_newest =
                |(key, _): &(PartitionKey, Committed)| newest[key] == token || is_planted(Bug::CommitOvertaken);
            let (offsets, waits): (Vec<_>, Vec<_>) = offsets.into_iter().partition(is_newest);
            self.wait(token, Commit { epoch, offsets: waits });
            if offsets.is_empty() {
                continue;
            }
            let number = number();
            let under = if is_planted(Bug::CommitUnderLaterEpoch) { assigned_epoch } else { epoch };
            let said = offsets.iter().map(partition_commit).collect();
            frames.push(GroupCommit { number, epoch: under, offsets: said });
            self.sent.insert(number, (token, Commit { epoch, offsets }));
        }
        frames
    }

    /// Follows an answer; gives what the group has taken, where no later commit of the partition was taken before. What
    /// was refused for the moment is sent again, where the outcome is waited for and `may_repeat`.
    pub(super) fn answered(&mut self, reply: &GroupCommitReply, may_repeat: bool) -> Vec<(PartitionKey, Committed)> {
        let mut known = Vec::new();
        let Some((token, Commit { epoch, offsets })) = self.sent.remove(&reply.number) else { return known };
        let is_refused = |key: &PartitionKey| reply.refused.iter().find(|r| PartitionKey::from(r.partition) == *key);
        // What is wrong, and what is only to be sent again: a leader that had to be asked did not answer in time.
        let (mut wrong, mut again) = (None, Vec::new());
        let is_repeated = self.awaited.contains(&token) && may_repeat;
        for (key, progress) in offsets {
            match is_refused(&key).map(|r| r.error.clone()) {
                None => {
                    let last = self.taken.entry(key.clone()).or_insert(token);
                    // Answers may overtake each other.
                    if *last <= token {
                        *last = token;
                        known.push((key, progress));
                    }
                }
                Some(error) if error.code.client_retries() && is_repeated => again.push((key, progress)),
                Some(error) => drop(wrong.get_or_insert(error)),
            }
        }
        match wrong {
            Some(error) => self.end(token, Err(error)),
            None => self.wait(token, Commit { epoch, offsets: again }),
        }
        self.settle();
        known
    }
}

fn partition_commit((key, progress): &(PartitionKey, Committed)) -> PartitionCommit {
    PartitionCommit { partition: key.into(), at: *progress }
}
