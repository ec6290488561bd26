//! Addresses as types, so that a guest's number is never taken for the host's.

use core::fmt;

/// Bytes in a page, and in a host page frame.
pub const PAGE_SIZE: u64 = 4096;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The address `bytes` further on, or `None` past the end of the address space.
            #[must_use]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(address) => Some(Self(address)),
                    None => None,
                }
            }

            /// The address rounded down to the start of its 4 KiB page.
            #[must_use]
            pub const fn page_base(self) -> Self {
                Self(self.0 & !(PAGE_SIZE - 1))
            }

            /// The byte within its 4 KiB page, 0 to 4095.
            #[must_use]
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address!(
    /// A guest-physical address: what EPT translates.
    GuestPhysAddr
);
address!(
    /// A linear address in a guest: what the guest's own page tables translate.
    GuestLinearAddr
);
address!(
    /// A host-physical address.
    HostPhysAddr
);

/// A 4 KiB host page frame, by number (host-physical address / 4096).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Frame(pub u64);

impl Frame {
    /// The frame that holds `address`.
    #[must_use]
    pub const fn containing(address: HostPhysAddr) -> Self {
        Self(address.0 / PAGE_SIZE)
    }

    /// The first byte of the frame.
    #[must_use]
    pub const fn base(self) -> HostPhysAddr {
        HostPhysAddr(self.0.wrapping_mul(PAGE_SIZE))
    }
}
