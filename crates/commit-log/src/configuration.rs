//! Who belongs to a Raft group as of some entry, and the changes that configuration entries carry.
//!
//! Only bytes and lists: what a joint configuration means is raft-rs's business, fenced in `replica`.

use bytes::{Buf, BufMut, Bytes};
use thalweg_model::ReplicaId;

/// The members of a group after some entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Configuration {
    /// Who counts for the high watermark and votes.
    pub voters: Vec<ReplicaId>,
    /// Who receives entries and does not count.
    pub learners: Vec<ReplicaId>,
    /// While a change of several voters is under way: who counted before it, and still does.
    pub voters_outgoing: Vec<ReplicaId>,
    /// Who becomes a learner when it ends.
    pub learners_next: Vec<ReplicaId>,
    /// Whether it ends by itself.
    pub auto_leave: bool,
}

impl Configuration {
    /// A group of these voters.
    pub fn of_voters(voters: impl IntoIterator<Item = ReplicaId>) -> Configuration {
        Configuration { voters: voters.into_iter().collect(), ..Default::default() }
    }

    /// True for a voter, before or after a change that is under way.
    pub fn has_voter(&self, replica: ReplicaId) -> bool {
        self.voters.contains(&replica) || self.voters_outgoing.contains(&replica)
    }

    /// Everybody who receives entries, each once.
    pub fn members(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        let lists = [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next];
        let mut all: Vec<ReplicaId> = lists.into_iter().flatten().copied().collect();
        all.sort();
        all.dedup();
        all.into_iter()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for list in [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next] {
            out.put_u8(list.len() as u8);
            list.iter().for_each(|r| out.put_u64_le(r.0));
        }
        out.put_u8(self.auto_leave as u8);
    }

    pub(crate) fn decode(data: &mut &[u8]) -> Option<Configuration> {
        let mut lists: [Vec<ReplicaId>; 4] = Default::default();
        for list in &mut lists {
            let count = data.try_get_u8().ok()? as usize;
            if count > MEMBERS_MAX || data.len() < count * 8 {
                return None;
            }
            *list = (0..count).map(|_| ReplicaId(data.get_u64_le())).collect();
        }
        let auto_leave = data.try_get_u8().ok()? != 0;
        let [voters, learners, voters_outgoing, learners_next] = lists;
        Some(Configuration { voters, learners, voters_outgoing, learners_next, auto_leave })
    }

    /// The bytes that travel when a whole state is handed to a replica.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = Vec::new();
        self.encode(&mut out);
        out.into()
    }

    /// Reads them back; `None` for anything else.
    pub fn from_bytes(mut data: &[u8]) -> Option<Configuration> {
        let configuration = Configuration::decode(&mut data)?;
        data.is_empty().then_some(configuration)
    }
}

/// The change of one member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemberChange {
    /// Counts from now on.
    Voter(ReplicaId),
    /// Receives entries from now on.
    Learner(ReplicaId),
    /// Is no member any more.
    Remove(ReplicaId),
}

impl MemberChange {
    /// The value of a configuration entry's control batch: per change its kind (u8: 1 voter, 2 learner, 3 remove) and
    /// the replica id (u64, little-endian). No change at all ends a joint configuration.
    pub fn encode_all(changes: &[MemberChange]) -> Vec<u8> {
        let mut out = Vec::with_capacity(9 * changes.len());
        for change in changes {
            let (kind, replica) = match change {
                MemberChange::Voter(r) => (1, r),
                MemberChange::Learner(r) => (2, r),
                MemberChange::Remove(r) => (3, r),
            };
            out.put_u8(kind);
            out.put_u64_le(replica.0);
        }
        out
    }

    /// Reads them back; `None` for anything else.
    pub fn decode_all(data: &[u8]) -> Option<Vec<MemberChange>> {
        if !data.len().is_multiple_of(9) || data.len() / 9 > MEMBERS_MAX {
            return None;
        }
        let change = |b: &[u8]| {
            let replica = ReplicaId(u64::from_le_bytes(b[1..9].try_into().ok()?));
            match b[0] {
                1 => Some(MemberChange::Voter(replica)),
                2 => Some(MemberChange::Learner(replica)),
                3 => Some(MemberChange::Remove(replica)),
                _ => None,
            }
        };
        data.chunks_exact(9).map(change).collect()
    }
}

/// Most members that a stored or received configuration may name; a bound for decoders.
const MEMBERS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_and_changes_come_back_and_nothing_else_decodes() {
        let [a, b, c] = [1, 2, 3].map(ReplicaId);
        let configuration = Configuration {
            voters: vec![a, b],
            learners: vec![c],
            voters_outgoing: vec![a],
            learners_next: vec![],
            auto_leave: true,
        };
        let bytes = configuration.to_bytes();
        assert_eq!(Configuration::from_bytes(&bytes), Some(configuration));
        assert!((0..bytes.len()).all(|cut| Configuration::from_bytes(&bytes[..cut]).is_none()));
        assert_eq!(Configuration::from_bytes(&[255, 0, 0]), None);
        let changes = vec![MemberChange::Voter(c), MemberChange::Remove(a), MemberChange::Learner(b)];
        assert_eq!(MemberChange::decode_all(&MemberChange::encode_all(&changes)), Some(changes));
        assert_eq!(MemberChange::decode_all(&[9; 9]), None);
        assert_eq!(MemberChange::decode_all(&[1; 8]), None);
    }
}
