//! ept.
