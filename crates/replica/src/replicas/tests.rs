//! Rules of copies that come and go, as far as no message is needed. All others are left to `by_hand.rs`.

use thalweg_commit_log::{MemoryDisk, PartitionRef};
use thalweg_model::TopicId;

use super::*;
use crate::message::{RaftBody, RaftKind};

#[test]
fn a_copy_that_is_lost_before_its_first_term_makes_way_for_its_successor() {
    let (partition, now) = (TopicPartition::new(TopicId([3; 16]), 0), Now { mono_ms: 1, wall_ms: 1 });
    let voters: Vec<ReplicaId> = (1..4).map(|b| ReplicaId::new(BrokerId(b), 0)).collect();
    let settings = |replica: ReplicaId| PartitionSettings {
        replica,
        first_voters: voters.clone(),
        target: voters.clone(),
        ..Default::default()
    };
    let body = RaftBody { kind: RaftKind::Heartbeat, term: 1, commit: 2, ..Default::default() };
    let (from, to) = (voters[1], voters[0]);
    let heartbeat = PeerMessage { partition, from, to, body: PeerBody::Raft(body) };
    // All copies at once, or one because a leader's heartbeat tells of entries that it does not hold.
    for is_older in [true, false] {
        let (mut replicas, _) = Replicas::open(MemoryDisk::empty(), DirectoryId([1; 16]), Config::default()).unwrap();
        replicas.start(now, partition, settings(voters[0]));
        assert_eq!(log(&replicas, partition).hard_state().replica, ReplicaId(0), "it has no name yet");
        match is_older {
            true => drop(replicas.lose_everything(now, partition, voters[0], "the disk is older than it was")),
            false => replicas.step(now, heartbeat.clone()),
        }
        assert!(log(&replicas, partition).offline().is_some());
        replicas.configure(now, partition, settings(voters[0].successor()));
        assert_eq!(log(&replicas, partition).offline(), None);
        assert_eq!(log(&replicas, partition).hard_state().replica, voters[0].successor());
    }
}

fn log(replicas: &Replicas<MemoryDisk>, partition: TopicPartition) -> PartitionRef<'_> {
    replicas.log().partition(&partition).expect("it was started")
}
