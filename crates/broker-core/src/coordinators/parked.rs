//! Commits that wait for the ends of their partitions.
//!
//! A commit that goes beyond what this broker knows of a partition's end waits until the partition's leader was asked,
//! and with it what its member asks after it: a heartbeat that gives the partition up must not overtake what was done
//! of it. Such a heartbeat is answered all the same, and confirms later. What the leaders answer is left to `ends`.

use std::collections::{BTreeMap, VecDeque};

use thalweg_commit_log::Disk;
use thalweg_control::{Ends, GroupRequest};
use thalweg_model::{Offset, TopicPartition};
use thalweg_replica::Ticket;

use super::desk::Desk;
use super::output::{CoordinatorError, GroupOutput};

/// Requests of one group's member, the commit first. Without a ticket: a heartbeat that has been answered, but for what
/// it confirms.
type Requests = VecDeque<(Option<Ticket>, GroupRequest)>;

/// A commit that waits, and what the same member asked after it.
struct Waiting {
    /// Names what the leaders are asked.
    question: u64,
    /// What they have not answered yet.
    asked: BTreeMap<TopicPartition, Offset>,
    /// What they have.
    told: Ends,
    next_ask_ms: u64,
    deadline_ms: u64,
    requests: Requests,
}

/// What waits for one coordinator.
#[derive(Default)]
pub(super) struct Parked {
    /// By group and member; an empty member stands for those outside.
    waiting: BTreeMap<(String, String), Waiting>,
}

impl Parked {
    /// True if something has all its answers.
    pub(super) fn is_ready(&self) -> bool {
        self.waiting.values().any(|w| w.asked.is_empty())
    }

    /// Takes a leader's answer, if the question was asked here: gives those of the ends that were wanted.
    pub(super) fn told(
        &mut self,
        question: u64,
        ends: &[(TopicPartition, Offset)],
    ) -> Option<Vec<(TopicPartition, u64)>> {
        let waiting = self.waiting.values_mut().find(|w| w.question == question)?;
        let mut wanted = Vec::new();
        for (name, end) in ends {
            if waiting.asked.remove(name).is_some() {
                waiting.told.insert(*name, end.0);
                wanted.push((*name, end.0));
            }
        }
        Some(wanted)
    }

    /// Whoever waits for an answer.
    pub(super) fn into_tickets(self) -> impl Iterator<Item = Ticket> {
        self.waiting.into_values().flat_map(|w| w.requests).filter_map(|(ticket, _)| ticket)
    }

    /// Decides a request, or lets it wait.
    pub(super) fn take<D: Disk>(&mut self, desk: &mut Desk<'_, D>, ticket: Ticket, request: GroupRequest) {
        let key = (request.group().unwrap_or_default().to_owned(), request.member().unwrap_or_default().to_owned());
        // Who only pretends to be a member holds up nothing of it.
        if !desk.led.machine().is_proven(&request) {
            return desk.decide(&Ends::new(), Some(ticket), request);
        }
        if let Some(waiting) = self.waiting.get_mut(&key) {
            match request {
                GroupRequest::Heartbeat { group, member, secret, epoch, topics } => {
                    waiting.requests.pop_back_if(|(ticket, _)| ticket.is_none());
                    let heartbeat = |epoch, topics| {
                        let (group, member) = (group.clone(), member.clone());
                        GroupRequest::Heartbeat { group, member, secret, epoch, topics }
                    };
                    waiting.requests.push_back((None, heartbeat(epoch, None)));
                    // To want other topics frees nothing before the member confirms it.
                    let alive = heartbeat(0, topics);
                    return desk.decide(&Ends::new(), Some(ticket), alive);
                }
                request @ (GroupRequest::Commit { .. } | GroupRequest::Leave { .. }) => {
                    let before = waiting.requests.len();
                    return match before < desk.waiting_max {
                        true => waiting.requests.push_back((Some(ticket), request)),
                        false => desk.outputs.push(busy(ticket, before)),
                    };
                }
                other => return desk.decide(&Ends::new(), Some(ticket), other),
            }
        }
        let asked = desk.beyond(&request);
        match asked.is_empty() {
            true => desk.decide(&Ends::new(), Some(ticket), request),
            false => self.park(desk, key, asked, [(Some(ticket), request)].into()),
        }
    }

    fn park<D: Disk>(
        &mut self,
        desk: &mut Desk<'_, D>,
        key: (String, String),
        asked: BTreeMap<TopicPartition, Offset>,
        requests: Requests,
    ) {
        let before = self.waiting.len();
        if before >= desk.waiting_max {
            let tickets = requests.into_iter().filter_map(|(ticket, _)| ticket);
            return desk.outputs.extend(tickets.map(|ticket| busy(ticket, before)));
        }
        *desk.last_question += 1;
        let question = *desk.last_question;
        desk.outputs.push(GroupOutput::AskEnds(question, asked.iter().map(|(name, at)| (*name, *at)).collect()));
        let now_ms = desk.at.clock.mono_ms;
        let (next_ask_ms, deadline_ms) = (now_ms + ENDS_ASK_EVERY_MS, now_ms + ENDS_WAIT_MS);
        let waiting = Waiting { question, asked, told: Ends::new(), next_ask_ms, deadline_ms, requests };
        self.waiting.insert(key, waiting);
    }

    /// Goes on with what has its answers, or has waited for long enough.
    pub(super) fn go_on<D: Disk>(&mut self, desk: &mut Desk<'_, D>) {
        let now_ms = desk.at.clock.mono_ms;
        for waiting in self.waiting.values_mut().filter(|w| !w.asked.is_empty() && now_ms >= w.next_ask_ms) {
            waiting.next_ask_ms = now_ms + ENDS_ASK_EVERY_MS;
            let again = waiting.asked.iter().map(|(name, at)| (*name, *at)).collect();
            desk.outputs.push(GroupOutput::AskEnds(waiting.question, again));
        }
        let is_due = |w: &Waiting| w.asked.is_empty() || now_ms >= w.deadline_ms;
        let due: Vec<_> = self.waiting.iter().filter(|(_, w)| is_due(w)).map(|(key, _)| key.clone()).collect();
        for key in due {
            let Waiting { told, mut requests, .. } = self.waiting.remove(&key).expect("just seen");
            let mut told = Some(told);
            while let Some((ticket, request)) = requests.pop_front() {
                let asked = desk.beyond(&request);
                let first = told.take();
                if first.is_none() && !asked.is_empty() {
                    requests.push_front((ticket, request));
                    self.park(desk, key, asked, requests);
                    break;
                }
                desk.decide(&first.unwrap_or_default(), ticket, request);
            }
        }
    }
}

fn busy(ticket: Ticket, waiting: usize) -> GroupOutput {
    GroupOutput::Answer(ticket, Err(CoordinatorError::Busy { waiting }))
}

/// How long a commit waits for the leaders of its partitions to say how far these go.
const ENDS_WAIT_MS: u64 = 1_000;
/// How often they are asked again: another broker may lead by now.
const ENDS_ASK_EVERY_MS: u64 = 100;
