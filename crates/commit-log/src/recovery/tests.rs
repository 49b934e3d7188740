//! Logs that end in the middle, or have lost something, frame by frame.

use thalweg_model::{Bug, LeaderEpoch, Offset, RaftIndex, RecordBatch, TopicId, assert_finds};

use super::*;
use crate::disk::Step;
use crate::lsn::Lsn;
use crate::memory::MemoryDisk;
use crate::wal::frame::tests::hard_state_of;
use crate::wal::frame::{FRAME_HEADER_BYTES, Frame, SECTOR_BYTES};
use crate::wal::sums::old_sums_file;

/// A log over three files of four sectors each.
fn empty() -> (MemoryDisk, Wal) {
    let (mut files, mut wal) = (MemoryDisk::empty(), Wal::new(DIRECTORY));
    wal.write_at = u64::MAX >> 1;
    for slot in [2, 1, 0] {
        let name = FileName::new(format!("wal/000{slot}.wal"));
        files.files.insert(name.clone(), vec![0; 4 * SECTOR]);
        let bytes = 4 * SECTOR as u64;
        wal.spares.ready.push(Spare { name, bytes, sums: SectorSums::default() });
    }
    (files, wal)
}

/// Writes a batch of frames that take a sector each, and answers in which file.
fn write(files: &mut MemoryDisk, wal: &mut Wal, frames: usize, terms: u32) -> FileName {
    for i in 0..frames {
        // Headers stand where sectors begin, as they do now and then.
        wal.push_encoded(hard_state_of(PARTITION, terms + i as u32, SECTOR - FRAME_HEADER_BYTES));
    }
    let batch = wal.start_batch().unwrap();
    wal.durable = batch.last;
    let Step::Write { file, at, buffers } = &batch.steps[0] else { panic!("a batch is written first") };
    let data = buffers.concat();
    files.files.get_mut(file).unwrap()[*at as usize..][..data.len()].copy_from_slice(&data);
    file.clone()
}

fn reopen(files: &MemoryDisk) -> Result<Opened, OpenError> {
    open(&mut files.clone(), DIRECTORY)
}

const SECTOR: usize = SECTOR_BYTES as usize;
const PARTITION: TopicPartition = TopicPartition { topic: TopicId([3; 16]), partition: thalweg_model::PartitionId(0) };
const DIRECTORY: DirectoryId = DirectoryId([8; 16]);

#[test]
fn a_first_batch_that_lost_its_beginning_is_torn_until_something_says_that_it_was_synced() {
    let (mut files, mut wal) = empty();
    write(&mut files, &mut wal, 4, 1);
    let second = write(&mut files, &mut wal, 2, 5);
    let mut torn = files.clone();
    torn.files.get_mut(&second).unwrap()[..SECTOR].fill(0xa5);
    let opened = reopen(&torn).unwrap();
    assert_eq!(opened.wal.next_lsn, Lsn(5));
    let reported = [Damage::Torn { file: second.clone(), at: 0, plain: false }];
    assert_eq!(opened.damages, reported);
    // It goes on elsewhere, under the same numbers.
    let mut again = opened.wal;
    again.spares.ready = again.spares.found.extract_if(.., |s| s.name != second).collect();
    write(&mut torn, &mut again, 2, 5);
    write(&mut torn, &mut again, 1, 7);
    let opened = reopen(&torn).unwrap();
    assert_eq!((opened.wal.next_lsn, &opened.damages[..]), (Lsn(8), &reported[..]));
    // One more batch was written: so the one before it had been synced.
    write(&mut files, &mut wal, 1, 7);
    files.files.get_mut(&second).unwrap()[..SECTOR].fill(0xa5);
    assert_eq!(reopen(&files).err(), Some(OpenError::Rot { file: second, at: 0, lsn: 5 }));
}

#[test]
fn frames_of_a_batch_that_never_became_whole_do_not_come_back_when_their_file_is_used_again() {
    let (mut files, mut wal) = empty();
    write(&mut files, &mut wal, 4, 1);
    let second = write(&mut files, &mut wal, 2, 5);
    files.files.get_mut(&second).unwrap()[..SECTOR].fill(0);
    let mut wal = reopen(&files).unwrap().wal;
    assert_eq!(wal.next_lsn, Lsn(5));
    let spare = wal.spares.found.extract_if(.., |s| s.name == second).next().unwrap();
    files.files.insert(old_sums_file(&spare.name), spare.sums.encode(0).to_vec());
    wal.spares.ready.push(spare);
    // The same frame again, as far as the sector that was lost; behind it still stands what followed it then.
    assert_eq!(write(&mut files, &mut wal, 1, 5), second);
    let opened = reopen(&files).unwrap();
    assert_eq!((opened.wal.next_lsn, opened.damages), (Lsn(6), Vec::new()));
    assert_eq!(opened.partitions.values().next().unwrap().hard_state.term, LeaderEpoch(5));
}

