//! What brokers say to each other, and its bytes.

use bytes::{Buf, BufMut, Bytes};
use thalweg_control::{Broker, MetadataRecord};
use thalweg_model::{BrokerId, DirectoryId, LeaderEpoch, Offset, PartitionId, ReplicaId, TopicId, TopicPartition};
use thalweg_replica::{MessageError, PeerMessage};

/// The sender of a message, as its connection proves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The number of the broker.
    pub id: BrokerId,
    /// The data directory that it runs on.
    pub directory: DirectoryId,
    /// Which start of a broker on that directory it is.
    pub incarnation: u64,
    /// IP address (as IPv6) and UDP port that it sends from. Two processes that run at the same time differ in it; one
    /// that is started again where it was does not.
    pub address: (u128, u16),
}

/// A message from one broker to another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NodeMessage {
    /// Between replicas of one partition.
    Replica(PeerMessage),
    /// To the controller, twice a second: a broker is there, and this is how it describes itself.
    Heartbeat(Broker),
    /// The controller's answer to a broker that it knows.
    Registered {
        /// The broker's copy of the metadata log, which it may not know yet.
        metadata_replica: ReplicaId,
        /// The cluster's first controllers.
        controllers: Vec<BrokerId>,
    },
    /// The controller's answer to a broker that it does not take.
    Refused(String),
    /// To a broker whose directory has seen more starts than it knows of itself: the disk is older than it was, and
    /// what it has acknowledged since is forgotten. Anybody who remembers says so.
    Outdated {
        /// The data directory of that broker.
        directory: DirectoryId,
        /// The start that spoke.
        incarnation: u64,
        /// The last start that is remembered.
        remembered: u64,
    },
    /// To everybody, every two seconds and at every change.
    Leading {
        /// The sender's wall clock, ms since the Unix epoch, so that each can judge its own.
        wall_ms: i64,
        /// Its disk is full: others should lead.
        is_full: bool,
        /// Which partitions it leads and since which epoch, so that every broker can tell every client.
        partitions: Vec<(TopicPartition, LeaderEpoch)>,
    },
    /// To the controller: a replica lost or damaged what it held.
    Damaged {
        /// The topic; `None` for the metadata log.
        topic: Option<TopicId>,
        /// The number of the partition.
        partition: u32,
        /// The copy that lost what it held.
        replica: ReplicaId,
    },
    /// From a coordinator of groups to a leader: do these partitions go on up to these offsets?
    AskEnds {
        /// Comes back with the answers.
        question: u64,
        /// The partitions, each with an offset.
        partitions: Vec<(TopicPartition, Offset)>,
    },
    /// A leader's answer, a part of it at a time: high watermarks. One that is below what was asked for has been
    /// confirmed by the quorum.
    Ends {
        /// Which question it answers.
        question: u64,
        /// The partitions, each with an offset.
        partitions: Vec<(TopicPartition, Offset)>,
    },
}

impl NodeMessage {
    /// True for what must not stand in the way of heartbeats and small appends.
    pub fn is_bulk(&self) -> bool {
        matches!(self, NodeMessage::Replica(message) if message.is_bulk())
    }

    /// True for what must not wait behind the messages of thousands of partitions: who is there, and what the
    /// controllers decide. Without it brokers that are alive count as silent.
    pub fn is_urgent(&self) -> bool {
        match self {
            NodeMessage::Replica(message) => message.partition == METADATA && !message.is_bulk(),
            NodeMessage::Heartbeat(_)
            | NodeMessage::Registered { .. }
            | NodeMessage::Refused(_)
            | NodeMessage::Outdated { .. } => true,
            NodeMessage::Leading { .. }
            | NodeMessage::Damaged { .. }
            | NodeMessage::AskEnds { .. }
            | NodeMessage::Ends { .. } => false,
        }
    }

    /// Bytes of the batches in it.
    pub fn batch_bytes(&self) -> usize {
        match self {
            NodeMessage::Replica(message) => message.batch_bytes(),
            _ => 0,
        }
    }

