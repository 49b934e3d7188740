//! Which partition a record goes to: the topic decides, the client computes, or asks a broker to where it runs no wasm.
//!
//! When records are placed is left to `producer/intake.rs`, and a module's sandbox to `thalweg-plugin-host`.

use std::rc::Rc;
use std::sync::Arc;
#[cfg(feature = "wasm")]
use std::time::Duration;

#[cfg(feature = "wasm")]
use bytes::Bytes;
#[cfg(feature = "wasm")]
use thalweg_api::{ApiError, ErrorCode, FetchPluginRequest, PluginReference};
use thalweg_api::{ErrorKind, PlaceRequest, Request, Topic};
use thalweg_client_core::PlaceByKey;
use thalweg_model::{BatchBuilder, PinEpoch, Record, TopicId};
#[cfg(feature = "wasm")]
use thalweg_model::{Pin, PluginDigest};
#[cfg(feature = "wasm")]
use thalweg_plugin_host::{Engine, Kind, Partitioner, Profile, sha256};
use thalweg_wire::Codec;
use tokio::sync::OwnedMutexGuard;

#[cfg(feature = "wasm")]
use crate::address::Address;
use crate::link::{Io, Link};
use crate::record::ToPlace;
use crate::{Error, Result};

/// Reaches a broker, from a caller's thread or from the connection's.
pub(crate) trait Ask {
    async fn call<R: Request<Reply: Codec + Send> + Codec + Send + 'static>(&self, request: R) -> Result<R::Reply>;

    /// The brokers that are known, in the order in which they are worth a try.
    #[cfg(feature = "wasm")]
    async fn brokers(&self) -> Result<Vec<Address>>;

    /// Asks one of them for a module, once.
    #[cfg(feature = "wasm")]
    async fn fetch_from(&self, broker: Address, module: PluginDigest) -> Result<Bytes>;
}

impl Ask for Io {
    async fn call<R: Request<Reply: Codec + Send> + Codec + Send + 'static>(&self, request: R) -> Result<R::Reply> {
        self.run(move |link| async move { link.call(request).await }).await
    }

    #[cfg(feature = "wasm")]
    async fn brokers(&self) -> Result<Vec<Address>> {
        self.run(|link| async move { Ok(link.addresses()) }).await
    }

    #[cfg(feature = "wasm")]
    async fn fetch_from(&self, broker: Address, module: PluginDigest) -> Result<Bytes> {
        self.run(move |link| async move { link.fetch_from(broker, module).await }).await
    }
}

impl Ask for Rc<Link> {
    async fn call<R: Request<Reply: Codec + Send> + Codec + Send + 'static>(&self, request: R) -> Result<R::Reply> {
        Link::call(self, request).await
    }

    #[cfg(feature = "wasm")]
    async fn brokers(&self) -> Result<Vec<Address>> {
        Ok(self.addresses())
    }

    #[cfg(feature = "wasm")]
    async fn fetch_from(&self, broker: Address, module: PluginDigest) -> Result<Bytes> {
        let request = FetchPluginRequest { plugin: PluginReference::Digest(module) };
        Ok(self.call_at(&broker, request, FETCH_TIMEOUT).await?.module)
    }
}

pub(crate) enum Placement {
    Key(PlaceByKey),
    #[cfg(feature = "wasm")]
    Plugin(Box<Partitioner>),
    /// A broker runs the topic's plugin.
    Remote {
        topic: TopicId,
        pin_epoch: PinEpoch,
    },
}

/// How a topic's records are placed under one pin.
pub(crate) struct Placed {
    pub(crate) pin_epoch: u32,
    /// How many partitions the topic has under this pin.
    pub(crate) partitions: u32,
    pub(crate) how: Placement,
}

impl Placed {
    /// What the topic's pin says.
    pub(crate) async fn of_topic(asker: &impl Ask, topic: &Topic, on_broker: bool) -> Result<Placed> {
        let how = Placement::of_topic(asker, topic, on_broker).await?;
        Ok(Placed { pin_epoch: topic.pin_epoch.0, partitions: topic.partitions.len() as u32, how })
    }
}

/// How records are placed now.
pub(crate) type SharedPlacement = Arc<tokio::sync::Mutex<Placed>>;

