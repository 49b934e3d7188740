//! The engine: the core and what waits for it, owned by one loop. Everybody else calls it by its mailbox.
//!
//! ```text
//!  calls ───────────► mailbox ─┐
//!  the disk's completions ─────┼─► turn: the core takes all that has come, time passes, the core submits ─► disk
//!  the core's next deadline ───┘        then what it says leaves: answers, news, messages for other brokers
//! ```
//!
//! A turn is due when something has happened. Questions, and reads of what is in memory, are answered where they stand
//! in the mailbox, and ask for no turn.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use thalweg_broker_core::{Node, Output};
use thalweg_commit_log::{Completion, OpId, ReadOutcome};
use thalweg_control::starts_of;
use thalweg_model::{Offset, RecordBatch};
use thalweg_replica::{Acks, Now, Ticket};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;

use crate::engine::calls::{Call, ChangeResult, GroupResult, OffsetResult, Read, Reading, Reply, Waiting};
use crate::engine::disk::RealDisk;
use crate::engine::handle::Mailbox;
use crate::engine::outbox::Outbox;
use crate::engine::report::Report;
use crate::engine::starts::{forget_unregistered, write_starts};
use crate::engine::view::View;
use crate::metrics::Metrics;

/// See the module.
pub(crate) struct Engine {
    node: Node<RealDisk>,
    /// Free bytes of the disk at the start.
    free_bytes: Option<u64>,
    mailbox: Mailbox,
    completions: UnboundedReceiver<Completion>,
    outbox: Outbox,
    /// Which start of a broker on the directory this is, as the links to other brokers say.
    incarnation: watch::Sender<u64>,
    directory: PathBuf,
    started: Instant,
    /// When the core wants to be told that time has passed, as of the last turn.
    deadline: Instant,
    last_ticket: u64,
    produces: Waiting<Ticket, Reply<OffsetResult>>,
    confirms: Waiting<Ticket, Reply<OffsetResult>>,
    changes: Waiting<Ticket, Reply<ChangeResult>>,
    groups: Waiting<Ticket, Reply<GroupResult>>,
    cold_reads: Waiting<OpId, Reading>,
    report: Report,
    next_retention: Instant,
    /// How far the metadata was followed when its topics were last published.
    published: Option<Offset>,
    /// This start is known to be registered, and the directory says so.
    is_counted: bool,
    /// Something has happened since the last turn.
    is_due: bool,
    /// Why the engine ends.
    fatal: Option<String>,
}

/// What an engine works with.
pub(crate) struct Parts<'a> {
    pub(crate) node: Node<RealDisk>,
    /// What the file system says is free, if it says so.
    pub(crate) free_bytes: Option<u64>,
    pub(crate) mailbox: Mailbox,
    pub(crate) completions: UnboundedReceiver<Completion>,
    pub(crate) outbox: Outbox,
    pub(crate) incarnation: watch::Sender<u64>,
    pub(crate) directory: &'a Path,
    pub(crate) metrics: Metrics,
}

impl Engine {
    pub(crate) fn new(parts: Parts<'_>) -> Engine {
        let Parts { node, free_bytes, mailbox, completions, outbox, incarnation, directory, metrics } = parts;
        let started = Instant::now();
        Engine {
            node,
            free_bytes,
            mailbox,
            completions,
            outbox,
            incarnation,
            directory: directory.to_owned(),
            started,
            deadline: started,
            last_ticket: 0,
            produces: Waiting::default(),
            confirms: Waiting::default(),
            changes: Waiting::default(),
            groups: Waiting::default(),
            cold_reads: Waiting::default(),
            report: Report::new(directory, metrics),
            next_retention: started + RETENTION_EVERY,
            published: None,
            is_counted: false,
            is_due: true,
            fatal: None,
        }
    }

