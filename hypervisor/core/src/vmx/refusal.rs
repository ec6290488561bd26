//! Whether Lamina can run on this CPU, and if not, one line that says what is missing and what to do.
//!
//! Source: Intel SDM volume 3, "Discovering Support for VMX", "Enabling and Entering VMX Operation".

use super::capabilities::Capabilities;
use super::controls::{self, ControlPlan, Unsupported};
use core::fmt;
use thiserror::Error;

/// What [`check_cpu`] looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuFacts {
    /// The vendor, from CPUID leaf 0: `GenuineIntel`.
    pub vendor: [u8; 12],
    /// `CPUID.01H:ECX.VMX[bit 5]`.
    pub vmx: bool,
    /// With `CPUID.01H:ECX[bit 31]` set: the signature of the hypervisor underneath, from leaf 4000_0000H.
    pub hypervisor: Option<[u8; 12]>,
    /// `IA32_FEATURE_CONTROL`; 0 without VMX.
    pub feature_control: u64,
    /// The VMX capabilities; `None` without VMX.
    pub capabilities: Option<Capabilities>,
}

/// The vendor of CPUs with VT-x.
const INTEL: [u8; 12] = *b"GenuineIntel";
/// `IA32_FEATURE_CONTROL`, bit 0: locked until reset.
const LOCK: u64 = 1 << 0;
/// Bit 2: "enable VMX outside SMX operation".
const VMX_OUTSIDE_SMX: u64 = 1 << 2;

/// What is to be written to `IA32_FEATURE_CONTROL` before VMXON: firmware that left it unlocked left it to us.
/// `None` where it is locked, and good as [`check_cpu`] said.
#[must_use]
pub const fn feature_control_to_write(feature_control: u64) -> Option<u64> {
    if feature_control & LOCK == 0 { Some(feature_control | LOCK | VMX_OUTSIDE_SMX) } else { None }
}

/// What a CPU lacks.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Lack {
    /// No VMX at all.
    #[error("no VT-x: CPUID.01H:ECX.VMX[bit 5] is 0 on this CPU (\"{}\")", .vendor.escape_ascii())]
    Vmx {
        /// The CPU's vendor.
        vendor: [u8; 12],
    },
    /// Switched off by the firmware, and locked.
    #[error(
        "VT-x is locked off: IA32_FEATURE_CONTROL is {feature_control:#x}, its lock bit (bit 0) is set and \"enable VMX \
         outside SMX operation\" (bit 2) is not"
    )]
    FeatureControl {
        /// The value of the MSR.
        feature_control: u64,
    },
    /// No extended page tables.
    #[error("no EPT: \"enable EPT\" (bit 1 of the secondary processor-based VM-execution controls) cannot be 1")]
    Ept,
    /// No unrestricted guests.
    #[error(
        "no unrestricted guest: \"unrestricted guest\" (bit 7 of the secondary processor-based VM-execution controls) \
         cannot be 1"
    )]
    UnrestrictedGuest,
    /// EPT, but not of the kind that every CPU with unrestricted guests has.
    #[error("the EPT is not as needed: IA32_VMX_EPT_VPID_CAP is {ept_vpid:#x}, without {missing}")]
    EptKind {
        /// The value of the MSR.
        ept_vpid: u64,
        /// What is missing, in the manual's words.
        missing: &'static str,
    },
    /// Any other control.
    #[error(transparent)]
    Controls(#[from] Unsupported),
}

/// Why Lamina cannot run guests here, in one line with what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// What is missing.
    pub lack: Lack,
    /// The signature of the hypervisor underneath, if there is one.
    pub hypervisor: Option<[u8; 12]>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; ", self.lack)?;
        if let Some(signature) = &self.hypervisor {
            let signature = signature.trim_ascii_end();
            let signature = signature.split(|&byte| byte == 0).next().unwrap_or(signature);
            return write!(
                f,
                "the hypervisor underneath (\"{}\") must offer nested VT-x: with KVM, load kvm_intel with nested=1 and \
                 start QEMU with -accel kvm -cpu host,+vmx (QEMU's own emulation, TCG, has no VT-x; Bochs has)",
                signature.escape_ascii()
            );
        }
        f.write_str(match &self.lack {
            Lack::Vmx { vendor: INTEL } => {
                "switch on \"Intel Virtualization Technology\" (VT-x) in the firmware setup, or use a CPU that has it"
            }
            Lack::Vmx { .. } => "use an Intel CPU with VT-x: Lamina runs on no other kind",
            Lack::FeatureControl { .. } => {
                "switch on \"Intel Virtualization Technology\" (VT-x) in the firmware setup, then switch the power off and on"
            }
            _ => "use a CPU with VT-x, EPT and unrestricted guests: Intel Core of 2010 (Westmere) or later",
        })
    }
}

impl core::error::Error for Refusal {}

/// Whether the CPU has all that Lamina needs, and the controls to run guests with.
///
/// # Errors
/// [`Refusal`] with the first thing that is missing.
pub fn check_cpu(facts: &CpuFacts) -> Result<ControlPlan, Refusal> {
    find_lack(facts).map_err(|lack| Refusal { lack, hypervisor: facts.hypervisor })
}

