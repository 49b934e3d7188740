//! The one door: who asks, and whether that is allowed. Today's rules are of three kinds of askers; lists of rights for
//! single names come here. Which right a request needs is said in its row (`thalweg_api`), and how a client is known is
//! transport's matter.

use std::rc::Rc;

use thalweg_api::{ApiError, ErrorCode, FrameKind, Request, Resource, Right, for_each_request};
use thalweg_broker_core::OWN_PREFIX;
use thalweg_model::BrokerId;

use crate::ctx::Ctx;

/// Who asks, and how that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Principal {
    /// A client on this machine.
    Near,
    /// A client with a certificate of the cluster's CA.
    Certified,
    /// Any other client.
    Anyone,
    /// Another broker of the cluster, or this one. What it asks is not handed on once more.
    Broker(BrokerId),
}

impl Principal {
    pub(crate) fn is_broker(&self) -> bool {
        matches!(self, Principal::Broker(_))
    }
}

/// What answers a request here. A row of the table without one does not compile (`answer`).
pub(crate) trait Service<R: Request> {
    /// The door has let the request in, and this broker is the one that decides it.
    async fn serve(self: &Rc<Self>, principal: &Principal, request: R) -> Result<R::Reply, ApiError>;
}

impl Ctx {
    /// Whether a principal has a right to something. Everybody produces, consumes and looks; who is on this machine, or
    /// has a certificate, changes the cluster; only brokers change, write and read the cluster's own topics.
    pub(crate) fn may(&self, principal: &Principal, right: Right, resource: Resource<'_>) -> Result<(), ApiError> {
        let denied = |why: &str| Err(ApiError::new(ErrorCode::Denied, why));
        match right {
            Right::Nobody => return denied("nobody may ask this: its row of the table of requests says no right"),
            Right::Serve if !principal.is_broker() => return denied("only brokers of the cluster may ask this"),
            Right::Alter | Right::Operate if *principal == Principal::Anyone => {
                return denied(
                    "changing the cluster from another machine needs a client certificate of its CA; \
                     `thalweg cluster certify` makes one",
                );
            }
            _ => {}
        }
        match (right, resource) {
            _ if principal.is_broker() => Ok(()),
            (Right::Alter | Right::Write, Resource::Topic(name)) => check_own(name),
            (Right::Alter | Right::Write, Resource::TopicId(id)) => {
                self.engine.with_topic(id, |topic| topic.map_or(Ok(()), |t| check_own(&t.name)))
            }
            // What the cluster keeps for itself is in an encoding of its own, and holds what other clients have said.
            (Right::Read, Resource::TopicId(id)) => self.engine.with_topic(id, |topic| match topic {
                Some(topic) if topic.name.starts_with(OWN_PREFIX) => denied(
                    "topics whose names begin with __ are the cluster's own, and are not read by clients; \
                     `thalweg group describe` tells how far a group has come",
                ),
                _ => Ok(()),
            }),
            _ => Ok(()),
        }
    }

    /// Whether a principal may begin a stream with a frame of this kind, as far as the kind tells: asked before the
    /// frame is kept, so that nobody has what is refused anyway kept until it is whole.
    pub(crate) fn may_begin(&self, principal: &Principal, kind: FrameKind) -> Result<(), ApiError> {
        match right_to_begin(kind) {
            Some(right) => self.may(principal, right, Resource::Cluster),
            None => Err(ApiError::malformed(format_args!("a stream does not start with {kind:?}"))),
        }
    }
}

macro_rules! right_to_begin {
    ($($request:ident)*) => {
        /// What whoever begins a stream with a frame of this kind must be allowed to, whatever it is about; `None` for
        /// what no stream begins with.
        fn right_to_begin(kind: FrameKind) -> Option<Right> {
            match kind {
                $(FrameKind::$request => Some(<thalweg_api::$request as Request>::RIGHT),)*
                FrameKind::Produce => Some(Right::Write),
                FrameKind::FetchOpen | FrameKind::GroupOpen => Some(Right::Read),
                FrameKind::MetadataWatch => Some(Right::Describe),
                _ => None,
            }
        }
    };
}

for_each_request!(right_to_begin);

/// Clients neither make, change nor write the cluster's own topics.
fn check_own(topic: &str) -> Result<(), ApiError> {
    if !topic.starts_with(OWN_PREFIX) {
        return Ok(());
    }
    let message = format!(
        "topic {topic:?}: topics whose names begin with {OWN_PREFIX} are the cluster's own; choose another name"
    );
    Err(ApiError::new(ErrorCode::InvalidRequest, message))
}
