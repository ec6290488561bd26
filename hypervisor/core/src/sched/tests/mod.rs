//! Tests of the scheduler: a machine whose guests are scripts, run for long, and what must hold all the while.

mod bounds;
mod contract;
mod cost;
mod fair;
mod machine;
mod random;
