//! The table of requests: one row for each, with everything that a broker and a client must know before they look at
//! what the request says. What the messages say is in the modules beside; how they are encoded is left to `wire`.
//!
//! A new request is a row here, a type for it and for its reply, a conversion in `wire` and a service in the broker;
//! what is missing of these does not compile.

use thalweg_model::limits::{
    BATCH_BYTES_MAX, BATCH_RECORDS_MAX, GROUP_GONE_MAX, GROUP_TOPICS_MAX, MODULE_BYTES_CEILING, NAME_BYTES_MAX,
    PARTITIONS_MAX,
};

use crate::cluster::*;
use crate::fetch::*;
use crate::groups::*;
use crate::hello::*;
use crate::membership::*;
use crate::plugins::*;
use crate::produce::*;
use crate::topics::*;
use crate::{ApiError, Resource, Right, Route};

/// One side's message: what a frame carries.
pub trait Message: Sized {
    /// The kind of the frames that carry it.
    const KIND: FrameKind;
}

/// A request that is answered once, or refused with an [`ApiError`](crate::ApiError). Only rows of the table are
/// requests.
pub trait Request: Message {
    /// The message that answers it.
    type Reply: Message;
    /// What its asker must be allowed to.
    const RIGHT: Right;
    /// What it is about.
    fn resource(&self) -> Resource<'_>;
    /// Where it is decided.
    fn route(&self) -> Route<'_>;
}

macro_rules! or {
    (, $default:expr) => {
        $default
    };
    ($value:expr, $default:expr) => {
        $value
    };
}

macro_rules! table {
    (
        $d:tt
        requests {$(
            $(#[$doc:meta])*
            $request:ident = $number:literal => $reply:ident = $reply_number:literal {
                $(right: $right:ident,)?
                about: $r:pat => $resource:expr,
                route: $route:expr,
                $(items: $items:expr,)?
                $(head: $head:expr,)?
                $(body: $body:expr,)?
                $(reply_items: $reply_items:expr,)?
                $(reply_body: $reply_body:expr,)?
            }
        )*}
        messages {$(
            $message:ident = $message_number:literal {
                $(message_items: $message_items:expr,)?
                $(message_head: $message_head:expr,)?
                $(message_body: $message_body:expr,)?
            }
        )*}
        others {$(
            $other:ident = $other_number:literal;
        )*}
    ) => {
        /// What a frame is; the numbers are the wire's and are never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        #[allow(missing_docs, reason = "named like the messages that they carry")]
        pub enum FrameKind {
            $($request = $number, $reply = $reply_number,)*
            $($message = $message_number,)*
            $($other = $other_number,)*
        }

        impl FrameKind {
            /// Every kind of frame.
            pub const ALL: &[FrameKind] = &[
                $(FrameKind::$request, FrameKind::$reply,)*
                $(FrameKind::$message,)*
                $(FrameKind::$other,)*
            ];

            /// The kind with this number.
            pub fn from_number(number: u16) -> Option<FrameKind> {
                match number {
                    $($number => Some(FrameKind::$request), $reply_number => Some(FrameKind::$reply),)*
                    $($message_number => Some(FrameKind::$message),)*
                    $($other_number => Some(FrameKind::$other),)*
                    _ => None,
                }
            }

            /// Largest body that may follow, in bytes.
            pub fn body_bytes_max(self) -> usize {
                match self {
                    $(
                        FrameKind::$request => or!($($body)?, 0),
                        FrameKind::$reply => or!($($reply_body)?, 0),
                    )*
                    $(FrameKind::$message => or!($($message_body)?, 0),)*
                    $(FrameKind::$other => 0,)*
                }
            }

            /// Largest head, in bytes.
            pub fn head_bytes_max(self) -> usize {
                match self {
                    $(
                        FrameKind::$request => or!($($head)?, HEAD_BYTES),
                        FrameKind::$reply => HEAD_BYTES_MAX,
                    )*
                    $(FrameKind::$message => or!($($message_head)?, HEAD_BYTES),)*
                    $(FrameKind::$other => HEAD_BYTES,)*
                }
            }

            /// Most items of all lists in a head together, those of lists within items included.
            pub fn items_max(self) -> usize {
                match self {
                    $(
                        FrameKind::$request => or!($($items)?, 0),
                        FrameKind::$reply => or!($($reply_items)?, REPLY_ITEMS_MAX),
                    )*
                    $(FrameKind::$message => or!($($message_items)?, 0),)*
                    $(FrameKind::$other => 0,)*
                }
            }
        }

        $(
            impl Message for $request {
                const KIND: FrameKind = FrameKind::$request;
            }

            impl Message for $reply {
                const KIND: FrameKind = FrameKind::$reply;
            }

            $(#[$doc])*
            impl Request for $request {
                type Reply = $reply;
                const RIGHT: Right = or!($(Right::$right)?, Right::Nobody);

                fn resource(&self) -> Resource<'_> {
                    let $r = self;
                    $resource
                }

                #[allow(unused_variables, reason = "most routes are the same whatever the request says")]
                fn route(&self) -> Route<'_> {
                    let $r = self;
                    $route
                }
            }
        )*

        $(impl Message for $message {
            const KIND: FrameKind = FrameKind::$message;
        })*

        /// Calls a macro with the names of all kinds of frames.
        #[macro_export]
        macro_rules! for_each_kind {
            ($d callback:ident) => {
                $d callback! { $($request $reply)* $($message)* $($other)* }
            };
        }

        /// Calls a macro with the names of all requests, which are the names of their types and of their kinds: whoever
        /// must know every request matches over them, and does not compile where one is missing.
        #[macro_export]
        macro_rules! for_each_request {
            ($d callback:ident) => {
                $d callback! { $($request)* }
            };
        }
    };
}

