//! Brokers whose messages, disks and clocks are moved by hand: one alone, or a few that hear of each other. What they
//! should do is left to the tests.

use std::collections::VecDeque;

use bytes::Bytes;
use thalweg_commit_log::{Config, MemoryDisk};
use thalweg_control::{
    Broker, Committed, Copies, FEATURE_LEVEL, GroupAnswer, GroupRequest, OFFSETS_TOPIC, Request, TopicConfig,
    incarnation,
};
use thalweg_model::{
    BatchBuilder, BrokerId, Codec, DirectoryId, Offset, PartitionId, PinEpoch, Record, ReplicaId, TopicId,
    TopicPartition,
};
use thalweg_replica::{Acks, Now, ProduceError, Ticket};

use crate::{GroupsConfig, Node, NodeConfig, Output, Peer, Produce};

pub(crate) fn config(controllers: &[u32]) -> NodeConfig {
    NodeConfig {
        broker: Broker {
            id: BrokerId(1),
            directory: DIRECTORY,
            incarnation: incarnation(1, 1),
            host: "here".into(),
            port: 1,
            rack: String::new(),
            metadata_replica: ReplicaId(0),
            feature_level: FEATURE_LEVEL,
            is_older: false,
        },
        controllers: controllers.iter().copied().map(BrokerId).collect(),
        is_founder: true,
        groups: GroupsConfig { checkpoint_bytes: 1 << 10, batch_bytes: 100, ..Default::default() },
    }
}

pub(crate) fn log() -> Config {
    Config {
        wal_first_bytes: 64 << 10,
        wal_file_bytes: 64 << 10,
        reserve_bytes: 0,
        ballast_bytes: 0,
        kept_files: 0,
        ..Default::default()
    }
}

/// One broker.
pub(crate) struct Bench {
    pub(crate) broker: Broker,
    pub(crate) node: Node<MemoryDisk>,
    pub(crate) now: Now,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) next_ticket: u64,
}

impl Bench {
    pub(crate) fn open(disk: MemoryDisk, controllers: &[u32]) -> Bench {
        Bench::open_at(WALL_MS, disk, controllers)
    }

    pub(crate) fn open_at(wall_ms: i64, disk: MemoryDisk, controllers: &[u32]) -> Bench {
        Bench::open_as_at(wall_ms, disk, config(controllers))
    }

    pub(crate) fn open_as(disk: MemoryDisk, config: NodeConfig) -> Bench {
        Bench::open_as_at(WALL_MS, disk, config)
    }

    pub(crate) fn open_as_at(wall_ms: i64, disk: MemoryDisk, config: NodeConfig) -> Bench {
        let (now, broker) = (Now { mono_ms: 1_000, wall_ms }, config.broker.clone());
        let (node, _) = Node::open(disk, config, log()).expect("the directory opens");
        let mut bench = Bench { broker, node, now, outputs: VecDeque::new(), next_ticket: 1 };
        bench.node.set_room(now, 1 << 40);
        bench.node.start(now);
        bench.turn();
        bench
    }

    /// A broker that is alone, with a topic of one partition and groups.
    pub(crate) fn alone() -> Bench {
        let mut bench = Bench::open(MemoryDisk::empty(), &[1]);
        bench.pass(2_000);
        for (id, name) in [(TOPIC, "t"), (TopicId([8; 16]), OFFSETS_TOPIC)] {
            let (name, live) = (name.to_owned(), vec![BrokerId(1)]);
            let request = Request::CreateTopic {
                id,
                name,
                partitions: 1,
                replication_factor: 1,
                live,
                partitioner: None,
                config: TopicConfig::default(),
            };
            bench.node.change(bench.now, Ticket::Shell(1), request);
            bench.pass(1_000);
        }
        bench
    }

    pub(crate) fn turn(&mut self) {
        self.node.pump(self.now);
        let outputs = self.node.take_outputs(self.now);
        let to_itself = |o: &Output| matches!(o, Output::Send(to, _) if *to == self.broker.id);
        assert!(!outputs.iter().any(to_itself), "a broker that has something to say to itself connects to itself");
        self.outputs.extend(outputs);
    }

