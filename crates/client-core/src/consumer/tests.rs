//! Unit tests of positions, generations and credit. What holds for any order of events is in `tests/credit.rs`.

use thalweg_api::{ApiError, ErrorCode};
use thalweg_model::assert_finds;

use super::*;

fn push(partition: u32, generation: u64, scanned_through: u64, delivered: u64, filtered: u64) -> FetchPush {
    FetchPush { partition, generation, scanned_through, delivered, filtered, ..Default::default() }
}

/// The one frame that a connection brings about.
fn connect(c: &mut ConsumerCore, partition: u32) -> FetchControl {
    c.connected(partition);
    c.poll().into_iter().rfind(|control| control.partition == partition).expect("it is asked for")
}

fn credit(c: &mut ConsumerCore) -> Vec<(u32, u64)> {
    c.poll().into_iter().filter(|f| !f.stop).map(|f| (f.partition, f.credit_bytes)).collect()
}

#[test]
fn positions_move_over_filtered_ranges_and_old_generations_are_dropped() {
    let mut c = ConsumerCore::new([0], Position::Earliest, 0);
    let control = connect(&mut c, 0);
    assert_eq!(c.unresolved().collect::<Vec<_>>(), [0]);
    assert_eq!(c.pushed(&push(0, control.generation, 5, 0, 0), 0), Pushed::Current { from: 5, passes: false });
    assert_eq!((c.unresolved().count(), c.resolved(0)), (0, Some(5)));
    assert_eq!(c.pushed(&push(0, control.generation, 105, 0, 100), 0), Pushed::Current { from: 5, passes: false });
    assert_eq!((c.position(0), c.counts().scanned()), (Some(105), 100));
    c.seek(0, Position::Offset(7));
    let seek = c.poll().remove(0);
    assert_eq!(c.pushed(&push(0, control.generation, 200, 95, 0), 0), Pushed::Stale);
    assert_eq!(c.pushed(&push(0, seek.generation, 7, 0, 0), 0), Pushed::Current { from: 7, passes: false });
    assert_eq!(connect(&mut c, 0).start, Some(Position::Offset(7)));
}

#[test]
fn what_came_before_a_reconnection_is_still_the_users_and_what_came_before_a_seek_is_not() {
    let mut c = ConsumerCore::new([0], Position::Earliest, 0);
    let first = connect(&mut c, 0).generation;
    c.pushed(&push(0, first, 0, 0, 0), 0);
    assert_eq!(c.pushed(&push(0, first, 10, 10, 0), 0), Pushed::Current { from: 0, passes: false });
    c.disconnected(0);
    let again = connect(&mut c, 0);
    assert_eq!(again.start, Some(Position::Offset(10)));
    assert!(c.is_wanted(0, first) && !c.is_current(0, first));
    c.seek(0, Position::Earliest);
    assert!(!c.is_wanted(0, first) && !c.is_wanted(0, again.generation));
}

#[test]
fn credit_follows_what_the_user_takes_and_pause_withholds_it() {
    const MIB: u64 = 1 << 20;
    let mut c = ConsumerCore::new([0, 1], Position::Earliest, 4 * MIB);
    let first = connect(&mut c, 0);
    assert_eq!(first.credit_bytes, 2 * MIB);
    for n in 1..=4 {
        c.pushed(&push(0, first.generation, n, 1, 0), MIB / 2);
    }
    assert!(!c.taken(0, MIB / 2) && c.poll().is_empty());
    assert!(c.taken(0, MIB / 2));
    assert_eq!(credit(&mut c), [(0, MIB)]);
    c.pause(0);
    assert!(!c.taken(0, MIB / 2) && !c.taken(0, MIB / 2) && c.poll().is_empty());
    // What is outstanding is not granted a second time, however often it is paused and resumed.
    for _ in 0..3 {
        c.pause(0);
        c.resume(0);
    }
    assert_eq!(credit(&mut c), [(0, MIB)]);
    c.resume(0);
    assert!(c.poll().is_empty());
}

