//! File descriptors: as many as the system allows, and what is done while there are none. A descriptor that is not to
//! be had now is to be had later; it says nothing of the file that was to be opened.

use std::io;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises this process's limit to the most that it may have. Many systems start a process with 1,024, which are for
/// programs that use `select`.
pub(crate) fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => tracing::debug!(?current, ?maximum, "the limit of open files was raised"),
        Err(error) => tracing::warn!(?current, ?maximum, %error, "the limit of open files cannot be raised"),
    }
}

/// Files that one of `parts` may keep open, of those that the process may have.
pub(crate) fn share(parts: u64, most: usize) -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit.saturating_sub(OTHERS) / parts).unwrap_or(most).clamp(LEAST, most)
}

/// The process, or the system, has no descriptor left.
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code == Some(Errno::MFILE.raw_os_error()) || code == Some(Errno::NFILE.raw_os_error())
}

/// Does something that opens files, again and again while there is no descriptor for it, up to `limit`. Blocks.
/// What is done has to be such that it can be done again from its beginning.
pub(crate) fn patiently<T>(limit: Duration, mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let started = Instant::now();
    let mut warned: Option<Instant> = None;
    loop {
        match attempt() {
            Err(error) if is_exhausted(&error) && started.elapsed() < limit => {
                if warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
                    warned = Some(Instant::now());
                    tracing::warn!(
                        %error,
                        "no file can be opened: raise the limit of open files (ulimit -n, or LimitNOFILE of the \
                         service); what needs one waits"
                    );
                }
                std::thread::sleep(AGAIN);
            }
            done => return done,
        }
    }
}

/// How long who opens a file in passing waits for a descriptor.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How long a disk's lane waits: for ever, as producers are held back meanwhile.
pub(crate) const FOR_EVER: Duration = Duration::MAX;
/// Descriptors for what is no segment: sockets, the log, pipes, names to be looked up.
const OTHERS: u64 = 160;
/// Files that one part keeps open however few there may be.
const LEAST: usize = 16;
/// When it is tried again.
const AGAIN: Duration = Duration::from_millis(10);
/// The same is warned of at most this often.
const WARN_EVERY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lacks_a_descriptor_is_done_later_and_what_fails_otherwise_is_not() {
        for code in [Errno::MFILE, Errno::NFILE] {
            let mut left = 3;
            let done = patiently(FOR_EVER, || {
                left -= 1;
                if left > 0 { Err(io::Error::from_raw_os_error(code.raw_os_error())) } else { Ok(7) }
            });
            assert_eq!((done.unwrap(), left), (7, 0));
        }
        let mut attempts = 0;
        let failed = patiently(FOR_EVER, || -> io::Result<()> {
            attempts += 1;
            Err(io::Error::from_raw_os_error(Errno::IO.raw_os_error()))
        });
        assert_eq!((failed.unwrap_err().raw_os_error(), attempts), (Some(Errno::IO.raw_os_error()), 1));
        let never = || -> io::Result<()> { Err(io::Error::from_raw_os_error(Errno::MFILE.raw_os_error())) };
        assert!(is_exhausted(&patiently(Duration::from_millis(30), never).unwrap_err()), "not for ever");
    }
}
