//! The pages that a vCPU shares with the CPU's APIC virtualisation.

use crate::mem::{HostFrame, OutOfFrames, Owner};
use alloc::sync::Arc;
use lamina_core::device::lapic::ApicPage;
use lamina_core::memory::HostPhysAddr;

/// The virtual-APIC page: the local APIC's registers, which the CPU itself reads and writes while the guest runs where it
/// virtualises the APIC (SDM volume 3, "APIC Virtualization and Virtual Interrupts"). Shared between the vCPU, whose
/// VMCS holds its address, and the model of the local APIC.
#[derive(Clone, Debug)]
pub struct VirtualApicPage {
    page: Arc<HostFrame>,
}

impl VirtualApicPage {
    /// A zeroed page.
    ///
    /// # Errors
    /// [`OutOfFrames`].
    pub fn new(owner: Owner) -> Result<Self, OutOfFrames> {
        Ok(Self { page: Arc::new(HostFrame::new(owner)?) })
    }

    /// Its host-physical address, for the VMCS.
    pub(super) fn address(&self) -> HostPhysAddr {
        self.page.address()
    }
}

impl ApicPage for VirtualApicPage {
    fn read(&self, offset: u16) -> u32 {
        self.page.read_u32(usize::from(offset))
    }

    fn write(&mut self, offset: u16, value: u32) {
        self.page.store_u32(usize::from(offset), value);
    }
}
