//! The VMX controls, and which of them Lamina sets on this CPU.
//!
//! Source: Intel SDM volume 3, "VM-Execution Control Fields", "VM-Exit Control Fields", "VM-Entry Control Fields", and
//! "Checks on VMX Controls" for what depends on what. [`resolve`] is the only place that decides about a control bit; the
//! hardware layer writes the [`ControlPlan`] into the VMCS and switches single bits where the plan's methods say so.

use super::capabilities::{AllowedSettings, Capabilities};
use alloc::vec::Vec;
use bitflags::bitflags;
use core::fmt;
use thiserror::Error;

macro_rules! controls {
    ($(#[$doc:meta])* $set:ident $field:literal { $($flag:ident $bit:literal $name:literal;)+ }) => {
        bitflags! {
            $(#[$doc])*
            #[derive(Clone, Copy, PartialEq, Eq, Debug)]
            pub struct $set: u32 {
                $(#[doc = concat!("Bit ", $bit, ": \"", $name, "\".")] const $flag = 1 << $bit;)+
            }
        }

        impl $set {
            /// The field and the names of its controls, in the manual's words.
            const NAMES: Names = Names { field: $field, controls: &[$(($bit, $name),)+] };
        }
    };
}

controls!(
    /// The pin-based VM-execution controls.
    PinBased "pin-based VM-execution controls" {
        EXTERNAL_INTERRUPT_EXITING 0 "external-interrupt exiting";
        NMI_EXITING 3 "NMI exiting";
        VIRTUAL_NMIS 5 "virtual NMIs";
        PREEMPTION_TIMER 6 "activate VMX-preemption timer";
        PROCESS_POSTED_INTERRUPTS 7 "process posted interrupts";
    }
);

controls!(
    /// The primary processor-based VM-execution controls.
    PrimaryProcBased "primary processor-based VM-execution controls" {
        INTERRUPT_WINDOW_EXITING 2 "interrupt-window exiting";
        USE_TSC_OFFSETTING 3 "use TSC offsetting";
        HLT_EXITING 7 "HLT exiting";
        INVLPG_EXITING 9 "INVLPG exiting";
        MWAIT_EXITING 10 "MWAIT exiting";
        RDPMC_EXITING 11 "RDPMC exiting";
        RDTSC_EXITING 12 "RDTSC exiting";
        CR3_LOAD_EXITING 15 "CR3-load exiting";
        CR3_STORE_EXITING 16 "CR3-store exiting";
        ACTIVATE_TERTIARY_CONTROLS 17 "activate tertiary controls";
        CR8_LOAD_EXITING 19 "CR8-load exiting";
        CR8_STORE_EXITING 20 "CR8-store exiting";
        USE_TPR_SHADOW 21 "use TPR shadow";
        NMI_WINDOW_EXITING 22 "NMI-window exiting";
        MOV_DR_EXITING 23 "MOV-DR exiting";
        UNCONDITIONAL_IO_EXITING 24 "unconditional I/O exiting";
        USE_IO_BITMAPS 25 "use I/O bitmaps";
        MONITOR_TRAP_FLAG 27 "monitor trap flag";
        USE_MSR_BITMAPS 28 "use MSR bitmaps";
        MONITOR_EXITING 29 "MONITOR exiting";
        PAUSE_EXITING 30 "PAUSE exiting";
        ACTIVATE_SECONDARY_CONTROLS 31 "activate secondary controls";
    }
);

controls!(
    /// The secondary processor-based VM-execution controls.
    SecondaryProcBased "secondary processor-based VM-execution controls" {
        VIRTUALIZE_APIC_ACCESSES 0 "virtualize APIC accesses";
        ENABLE_EPT 1 "enable EPT";
        DESCRIPTOR_TABLE_EXITING 2 "descriptor-table exiting";
        ENABLE_RDTSCP 3 "enable RDTSCP";
        VIRTUALIZE_X2APIC_MODE 4 "virtualize x2APIC mode";
        ENABLE_VPID 5 "enable VPID";
        WBINVD_EXITING 6 "WBINVD exiting";
        UNRESTRICTED_GUEST 7 "unrestricted guest";
        APIC_REGISTER_VIRTUALIZATION 8 "APIC-register virtualization";
        VIRTUAL_INTERRUPT_DELIVERY 9 "virtual-interrupt delivery";
        PAUSE_LOOP_EXITING 10 "PAUSE-loop exiting";
        RDRAND_EXITING 11 "RDRAND exiting";
        ENABLE_INVPCID 12 "enable INVPCID";
        ENABLE_VM_FUNCTIONS 13 "enable VM functions";
        VMCS_SHADOWING 14 "VMCS shadowing";
        ENABLE_ENCLS_EXITING 15 "enable ENCLS exiting";
        RDSEED_EXITING 16 "RDSEED exiting";
        ENABLE_PML 17 "enable PML";
        EPT_VIOLATION_VE 18 "EPT-violation #VE";
        CONCEAL_VMX_FROM_PT 19 "conceal VMX from PT";
        ENABLE_XSAVES_XRSTORS 20 "enable XSAVES/XRSTORS";
        PASID_TRANSLATION 21 "PASID translation";
        MODE_BASED_EXECUTE_CONTROL 22 "mode-based execute control for EPT";
        SUB_PAGE_WRITE_PERMISSIONS 23 "sub-page write permissions for EPT";
        PT_USES_GUEST_PHYSICAL 24 "Intel PT uses guest physical addresses";
        USE_TSC_SCALING 25 "use TSC scaling";
        ENABLE_USER_WAIT_AND_PAUSE 26 "enable user wait and pause";
        ENABLE_PCONFIG 27 "enable PCONFIG";
        ENABLE_ENCLV_EXITING 28 "enable ENCLV exiting";
        BUS_LOCK_DETECTION 30 "VMM bus-lock detection";
        INSTRUCTION_TIMEOUT 31 "instruction timeout";
    }
);

controls!(
    /// The primary VM-exit controls.
    ExitControls "VM-exit controls" {
        SAVE_DEBUG_CONTROLS 2 "save debug controls";
        HOST_ADDRESS_SPACE_SIZE 9 "host address-space size";
        LOAD_PERF_GLOBAL_CTRL 12 "load IA32_PERF_GLOBAL_CTRL";
        ACKNOWLEDGE_INTERRUPT_ON_EXIT 15 "acknowledge interrupt on exit";
        SAVE_PAT 18 "save IA32_PAT";
        LOAD_PAT 19 "load IA32_PAT";
        SAVE_EFER 20 "save IA32_EFER";
        LOAD_EFER 21 "load IA32_EFER";
        SAVE_PREEMPTION_TIMER 22 "save VMX-preemption timer value";
        CLEAR_BNDCFGS 23 "clear IA32_BNDCFGS";
        CONCEAL_VMX_FROM_PT 24 "conceal VMX from PT";
        CLEAR_RTIT_CTL 25 "clear IA32_RTIT_CTL";
        CLEAR_LBR_CTL 26 "clear IA32_LBR_CTL";
        CLEAR_UINV 27 "clear UINV";
        LOAD_CET_STATE 28 "load CET state";
        LOAD_PKRS 29 "load PKRS";
        SAVE_PERF_GLOBAL_CTRL 30 "save IA32_PERF_GLOBAL_CTRL";
        ACTIVATE_SECONDARY_CONTROLS 31 "activate secondary controls";
    }
);

controls!(
    /// The VM-entry controls.
    EntryControls "VM-entry controls" {
        LOAD_DEBUG_CONTROLS 2 "load debug controls";
        IA32E_MODE_GUEST 9 "IA-32e mode guest";
        ENTRY_TO_SMM 10 "entry to SMM";
        DEACTIVATE_DUAL_MONITOR 11 "deactivate dual-monitor treatment";
        LOAD_PERF_GLOBAL_CTRL 13 "load IA32_PERF_GLOBAL_CTRL";
        LOAD_PAT 14 "load IA32_PAT";
        LOAD_EFER 15 "load IA32_EFER";
        LOAD_BNDCFGS 16 "load IA32_BNDCFGS";
        CONCEAL_VMX_FROM_PT 17 "conceal VMX from PT";
        LOAD_RTIT_CTL 18 "load IA32_RTIT_CTL";
        LOAD_UINV 19 "load UINV";
        LOAD_CET_STATE 20 "load CET state";
        LOAD_LBR_CTL 21 "load guest IA32_LBR_CTL";
        LOAD_PKRS 22 "load PKRS";
    }
);

/// The names of a field's controls.
struct Names {
    field: &'static str,
    controls: &'static [(u8, &'static str)],
}

/// A value for each control field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "each field is the set of its type's name")]
pub struct Controls {
    pub pin_based: PinBased,
    pub primary: PrimaryProcBased,
    pub secondary: SecondaryProcBased,
    pub exit: ExitControls,
    pub entry: EntryControls,
}

/// What Lamina cannot do without.
pub const REQUIRED: Controls = Controls {
    pin_based: PinBased::EXTERNAL_INTERRUPT_EXITING
        .union(PinBased::NMI_EXITING)
        .union(PinBased::VIRTUAL_NMIS)
        .union(PinBased::PREEMPTION_TIMER),
    primary: PrimaryProcBased::HLT_EXITING
        .union(PrimaryProcBased::USE_TSC_OFFSETTING)
        .union(PrimaryProcBased::MWAIT_EXITING)
        .union(PrimaryProcBased::MONITOR_EXITING)
        .union(PrimaryProcBased::RDPMC_EXITING)
        .union(PrimaryProcBased::USE_IO_BITMAPS)
        .union(PrimaryProcBased::USE_MSR_BITMAPS)
        .union(PrimaryProcBased::ACTIVATE_SECONDARY_CONTROLS),
    secondary: SecondaryProcBased::ENABLE_EPT.union(SecondaryProcBased::UNRESTRICTED_GUEST),
    exit: ExitControls::SAVE_DEBUG_CONTROLS
        .union(ExitControls::HOST_ADDRESS_SPACE_SIZE)
        .union(ExitControls::ACKNOWLEDGE_INTERRUPT_ON_EXIT)
        .union(ExitControls::SAVE_PAT)
        .union(ExitControls::LOAD_PAT)
        .union(ExitControls::SAVE_EFER)
        .union(ExitControls::LOAD_EFER),
    entry: EntryControls::LOAD_DEBUG_CONTROLS.union(EntryControls::LOAD_PAT).union(EntryControls::LOAD_EFER),
};

/// What Lamina sets where the CPU has it.
pub const OPTIONAL: Controls = Controls {
    pin_based: PinBased::empty(),
    primary: PrimaryProcBased::USE_TPR_SHADOW,
    secondary: SecondaryProcBased::ENABLE_VPID
        .union(SecondaryProcBased::ENABLE_RDTSCP)
        .union(SecondaryProcBased::ENABLE_INVPCID)
        .union(SecondaryProcBased::WBINVD_EXITING)
        .union(SecondaryProcBased::PAUSE_LOOP_EXITING)
        .union(APIC_VIRTUALIZATION),
    exit: ExitControls::empty(),
    entry: EntryControls::empty(),
};

/// What is switched on and off while a guest runs, so that the CPU must allow both.
pub const SWITCHED: Controls = Controls {
    pin_based: PinBased::empty(),
    primary: PrimaryProcBased::INTERRUPT_WINDOW_EXITING.union(PrimaryProcBased::NMI_WINDOW_EXITING),
    secondary: SecondaryProcBased::empty(),
    exit: ExitControls::empty(),
    entry: EntryControls::IA32E_MODE_GUEST,
};

/// The controls by which the CPU virtualises the local APIC: of use all together only. The first two are set for good,
/// the last two exclude each other and follow the mode of the guest's APIC.
const APIC_VIRTUALIZATION: SecondaryProcBased = SecondaryProcBased::APIC_REGISTER_VIRTUALIZATION
    .union(SecondaryProcBased::VIRTUAL_INTERRUPT_DELIVERY)
    .union(APIC_ACCESS);
const APIC_ACCESS: SecondaryProcBased =
    SecondaryProcBased::VIRTUALIZE_APIC_ACCESSES.union(SecondaryProcBased::VIRTUALIZE_X2APIC_MODE);
/// In place of the TPR shadow, where there is none.
const CR8_EXITING: PrimaryProcBased = PrimaryProcBased::CR8_LOAD_EXITING.union(PrimaryProcBased::CR8_STORE_EXITING);

/// A control that the CPU does not allow as Lamina needs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnsupportedControl {
    /// The control field, in the manual's words.
    pub field: &'static str,
    /// The control, in the manual's words.
    pub name: &'static str,
    /// Its bit in the field.
    pub bit: u8,
    /// The setting that is needed and not allowed.
    pub needed: bool,
}

