//! The receiving side of a stream, as a broker reads it: only frames that their sender may send are kept before they
//! are whole, what is kept is charged, and what was begun has to go on.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use quinn::RecvStream;
use thalweg_api::{ApiError, ErrorCode, FrameKind};
use thalweg_quic::{FrameReader, Gate};
use thalweg_wire::{Frame, FrameHeader};
use tokio::time::Sleep;

use crate::ctx::Ctx;
use crate::door::Principal;
use crate::limits::budget::{Account, Charge};

/// Why a stream is not read any further.
pub(crate) type StreamError = thalweg_quic::StreamError<ApiError>;

/// See the module.
pub(crate) struct Frames {
    reader: FrameReader<Keeper>,
    deadline: Rc<Cell<Option<Instant>>>,
    /// Made for the first frame that has to be waited for; goes off at a deadline that may have moved since.
    timer: Option<Pin<Box<Sleep>>>,
}

/// Which frames may be kept before they are whole.
enum Expected {
    /// The first one of a stream: a request that its asker has the right to, or what opens a stream.
    Opening(Rc<Ctx>, Principal),
    /// Frames of one kind.
    Only(FrameKind),
    /// Frames without a body.
    Small,
    /// What another broker sends.
    Any,
}

impl Frames {
    /// A client's stream, of which nothing has been read.
    pub(crate) fn of_client(stream: RecvStream, account: &Rc<Account>, ctx: Rc<Ctx>, principal: Principal) -> Frames {
        Frames::new(stream, account, Expected::Opening(ctx, principal), Some(FRAME_TIME))
    }

    /// The stream of a greeting.
    pub(crate) fn of_hello(stream: RecvStream, account: &Rc<Account>) -> Frames {
        Frames::new(stream, account, Expected::Small, Some(FRAME_TIME))
    }

    /// Another broker's stream. Between brokers nothing is too slow: a part of a segment waits behind everything else.
    pub(crate) fn of_peer(stream: RecvStream, account: &Rc<Account>) -> Frames {
        Frames::new(stream, account, Expected::Any, None)
    }

    fn new(stream: RecvStream, account: &Rc<Account>, expected: Expected, time: Option<Duration>) -> Frames {
        // Who opens a stream has something to say.
        let deadline = Rc::new(Cell::new(time.map(|time| Instant::now() + time)));
        let charge = account.charge();
        let keeper = Keeper { expected, time, charge, begun: None, is_checked: false, deadline: deadline.clone() };
        Frames { reader: FrameReader::with_gate(stream, keeper), deadline, timer: None }
    }

    /// From here on nothing but frames of this kind may come.
    pub(crate) fn expect_only(&mut self, kind: FrameKind) {
        self.reader.gate_mut().expected = Expected::Only(kind);
    }

    /// From here on frames have no body.
    pub(crate) fn expect_small(&mut self) {
        self.reader.gate_mut().expected = Expected::Small;
    }

    /// The next frame; `None` when the other side has finished. What the one before has held is given back.
    ///
    /// The future may be dropped at any moment: what has come of a frame is kept for the next call.
    ///
    /// # Errors
    /// Those of a [`FrameReader`]; `Refused` for a frame that may not come, that there is no room for, or that takes
    /// too long.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, StreamError> {
        let Frames { reader, deadline, timer } = self;
        tokio::select! {
            biased;
            frame = reader.next() => frame,
            () = passed(deadline, timer) => Err(StreamError::Refused(too_slow())),
        }
    }
}

/// Waits until the deadline, which may move meanwhile. Looked at behind the reader, whose last words it hears: a timer
/// for each frame would cost more than the frame.
async fn passed(deadline: &Cell<Option<Instant>>, timer: &mut Option<Pin<Box<Sleep>>>) {
    poll_fn(|cx| {
        let Some(deadline) = deadline.get() else { return Poll::Pending };
        let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
        loop {
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline.into());
        }
    })
    .await;
}

fn too_slow() -> ApiError {
    let message = format!(
        "a frame was begun and did not come within {} s, and a second more for every {} KiB of it: send it again over \
         a faster network, or in smaller batches",
        FRAME_TIME.as_secs(),
        FRAME_BYTES_PER_S >> 10
    );
    ApiError::new(ErrorCode::Timeout, message)
}

/// What a reader asks before it keeps something.
struct Keeper {
    expected: Expected,
    /// How long a frame may take, apart from what its bytes take; `None`: any time.
    time: Option<Duration>,
    charge: Charge,
    /// When the first byte of the frame that is waited for was there.
    begun: Option<Instant>,
    /// The frame that is waited for may come.
    is_checked: bool,
    deadline: Rc<Cell<Option<Instant>>>,
}

impl Gate for Keeper {
    type Refusal = ApiError;

    fn waits(&mut self, header: Option<&FrameHeader>, bytes: usize) -> Result<(), ApiError> {
        if bytes > 0 {
            if let Some(header) = header.filter(|_| !self.is_checked) {
                self.expected.check(header)?;
                self.is_checked = true;
            }
            if let Some(time) = self.time {
                let begun = *self.begun.get_or_insert_with(Instant::now);
                let time = time + Duration::from_secs((bytes / FRAME_BYTES_PER_S) as u64);
                self.deadline.set(Some(begun + time));
            }
        }
        Ok(self.charge.set(bytes)?)
    }

    fn hands_out(&mut self, bytes: usize) -> Result<(), ApiError> {
        (self.begun, self.is_checked) = (None, false);
        self.deadline.set(None);
        Ok(self.charge.set(bytes)?)
    }
}

impl Expected {
    fn check(&self, header: &FrameHeader) -> Result<(), ApiError> {
        let kind = header.kind;
        match self {
            Expected::Opening(ctx, principal) => ctx.may_begin(principal, kind),
            Expected::Only(only) if kind != *only => {
                Err(ApiError::malformed(format_args!("{kind:?} came on a stream that takes {only:?} alone")))
            }
            Expected::Small if header.body_bytes > 0 => {
                Err(ApiError::malformed(format_args!("{kind:?} came on a stream that takes no bodies")))
            }
            _ => Ok(()),
        }
    }
}

/// How long a frame may take from its first byte on, apart from what its bytes take.
const FRAME_TIME: Duration = Duration::from_secs(10);
/// What a frame brings in a second at least, behind that: a frame of 16 MiB may take four minutes, if it comes
/// steadily.
const FRAME_BYTES_PER_S: usize = 64 << 10;
