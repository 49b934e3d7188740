//! Who is told where nothing listens.
//!
//! Who tells it, the error queue of a socket, is in `udp.rs`; what a connection does about it is left to whoever made
//! the connection.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// The addresses that somebody is connected with, or connects to. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refusals {
    watched: Arc<Mutex<HashMap<(IpAddr, u16), watch::Sender<()>>>>,
}

/// Tells when nothing listens at an address: the system there has refused a datagram of this endpoint.
#[derive(Debug)]
pub struct Refused(watch::Receiver<()>);

impl Refusals {
    /// Tells of what is refused at an address from now on.
    pub(crate) fn watch(&self, address: SocketAddr) -> Refused {
        let mut watched = self.watched();
        // As many as there are connections: looked over only when one is made.
        watched.retain(|_, told| told.receiver_count() > 0);
        Refused(watched.entry(place(address)).or_insert_with(|| watch::channel(()).0).subscribe())
    }

    /// Takes note that a datagram to this address was refused.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux tells"))]
    pub(crate) fn refuse(&self, address: SocketAddr) {
        if let Some(told) = self.watched().get(&place(address)) {
            told.send_replace(());
        }
    }

    fn watched(&self) -> MutexGuard<'_, HashMap<(IpAddr, u16), watch::Sender<()>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Refused {
    /// Waits until a datagram is refused that was sent to the address. Later ones are told by the next call.
    pub async fn told(&mut self) {
        if self.0.changed().await.is_err() {
            // The endpoint is gone, and with it whoever could tell.
            std::future::pending::<()>().await;
        }
    }
}

/// An address as a socket of either family names it: one that takes both families has IPv4 addresses in IPv6 form.
fn place(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn is_told(refused: &mut Refused) -> bool {
        pin!(refused.told()).poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    #[test]
    fn whoever_watches_an_address_is_told_once_for_each_refusal() {
        let refusals = Refusals::default();
        let at = |text: &str| text.parse().unwrap();
        let mut before = refusals.watch(at("127.0.0.1:1"));
        let mut other = refusals.watch(at("127.0.0.1:2"));
        refusals.refuse(at("127.0.0.1:1"));
        let mut after = refusals.watch(at("127.0.0.1:1"));
        assert!(is_told(&mut before) && !is_told(&mut before) && !is_told(&mut other) && !is_told(&mut after));
        // As a socket of IPv6 tells it.
        refusals.refuse(at("[::ffff:127.0.0.1]:1"));
        assert!(is_told(&mut before) && is_told(&mut after) && !is_told(&mut other));
        drop((before, after));
        let _third = refusals.watch(at("127.0.0.1:3"));
        assert_eq!(refusals.watched().len(), 2, "an address that nobody watches any more is forgotten");
    }
}