fn find_lack(facts: &CpuFacts) -> Result<ControlPlan, Lack> {
    let capabilities = match &facts.capabilities {
        Some(capabilities) if facts.vmx => capabilities,
        _ => return Err(Lack::Vmx { vendor: facts.vendor }),
    };
    let feature_control = facts.feature_control;
    if feature_control & LOCK != 0 && feature_control & VMX_OUTSIDE_SMX == 0 {
        return Err(Lack::FeatureControl { feature_control });
    }
    let secondary = controls::SecondaryProcBased::from_bits_retain(capabilities.secondary_proc_based.may_be_one());
    if !secondary.contains(controls::SecondaryProcBased::ENABLE_EPT) {
        return Err(Lack::Ept);
    }
    if !secondary.contains(controls::SecondaryProcBased::UNRESTRICTED_GUEST) {
        return Err(Lack::UnrestrictedGuest);
    }
    let ept_kind = [
        (capabilities.ept_walk_length_4(), "\"page-walk length of 4\" (bit 6)"),
        (capabilities.ept_write_back(), "the write-back memory type for paging structures (bit 14)"),
        (capabilities.invept_single_context(), "INVEPT (bit 20) with the single-context type (bit 25)"),
    ];
    if let Some(&(_, missing)) = ept_kind.iter().find(|(there, _)| !there) {
        return Err(Lack::EptKind { ept_vpid: capabilities.ept_vpid, missing });
    }
    Ok(controls::resolve(capabilities)?)
}

#[cfg(test)]
mod tests {
    use super::super::capabilities::{AllowedSettings, BOCHS_SKYLAKE_X};
    use super::*;
    use alloc::string::ToString;

    const GOOD: CpuFacts = CpuFacts {
        vendor: *b"GenuineIntel",
        vmx: true,
        hypervisor: None,
        feature_control: 5,
        capabilities: Some(BOCHS_SKYLAKE_X),
    };

    fn refusal(facts: &CpuFacts) -> Refusal {
        check_cpu(facts).unwrap_err()
    }

    #[test]
    fn a_good_cpu_is_not_refused() {
        assert!(check_cpu(&GOOD).is_ok());
        assert!(check_cpu(&CpuFacts { feature_control: 0, ..GOOD }).is_ok(), "unlocked: ours to set");
        assert_eq!(feature_control_to_write(0), Some(5));
        assert_eq!(feature_control_to_write(5), None);
    }

    #[test]
    fn no_vmx_names_the_bit_and_what_to_do() {
        let facts = CpuFacts { vmx: false, capabilities: None, feature_control: 0, ..GOOD };
        assert_eq!(
            refusal(&facts).to_string(),
            "no VT-x: CPUID.01H:ECX.VMX[bit 5] is 0 on this CPU (\"GenuineIntel\"); switch on \"Intel Virtualization \
             Technology\" (VT-x) in the firmware setup, or use a CPU that has it"
        );
        let tcg = CpuFacts { hypervisor: Some(*b"TCGTCGTCGTCG"), vendor: *b"AuthenticAMD", ..facts };
        let line = refusal(&tcg).to_string();
        assert!(line.starts_with("no VT-x: ") && line.contains("(\"TCGTCGTCGTCG\")"), "{line}");
        assert!(line.contains("kvm_intel with nested=1") && line.contains("-cpu host,+vmx"), "{line}");
        let kvm = CpuFacts { hypervisor: Some(*b"KVMKVMKVM\0\0\0"), ..facts };
        assert!(refusal(&kvm).to_string().contains("(\"KVMKVMKVM\")"));
    }

    #[test]
    fn locked_off_is_told_from_absent() {
        let line = refusal(&CpuFacts { feature_control: 1, ..GOOD }).to_string();
        assert!(line.starts_with("VT-x is locked off: IA32_FEATURE_CONTROL is 0x1"), "{line}");
        assert!(line.contains("power off and on"), "{line}");
        let in_smx_only = refusal(&CpuFacts { feature_control: 3, ..GOOD });
        assert_eq!(in_smx_only.lack, Lack::FeatureControl { feature_control: 3 });
    }

    #[test]
    fn ept_and_unrestricted_guest_are_named() {
        let with_secondary = |bits: u64| {
            let secondary_proc_based = AllowedSettings(bits << 32);
            CpuFacts { capabilities: Some(Capabilities { secondary_proc_based, ..BOCHS_SKYLAKE_X }), ..GOOD }
        };
        assert_eq!(refusal(&with_secondary(0)).lack, Lack::Ept);
        assert_eq!(refusal(&with_secondary(1 << 1)).lack, Lack::UnrestrictedGuest);
        assert!(check_cpu(&with_secondary(1 << 1 | 1 << 7)).is_ok());
    }

    #[test]
    fn every_refusal_is_one_line() {
        let no_invept = Capabilities { ept_vpid: 1 << 6 | 1 << 14, ..BOCHS_SKYLAKE_X };
        let no_timer = Capabilities { pin_based: AllowedSettings(0x0000_003f_0000_0016), ..BOCHS_SKYLAKE_X };
        for facts in [
            CpuFacts { vmx: false, ..GOOD },
            CpuFacts { feature_control: 1, ..GOOD },
            CpuFacts { capabilities: Some(no_invept), ..GOOD },
            CpuFacts { capabilities: Some(no_timer), ..GOOD },
        ] {
            let line = refusal(&facts).to_string();
            assert!(!line.contains('\n') && !line.contains("  ") && line.contains("; "), "{line}");
        }
    }
}
