//! What a stream may cost: memory is charged to its connection and to the broker (`limits`), what is begun is finished
//! in time (`frames`), and what is written is read (`outgoing`). What is said on a stream is left to transport and the
//! services.

pub(crate) mod frames;
pub(crate) mod outgoing;

use std::rc::Rc;

use crate::door::Principal;
use crate::limits::budget::Account;
use crate::stream::frames::Frames;
use crate::stream::outgoing::Outgoing;

/// A stream whose first frame has been read.
pub(crate) struct Stream {
    /// Who has opened it.
    pub(crate) principal: Principal,
    /// What its connection holds.
    pub(crate) account: Rc<Account>,
    pub(crate) frames: Frames,
    pub(crate) out: Outgoing,
}
