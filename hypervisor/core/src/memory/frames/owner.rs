//! Who can hold a host frame.

use core::fmt;

/// What a VM holds a frame for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u16)]
pub enum FrameKind {
    /// The guest's memory.
    Ram = 0,
    /// The VM's EPT paging structures.
    Ept = 1,
    /// A vCPU's VMCS, virtual-APIC page, bitmaps, XSAVE area.
    Vcpu = 2,
}

impl FrameKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Ram, Self::Ept, Self::Vcpu];
}

/// The holder of a host frame, as one number: what the frame table keeps for every frame of the machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Owner(u16);

/// The first number that stands for a VM; the ones below are the hypervisor's own.
const FIRST_VM: u16 = 16;
/// Numbers per VM slot: the kinds, rounded up.
const PER_VM: u16 = 4;

impl Owner {
    /// Nobody: the frame can be allocated.
    pub const FREE: Self = Self(0);
    /// Not ours to give: no RAM, firmware, kernel image, ramdisk, memory below 1 MiB.
    pub const RESERVED: Self = Self(1);
    /// The hypervisor's heap.
    pub const HEAP: Self = Self(2);
    /// The hypervisor's own pages outside the heap: page tables, stacks, VMXON regions.
    pub const HOST: Self = Self(3);

    /// How many VM slots there are numbers for: slots 0 to `VM_SLOTS - 1`.
    pub const VM_SLOTS: u16 = (u16::MAX - FIRST_VM) / PER_VM;

    /// So many numbers, from a multiple of it on, are one VM's.
    pub(super) const NUMBERS_PER_VM: usize = PER_VM as usize;

    /// The VM in `slot`, holding frames of this kind.
    ///
    /// # Panics
    /// If `slot` is not below [`Owner::VM_SLOTS`]: two VMs would share one account.
    #[must_use]
    pub const fn vm(slot: u16, kind: FrameKind) -> Self {
        assert!(slot < Self::VM_SLOTS, "no frame account for so many VM slots");
        Self(FIRST_VM + slot * PER_VM + kind as u16)
    }

    /// The owner with this number in the frame table.
    pub(super) const fn from_number(number: u16) -> Self {
        Self(number)
    }

    /// The number that the frame table keeps.
    pub(super) const fn number(self) -> u16 {
        self.0
    }

    /// Whether frames can be allocated for this owner.
    pub(super) const fn can_hold(self) -> bool {
        self.0 > Self::RESERVED.0
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::FREE => f.write_str("nobody (free)"),
            Self::RESERVED => f.write_str("nobody (reserved)"),
            Self::HEAP => f.write_str("the heap"),
            Self::HOST => f.write_str("the hypervisor"),
            Self(number) => {
                let slot = number.saturating_sub(FIRST_VM) / PER_VM;
                let kind = match number % PER_VM {
                    0 => "RAM",
                    1 => "EPT",
                    _ => "vCPU",
                };
                write!(f, "VM slot {slot} ({kind})")
            }
        }
    }
}
