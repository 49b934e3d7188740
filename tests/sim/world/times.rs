//! Lookups by time, beside a scan of the whole partition.

use thalweg_model::{Offset, TopicPartition};

use super::World;

impl World {
    /// Compares lookups with what was scanned from `start` on: offset and timestamp of each record, in order.
    pub(super) fn check_times(
        &mut self,
        node: usize,
        group: TopicPartition,
        start: Offset,
        scanned: &[(u64, i64)],
    ) -> Result<(), String> {
        let log = self.nodes[node].replicas().and_then(|r| r.log().partition(&group));
        let Some(log) = log else { return Ok(()) };
        // Retention went by, or the copy was replaced.
        if log.log_start() != start || log.offline().is_some() {
            return Ok(());
        }
        let some = (0..3).filter_map(|i| scanned.get((self.now_ms as usize * 31 + i * 17) % scanned.len().max(1)));
        let some: Vec<i64> = some.flat_map(|(_, ms)| [ms - 1, *ms, ms + 1]).chain([i64::MIN, i64::MAX]).collect();
        for at_ms in some {
            let expect = scanned.iter().find(|(_, ms)| *ms >= at_ms);
            let from = log.offset_for_timestamp(at_ms);
            // As a broker goes on from there.
            let found = from.and_then(|from| scanned.iter().find(|(o, ms)| *o >= from.0 && *ms >= at_ms));
            if found != expect {
                return Err(format!(
                    "{node} looks up {at_ms} in {group}: begins at {from:?}, finds {found:?}, scans {expect:?}"
                ));
            }
        }
        Ok(())
    }
}
