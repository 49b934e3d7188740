//! The machines answer all requests with one type each; here an answer becomes what its request asks for. Which answer
//! belongs to which request is the machines' own matter (`control`).

use std::fmt::Debug;

use thalweg_api::{ApiError, ErrorCode};
use thalweg_control::{Answer, Assignment, GroupAnswer, GroupError, GroupPart, GroupSummary, Plugin};
use thalweg_model::{ProducerId, ProducerToken, TopicPartition};

/// What one kind of request asks a machine for.
pub(crate) trait Asked<A>: Sized {
    /// It, or the answer that is another one.
    fn of(answer: A) -> Result<Self, A>;
}

/// What a request has asked for. An answer to something else is a broken invariant of this broker, and says so.
pub(crate) fn answered<T, A, E>(answer: Result<A, E>) -> Result<T, ApiError>
where
    T: Asked<A>,
    A: Debug,
    for<'a> ApiError: From<&'a E>,
{
    let answer = answer.map_err(|e| ApiError::from(&e))?;
    let other = |other| ApiError::new(ErrorCode::Internal, format!("a request is answered by {other:?}"));
    T::of(answer).map_err(other)
}

macro_rules! asked {
    ($($of:ident::$answer:ident($($part:ident),*) => $type:ty;)*) => {
        $(impl Asked<$of> for $type {
            fn of(answer: $of) -> Result<Self, $of> {
                match answer {
                    $of::$answer($($part),*) => Ok(($($part),*)),
                    other => Err(other),
                }
            }
        })*
    };
}

asked! {
    Answer::Plugin(plugin, existed) => (Plugin, bool);
    Answer::Producer(id, token) => (ProducerId, ProducerToken);
    GroupAnswer::Assigned(assignment) => Assignment;
    GroupAnswer::Committed(refused) => Vec<(TopicPartition, GroupError)>;
    GroupAnswer::Group(part) => Box<GroupPart>;
    GroupAnswer::Groups(groups, next) => (Vec<GroupSummary>, Option<String>);
}