impl fmt::Display for UnsupportedControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, name, bit, needed } = self;
        write!(f, "\"{name}\" = {} (bit {bit} of the {field})", u8::from(*needed))
    }
}

/// The CPU does not allow all the controls that Lamina needs.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("this CPU's VMX does not allow {}", List(missing))]
pub struct Unsupported {
    /// Every control that is missing.
    pub missing: Vec<UnsupportedControl>,
}

struct List<'a>(&'a [UnsupportedControl]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, control) in self.0.iter().enumerate() {
            write!(f, "{}{control}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// Where a guest's local APIC is reached, when the CPU virtualises it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApicAccess {
    /// Nowhere: disabled in `IA32_APIC_BASE`.
    Disabled,
    /// In its page of guest-physical memory: xAPIC mode.
    Memory,
    /// By its MSRs: x2APIC mode.
    Msrs,
}

/// The controls to run guests with on this CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControlPlan {
    /// The values of the fields at VM reset; the secondary ones with the APIC disabled.
    pub controls: Controls,
    /// The CPU virtualises the local APIC: the virtual-APIC page, TPR, EOI and self-IPI without VM exits.
    pub apicv: bool,
}

impl ControlPlan {
    /// The secondary controls for a guest whose APIC is reached this way.
    #[must_use]
    pub const fn secondary_for(&self, apic: ApicAccess) -> SecondaryProcBased {
        let without = self.controls.secondary.difference(APIC_ACCESS);
        match apic {
            ApicAccess::Memory if self.apicv => without.union(SecondaryProcBased::VIRTUALIZE_APIC_ACCESSES),
            ApicAccess::Msrs if self.apicv => without.union(SecondaryProcBased::VIRTUALIZE_X2APIC_MODE),
            _ => without,
        }
    }

