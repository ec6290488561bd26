//! The demand-based allocator: who may hold how much of the machine's CPUs and memory.
//!
//! [`Allocator`] decides; it knows VMs by number, memory in bytes (whole frames) and CPU in percent of one CPU, nothing
//! else. The kernel carries out: it backs pages on touch, tells balloons their targets, pauses and resumes VMs.
//!
//! # Reservations
//! A VM holds its reservation from [`Allocator::request`] until [`Allocator::remove`], running or not: what was granted
//! can be started. Requests are all or nothing, `R_allocated = R_requested x N_replicas`, and a [`Refusal`] names the
//! figures and changes nothing. Of memory a VM holds, together with the host's tables for it,
//!
//! ```text
//! claim    = max(target, populated) + overhead        min <= target <= max
//! reserved = claim - owed
//! sum of reserved <= memory x overcommit
//! ```
//!
//! so that without overcommit a touch within the target never waits. `owed` is what others are still to give back (see
//! `priority` below); it is 0 for everybody else. Of the CPUs a VM holds what it asked to have reserved, which may be
//! nothing: then it shares by weight. `vcpus` may exceed the CPUs.
//!
//! # Growing and shrinking
//! [`Allocator::set_memory`] raises a target if the resources allow it. It lowers one at once if the VM's pages fit, or
//! else if its guest has a balloon: then the reservation falls as the pages come back. It is refused otherwise: no page
//! is ever taken from a guest by force. While its balloon is on the way up, a guest may touch pages beyond its new target
//! up to its old one, out of what nobody has reserved: paused, it could not give anything back.
//!
//! # Touch
//! [`Allocator::touch`] answers [`Touch::Back`], or [`Touch::Wait`] to a VM beyond its target and, under overcommit, to
//! one that finds no host memory. That VM is to be paused; the others go on. After anything that gives memory back,
//! [`Allocator::memory_came_back`] says who may go on, oldest first; what it was paused for is kept for it. A VM may have as
//! much backed without asking as [`Allocator::granted_bytes`] says, and is counted afterwards ([`Allocator::measured`]).
//! `touch` and `measured` allocate nothing.
//!
//! # What the caller owes
//! - VMs are counted ([`Allocator::measured`]) before anything is decided, and the memory the host has free is told truly.
//! - A VM is started only if [`Allocator::may_start`] allows it; [`Allocator::ended`] follows when its frames are free.
//! - Each [`TargetChange`] is told to the guest's balloon, which is to hold `max - target`. What the guest takes out of
//!   its memory is reported by [`Allocator::ballooned`], and the frames freed by that with the next count.
//! - [`Allocator::memory_came_back`] follows whatever may have given memory back: a VM stopped, destroyed or made smaller,
//!   a target raised, frames released, a rebalance.
//! - To a guest without a balloon its maximum is all RAM: it knows nothing of a target below, and waits when it gets there.
//!
//! # Strategies
//! - `need`: what fits into the unreserved is granted, the rest refused.
//! - `priority`: as `need`, but what lacks is taken back from VMs of lower priority, the lowest first, down to their
//!   minimum (to what is populated, where the guest has no balloon). What a balloon is still to deliver is *owed*: the
//!   new VM holds its place, and [`Allocator::may_start`] says when all of it is there. Reserved CPU is not taken back.
//! - `utilization`: a request is decided as by `need`; [`Allocator::rebalance`] moves targets after measured use (the
//!   formula is in `strategies/utilization.rs`).
//! - `capacity`: a request is granted if the minima fit, and what is left is shared out by weight (the formula is in
//!   `strategies/capacity.rs`).
//!
//! What was taken back is not returned by itself under `priority`; raise the target when there is memory again. Switching the strategy changes nothing by itself; the next request or [`Allocator::rebalance`] follows it.

mod admission;
mod allocator;
mod memory;
mod refusal;
mod request;
mod row;
mod share;
mod strategies;
mod strategy;
#[cfg(test)]
mod tests;
mod touch;
mod units;
mod view;

pub use allocator::Allocator;
pub use memory::MemoryChange;
pub use refusal::{Holder, Refusal, Shortage};
pub use request::{Grant, Grants, Request, TargetChange};
pub use strategies::{REBALANCE_PERIOD_US, Sample};
pub use strategy::Strategy;
pub use touch::{Back, Touch, WaitReason, WaitingVm};
pub use units::{Capacity, Overcommit, Size};
pub use view::{ResourcesView, UsageView, VmResourcesView};