/// The partition of each record, and the epoch of the pin that was asked. A record that the plugin fails on is the only
/// one that fails.
pub(crate) async fn place_all(
    placement: &SharedPlacement,
    link: &Rc<Link>,
    records: Vec<ToPlace>,
) -> (u32, Vec<Result<u32>>) {
    let placement = placement.clone().lock_owned().await;
    let (pin_epoch, partitions) = (placement.pin_epoch, placement.partitions);
    let mut places: Vec<_> =
        records.iter().map(|(_, chosen)| chosen.map(|p| placement.how.check(p, partitions))).collect();
    let free: Vec<Record> = records.into_iter().filter_map(|(r, chosen)| chosen.is_none().then_some(r)).collect();
    let mut free = if free.is_empty() { Vec::new() } else { place_free(placement, link, free).await }.into_iter();
    let places = places.drain(..).map(|chosen| chosen.or_else(|| free.next()).expect("a place for each record"));
    (pin_epoch, places.collect())
}

/// The partition of each record, for records whose senders have not chosen one.
async fn place_free(mut placement: OwnedMutexGuard<Placed>, link: &Rc<Link>, records: Vec<Record>) -> Vec<Result<u32>> {
    let partitions = placement.partitions;
    #[cfg(feature = "wasm")]
    if matches!(placement.how, Placement::Plugin(_)) {
        // A plugin may take its time: not on the thread that the connections are on.
        let count = records.len();
        let work = move || {
            let mut place = |records: &[Record]| placement.how.place_here(records, partitions).expect("a plugin");
            match place(&records) {
                Ok(placed) => placed.into_iter().map(Ok).collect(),
                Err(error) if count == 1 => vec![Err(error)],
                Err(_) => records.chunks(1).map(|record| place(record).map(|p| p[0])).collect(),
            }
        };
        return tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| {
            let error = Error::new(ErrorKind::Internal, format!("the topic's partitioner has ended its thread: {e}"));
            vec![Err(error); count]
        });
    }
    match placement.how.place(link, &records, partitions).await {
        Ok(placed) => placed.into_iter().map(Ok).collect(),
        Err(error) if error.kind() == ErrorKind::PluginFailed && records.len() > 1 => {
            let mut places = Vec::with_capacity(records.len());
            for record in records.chunks(1) {
                places.push(placement.how.place(link, record, partitions).await.map(|p| p[0]));
            }
            places
        }
        Err(error) => vec![Err(error); records.len()],
    }
}

fn no_partition(chosen: u32, partitions: u32) -> Error {
    let message = format!("partition {chosen} is asked for, and the topic has {partitions}, counted from 0");
    Error::new(ErrorKind::Invalid, message)
}