    /// The disk does all that it was asked for.
    pub(crate) fn sync(&mut self) {
        while let Some(done) = self.node.replicas_mut().log_mut().disk_mut().step_any() {
            self.node.complete(self.now, done);
            self.turn();
        }
    }

    /// Time goes by, with a disk that keeps up.
    pub(crate) fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 50 {
            (self.now.mono_ms, self.now.wall_ms) = (self.now.mono_ms + 50, self.now.wall_ms + 50);
            self.node.tick(self.now);
            self.turn();
            self.sync();
        }
    }

    pub(crate) fn ask(&mut self, request: GroupRequest) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket::Shell(self.next_ticket);
        self.node.group(0, ticket, request);
        self.turn();
        ticket
    }

    pub(crate) fn answer(&self, to: Ticket) -> Option<GroupAnswer> {
        self.outputs.iter().find_map(|output| match output {
            Output::Group(ticket, result) if *ticket == to => Some(result.clone().expect("it is taken")),
            _ => None,
        })
    }

    pub(crate) fn commit(&mut self, group: &str, filtered: u64) -> Ticket {
        let committed = Committed { offset: 0, filtered, failed: 0 };
        let offsets = vec![(TopicPartition::new(TOPIC, 0), committed)];
        self.ask(GroupRequest::Commit { group: group.into(), committer: None, offsets })
    }
}

/// Brokers of one cluster, the first of which is its controller. What they say to each other arrives within a turn.
pub(crate) struct Cluster {
    pub(crate) benches: Vec<Bench>,
}

impl Cluster {
    pub(crate) fn of(size: u32) -> Cluster {
        let mut cluster =
            Cluster { benches: (1..=size).map(|id| Cluster::broker(id, id as u8, MemoryDisk::empty())).collect() };
        cluster.pass(5_000);
        cluster
    }

    pub(crate) fn broker(id: u32, directory: u8, disk: MemoryDisk) -> Bench {
        let mut config = config(&[1]);
        config.broker = Broker { id: BrokerId(id), directory: DirectoryId([directory; 16]), ..config.broker };
        config.is_founder = id == 1;
        Bench::open_as(disk, config)
    }

    /// The process ends; the next one, which counts so many starts, finds this disk.
    pub(crate) fn restart(&mut self, id: u32, starts: u64, disk: MemoryDisk) {
        self.restart_as(id, incarnation(starts, self.benches[0].now.mono_ms), disk);
    }

    /// The same, under an incarnation.
    pub(crate) fn restart_as(&mut self, id: u32, incarnation: u64, disk: MemoryDisk) {
        let now = self.benches[0].now;
        let mut config = config(&[1]);
        config.broker =
            Broker { id: BrokerId(id), directory: DirectoryId([id as u8; 16]), incarnation, ..config.broker };
        config.is_founder = id == 1;
        self.benches[id as usize - 1] = Bench { now, ..Bench::open_as(disk, config) };
    }

    pub(crate) fn image(&mut self, id: u32) -> MemoryDisk {
        self.benches[id as usize - 1].node.replicas_mut().log_mut().disk_mut().image()
    }

    /// The broker starts for the second time, and what its disk held before that is kept.
    pub(crate) fn start_again_and_keep_image(&mut self, id: u32) -> MemoryDisk {
        let before = self.image(id);
        let image = self.image(id);
        self.restart(id, 2, image);
        self.pass(3_000);
        before
    }

    /// The broker comes back with another disk.
    pub(crate) fn replace(&mut self, id: u32, directory: u8, disk: MemoryDisk) {
        let now = self.benches[0].now;
        let mut bench = Cluster::broker(id, directory, disk);
        bench.now = now;
        self.benches[id as usize - 1] = bench;
    }

