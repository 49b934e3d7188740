//! Who may ask what: the right that a request needs, what it is about, and where it is decided. Who has which right is
//! left to the broker's door (`may` in the broker).

use thalweg_model::TopicId;

/// What a principal must be allowed to, for the broker to do what it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right {
    /// Nobody has this right: the request's row does not say yet who may ask it.
    Nobody,
    /// To look at topics, groups, plugins and brokers.
    Describe,
    /// To read a topic's records, alone or as a member of a group.
    Read,
    /// To write a topic's records.
    Write,
    /// To make, change and remove topics, plugins and groups.
    Alter,
    /// To move leaderships, and to go on without brokers that are lost.
    Operate,
    /// To ask as a broker of the cluster.
    Serve,
}

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource<'a> {
    /// The cluster as a whole.
    Cluster,
    /// The topic of this name, whether it exists or not.
    Topic(&'a str),
    /// The topic with this id.
    TopicId(TopicId),
    /// The consumer group with this id.
    Group(&'a str),
    /// The plugin of this name, in all its versions.
    Plugin(&'a str),
}

/// Where a request is decided. A broker that another one asks decides itself or refuses: nothing is handed on twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// At the broker that is asked; where it needs what other brokers know, it asks them.
    Here,
    /// At the controller: any other broker hands the request on to it.
    Controller,
    /// At the coordinator of this group: any other broker hands the request on to it.
    Coordinator(&'a str),
    /// The same for a group that may be the first one: the topic that holds groups is made where there is none.
    FirstCoordinator(&'a str),
    /// At the leader of the partition, which clients ask themselves. Any other broker refuses.
    Leader,
}
