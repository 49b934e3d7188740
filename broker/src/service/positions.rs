//! Where a start position lies in a partition that is served here.

use thalweg_api::{ApiError, ErrorCode};
use thalweg_model::{Offset, Position, TopicPartition};

use crate::ctx::Ctx;
use crate::engine::calls::Read;
use crate::engine::view::View;
use crate::refusal::{damaged, lost};

/// As [`resolve`], for who reads from there: a position that the log does not hold is refused.
pub(crate) async fn resolve_to_read(
    ctx: &Ctx,
    name: TopicPartition,
    start: Position,
) -> Result<Option<Offset>, ApiError> {
    let Some(at) = resolve(ctx, name, start).await? else { return Ok(None) };
    let bounds = move |view: &View<'_>| (view.log_start(&name), view.state(&name).map_or(at, |s| s.log_end));
    let (mut log_start, mut end) = ctx.engine.look(bounds).await;
    // Up to the log's end it is a matter of waiting. Past it, somebody may lead who knows more: the quorum tells.
    if at > end {
        if ctx.engine.confirm(name).await.is_err() {
            return Ok(None);
        }
        (log_start, end) = ctx.engine.look(bounds).await;
    }
    // What is found in the log may be removed by retention before the second look; what was named is not moved.
    let at = if matches!(start, Position::Offset(_)) { at } else { at.max(log_start) };
    match at >= log_start && at <= end {
        true => Ok(Some(at)),
        false => Err(out_of_range(at, log_start, end)),
    }
}

/// The error of a position that the log does not hold.
pub(crate) fn out_of_range(at: Offset, log_start: Offset, end: Offset) -> ApiError {
    let message = match at < log_start {
        true => format!("offset {at} has been removed by retention: the log holds {log_start} to {end} (exclusive)"),
        false => format!("offset {at} is past the end: the log holds {log_start} to {end} (exclusive)"),
    };
    ApiError::new(ErrorCode::OffsetOutOfRange, message)
}

/// What a look tells of a start position.
enum Found {
    NotServed,
    At(Offset),
    /// With others about, this broker may have been replaced without knowing it: the quorum tells where the end is.
    End,
    /// At the first record of some timestamp from here on, or else at `high_watermark`.
    From {
        from: Offset,
        at_ms: i64,
        high_watermark: Offset,
    },
}

/// Where a start position lies now; `None` while the partition does not serve yet.
pub(crate) async fn resolve(ctx: &Ctx, name: TopicPartition, start: Position) -> Result<Option<Offset>, ApiError> {
    match ctx.engine.look(move |view| find(view, &name, start)).await? {
        Found::NotServed => Ok(None),
        Found::At(offset) => Ok(Some(offset)),
        Found::End => Ok(ctx.engine.confirm(name).await.ok()),
        Found::From { from, at_ms, high_watermark } => {
            Ok(Some(timestamp_offset(ctx, name, from, at_ms).await?.unwrap_or(high_watermark)))
        }
    }
}

fn find(view: &View<'_>, name: &TopicPartition, start: Position) -> Result<Found, ApiError> {
    if let Some(what) = view.offline(name) {
        return Err(damaged(name.partition.0, &what));
    }
    if let Some(what) = view.lost_copy(name) {
        return Err(lost(name.partition.0, &what));
    }
    let Some(state) = view.state(name).filter(|s| s.is_serving) else {
        return Ok(Found::NotServed);
    };
    let high_watermark = state.high_watermark;
    Ok(match start {
        Position::Offset(offset) => Found::At(Offset(offset.min(Offset::MAX.0))),
        Position::Earliest => Found::At(view.log_start(name)),
        Position::Latest => Found::End,
        Position::Timestamp(at_ms) => match view.offset_for_timestamp(name, at_ms) {
            Some(from) => Found::From { from, at_ms, high_watermark },
            None => Found::At(high_watermark),
        },
        other => {
            return Err(ApiError::new(ErrorCode::InvalidRequest, format!("position {other:?} is unknown here")));
        }
    })
}

/// The first record at or after a timestamp, of those from an offset on.
async fn timestamp_offset(
    ctx: &Ctx,
    name: TopicPartition,
    mut from: Offset,
    at_ms: i64,
) -> Result<Option<Offset>, ApiError> {
    loop {
        let batches = match ctx.engine.read(name, from, READ_BYTES).await.0 {
            Read::Batches(batches) => batches,
            Read::BelowStart(start) => {
                from = start;
                continue;
            }
            Read::AtEnd => return Ok(None),
            Read::Offline(what) => return Err(damaged(name.partition.0, &what)),
        };
        for batch in batches {
            let found = batch.first_at_or_after(from, at_ms);
            if let Some(offset) = found.map_err(|e| ApiError::new(ErrorCode::CorruptBatch, e.to_string()))? {
                return Ok(Some(offset));
            }
            from = from.max(batch.end_offset());
        }
    }
}

/// Most bytes that are read at once to find a timestamp.
const READ_BYTES: usize = 1 << 20;
