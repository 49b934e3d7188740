//! Why a plugin cannot be used. What goes wrong in a single call is left to `guest`.

use thiserror::Error;

/// Why a plugin could not be used at all.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GuestError {
    /// The engine itself.
    #[error("the WebAssembly engine does not start: {0}")]
    Engine(String),
    /// It was admitted, yet does not compile here.
    #[error("plugin {plugin} does not compile: {reason}")]
    Compile {
        /// The plugin.
        plugin: String,
        /// The compiler's words.
        reason: String,
    },
    /// It does not start, or refuses its config.
    #[error("plugin {plugin} does not start: {reason}")]
    Init {
        /// The plugin.
        plugin: String,
        /// The trap, or what `init` answered.
        reason: String,
    },
}

impl GuestError {
    /// The plugin, and its reason.
    pub fn fault(&self) -> Option<(&str, &str)> {
        match self {
            GuestError::Engine(_) => None,
            GuestError::Compile { plugin, reason } | GuestError::Init { plugin, reason } => Some((plugin, reason)),
        }
    }
}
