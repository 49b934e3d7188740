//! Disks without room, while nothing else goes wrong: leadership moves to where there is some, and what frees room goes
//! on where there is none. That full disks lose nothing is for the faults of every seed.

use thalweg_control::{Request, TopicConfig};
use thalweg_model::{BatchBuilder, Codec, Offset, PartitionId, PinEpoch, Record, TopicId, TopicPartition};
use thalweg_replica::Acks;

use super::{World, broker, name};

impl World {
    /// One disk is full, then all are.
    pub(super) fn fill_up(&mut self) -> Result<(), String> {
        self.make_spare_topic()?;
        if self.nodes.len() > 1 {
            self.fill_one()?;
        }
        self.fill_all()?;
        for node in &self.nodes {
            node.disk.set_room(None);
        }
        self.wait_for("takes records again, with room on every disk", |w| {
            w.nodes.iter().all(|n| n.core.as_ref().is_some_and(|c| c.full().is_empty()))
        })
    }

    fn fill_one(&mut self) -> Result<(), String> {
        let Some(node) = self.leader(name(0)) else { return Ok(()) };
        let room = self.rng.below(self.config.reserve_bytes);
        self.note(|| format!("the disk of {node} has room for {room} bytes"));
        self.nodes[node].disk.set_room(Some(room));
        self.wait_for("leads what others could lead, although its disk is full", |w| w.has_given_way(node))?;
        for _ in 0..200 {
            self.turn(true)?;
        }
        self.wait_for("has a full disk, and records wait although others have room", |w| {
            w.clients.iter().all(|c| c.core.is_drained())
        })?;
        self.wait_for("leads what others could lead, although its disk is full", |w| w.has_given_way(node))
    }

    /// True when a broker whose disk was filled leads nothing. When retention, or a log file that is not needed any
    /// more, has freed so much that the disk is not full, the broker may lead again, and takes back what it is
    /// preferred for.
    fn has_given_way(&self, node: usize) -> bool {
        let n = &self.nodes[node];
        let has_room = n.disk.room() >= self.config.reserve_bytes
            && n.core.as_ref().is_some_and(|c| !c.full().contains(&broker(node)));
        has_room || self.groups().into_iter().all(|(_, g)| self.leader(g).is_some_and(|leader| leader != node))
    }

    fn fill_all(&mut self) -> Result<(), String> {
        for node in 0..self.nodes.len() {
            let room = self.config.reserve_bytes / 2 + self.rng.below(self.config.reserve_bytes / 2);
            self.note(|| format!("the disk of {node} has room for {room} bytes"));
            self.nodes[node].disk.set_room(Some(room));
        }
        for _ in 0..500 {
            self.turn(true)?;
        }
        // Somebody else fills what was left for them.
        if self.rng.chance(500_000) {
            for node in &self.nodes {
                node.disk.set_room(Some(0));
            }
            self.note(|| "the disks have no room at all".to_owned());
            (0..100).try_for_each(|_| self.turn(false))?;
        }
        // Some are started anew: that must work too.
        if self.rng.chance(500_000) {
            for node in 0..self.nodes.len() {
                self.crash(node, false, false);
            }
        }
        let (mut asked_ms, deadline_ms) = (0, self.lived_ms + 2 * SOON_MS);
        let is_gone = |w: &World| {
            let holds = |n: &super::Node| n.replicas().is_none_or(|r| r.log().partition(&SPARE).is_some());
            !w.nodes.iter().any(holds)
        };
        while !is_gone(self) {
            if self.now_ms > asked_ms + 1_000 {
                asked_ms = self.now_ms;
                let (now, ticket) = (self.now(), self.ticket());
                let controller = self.nodes.iter_mut().find_map(|n| n.core.as_mut().filter(|c| c.is_controller()));
                let request = Request::DeleteTopic { name: "spare".into() };
                controller.into_iter().for_each(|c| c.change(now, ticket, request.clone()));
            }
            if self.lived_ms > deadline_ms {
                return Err(format!("a topic is not deleted while all disks are full: {}", self.condition()));
            }
            self.turn(false)?;
        }
        if self.kept.removes() {
            for p in 0..self.partitions {
                self.expire(p)?;
            }
        }
        Ok(())
    }

