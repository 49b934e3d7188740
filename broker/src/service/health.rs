//! Whether this broker is well, looked at once a second: what `/readyz`, the log and the gauges say of it. What follows
//! from it (who leads, what is refused) is the core's business; it is only told here how much room the disk has.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use thalweg_broker_core::METADATA;
use thalweg_commit_log::ASIDE;
use thalweg_model::counted;

use crate::ctx::Ctx;
use crate::engine::view::View;

/// Bytes that are free for this process on the disk of `path`, and bytes that it has.
pub(crate) fn room(path: &Path) -> std::io::Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(path)?;
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
}

/// Folders of other histories that are kept aside; an operator removes them.
fn asides(path: &Path) -> Vec<String> {
    let found = std::fs::read_dir(path.join(ASIDE)).into_iter().flatten().flatten();
    let mut names: Vec<String> = found.filter_map(|e| Some(format!("{ASIDE}/{}", e.file_name().to_str()?))).collect();
    names.sort();
    names
}

/// The reserve on the disk of `path`, in bytes.
pub(crate) fn reserve(path: &Path, usual: u64) -> u64 {
    room(path).map_or(usual, |(_, total)| usual.min(total / RESERVE_SHARE))
}

/// Something that begins, ends, and may begin again at once.
#[derive(Default)]
struct Trouble {
    is_said: bool,
    warned: Option<Instant>,
}

impl Trouble {
    fn look(&mut self, is_on: bool, warn: impl FnOnce(), over: impl FnOnce()) {
        if is_on && !self.is_said && self.warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            (self.is_said, self.warned) = (true, Some(Instant::now()));
            warn();
        } else if !is_on && self.is_said {
            self.is_said = false;
            over();
        }
    }
}

/// How the broker is, at one look.
struct State {
    is_full: bool,
    reserve_bytes: u64,
    is_out_of_touch: bool,
    refusal: Option<String>,
    memory_bytes: u64,
    out_of_service: usize,
    /// Partitions that have a copy here, and those of them that nobody leads.
    copies: usize,
    leaderless: usize,
    /// Partitions that this broker leads, and those of them of which a copy cannot be counted on.
    led: usize,
    behind: usize,
    /// Brokers that the controller has not heard of lately; 0 where this one is not the controller.
    silent: usize,
}

impl State {
    fn of(view: &View<'_>) -> State {
        let copies: Vec<_> = view.replicas().log().names().filter(|name| *name != METADATA).collect();
        let led = copies.iter().filter(|name| view.state(name).is_some_and(|s| s.is_serving));
        let (led, behind) =
            led.fold((0, 0), |(led, behind), name| (led + 1, behind + usize::from(!view.behind(name).is_empty())));
        let heard = view.live().len() - view.unheard().len();
        State {
            led,
            behind,
            silent: if view.is_controller() { view.metadata().brokers().count() - heard } else { 0 },
            copies: copies.len(),
            leaderless: copies.iter().filter(|name| view.leader(name).is_none()).count(),
            is_full: view.is_full(),
            reserve_bytes: view.reserve_bytes(),
            // Not before the first registration, which says so itself.
            is_out_of_touch: view.is_registered() && !view.is_in_touch(),
            refusal: view.refusal().map(str::to_owned),
            memory_bytes: view.memory_bytes() as u64,
            out_of_service: view.out_of_service().len(),
        }
    }

    /// True while none of the partitions that have a copy here can be used.
    fn leads_to_nobody(&self) -> bool {
        self.copies > 0 && self.leaderless == self.copies
    }

    /// Why it is not ready; empty when it is. `leaderless` is for how long nobody has led any partition.
    fn trouble(&self, leaderless: Option<Duration>) -> String {
        match (&self.refusal, self.is_out_of_touch, self.is_full) {
            (Some(why), ..) => why.clone(),
            (None, true, _) => "out of touch with the cluster's controller".to_owned(),
            (None, false, true) => "the disk is full: records are refused; free room, or enlarge the disk".to_owned(),
            (None, false, false) if leaderless.is_some_and(|time| time >= LEADERLESS) => format!(
                "nobody leads any of the {} that have a copy here: too few of the brokers that hold the others can be \
                 reached",
                counted(self.copies, "partition")
            ),
            (None, false, false) => String::new(),
        }
    }
}

/// Looks until it is aborted.
pub(crate) async fn watch(ctx: Rc<Ctx>, directory: PathBuf) {
    let metrics = &ctx.metrics;
    let (mut full, mut unasked, mut out_of_touch) = (Trouble::default(), Trouble::default(), Trouble::default());
    let mut leaderless: Option<Instant> = None;
    loop {
        // On a thread of its own: a network file system may take its time.
        let path = directory.clone();
        let look = move || (room(&path), asides(&path));
        let (found, asides) = tokio::task::spawn_blocking(look).await.unwrap_or_else(|e| (Err(e.into()), Vec::new()));
        let warn = || {
            tracing::warn!(
                error = ?found.as_ref().err(),
                "the room on the disk cannot be told: producers are only refused when a write fails"
            )
        };
        unasked.look(found.is_err(), warn, || tracing::info!("the room on the disk can be told again"));
        let free_bytes = found.as_ref().ok().map(|(free, _)| *free);
        if let Some(free_bytes) = free_bytes {
            ctx.engine.set_room(free_bytes).await;
            metrics.storage_free_bytes.set(free_bytes);
        }
        let state = ctx.engine.look(State::of).await;
        let free_bytes = free_bytes.unwrap_or(0);
        let warn = || {
            tracing::warn!(
                free_bytes,
                reserve_bytes = state.reserve_bytes,
                "the disk is full: records are refused, and leadership goes to brokers with room; deletes and \
                 retention go on. \
                 Free room, or enlarge the disk"
            );
        };
        full.look(state.is_full, warn, || tracing::info!(free_bytes, "the disk has room again: records are taken"));

        let warn = || {
            tracing::warn!("out of touch with the cluster's controller: too few controllers can be reached from here");
        };
        let over = || tracing::info!("in touch with the cluster's controller again");
        out_of_touch.look(state.is_out_of_touch, warn, over);
        leaderless = state.leads_to_nobody().then(|| leaderless.unwrap_or_else(Instant::now));
        metrics.set_trouble(state.trouble(leaderless.map(|at| at.elapsed())));
        metrics.log_memory_bytes.set(state.memory_bytes);
        metrics.connection_memory_bytes.set(ctx.budget.held() as u64);
        metrics.partitions_offline.set(state.out_of_service as i64);
        metrics.partitions_led.set(state.led as i64);
        metrics.partitions_behind.set(state.behind as i64);
        metrics.partitions_without_leader.set(state.leaderless as i64);
        metrics.brokers_silent.set(state.silent as i64);
        metrics.partitions_aside.set(asides.len() as i64);
        *ctx.asides.borrow_mut() = asides;
        metrics.storage_full.set(state.is_full as i64);
        tokio::time::sleep(EVERY).await;
    }
}

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(1);
/// How long nobody may lead any partition here before the broker is not ready: longer than elections take.
const LEADERLESS: Duration = Duration::from_secs(5);
/// The same trouble is warned of at most this often.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// Of a small disk, this share is the reserve: the usual one would be most of it.
const RESERVE_SHARE: u64 = 10;
