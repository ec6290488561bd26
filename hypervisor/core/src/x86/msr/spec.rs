//! Model-specific registers by number, and the fields of those that Lamina keeps.
//!
//! Source: Intel SDM volume 4, "Architectural MSRs"; volume 3, "Memory Type Range Registers", "Page Attribute Table". KVM's:
//! Linux, Documentation/virt/kvm/x86/msr.rst.

/// Time-stamp counter.
pub const IA32_TSC: u32 = 0x10;
/// KVM's: where the guest wants its clock, by the older of two numbers.
pub const MSR_KVM_SYSTEM_TIME: u32 = 0x12;
/// Platform ID, for choosing a microcode update.
pub const IA32_PLATFORM_ID: u32 = 0x17;
/// Base address, mode and enable bit of the local APIC.
pub const IA32_APIC_BASE: u32 = 0x1b;
/// What firmware allows of VMX and SMX.
pub const IA32_FEATURE_CONTROL: u32 = 0x3a;
/// What was added to the TSC since reset.
pub const IA32_TSC_ADJUST: u32 = 0x3b;
/// Write: load a microcode update.
pub const IA32_BIOS_UPDT_TRIG: u32 = 0x79;
/// Revision of the loaded microcode in bits 63:32.
pub const IA32_BIOS_SIGN_ID: u32 = 0x8b;
/// Ratio of the TSC to 100 MHz in bits 15:8.
pub const MSR_PLATFORM_INFO: u32 = 0xce;
/// What memory type range registers there are.
pub const IA32_MTRRCAP: u32 = 0xfe;
/// CS for SYSENTER.
pub const IA32_SYSENTER_CS: u32 = 0x174;
/// ESP for SYSENTER.
pub const IA32_SYSENTER_ESP: u32 = 0x175;
/// EIP for SYSENTER.
pub const IA32_SYSENTER_EIP: u32 = 0x176;
/// What machine-check banks there are.
pub const IA32_MCG_CAP: u32 = 0x179;
/// Whether a machine check is being handled.
pub const IA32_MCG_STATUS: u32 = 0x17a;
/// Miscellaneous features.
pub const IA32_MISC_ENABLE: u32 = 0x1a0;
/// Debug control: last-branch records, single-step on branches.
pub const IA32_DEBUGCTL: u32 = 0x1d9;
/// First of the variable-range registers: base, mask, base, mask, ...
pub const IA32_MTRR_PHYSBASE0: u32 = 0x200;
/// The last of them, for [`MTRR_VARIABLE_COUNT`] ranges.
pub const IA32_MTRR_PHYSMASK7: u32 = 0x20f;
/// Memory types of 0 to 512 KiB.
pub const IA32_MTRR_FIX64K_00000: u32 = 0x250;
/// Memory types of 512 to 640 KiB.
pub const IA32_MTRR_FIX16K_80000: u32 = 0x258;
/// Memory types of 640 to 768 KiB.
pub const IA32_MTRR_FIX16K_A0000: u32 = 0x259;
/// First of the eight registers for 768 KiB to 1 MiB.
pub const IA32_MTRR_FIX4K_C0000: u32 = 0x268;
/// Last of them.
pub const IA32_MTRR_FIX4K_F8000: u32 = 0x26f;
/// Page attribute table.
pub const IA32_PAT: u32 = 0x277;
/// Default memory type, and whether the registers are in use.
pub const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
/// The APIC timer's deadline, as a TSC value.
pub const IA32_TSC_DEADLINE: u32 = 0x6e0;
/// First MSR of the x2APIC register space.
pub const X2APIC_FIRST: u32 = 0x800;
/// Last one that a register can have.
pub const X2APIC_LAST: u32 = 0x83f;
/// End of the range that the SDM reserves for the x2APIC.
pub const X2APIC_RESERVED_LAST: u32 = 0x8ff;
/// x2APIC task-priority register.
pub const X2APIC_TPR: u32 = 0x808;
/// x2APIC end-of-interrupt register (write only).
pub const X2APIC_EOI: u32 = 0x80b;
/// x2APIC self-IPI register (write only).
pub const X2APIC_SELF_IPI: u32 = 0x83f;
/// KVM's: where the guest wants to be told its steal time, bit 0: whether.
pub const MSR_KVM_STEAL_TIME: u32 = 0x4b56_4d03;
/// Extended features: SYSCALL, IA-32e mode, NX.
pub const IA32_EFER: u32 = 0xc000_0080;
/// Segment selectors of SYSCALL.
pub const IA32_STAR: u32 = 0xc000_0081;
/// RIP of SYSCALL.
pub const IA32_LSTAR: u32 = 0xc000_0082;
/// RIP of SYSCALL in compatibility mode (not used by Intel's CPUs, but there).
pub const IA32_CSTAR: u32 = 0xc000_0083;
/// RFLAGS mask of SYSCALL.
pub const IA32_FMASK: u32 = 0xc000_0084;
/// Base of FS.
pub const IA32_FS_BASE: u32 = 0xc000_0100;
/// Base of GS.
pub const IA32_GS_BASE: u32 = 0xc000_0101;
/// What SWAPGS exchanges the base of GS with.
pub const IA32_KERNEL_GS_BASE: u32 = 0xc000_0102;
/// What RDTSCP and RDPID return in ECX.
pub const IA32_TSC_AUX: u32 = 0xc000_0103;

