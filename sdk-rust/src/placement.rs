//! Which partition a record goes to: the topic decides, the client computes.

use thalweg_client_core::PlaceByKey;
use thalweg_model::Record;
#[cfg(feature = "wasm")]
use thalweg_plugin_host::{Engine, Kind, Partitioner, Profile};
#[cfg(feature = "wasm")]
use thalweg_wire::{ErrorCode, RemoteError};
use thalweg_wire::{ErrorKind, proto};

use crate::link::Io;
use crate::{Error, Result};

pub(crate) enum Placement {
    Key(PlaceByKey),
    #[cfg(feature = "wasm")]
    Plugin(Box<Partitioner>),
}

impl Placement {
    /// Fetches and compiles the topic's partitioner, if it has one.
    pub(crate) async fn of_topic(io: &Io, topic: &proto::Topic) -> Result<Placement> {
        let Some(pin) = topic.partitioner.clone() else {
            return Ok(Placement::Key(PlaceByKey::default()));
        };
        Self::of_pin(io, pin).await
    }

    #[cfg(not(feature = "wasm"))]
    async fn of_pin(_io: &Io, pin: proto::Pin) -> Result<Placement> {
        let what = format!(
            "the topic's partitioner {}@{} is a plugin, and this client was built without wasm",
            pin.name, pin.version
        );
        Err(Error::new(ErrorKind::Unsupported, what))
    }

    #[cfg(feature = "wasm")]
    async fn of_pin(io: &Io, pin: proto::Pin) -> Result<Placement> {
        static ENGINE: std::sync::OnceLock<Engine> = std::sync::OnceLock::new();
        let request = proto::FetchPluginRequest { digest: pin.digest.clone(), reference: String::new() };
        let (_, module): (proto::FetchPluginReply, _) =
            io.run(move |link| async move { link.request(request, bytes::Bytes::new()).await }).await?;
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
    pub(crate) fn place(&mut self, records: &[Record], partitions: u32) -> Result<Vec<u32>> {
        match self {
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
