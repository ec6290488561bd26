//! Machine checks that come while a guest runs (SDM volume 3, "Machine-Check Architecture").
//!
//! The exit has taken the exception from the guest; what it reported stays in the error banks, and a further machine check
//! shuts the machine down while IA32_MCG_STATUS.MCIP is set.

use super::msr;

const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17a;
/// IA32_MC0_STATUS; each bank has four registers.
const MC0_STATUS: u32 = 0x401;
const VALID: u64 = 1 << 63;
/// "Processor context corrupt": the state of the CPU may have been damaged, the hypervisor's own included.
const CONTEXT_CORRUPT: u64 = 1 << 57;

/// Says what the banks report and clears them, so that the machine can go on without the guest.
///
/// # Panics
/// If the CPU says that it cannot be trusted any more.
pub(crate) fn handle_machine_check() {
    let features = raw_cpuid::CpuId::new().get_feature_info();
    if !features.is_some_and(|features| features.has_mca()) {
        panic!("machine check on a CPU that cannot tell its cause");
    }
    let banks = (msr::read(MCG_CAP) & 0xff) as u32;
    let global = msr::read(MCG_STATUS);
    for bank in 0..banks {
        let number = MC0_STATUS + 4 * bank;
        let status = msr::read(number);
        if status & VALID == 0 {
            continue;
        }
        log::error!("machine check: bank {bank} status {status:#018x}, IA32_MCG_STATUS {global:#x}");
        assert_eq!(
            status & CONTEXT_CORRUPT,
            0,
            "machine check: processor context corrupt (bank {bank}, {status:#018x})"
        );
        // SAFETY: 0 is the one value that a bank's status register takes, and only forgets the error.
        unsafe { msr::write(number, 0) };
    }
    // SAFETY: clears MCIP; it governs machine checks alone.
    unsafe { msr::write(MCG_STATUS, 0) };
}
