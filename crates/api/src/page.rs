//! Pages: a listing that may be long comes in several replies, each of which is bounded. Who asks hands the token of
//! one reply back for the next; any broker can go on where another one has stopped. What stands in a token is left to
//! the broker.

use crate::cluster::*;
use crate::error::ApiError;
use crate::groups::*;
use crate::membership::*;
use crate::plugins::*;
use crate::table::{HEAD_BYTES_MAX, Request};
use crate::token::PageToken;
use crate::topics::*;

/// A request whose reply comes in pages.
pub trait Paged: Request + Clone {
    /// Asks for the page of this token instead of the first one.
    fn set_page(&mut self, page: PageToken);

    /// Takes the token of the page after this one out of a reply; `None` for the last one.
    fn take_next(reply: &mut Self::Reply) -> Option<PageToken>;

    /// Adds the page that comes after `reply`, and takes over its token.
    fn append(reply: &mut Self::Reply, page: Self::Reply);
}

/// Room that is left in one page.
#[derive(Debug)]
pub struct Room {
    items: usize,
    bytes: usize,
    is_empty: bool,
}

impl Default for Room {
    /// A whole page.
    fn default() -> Self {
        Room { items: PAGE_ITEMS_MAX, bytes: PAGE_BYTES_MAX, is_empty: true }
    }
}

impl Room {
    /// Takes room for one item; false where there is none. The first item of a page always has room.
    pub fn take(&mut self, item: &impl Weigh) -> bool {
        let bytes = item.bytes_max();
        if !self.is_empty && (self.items == 0 || self.bytes < bytes) {
            return false;
        }
        self.is_empty = false;
        self.items = self.items.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        true
    }
}

/// What an item takes in a reply.
pub trait Weigh {
    /// As many bytes at most, on the wire.
    fn bytes_max(&self) -> usize;
}

/// Bytes of fields that are numbers, and of tags and lengths: 11 for each field are enough, and one more for each item.
fn fields(count: usize) -> usize {
    12 * (count + 1)
}

fn texts<'a>(texts: impl IntoIterator<Item = &'a String>) -> usize {
    texts.into_iter().map(|text| text.len() + 12).sum()
}

impl Weigh for ApiError {
    fn bytes_max(&self) -> usize {
        let fault = self.fault.as_ref().map_or(0, |f| f.plugin.len() + f.reason.len());
        // Texts are cut where they are encoded, and the mark of that is added.
        fields(4) + self.message.len() + fault + 3 * 4
    }
}

impl Weigh for Topic {
    /// Without its partitions.
    fn bytes_max(&self) -> usize {
        let pin = self.partitioner.as_ref().map_or(0, |pin| fields(4) + 32 + pin.name.len() + pin.config.len());
        fields(8) + self.name.len() + 16 + pin + fields(5)
    }
}

impl Weigh for Partition {
    fn bytes_max(&self) -> usize {
        fields(6 + self.replicas.len()) + self.leader.as_ref().map_or(0, |l| l.host.len())
    }
}

impl Weigh for TopicError {
    fn bytes_max(&self) -> usize {
        fields(2) + self.name.len() + self.error.bytes_max()
    }
}

impl Weigh for Plugin {
    fn bytes_max(&self) -> usize {
        fields(7) + self.name.len() + 32 + self.kind.name().len()
    }
}

impl Weigh for OffsetAnswer {
    fn bytes_max(&self) -> usize {
        fields(3) + self.offset.as_ref().err().map_or(0, Weigh::bytes_max)
    }
}

impl Weigh for PartitionTrouble {
    fn bytes_max(&self) -> usize {
        fields(5) + self.topic.len() + self.what.len()
    }
}

impl Weigh for RecoveredPartition {
    fn bytes_max(&self) -> usize {
        fields(5 + self.lost.len()) + self.topic.len()
    }
}

impl Weigh for ReplicaEnd {
    fn bytes_max(&self) -> usize {
        fields(11 + self.voters.len() + self.voters_outgoing.len()) + 16
    }
}

impl Weigh for AssignedPartition {
    fn bytes_max(&self) -> usize {
        fields(6) + self.topic.len() + 16 + fields(3)
    }
}

impl Weigh for RefusedCommit {
    fn bytes_max(&self) -> usize {
        fields(3) + 16 + self.error.bytes_max()
    }
}

impl Weigh for GroupSummary {
    fn bytes_max(&self) -> usize {
        fields(3) + self.group.len() + self.state.len()
    }
}

impl Weigh for GroupMember {
    /// Without its partitions.
    fn bytes_max(&self) -> usize {
        let own = texts([&self.member, &self.client, &self.host]) + texts(&self.instance);
        fields(9) + own + texts(&self.topics)
    }
}

impl Weigh for GroupHolding {
    fn bytes_max(&self) -> usize {
        fields(3) + self.topic.len()
    }
}

impl Weigh for GroupOffset {
    fn bytes_max(&self) -> usize {
        fields(4) + self.topic.len() + 16 + fields(3)
    }
}

/// Requests whose pages are lists one behind the other; of some, what stands at the end of a page goes on in the next.
macro_rules! paged {
    ($($request:ident { $list:ident $(, $go_on:ident)? })*) => {
        $(impl Paged for $request {
            fn set_page(&mut self, page: PageToken) {
                self.page = Some(page);
            }

            fn take_next(reply: &mut Self::Reply) -> Option<PageToken> {
                reply.next.take()
            }

            fn append(reply: &mut Self::Reply, mut page: Self::Reply) {
                $($go_on(reply, &mut page);)?
                reply.next = page.next.take();
                reply.$list.append(&mut page.$list);
            }
        })*
    };
}

paged! {
    MetadataRequest { topics, go_on }
    DescribeTopicRequest { partitions, go_on_with_partitions }
    ListPluginsRequest { plugins }
    ClusterStatusRequest { out_of_service }
    RecoverRequest { partitions }
    ReplicaEndsRequest { ends }
    ListGroupsRequest { groups }
    DescribeGroupRequest { offsets, go_on_with_members }
}

fn go_on_with_partitions(all: &mut DescribeTopicReply, more: &mut DescribeTopicReply) {
    all.topic.partitions.append(&mut more.topic.partitions);
}

/// A topic may go on in the next page.
fn go_on(all: &mut MetadataReply, more: &mut MetadataReply) {
    let (Some(Ok(last)), Some(Ok(first))) = (all.topics.last_mut(), more.topics.first_mut()) else { return };
    if last.id == first.id {
        last.partitions.append(&mut first.partitions);
        drop(more.topics.remove(0));
    }
}

/// The partitions of a member may go on in the next page.
fn go_on_with_members(all: &mut DescribeGroupReply, more: &mut DescribeGroupReply) {
    if let (Some(last), Some(first)) = (all.members.last_mut(), more.members.first_mut())
        && last.member == first.member
    {
        last.holdings.append(&mut first.holdings);
        more.members.remove(0);
    }
    all.members.append(&mut more.members);
}

/// Most items of a page: what a broker looks up at once, while everybody else waits.
pub const PAGE_ITEMS_MAX: usize = 1_000;
/// Bytes of a page, unless its first item is larger. Far from what a head may have.
pub const PAGE_BYTES_MAX: usize = HEAD_BYTES_MAX / 8;