    /// Its bytes, but for batches, which follow one after the other.
    pub fn encode(&self) -> (Vec<u8>, Vec<Bytes>) {
        let mut out = Vec::new();
        match self {
            NodeMessage::Replica(message) => {
                let (head, batches) = message.encode();
                out.reserve(1 + head.len());
                out.put_u8(0);
                out.put_slice(&head);
                return (out, batches);
            }
            NodeMessage::Heartbeat(broker) => {
                out.put_u8(1);
                out.put_slice(&MetadataRecord::BrokerRegistered(broker.clone()).encode());
            }
            NodeMessage::Registered { metadata_replica, controllers } => {
                out.put_u8(2);
                out.put_u64_le(metadata_replica.0);
                controllers.iter().for_each(|c| out.put_u32_le(c.0));
            }
            NodeMessage::Outdated { directory, incarnation, remembered } => {
                out.put_u8(8);
                out.put_slice(&directory.0);
                out.put_u64_le(*incarnation);
                out.put_u64_le(*remembered);
            }
            NodeMessage::Refused(why) => {
                out.put_u8(3);
                out.put_slice(why.as_bytes());
            }
            NodeMessage::Leading { wall_ms, is_full, partitions } => {
                out.put_u8(5);
                out.put_i64_le(*wall_ms);
                out.put_u8(*is_full as u8);
                for (name, epoch) in partitions {
                    out.put_slice(&name.topic.0);
                    out.put_u32_le(name.partition.0);
                    out.put_u32_le(epoch.0);
                }
            }
            NodeMessage::Damaged { topic, partition, replica } => {
                out.put_u8(4);
                out.put_u8(topic.is_some() as u8);
                out.put_slice(&topic.unwrap_or_default().0);
                out.put_u32_le(*partition);
                out.put_u64_le(replica.0);
            }
            NodeMessage::AskEnds { question, partitions } | NodeMessage::Ends { question, partitions } => {
                out.put_u8(if matches!(self, NodeMessage::AskEnds { .. }) { 6 } else { 7 });
                out.put_u64_le(*question);
                for (name, offset) in partitions {
                    out.put_slice(&name.topic.0);
                    out.put_u32_le(name.partition.0);
                    out.put_u64_le(offset.0);
                }
            }
        }
        (out, Vec::new())
    }

    /// Reads one message: `head` from [`encode`](Self::encode), and its batches from the front of `bodies`.
    ///
    /// # Errors
    /// Anything that `encode` did not write.
    pub fn decode(head: &[u8], bodies: &mut Bytes) -> Result<NodeMessage, MessageError> {
        let (&kind, mut rest) = head.split_first().ok_or(MessageError)?;
        let data = &mut rest;
        match kind {
            0 => return PeerMessage::decode(data, bodies).map(NodeMessage::Replica),
            1 => match MetadataRecord::decode(data) {
                Ok(MetadataRecord::BrokerRegistered(broker)) => Some(NodeMessage::Heartbeat(broker)),
                _ => None,
            },
            2 if data.len() >= 8 && data.len() <= 8 + 4 * CONTROLLERS_MAX && data.len().is_multiple_of(4) => {
                let metadata_replica = ReplicaId(data.get_u64_le());
                let controllers = data.chunks_exact(4);
                let controllers = controllers.map(|c| BrokerId(u32::from_le_bytes(c.try_into().expect("four bytes"))));
                Some(NodeMessage::Registered { metadata_replica, controllers: controllers.collect() })
            }
            3 if data.len() <= TEXT_BYTES_MAX => {
                std::str::from_utf8(data).ok().map(|why| NodeMessage::Refused(why.to_owned()))
            }
            4 if data.len() == 29 => {
                let has_topic = data.get_u8() != 0;
                let topic = TopicId(*data.first_chunk::<16>().expect("sixteen bytes"));
                data.advance(16);
                let (partition, replica) = (data.get_u32_le(), ReplicaId(data.get_u64_le()));
                Some(NodeMessage::Damaged { topic: has_topic.then_some(topic), partition, replica })
            }
            8 if data.len() == 32 => {
                let directory = DirectoryId(*data.first_chunk::<16>().expect("sixteen bytes"));
                data.advance(16);
                let (incarnation, remembered) = (data.get_u64_le(), data.get_u64_le());
                Some(NodeMessage::Outdated { directory, incarnation, remembered })
            }
            5 if data.len() >= 9 && (data.len() - 9).is_multiple_of(24) => {
                let (wall_ms, is_full) = (data.get_i64_le(), data.get_u8() != 0);
                let one = |b: &[u8]| {
                    let topic = TopicId(*b.first_chunk::<16>().expect("sixteen bytes"));
                    let number = |at: usize| u32::from_le_bytes(b[at..at + 4].try_into().expect("four bytes"));
                    (TopicPartition::new(topic, number(16)), LeaderEpoch(number(20)))
                };
                let partitions = data.chunks_exact(24).map(one).collect();
                Some(NodeMessage::Leading { wall_ms, is_full, partitions })
            }
            6 | 7 if data.len() >= 8 && (data.len() - 8).is_multiple_of(28) => {
                let question = data.get_u64_le();
                let one = |b: &[u8]| {
                    let topic = TopicId(*b.first_chunk::<16>().expect("sixteen bytes"));
                    let partition = u32::from_le_bytes(b[16..20].try_into().expect("four bytes"));
                    let offset = u64::from_le_bytes(b[20..28].try_into().expect("eight bytes"));
                    (TopicPartition::new(topic, partition), Offset(offset))
                };
                let partitions = data.chunks_exact(28).map(one).collect();
                Some(match kind {
                    6 => NodeMessage::AskEnds { question, partitions },
                    _ => NodeMessage::Ends { question, partitions },
                })
            }
            _ => None,
        }
        .ok_or(MessageError)
    }
}

