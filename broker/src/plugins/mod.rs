//! Plugins' modules, apart from who asks for them.

pub(crate) mod modules;
