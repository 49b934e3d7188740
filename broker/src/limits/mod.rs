//! What connections may have of this broker, and who was refused it. Whom that concerns, and what is charged, is left
//! to transport and to streams.

pub(crate) mod budget;
pub(crate) mod refusals;
pub(crate) mod windows;
