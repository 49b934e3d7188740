//! The calls that end a consumer.
//!
//! The last notices of a member are left to `notices.rs`.

use thalweg_api::ErrorKind;

use super::handle::{Consumer, Inner, Source};
use crate::{Error, Result};

impl Consumer {
    /// Hands out nothing more: whoever asks for the next record hears that there is none. What is in hand may still be
    /// finished, and is done when its reader asks. [`idle`](Self::idle) waits for that; [`close`](Self::close) ends it
    /// all.
    pub fn stop(&self) {
        self.inner.lock().is_closed = true;
        self.inner.nudge.notify_waiters();
    }

    /// Waits until nothing is in anybody's hands: each reader has asked for the next record.
    pub async fn idle(&self) {
        loop {
            let idle = self.inner.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if !self.inner.lock().in_hand {
                return;
            }
            idle.await;
        }
    }

    /// Ends reading, and leaves the group. What is done is committed, where that is automatic; what is in hand is not
    /// done, and somebody gets it again. [`finish`](Self::finish) is for who has done with it.
    ///
    /// # Errors
    /// `timeout` when the group's coordinator does not answer within the client's time-out: nothing is left to do, the
    /// member counts as gone when its session ends. What was done since the last commit may be done again.
    pub async fn close(&self) -> Result<()> {
        // What is in hand is not done: a commit in one of the last notices commits what is.
        self.inner.lock().drop_hands();
        self.revoke_all();
        self.tell();
        self.inner.leave().await
    }

    /// Closes as [`close`](Self::close) does, for who has done with everything that was handed out: what is in hand is
    /// done.
    ///
    /// # Errors
    /// As [`close`](Self::close).
    pub async fn finish(&self) -> Result<()> {
        self.inner.asks(&mut self.inner.lock());
        self.revoke_all();
        self.tell();
        self.inner.leave().await
    }
}

impl Inner {
    async fn leave(&self) -> Result<()> {
        {
            let mut state = self.lock();
            state.is_closed = true;
            if state.counted.is_none() {
                state.counted = Some(self.counts());
            }
            state.drop_hands();
            state.parked.clear();
            // The connection's side ends with this, and with it what is under way.
            state.incoming.close();
            while state.incoming.try_recv().is_ok() {}
        }
        self.nudge.notify_waiters();
        self.idle.notify_waiters();
        let Source::Group(member) = &self.source else { return Ok(()) };
        member.leave();
        let (member, limit) = (member.clone(), self.client.timeout());
        let ended = self.client.io.run(move |_| async move { Ok(tokio::time::timeout(limit, member.ended()).await) });
        ended.await?.map_err(|_| {
            let what =
                "the group's coordinator did not answer in time; the member counts as gone when its session ends";
            Error::new(ErrorKind::Timeout, what)
        })
    }
}
