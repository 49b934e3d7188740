//! The calls of this folder for other languages: each by its name, with its arguments by theirs, so that a binding
//! passes on all of them by one function. Which calls there are, each file beside says itself; how a language writes
//! values is left to its binding.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use thalweg_api::ErrorKind;
use thalweg_model::Position;

use crate::client::Client;
use crate::{Error, Result};

/// What an argument or an answer is made of, in any language.
#[doc(hidden)]
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing: an argument that was left out, or what is not there.
    None,
    /// Either true or false.
    Bool(bool),
    /// A whole number, large enough for both kinds of 64 bits.
    Int(i128),
    /// Text, which is always UTF-8.
    Text(String),
    /// Bytes as they are.
    Bytes(Bytes),
    /// Several values in their order.
    List(Vec<Value>),
    /// Fields of a struct, by their names in Rust.
    Map(Vec<(Cow<'static, str>, Value)>),
}

/// Arguments by their names in Rust. What is left out is `None`.
pub type Arguments = Vec<(String, Value)>;

pub(crate) type Answer = Pin<Box<dyn Future<Output = Result<Value>> + Send>>;

/// One call: what `calls!` makes of a line.
pub(super) struct Call {
    pub(super) name: &'static str,
    pub(super) run: fn(Client, Arguments) -> Answer,
}

/// The calls of a file: `name(argument: type) => |client| what is awaited;`. Each result is a [`Value`], by `fields!`
/// where it is a struct.
macro_rules! calls {
    ($($name:ident($($argument:ident: $type:ty),* $(,)?) => |$client:ident| $call:expr;)*) => {
        pub(super) const CALLS: &[$crate::admin::by_name::Call] = &[$($crate::admin::by_name::Call {
            name: stringify!($name),
            #[allow(unused_mut, reason = "calls without arguments take none")]
            run: |$client, mut arguments| Box::pin(async move {
                $(let $argument: $type = $crate::admin::by_name::take(&mut arguments, stringify!($argument))?;)*
                $crate::admin::by_name::check_all_taken(stringify!($name), &arguments)?;
                $call.await.map($crate::admin::by_name::Value::from)
            }),
        }),*];
    };
}

/// A struct as a map of its fields: one that is forgotten does not compile.
macro_rules! fields {
    ($($type:ident { $($field:ident)* })*) => {
        $(impl From<$type> for $crate::admin::by_name::Value {
            fn from($type { $($field),* }: $type) -> Self {
                $crate::admin::by_name::Value::Map(vec![$((stringify!($field).into(), $field.into())),*])
            }
        })*
    };
}

pub(crate) use {calls, fields};

/// Takes the argument of this name.
pub(super) fn take<T: Argument>(arguments: &mut Arguments, name: &str) -> Result<T> {
    let at = arguments.iter().position(|(given, _)| given == name);
    let value = at.map_or(Value::None, |at| arguments.swap_remove(at).1);
    let wrong = || invalid(format!("{name} is not {}", T::KIND));
    T::of(value)?.ok_or_else(wrong)
}

/// Refuses an argument that the call does not have.
pub(super) fn check_all_taken(call: &str, arguments: &Arguments) -> Result<()> {
    match arguments.first() {
        None => Ok(()),
        Some((name, _)) => Err(invalid(format!("{call} has no argument {name:?}"))),
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

/// "earliest", "latest", "offset" with its number, or "timestamp" with its milliseconds.
///
/// # Errors
/// `invalid` for another word, and for an offset that is none.
pub fn position(kind: &str, value: i64) -> Result<Position> {
    Ok(match kind {
        "earliest" => Position::Earliest,
        "latest" => Position::Latest,
        "offset" => Position::Offset(u64::try_from(value).map_err(|_| invalid(format!("offset {value} is negative")))?),
        "timestamp" => Position::Timestamp(value),
        other => return Err(invalid(format!("position {other:?} is unknown; earliest, latest, offset or timestamp"))),
    })
}

/// What an argument may be.
pub(super) trait Argument: Sized {
    /// In words, for who passed something else.
    const KIND: &'static str;

    /// `None` for a value of another kind.
    fn of(value: Value) -> Result<Option<Self>>;
}

macro_rules! arguments {
    ($($type:ty, $kind:literal, $pattern:pat => $value:expr;)*) => {
        $(impl Argument for $type {
            const KIND: &'static str = $kind;

            fn of(value: Value) -> Result<Option<Self>> {
                Ok(match value {
                    $pattern => $value,
                    _ => None,
                })
            }
        })*
    };
}

arguments! {
    bool, "true or false", Value::Bool(value) => Some(value);
    u32, "a number of 32 bits", Value::Int(value) => value.try_into().ok();
    u64, "a number that is not negative", Value::Int(value) => value.try_into().ok();
    i64, "a number of 64 bits", Value::Int(value) => value.try_into().ok();
    String, "text", Value::Text(value) => Some(value);
    Bytes, "bytes", Value::Bytes(value) => Some(value);
}

impl<T: Argument> Argument for Option<T> {
    const KIND: &'static str = T::KIND;

    fn of(value: Value) -> Result<Option<Self>> {
        match value {
            Value::None => Ok(Some(None)),
            value => Ok(T::of(value)?.map(Some)),
        }
    }
}

impl<T: Argument> Argument for Vec<T> {
    const KIND: &'static str = "a list";

    fn of(value: Value) -> Result<Option<Self>> {
        let Value::List(values) = value else { return Ok(None) };
        values.into_iter().map(T::of).collect()
    }
}

impl Argument for Position {
    const KIND: &'static str = "a kind of position and its number";

    fn of(value: Value) -> Result<Option<Self>> {
        let Value::List(parts) = value else { return Ok(None) };
        match &parts[..] {
            [Value::Text(kind), Value::Int(number)] => match i64::try_from(*number) {
                Ok(number) => position(kind, number).map(Some),
                Err(_) => Ok(None),
            },
            _ => Ok(None),
        }
    }
}

macro_rules! values {
    ($($type:ty, $it:ident => $value:expr;)*) => {
        $(impl From<$type> for Value {
            fn from($it: $type) -> Self {
                $value
            }
        })*
    };
}

values! {
    (), _it => Value::None;
    bool, it => Value::Bool(it);
    u32, it => Value::Int(it.into());
    u64, it => Value::Int(it.into());
    i64, it => Value::Int(it.into());
    String, it => Value::Text(it);
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(it: Option<T>) -> Self {
        it.map_or(Value::None, Into::into)
    }
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(it: Vec<T>) -> Self {
        Value::List(it.into_iter().map(Into::into).collect())
    }
}

impl<A: Into<Value>, B: Into<Value>> From<(A, B)> for Value {
    fn from((a, b): (A, B)) -> Self {
        Value::List(vec![a.into(), b.into()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(call: &str, arguments: &[(&str, Value)]) -> String {
        let arguments = arguments.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = runtime.block_on(super::super::call(Client::unconnected(), call, arguments)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        error.to_string()
    }

    #[test]
    fn what_is_no_call_and_no_argument_is_refused_by_name() {
        let text = |text: &str| Value::Text(text.into());
        assert_eq!(refused("drop_topic", &[]), "there is no call \"drop_topic\"");
        assert_eq!(refused("delete_topic", &[]), "name is not text");
        assert_eq!(refused("delete_topic", &[("name", Value::Int(1))]), "name is not text");
        let both = [("name", text("t")), ("topic", text("t"))];
        assert_eq!(refused("delete_topic", &both), "delete_topic has no argument \"topic\"");
        let many = [("name", text("t")), ("partitions", Value::Int(1 << 32))];
        assert_eq!(refused("create_topic", &many), "partitions is not a number of 32 bits");
        let at = |kind: &str, number| Value::List(vec![text(kind), Value::Int(number)]);
        let offsets = |position| refused("offsets", &[("topic", text("t")), ("position", position)]);
        assert_eq!(offsets(at("offset", -1)), "offset -1 is negative");
        assert_eq!(offsets(at("middle", 0)), "position \"middle\" is unknown; earliest, latest, offset or timestamp");
        assert_eq!(offsets(text("earliest")), "position is not a kind of position and its number");
    }

    #[test]
    fn what_was_left_empty_is_not_taken_for_what_was_left_out() {
        let text = |text: &str| Value::Text(text.into());
        let (empty, config) = (("partitioner", text("")), Value::Bytes("c".into()));
        let named = |more: &[_]| refused("create_topic", &[&[("name", text("t"))], more].concat());
        let set = |more: &[_]| refused("set_partitioner", &[&[("topic", text("t"))], more].concat());
        let is_empty = "partitioner is empty: name a plugin, or leave it out for the built-in one";
        assert_eq!((&*named(std::slice::from_ref(&empty)), &*set(&[empty])), (is_empty, is_empty));
        let of_none = "partitioner_config is that of a partitioner, and none is named";
        assert_eq!(named(&[("partitioner_config", config.clone())]), of_none);
        assert_eq!(set(&[("config", config)]), of_none);
        let to = Value::List(vec![text("earliest"), Value::Int(0)]);
        let reset = [
            ("group", text("g")),
            ("topic", text("t")),
            ("partitions", Value::List(Vec::new())),
            ("to", to),
            ("dry_run", Value::Bool(false)),
        ];
        let all = "partitions is empty: name those to move, or leave it out for all of the topic";
        assert_eq!(refused("reset_group", &reset), all);
    }

    #[test]
    fn positions_are_not_cut_in_silence() {
        assert_eq!(position("offset", 5).unwrap(), Position::Offset(5));
        for (kind, value) in [("offset", -1), ("middle", 0)] {
            assert_eq!(position(kind, value).unwrap_err().kind(), ErrorKind::Invalid, "{kind} {value}");
        }
    }

    #[test]
    fn every_name_is_that_of_one_call() {
        let names: Vec<&str> = super::super::all_calls().map(|call| call.name).collect();
        let unique: std::collections::BTreeSet<&str> = names.iter().copied().collect();
        assert_eq!(names.len(), unique.len(), "{names:?}");
    }
}
