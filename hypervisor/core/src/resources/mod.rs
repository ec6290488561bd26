//! The demand-based allocator: who may hold how much of the machine's CPUs and memory.

mod strategy;

pub use strategy::Strategy;
