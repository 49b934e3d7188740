//! thalweg-python
