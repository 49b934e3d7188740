//! What is left of one partition, from its frames and its segments, and how it goes on with that. Whether it does is
//! decided by an operator.

use std::collections::BTreeSet;

use thalweg_model::limits::BATCH_RECORDS_MAX;
use thalweg_model::{Offset, RaftIndex, RecordBatch, ReplicaId, TopicPartition};

use super::plan::Plan;
use super::range::needs_sum;
use super::read::scan_segment;
use super::unit::{Run, Source, Unit};
use crate::configuration::{Configuration, MemberChange};
use crate::disk::{Disk, FileName};
use crate::manifest::{Manifest, SegmentsEnd};
use crate::partition::{PartitionLog, TailEntry};
use crate::producers::ProducerTable;
use crate::recovery::Found;
use crate::segment;
use crate::state::HardState;

/// What is left of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Salvageable {
    /// The partition that is meant.
    pub partition: TopicPartition,
    /// Whose data it is; `None` where that is lost too.
    pub replica: Option<ReplicaId>,
    /// Members of its group as far as they are known here; more than one: there are other copies.
    pub members: usize,
    /// First offset that readers may have.
    pub log_start: Offset,
    /// One past the last offset.
    pub end: Offset,
    /// What cannot be read, in order: first offset and end.
    pub lost: Vec<(Offset, Offset)>,
    /// Set where the log has lost its end: the next record gets this offset.
    pub goes_on_at: Option<Offset>,
    /// Why a start takes it offline; `None` for a partition that is whole.
    pub damage: Option<String>,
}

/// What is left of one partition, and how it goes on.
pub(super) struct Find {
    pub(super) hard_state: HardState,
    pub(super) log: PartitionLog,
    pub(super) runs: Vec<Run>,
    pub(super) salvageable: Salvageable,
}

/// Looks for what is left of one partition: what can be read of its segments and of its entries in the log is put in a
/// row, and what is missing between is filled.
pub(super) fn find<D: Disk>(
    disk: &mut D,
    partition: TopicPartition,
    found: Found,
    there: &BTreeSet<FileName>,
    log_damage: &[String],
    segment_bytes: u64,
) -> Find {
    let Found { hard_state, manifest, entries, rot, damage, .. } = found;
    let is_log_whole = log_damage.is_empty();
    let mut units = in_segments(disk, &partition, &manifest, there, is_log_whole);
    let (logged, members, log_start) = in_log(&manifest, entries);
    units.extend(logged);
    units.sort_by_key(|u| (u.base, u.is_in_memory(), u.end));
    let mut plan = Plan::new(begin(&manifest, &units, is_log_whole), segment_bytes);
    units.into_iter().for_each(|unit| plan.take(unit));
    let manifest_end = (manifest.end.offset, manifest.end.index.next());
    if plan.next.is_some_and(|(offset, _)| offset < manifest_end.0) {
        plan.fill(manifest_end, manifest.end.epoch);
    }
    let end = plan.next.map_or(Offset(0), |(offset, _)| offset);
    let (lost, fills) = (std::mem::take(&mut plan.lost), std::mem::take(&mut plan.fills));
    let goes_on_at = (!is_log_whole).then(|| plan.skip(SKIPPED_OFFSETS));
    let log_start = log_start.max(plan.runs.first().map_or(Offset(0), Run::base));
    let above = |l: &&(Offset, Offset)| l.1 > log_start;
    let lost = lost.iter().filter(above).map(|(from, to)| (*from.max(&log_start), *to)).collect();
    let damage = damage.map(|(loss, _)| loss.what).or(rot).or_else(|| log_damage.first().cloned());
    let damage =
        damage.or_else(|| fills.first().map(|(from, to)| format!("offsets {from} to {} cannot be read", to.0 - 1)));
    let damage = damage.or_else(|| in_segments_damage(disk, &partition, &manifest, &plan.runs));
    // Who wrote what is lost is not known: a producer that goes on gets the answer that it was forgotten.
    let is_end_lost = !is_log_whole || fills.iter().any(|(_, to)| *to > manifest.end.offset);
    let salvageable = Salvageable {
        partition,
        replica: Some(hard_state.replica).filter(|r| *r != ReplicaId::default()),
        members: members.as_ref().map_or(0, |m| m.members().count()),
        log_start,
        end,
        lost,
        goes_on_at,
        damage,
    };
    let next = plan.next.unwrap_or((Offset(0), RaftIndex(1)));
    let log = PartitionLog {
        log_start,
        end: SegmentsEnd { offset: next.0, index: RaftIndex(next.1.0 - 1), epoch: plan.epoch },
        configuration: members,
        producers: if is_end_lost { ProducerTable::of_forgotten() } else { manifest.producers },
        ..Default::default()
    };
    let term = hard_state.term.max(plan.epoch);
    let vote = if term == hard_state.term { hard_state.vote } else { 0 };
    Find { hard_state: HardState { term, vote, replica: hard_state.replica }, log, runs: plan.runs, salvageable }
}

