//! Where the registers lie: the virtual-APIC page, which the CPU may read and write too.

use super::spec;
use alloc::boxed::Box;

/// The 4 KiB virtual-APIC page. With "APIC-register virtualization" and "virtual-interrupt delivery" the CPU reads and writes
/// it by itself while the guest runs, so nothing read from it before a VM entry is believed after it. The model reads and writes it without atomic
/// instructions: it must not be called while the guest runs on another CPU.
pub trait ApicPage: Send {
    /// The dword at `offset`: a multiple of 16 below 400H, as in the SDM's "Local APIC Register Address Map".
    fn read(&self, offset: u16) -> u32;
    /// Stores a dword at such an `offset`.
    fn write(&mut self, offset: u16, value: u32);
}

/// A virtual-APIC page in plain memory, for a CPU that does not virtualise the APIC.
#[derive(Clone, Debug)]
pub struct PlainPage([u32; spec::END as usize / 16]);

impl PlainPage {
    /// A page of zeros.
    #[must_use]
    pub const fn new() -> Self {
        Self([0; spec::END as usize / 16])
    }

    /// The same as the boxed trait object that `LocalApic::new` takes.
    #[must_use]
    pub fn boxed() -> Box<dyn ApicPage> {
        Box::new(Self::new())
    }
}

impl Default for PlainPage {
    fn default() -> Self {
        Self::new()
    }
}

impl ApicPage for PlainPage {
    fn read(&self, offset: u16) -> u32 {
        self.0.get(usize::from(offset / 16)).copied().unwrap_or(0)
    }

    fn write(&mut self, offset: u16, value: u32) {
        if let Some(register) = self.0.get_mut(usize::from(offset / 16)) {
            *register = value;
        }
    }
}

/// One of the 256-bit registers (ISR, TMR, IRR): eight dwords in the page.
#[derive(Clone, Copy, Debug)]
pub(super) struct VectorRegister {
    base: u16,
    /// Bit `n`: dword `n` may be other than 0. Spares the scan the dwords that are surely empty.
    groups: u8,
    /// Groups that are always looked at, because the CPU changes the page unseen.
    always: u8,
}

impl VectorRegister {
    /// The register at `base`, with unknown content, in a page that the CPU changes as well.
    pub(super) const fn new(base: u16) -> Self {
        Self { base, groups: 0xff, always: 0xff }
    }

    /// Says whether the CPU changes the register by itself.
    pub(super) const fn set_shared(&mut self, shared: bool) {
        self.groups = 0xff;
        self.always = if shared { 0xff } else { 0 };
    }

    fn place(self, vector: u8) -> (u16, u32) {
        (self.base + u16::from(vector >> 5) * 16, 1 << (vector & 31))
    }

    pub(super) fn contains(self, page: &dyn ApicPage, vector: u8) -> bool {
        let (offset, bit) = self.place(vector);
        page.read(offset) & bit != 0
    }

    /// Sets the vector's bit; answers whether it was clear.
    pub(super) fn insert(&mut self, page: &mut dyn ApicPage, vector: u8) -> bool {
        let (offset, bit) = self.place(vector);
        let old = page.read(offset);
        page.write(offset, old | bit);
        self.groups |= 1 << (vector >> 5);
        old & bit == 0
    }

    /// Clears the vector's bit; answers whether it was set.
    pub(super) fn remove(&mut self, page: &mut dyn ApicPage, vector: u8) -> bool {
        let (offset, bit) = self.place(vector);
        let old = page.read(offset);
        page.write(offset, old & !bit);
        if old & !bit == 0 {
            self.groups &= !(1 << (vector >> 5));
        }
        old & bit != 0
    }

    /// The highest vector whose bit is set.
    #[expect(clippy::cast_possible_truncation, reason = "a group is below 8, a bit below 32: the vector is below 256")]
    pub(super) fn highest(self, page: &dyn ApicPage) -> Option<u8> {
        let mut groups = self.groups | self.always;
        while groups != 0 {
            let group = groups.ilog2();
            let bits = page.read(self.base + group as u16 * 16);
            if bits != 0 {
                return Some((group * 32 + bits.ilog2()) as u8);
            }
            groups &= !(1 << group);
        }
        None
    }

    /// All 256 bits, vector 0 in bit 0 of the first.
    pub(super) fn bits(self, page: &dyn ApicPage) -> [u64; 4] {
        let dword = |group: u16| u64::from(page.read(self.base + group * 16));
        [0, 2, 4, 6].map(|group| dword(group) | dword(group + 1) << 32)
    }
}