    /// Whether the CPU tracks NMI blocking for the guest.
    #[must_use]
    pub const fn virtual_nmis(&self) -> bool {
        self.controls.pin_based.contains(PinBased::VIRTUAL_NMIS)
    }

    /// Whether guests run with VPIDs. Without, every VM entry and exit drops the cached translations.
    #[must_use]
    pub const fn vpid(&self) -> bool {
        self.controls.secondary.contains(SecondaryProcBased::ENABLE_VPID)
    }

    /// Whether this secondary control is on: what the guest's CPUID may promise hangs on some of them.
    #[must_use]
    pub const fn has(&self, control: SecondaryProcBased) -> bool {
        self.controls.secondary.contains(control)
    }
}

/// What the console shows of a CPU's VMX: each processor-based control by its name, whether the CPU allows it, and whether
/// guests run with it.
#[must_use]
pub fn describe(capabilities: &Capabilities, plan: &ControlPlan) -> Vec<(&'static str, bool, bool)> {
    let apic = plan.secondary_for(ApicAccess::Memory) | plan.secondary_for(ApicAccess::Msrs);
    let fields = [
        (PinBased::NAMES, capabilities.pin_based, plan.controls.pin_based.bits()),
        (PrimaryProcBased::NAMES, capabilities.primary_proc_based, plan.controls.primary.bits()),
        (SecondaryProcBased::NAMES, capabilities.secondary_proc_based, apic.bits()),
    ];
    let rows = |(names, allowed, used): (Names, AllowedSettings, u32)| {
        let set = |bits: u32, bit: u8| bits >> bit & 1 != 0;
        names.controls.iter().map(move |&(bit, name)| (name, set(allowed.may_be_one(), bit), set(used, bit)))
    };
    fields.into_iter().flat_map(rows).collect()
}