    /// What retention does, on most copies.
    fn expire(&mut self, partition: u32) -> Result<(), String> {
        let (group, mut to) = (name(partition), Offset(0));
        let (mut asked_ms, deadline_ms) = (0, self.lived_ms + 2 * SOON_MS);
        let has_moved = |w: &World, to: Offset| {
            let start = |n: &super::Node| Some(n.replicas()?.log().partition(&group)?.log_start());
            // One that is catching up takes in nothing while its disk is full, and hears of it later.
            let moved = w.nodes.iter().filter(|n| start(n).is_some_and(|s| s >= to)).count();
            to > Offset(0) && 2 * moved > w.nodes.len()
        };
        while !has_moved(self, to) {
            if self.now_ms > asked_ms + 1_000 {
                asked_ms = self.now_ms;
                let now = self.now();
                if let Some(leader) = self.leader(group) {
                    let replicas = self.nodes[leader].core.as_mut().expect("it leads").replicas_mut();
                    if to == Offset(0) {
                        to = replicas.state(&group).expect("it leads").high_watermark;
                        self.kept.removed_by_hand(partition, to.0);
                    }
                    replicas.move_log_start(now, group, to);
                }
            }
            if self.lived_ms > deadline_ms {
                return Err(format!("{partition} does not expire while all disks are full: {}", self.condition()));
            }
            self.turn(false)?;
        }
        Ok(())
    }

    fn make_spare_topic(&mut self) -> Result<(), String> {
        let request = Request::CreateTopic {
            id: SPARE.topic,
            name: "spare".into(),
            partitions: 1,
            replication_factor: self.nodes.len() as u32,
            live: (0..self.nodes.len()).map(broker).collect(),
            partitioner: None,
            config: TopicConfig::default(),
        };
        let mut asked_ms = 0;
        let deadline_ms = self.lived_ms + 2 * SOON_MS;
        while self.leader(SPARE).is_none() {
            if self.now_ms > asked_ms + 1_000 {
                asked_ms = self.now_ms;
                let (now, ticket) = (self.now(), self.ticket());
                let controller = self.nodes.iter_mut().find_map(|n| n.core.as_mut().filter(|c| c.is_controller()));
                controller.into_iter().for_each(|c| c.change(now, ticket, request.clone()));
            }
            if self.lived_ms > deadline_ms {
                return Err(format!("a topic is not made: {}", self.condition()));
            }
            self.turn(false)?;
        }
        let mut builder = BatchBuilder::new();
        builder.push(&Record { value: Some(vec![1; SPARE_BYTES].into()), ..Default::default() });
        let batch = builder.build(Codec::None, None);
        let (now, ticket, leader) = (self.now(), self.ticket(), self.leader(SPARE).expect("just seen"));
        let core = self.nodes[leader].core.as_mut().expect("it leads");
        core.replicas_mut().produce(now, SPARE, ticket, batch, PinEpoch(1), Acks::Quorum);
        (0..100).try_for_each(|_| self.turn(false))
    }

    fn wait_for(&mut self, what: &str, done: impl Fn(&World) -> bool) -> Result<(), String> {
        let deadline_ms = self.lived_ms + SOON_MS;
        while !done(self) {
            if self.lived_ms > deadline_ms {
                return Err(format!("within {SOON_MS} ms: {what}: {}", self.condition()));
            }
            self.turn(false)?;
        }
        Ok(())
    }
}

/// Leaders move, and deletes get through, within this.
const SOON_MS: u64 = 5_000;
/// The topic that is made to be deleted.
pub(super) const SPARE: TopicPartition = TopicPartition { topic: TopicId([6; 16]), partition: PartitionId(0) };
/// What is written to it.
const SPARE_BYTES: usize = 40_000;
