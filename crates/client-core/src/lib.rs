//! thalweg-client-core