    pub(crate) fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 50 {
            for at in 0..self.benches.len() {
                self.benches[at].pass(50);
                let (sent, kept) = std::mem::take(&mut self.benches[at].outputs)
                    .into_iter()
                    .partition(|o| matches!(o, Output::Send(..)));
                self.benches[at].outputs = kept;
                let is_renewed = |o: &Output| match o {
                    Output::Renew { incarnation } => Some(*incarnation),
                    _ => None,
                };
                // The shell has written it down.
                if let Some(incarnation) = self.benches[at].outputs.iter().find_map(is_renewed) {
                    let bench = &mut self.benches[at];
                    bench.outputs.retain(|o| is_renewed(o).is_none());
                    bench.broker.incarnation = incarnation;
                    bench.node.renew(bench.now, incarnation);
                    bench.turn();
                }
                let Broker { id, directory, incarnation, .. } = self.benches[at].broker.clone();
                for output in Vec::from(sent as VecDeque<Output>) {
                    let Output::Send(to, message) = output else { unreachable!("just parted") };
                    let Some(to) = self.benches.get_mut(to.0 as usize - 1) else { continue };
                    to.node.step(to.now, Peer { id, directory, incarnation, address: (id.0 as u128, 0) }, message);
                    to.turn();
                }
            }
        }
    }

    /// A topic of one partition, on the brokers named.
    pub(crate) fn create(&mut self, live: &[u32]) {
        let request = Request::CreateTopic {
            id: TOPIC,
            name: "t".into(),
            partitions: 1,
            replication_factor: live.len() as u32,
            live: live.iter().map(|id| BrokerId(*id)).collect(),
            partitioner: None,
            config: TopicConfig::default(),
        };
        let controller = &mut self.benches[0];
        controller.node.change(controller.now, Ticket::Shell(1), request);
        self.pass(3_000);
    }

    /// As `thalweg cluster recover --accept-loss`, without a broker that is given up.
    pub(crate) fn recover(&mut self) {
        let mut copies = Copies::new();
        for (name, copy) in self.benches.iter().flat_map(|b| b.node.copies()) {
            copies.entry((name.topic, name.partition.0)).or_default().push(copy);
        }
        let live = (1..=self.benches.len() as u32).map(BrokerId).collect();
        let controller = &mut self.benches[0];
        controller.node.change(controller.now, Ticket::Shell(2), Request::Recover { lost: Vec::new(), live, copies });
        self.pass(10_000);
    }

    pub(crate) fn produce(&mut self, id: u32) -> Result<Offset, ProduceError> {
        let bench = &mut self.benches[id as usize - 1];
        bench.next_ticket += 1;
        let ticket = Ticket::Shell(bench.next_ticket);
        let mut builder = BatchBuilder::new();
        builder.push(&Record {
            key: None,
            value: Some("x".into()),
            headers: Vec::new(),
            timestamp_ms: bench.now.wall_ms,
        });
        let batch = builder.build(Codec::None, None);
        let request = Produce { batch, token: Bytes::new(), pin_epoch: PinEpoch(1), acks: Acks::Quorum };
        bench.node.produce(bench.now, NAME, ticket, request);
        bench.turn();
        self.pass(1_000);
        let answers = self.benches[id as usize - 1].outputs.iter().filter_map(|output| match output {
            Output::Produced(to, result) if *to == ticket => Some(result.clone()),
            _ => None,
        });
        answers.last().expect("it is answered")
    }

    pub(crate) fn leader(&self) -> Option<u32> {
        let is_serving = |b: &&Bench| b.node.replicas().state(&NAME).is_some_and(|s| s.is_serving);
        self.benches.iter().find(is_serving).map(|b| b.broker.id.0)
    }

    pub(crate) fn out_of_service(&self, id: u32) -> Vec<String> {
        self.benches[id as usize - 1].node.out_of_service().into_iter().map(|(_, what)| what).collect()
    }
}

pub(crate) const DIRECTORY: DirectoryId = DirectoryId([1; 16]);
/// The wall clock when a broker starts, ms since the Unix epoch.
pub(crate) const WALL_MS: i64 = 1_700_000_000_000;
pub(crate) const TOPIC: TopicId = TopicId([7; 16]);
pub(crate) const NAME: TopicPartition = TopicPartition { topic: TOPIC, partition: PartitionId(0) };
/// Asks a coordinator for all of its groups.
pub(crate) const LIST: GroupRequest = GroupRequest::List { from: None, bytes_max: usize::MAX };