table! {
    $
    requests {
        /// The brokers, and topics with where their partitions are.
        MetadataRequest = 4 => MetadataReply = 5 {
            right: Describe,
            about: _ => Resource::Cluster,
            route: Route::Here,
            items: NAMES_MAX,
            head: NAMES_BYTES_MAX,
        }
        /// Makes a topic.
        CreateTopicRequest = 6 => CreateTopicReply = 7 {
            right: Alter,
            about: r => Resource::Topic(&r.name),
            route: Route::Controller,
        }
        /// Removes a topic and its records.
        DeleteTopicRequest = 8 => DeleteTopicReply = 9 {
            right: Alter,
            about: r => Resource::Topic(&r.name),
            route: Route::Controller,
        }
        /// A topic with the state of its partitions, from all brokers.
        DescribeTopicRequest = 10 => DescribeTopicReply = 11 {
            right: Describe,
            about: r => Resource::Topic(&r.name),
            route: Route::Here,
        }
        /// Takes up a plugin's module.
        UploadPluginRequest = 12 => UploadPluginReply = 13 {
            right: Alter,
            about: r => Resource::Plugin(&r.name),
            route: Route::Controller,
            body: MODULE_BYTES_CEILING,
        }
        /// All plugins in all versions.
        ListPluginsRequest = 14 => ListPluginsReply = 15 {
            right: Describe,
            about: _ => Resource::Cluster,
            route: Route::Here,
        }
        /// A plugin with its module. Whoever produces to a topic runs the module.
        FetchPluginRequest = 16 => FetchPluginReply = 17 {
            right: Describe,
            about: _ => Resource::Cluster,
            route: Route::Here,
            reply_body: MODULE_BYTES_CEILING,
        }
        /// A producer id that nobody had before.
        InitProducerRequest = 18 => InitProducerReply = 19 {
            right: Write,
            about: _ => Resource::Cluster,
            route: Route::Controller,
        }
        /// Where partitions have a position.
        ListOffsetsRequest = 26 => ListOffsetsReply = 27 {
            right: Describe,
            about: r => Resource::TopicId(r.topic),
            route: Route::Leader,
            items: ITEMS_MAX,
            head: ITEMS_BYTES_MAX,
        }
        /// Has the leaders of partitions hand over to the preferred replicas.
        ElectLeaderRequest = 29 => ElectLeaderReply = 30 {
            right: Operate,
            about: r => Resource::Topic(&r.topic),
            route: Route::Here,
            items: ITEMS_MAX,
        }
        /// How the cluster is.
        ClusterStatusRequest = 31 => ClusterStatusReply = 32 {
            right: Describe,
            about: _ => Resource::Cluster,
            route: Route::Here,
        }
        /// Keeps a module that another broker hands over.
        StoreModuleRequest = 36 => StoreModuleReply = 37 {
            right: Serve,
            about: _ => Resource::Cluster,
            route: Route::Here,
            body: MODULE_BYTES_CEILING,
        }
        /// Goes on without brokers whose disks are lost for ever.
        RecoverRequest = 38 => RecoverReply = 39 {
            right: Operate,
            about: _ => Resource::Cluster,
            route: Route::Controller,
            items: ITEMS_MAX,
        }
        /// The copies that a broker holds, and where their logs end.
        ReplicaEndsRequest = 40 => ReplicaEndsReply = 41 {
            right: Serve,
            about: _ => Resource::Cluster,
            route: Route::Here,
        }
        /// The partitions of records, from the topic's partitioner, for clients that run no wasm.
        PlaceRequest = 42 => PlaceReply = 43 {
            right: Write,
            about: r => Resource::TopicId(r.topic),
            route: Route::Here,
            body: BATCH_BYTES_MAX,
            reply_items: BATCH_RECORDS_MAX,
        }
        /// Has a topic's records placed in another way from now on.
        SetPartitionerRequest = 44 => SetPartitionerReply = 45 {
            right: Alter,
            about: r => Resource::Topic(&r.name),
            route: Route::Controller,
        }
        /// Gives a topic more partitions.
        AddPartitionsRequest = 63 => AddPartitionsReply = 64 {
            right: Alter,
            about: r => Resource::Topic(&r.name),
            route: Route::Controller,
        }
        /// Where a group's coordinator is. The topic that holds groups is made where there is none.
        FindCoordinatorRequest = 46 => FindCoordinatorReply = 47 {
            right: Read,
            about: r => Resource::Group(&r.group),
            route: Route::Here,
        }
        /// All groups, from all coordinators.
        ListGroupsRequest = 55 => ListGroupsReply = 56 {
            right: Describe,
            about: _ => Resource::Cluster,
            route: Route::Here,
        }
        /// A group with its members and offsets.
        DescribeGroupRequest = 57 => DescribeGroupReply = 58 {
            right: Describe,
            about: r => Resource::Group(&r.group),
            route: Route::Coordinator(&r.group),
        }
        /// Forgets a group without members.
        DeleteGroupRequest = 59 => DeleteGroupReply = 60 {
            right: Alter,
            about: r => Resource::Group(&r.group),
            route: Route::Coordinator(&r.group),
        }
        /// Sets how far a group without members has come.
        CommitOffsetsRequest = 61 => CommitOffsetsReply = 62 {
            right: Alter,
            about: r => Resource::Group(&r.group),
            route: Route::FirstCoordinator(&r.group),
            items: ITEMS_MAX,
            head: ITEMS_BYTES_MAX,
        }
    }
    // Greetings, the messages of streams, and what brokers say in an encoding of their own. Who may open a stream is
    // asked where it is opened.
    messages {
        Hello = 1 {
            message_items: KINDS_MAX,
        }
        HelloReply = 2 {
            message_items: KINDS_MAX,
        }
        PeerHello = 33 {}
        PeerHelloReply = 34 {}
        PeerMessages = 35 {
            message_items: REPLY_ITEMS_MAX,
            message_head: HEAD_BYTES_MAX,
            message_body: PUSH_BYTES_MAX,
        }
        Produce = 20 {
            message_body: BATCH_BYTES_MAX,
        }
        ProduceReply = 21 {}
        FetchOpen = 22 {}
        FetchOpened = 23 {}
        FetchControl = 24 {}
        FetchPush = 25 {
            message_body: PUSH_BYTES_MAX,
        }
        MetadataWatch = 28 {
            message_items: GROUP_TOPICS_MAX,
        }
        GroupOpen = 48 {
            message_items: GROUP_TOPICS_MAX + GROUP_GONE_MAX,
        }
        GroupHeartbeat = 49 {
            message_items: GROUP_TOPICS_MAX,
        }
        GroupAssignment = 50 {
            message_items: REPLY_ITEMS_MAX,
            message_head: HEAD_BYTES_MAX,
        }
        GroupCommit = 51 {
            message_items: COMMITS_MAX,
            message_head: HEAD_BYTES_MAX,
        }
        GroupCommitReply = 52 {
            message_items: REPLY_ITEMS_MAX,
            message_head: HEAD_BYTES_MAX,
        }
        GroupLeave = 53 {}
        GroupLeft = 54 {}
    }
    others {
        Error = 3;
    }
}

