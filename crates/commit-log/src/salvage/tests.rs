//! What is left of a directory after damage, and that it goes on with that.

use thalweg_model::Offset;

use super::find::SKIPPED_OFFSETS;
use super::*;
use crate::directory::{CommitLog, ReadOutcome};
use crate::lost_files::{
    DIRECTORY, OTHER, PARTITION, append, config, cut, directory, end, held, remove, segment_files, settle, view,
};
use crate::memory::MemoryDisk;

/// What a directory has left after `damage`; checks that looking changes nothing, and that it opens with everything
/// else once that is accepted.
fn check(damage: impl FnOnce(&mut MemoryDisk), expect: impl FnOnce(&Salvageable)) -> MemoryDisk {
    let mut disk = directory();
    damage(&mut disk);
    let before = disk.files.clone();
    let open =
        |disk: &MemoryDisk| Salvage::open(disk.clone(), DIRECTORY, config(), None).expect("memory does not fail");
    let mut salvage = open(&disk);
    assert_eq!(salvage.disk.files, before, "looking changes nothing");
    let of = |s: &Salvage<MemoryDisk>, partition| s.partitions().find(|p| p.partition == partition).cloned();
    let left = of(&salvage, PARTITION).expect("something is left of it");
    expect(&left);
    let batches = salvage.batches(&PARTITION).unwrap();
    let is_log_whole = salvage.log_damage().is_empty();
    let chosen: Vec<_> = match is_log_whole {
        true => vec![(PARTITION, ReplicaId(1))],
        false => salvage.partitions().map(|p| (p.partition, ReplicaId(1))).collect(),
    };
    // A crash at any step before the end: it begins anew, and nothing more is lost.
    let mut whole = None;
    for steps in 0.. {
        let mut broken = open(&disk);
        broken.disk.steps_left = Some(steps);
        let done = broken.accept_on(&chosen.iter().copied().collect());
        let mut after = broken.disk;
        after.steps_left = None;
        if done.is_ok() {
            whole = Some(after);
            break;
        }
        let is_whole = |log: CommitLog<MemoryDisk>| view(&log, PARTITION).offline().is_none();
        if CommitLog::open(after.clone(), DIRECTORY, config()).is_ok_and(|(log, _)| is_whole(log)) {
            continue;
        }
        let again = of(&open(&after), PARTITION).expect("something is left of it");
        // Behind its end it may have been filled by then.
        let lost: Vec<_> = again.lost.into_iter().filter(|l| l.0 < left.end).collect();
        assert_eq!((again.log_start, lost), (left.log_start, left.lost.clone()), "after {steps} steps");
    }
    let disk = whole.expect("the loop ends with it");
    let (mut log, recovery) = CommitLog::open(disk, DIRECTORY, config()).expect("it opens");
    assert!(recovery.damages.is_empty(), "{:?}", recovery.damages);
    settle(&mut log, 0);
    // Readers come to every batch that is left, and are never stuck.
    let next = left.goes_on_at.unwrap_or(left.end);
    assert_eq!(view(&log, PARTITION).segments_end().offset, next);
    let (mut at, mut read) = (view(&log, PARTITION).log_start(), Vec::new());
    while at < next {
        let found = match held(&mut log, PARTITION).read(at, next, 1 << 20) {
            ReadOutcome::Batches(found) => found,
            ReadOutcome::Pending(op) => {
                settle(&mut log, 0);
                let events = log.take_events();
                let is_it = |e: crate::LogEvent| match e {
                    crate::LogEvent::ColdRead { op: of, result, .. } if of == op => Some(result.expect("it is whole")),
                    _ => None,
                };
                events.into_iter().find_map(is_it).expect("the read has ended")
            }
            other => panic!("{other:?} at {at}"),
        };
        assert_eq!(found[0].base_offset().max(at), at, "no gap");
        at = found.last().expect("at least one").end_offset();
        read.extend(found);
    }
    let lost: Vec<_> = read.iter().filter(|b| b.is_lost()).map(|b| (b.base_offset(), b.end_offset())).collect();
    read.retain(|b| !b.is_lost());
    assert_eq!(read, batches);
    for (from, to) in &left.lost {
        assert!(lost.iter().any(|(f, _)| f == from) && lost.iter().any(|(_, t)| t == to), "{lost:?} {left:?}");
    }
    // And it goes on.
    let to = end(&log, PARTITION) + 50;
    append(&mut log, PARTITION, to);
    log.flush_all();
    settle(&mut log, 300);
    let log = CommitLog::open(log.disk_mut().image(), DIRECTORY, config()).expect("it opens").0;
    assert!([PARTITION, OTHER].iter().all(|g| view(&log, *g).offline().is_none()));
    let mut log = log;
    log.disk_mut().image()
}

