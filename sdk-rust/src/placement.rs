//! Which partition a record goes to: the topic decides, the client computes, or asks a broker to where it runs no wasm.

use std::rc::Rc;

use bytes::Bytes;
use thalweg_client_core::PlaceByKey;
use thalweg_model::{BatchBuilder, Codec, Record};
#[cfg(feature = "wasm")]
use thalweg_plugin_host::{Engine, Kind, Partitioner, Profile};
#[cfg(feature = "wasm")]
use thalweg_wire::{ErrorCode, RemoteError};
use thalweg_wire::{ErrorKind, Message, proto};

use crate::link::{Io, Link};
use crate::{Error, Result};

/// Reaches a broker, from a caller's thread or from the connection's.
pub(crate) trait Ask {
    async fn ask<M: Message + 'static, R: Message + 'static>(&self, message: M, body: Bytes) -> Result<(R, Bytes)>;
}

impl Ask for Io {
    async fn ask<M: Message + 'static, R: Message + 'static>(&self, message: M, body: Bytes) -> Result<(R, Bytes)> {
        self.run(move |link| async move { link.request(message, body).await }).await
    }
}

impl Ask for Rc<Link> {
    async fn ask<M: Message + 'static, R: Message + 'static>(&self, message: M, body: Bytes) -> Result<(R, Bytes)> {
        self.request(message, body).await
    }
}

pub(crate) enum Placement {
    Key(PlaceByKey),
    #[cfg(feature = "wasm")]
    Plugin(Box<Partitioner>),
    /// A broker runs the topic's plugin.
    Remote {
        topic_id: Bytes,
        pin_epoch: u32,
    },
}

/// Bytes of records that a broker is asked to place at once.
const ASK_BYTES: usize = 1 << 20;

impl Placement {
    /// Fetches and compiles the topic's partitioner, if it has one; `on_broker` leaves it where it is.
    pub(crate) async fn of_topic(asker: &impl Ask, topic: &proto::Topic, on_broker: bool) -> Result<Placement> {
        match topic.partitioner.clone() {
            None => Ok(Placement::Key(PlaceByKey::default())),
            #[cfg(feature = "wasm")]
            Some(pin) if !on_broker => Self::of_pin(asker, pin).await,
            Some(_) => {
                let _ = (asker, on_broker);
                Ok(Placement::Remote { topic_id: topic.id.clone(), pin_epoch: topic.pin_epoch })
            }
        }
    }

    #[cfg(feature = "wasm")]
    async fn of_pin(asker: &impl Ask, pin: proto::Pin) -> Result<Placement> {
        static ENGINE: std::sync::OnceLock<Engine> = std::sync::OnceLock::new();
        let request = proto::FetchPluginRequest { digest: pin.digest.clone(), reference: String::new() };
        let (_, module): (proto::FetchPluginReply, _) = asker.ask(request, Bytes::new()).await?;
        let hex: String = pin.digest.iter().map(|b| format!("{b:02x}")).collect();
        let label = format!("{}@{} ({hex})", pin.name, pin.version);
        // Off the connection thread, and off the caller's runtime as well: compiling takes tens of milliseconds and more.
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let compile = move || -> Result<Partitioner> {
            let failed = |e: thalweg_plugin_host::GuestError| Error::new(ErrorKind::PluginFailed, e.to_string());
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
            .map_err(|e| Error::new(ErrorKind::Internal, format!("no thread to compile on: {e}")))?;
        let compiled = receiver.await.map_err(|_| Error::new(ErrorKind::Internal, "the compiler thread failed"))??;
        Ok(Placement::Plugin(Box::new(compiled)))
    }

    /// The partition of each record. A plugin that fails fails the whole call: nothing is placed otherwise.
    pub(crate) async fn place(&mut self, asker: &impl Ask, records: &[Record], partitions: u32) -> Result<Vec<u32>> {
        match self {
            Placement::Remote { topic_id, pin_epoch } => ask(asker, topic_id, *pin_epoch, records, partitions).await,
            Placement::Key(place) => Ok(records.iter().map(|r| place.place(r.key.as_deref(), partitions)).collect()),
            #[cfg(feature = "wasm")]
            Placement::Plugin(partitioner) => partitioner.partition(records, partitions).map_err(|e| {
                let message = match records.len() {
                    1 => format!("plugin {} failed on the record: {}", e.plugin, e.reason),
                    _ => e.to_string(),
                };
                RemoteError::new(ErrorCode::PluginFailed, message).into()
            }),
        }
    }
}

/// Has a broker place records, a micro-batch at a time.
async fn ask(
    asker: &impl Ask,
    topic_id: &Bytes,
    pin_epoch: u32,
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
        let body = builder.build(Codec::None, None).bytes().clone();
        let request = proto::PlaceRequest { topic_id: topic_id.clone(), pin_epoch };
        let (reply, _): (proto::PlaceReply, _) = asker.ask(request, body).await?;
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