#[test]
fn a_reader_whose_partitions_become_fewer_is_granted_the_difference() {
    let mut c = ConsumerCore::new(0..4, Position::Earliest, 4 << 20);
    let first = connect(&mut c, 0);
    for p in 1..4 {
        connect(&mut c, p);
    }
    (1..4).for_each(|p| c.revoke(p));
    let out = c.poll();
    assert_eq!(out.iter().filter(|f| f.stop).count(), 3);
    assert_eq!(out.iter().find(|f| f.partition == 0).map(|f| f.credit_bytes), Some(3 << 20));
    assert_eq!(c.held_bytes(), 4 << 20);
    c.pushed(&push(0, first.generation, 1, 1, 0), 4 << 20);
    assert!(c.taken(0, 4 << 20));
    assert_eq!(credit(&mut c), [(0, 4 << 20)]);
}

#[test]
fn what_an_idle_partition_was_granted_is_taken_back_for_a_new_one() {
    let mut c = ConsumerCore::new([0], Position::Latest, 4 << 20);
    let first = connect(&mut c, 0).generation;
    c.pushed(&push(0, first, 9, 0, 0), 0);
    c.assign(1, Position::Earliest);
    c.connected(1);
    let out = c.poll();
    let again = out.iter().find(|f| f.partition == 0).expect("asked anew");
    assert_eq!((again.start, again.credit_bytes), (Some(Position::Offset(9)), 2 << 20));
    let granted: u64 = out.iter().filter(|f| f.partition == 1).map(|f| f.credit_bytes).sum();
    assert_eq!((granted, c.held_bytes()), (2 << 20, 4 << 20));
}

#[test]
fn a_batch_larger_than_its_window_is_not_owed_twice() {
    let mut c = ConsumerCore::new([0], Position::Earliest, 0);
    let first = connect(&mut c, 0);
    assert_eq!(first.credit_bytes, WINDOW_BYTES_MIN);
    c.pushed(&push(0, first.generation, 1, 1, 0), 16 << 20);
    assert!(c.poll().is_empty());
    assert!(c.taken(0, 16 << 20));
    // The broker's count is below zero by what the batch took too much.
    assert_eq!(credit(&mut c), [(0, 16 << 20)]);
    assert_eq!(c.held_bytes(), WINDOW_BYTES_MIN);
}

#[test]
fn what_was_pushed_of_a_revoked_partition_counts_until_it_is_dropped() {
    let mut c = ConsumerCore::new([0, 1], Position::Earliest, 2 << 20);
    let first = connect(&mut c, 0);
    connect(&mut c, 1);
    c.pushed(&push(0, first.generation, 1, 1, 0), 1 << 20);
    c.revoke(0);
    assert_eq!((credit(&mut c), c.held_bytes()), (vec![], 2 << 20));
    assert!(c.taken(0, 1 << 20));
    assert_eq!((credit(&mut c), c.held_bytes()), (vec![(1, 1 << 20)], 2 << 20));
}

#[test]
fn a_refused_start_stays_as_it_was_asked_for_and_a_stopped_partition_waits_for_a_seek() {
    let mut c = ConsumerCore::new([0], Position::Latest, 0);
    let first = connect(&mut c, 0);
    let refusal = |generation, code| FetchPush { error: Some(ApiError::new(code, "")), ..push(0, generation, 0, 0, 0) };
    let passes = c.pushed(&refusal(first.generation, ErrorCode::NotLeader), 0);
    assert_eq!(passes, Pushed::Current { from: 0, passes: true });
    assert!(c.poll().is_empty() && c.unresolved().count() == 1);
    c.ask_again(0, first.generation);
    let again = c.poll().remove(0);
    assert_eq!(again.start, Some(Position::Latest));
    let stops = c.pushed(&refusal(again.generation, ErrorCode::PartitionOffline), 0);
    assert_eq!(stops, Pushed::Current { from: 0, passes: false });
    assert_eq!(c.unresolved().count(), 0);
    c.disconnected(0);
    c.connected(0);
    assert!(c.poll().is_empty());
    c.seek(0, Position::Earliest);
    let again = c.poll().remove(0);
    c.stop_at(0, 4);
    assert!(c.poll()[0].stop && !c.is_wanted(0, again.generation));
    c.seek(0, Position::Offset(5));
    assert_eq!(c.poll().remove(0).start, Some(Position::Offset(5)));
}

#[test]
fn planted_bugs_show() {
    assert_finds(Bug::CreditGivenTwice, credit_follows_what_the_user_takes_and_pause_withholds_it);
    assert_finds(Bug::DroppedStaysHeld, what_was_pushed_of_a_revoked_partition_counts_until_it_is_dropped);
}
