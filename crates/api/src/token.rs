//! Where a listing goes on. What comes in pages, and how they are put together, is in `page.rs`.

use bytes::Bytes;

/// Where a listing goes on. Of no meaning to who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageToken(pub Bytes);