/// Chooses the controls for a CPU: all of [`REQUIRED`], what there is of [`OPTIONAL`] as far as its own conditions are
/// met, and whatever the CPU fixes to 1 that has no name.
///
/// # Errors
/// [`Unsupported`] with every control that the CPU does not allow: a required one that cannot be 1, or one we do not want
/// that cannot be 0.
pub fn resolve(capabilities: &Capabilities) -> Result<ControlPlan, Unsupported> {
    let mut optional = OPTIONAL;
    let mut required = REQUIRED;
    let primary_ones = PrimaryProcBased::from_bits_retain(capabilities.primary_proc_based.may_be_one());
    let secondary_ones = SecondaryProcBased::from_bits_retain(capabilities.secondary_proc_based.may_be_one());

    // "If the 'use TPR shadow' VM-execution control is 0, the following VM-execution controls must also be 0: 'virtualize
    // x2APIC mode', 'APIC-register virtualization', and 'virtual-interrupt delivery'."
    let tpr_shadow = primary_ones.contains(PrimaryProcBased::USE_TPR_SHADOW);
    let apicv = tpr_shadow && secondary_ones.contains(APIC_VIRTUALIZATION);
    // "If the 'virtualize x2APIC mode' VM-execution control is 1, the 'virtualize APIC accesses' VM-execution control must
    // be 0." Neither at first: the guest's APIC mode decides.
    optional.secondary.remove(if apicv { APIC_ACCESS } else { APIC_VIRTUALIZATION });
    if !tpr_shadow {
        required.primary |= CR8_EXITING;
    }
    // A VPID whose translations cannot be dropped is worse than none.
    if !capabilities.invvpid_single_context() && !capabilities.invvpid_all_context() {
        optional.secondary.remove(SecondaryProcBased::ENABLE_VPID);
    }

    let mut missing = Vec::new();
    let mut choose = |names: &Names, allowed: AllowedSettings, [required, optional, switched]: [u32; 3]| {
        choose_field(names, allowed, required, optional, switched, &mut missing)
    };
    let pin_based = choose(
        &PinBased::NAMES,
        capabilities.pin_based,
        [required.pin_based.bits(), optional.pin_based.bits(), SWITCHED.pin_based.bits()],
    );
    let primary = choose(
        &PrimaryProcBased::NAMES,
        capabilities.primary_proc_based,
        [required.primary.bits(), optional.primary.bits(), SWITCHED.primary.bits()],
    );
    let secondary = choose(
        &SecondaryProcBased::NAMES,
        capabilities.secondary_proc_based,
        [required.secondary.bits(), optional.secondary.bits(), SWITCHED.secondary.bits()],
    );
    let exit = choose(
        &ExitControls::NAMES,
        capabilities.exit,
        [required.exit.bits(), optional.exit.bits(), SWITCHED.exit.bits()],
    );
    let entry = choose(
        &EntryControls::NAMES,
        capabilities.entry,
        [required.entry.bits(), optional.entry.bits(), SWITCHED.entry.bits()],
    );
    if !missing.is_empty() {
        return Err(Unsupported { missing });
    }
    let controls = Controls {
        pin_based: PinBased::from_bits_retain(pin_based),
        primary: PrimaryProcBased::from_bits_retain(primary),
        secondary: SecondaryProcBased::from_bits_retain(secondary),
        exit: ExitControls::from_bits_retain(exit),
        entry: EntryControls::from_bits_retain(entry),
    };
    Ok(ControlPlan { controls, apicv })
}

