//! What this CPU says about its VMX, gathered once for `lamina-core` to judge.

use crate::cpu::msr;
use lamina_core::vmx::Capabilities;
use lamina_core::vmx::refusal::CpuFacts;
use raw_cpuid::CpuId;

/// What decides whether this CPU can run guests. No MSR is read that CPUID does not promise.
#[must_use]
pub fn cpu_facts() -> CpuFacts {
    const HYPERVISOR_LEAF: u32 = 0x4000_0000;
    let cpuid = CpuId::new();
    let features = cpuid.get_feature_info();
    let vmx = features.as_ref().is_some_and(raw_cpuid::FeatureInfo::has_vmx);
    let under_hypervisor = features.as_ref().is_some_and(raw_cpuid::FeatureInfo::has_hypervisor);
    let mut vendor = [0; 12];
    if let Some(info) = cpuid.get_vendor_info() {
        let name = info.as_str().as_bytes();
        let len = name.len().min(vendor.len());
        vendor[..len].copy_from_slice(&name[..len]);
    }
    let hypervisor = under_hypervisor.then(|| {
        let leaf = core::arch::x86_64::__cpuid(HYPERVISOR_LEAF);
        let mut signature = [0; 12];
        for (part, register) in signature.chunks_exact_mut(4).zip([leaf.ebx, leaf.ecx, leaf.edx]) {
            part.copy_from_slice(&register.to_le_bytes());
        }
        signature
    });
    CpuFacts {
        vendor,
        vmx,
        hypervisor,
        feature_control: if vmx { msr::read(msr::FEATURE_CONTROL) } else { 0 },
        capabilities: vmx.then(|| Capabilities::read(msr::read)),
    }
}
