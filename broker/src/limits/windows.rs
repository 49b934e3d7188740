//! How much of a client's connection may be under way: the more clients there are, the less each of them gets, so that
//! what lies in QUIC's own buffers is bounded for all of them together. A reader takes bytes out of these buffers at
//! once; what stays there is what came out of order, or what a service has no room for.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use quinn::{Connection, VarInt};

/// See the module.
pub(crate) struct Windows {
    /// Bytes that all clients may have under way to this broker.
    share: usize,
    connections: RefCell<HashMap<usize, Connection>>,
    /// Bytes that each of them may.
    window: Cell<usize>,
}

/// A connection with a window of its own, for as long as this lives.
pub(crate) struct Widened {
    windows: Rc<Windows>,
    id: usize,
}

impl Windows {
    /// Windows of the clients of a broker whose connections may hold `memory_bytes`.
    pub(crate) fn new(memory_bytes: usize) -> Rc<Windows> {
        let share = memory_bytes / WINDOWS_SHARE;
        Rc::new(Windows { share, connections: RefCell::default(), window: Cell::new(window_of(share, 1)) })
    }

    /// Gives a connection, which had the least so far, its part.
    pub(crate) fn widen(self: &Rc<Windows>, connection: &Connection) -> Widened {
        let id = connection.stable_id();
        self.connections.borrow_mut().insert(id, connection.clone());
        set(connection, self.window.get());
        self.adapt();
        Widened { windows: self.clone(), id }
    }

    /// Gives everybody another part, when there are twice or half as many as before.
    fn adapt(&self) {
        let connections = self.connections.borrow();
        let window = window_of(self.share, connections.len());
        if self.window.replace(window) != window {
            connections.values().for_each(|connection| set(connection, window));
        }
    }
}

impl Drop for Widened {
    fn drop(&mut self) {
        self.windows.connections.borrow_mut().remove(&self.id);
        self.windows.adapt();
    }
}

/// Gives a connection of another broker the whole window.
pub(crate) fn widen_peer(connection: &Connection) {
    set(connection, WINDOW_MAX);
}

fn set(connection: &Connection, window: usize) {
    connection.set_receive_window(VarInt::try_from(window as u64).expect("below 2^62"));
    connection.set_send_window(window as u64 / 2);
}

/// The window of each of so many connections. In powers of two, so that few newcomers change it.
fn window_of(share: usize, connections: usize) -> usize {
    (share / connections.max(1).next_power_of_two()).clamp(WINDOW_MIN, WINDOW_MAX)
}

/// The part of the memory for connections that their windows may come to.
const WINDOWS_SHARE: usize = 4;
/// What one connection may have under way at most: one stream can fill a fast path.
const WINDOW_MAX: usize = 32 << 20;
/// What one connection may have under way at least, and before its hello.
pub(crate) const WINDOW_MIN: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_there_are_the_less_each_may_have_under_way() {
        let share = 256 << 20;
        let windows: Vec<usize> = [0, 1, 8, 9, 64, 1_024, 4_096].map(|n| window_of(share, n) >> 10).to_vec();
        assert_eq!(windows, [32 << 10, 32 << 10, 32 << 10, 16 << 10, 4 << 10, 256, 64]);
    }
}
