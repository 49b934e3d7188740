//! Which ICMP messages are believed: those that quote a datagram that was sent.
//!
//! Where they come from is in `udp.rs`.

use std::sync::atomic::{AtomicU64, Ordering};

/// The connection ids that datagrams were sent to lately.
///
/// Whoever reaches this machine can send it an ICMP message, from any address. One counts only if it quotes a datagram
/// that this endpoint has sent, which shows in the connection id: the other side chose it at random, and it is not seen
/// by anybody who is not on the path (RFC 9000, section 14.2.1).
///
/// Fixed in size: an id is kept until another one falls on its place. What is forgotten costs an idle time-out.
#[derive(Debug)]
pub(crate) struct Sent {
    ids: Box<[AtomicU64; SENT_IDS]>,
}

impl Default for Sent {
    fn default() -> Sent {
        Sent { ids: Box::new([const { AtomicU64::new(0) }; SENT_IDS]) }
    }
}

impl Sent {
    /// Takes note of a datagram that is sent.
    pub(crate) fn note(&self, datagram: &[u8]) {
        if let Some(id) = connection_id(datagram) {
            self.ids[id as usize % SENT_IDS].store(id, Ordering::Relaxed);
        }
    }

    /// True if what an ICMP message quotes begins like a datagram that was sent lately.
    pub(crate) fn has(&self, quoted: &[u8]) -> bool {
        connection_id(quoted).is_some_and(|id| self.ids[id as usize % SENT_IDS].load(Ordering::Relaxed) == id)
    }
}

/// The first eight bytes of the connection id that a QUIC datagram is for, as a number that is not zero. quinn's own
/// are as long as that, and the first ones of a handshake are longer (RFC 9000, sections 17.2 and 17.3).
fn connection_id(datagram: &[u8]) -> Option<u64> {
    let has_long_header = datagram.first()? & 0x80 != 0;
    let at = if has_long_header { 6 } else { 1 };
    let id = datagram.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*id)).filter(|id| *id != 0)
}

/// How many connection ids are kept. Those of refused datagrams are looked for within a round trip.
const SENT_IDS: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sent_lately_is_believed() {
        let sent = Sent::default();
        let short = |id: u64| [&[0x40][..], &id.to_le_bytes(), &[7; 20]].concat();
        let long = |id: u64| [&[0xc0, 0, 0, 0, 1, 20][..], &id.to_le_bytes(), &[7; 20]].concat();
        assert!(!sent.has(&short(0)) && !sent.has(&short(5)) && !sent.has(&[]) && !sent.has(&[0xc0, 1]));
        for header in [short, long] {
            sent.note(&header(5));
            assert!(sent.has(&header(5)) && !sent.has(&header(6)));
            assert!(!sent.has(&header(5)[..5]), "a quotation without the id says nothing");
            // Falls on the same place.
            sent.note(&header(5 + SENT_IDS as u64));
            assert!(!sent.has(&header(5)));
        }
    }
}