impl Message for ApiError {
    const KIND: FrameKind = FrameKind::Error;
}

/// Largest head of any frame, in bytes.
pub const HEAD_BYTES_MAX: usize = 4 << 20;
/// Most items of a reply's lists: more than a page of a listing ever has.
pub const REPLY_ITEMS_MAX: usize = 200_000;
/// Most partitions or brokers that one request names: as many as there are partitions of a topic.
const ITEMS_MAX: usize = PARTITIONS_MAX as usize;
/// Bytes of such a request: 100 for each item, which has an id of 16 bytes and some numbers.
const ITEMS_BYTES_MAX: usize = 100 * ITEMS_MAX;
/// Most partitions that a member commits at once: as many as it may hold and have come further in.
const COMMITS_MAX: usize = 4 * ITEMS_MAX;
/// Most topics that one request names.
const NAMES_MAX: usize = 1_000;
/// Bytes of such a request.
const NAMES_BYTES_MAX: usize = NAMES_MAX * (NAME_BYTES_MAX + 16);
/// Most kinds of frames of which a greeting names the versions: ours, and those of versions to come.
const KINDS_MAX: usize = 1_000;
/// Largest head where a row says nothing else: a hundred names, and the parameters of a plugin.
const HEAD_BYTES: usize = 128 << 10;
/// A push holds whole batches, so it may pass one batch's limit by one batch.
const PUSH_BYTES_MAX: usize = 2 * BATCH_BYTES_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! rows {
        ($($request:ident)*) => {
            [$((FrameKind::$request, $request::RIGHT)),*]
        };
    }

    #[test]
    fn a_kind_has_the_number_by_which_it_is_found() {
        let numbers: std::collections::BTreeSet<u16> = FrameKind::ALL.iter().map(|k| *k as u16).collect();
        assert_eq!((numbers.len(), FrameKind::ALL.len()), (64, 64));
        for kind in FrameKind::ALL {
            assert_eq!(FrameKind::from_number(*kind as u16), Some(*kind));
        }
        assert_eq!((FrameKind::from_number(0), FrameKind::from_number(65)), (None, None));
    }

    #[test]
    fn every_row_says_who_may_ask() {
        for (kind, right) in for_each_request!(rows) {
            assert_ne!(right, Right::Nobody, "{kind:?} is closed to everyone");
        }
    }
}