    /// Both clocks; the only place of the broker that hands time to the core.
    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
        Now { mono_ms: self.started.elapsed().as_millis() as u64, wall_ms: wall }
    }

    /// Runs until the directory is lost, or the cluster does not take this broker; then says why.
    pub(crate) async fn run(mut self) -> String {
        // Before anything is made that a small disk has no room for.
        if let Some(free_bytes) = self.free_bytes {
            self.node.set_room(self.now(), free_bytes);
        }
        self.node.start(self.now());
        loop {
            while std::mem::take(&mut self.is_due) {
                self.turn();
            }
            if let Some(why) = self.fatal.take() {
                return why;
            }
            self.wait().await;
        }
    }

    /// Waits until something happens, and takes all that has happened by then: what the disk has done first, then calls
    /// in their order.
    async fn wait(&mut self) {
        let (mut completion, mut call) = (None, None);
        tokio::select! {
            biased;
            Some(one) = self.completions.recv() => completion = Some(one),
            Some(one) = self.mailbox.calls.recv() => call = Some(one),
            () = tokio::time::sleep_until(self.deadline.into()) => self.is_due = true,
        }
        let now = self.now();
        while let Some(one) = completion.take().or_else(|| self.completions.try_recv().ok()) {
            self.node.complete(now, one);
            self.is_due = true;
        }
        let taking = Instant::now();
        for _ in 0..CALLS_PER_TURN {
            if taking.elapsed() >= TAKING_MAX {
                break;
            }
            let Some(one) = call.take().or_else(|| self.mailbox.calls.try_recv().ok()) else { break };
            self.take(now, one);
        }
        // Calls that ask for no turn must not keep time from passing, however many come.
        self.is_due |= Instant::now() >= self.deadline;
    }

    fn turn(&mut self) {
        let now = self.now();
        self.node.tick(now);
        if Instant::now() >= self.next_retention {
            let is_full = self.node.replicas().log().room().is_full();
            self.next_retention = Instant::now() + if is_full { RETENTION_WHILE_FULL } else { RETENTION_EVERY };
            self.node.apply_retention(now);
            self.report.clock(self.node.clock_skew_ms(now));
        }
        self.node.pump(now);
        self.dispatch(self.now());
        self.mailbox.published.set_congested(self.node.replicas().log().is_congested());
        self.deadline = self.started + Duration::from_millis(self.node.deadline_ms());
    }

    fn ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        Ticket::Shell(self.last_ticket)
    }

    /// Takes one call.
    fn take(&mut self, now: Now, call: Call) {
        let node = &mut self.node;
        match call {
            // These change nothing that a turn would follow.
            Call::Look(look) => {
                // Who looks finds what was seen, also where no call is needed.
                self.publish_topics();
                return look(&View::new(&self.node, now));
            }
            Call::Read(reading) => return self.read(now, reading),
            Call::Produce { partition, request, reply } => {
                self.mailbox.published.dequeued(request.batch.bytes().len());
                let ticket = self.ticket();
                if request.acks != Acks::None {
                    self.produces.insert(ticket, reply);
                }
                self.node.produce(now, partition, ticket, request);
            }
            Call::Confirm { partition, reply } => {
                let ticket = self.ticket();
                self.confirms.insert(ticket, reply);
                self.node.replicas_mut().confirm(now, partition, ticket);
            }
            Call::Change { request, reply } => {
                let ticket = self.ticket();
                self.changes.insert(ticket, reply);
                self.node.change(now, ticket, request);
            }
            Call::Group { partition, request, reply } => {
                let ticket = self.ticket();
                self.groups.insert(ticket, reply);
                self.node.group(partition, ticket, request);
            }
            Call::Step { from, messages, room } => {
                messages.into_iter().for_each(|message| node.step(now, from, message));
                drop(room);
            }
            Call::Unreachable(broker) => node.unreachable(now, broker),
            Call::Refused(why) => node.refused(now, why),
            Call::GivenUp(why) => node.given_up(why),
            // What was said to another start of the directory says nothing of this one.
            Call::Outdated { incarnation, .. } if incarnation != *self.incarnation.borrow() => return,
            Call::Outdated { remembered, .. } => node.outdated(now, remembered),
            Call::Elect(partitions) => {
                for partition in partitions {
                    let preferred = node.replicas().settings(&partition).and_then(|s| s.target.first().copied());
                    node.replicas_mut().transfer(now, partition, preferred);
                }
            }
            Call::HandOver => node.replicas_mut().transfer_all(now),
            Call::Flush => node.replicas_mut().flush_all(now),
            Call::Room(free_bytes) => node.set_room(now, free_bytes),
        }
        self.is_due = true;
    }

    fn read(&mut self, now: Now, reading: Reading) {
        let Reading { partition, from, bytes_max, .. } = &reading;
        let read = match self.node.replicas_mut().read(partition, *from, *bytes_max) {
            ReadOutcome::Pending(op) => return self.cold_reads.insert(op, reading),
            ReadOutcome::Batches(batches) => Read::Batches(batches),
            ReadOutcome::AtEnd => Read::AtEnd,
            ReadOutcome::BelowStart(start) => Read::BelowStart(start),
            ReadOutcome::Offline(what) => Read::Offline(what),
        };
        self.answer_read(now, reading, read);
    }

    fn answer_read(&self, now: Now, reading: Reading, read: Read) {
        let view = View::new(&self.node, now).partition(&reading.partition);
        reading.reply.send((read, view));
    }

    fn cold_read_ended(&mut self, now: Now, op: OpId, result: Result<Vec<RecordBatch>, String>) {
        let Some(reading) = self.cold_reads.take(&op) else { return };
        match result {
            // Gone while it was read: now the log starts behind it.
            Ok(batches) if batches.is_empty() => self.read(now, reading),
            Ok(batches) => self.answer_read(now, reading, Read::Batches(batches)),
            Err(what) => self.answer_read(now, reading, Read::Offline(what)),
        }
    }

    /// Passes on what the core says.
    fn dispatch(&mut self, now: Now) {
        let outputs = self.node.take_outputs(now);
        // Who is answered finds what its request has changed.
        if outputs.iter().any(|output| matches!(output, Output::Metadata)) {
            self.publish_metadata();
        }
        for output in outputs {
            match output {
                Output::Send(to, message) => self.outbox.send(to, message),
                Output::Produced(ticket, result) => self.produces.answer(&ticket, result),
                Output::Confirmed(ticket, result) => self.confirms.answer(&ticket, result),
                Output::Changed(ticket, result) => self.changes.answer(&ticket, result),
                Output::Group(ticket, result) => self.groups.answer(&ticket, result),
                Output::ColdRead { op, result } => self.cold_read_ended(now, op, result),
                Output::Advanced(partition) => self.mailbox.published.advanced(&partition),
                Output::GroupChanged { group, member } => self.mailbox.published.member_changed(&(group, member)),
                Output::Metadata => {}
                Output::OutOfService(name, what) => self.report.out_of_service(self.node.metadata(), name, &what),
                Output::Offline(name, what) => self.report.offline(name, &what),
                Output::Diverged(name, what) => self.report.diverged(name, &what),
                Output::KeptAside(name, folder) => self.report.kept_aside(name, folder),
                Output::Outdated { incarnation, remembered } => self.report.outdated(incarnation, remembered),
                Output::Renew { incarnation } => self.renew(now, incarnation),
                Output::Miscounted { counted, known } => {
                    // Its number may be the very one that is put back.
                    forget_unregistered(&self.directory);
                    self.fatal = Some(self.report.miscounted(counted, known));
                }
                Output::Fatal(error) => {
                    self.fatal = Some(format!(
                        "the data directory was lost: {error}. Acknowledged records are safe; restart the broker once \
                         the disk works"
                    ));
                }
                Output::Refused(why) => self.fatal = Some(format!("the cluster does not take this broker: {why}")),
            }
        }
    }

    fn publish_topics(&mut self) {
        let followed = self.node.followed();
        if self.published.replace(followed) != Some(followed) {
            self.mailbox.published.set_topics(self.node.metadata());
            self.report.topics(self.node.metadata().topics().count());
        }
    }

    fn publish_metadata(&mut self) {
        self.publish_topics();
        self.mailbox.published.metadata_changed();
        if !self.is_counted && self.node.is_registered() {
            self.is_counted = true;
            forget_unregistered(&self.directory);
        }
    }

    /// Another start of the directory from here on. The links say so by new connections: what the core says from here
    /// on leaves over no older one.
    fn renew(&mut self, now: Now, incarnation: u64) {
        match write_starts(&self.directory, starts_of(incarnation)) {
            Ok(()) => {
                self.incarnation.send_replace(incarnation);
                self.node.renew(now, incarnation);
                self.is_due = true;
            }
            Err(error) => {
                self.fatal = Some(format!("{}: {error}", self.directory.join("starts").display()));
            }
        }
    }
}

