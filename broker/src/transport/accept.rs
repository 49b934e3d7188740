//! Connections are let in: handshakes in turn and in time, then a place for each client. What is said on a connection
//! is left to `client` and `peer`.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use quinn::{Connection, Endpoint, Incoming};
use thalweg_api::ApiError;
use tokio::sync::Notify;

use crate::cluster::authority::proves;
use crate::ctx::Ctx;
use crate::limits::budget::Source;
use crate::limits::refusals::Cause;
use crate::limits::windows::widen_peer;
use crate::transport::places::Places;
use crate::transport::turns::{HANDSHAKE_TIME, Turns};
use crate::transport::{client, peer};

/// Who waits for a handshake.
struct Line {
    turns: RefCell<Turns<Incoming>>,
    /// Told when a handshake has ended.
    ended: Notify,
}

/// The turn of one handshake, for as long as this lives.
struct Turn {
    line: Rc<Line>,
    source: Source,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.line.turns.borrow_mut().end(self.source);
        self.line.ended.notify_one();
    }
}

/// Accepts connections until the endpoint is closed.
pub(crate) async fn accept(ctx: Rc<Ctx>, endpoint: Endpoint, places: Rc<Places>) {
    let line = Rc::new(Line { turns: RefCell::new(Turns::new()), ended: Notify::new() });
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            incoming = endpoint.accept() => match incoming {
                Some(incoming) => join_line(&ctx, &line, incoming),
                None => return,
            },
            () = line.ended.notified() => {}
            _ = tick.tick() => {
                ctx.refusals.say_late();
                while let Some((source, incoming)) = line.turns.borrow_mut().next_late(Instant::now()) {
                    // Without an answer it tries again, if it is still there.
                    incoming.ignore();
                    ctx.refusals.note(Cause::Handshakes, &source, &"too many handshakes are waiting");
                }
            }
        }
        while let Some((source, incoming)) = line.turns.borrow_mut().next() {
            let turn = Turn { line: line.clone(), source };
            tokio::task::spawn_local(let_in(ctx.clone(), places.clone(), incoming, turn));
        }
    }
}

/// Has a newcomer wait for its turn, after it has proved its address if there are many.
fn join_line(ctx: &Ctx, line: &Line, incoming: Incoming) {
    let mut turns = line.turns.borrow_mut();
    if turns.is_crowded() && !incoming.remote_address_validated() {
        let _ = incoming.retry();
        return;
    }
    let source = Source::of(incoming.remote_address().ip());
    if let Err(incoming) = turns.push(Instant::now(), source, incoming) {
        incoming.refuse();
        ctx.refusals.note(Cause::Handshakes, &source, &"too many handshakes are waiting");
    }
}

/// Finishes a handshake, and serves the connection if there is a place for it.
async fn let_in(ctx: Rc<Ctx>, places: Rc<Places>, incoming: Incoming, turn: Turn) {
    let (source, from) = (turn.source, incoming.remote_address().ip());
    // What a handshake costs is what its connection will.
    let shaking = match ctx.budget.client(source, || {}).take(CONNECTION_BYTES) {
        Ok(charge) => charge,
        Err(spent) => {
            incoming.refuse();
            return ctx.refusals.note(Cause::Memory, &source, &ApiError::from(spent));
        }
    };
    let Some(connection) = shake(&ctx, incoming, source).await else { return };
    drop(shaking);
    if is_peer(&connection) {
        if !proves(&connection, None) {
            // The answer to its hello says why. Until then it has its turn, and the rights of a stranger.
            let account = ctx.budget.client(source, || {});
            return peer::serve(ctx, connection, account).await;
        }
        drop(turn);
        connection.set_max_concurrent_uni_streams(PEER_UNI_STREAMS_MAX.into());
        widen_peer(&connection);
        let account = ctx.budget.peer(source);
        return peer::serve(ctx, connection, account).await;
    }
    let (ending, ended_by) = (connection.clone(), Rc::downgrade(&ctx));
    let account = ctx.budget.client(source, move || {
        ending.close(CLOSE_SPENT.into(), b"the broker's memory for connections is spent");
        if let Some(ctx) = ended_by.upgrade() {
            ctx.refusals.note(Cause::Memory, &source, &"the memory for connections is spent, and this one held most");
        }
    });
    let own = account.take(CONNECTION_BYTES);
    let principal = client::of_client(&connection, from);
    let place = places.take(source, principal);
    let refused = match (&place, &own) {
        (Err(full), _) => Some((full.cause(), ApiError::from(*full))),
        (_, Err(spent)) => Some((Cause::Memory, ApiError::from(*spent))),
        _ => None,
    };
    if let Some((cause, why)) = refused {
        ctx.refusals.note(cause, &source, &why);
        return client::turn_away(&ctx, connection, account, why).await;
    }
    drop(turn);
    ctx.metrics.connections.inc();
    client::serve(ctx.clone(), connection, principal, account).await;
    ctx.metrics.connections.dec();
}

async fn shake(ctx: &Ctx, incoming: Incoming, source: Source) -> Option<Connection> {
    // Administrators by their address stay where they are.
    let accepted = match incoming.remote_address().ip().to_canonical().is_loopback() {
        true => incoming.accept_with(ctx.stays.borrow().clone()),
        false => incoming.accept(),
    };
    let shaking = async { accepted?.await };
    match tokio::time::timeout(HANDSHAKE_TIME, shaking).await {
        Ok(Ok(connection)) => Some(connection),
        Ok(Err(error)) => {
            ctx.refusals.note(Cause::HandshakeFailed, &source, &error);
            None
        }
        Err(_) => {
            ctx.refusals.note(Cause::HandshakeTime, &source, &"the handshake did not end in time");
            None
        }
    }
}

/// Which of the two protocols was agreed on.
fn is_peer(connection: &Connection) -> bool {
    let data = connection.handshake_data().and_then(|d| d.downcast::<quinn::crypto::rustls::HandshakeData>().ok());
    data.is_some_and(|d| d.protocol.as_deref() == Some(thalweg_wire::ALPN_PEER))
}

/// Tells every client that this broker is going away.
pub(crate) fn close_all(endpoint: &Endpoint) {
    endpoint.close(CLOSE_STOPPING.into(), b"the broker is shutting down");
}

/// How often it is looked who has waited too long, and what the log has yet to say.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What a connection costs, whatever is said on it (measured: 110 KiB with 4,096 of them).
const CONNECTION_BYTES: usize = 110 << 10;
/// Unidirectional streams of another broker that may be open at once. Clients open none.
const PEER_UNI_STREAMS_MAX: u32 = 16;
/// Code of a connection that is closed because the broker stops, for the client's error message.
const CLOSE_STOPPING: u32 = 1;
/// Code of a connection that is closed because the memory for connections is spent.
const CLOSE_SPENT: u32 = 6;