/// The value of one field, and into `missing` what the CPU does not allow.
fn choose_field(
    names: &Names,
    allowed: AllowedSettings,
    required: u32,
    optional: u32,
    switched: u32,
    missing: &mut Vec<UnsupportedControl>,
) -> u32 {
    let needed_ones = (required | switched) & !allowed.may_be_one();
    for &(bit, name) in names.controls {
        let mask = 1 << bit;
        if needed_ones & mask != 0 {
            missing.push(UnsupportedControl { field: names.field, name, bit, needed: true });
        } else if allowed.must_be_one() & mask & !(required | optional) != 0 {
            missing.push(UnsupportedControl { field: names.field, name, bit, needed: false });
        }
    }
    required | optional & allowed.may_be_one() | allowed.must_be_one()
}

#[cfg(test)]
mod tests {
    use super::super::capabilities::BOCHS_SKYLAKE_X;
    use super::*;
    use alloc::format;
    use proptest::prelude::*;

    fn without(setting: AllowedSettings, bits: u32) -> AllowedSettings {
        AllowedSettings(setting.0 & !(u64::from(bits) << 32))
    }

    #[test]
    fn a_full_cpu_gets_it_all() {
        let plan = resolve(&BOCHS_SKYLAKE_X).unwrap();
        assert!(plan.apicv && plan.virtual_nmis() && plan.vpid());
        assert_eq!(plan.controls.pin_based.bits(), 0x69 | 0x16, "ours, and the default1 bits 1, 2 and 4");
        assert!(plan.controls.exit.contains(REQUIRED.exit));
        assert!(!plan.controls.exit.contains(ExitControls::SAVE_PREEMPTION_TIMER));
        assert!(!plan.controls.entry.contains(EntryControls::IA32E_MODE_GUEST), "a VM starts in real mode");
        assert!(!plan.controls.primary.intersects(CR8_EXITING | PrimaryProcBased::CR3_LOAD_EXITING));
    }

