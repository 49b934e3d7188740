//! quinn's socket on Linux, which also hears where nothing listens.
//!
//! The system answers a datagram to a port that nobody has bound with an ICMP message "port unreachable". A socket that
//! is connected to nobody learns of it only if it asks for its error queue (`IP_RECVERR`, ip(7)). With the queue come
//! two things that quinn's own socket is not made for: the error that is at the head of the queue is also the result of
//! the next call that sends or receives, whatever that is for; and to tokio's registration, a socket that has once had
//! an error counts as writable for ever.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::refusals::Refusals;
use crate::sent::Sent;

/// Makes quinn's socket of a UDP socket; `refusals` hears where nothing listens.
///
/// # Errors
/// Those of the system.
///
/// # Panics
/// Outside a tokio runtime.
pub(crate) fn wrap(socket: std::net::UdpSocket, refusals: Refusals) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    if socket.local_addr()?.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
    }
    // A socket of IPv6 may take both families.
    setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
    let state = UdpSocketState::new((&socket).into())?;
    let io = Arc::new(UdpSocket::from_std(socket)?);
    let sent = Arc::new(Sent::default());
    let hearing = tokio::spawn(hear(io.clone(), sent.clone(), refusals));
    Ok(Arc::new(Socket { io, state, sent, is_full: AtomicBool::new(false), room: Mutex::default(), hearing }))
}

#[derive(Debug)]
struct Socket {
    io: Arc<UdpSocket>,
    state: UdpSocketState,
    sent: Arc<Sent>,
    /// True from the send for which the kernel's buffer had no room until it has some again.
    is_full: AtomicBool,
    /// What tells that there is room again, while somebody waits for it. A registration of its own, and a new one each
    /// time: after an error on the socket it would tell nothing else.
    room: Mutex<Option<Arc<UdpSocket>>>,
    /// Reads the error queue.
    hearing: JoinHandle<()>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.hearing.abort();
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Room { socket: self, waits: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.sent.note(transmit.contents);
        let mut result = self.state.try_send((&*self.io).into(), transmit);
        for _ in 0..SEND_AGAIN_MAX {
            match &result {
                // Mostly the error of an earlier datagram, and this one was not sent.
                Err(e) if is_of_icmp(e) => result = self.state.try_send((&*self.io).into(), transmit),
                _ => break,
            }
        }
        match result {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.is_full.store(true, Ordering::Relaxed);
                Err(e)
            }
            // A probe of the path that is too large for it, or what sending again sets right: a datagram may get lost.
            _ => Ok(()),
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let received = self.io.try_io(Interest::READABLE, || self.state.recv((&*self.io).into(), bufs, meta));
            // As quinn's own socket does it: an error says nothing of the datagrams that wait behind it.
            if let Ok(count) = received {
                return Poll::Ready(Ok(count));
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }
}

impl Socket {
    /// What all that wait for room in the kernel's buffer wait for.
    fn room(&self) -> io::Result<Arc<UdpSocket>> {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(room) = &*room {
            return Ok(room.clone());
        }
        let own = self.io.as_fd().try_clone_to_owned()?;
        Ok(room.insert(Arc::new(UdpSocket::from_std(own.into())?)).clone())
    }

    fn has_room(&self) {
        self.room.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.is_full.store(false, Ordering::Relaxed);
    }
}

/// Waits for room in the kernel's buffer, for one task.
struct Room {
    socket: Arc<Socket>,
    waits: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Room").field("waits", &self.waits.is_some()).finish_non_exhaustive()
    }
}

impl UdpPoller for Room {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waits.is_none() {
            if !self.socket.is_full.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
            let room = self.socket.room()?;
            self.waits = Some(Box::pin(async move { room.writable().await }));
        }
        let waits = self.waits.as_mut().expect("set above");
        let result = ready!(waits.as_mut().poll(cx));
        self.waits = None;
        self.socket.has_room();
        Poll::Ready(result)
    }
}

/// Reads the socket's error queue for as long as the socket is there.
async fn hear(io: Arc<UdpSocket>, sent: Arc<Sent>, refusals: Refusals) {
    while io.ready(Interest::ERROR).await.is_ok() {
        let more = io.try_io(Interest::ERROR, || {
            let hears = |address, quoted: &[u8]| {
                if sent.has(quoted) {
                    refusals.refuse(address);
                }
            };
            match drain(&io, hears) {
                // With this error, tokio waits for the next message.
                Drained::All => Err(io::ErrorKind::WouldBlock.into()),
                Drained::Some => Ok(()),
            }
        });
        if more.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}

enum Drained {
    /// The queue is empty.
    All,
    /// There may be more.
    Some,
}

/// Takes messages from the error queue: `refused` hears of each datagram for whose port nobody was there its address,
/// and how it began.
fn drain(socket: &UdpSocket, mut refused: impl FnMut(SocketAddr, &[u8])) -> Drained {
    let mut quoted = [0; QUOTED_BYTES];
    let mut control = [0; CONTROL_BYTES];
    for _ in 0..DRAINED_MAX {
        let mut into = [IoSliceMut::new(&mut quoted)];
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut into, Some(&mut control), flags);
        let (length, address) = match message {
            Ok(message) => {
                let is_refusal = message.cmsgs().is_ok_and(|mut all| all.any(|c| is_port_unreachable(&c)));
                (message.bytes, message.address.filter(|_| is_refusal).and_then(socket_address))
            }
            Err(nix::errno::Errno::EINTR) => continue,
            // Empty; any other error would stand as well after another try.
            Err(_) => return Drained::All,
        };
        if let Some(address) = address {
            refused(address, &quoted[..length]);
        }
    }
    Drained::Some
}

/// True for the message of a system that nobody has bound the port there. Routers on the path say other things, which
/// pass, and so do firewalls.
fn is_port_unreachable(control: &ControlMessageOwned) -> bool {
    let error = match control {
        ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _) => error,
        _ => return false,
    };
    let is_icmp = error.ee_origin == nix::libc::SO_EE_ORIGIN_ICMP || error.ee_origin == nix::libc::SO_EE_ORIGIN_ICMP6;
    is_icmp && error.ee_errno == nix::libc::ECONNREFUSED as u32
}

fn socket_address(address: SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|a| SocketAddr::V4((*a).into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|a| SocketAddr::V6((*a).into())))
}

/// True for the errors that an ICMP message leaves for whoever calls next (Linux, `icmp_err_convert` and
/// `icmpv6_err_convert`).
fn is_of_icmp(error: &io::Error) -> bool {
    use nix::libc as c;
    let all = [
        c::ECONNREFUSED,
        c::EHOSTUNREACH,
        c::ENETUNREACH,
        c::ENOPROTOOPT,
        c::EHOSTDOWN,
        c::ENONET,
        c::EMSGSIZE,
        c::EOPNOTSUPP,
        c::EPROTO,
        c::EACCES,
    ];
    error.raw_os_error().is_some_and(|code| all.contains(&code))
}

/// How often a datagram is sent again, at most, that was not sent because of the error of another one. Each try takes
/// one error off the socket.
const SEND_AGAIN_MAX: usize = 3;
/// How many messages are taken from the error queue before others get their turn.
const DRAINED_MAX: usize = 64;
/// Bytes of a refused datagram that are looked at: the connection id stands within the first fourteen.
const QUOTED_BYTES: usize = 64;
/// Bytes for what comes with a message: the error and the address of who sent it, the packet's own address and its
/// class. About 160 are used.
const CONTROL_BYTES: usize = 512;
