//! A client that speaks the protocol by hand, so that it can send what no SDK sends.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thalweg_api::ApiError;
use thalweg_model::RecordBatch;
use thalweg_quic::FrameReader;
use thalweg_tests::process::Broker;
use thalweg_wire::{Frame, Head, encode, encode_parts, proto};

use crate::handshake::endpoint_of;

/// A connection after its hello.
pub(crate) struct Raw {
    connection: quinn::Connection,
    endpoint: quinn::Endpoint,
}

impl Raw {
    pub(crate) async fn connect(broker: &Broker) -> Raw {
        Raw::connect_to(&broker.ca_pem, broker.port()).await
    }

    pub(crate) async fn connect_to(ca_pem: &[u8], port: u16) -> Raw {
        Raw::connect_from(ca_pem, Ipv4Addr::LOCALHOST, SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await
    }

    /// From an address of this machine to another one.
    pub(crate) async fn connect_from(ca_pem: &[u8], from: Ipv4Addr, to: SocketAddr) -> Raw {
        let (_, config) = endpoint_of(ca_pem, thalweg_wire::ALPN_CLIENT);
        let endpoint = quinn::Endpoint::client(SocketAddr::from((from, 0))).unwrap();
        let connection = endpoint.connect_with(config, to, "localhost").unwrap().await.unwrap();
        Raw::greet(endpoint, connection).await.unwrap()
    }

    /// A client that leaves unread what comes: the other end may send `unread_bytes` of each stream and no more.
    pub(crate) async fn connect_unread(broker: &Broker, unread_bytes: u32) -> Raw {
        let (endpoint, mut config) = endpoint_of(&broker.ca_pem, thalweg_wire::ALPN_CLIENT);
        let mut transport = quinn::TransportConfig::default();
        transport.stream_receive_window(unread_bytes.into());
        config.transport_config(Arc::new(transport));
        let to = SocketAddr::from(([127, 0, 0, 1], broker.port()));
        let connection = endpoint.connect_with(config, to, "localhost").unwrap().await.unwrap();
        Raw::greet(endpoint, connection).await.unwrap()
    }

    /// Says hello on a new connection.
    pub(crate) async fn greet(endpoint: quinn::Endpoint, connection: quinn::Connection) -> Result<Raw, ApiError> {
        let raw = Raw { connection, endpoint };
        let hello = proto::Hello {
            versions: thalweg_wire::versions().into_iter().map(Into::into).collect(),
            ..Default::default()
        };
        raw.request::<_, proto::HelloReply>(&hello).await.map(|_| raw)
    }

    /// True until either end has closed the connection, or it was lost.
    pub(crate) fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// One request on a stream of its own.
    pub(crate) async fn request<M: Head, R: Head>(&self, message: &M) -> Result<R, ApiError> {
        let frame = self.request_bytes(encode(message)).await;
        match frame.message::<proto::Error>() {
            Ok(error) => Err(error.into()),
            Err(_) => Ok(frame.message().unwrap()),
        }
    }

    /// The answer to whatever bytes.
    pub(crate) async fn request_bytes(&self, bytes: Bytes) -> Frame {
        let mut stream = self.stream().await;
        stream.send_as_heard(bytes).await;
        stream.next().await
    }

    pub(crate) async fn stream(&self) -> RawStream {
        let (sender, receiver) = self.connection.open_bi().await.unwrap();
        RawStream { sender, frames: FrameReader::new(receiver) }
    }

    /// Goes on from another address, as a client behind a NAT may.
    pub(crate) fn move_to(&self, address: [u8; 4]) {
        self.endpoint.rebind(std::net::UdpSocket::bind(SocketAddr::from((address, 0))).unwrap()).unwrap();
    }

    /// A topic's id.
    pub(crate) async fn topic(&self, name: &str) -> Bytes {
        let request = proto::MetadataRequest { topics: vec![name.to_owned()], ..Default::default() };
        let reply: proto::MetadataReply = self.request(&request).await.unwrap();
        reply.topics[0].id.clone()
    }

    /// Sends one batch to partition 0 on a stream of its own; answers with its offset.
    pub(crate) async fn produce(&self, topic: &Bytes, batch: Bytes) -> Result<u64, ApiError> {
        let head =
            proto::Produce { request_id: 1, topic_id: topic.clone(), acks: 2, pin_epoch: 1, ..Default::default() };
        self.produce_with(head, batch).await
    }

    pub(crate) async fn produce_with(&self, head: proto::Produce, batch: Bytes) -> Result<u64, ApiError> {
        let mut stream = self.stream().await;
        stream.produce(head, batch).await;
        let reply: proto::ProduceReply = stream.next().await.message().unwrap();
        reply.error.map_or(Ok(reply.base_offset), |error| Err(error.into()))
    }
}

/// Frames by hand.
pub(crate) struct RawStream {
    sender: quinn::SendStream,
    frames: FrameReader,
}

impl RawStream {
    pub(crate) async fn send(&mut self, bytes: Bytes) {
        self.sender.write_chunk(bytes).await.unwrap();
    }

    /// The same to a broker that may have heard enough before the last byte.
    pub(crate) async fn send_as_heard(&mut self, bytes: Bytes) {
        let _ = self.sender.write_chunk(bytes).await;
    }

    /// Sends what the other end takes within a moment; false once it takes nothing.
    pub(crate) async fn try_send(&mut self, bytes: Bytes) -> bool {
        let sent = tokio::time::timeout(MOMENT, self.sender.write_chunk(bytes)).await;
        matches!(sent, Ok(Ok(())))
    }

    pub(crate) async fn produce(&mut self, head: proto::Produce, batch: Bytes) {
        self.send(encode_parts(&head, batch.len())).await;
        self.send(batch).await;
    }

    pub(crate) async fn next(&mut self) -> Frame {
        self.frames.next().await.unwrap().expect("an answer")
    }
}

/// A good batch of one record.
pub(crate) fn good(value: &str, mark: Option<thalweg_model::ProducerMark>) -> RecordBatch {
    let mut builder = thalweg_model::BatchBuilder::new();
    let value = Some(Bytes::copy_from_slice(value.as_bytes()));
    builder.push(&thalweg_model::Record { value, ..Default::default() });
    builder.build(thalweg_model::Codec::None, mark)
}

/// How long an attacker waits for the other end to take something.
const MOMENT: Duration = Duration::from_millis(500);
