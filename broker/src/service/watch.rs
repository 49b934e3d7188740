//! Metadata as it is pushed: a client names topics once, and is told of them again whenever something changes. What is
//! told once is in `topics.rs`.
//!
//! However many streams watch the same topics, what they are told is put together once for each change, page by page,
//! so that other calls come in between. A stream keeps nothing but a digest of what it was told last.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use thalweg_api::{ApiError, MetadataReply, MetadataRequest, MetadataWatch, Resource, Right};
use thalweg_wire::{Frame, encode_message};

use crate::ctx::Ctx;
use crate::feed::{Known, Sum, Watched};
use crate::service::topics::page_of;
use crate::stream::Stream;
use crate::stream::outgoing::Outgoing;
use crate::transport::asker::Asker;

/// Sends the metadata of some topics at once and after every change, until the client goes away.
pub(crate) async fn serve(ctx: Rc<Ctx>, asker: Rc<Asker>, stream: Stream, first: Frame) {
    let Stream { mut frames, mut out, .. } = stream;
    frames.expect_small();
    let request: MetadataWatch = match first.decode() {
        Ok(request) => request,
        Err(error) => return out.refuse(error).await,
    };
    if let Err(error) = ctx.may(&asker.principal, Right::Describe, Resource::Cluster) {
        return out.refuse(error).await;
    }
    let watched = ctx.feed.join(request.topics);
    let mut changed = ctx.engine.watch_metadata();
    let mut told = None;
    loop {
        let version = *changed.borrow_and_update();
        match tell(&ctx, &asker, &watched, version, told, &mut out).await {
            Ok(digest) => told = Some(digest),
            Err(Untold::Refused(error)) => return out.refuse(error).await,
            Err(Untold::Gone) => return,
        }
        tokio::select! {
            changed = changed.changed() => if changed.is_err() { return },
            // A client says nothing more on this stream; its end is the end.
            _ = frames.next() => return,
        }
    }
}

/// Why a watcher could not be told.
enum Untold {
    Refused(ApiError),
    Gone,
}

/// Tells a watcher what there is at `version`, unless that is what it was told before. One that does not read what it
/// is told keeps one of its connection's turns.
async fn tell(
    ctx: &Ctx,
    asker: &Asker,
    watched: &Watched,
    version: u64,
    told: Option<Sum>,
    out: &mut Outgoing,
) -> Result<Sum, Untold> {
    let _turn = asker.turn(Right::Describe).await;
    let (sum, news) = since(ctx, watched, version, told).await.map_err(Untold::Refused)?;
    for frame in news.iter().flat_map(|frames| frames.iter()) {
        out.write_charged(&mut [frame.clone()]).await.map_err(|_| Untold::Gone)?;
    }
    Ok(sum)
}

/// What there is to tell at `version`: its sum, and the frames if they are others than those of `told`.
async fn since(
    ctx: &Ctx,
    watched: &Watched,
    version: u64,
    told: Option<Sum>,
) -> Result<(Sum, Option<Rc<Vec<Bytes>>>), ApiError> {
    let mut known = watched.known.lock().await;
    if known.version.is_some_and(|v| v >= version) {
        if told == Some(known.sum) {
            return Ok((known.sum, None));
        }
        if let Some(frames) = known.frames.upgrade() {
            return Ok((known.sum, Some(frames)));
        }
    }
    // However fast things change, most of the time is other callers'.
    if let Some((at, took)) = known.made {
        tokio::time::sleep_until((at + SHARE * took).into()).await;
    }
    let begun = Instant::now();
    let frames = Rc::new(put_together(ctx, &watched.topics).await?);
    let mut hash = Sha256::new();
    frames.iter().for_each(|frame| hash.update(frame));
    *known = Known {
        version: Some(version),
        sum: hash.finalize().into(),
        frames: Rc::downgrade(&frames),
        made: Some((Instant::now(), begun.elapsed())),
    };
    Ok((known.sum, Some(frames).filter(|_| told != Some(known.sum))))
}

/// What there is to tell of topics, page by page, as frames.
async fn put_together(ctx: &Ctx, topics: &[String]) -> Result<Vec<Bytes>, ApiError> {
    let mut frames = Vec::new();
    let mut request = MetadataRequest { topics: topics.to_vec(), ..MetadataRequest::default() };
    loop {
        let reply: MetadataReply = page_of(ctx, request.clone(), HashMap::new()).await?;
        request.page.clone_from(&reply.next);
        frames.push(encode_message(reply)?.0);
        if request.page.is_none() {
            return Ok(frames);
        }
    }
}

/// After so many times as long as it took, what is watched is put together again at the earliest.
const SHARE: u32 = 4;
