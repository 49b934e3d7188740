//! What `#[derive(prost::Message)]` would write, for the kinds of fields that `thalweg.proto` has: whoever builds a
//! client builds neither that macro nor the second syn below it. Which messages there are is left to `thalweg.rs`.
//!
//! Source of the code: prost-derive 0.14; tests/messages.rs compares what it does with prost-reflect.

use prost::bytes::Bytes;

/// What a field holds that is neither optional nor a list.
pub(crate) trait Plain {
    /// True for what protobuf does not write: zero, false, or nothing in it.
    fn is_default(&self) -> bool;
}

macro_rules! plain {
    ($($type:ident $is_default:expr;)*) => {
        $(impl Plain for $type {
            #[inline]
            fn is_default(&self) -> bool {
                $is_default(self)
            }
        })*
    };
}

plain! {
    bool |value: &bool| !*value;
    i32 |value: &i32| *value == 0;
    i64 |value: &i64| *value == 0;
    u32 |value: &u32| *value == 0;
    u64 |value: &u64| *value == 0;
    String String::is_empty;
    Bytes Bytes::is_empty;
}

/// Makes a struct a message: `message!(Hello { 2 features: uint64, 3 client_id: string });`. A field is its tag, its
/// name, prost's module of its type and, where it is not a plain one, `optional`, `repeated` or `packed`.
macro_rules! message {
    ($name:ident { $($tag:literal $field:ident: $kind:ident $($label:ident)?),* }) => {
        #[allow(unused_variables, reason = "a message without fields uses none")]
        impl ::prost::Message for $name {
            fn encode_raw(&self, buf: &mut impl ::prost::bytes::BufMut) {
                $(message!(@encode $tag, self.$field, buf, $kind $($label)?);)*
            }

            fn merge_field(
                &mut self,
                tag: u32,
                wire_type: ::prost::encoding::wire_type::WireType,
                buf: &mut impl ::prost::bytes::Buf,
                ctx: ::prost::encoding::DecodeContext,
            ) -> ::core::result::Result<(), ::prost::DecodeError> {
                match tag {
                    $($tag => {
                        let merged = message!(@merge wire_type, self.$field, buf, ctx, $kind $($label)?);
                        merged.map_err(|mut error| {
                            error.push(stringify!($name), stringify!($field));
                            error
                        })
                    })*
                    _ => ::prost::encoding::skip_field(wire_type, tag, buf, ctx),
                }
            }

            #[inline]
            fn encoded_len(&self) -> usize {
                0 $(+ message!(@bytes $tag, self.$field, $kind $($label)?))*
            }

            fn clear(&mut self) {
                *self = Self::default();
            }
        }

        #[allow(unused_variables, reason = "a message without lists has nothing to count")]
        impl crate::count::Count for $name {
            fn count_field(
                tag: u32,
                wire_type: ::prost::encoding::wire_type::WireType,
                buf: &mut &[u8],
                left: &mut crate::count::Left,
            ) -> ::core::result::Result<(), crate::count::Stop> {
                match tag {
                    $($tag => message!(@count $name.$field, tag, wire_type, buf, left, $kind $($label)?),)*
                    _ => crate::count::other(tag, wire_type, buf),
                }
            }
        }
    };

    (@count $name:ident.$field:ident, $tag:ident, $wire_type:ident, $buf:ident, $left:ident, message optional) => {
        crate::count::within_optional(|m: &$name| &m.$field, $wire_type, $buf, $left)
    };
    (@count $name:ident.$field:ident, $tag:ident, $wire_type:ident, $buf:ident, $left:ident, message repeated) => {
        crate::count::within_each(|m: &$name| &m.$field, $wire_type, $buf, $left)
    };
    (@count $name:ident.$field:ident, $tag:ident, $wire_type:ident, $buf:ident, $left:ident, $kind:ident packed) => {
        crate::count::packed($tag, $wire_type, $buf, $left)
    };
    (@count $name:ident.$field:ident, $tag:ident, $wire_type:ident, $buf:ident, $left:ident, $kind:ident repeated) => {
        crate::count::each($wire_type, $buf, $left)
    };
    (@count $name:ident.$field:ident, $tag:ident, $wire_type:ident, $buf:ident, $left:ident,
        $kind:ident $($label:ident)?) => {
        crate::count::other($tag, $wire_type, $buf)
    };

    (@encode $tag:literal, $value:expr, $buf:ident, $kind:ident) => {
        if !crate::message::Plain::is_default(&$value) {
            ::prost::encoding::$kind::encode($tag, &$value, $buf);
        }
    };
    (@encode $tag:literal, $value:expr, $buf:ident, $kind:ident optional) => {
        if let Some(value) = &$value {
            ::prost::encoding::$kind::encode($tag, value, $buf);
        }
    };
    (@encode $tag:literal, $value:expr, $buf:ident, $kind:ident repeated) => {
        ::prost::encoding::$kind::encode_repeated($tag, &$value, $buf)
    };
    (@encode $tag:literal, $value:expr, $buf:ident, $kind:ident packed) => {
        ::prost::encoding::$kind::encode_packed($tag, &$value, $buf)
    };

    (@merge $wire_type:ident, $value:expr, $buf:ident, $ctx:ident, $kind:ident) => {
        ::prost::encoding::$kind::merge($wire_type, &mut $value, $buf, $ctx)
    };
    (@merge $wire_type:ident, $value:expr, $buf:ident, $ctx:ident, $kind:ident optional) => {
        ::prost::encoding::$kind::merge($wire_type, $value.get_or_insert_default(), $buf, $ctx)
    };
    // Both, because a reader takes numbers that are packed and ones that are not.
    (@merge $wire_type:ident, $value:expr, $buf:ident, $ctx:ident, $kind:ident $many:ident) => {
        ::prost::encoding::$kind::merge_repeated($wire_type, &mut $value, $buf, $ctx)
    };

    (@bytes $tag:literal, $value:expr, $kind:ident) => {
        match crate::message::Plain::is_default(&$value) {
            true => 0,
            false => ::prost::encoding::$kind::encoded_len($tag, &$value),
        }
    };
    (@bytes $tag:literal, $value:expr, $kind:ident optional) => {
        $value.as_ref().map_or(0, |value| ::prost::encoding::$kind::encoded_len($tag, value))
    };
    (@bytes $tag:literal, $value:expr, $kind:ident repeated) => {
        ::prost::encoding::$kind::encoded_len_repeated($tag, &$value)
    };
    (@bytes $tag:literal, $value:expr, $kind:ident packed) => {
        ::prost::encoding::$kind::encoded_len_packed($tag, &$value)
    };
}
