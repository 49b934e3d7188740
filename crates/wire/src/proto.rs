//! The protobuf messages, as prost makes them from `thalweg.proto` but for its derived `Message`; the test `generated`
//! makes them. What they mean is left to `codec`.

include!("thalweg.rs");