impl Placement {
    /// Whether a record may go to the partition that its sender has chosen. Where the topic has a partitioner, that
    /// alone places its records.
    fn check(&self, chosen: u32, partitions: u32) -> Result<u32> {
        match self {
            Placement::Key(_) if chosen < partitions => Ok(chosen),
            Placement::Key(_) => Err(no_partition(chosen, partitions)),
            _ => Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "partition {chosen} is asked for, and the topic's partitioner decides where its records go: leave \
                     the partition out, or \
                     give the topic no partitioner (`thalweg topic set-partitioner`)"
                ),
            )),
        }
    }

    /// Fetches and compiles the topic's partitioner, if it has one; `on_broker` leaves it where it is.
    async fn of_topic(asker: &impl Ask, topic: &Topic, on_broker: bool) -> Result<Placement> {
        match topic.partitioner.clone() {
            None => Ok(Placement::Key(PlaceByKey::default())),
            #[cfg(feature = "wasm")]
            Some(pin) if !on_broker => Self::of_pin(asker, pin).await,
            Some(_) => {
                let _ = (asker, on_broker);
                Ok(Placement::Remote { topic: topic.id, pin_epoch: topic.pin_epoch })
            }
        }
    }

    #[cfg(feature = "wasm")]
    async fn of_pin(asker: &impl Ask, pin: Pin) -> Result<Placement> {
        static ENGINE: std::sync::OnceLock<Engine> = std::sync::OnceLock::new();
        let label = format!("{}@{} ({})", pin.name, pin.version, pin.digest);
        let module = pinned_module(asker, pin.digest, &label).await?;
        // Off the connection thread, and off the caller's runtime as well: compiling takes tens of milliseconds and
        // more.
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let compile = move || -> Result<Partitioner> {
            let failed = |e: thalweg_plugin_host::GuestError| -> Error {
                ApiError::new(ErrorCode::PluginFailed, e.to_string()).with_fault(e.fault()).into()
            };
            let engine = match ENGINE.get() {
                Some(engine) => engine.clone(),
                None => {
                    let engine = Engine::new(Profile::Client).map_err(failed)?;
                    ENGINE.get_or_init(|| engine).clone()
                }
            };
            let module = engine.compile(&module, Kind::Partitioner, &label).map_err(failed)?;
            Partitioner::new(&module, &pin.config).map_err(failed)
        };
        std::thread::Builder::new()
            .name("thalweg-compile".into())
            .spawn(move || drop(sender.send(compile())))
            .map_err(|e| Error::because(ErrorKind::Internal, "no thread to compile on", e))?;
        let compiled = receiver.await.map_err(|_| Error::new(ErrorKind::Internal, "the compiler thread failed"))??;
        Ok(Placement::Plugin(Box::new(compiled)))
    }

    /// The partition of each record. A plugin that fails fails the whole call: nothing is placed otherwise.
    async fn place(&mut self, asker: &impl Ask, records: &[Record], partitions: u32) -> Result<Vec<u32>> {
        if let Some(placed) = self.place_here(records, partitions) {
            return placed;
        }
        let Placement::Remote { topic, pin_epoch } = self else { unreachable!("everything else is placed here") };
        ask(asker, (*topic, *pin_epoch), records, partitions).await
    }

    /// The partition of each record, where no broker has to be asked; else `None`.
    fn place_here(&mut self, records: &[Record], partitions: u32) -> Option<Result<Vec<u32>>> {
        match self {
            Placement::Remote { .. } => None,
            Placement::Key(place) => {
                Some(Ok(records.iter().map(|r| place.place(r.key.as_deref(), partitions)).collect()))
            }
            #[cfg(feature = "wasm")]
            Placement::Plugin(partitioner) => Some(partitioner.partition(records, partitions).map_err(|e| {
                let message = match records.len() {
                    1 => format!("plugin {} failed on the record: {}", e.plugin, e.reason),
                    _ => e.to_string(),
                };
                ApiError::new(ErrorCode::PluginFailed, message).with_fault(Some((&e.plugin, &e.reason))).into()
            })),
        }
    }
}

/// The module that a topic is pinned to, from the first broker that has it whole. One that was damaged on a broker's
/// disk or on the way mostly still runs, and would place records elsewhere.
#[cfg(feature = "wasm")]
async fn pinned_module(asker: &impl Ask, digest: PluginDigest, label: &str) -> Result<Bytes> {
    let check = |module: Bytes| match PluginDigest(sha256(&module)) {
        found if found == digest => Ok(module),
        found => Err(format!("a module with the digest {found} came")),
    };
    let answer = asker.call(FetchPluginRequest { plugin: PluginReference::Digest(digest) }).await;
    let error = match answer.map(|reply| check(reply.module)) {
        Ok(Ok(module)) => return Ok(module),
        Ok(Err(what)) => {
            let name = label.split('@').next().unwrap_or_default();
            let message = format!(
                "plugin {label}: {what}, and no other broker hands over the one that the topic is pinned to. Nothing \
                 is placed \
                 otherwise. Upload the same file again: `thalweg plugin upload {name} FILE`"
            );
            ApiError::new(ErrorCode::DamagedPlugin, message).into()
        }
        // That broker has lost the module, and knows no other that has it; this client may reach one.
        Err(error) if error.code() == Some(ErrorCode::DamagedPlugin) => error,
        Err(error) => return Err(error),
    };
    for broker in asker.brokers().await? {
        let answer = asker.fetch_from(broker.clone(), digest).await;
        match answer.map_err(|e| e.to_string()).and_then(check) {
            Ok(module) => return Ok(module),
            Err(what) => tracing::warn!(plugin = label, %broker, what, "a broker does not have a plugin's module"),
        }
    }
    Err(error)
}

