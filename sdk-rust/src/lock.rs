//! How this crate takes its locks.
//!
//! What each of them guards, and that none is held while something is waited for, is left to their owners.

use std::sync::{Mutex, MutexGuard};

/// Takes a lock. A poisoned one means that a panic is on its way to the user already; what it guards is still
/// consistent enough to end.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
