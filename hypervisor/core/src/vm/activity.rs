//! What a vCPU does between its instructions: runs, waits in HLT, or waits for its start-up IPI.
//!
//! The activity is held here and not in the VMCS's activity-state field: the hypervisor takes a vCPU that waits off its CPU, and
//! a hypervisor that is a guest itself may not enter the wait-for-SIPI state.

/// A vCPU's activity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activity {
    /// It executes instructions.
    Active,
    /// It executed HLT.
    Halted {
        /// RFLAGS.IF was set: an interrupt ends the HLT.
        interruptible: bool,
        /// NMIs are blocked, as they are until the handler of one returns: none ends the HLT.
        nmi_blocked: bool,
    },
    /// It waits for a start-up IPI: an application processor after reset or INIT.
    WaitForSipi,
}

/// What an INIT or a start-up IPI does to a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// Nothing.
    None,
    /// The bootstrap processor was sent INIT: without firmware to start at, that is a reset of the VM.
    ResetVm,
    /// INIT: the processor is reset and waits for a start-up IPI.
    Reset,
    /// A start-up IPI: the processor is reset and starts at the page with this number.
    Start(u8),
}

impl Activity {
    /// The activity of a vCPU at power-on.
    #[must_use]
    pub const fn at_power_on(bootstrap: bool) -> Self {
        if bootstrap { Self::Active } else { Self::WaitForSipi }
    }

    /// Takes an INIT and a start-up IPI that came after it; the activity follows. "[A start-up IPI] is not automatically
    /// retried", and a processor that does not wait for it ignores it (SDM volume 3, "MP Initialization Protocol Algorithm").
    pub const fn signal(&mut self, bootstrap: bool, init: bool, sipi: Option<u8>) -> Signal {
        if init && bootstrap {
            return Signal::ResetVm;
        }
        if init {
            *self = Self::WaitForSipi;
        }
        match (*self, sipi) {
            (Self::WaitForSipi, Some(vector)) => {
                *self = Self::Active;
                Signal::Start(vector)
            }
            _ if init => Signal::Reset,
            _ => Signal::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Activity, Signal};

    #[test]
    fn an_application_processor_starts_at_the_first_sipi_after_init() {
        let mut activity = Activity::at_power_on(false);
        assert_eq!(activity.signal(false, false, None), Signal::None);
        assert_eq!(activity, Activity::WaitForSipi);
        assert_eq!(activity.signal(false, false, Some(0x9a)), Signal::Start(0x9a));
        assert_eq!(activity, Activity::Active);
        assert_eq!(activity.signal(false, false, Some(0x9b)), Signal::None, "a second SIPI is ignored");
        assert_eq!(activity.signal(false, true, None), Signal::Reset);
        assert_eq!(activity, Activity::WaitForSipi);
        assert_eq!(activity.signal(false, true, Some(0x9c)), Signal::Start(0x9c), "INIT and SIPI at one look");
    }

    #[test]
    fn a_halted_processor_takes_init_and_not_a_sipi() {
        let halted = Activity::Halted { interruptible: false, nmi_blocked: false };
        let mut activity = halted;
        assert_eq!(activity.signal(false, false, Some(1)), Signal::None);
        assert_eq!(activity, halted);
        assert_eq!(activity.signal(false, true, None), Signal::Reset);
        assert_eq!(activity, Activity::WaitForSipi);
    }

    #[test]
    fn init_to_the_bootstrap_processor_resets_the_vm() {
        let mut activity = Activity::at_power_on(true);
        assert_eq!(activity, Activity::Active);
        assert_eq!(activity.signal(true, false, Some(8)), Signal::None);
        assert_eq!(activity.signal(true, true, None), Signal::ResetVm);
    }
}
