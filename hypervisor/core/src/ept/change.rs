//! What a change of an EPT answers: what must follow on the CPUs, or why nothing was changed.

use super::PageSize;
use crate::memory::{Frame, GuestPhysAddr, OutOfFrames};
use thiserror::Error;

/// What a CPU's cached translations need after a change, before the guest runs again.
///
/// Source: Intel SDM volume 3, "Caching Translation Information", "Guidelines for Use of the INVEPT Instruction".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Invalidation {
    /// Nothing: an entry that was not present is never cached, and rights that only grew give at worst one EPT violation
    /// more, which drops the stale translation by itself.
    None,
    /// INVEPT, type "single-context", on every CPU that ran the VM.
    SingleContext,
}

/// Why a page was not mapped. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum MapError {
    /// The guest-physical page or the host frame cannot be named by an entry of this size.
    #[error("guest-physical {gpa} and host frame {:#x} must be aligned to {size} and in reach of a 4-level EPT", .frame.0)]
    BadAddress {
        /// The guest-physical address.
        gpa: GuestPhysAddr,
        /// The host frame.
        frame: Frame,
        /// The page size.
        size: PageSize,
    },
    /// The CPU has no pages of this size.
    #[error("this CPU's EPT has no {size} pages")]
    UnsupportedSize {
        /// The page size.
        size: PageSize,
    },
    /// A page is mapped there; or pages of a smaller size are, or were (their table stays). Try the next smaller size.
    #[error("guest-physical {gpa} is mapped already, or was with smaller pages")]
    AlreadyMapped {
        /// The guest-physical address.
        gpa: GuestPhysAddr,
    },
    /// No memory for a table.
    #[error("no memory for an EPT paging structure: {0}")]
    OutOfFrames(#[from] OutOfFrames),
}

/// A page that is no longer mapped, and whose frames may be freed once the caches are invalidated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Unmapped {
    /// The first guest-physical address of the page.
    pub gpa: GuestPhysAddr,
    /// The first frame of the page.
    pub frame: Frame,
    /// The size of the page.
    pub size: PageSize,
    /// What to do before the frames are used for anything else.
    pub invalidation: Invalidation,
}

/// The accessed and dirty flags of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AccessedDirty {
    /// The guest has read, written or executed the page since the flag was last cleared.
    pub accessed: bool,
    /// The guest has written to the page.
    pub dirty: bool,
    /// What must follow for the CPU to set the cleared flags again.
    pub invalidation: Invalidation,
}
