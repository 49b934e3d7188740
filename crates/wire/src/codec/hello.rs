//! Greetings, refusals, and the frames of brokers' own messages.

use bytes::Bytes;
use thalweg_api::{ApiError, Hello, HelloReply, PeerHello, PeerHelloReply, PeerMessages, VersionRange};
use thalweg_model::{BrokerId, DirectoryId};

use super::Codec;
use crate::proto;

impl From<VersionRange> for proto::VersionRange {
    fn from(v: VersionRange) -> Self {
        proto::VersionRange { kind: v.kind, min: v.min, max: v.max }
    }
}

impl From<proto::VersionRange> for VersionRange {
    fn from(v: proto::VersionRange) -> Self {
        VersionRange { kind: v.kind, min: v.min, max: v.max }
    }
}

impl Codec for Hello {
    type Head = proto::Hello;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let head = proto::Hello {
            versions: self.versions.into_iter().map(Into::into).collect(),
            features: self.features,
            client_id: self.client_id,
            client_version: self.client_version,
        };
        (head, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        Ok(Hello {
            versions: head.versions.into_iter().map(Into::into).collect(),
            features: head.features,
            client_id: head.client_id,
            client_version: head.client_version,
        })
    }
}

impl Codec for HelloReply {
    type Head = proto::HelloReply;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let head = proto::HelloReply {
            versions: self.versions.into_iter().map(Into::into).collect(),
            features: self.features,
            cluster_id: self.cluster_id,
            broker_id: self.broker_id.0,
            broker_version: self.broker_version,
        };
        (head, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        Ok(HelloReply {
            versions: head.versions.into_iter().map(Into::into).collect(),
            features: head.features,
            cluster_id: head.cluster_id,
            broker_id: BrokerId(head.broker_id),
            broker_version: head.broker_version,
        })
    }
}

impl Codec for ApiError {
    type Head = proto::Error;

    fn into_parts(self) -> (Self::Head, Bytes) {
        (self.into(), Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        Ok(head.into())
    }
}

impl Codec for PeerHello {
    type Head = proto::PeerHello;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let head = proto::PeerHello {
            cluster_id: self.cluster_id,
            broker_id: self.broker_id.0,
            directory_id: Bytes::copy_from_slice(&self.directory.0),
            version: self.version,
            incarnation: self.incarnation,
        };
        (head, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        let directory = DirectoryId::from_slice(&head.directory_id);
        Ok(PeerHello {
            cluster_id: head.cluster_id,
            broker_id: BrokerId(head.broker_id),
            directory: directory.ok_or_else(|| ApiError::malformed("a directory id has 16 bytes"))?,
            version: head.version,
            incarnation: head.incarnation,
        })
    }
}

impl Codec for PeerHelloReply {
    type Head = proto::PeerHelloReply;

    fn into_parts(self) -> (Self::Head, Bytes) {
        (proto::PeerHelloReply { broker_id: self.broker_id.0, remembered: self.remembered }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        Ok(PeerHelloReply { broker_id: BrokerId(head.broker_id), remembered: head.remembered })
    }
}

impl Codec for PeerMessages {
    type Head = proto::PeerMessages;

    fn into_parts(self) -> (Self::Head, Bytes) {
        (proto::PeerMessages { heads: self.heads }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        Ok(PeerMessages { heads: head.heads })
    }
}
