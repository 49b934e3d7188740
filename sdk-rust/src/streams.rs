//! Streams that are kept: one for each broker that is needed at the moment, opened again whenever it is lost.
//!
//! Whoever produces, fetches or listens to metadata has a [`Kept`] of its own, and a task for each broker in which
//! [`again`] does the work.

use std::collections::BTreeMap;
use std::time::Duration;

use thalweg_client_core::Backoff;
use tokio::task::JoinHandle;

use crate::Error;
use crate::address::Address;
use crate::link::chance;

/// A task for each broker that is needed. They end with it.
#[derive(Default)]
pub(crate) struct Kept {
    tasks: BTreeMap<Address, JoinHandle<()>>,
}

impl Kept {
    /// Starts what is missing, and ends what nobody needs any more. `ended` hears of each task that is not there any
    /// more, also of those that have ended by themselves, before it is started again.
    pub(crate) fn follow<F: Future<Output = ()> + 'static>(
        &mut self,
        wanted: &[Address],
        mut ended: impl FnMut(&Address),
        mut start: impl FnMut(&Address) -> F,
    ) {
        self.tasks.retain(|address, task| {
            let stays = wanted.contains(address) && !task.is_finished();
            if !stays {
                task.abort();
                ended(address);
            }
            stays
        });
        for address in wanted {
            if !self.tasks.contains_key(address) {
                self.tasks.insert(address.clone(), tokio::task::spawn_local(start(address)));
            }
        }
    }

    /// The tasks, which whoever takes them lets end.
    pub(crate) fn take(&mut self) -> BTreeMap<Address, JoinHandle<()>> {
        std::mem::take(&mut self.tasks)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.tasks.values().for_each(JoinHandle::abort);
    }
}

/// How a stream was lost.
pub(crate) struct Lost {
    pub(crate) error: Error,
    /// True where the stream had served before: the next one is tried at once.
    pub(crate) has_served: bool,
}

/// Opens a stream and serves it, `once`, again and again, with growing pauses between streams that did not serve; until
/// there is nothing more to do. The third failure in a row is a warning, with what its user does meanwhile; `None` for
/// whom it does not matter.
pub(crate) async fn again(meanwhile: Option<&str>, once: impl AsyncFnMut() -> Option<Lost>) {
    let pause = async |attempt| {
        tokio::time::sleep(Duration::from_millis(Backoff::default().wait_ms(attempt, chance()))).await;
    };
    again_after(pause, meanwhile, once).await;
}

/// Does as [`again`] with pauses of another kind; `pause` gets the number of the next attempt.
async fn again_after(
    mut pause: impl AsyncFnMut(u32),
    meanwhile: Option<&str>,
    mut once: impl AsyncFnMut() -> Option<Lost>,
) {
    let mut attempt = 0;
    while let Some(Lost { error, has_served }) = once().await {
        attempt = if has_served { 1 } else { attempt + 1 };
        match meanwhile {
            Some(meanwhile) if attempt == 3 => tracing::warn!("{error}; {meanwhile}"),
            _ => tracing::debug!("{error}"),
        }
        pause(attempt).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::ErrorKind;

    fn broker(port: u16) -> Address {
        Address { host: "b".into(), port }
    }

    #[test]
    fn a_task_runs_for_each_broker_that_is_needed() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let (log, mut kept) = (Rc::new(RefCell::new(Vec::new())), Kept::default());
            let follow = |kept: &mut Kept, ports: &[u16]| {
                let wanted: Vec<Address> = ports.iter().copied().map(broker).collect();
                let start = |address: &Address| {
                    log.borrow_mut().push(format!("+{}", address.port));
                    let ends = address.port == 9;
                    async move {
                        if ends {
                        } else {
                            std::future::pending().await
                        }
                    }
                };
                kept.follow(&wanted, |address| log.borrow_mut().push(format!("-{}", address.port)), start);
                std::mem::take(&mut *log.borrow_mut())
            };
            assert_eq!(follow(&mut kept, &[1, 2]), ["+1", "+2"]);
            assert_eq!(follow(&mut kept, &[2, 9]), ["-1", "+9"]);
            tokio::task::yield_now().await;
            // One that has ended by itself is started again.
            assert_eq!(follow(&mut kept, &[2, 9]), ["-9", "+9"]);
            let tasks = kept.take();
            drop(kept);
            tokio::task::yield_now().await;
            assert!(!tasks[&broker(2)].is_finished(), "who takes them lets them end");
        });
    }

    #[test]
    fn what_has_served_is_opened_again_soon() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut served = [false, false, true, false].into_iter();
            let mut pauses = Vec::new();
            let once = async || {
                let error = Error::new(ErrorKind::Disconnected, "lost");
                served.next().map(|has_served| Lost { error, has_served })
            };
            again_after(async |attempt| pauses.push(attempt), None, once).await;
            assert_eq!(pauses, [1, 2, 1, 2]);
        });
    }
}
