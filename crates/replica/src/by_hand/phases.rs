//! What a copy is doing, step by step: what happens to it, and the stage that it is in then. Rules of a single stage
//! are left to the other files.

use super::*;

/// One thing that happens to a copy with six entries, two of them decided.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// The leader of term 2, broker 3, offers what it has no more in memory.
    Offer,
    /// That leader is heard.
    Heartbeat,
    /// It knows of an entry that this copy has acknowledged, and that is not here.
    Forgotten,
    /// It holds nothing before entry 31, and brings entries up to 40.
    Restart,
    /// It brings entries from one to another, of an epoch.
    Part(u64, u64, u32),
    /// It tells the members and producers as of this end.
    State(u64),
    /// It has brought everything.
    Done,
    /// It holds another entry where this copy ends.
    Conflict,
    /// The disk does all that waits for it.
    Synced,
    /// Nobody is heard for a while.
    Silence,
    /// The process ends, and starts again.
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

/// Every part is whole in itself.
#[test]
fn a_copy_goes_on_with_what_it_has_when_its_leader_is_silent() {
    check(&[(Offer, Lagging), (Part(3, 4, 1), CatchingUp), (Silence, Running)]);
    check(&[(Offer, Lagging), (Part(3, 4, 1), CatchingUp), (Started, Running)]);
}

/// Nothing tells what stood between what is here and the part.
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

/// Its log is kept aside before anything takes its place; term and vote stay.
#[test]
fn a_copy_with_another_history_is_kept_aside_and_begins_anew() {
    check(&[(Offer, Lagging), (Conflict, Offline), (Offer, Offline), (Synced, Incomplete), (Heartbeat, CatchingUp)]);
}

#[test]
fn nothing_brings_a_lost_copy_back() {
    let lost = [(Offer, Offline), (Heartbeat, Offline), (Done, Offline), (Silence, Offline), (Started, Running)];
    // What a leader has said is not on the disk: after a start it is said again.
    check(&[&[(Forgotten, Offline)][..], &lost].concat());
    check(&[&[(Offer, Lagging), (Forgotten, Offline)][..], &lost].concat());
}

#[test]
fn a_copy_that_takes_over_waits_for_its_segments() {
    check(&[(TakeOver, Settling), (Heartbeat, Settling), (Synced, Running)]);
    check(&[(Offer, Lagging), (TakeOver, Settling), (Synced, Running)]);
    check(&[(Offer, Lagging), (Part(3, 4, 1), CatchingUp), (TakeOver, Settling), (Silence, Running)]);
}

/// What is not whole cannot go on alone.
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