/// Has a broker place records, a micro-batch at a time.
async fn ask(
    asker: &impl Ask,
    (topic, pin_epoch): (TopicId, PinEpoch),
    records: &[Record],
    partitions: u32,
) -> Result<Vec<u32>> {
    let mut placed = Vec::with_capacity(records.len());
    while placed.len() < records.len() {
        let (mut builder, first) = (BatchBuilder::new(), placed.len());
        let fits = |builder: &BatchBuilder| builder.encoded_bytes() < ASK_BYTES;
        while fits(&builder) && first + (builder.records_count() as usize) < records.len() {
            builder.push(&records[first + builder.records_count() as usize]);
        }
        let asked = builder.records_count() as usize;
        let batch = builder.build(thalweg_model::Codec::None, None).bytes().clone();
        let reply = asker.call(PlaceRequest { topic, pin_epoch, records: batch }).await?;
        if reply.partitions.len() != asked || reply.partitions.iter().any(|p| *p >= partitions) {
            return Err(Error::new(
                ErrorKind::Internal,
                "the broker's answer does not fit the records that it was asked to place",
            ));
        }
        placed.extend(reply.partitions);
    }
    Ok(placed)
}

/// How long one broker may take to hand over a module that another one did not have whole.
#[cfg(feature = "wasm")]
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of records that a broker is asked to place at once.
const ASK_BYTES: usize = 1 << 20;

#[cfg(all(test, feature = "wasm"))]
mod tests {
    use std::cell::RefCell;

    use thalweg_api::{FetchPluginReply, Plugin};
    use thalweg_model::PluginKind;
    use thalweg_wire::Frame;

    use super::*;

    const DAMAGED: &str = "plugin p@1 (abc): its file is damaged; `thalweg plugin upload p FILE`";
    const DIGEST: fn(&[u8]) -> PluginDigest = |module| PluginDigest(sha256(module));

    /// Brokers that hand over what they have, the first one to whom everybody turns; `None`: it knows that its own is
    /// damaged.
    struct Brokers {
        modules: Vec<Option<&'static [u8]>>,
        asked: RefCell<Vec<u16>>,
    }

    impl Brokers {
        fn answer(&self, broker: u16) -> Result<Bytes> {
            self.asked.borrow_mut().push(broker);
            let damaged = || ApiError::new(ErrorCode::DamagedPlugin, DAMAGED).into();
            self.modules[broker as usize].map(Bytes::from_static).ok_or_else(damaged)
        }
    }

    impl Ask for Brokers {
        async fn call<R: Request<Reply: Codec + Send> + Codec + Send + 'static>(&self, _: R) -> Result<R::Reply> {
            let (name, kind) = ("p".to_owned(), PluginKind::Partitioner);
            let plugin =
                Plugin { name, version: 1, digest: DIGEST(b"right"), kind, bytes: 5, created_ms: 0, contract: 1 };
            let reply = FetchPluginReply { plugin, module: self.answer(0)? };
            Ok(Frame::carrying(reply).decode().expect("a module is all that is asked for"))
        }

        async fn brokers(&self) -> Result<Vec<Address>> {
            Ok((0..self.modules.len() as u16).map(|port| Address { host: "b".into(), port }).collect())
        }

        async fn fetch_from(&self, broker: Address, _: PluginDigest) -> Result<Bytes> {
            self.answer(broker.port)
        }
    }

    fn check(modules: &[Option<&'static [u8]>], expect: std::result::Result<usize, &str>) {
        let brokers = Brokers { modules: modules.to_vec(), asked: RefCell::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let found = runtime.block_on(pinned_module(&brokers, DIGEST(b"right"), "p@1 (abc)"));
        match (found, expect) {
            (Ok(module), Ok(asked)) => {
                assert_eq!(&module[..], b"right");
                assert_eq!(brokers.asked.borrow().len(), asked);
            }
            (Err(error), Err(said)) => {
                assert_eq!((error.code(), error.is_retriable()), (Some(ErrorCode::DamagedPlugin), false));
                let text = error.to_string();
                assert!(text.contains("p@1 (abc)") && text.contains("plugin upload p FILE"), "{text}");
                assert!(text.contains(said), "{text}");
            }
            (found, _) => panic!("{modules:?}: {found:?}"),
        }
    }

    #[test]
    fn a_module_that_is_not_the_pinned_one_is_never_compiled() {
        check(&[Some(b"right"), Some(b"wrong")], Ok(1));
        check(&[Some(b"wrong"), Some(b"right")], Ok(3));
        check(&[Some(b"righ"), None, Some(b"right")], Ok(4));
        check(&[None, Some(b"right")], Ok(3));
        let wrong = DIGEST(b"wrong").to_string();
        check(&[Some(b"wrong")], Err(&wrong));
        check(&[Some(b"wrong"), Some(b"wrong")], Err(&wrong));
        check(&[None, None], Err("its file is damaged"));
    }
}
