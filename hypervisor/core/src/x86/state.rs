//! A vCPU's registers as an exit handler sees them.

use crate::vmx::GuestField;

/// The general-purpose registers that VMX leaves to software. RSP is in the VMCS ([`GuestField::Rsp`]).
///
/// `repr(C)`: the world switch in `lamina-hw` saves and loads them by `offset_of!`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
#[expect(missing_docs, reason = "the names are the manual's register names")]
pub struct Gprs {
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rbx: u64,
    pub rbp: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
}

impl Gprs {
    /// The register that an instruction encodes as `number`, 0 to 15, or `None` for 4 (RSP, which is in the VMCS)
    /// and for numbers past 15.
    #[must_use]
    pub const fn by_number(&self, number: u8) -> Option<u64> {
        Some(match number {
            0 => self.rax,
            1 => self.rcx,
            2 => self.rdx,
            3 => self.rbx,
            5 => self.rbp,
            6 => self.rsi,
            7 => self.rdi,
            8 => self.r8,
            9 => self.r9,
            10 => self.r10,
            11 => self.r11,
            12 => self.r12,
            13 => self.r13,
            14 => self.r14,
            15 => self.r15,
            _ => return None,
        })
    }

    /// The register that an instruction encodes as `number`, to be written; `None` as in [`Gprs::by_number`].
    #[must_use]
    pub const fn by_number_mut(&mut self, number: u8) -> Option<&mut u64> {
        Some(match number {
            0 => &mut self.rax,
            1 => &mut self.rcx,
            2 => &mut self.rdx,
            3 => &mut self.rbx,
            5 => &mut self.rbp,
            6 => &mut self.rsi,
            7 => &mut self.rdi,
            8 => &mut self.r8,
            9 => &mut self.r9,
            10 => &mut self.r10,
            11 => &mut self.r11,
            12 => &mut self.r12,
            13 => &mut self.r13,
            14 => &mut self.r14,
            15 => &mut self.r15,
            _ => return None,
        })
    }

    /// EDX:EAX as one number, as RDMSR, WRMSR and XSETBV use it.
    #[must_use]
    pub const fn edx_eax(&self) -> u64 {
        (self.rdx << 32) | (self.rax & 0xffff_ffff)
    }

    /// Sets EDX:EAX, clearing the upper halves of RAX and RDX as RDMSR does.
    pub const fn set_edx_eax(&mut self, value: u64) {
        self.rax = value & 0xffff_ffff;
        self.rdx = value >> 32;
    }
}

/// The part of a vCPU's state that lives in its VMCS. On the machine this is the current VMCS; in a test, a table.
pub trait VcpuState {
    /// Reads a field of the guest-state area. A field the CPU does not have reads as 0.
    fn read(&self, field: GuestField) -> u64;

    /// Writes a field of the guest-state area.
    fn write(&mut self, field: GuestField, value: u64);

    /// The CR0 that the guest believes it has (read shadow merged by the guest/host mask).
    fn cr0(&self) -> u64;

    /// The CR4 that the guest believes it has.
    fn cr4(&self) -> u64;

    /// Sets the CR0 the guest sees; what VMX fixes to 1 or 0 is kept in the real register.
    fn set_cr0(&mut self, value: u64);

    /// Sets the CR4 the guest sees; CR4.VMXE is kept set in the real register.
    fn set_cr4(&mut self, value: u64);

    /// Sets the VM-entry control "IA-32e mode guest".
    fn set_long_mode(&mut self, active: bool);
}
