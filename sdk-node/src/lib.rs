//! thalweg-node
