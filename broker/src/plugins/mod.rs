//! Plugins' modules: kept, compiled and run. Who asks for them, and where another copy comes from, is left to the
//! service.

pub(crate) mod modules;
pub(crate) mod runtime;