/// Bits of IA32_EFER.
#[expect(missing_docs, reason = "the names are the manual's bit names")]
pub mod efer {
    pub const SCE: u64 = 1 << 0;
    pub const LME: u64 = 1 << 8;
    pub const LMA: u64 = 1 << 10;
    pub const NXE: u64 = 1 << 11;
}

/// IA32_FEATURE_CONTROL: locked with VMX and SMX off.
pub const FEATURE_CONTROL_LOCKED: u64 = 1;
/// IA32_DEBUGCTL: last-branch recording.
pub const DEBUGCTL_LBR: u64 = 1 << 0;
/// IA32_DEBUGCTL: single-step on branches.
pub const DEBUGCTL_BTF: u64 = 1 << 1;

/// IA32_MISC_ENABLE: fast strings, the one bit a guest can change.
pub const MISC_ENABLE_FAST_STRINGS: u64 = 1 << 0;
/// IA32_MISC_ENABLE: branch trace storage and processor event-based sampling are unavailable.
pub const MISC_ENABLE_NO_BTS_NO_PEBS: u64 = 1 << 11 | 1 << 12;
/// IA32_MISC_ENABLE: bits that exist on some CPU and may be written with any value, though nothing follows: thermal
/// monitor, performance monitoring, EIST, "limit CPUID maxval" , xTPR, XD disable, turbo disable.
pub const MISC_ENABLE_IGNORED: u64 = 1 << 3 | 1 << 7 | 1 << 16 | 1 << 22 | 1 << 23 | 1 << 34 | 1 << 38;

/// How many variable ranges there are.
pub const MTRR_VARIABLE_COUNT: u64 = 8;
/// IA32_MTRRCAP: the variable ranges, fixed ranges (bit 8), write combining (bit 10).
pub const MTRRCAP: u64 = MTRR_VARIABLE_COUNT | 1 << 8 | 1 << 10;
/// IA32_MTRR_DEF_TYPE: fixed-range registers enabled.
pub const MTRR_FIXED_ENABLED: u64 = 1 << 10;
/// IA32_MTRR_DEF_TYPE: MTRRs enabled.
pub const MTRR_ENABLED: u64 = 1 << 11;
/// IA32_MTRR_PHYSMASKn: the range is in use.
pub const MTRR_VALID: u64 = 1 << 11;
/// The memory type write-back.
pub const WRITE_BACK: u64 = 6;
/// IA32_PAT after reset: WB, WT, UC-, UC, twice.
pub const PAT_RESET: u64 = 0x0007_0406_0007_0406;