fn holes(left: &Salvageable) -> Vec<(u64, u64)> {
    left.lost.iter().map(|(from, to)| (from.0, to.0)).collect()
}

fn flip(file: &str, at: usize) -> impl FnOnce(&mut MemoryDisk) {
    move |disk| disk.files.get_mut(&FileName::new(file)).expect("it is there")[at] ^= 1
}

#[test]
fn one_flipped_bit_costs_one_batch() {
    let logs = segment_files(PARTITION, "log");
    for (file, at, hole) in [(0, 100, 0), (0, 5_000, 4), (1, 20, 15), (1, 3_000, 17)] {
        let first = logs[file].rsplit('/').next().unwrap().split('.').next().unwrap().parse::<u64>().unwrap();
        check(flip(&logs[file], at), |left| {
            let hole = if file == 1 { first + hole - 15 } else { hole };
            assert_eq!(holes(left), [(hole, hole + 1)], "{file} {at} {first}");
            assert_eq!(left.end, Offset(80));
        });
    }
}

#[test]
fn a_segment_that_is_gone_is_a_hole_and_what_follows_is_kept() {
    let logs = segment_files(PARTITION, "log");
    let base = |file: &str| file.rsplit('/').next().unwrap().split('.').next().unwrap().parse::<u64>().unwrap();
    for (i, file) in logs.iter().enumerate() {
        let to = logs.get(i + 1).map_or(40, |next| base(next));
        // The log may still hold the end of it.
        let is_hole = |left: &Salvageable| {
            let holes = holes(left);
            assert!(holes.len() <= 1 && holes.iter().all(|h| h.0 == base(file) && h.1 <= to), "{holes:?} of {to}");
            assert!(left.end == Offset(80) && left.damage.is_some());
        };
        check(remove(file), is_hole);
        check(cut(file, 0), is_hole);
    }
    let folder = segment::folder(&PARTITION);
    check(
        |disk| disk.files.retain(|f, _| !f.0.starts_with(&folder)),
        |left| assert!(left.lost.len() == 1 && left.lost[0].0 == Offset(0) && left.end == Offset(80), "{left:?}"),
    );
}

#[test]
fn checksums_that_are_gone_are_made_from_those_of_the_batches() {
    for file in segment_files(PARTITION, "sum") {
        check(remove(&file), |left| assert_eq!((holes(left), left.end), (vec![], Offset(80)), "{file}"));
        check(cut(&file, 33), |left| assert_eq!((holes(left), left.end), (vec![], Offset(80)), "{file}"));
        check(flip(&file, 10), |left| assert_eq!((holes(left), left.end), (vec![], Offset(80)), "{file}"));
    }
}

#[test]
fn a_directory_without_its_log_goes_on_with_its_segments() {
    check(
        |disk| disk.files.retain(|f, _| !f.0.starts_with("wal/")),
        |left| {
            assert!(left.lost.is_empty() && left.end >= Offset(40), "{left:?}");
            assert_eq!(left.goes_on_at, Some(left.end.plus(SKIPPED_OFFSETS)));
        },
    );
    check(|disk| disk.files.retain(|f, _| !f.0.starts_with("wal")), |left| assert!(left.end >= Offset(40)));
}

#[test]
fn a_log_file_that_is_gone_costs_what_it_held() {
    let disk = directory();
    let files: Vec<_> = disk.files.keys().filter(|f| f.0.ends_with(".wal")).cloned().collect();
    for file in files {
        check(remove(&file.0), |left| assert!(left.goes_on_at.is_some() && left.end >= Offset(40), "{file} {left:?}"));
    }
}

#[test]
fn a_whole_directory_has_nothing_to_salvage() {
    let salvage = Salvage::open(directory(), DIRECTORY, config(), None).unwrap();
    assert!(salvage.partitions().all(|p| p.damage.is_none() && p.lost.is_empty() && p.goes_on_at.is_none()));
    assert_eq!(salvage.partitions().map(|p| p.end).collect::<Vec<_>>(), [Offset(80), Offset(40)]);
}