    #[test]
    fn the_apic_mode_chooses_one_of_two_controls() {
        let plan = resolve(&BOCHS_SKYLAKE_X).unwrap();
        assert_eq!(plan.secondary_for(ApicAccess::Disabled) & APIC_ACCESS, SecondaryProcBased::empty());
        assert_eq!(plan.secondary_for(ApicAccess::Memory) & APIC_ACCESS, SecondaryProcBased::VIRTUALIZE_APIC_ACCESSES);
        assert_eq!(plan.secondary_for(ApicAccess::Msrs) & APIC_ACCESS, SecondaryProcBased::VIRTUALIZE_X2APIC_MODE);
    }

    #[test]
    fn apic_virtualisation_is_all_or_nothing() {
        for bit in APIC_VIRTUALIZATION {
            let capabilities = Capabilities {
                secondary_proc_based: without(BOCHS_SKYLAKE_X.secondary_proc_based, bit.bits()),
                ..BOCHS_SKYLAKE_X
            };
            let plan = resolve(&capabilities).unwrap();
            assert!(!plan.apicv);
            assert!(!plan.secondary_for(ApicAccess::Msrs).intersects(APIC_VIRTUALIZATION));
            assert!(plan.controls.primary.contains(PrimaryProcBased::USE_TPR_SHADOW));
        }
    }

    #[test]
    fn without_a_tpr_shadow_cr8_exits() {
        let capabilities = Capabilities {
            primary_proc_based: without(BOCHS_SKYLAKE_X.primary_proc_based, PrimaryProcBased::USE_TPR_SHADOW.bits()),
            ..BOCHS_SKYLAKE_X
        };
        let plan = resolve(&capabilities).unwrap();
        assert!(!plan.apicv);
        assert!(plan.controls.primary.contains(CR8_EXITING));
        assert!(!plan.secondary_for(ApicAccess::Memory).intersects(APIC_VIRTUALIZATION));
    }

    #[test]
    fn a_vpid_needs_invvpid() {
        let capabilities = Capabilities { ept_vpid: BOCHS_SKYLAKE_X.ept_vpid & 0xffff_ffff, ..BOCHS_SKYLAKE_X };
        assert!(!resolve(&capabilities).unwrap().vpid());
    }

