//! Scripts of what happens to a copy, and the stage that it is in after each event. Rules of a single stage are left to
//! the other files.

use super::*;

/// One thing that happens to a copy with six entries, two of them decided.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// The leader of term 2, on broker 3, offers a catch-up.
    Offer,
    /// A heartbeat of that leader comes.
    Heartbeat,
    /// A heartbeat of the leader tells of an entry that this copy has acknowledged and does not hold.
    Forgotten,
    /// The leader tells the copy to start over at entry 31; members and producers are known as of entry 40.
    Restart,
    /// The leader sends a part: the entries from the first index to the second, of this epoch.
    Part(u64, u64, u32),
    /// The leader sends members and producers as of the entry with this index.
    State(u64),
    /// The leader says that Raft has all further entries.
    Done,
    /// The leader says that it holds another entry than this copy's last decided one.
    Conflict,
    /// The disk carries out all operations that wait.
    Synced,
    /// Time passes without a message, until a catch-up ends.
    Silence,
    /// The process is killed, and started again.
    Started,
    /// An operator lets the copy go on alone.
    TakeOver,
}

fn happen(copy: &mut Copy, event: Event) {
    let part = |part| PeerBody::CatchUp(part);
    match event {
        Event::Offer => copy.hear(3, part(CatchUp::Offer { term: LeaderEpoch(2) })),
        Event::Heartbeat => {
            copy.hear_raft(3, RaftBody { kind: RaftKind::Heartbeat, term: 2, ..Default::default() });
        }
        Event::Forgotten => {
            copy.hear_raft(3, RaftBody { kind: RaftKind::Heartbeat, term: 2, index: 99, ..Default::default() });
        }
        Event::Restart => {
            let (first, until) = (Some((Offset(30), RaftIndex(31))), Offset(40));
            copy.hear(3, part(CatchUp::Restart { first, log_start: Offset(30), until, state: state() }));
        }
        Event::Part(from, to, epoch) => bring(copy, from..=to, epoch),
        Event::State(until) => {
            let (first, until) = (None, Offset(until));
            copy.hear(3, part(CatchUp::Restart { first, log_start: Offset(0), until, state: state() }));
        }
        Event::Done => copy.hear(3, part(CatchUp::Done)),
        Event::Conflict => copy.hear(3, part(CatchUp::Conflict)),
        Event::Synced => copy.sync(),
        Event::Silence => {
            for _ in 0..2 * catch_up::PATIENCE_MS / TICK_MS {
                copy.tick();
                copy.sync();
            }
        }
        Event::Started => *copy = copy.restart(),
        Event::TakeOver => {
            let replica = copy.me.successor();
            let (takes_over, target) = (Some(copy.me), vec![replica]);
            copy.replicas.configure(copy.now, NAME, PartitionSettings { replica, takes_over, target, ..settings() });
            copy.me = replica;
            copy.look();
        }
    }
}

/// Plays a script, and compares the stage after each event.
fn check(script: &[(Event, Stage)]) {
    let mut copy = with_entries();
    assert_eq!(copy.stage(), Stage::Running);
    for (at, (event, expected)) in script.iter().enumerate() {
        happen(&mut copy, *event);
        assert_eq!(copy.stage(), *expected, "after {:?}", &script[..=at].iter().map(|(e, _)| e).collect::<Vec<_>>());
    }
}

use Event::{Conflict, Done, Forgotten, Heartbeat, Offer, Part, Restart, Silence, Started, State, Synced, TakeOver};
use Stage::{CatchingUp, Incomplete, Lagging, Offline, Running, Settling};

#[test]
fn a_copy_that_is_behind_asks_while_raft_goes_on_and_stops_raft_for_parts() {
    check(&[
        (Offer, Lagging),
        (Heartbeat, Lagging),
        (Part(3, 4, 1), CatchingUp),
        (Heartbeat, CatchingUp),
        (Synced, CatchingUp),
        (Part(5, 6, 1), CatchingUp),
        (Synced, CatchingUp),
        (Done, Running),
    ]);
}

#[test]
fn a_leader_that_has_nothing_to_bring_costs_nothing() {
    check(&[(Offer, Lagging), (Done, Running), (Offer, Lagging), (Silence, Running)]);
}

/// A part that is in segments stays there if the process ends before the next part comes.
#[test]
fn a_copy_goes_on_with_what_it_has_when_its_leader_is_silent() {
    check(&[(Offer, Lagging), (Part(3, 4, 1), CatchingUp), (Silence, Running)]);
    check(&[(Offer, Lagging), (Part(3, 4, 1), CatchingUp), (Started, Running)]);
}

/// A part that does not follow on the copy's last decided entry is not put in place.
#[test]
fn a_copy_that_started_over_waits_for_a_leader_until_it_is_whole() {
    check(&[
        (Offer, Lagging),
        (Restart, Lagging),
        (Part(31, 32, 2), CatchingUp),
        (Silence, Incomplete),
        (Forgotten, CatchingUp),
        (Silence, Incomplete),
        (Started, Incomplete),
        (Heartbeat, CatchingUp),
        (Part(33, 34, 2), CatchingUp),
        (Synced, CatchingUp),
        (State(34), CatchingUp),
        (Silence, Running),
    ]);
}

/// The log of a copy with another history is kept aside before it is rebuilt; its term and vote stay.
#[test]
fn a_copy_with_another_history_is_kept_aside_and_begins_anew() {
    check(&[(Offer, Lagging), (Conflict, Offline), (Offer, Offline), (Synced, Incomplete), (Heartbeat, CatchingUp)]);
}

#[test]
fn nothing_brings_a_lost_copy_back() {
    let lost = [(Offer, Offline), (Heartbeat, Offline), (Done, Offline), (Silence, Offline), (Started, Running)];
    // The leader's offer is not on the disk: after a start it comes again.
    check(&[&[(Forgotten, Offline)][..], &lost].concat());
    check(&[&[(Offer, Lagging), (Forgotten, Offline)][..], &lost].concat());
}

#[test]
fn a_copy_that_takes_over_waits_for_its_segments() {
    check(&[(TakeOver, Settling), (Heartbeat, Settling), (Synced, Running)]);
    check(&[(Offer, Lagging), (TakeOver, Settling), (Synced, Running)]);
    check(&[(Offer, Lagging), (Part(3, 4, 1), CatchingUp), (TakeOver, Settling), (Silence, Running)]);
}

/// A half rebuilt copy cannot take over alone.
#[test]
fn a_half_rebuilt_copy_does_not_take_over() {
    check(&[
        (Offer, Lagging),
        (Restart, Lagging),
        (Part(31, 32, 2), CatchingUp),
        (Silence, Incomplete),
        (TakeOver, Incomplete),
        (Silence, Incomplete),
    ]);
}
