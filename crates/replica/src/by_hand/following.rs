//! Rules of a follower: which entries it takes from a leader, and what it answers. Votes are left to `votes.rs`.

use super::*;

/// Source: Raft figure 2.
pub(super) fn an_entry_is_acknowledged_when_it_is_synced() {
    let mut copy = Copy::new();
    copy.sync();
    copy.append(2, 4, (0, 0), 3, 0);
    assert_eq!(copy.sent_of(RaftKind::Appended), []);
    copy.sync();
    assert_eq!(copy.sent_of(RaftKind::Appended).iter().map(|a| a.index).max(), Some(3));
}

pub(super) fn a_message_for_the_copy_before_is_not_taken() {
    let mut copy = Copy::new();
    copy.sync();
    copy.sent.clear();
    let body = PeerBody::Raft(asks_for_vote(RaftKind::Vote, 5, (0, 0)));
    let to = ReplicaId::new(BrokerId(1), 1);
    copy.replicas.step(copy.now, PeerMessage { partition: NAME, from: self::copy(2), to, body });
    copy.look();
    copy.sync();
    assert_eq!(copy.sent.len(), 0);
}

/// Source: Raft figure 2, the consistency check, and §5.3, log matching. Seed 3010557: a disk came back with an end
/// that had been replaced since, and the leader went on from what the copy had acknowledged before.
pub(super) fn a_heartbeat_decides_only_what_the_leader_has_there() {
    // The copy holds entries 1 to 6 of term 1, of which 1 and 2 are decided.
    let hear = |body: RaftBody| {
        let mut copy = Copy::new();
        copy.append(2, 1, (0, 0), 6, 2);
        copy.sync();
        copy.hear_raft(3, RaftBody { kind: RaftKind::Heartbeat, term: 2, ..body });
        copy.sync();
        let is_lost = copy.log().offline().is_some();
        let decided = copy.log().decided_end().0.0;
        (is_lost, decided)
    };
    let told = |commit, commit_term| RaftBody { commit, commit_term, ..Default::default() };
    assert_eq!(hear(told(5, 1)), (false, 5));
    assert_eq!(hear(told(5, 2)), (true, 2), "the leader of term 2 has replaced it");
    assert_eq!(hear(told(7, 2)), (true, 2), "it is not here");
    assert_eq!(
        hear(told(2, 2)),
        (false, 2),
        "that two histories are decided only an append may say: both are kept then"
    );
    assert_eq!(hear(told(5, 0)), (false, 5), "a leader of an older version names no term");
    let acknowledged = |index| RaftBody { index, ..Default::default() };
    assert_eq!(hear(acknowledged(5)), (false, 2), "the leader knows no more which entry it was");
    assert_eq!(hear(acknowledged(7)), (true, 2));
}

/// Two leaders of one term, because a disk forgot that it had voted, have written different entries under the same
/// index.
#[test]
fn a_leader_whose_entries_follow_on_others_of_the_same_term_has_another_history() {
    // The entry of term 1 that a leader of a later term holds at an index, with the offset that the entry has there.
    let diverges = |after: u64, entries: &[(u64, u64)]| {
        let mut copy = with_entries();
        let entry = |(of, at): &(u64, u64)| {
            let batch = batch(*of, 1).with_position(Offset(*at), LeaderEpoch(1));
            EntryBody { term: 1, content: EntryContent::Batch(batch) }
        };
        let entries = entries.iter().map(entry).collect();
        copy.hear_raft(
            3,
            RaftBody { kind: RaftKind::Append, term: 2, index: after, log_term: 1, entries, ..Default::default() },
        );
        copy.sync();
        copy.said.iter().any(|o| matches!(o, Output::Diverged(..)))
    };
    assert!(!diverges(6, &[(7, 6), (8, 7)]), "it goes on where this one ends");
    assert!(!diverges(3, &[(4, 3), (5, 4), (6, 5), (7, 6)]), "it says again what is here");
    assert!(diverges(6, &[(7, 9)]), "there are more records before it than here");
    assert!(diverges(3, &[(4, 3), (5, 5)]), "the same, behind one that is the same");
    let other = |copy: &mut Copy| {
        let mut builder = BatchBuilder::new();
        builder.push(&Record { value: Some(vec![9; 100].into()), timestamp_ms: 1, ..Default::default() });
        let batch = builder.build(Codec::None, None).with_position(Offset(4), LeaderEpoch(1));
        let entries = vec![EntryBody { term: 1, content: EntryContent::Batch(batch) }];
        copy.hear_raft(
            3,
            RaftBody { kind: RaftKind::Append, term: 2, index: 4, log_term: 1, entries, ..Default::default() },
        );
        copy.said.iter().any(|o| matches!(o, Output::Diverged(..)))
    };
    assert!(other(&mut with_entries()), "other records in the same place");
}

/// A copy of which a leader knows more than it holds is out of service for good, even while it asks the next leader for
/// entries. (Such a copy ran again when no leader had answered for a while, and gave its vote.)
#[test]
fn a_copy_that_has_forgotten_something_stays_out_of_service_though_it_was_catching_up() {
    let mut copy = with_entries();
    copy.hear(3, PeerBody::CatchUp(CatchUp::Offer { term: LeaderEpoch(2) }));
    copy.hear_raft(3, RaftBody { kind: RaftKind::Heartbeat, term: 2, index: 9, ..Default::default() });
    assert!(copy.log().offline().is_some(), "it has acknowledged entry 9, the leader says");
    for _ in 0..2 * catch_up::PATIENCE_MS / TICK_MS {
        copy.tick();
        copy.sync();
    }
    assert_eq!(copy.replicas.state(&NAME), None);
    copy.sent.clear();
    copy.hear_raft(2, asks_for_vote(RaftKind::Vote, 9, (20, 2)));
    copy.sync();
    assert_eq!(copy.sent_of(RaftKind::Voted), []);
}