    #[test]
    fn every_missing_control_is_named() {
        let capabilities = Capabilities {
            pin_based: without(BOCHS_SKYLAKE_X.pin_based, PinBased::PREEMPTION_TIMER.bits()),
            secondary_proc_based: without(BOCHS_SKYLAKE_X.secondary_proc_based, 1 << 7),
            entry: without(BOCHS_SKYLAKE_X.entry, 1 << 9),
            ..BOCHS_SKYLAKE_X
        };
        assert_eq!(
            format!("{}", resolve(&capabilities).unwrap_err()),
            "this CPU's VMX does not allow \"activate VMX-preemption timer\" = 1 (bit 6 of the pin-based VM-execution \
             controls), \"unrestricted guest\" = 1 (bit 7 of the secondary processor-based VM-execution controls), \
             \"IA-32e mode guest\" = 1 (bit 9 of the VM-entry controls)"
        );
    }

    #[test]
    fn a_control_that_cannot_be_cleared_is_named() {
        // As without the "true" MSRs: CR3 accesses always exit.
        let forced = AllowedSettings(BOCHS_SKYLAKE_X.primary_proc_based.0 | 1 << 15 | 1 << 16);
        let capabilities = Capabilities { primary_proc_based: forced, ..BOCHS_SKYLAKE_X };
        let missing = resolve(&capabilities).unwrap_err().missing;
        let names: Vec<_> = missing.iter().map(|control| (control.name, control.needed)).collect();
        assert_eq!(names, [("CR3-load exiting", false), ("CR3-store exiting", false)]);
    }

    proptest! {
        /// Whatever a CPU claims, a plan keeps to it, and no plan lacks what is required.
        #[test]
        fn a_plan_is_within_what_the_cpu_allows(
            pin in any::<u32>(), primary in any::<u32>(), secondary in any::<u32>(),
            exit in any::<u32>(), entry in any::<u32>(), ept_vpid in any::<u64>(),
        ) {
            // Few of all the bits are required: set those mostly, so that plans come about.
            let allow = |bits: u32, base: AllowedSettings, required: u32, mostly: u32| {
                let required = if mostly.is_multiple_of(8) { 0 } else { required };
                AllowedSettings(u64::from(base.must_be_one()) | u64::from(bits | required | base.must_be_one()) << 32)
            };
            let base = BOCHS_SKYLAKE_X;
            let capabilities = Capabilities {
                pin_based: allow(pin, base.pin_based, REQUIRED.pin_based.bits(), entry),
                primary_proc_based: allow(primary, base.primary_proc_based,
                    (REQUIRED.primary | SWITCHED.primary | CR8_EXITING).bits(), pin),
                secondary_proc_based: allow(secondary, base.secondary_proc_based, REQUIRED.secondary.bits(), primary),
                exit: allow(exit, base.exit, REQUIRED.exit.bits(), secondary),
                entry: allow(entry, base.entry, (REQUIRED.entry | SWITCHED.entry).bits(), exit),
                ept_vpid,
                ..base
            };
            let fits = |value: u32, allowed: AllowedSettings| {
                value & !allowed.may_be_one() == 0 && allowed.must_be_one() & !value == 0
            };
            match resolve(&capabilities) {
                Ok(plan) => {
                    let controls = plan.controls;
                    prop_assert!(fits(controls.pin_based.bits(), capabilities.pin_based));
                    prop_assert!(fits(controls.primary.bits(), capabilities.primary_proc_based));
                    prop_assert!(fits(controls.exit.bits(), capabilities.exit));
                    prop_assert!(fits(controls.entry.bits(), capabilities.entry));
                    for apic in [ApicAccess::Disabled, ApicAccess::Memory, ApicAccess::Msrs] {
                        let secondary = plan.secondary_for(apic);
                        prop_assert!(fits(secondary.bits(), capabilities.secondary_proc_based));
                        prop_assert!(secondary.contains(REQUIRED.secondary));
                        prop_assert!(!secondary.contains(APIC_ACCESS), "they exclude each other");
                    }
                    prop_assert!(controls.pin_based.contains(REQUIRED.pin_based));
                    prop_assert!(controls.primary.contains(REQUIRED.primary));
                    prop_assert!(controls.exit.contains(REQUIRED.exit));
                    prop_assert!(controls.entry.contains(REQUIRED.entry));
                }
                Err(unsupported) => prop_assert!(!unsupported.missing.is_empty()),
            }
        }
    }
}
