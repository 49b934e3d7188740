//! Write Thalweg plugins in Rust.
//!
//! Implement [`Filter`] or [`Partitioner`], name the type in [`filter!`] or [`partitioner!`], build a `cdylib` for
//! `wasm32-unknown-unknown`, and upload it: the broker makes a component of it. The contract is `wit/plugin.wit`; this
//! crate is its canonical ABI by hand, because bare functions over lists need no generator and no dependency.

mod json;
mod murmur2;

pub use json::{Scalar, top_level};
pub use murmur2::murmur2;

/// A record as a plugin sees it.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    headers: &'a [u8],
}

impl<'a> Record<'a> {
    /// The headers in order.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> {
        let (count, mut rest) = match self.headers.split_first_chunk::<4>() {
            Some((count, rest)) => (u32::from_le_bytes(*count), rest),
            None => (0, self.headers),
        };
        let mut number = move || -> Option<(u32, &'a [u8])> {
            let (head, tail) = rest.split_first_chunk::<4>()?;
            let n = u32::from_le_bytes(*head);
            let (bytes, tail) = if n == NONE { (&tail[..0], tail) } else { tail.split_at(n as usize) };
            rest = tail;
            Some((n, bytes))
        };
        (0..count).map_while(move |_| {
            let (_, key) = number()?;
            let (length, value) = number()?;
            Some((core::str::from_utf8(key).ok()?, (length != NONE).then_some(value)))
        })
    }
}

/// A filter's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not for this consumer.
    Drop = 0,
    /// For this consumer.
    Keep = 1,
    /// The record cannot be judged.
    Failed = 2,
}

/// Chooses a consumer's records. Any instance may see any record, so an answer depends on nothing but it and the
/// config.
pub trait Filter: Sized {
    /// Reads the parameters; an error refuses them, in words for the user.
    fn init(config: &[u8]) -> Result<Self, String>;
    /// Judges one record.
    fn filter(&self, record: &Record<'_>) -> Verdict;
}

/// Chooses a record's partition. Every client runs it, so an answer depends on nothing but the record, the config and
/// the number of partitions. A panic fails the send.
pub trait Partitioner: Sized {
    /// Reads the parameters; an error refuses them, in words for the user.
    fn init(config: &[u8]) -> Result<Self, String>;
    /// The record's partition, below `partitions`.
    fn partition(&self, record: &Record<'_>, partitions: u32) -> u32;
}

/// Makes a [`Filter`] the module's export.
#[macro_export]
macro_rules! filter {
    ($type:ty) => {
        $crate::abi!($type, $crate::Filter);

        #[unsafe(no_mangle)]
        extern "C" fn filter(index: *mut u32, index_len: usize, data: *mut u8, data_len: usize) -> *const [usize; 2] {
            let plugin = PLUGIN.get().expect("init comes first");
            let (index, data) = unsafe { $crate::abi::lists(index, index_len, data, data_len) };
            let answer: Vec<u8> =
                $crate::abi::records(&index, &data).map(|r| $crate::Filter::filter(plugin, &r) as u8).collect();
            $crate::abi::give(answer)
        }

        #[unsafe(no_mangle)]
        extern "C" fn cabi_post_filter(answer: *const [usize; 2]) {
            unsafe { $crate::abi::take_back::<u8>(answer) }
        }
    };
}

/// Makes a [`Partitioner`] the module's export.
#[macro_export]
macro_rules! partitioner {
    ($type:ty) => {
        $crate::abi!($type, $crate::Partitioner);

        #[unsafe(no_mangle)]
        extern "C" fn partition(
            index: *mut u32,
            index_len: usize,
            data: *mut u8,
            data_len: usize,
            partitions: u32,
        ) -> *const [usize; 2] {
            let plugin = PLUGIN.get().expect("init comes first");
            let (index, data) = unsafe { $crate::abi::lists(index, index_len, data, data_len) };
            let place = |r| $crate::Partitioner::partition(plugin, &r, partitions);
            $crate::abi::give($crate::abi::records(&index, &data).map(place).collect::<Vec<u32>>())
        }

        #[unsafe(no_mangle)]
        extern "C" fn cabi_post_partition(answer: *const [usize; 2]) {
            unsafe { $crate::abi::take_back::<u32>(answer) }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! abi {
    ($type:ty, $trait:path) => {
        static PLUGIN: std::sync::OnceLock<$type> = std::sync::OnceLock::new();

        #[unsafe(no_mangle)]
        extern "C" fn init(config: *mut u8, len: usize) -> *const [usize; 3] {
            let config = unsafe { $crate::abi::list(config, len) };
            let made = <$type as $trait>::init(&config).map(|plugin| drop(PLUGIN.set(plugin)));
            $crate::abi::give_result(made)
        }

        #[unsafe(no_mangle)]
        extern "C" fn cabi_post_init(answer: *const [usize; 3]) {
            unsafe { $crate::abi::take_back_result(answer) }
        }

        #[unsafe(no_mangle)]
        extern "C" fn cabi_realloc(old: *mut u8, old_len: usize, align: usize, new_len: usize) -> *mut u8 {
            unsafe { $crate::abi::realloc(old, old_len, align, new_len) }
        }
    };
}

#[doc(hidden)]
pub mod abi {
    use std::alloc::{Layout, alloc, handle_alloc_error, realloc as grow};

    use super::{NONE, Record, STRIDE};

    /// # Safety
    /// `pointer` and `len` are a list that the host has just put into memory of `realloc`.
    pub unsafe fn list<T>(pointer: *mut T, len: usize) -> Vec<T> {
        match len {
            0 => Vec::new(),
            _ => unsafe { Vec::from_raw_parts(pointer, len, len) },
        }
    }

    /// # Safety
    /// As for `list`, twice.
    pub unsafe fn lists(index: *mut u32, index_len: usize, data: *mut u8, data_len: usize) -> (Vec<u32>, Vec<u8>) {
        unsafe { (list(index, index_len), list(data, data_len)) }
    }

    pub fn records<'a>(index: &'a [u32], data: &'a [u8]) -> impl Iterator<Item = Record<'a>> {
        let field = |offset: u32, len: u32| (len != NONE).then(|| &data[offset as usize..][..len as usize]);
        index.chunks_exact(STRIDE).map(move |n| Record {
            key: field(n[0], n[1]),
            value: field(n[2], n[3]),
            headers: field(n[4], n[5]).unwrap_or(&[]),
            timestamp_ms: (n[7] as i64) << 32 | n[6] as i64,
        })
    }

    pub fn give<T: 'static>(answer: Vec<T>) -> *const [usize; 2] {
        let answer: &'static mut [T] = Box::leak(answer.into_boxed_slice());
        Box::leak(Box::new([answer.as_ptr() as usize, answer.len()]))
    }

    /// # Safety
    /// `answer` is what `give::<T>` has given, and nobody uses it any more.
    pub unsafe fn take_back<T: 'static>(answer: *const [usize; 2]) {
        let [pointer, len] = *unsafe { Box::from_raw(answer.cast_mut()) };
        drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(pointer as *mut T, len)) });
    }

