//! What has been submitted to the disk, and what for. What a finished submission means is decided in `complete.rs`.

use std::collections::BTreeMap;

use thalweg_model::TopicPartition;

use crate::disk::{Disk, Lane, Op, OpId, Step};
use crate::lsn::Lsn;
use crate::partition::flush::Flush;
use crate::partition::read::ColdRead;
use crate::wal::files::Spare;

/// The disk, and the submissions that it has not finished.
pub(super) struct Submissions<D> {
    disk: D,
    under_way: BTreeMap<OpId, Purpose>,
    next_id: u64,
}

/// What a submission is for.
pub(super) enum Purpose {
    /// A sync batch up to this frame.
    WalBatch(Lsn),
    /// The one log file that is being made.
    WalCreate,
    /// The table beside a log file that is to be a spare.
    WalSums,
    /// The list of log files.
    WalList,
    /// Index files that were missing at the start.
    Indexes,
    Flush(Flush),
    /// A cold read of a partition's copy.
    ColdRead {
        partition: TopicPartition,
        copy: u64,
        read: ColdRead,
    },
    /// The removal of what the frame of this number has made void; `None`: of files that some start would find.
    Delete(Option<Lsn>),
    /// The second names of a copy's segments, in this folder.
    Aside {
        partition: TopicPartition,
        copy: u64,
        folder: String,
    },
    MakeBallast,
    GiveUpBallast,
    /// Log files that are to be kept.
    MakeKept(Vec<Spare>),
}

impl<D: Disk> Submissions<D> {
    pub(super) fn new(disk: D) -> Self {
        Submissions { disk, under_way: BTreeMap::new(), next_id: 1 }
    }

    pub(super) fn submit(&mut self, lane: Lane, steps: Vec<Step>, purpose: Purpose) -> OpId {
        let id = OpId(self.next_id);
        self.next_id += 1;
        self.under_way.insert(id, purpose);
        self.disk.submit(Op { id, lane, steps });
        id
    }

    /// What the finished submission was for; `None` for one that is not known here.
    pub(super) fn finished(&mut self, id: OpId) -> Option<Purpose> {
        self.under_way.remove(&id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    pub(super) fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }
}
