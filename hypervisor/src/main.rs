//! The Lamina kernel.
fn main() {}