    /// `result<_, string>`: the discriminant, then the text's place.
    pub fn give_result(made: Result<(), String>) -> *const [usize; 3] {
        let parts = match made {
            Ok(()) => [0, 0, 0],
            Err(text) => {
                let text: &'static mut str = Box::leak(text.into_boxed_str());
                [1, text.as_ptr() as usize, text.len()]
            }
        };
        Box::leak(Box::new(parts))
    }

    /// # Safety
    /// As for `take_back`.
    pub unsafe fn take_back_result(answer: *const [usize; 3]) {
        let [failed, pointer, len] = *unsafe { Box::from_raw(answer.cast_mut()) };
        if failed == 1 {
            drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(pointer as *mut u8, len)) });
        }
    }

    /// # Safety
    /// The canonical ABI's `realloc`: `old` is null or was allocated here with this alignment and length.
    pub unsafe fn realloc(old: *mut u8, old_len: usize, align: usize, new_len: usize) -> *mut u8 {
        if new_len == 0 {
            return align as *mut u8;
        }
        let layout = Layout::from_size_align(new_len, align).expect("the host asks for sizes that exist");
        let made = match old_len {
            0 => unsafe { alloc(layout) },
            _ => unsafe { grow(old, Layout::from_size_align_unchecked(old_len, align), new_len) },
        };
        if made.is_null() {
            handle_alloc_error(layout);
        }
        made
    }
}

const STRIDE: usize = 8;
const NONE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_in_order() {
        let bytes =
            [&[2u8, 0, 0, 0, 1, 0, 0, 0, b'a', 0xff, 0xff, 0xff, 0xff][..], &[1, 0, 0, 0, b'b', 1, 0, 0, 0, b'x']]
                .concat();
        let record = Record { key: None, value: None, timestamp_ms: 0, headers: &bytes };
        assert_eq!(record.headers().collect::<Vec<_>>(), [("a", None), ("b", Some(&b"x"[..]))]);
        assert_eq!(Record { headers: &[], ..record }.headers().count(), 0);
    }
}
