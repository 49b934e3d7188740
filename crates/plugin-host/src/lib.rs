//! thalweg-plugin-host