#[test]
fn nor_do_those_that_begin_within_a_sector() {
    let (mut files, mut wal) = empty();
    // Two frames, of which the second begins in the second sector.
    let batch = |wal: &mut Wal, terms: [u32; 2]| {
        for term in terms {
            wal.push_encoded(hard_state_of(PARTITION, term, SECTOR));
        }
        let batch = wal.start_batch().unwrap();
        let Step::Write { file, at, buffers } = &batch.steps[0] else { panic!("a batch is written first") };
        (file.clone(), *at as usize, buffers.concat())
    };
    write(&mut files, &mut wal, 4, 1);
    // The power fails: the first sector does not come to the disk.
    let (file, at, data) = batch(&mut wal, [5, 6]);
    files.files.get_mut(&file).unwrap()[at..][SECTOR..data.len()].copy_from_slice(&data[SECTOR..]);
    let mut wal = reopen(&files).unwrap().wal;
    assert_eq!(wal.next_lsn, Lsn(5));
    let spare = wal.spares.found.extract_if(.., |s| s.name == file).next().unwrap();
    files.files.insert(old_sums_file(&spare.name), spare.sums.encode(0).to_vec());
    wal.spares.ready.push(spare);
    // The first frame again, with another one behind it, and this time only the first sector comes.
    let (again, at, data) = batch(&mut wal, [5, 9]);
    assert_eq!(again, file);
    files.files.get_mut(&file).unwrap()[at..][..SECTOR].copy_from_slice(&data[..SECTOR]);
    let opened = reopen(&files).unwrap();
    assert_eq!(opened.partitions.values().next().unwrap().hard_state.term, LeaderEpoch(5));
}

#[test]
fn sectors_at_the_end_that_hold_neither_zeros_nor_what_stood_there_may_be_damage() {
    let (mut files, mut wal) = empty();
    let first = write(&mut files, &mut wal, 2, 1);
    files.files.get_mut(&first).unwrap()[SECTOR..2 * SECTOR].fill(0xa5);
    assert!(matches!(reopen(&files).unwrap().damages[..], [Damage::Torn { plain: false, .. }]));
}

#[test]
fn a_frame_that_later_ones_call_synced_is_rot_and_not_torn() {
    let (mut files, mut wal) = empty();
    let first = write(&mut files, &mut wal, 2, 1);
    write(&mut files, &mut wal, 1, 3);
    files.files.get_mut(&first).unwrap()[SECTOR..2 * SECTOR].fill(0xa5);
    assert_eq!(reopen(&files).err(), Some(OpenError::Rot { file: first, at: SECTOR as u64, lsn: 2 }));
}

#[test]
fn an_entry_that_was_carried_over_leaves_those_behind_it() {
    let (mut files, mut wal) = empty();
    let batch = |index: u64| RecordBatch::leader_change(Offset(index - 1), LeaderEpoch(1));
    for index in [1, 2] {
        wal.push(PARTITION, Frame::Entry { index: RaftIndex(index), batch: batch(index) });
    }
    wal.push(PARTITION, Frame::CarriedOver { index: RaftIndex(1), batch: batch(1) });
    let batch = wal.start_batch().unwrap();
    let Step::Write { file, at, buffers } = &batch.steps[0] else { panic!("a batch is written first") };
    let data = buffers.concat();
    files.files.get_mut(file).unwrap()[*at as usize..][..data.len()].copy_from_slice(&data);
    let opened = reopen(&files).unwrap();
    let indexes: Vec<_> = opened.partitions[&PARTITION].tail.iter().map(|e| e.index).collect();
    assert_eq!(indexes, [RaftIndex(1), RaftIndex(2)]);
}

#[test]
fn planted_bugs_show() {
    assert_finds(Bug::CarriedOverDiscards, an_entry_that_was_carried_over_leaves_those_behind_it);
    let at_the_end = sectors_at_the_end_that_hold_neither_zeros_nor_what_stood_there_may_be_damage;
    assert_finds(Bug::DamageTakenForTorn, at_the_end);
    let torn = a_first_batch_that_lost_its_beginning_is_torn_until_something_says_that_it_was_synced;
    assert_finds(Bug::DurableCoversItself, torn);
    assert_finds(Bug::RotCut, a_frame_that_later_ones_call_synced_is_rot_and_not_torn);
}