/// What can be read of the partition's segments.
fn in_segments<D: Disk>(
    disk: &mut D,
    partition: &TopicPartition,
    manifest: &Manifest,
    there: &BTreeSet<FileName>,
    is_log_whole: bool,
) -> Vec<Unit> {
    let mut units: Vec<Unit> = Vec::new();
    let folder = format!("{}/", segment::folder(partition));
    let bases = there.iter().filter_map(|f| f.0.strip_prefix(&folder)?.split_once('.')?.0.parse().ok().map(Offset));
    for base in bases.collect::<BTreeSet<Offset>>() {
        let before = units.last().filter(|u| u.end == base).map(|u| RaftIndex(u.first_index.0 + u.count));
        let is_named = manifest.segments.contains(&base);
        units.extend(scan_segment(disk, partition, (base, is_named), before, there));
    }
    if is_log_whole {
        // Beyond the manifest stands only what is in the log too.
        units.retain(|u| u.end <= manifest.end.offset);
    }
    units
}

/// The partition's entries in the log, and members and log start as of the last of them.
fn in_log(manifest: &Manifest, entries: Vec<TailEntry>) -> (Vec<Unit>, Option<Configuration>, Offset) {
    let mut members = manifest.configuration.clone();
    let mut log_start = manifest.log_start;
    let mut units = Vec::with_capacity(entries.len());
    for entry in entries {
        let header = entry.batch.header();
        if entry.index > manifest.end.index {
            log_start = log_start.max(entry.batch.as_log_start().unwrap_or(Offset(0)));
            follow_change(&mut members, &entry.batch);
        }
        units.push(Unit {
            base: header.base_offset,
            end: entry.batch.end_offset(),
            first_index: entry.index,
            count: 1,
            epoch: header.leader_epoch,
            is_lost: false,
            source: Source::Batches(vec![entry.batch]),
        });
    }
    (units, members, log_start)
}

/// Offset and index with which the partition begins; `None` where nothing says so.
fn begin(manifest: &Manifest, units: &[Unit], is_log_whole: bool) -> Option<(Offset, RaftIndex)> {
    // Where the log has lost frames, segments that are gone as a whole may have been removed by retention.
    let has_manifest = !manifest.segments.is_empty();
    let (offset, index) = match (is_log_whole && has_manifest, units.first()) {
        (true, _) => (manifest.segments[0], None),
        (false, Some(unit)) => (unit.base, Some(unit.first_index)),
        (false, None) => return None,
    };
    // A fill at the very front has no index before it: as few as will do.
    let index = index.or_else(|| {
        let unit = units.iter().find(|u| u.base >= offset)?;
        let fills = unit.base.0.saturating_sub(offset.0).div_ceil(BATCH_RECORDS_MAX as u64);
        let before = if offset == Offset(0) { 1 } else { unit.first_index.0.checked_sub(fills)? };
        Some(RaftIndex(before))
    });
    let until_end = manifest.end.offset.0.saturating_sub(offset.0).div_ceil(BATCH_RECORDS_MAX as u64);
    let at_end = RaftIndex((manifest.end.index.0 + 1).saturating_sub(until_end).max(1));
    Some((offset, index.unwrap_or(at_end)))
}

/// What is wrong with the segments where nothing of the partition is lost.
fn in_segments_damage<D: Disk>(
    disk: &mut D,
    partition: &TopicPartition,
    manifest: &Manifest,
    runs: &[Run],
) -> Option<String> {
    let is_rewritten = |r: &Run| matches!(r, Run::Keep { base, ranges } if needs_sum(disk, partition, *base, ranges));
    if runs.iter().any(is_rewritten) {
        return Some("checksums of a segment are missing".to_owned());
    }
    let until = |i: usize| manifest.segments.get(i + 1).copied().unwrap_or(manifest.end.offset);
    let is_kept = |base: Offset, until: Offset| {
        runs.iter().any(|run| match run {
            Run::Keep { base: of, ranges } => *of == base && ranges.last().is_some_and(|r| r.end_offset == until),
            _ => false,
        })
    };
    let (_, base) = manifest.segments.iter().enumerate().find(|(i, base)| !is_kept(**base, until(*i)))?;
    Some(format!("the segment at offset {base} is damaged; the log still holds what stood there"))
}

/// Follows a change of members in a batch, as far as a list can: who leads a group of one needs no more.
fn follow_change(members: &mut Option<Configuration>, batch: &RecordBatch) {
    let Some(changes) = batch.as_configuration().and_then(|c| MemberChange::decode_all(&c)) else { return };
    let members = members.get_or_insert_default();
    if changes.is_empty() {
        members.voters_outgoing.clear();
        members.learners.append(&mut members.learners_next);
    }
    for change in changes {
        let (MemberChange::Voter(r) | MemberChange::Learner(r) | MemberChange::Remove(r)) = change;
        members.voters.retain(|v| *v != r);
        members.learners.retain(|l| *l != r);
        match change {
            MemberChange::Voter(_) => members.voters.push(r),
            MemberChange::Learner(_) => members.learners.push(r),
            MemberChange::Remove(_) => {}
        }
    }
}

/// Offsets that are left out behind what is left of a partition, where the log has lost its end: none that somebody may
/// have seen is given a second time. Far more than 512 MiB of log hold records of an ordinary size.
pub(super) const SKIPPED_OFFSETS: u64 = 10_000_000;
