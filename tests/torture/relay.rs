//! A bad network between real processes: every broker is reached through a relay that drops and delays datagrams by who
//! sends them to whom. It needs no privileges, and no traffic shaping in the kernel.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::UdpSocket;

use thalweg_sim::Rng;

/// A broker's number, or 0 for whoever is no broker.
pub(super) type Party = u32;

/// What happens to datagrams of one party to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weather {
    /// Lost, per million.
    pub(super) loss: u64,
    /// Delayed by at least this.
    pub(super) delay_ms: u64,
    /// And by up to so much more, which puts them out of order.
    pub(super) jitter_ms: u64,
}

struct State {
    weather: BTreeMap<(Party, Party), Weather>,
    rng: Rng,
}

/// See the module; it works until it is dropped.
pub(super) struct Relay {
    /// Where each broker is reached.
    pub(super) ports: BTreeMap<Party, u16>,
    state: Arc<Mutex<State>>,
    _runtime: tokio::runtime::Runtime,
}

impl Relay {
    /// Relays to the brokers that listen on these ports of loopback.
    pub(super) fn start(listen: &BTreeMap<Party, u16>, seed: u64) -> Relay {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("the system has a thread for the relay");
        let state = Arc::new(Mutex::new(State { weather: BTreeMap::new(), rng: Rng::new(seed) }));
        let by_port: Arc<HashMap<u16, Party>> = Arc::new(listen.iter().map(|(party, port)| (*port, *party)).collect());
        let mut ports = BTreeMap::new();
        for (&party, &port) in listen {
            let socket = runtime.block_on(loopback());
            ports.insert(party, socket.local_addr().expect("it is bound").port());
            let door =
                Arc::new(Door { socket, party, target: (Ipv4Addr::LOCALHOST, port).into(), by_port: by_port.clone() });
            runtime.spawn(serve(door, state.clone()));
        }
        Relay { ports, state, _runtime: runtime }
    }

    /// Changes the weather from one party to another.
    pub(super) fn set(&self, from: Party, to: Party, weather: Weather) {
        self.state.lock().expect("no panic while it is held").weather.insert((from, to), weather);
    }

    /// Everything passes at once again.
    pub(super) fn clear(&self) {
        self.state.lock().expect("no panic while it is held").weather.clear();
    }
}

async fn loopback() -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has a free port")
}

/// Where one broker is reached.
struct Door {
    socket: UdpSocket,
    party: Party,
    target: SocketAddr,
    by_port: Arc<HashMap<u16, Party>>,
}

async fn serve(door: Arc<Door>, state: Arc<Mutex<State>>) {
    let mut flows: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut buffer = vec![0; 65_536];
    loop {
        // An error tells of an earlier datagram that found nobody.
        let Ok((length, from)) = door.socket.recv_from(&mut buffer).await else { continue };
        let party = door.by_port.get(&from.port()).copied().unwrap_or(0);
        let flow = match flows.get(&from) {
            Some(flow) => flow.clone(),
            None => {
                let flow = Arc::new(loopback().await);
                flows.insert(from, flow.clone());
                tokio::spawn(serve_back(door.clone(), flow.clone(), from, party, state.clone()));
                flow
            }
        };
        let (datagram, target) = (buffer[..length].to_vec(), door.target);
        pass(&state, (party, door.party), async move { flow.send_to(&datagram, target).await });
    }
}

async fn serve_back(door: Arc<Door>, flow: Arc<UdpSocket>, to: SocketAddr, party: Party, state: Arc<Mutex<State>>) {
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok((length, _)) = flow.recv_from(&mut buffer).await else { continue };
        let (datagram, sender) = (buffer[..length].to_vec(), door.clone());
        pass(&state, (door.party, party), async move { sender.socket.send_to(&datagram, to).await });
    }
}

fn pass(
    state: &Mutex<State>,
    way: (Party, Party),
    send: impl Future<Output = std::io::Result<usize>> + Send + 'static,
) {
    let delay_ms = {
        let mut state = state.lock().expect("no panic while it is held");
        let weather = state.weather.get(&way).copied().unwrap_or_default();
        if state.rng.chance(weather.loss) {
            return;
        }
        weather.delay_ms + state.rng.below(weather.jitter_ms + 1)
    };
    tokio::spawn(async move {
        if delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        }
        let _ = send.await;
    });
}