/// How often segments are closed for their age and retention looks for what may go: what has expired stays that much
/// longer, twice.
const RETENTION_EVERY: Duration = Duration::from_secs(5);
/// The same while the disk is full, when that may be what frees it.
const RETENTION_WHILE_FULL: Duration = Duration::from_secs(1);
/// Most calls that are taken in one turn, so that their answers do not wait for those that come meanwhile.
const CALLS_PER_TURN: usize = 1_024;
/// The same by time: a call may carry a thousand messages, and what leaves with a turn, heartbeats among it, must not
/// wait for as long as others take for a silent broker's.
const TAKING_MAX: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use thalweg_broker_core::{GroupsConfig, NodeConfig, Produce};
    use thalweg_commit_log::{Config, empty_list};
    use thalweg_control::{Broker, FEATURE_LEVEL, Request, incarnation};
    use thalweg_model::{
        BatchBuilder, BrokerId, Codec, DirectoryId, PinEpoch, Record, ReplicaId, TopicConfig, TopicId, TopicPartition,
    };
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::engine::files::write_durably;
    use crate::engine::handle::{EngineHandle, mailbox};
    use crate::engine::outbox::outbox;

    const ME: BrokerId = BrokerId(1);
    const TOPIC: TopicId = TopicId(*b"the tests' topic");

    fn may_be_sent<T: Send>() {}
    fn may_be_shared<T: Clone + Send + Sync>() {}
    fn runs_anywhere<F: Send>(_: impl Fn(Engine) -> F) {}

    /// What does not compile if it does not hold.
    #[test]
    fn the_engine_can_live_on_a_thread_of_its_own() {
        may_be_sent::<Engine>();
        may_be_shared::<EngineHandle>();
        may_be_shared::<Outbox>();
        runs_anywhere(Engine::run);
    }

    /// The engine of a broker that is a cluster of its own, on a thread of its own, once it can decide.
    async fn alone(folder: &Path) -> EngineHandle {
        let (files, none) = empty_list();
        write_durably(folder, &folder.join(&*files.0), &none).unwrap();
        let broker = Broker {
            id: ME,
            directory: DirectoryId([1; 16]),
            incarnation: incarnation(1, 7),
            host: "localhost".into(),
            port: 9460,
            rack: String::new(),
            metadata_replica: ReplicaId(0),
            feature_level: FEATURE_LEVEL,
            is_older: false,
        };
        let config = NodeConfig { broker, controllers: vec![ME], is_founder: true, groups: GroupsConfig::default() };
        let log = Config { reserve_bytes: 0, ballast_bytes: 0, kept_files: 0, ..Config::default() };
        let (sender, completions) = unbounded_channel();
        let (node, _) = Node::open(RealDisk::new(folder, sender), config, log).unwrap();
        let ((handle, mailbox), (outbox, _)) = (mailbox(), outbox());
        let (incarnation, _) = watch::channel(incarnation(1, 7));
        let (free_bytes, directory, metrics) = (Some(1 << 40), folder, Metrics::new());
        let engine =
            Engine::new(Parts { node, free_bytes, mailbox, completions, outbox, incarnation, directory, metrics });
        std::thread::spawn(|| runtime().block_on(engine.run()));
        handle.look_until(|view| (view.is_registered() && view.is_controller()).then_some(())).await;
        handle
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    fn topic(id: TopicId, name: &str) -> Request {
        Request::CreateTopic {
            id,
            name: name.to_owned(),
            partitions: 1,
            replication_factor: 1,
            live: vec![ME],
            partitioner: None,
            config: TopicConfig::default(),
        }
    }

    #[test]
    fn who_is_answered_finds_what_its_request_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        runtime().block_on(async {
            let engine = alone(folder.path()).await;
            let changed = engine.watch_metadata();
            for i in 0..50 {
                let (id, name, version) = (TopicId([i; 16]), format!("topic-{i}"), *changed.borrow());
                engine.change(topic(id, &name)).await.unwrap();
                // Not asked again: on the other thread more may have happened by then.
                assert!(*changed.borrow() > version, "{name}");
                assert_eq!(engine.with_topic(id, |t| t.map(|t| t.name.clone())), Some(name));
            }
        });
    }

    #[test]
    fn calls_are_taken_in_their_order_and_a_read_tells_of_its_own_moment() {
        let folder = tempfile::tempdir().unwrap();
        let partition = TopicPartition::new(TOPIC, 0);
        runtime().block_on(async {
            let engine = alone(folder.path()).await;
            engine.change(topic(TOPIC, "t")).await.unwrap();
            // Behind the entry with which its leader began.
            let serves = move |view: &View<'_>| view.state(&partition).filter(|s| s.is_serving).map(|s| s.log_end);
            let base = engine.look_until(serves).await.0;
            let mut answers = Vec::new();
            for i in 0..50 {
                let mut builder = BatchBuilder::new();
                let value = Some(format!("{i}").into());
                builder.push(&Record { key: None, value, headers: Vec::new(), timestamp_ms: 1 });
                let batch = builder.build(Codec::None, None);
                let request = Produce { batch, token: Default::default(), pin_epoch: PinEpoch(1), acks: Acks::Quorum };
                let (reply, answer) = Reply::channel();
                engine.produce(partition, request, reply).await;
                answers.push(answer);
                let log_end = engine.look(move |view| view.state(&partition).map(|s| s.log_end)).await;
                assert_eq!(log_end, Some(Offset(base + i + 1)));
            }
            for (i, answer) in answers.into_iter().enumerate() {
                assert_eq!(answer.await.unwrap(), Ok(Offset(base + i as u64)));
            }
            let mut at = Offset(0);
            while at < Offset(base + 50) {
                let (Read::Batches(batches), view) = engine.read(partition, at, 1_000).await else {
                    panic!("all of it is decided")
                };
                at = batches.last().unwrap().end_offset();
                assert!(at <= view.state.unwrap().high_watermark);
            }
            let (read, view) = engine.read(partition, at, 1_000).await;
            assert!(matches!(read, Read::AtEnd));
            assert_eq!(view.leader.map(|(_, broker)| broker), Some(ME));
        });
    }
}
