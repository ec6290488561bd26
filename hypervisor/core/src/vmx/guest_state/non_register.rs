//! "Checks on Guest Non-Register State" and "Checks on Guest Page-Directory-Pointer-Table Entries".

use super::{CR0_PG, CR4_PAE, Checker, EXTERNAL_INTERRUPT, Injection, RFLAGS_IF};
use crate::vmx::GuestField;

const RFLAGS_TF: u64 = 1 << 8;
const DEBUGCTL_BTF: u64 = 1 << 1;
const BLOCKING_BY_STI: u64 = 1 << 0;
const BLOCKING_BY_MOV_SS: u64 = 1 << 1;
const BLOCKING_BY_SMI: u64 = 1 << 2;
const BLOCKING_BY_NMI: u64 = 1 << 3;

const ACTIVE: u64 = 0;
const HLT: u64 = 1;
const SHUTDOWN: u64 = 2;
const WAIT_FOR_SIPI: u64 = 3;

/// Pending debug exceptions: B3 to B0, the enabled-breakpoint bit, BS and RTM.
const PENDING_DEFINED: u64 = 0xf | 1 << 12 | PENDING_BS | PENDING_RTM;
const PENDING_BS: u64 = 1 << 14;
const PENDING_RTM: u64 = 1 << 16;

const NMI: u32 = 2;
const HARDWARE_EXCEPTION: u32 = 3;
/// "Other event", vector 0: a pending monitor-trap-flag exit.
const OTHER_EVENT: u32 = 7;