/// Longest text that a refusal may carry.
const TEXT_BYTES_MAX: usize = 4096;
/// Most controllers that a cluster has.
const CONTROLLERS_MAX: usize = 16;

/// The metadata log is a partition like any other, of a topic whose id is fixed.
pub const METADATA: TopicPartition = TopicPartition { topic: TopicId(*b"cluster-metadata"), partition: PartitionId(0) };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_and_cut_ones_do_not() {
        let broker = Broker {
            id: BrokerId(2),
            directory: DirectoryId([3; 16]),
            incarnation: 4,
            host: "b2".into(),
            port: 9460,
            rack: String::new(),
            metadata_replica: ReplicaId(2),
            feature_level: 1,
            is_older: true,
        };
        let messages = [
            NodeMessage::Heartbeat(broker),
            NodeMessage::Registered { metadata_replica: ReplicaId(7), controllers: vec![BrokerId(1), BrokerId(2)] },
            NodeMessage::Refused("no".into()),
            NodeMessage::Outdated { directory: DirectoryId([5; 16]), incarnation: 2, remembered: 9 },
            NodeMessage::Damaged { topic: Some(TopicId([1; 16])), partition: 3, replica: ReplicaId(9) },
            NodeMessage::Damaged { topic: None, partition: 0, replica: ReplicaId(9) },
            NodeMessage::Leading {
                wall_ms: -5,
                is_full: true,
                partitions: vec![(TopicPartition::new(TopicId([2; 16]), 7), LeaderEpoch(3))],
            },
            NodeMessage::AskEnds {
                question: 5,
                partitions: vec![(TopicPartition::new(TopicId([2; 16]), 7), Offset(9))],
            },
            NodeMessage::Ends { question: 5, partitions: vec![(TopicPartition::new(TopicId([2; 16]), 7), Offset(8))] },
            NodeMessage::Ends { question: u64::MAX, partitions: vec![] },
        ];
        for message in messages {
            let (head, _) = message.encode();
            assert_eq!(NodeMessage::decode(&head, &mut Bytes::new()), Ok(message));
            // Texts and lists have no length of their own: their frame has one.
            for cut in 0..head.len().min(8) {
                let _ = NodeMessage::decode(&head[..cut], &mut Bytes::new());
            }
        }
        assert!(NodeMessage::decode(&[9, 9], &mut Bytes::new()).is_err());
        assert!(NodeMessage::decode(&[], &mut Bytes::new()).is_err());
    }
}
