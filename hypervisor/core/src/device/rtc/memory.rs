//! The bytes of the RTC's memory that a PC's firmware fills in.

use super::Rtc;
use super::spec::*;

impl Rtc {
    /// What firmware would leave in the memory: no drives, a coprocessor, the sizes of the memory, and the checksum.
    pub(super) fn describe_memory(&mut self, low_ram_len_bytes: u64, high_ram_len_bytes: u64) {
        let base_kib = (low_ram_len_bytes >> 10).min(640);
        let extended_kib = low_ram_len_bytes.saturating_sub(1 << 20) >> 10;
        let above_16m = low_ram_len_bytes.saturating_sub(16 << 20) >> 16;
        self.put_bytes(EQUIPMENT, &[EQUIPMENT_COPROCESSOR]);
        self.put_bytes(BASE_MEMORY, &saturate_u16(base_kib).to_le_bytes());
        self.put_bytes(EXTENDED_MEMORY, &saturate_u16(extended_kib).to_le_bytes());
        self.put_bytes(EXTENDED_MEMORY_FOUND, &saturate_u16(extended_kib).to_le_bytes());
        self.put_bytes(MEMORY_ABOVE_16M, &saturate_u16(above_16m).to_le_bytes());
        let [low, middle, high, ..] = (high_ram_len_bytes >> 16).min(0xff_ffff).to_le_bytes();
        self.put_bytes(MEMORY_ABOVE_4G, &[low, middle, high]);
        let sum = self
            .memory
            .get(CHECKSUM_RANGE)
            .unwrap_or_default()
            .iter()
            .fold(0u16, |sum, &byte| sum.wrapping_add(byte.into()));
        self.put_bytes(CHECKSUM, &sum.to_be_bytes());
    }

    fn put_bytes(&mut self, index: u8, bytes: &[u8]) {
        for (slot, &byte) in self.memory.iter_mut().skip(usize::from(index)).zip(bytes) {
            *slot = byte;
        }
    }
}

fn saturate_u16(value: u64) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}