impl Checker<'_> {
    pub(super) fn activity(&mut self) {
        const FIELD: GuestField = GuestField::ActivityState;
        let activity = self.read(FIELD);
        let capabilities = &self.context.capabilities;
        let supported = match activity {
            ACTIVE => true,
            HLT => capabilities.has_hlt_activity(),
            SHUTDOWN => capabilities.has_shutdown_activity(),
            WAIT_FOR_SIPI => capabilities.has_wait_for_sipi_activity(),
            _ => false,
        };
        self.require(supported, FIELD, "the state must be 0 (active), or 1 to 3 as IA32_VMX_MISC[8:6] has it");
        let ss_dpl = self.read(GuestField::SsAccessRights) >> 5 & 3;
        self.require(activity != HLT || ss_dpl == 0, FIELD, "the state must not be 1 (HLT) if the DPL of SS is not 0");
        let blocked = !self.clear(GuestField::InterruptibilityState, BLOCKING_BY_STI | BLOCKING_BY_MOV_SS);
        self.require(
            activity == ACTIVE || !blocked,
            FIELD,
            "the state must be 0 (active) with blocking by STI or by MOV SS",
        );
        if let Some(Injection { kind, vector }) = self.injection() {
            let machine_check = kind == HARDWARE_EXCEPTION && vector == 18;
            let allowed = match activity {
                HLT => {
                    matches!(kind, EXTERNAL_INTERRUPT | NMI)
                        || kind == HARDWARE_EXCEPTION && matches!(vector, 1 | 18)
                        || kind == OTHER_EVENT && vector == 0
                }
                SHUTDOWN => kind == NMI || machine_check,
                WAIT_FOR_SIPI => false,
                _ => true,
            };
            self.require(allowed, FIELD, "the event to be injected would be blocked in this state");
        }
    }

    pub(super) fn interruptibility(&mut self) {
        const FIELD: GuestField = GuestField::InterruptibilityState;
        let state = self.read(FIELD);
        let defined = BLOCKING_BY_STI | BLOCKING_BY_MOV_SS | BLOCKING_BY_SMI | BLOCKING_BY_NMI;
        self.require(state & !defined == 0, FIELD, "bits 31:4 must be 0 (bit 4, enclave interruption, without SGX)");
        self.require(
            state & (BLOCKING_BY_STI | BLOCKING_BY_MOV_SS) != BLOCKING_BY_STI | BLOCKING_BY_MOV_SS,
            FIELD,
            "bit 0 (blocking by STI) and bit 1 (blocking by MOV SS) must not both be 1",
        );
        self.require(
            state & BLOCKING_BY_STI == 0 || self.set(GuestField::Rflags, RFLAGS_IF),
            FIELD,
            "bit 0 (blocking by STI) must be 0 if RFLAGS.IF is 0",
        );
        self.require(state & BLOCKING_BY_SMI == 0, FIELD, "bit 2 (blocking by SMI) must be 0 outside SMM");
        match self.injection().map(|event| event.kind) {
            Some(EXTERNAL_INTERRUPT) => self.require(
                state & (BLOCKING_BY_STI | BLOCKING_BY_MOV_SS) == 0,
                FIELD,
                "bit 0 (blocking by STI) and bit 1 (blocking by MOV SS) must be 0 when an external interrupt is injected",
            ),
            Some(NMI) => {
                self.require(
                    state & (BLOCKING_BY_STI | BLOCKING_BY_MOV_SS) == 0,
                    FIELD,
                    "bit 1 (blocking by MOV SS), and on some CPUs bit 0 (by STI), must be 0 when an NMI is injected",
                );
                self.require(
                    state & BLOCKING_BY_NMI == 0 || !self.context.virtual_nmis,
                    FIELD,
                    "bit 3 (blocking by NMI) must be 0 when an NMI is injected with virtual NMIs",
                );
            }
            _ => {}
        }
    }

    pub(super) fn pending_debug_exceptions(&mut self) {
        const FIELD: GuestField = GuestField::PendingDebugExceptions;
        let pending = self.read(FIELD);
        self.require(pending & !PENDING_DEFINED == 0, FIELD, "bits 11:4, 13, 15 and 63:17 must be 0");
        let blocked = !self.clear(GuestField::InterruptibilityState, BLOCKING_BY_STI | BLOCKING_BY_MOV_SS);
        if blocked || self.read(GuestField::ActivityState) == HLT {
            let single_step =
                self.set(GuestField::Rflags, RFLAGS_TF) && self.clear(GuestField::Ia32Debugctl, DEBUGCTL_BTF);
            self.require(
                (pending & PENDING_BS != 0) == single_step,
                FIELD,
                "bit 14 (BS), with blocking by STI or MOV SS or in HLT, must be 1 just if RFLAGS.TF = 1 and \
                 IA32_DEBUGCTL.BTF = 0",
            );
        }
        if pending & PENDING_RTM != 0 {
            self.require(
                pending & PENDING_DEFINED == PENDING_RTM | 1 << 12
                    && self.clear(GuestField::InterruptibilityState, BLOCKING_BY_MOV_SS),
                FIELD,
                "with bit 16 (RTM), bit 12 must be 1, all others 0, and there must be no blocking by MOV SS",
            );
        }
    }

    pub(super) fn link_pointer(&mut self) {
        const FIELD: GuestField = GuestField::VmcsLinkPointer;
        let pointer = self.read(FIELD);
        let address = pointer & 0xfff == 0 && pointer & self.beyond_physical() == 0;
        self.require(
            pointer == u64::MAX || address,
            FIELD,
            "it must be FFFFFFFF_FFFFFFFFH, or the address of a VMCS: 4 KiB aligned, within the physical-address width",
        );
    }

    /// "If EPT is enabled, the PDPTEs are checked as they are in the VMCS", for a guest with PAE paging.
    pub(super) fn pdptes(&mut self) {
        let pae = self.set(GuestField::Cr0, CR0_PG) && self.set(GuestField::Cr4, CR4_PAE) && !self.long_mode();
        if !pae || !self.context.ept {
            return;
        }
        let reserved = self.beyond_physical() | 0b1_1110_0110;
        for field in [GuestField::Pdpte0, GuestField::Pdpte1, GuestField::Pdpte2, GuestField::Pdpte3] {
            let ok = self.clear(field, 1) || self.clear(field, reserved);
            self.require(ok, field, "reserved bits of a present PDPTE must be 0");
        }
    }
}
