//! The bus between the local APICs of a VM, and what waits on it for a vCPU.
//!
//! A local APIC's registers belong to the vCPU that uses them: while it runs, the CPU itself may be changing them in the
//! virtual-APIC page. So a message is put into the receiver's [`Inbox`], and the receiver takes it into its registers before
//! its next VM entry ([`ApicBus::collect`]). Who sends learns from [`ApicBus::send`] whom to wake or to interrupt.

use super::{ApicMessage, DeliveryMode, LocalApic, lowest_priority};
use alloc::vec::Vec;

/// vCPUs of one VM, one bit for each index. A VM has at most 64.
pub type VcpuMask = u64;

/// The most vCPUs of a VM.
pub const VCPUS_MAX: usize = 64;

/// What was sent to a local APIC and is not in its registers yet.
#[derive(Clone, Copy, Default, Debug)]
struct Inbox {
    waiting: bool,
    /// Requested vectors, a bit for each, and those of them that are level-triggered.
    vectors: [u64; 4],
    level: [u64; 4],
    nmi: bool,
    init: bool,
    sipi: Option<u8>,
    extint: bool,
}

impl Inbox {
    fn put(&mut self, message: &ApicMessage) {
        self.waiting = true;
        match message.delivery {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                let bit = 1 << (message.vector % 64);
                let word = usize::from(message.vector / 64);
                if let Some(vectors) = self.vectors.get_mut(word) {
                    *vectors |= bit;
                }
                if let Some(level) = self.level.get_mut(word) {
                    // The latest says how: as the TMR is written at each acceptance.
                    *level = if message.level { *level | bit } else { *level & !bit };
                }
            }
            DeliveryMode::Nmi => self.nmi = true,
            DeliveryMode::Init => {
                // What was sent before it meets a processor that INIT has reset.
                *self = Self { waiting: true, init: true, ..Self::default() };
            }
            DeliveryMode::StartUp => self.sipi = Some(message.vector),
            DeliveryMode::ExtInt => self.extint = true,
            DeliveryMode::Smi => {}
        }
    }
}

/// The local APICs of a VM, by vCPU index.
pub struct ApicBus {
    apics: Vec<LocalApic>,
    inboxes: Vec<Inbox>,
}

impl ApicBus {
    /// A bus between these local APICs: that of vCPU 0 first.
    #[must_use]
    pub fn new(apics: Vec<LocalApic>) -> Self {
        let inboxes = apics.iter().map(|_| Inbox::default()).collect();
        Self { apics, inboxes }
    }

    /// The local APIC of this vCPU, which is the caller's.
    pub fn local(&mut self, index: usize) -> Option<&mut LocalApic> {
        self.apics.get_mut(index)
    }

    /// Every local APIC, by vCPU index. Registers that the CPU keeps may be changing.
    #[must_use]
    pub fn all(&self) -> &[LocalApic] {
        &self.apics
    }

    /// Sends a message to every local APIC that it is for. Answers with their vCPUs: each is to look at its inbox.
    pub fn send(&mut self, message: &ApicMessage) -> VcpuMask {
        let mut matching = self.apics.iter().enumerate().filter(|(_, apic)| apic.matches(message));
        if message.delivery == DeliveryMode::LowestPriority {
            return lowest_priority(matching).map_or(0, |index| self.put(index, message));
        }
        // Nearly every message is for one.
        let Some((first, _)) = matching.next() else { return 0 };
        if matching.next().is_none() {
            return self.put(first, message);
        }
        let mut told = 0;
        for index in 0..self.apics.len() {
            if self.apics.get(index).is_some_and(|apic| apic.matches(message)) {
                told |= self.put(index, message);
            }
        }
        told
    }

    fn put(&mut self, index: usize, message: &ApicMessage) -> VcpuMask {
        let Some(inbox) = self.inboxes.get_mut(index) else { return 0 };
        inbox.put(message);
        1 << (index % VCPUS_MAX)
    }

    /// Takes what waits for this vCPU into its local APIC: to be called by the vCPU alone. Whether there was anything.
    pub fn collect(&mut self, index: usize) -> bool {
        let (Some(inbox), Some(apic)) = (self.inboxes.get_mut(index), self.apics.get_mut(index)) else { return false };
        if !inbox.waiting {
            return false;
        }
        let Inbox { vectors, level, nmi, init, sipi, extint, .. } = core::mem::take(inbox);
        apic.init |= init;
        apic.sipi = if init { sipi } else { sipi.or(apic.sipi) };
        apic.nmi |= nmi;
        apic.extint |= extint;
        for (word, (mut bits, level)) in (0_u8..).zip(vectors.into_iter().zip(level)) {
            while bits != 0 {
                let bit = bits.trailing_zeros();
                bits &= bits - 1;
                // Both are below 256 by their types' sizes: 4 words of 64 bits.
                let vector = word.wrapping_mul(64).wrapping_add(bit.to_le_bytes()[0]);
                apic.accept_vector(vector, level & 1 << bit != 0);
            }
        }
        true
    }
}
