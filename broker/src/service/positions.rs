//! Where a start position lies in a partition that is served here.

use thalweg_api::{ApiError, ErrorCode};
use thalweg_model::{Offset, Position, TopicPartition};

use crate::ctx::Ctx;
use crate::engine::shard::Read;
use crate::refusal::{damaged, lost};

/// Most bytes that are read at once to find a timestamp.
const READ_BYTES: usize = 1 << 20;

/// As [`resolve`], for who reads from there: a position that the log does not hold is refused.
pub(crate) async fn resolve_to_read(
    ctx: &Ctx,
    name: &TopicPartition,
    start: Position,
) -> Result<Option<Offset>, ApiError> {
    let Some(at) = resolve(ctx, name, start).await? else { return Ok(None) };
    let end = || ctx.shard.state(name).map_or(at, |s| s.log_end);
    // Up to the log's end it is a matter of waiting. Past it, somebody may lead who knows more: the quorum tells.
    if at > end() && ctx.shard.confirm(*name).await.is_err() {
        return Ok(None);
    }
    let log_start = ctx.shard.log_start(name);
    match at >= log_start && at <= end() {
        true => Ok(Some(at)),
        false => Err(out_of_range(at, log_start, end())),
    }
}

pub(crate) fn out_of_range(at: Offset, log_start: Offset, end: Offset) -> ApiError {
    let message = match at < log_start {
        true => format!("offset {at} has been removed by retention: the log holds {log_start} to {end} (exclusive)"),
        false => format!("offset {at} is past the end: the log holds {log_start} to {end} (exclusive)"),
    };
    ApiError::new(ErrorCode::OffsetOutOfRange, message)
}

/// Where a start position lies now; `None` while the partition does not serve yet.
pub(crate) async fn resolve(ctx: &Ctx, name: &TopicPartition, start: Position) -> Result<Option<Offset>, ApiError> {
    if let Some(what) = ctx.shard.offline(name) {
        return Err(damaged(name.partition.0, &what));
    }
    if let Some(what) = ctx.shard.lost_copy(name) {
        return Err(lost(name.partition.0, &what));
    }
    let Some(state) = ctx.shard.state(name).filter(|s| s.is_serving) else {
        return Ok(None);
    };
    let log_start = ctx.shard.log_start(name);
    Ok(Some(match start {
        Position::Offset(offset) => Offset(offset.min(Offset::MAX.0)),
        Position::Earliest => log_start,
        // With others about, this broker may have been replaced without knowing it.
        Position::Latest => match ctx.shard.confirm(*name).await {
            Ok(offset) => offset,
            Err(_) => return Ok(None),
        },
        Position::Timestamp(ms) => timestamp_offset(ctx, name, ms).await?.unwrap_or(state.high_watermark),
        other => {
            return Err(ApiError::new(ErrorCode::InvalidRequest, format!("position {other:?} is unknown here")));
        }
    }))
}

/// The first record at or after a timestamp.
async fn timestamp_offset(ctx: &Ctx, name: &TopicPartition, at_ms: i64) -> Result<Option<Offset>, ApiError> {
    let Some(mut from) = ctx.shard.offset_for_timestamp(name, at_ms) else {
        return Ok(None);
    };
    loop {
        let batches = match ctx.shard.read(name, from, READ_BYTES).await {
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
