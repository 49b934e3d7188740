//! The thread and the sockets of all clients of a process.
//!
//! Nothing is started before the first client connects. What is started then stays as long as the process: clients come
//! and go without threads, sockets or their buffers. A child that was forked has not got the thread, and starts its
//! own.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Mutex, TryLockError};
use std::time::{Duration, Instant};

use thalweg_api::ErrorKind;
use thalweg_quic::Endpoint;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::{Error, Result};

type Start = Box<dyn FnOnce(&Endpoints) + Send>;

/// The thread that runs, and the process that it is in.
static SHARED: Mutex<Option<Thread>> = Mutex::new(None);

#[derive(Clone)]
struct Thread {
    clients: mpsc::UnboundedSender<Start>,
    process: u32,
}

/// One socket of each address family.
#[derive(Clone)]
pub(crate) struct Endpoints {
    v4: Endpoint,
    /// A machine may have no IPv6 at all.
    v6: Option<Endpoint>,
}

impl Endpoints {
    fn open() -> std::io::Result<Endpoints> {
        let endpoint = |address| Endpoint::new(thalweg_quic::socket(address)?, None, None);
        let v4 = endpoint(SocketAddr::from(([0, 0, 0, 0], 0)))?;
        let v6 = endpoint(SocketAddr::from(([0u16; 8], 0))).ok();
        Ok(Endpoints { v4, v6 })
    }

    /// The one from which an address can be reached.
    pub(crate) fn towards(&self, address: &SocketAddr) -> Option<&Endpoint> {
        match address.is_ipv6() {
            true => self.v6.as_ref(),
            false => Some(&self.v4),
        }
    }
}

/// Runs a client on the thread. What it spawns locally ends with it.
pub(crate) fn run<F: Future<Output = ()> + 'static>(
    client: impl FnOnce(Endpoints) -> F + Send + 'static,
) -> Result<()> {
    let start: Start = Box::new(move |endpoints| {
        let client = client(endpoints.clone());
        tokio::task::spawn_local(async move { LocalSet::new().run_until(client).await });
    });
    let thread =
        thread().map_err(|e| Error::because(ErrorKind::Internal, "the connection thread does not start", e))?;
    thread.clients.send(start).map_err(|_| Error::new(ErrorKind::Internal, "the connection thread has ended"))
}

fn thread() -> std::io::Result<Thread> {
    let began = Instant::now();
    let mut shared = loop {
        match SHARED.try_lock() {
            Ok(shared) => break shared,
            Err(TryLockError::Poisoned(poisoned)) => break poisoned.into_inner(),
            Err(TryLockError::WouldBlock) if began.elapsed() > START => return Thread::start(),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    match &*shared {
        Some(thread) if thread.process == std::process::id() && !thread.clients.is_closed() => Ok(thread.clone()),
        _ => {
            let started = Thread::start()?;
            // The parent's thread is not in this process, and cannot follow that its last client is gone.
            std::mem::forget(shared.replace(started.clone()));
            Ok(started)
        }
    }
}

impl Thread {
    fn start() -> std::io::Result<Thread> {
        let (clients, mut starts) = mpsc::unbounded_channel::<Start>();
        let (ready, started) = std::sync::mpsc::sync_channel(1);
        std::thread::Builder::new().name("thalweg-client".into()).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(e) => return drop(ready.send(Err(e))),
            };
            LocalSet::new().block_on(&runtime, async move {
                let endpoints = match Endpoints::open() {
                    Ok(endpoints) => endpoints,
                    Err(e) => return drop(ready.send(Err(e))),
                };
                let _ = ready.send(Ok(()));
                while let Some(start) = starts.recv().await {
                    start(&endpoints);
                }
            });
        })?;
        started.recv().expect("the thread answers")?;
        Ok(Thread { clients, process: std::process::id() })
    }
}

/// How long a thread that is being started by another caller is waited for. Longer than any start takes: after that,
/// the lock is held by a thread of the parent of a fork, which does not exist here.
const START: Duration = Duration::from_secs(1);
