//! The local APIC against the SDM's tables, against small reference models, and against itself in the two worlds.

mod bus;
mod interrupts;
mod ipi;
mod modes;
mod registers;
mod timer;
mod worlds;

use super::*;
use std::sync::{Arc, Mutex};

/// A page that a test shares with the model, as the CPU does.
#[derive(Clone, Default)]
struct SharedPage(Arc<Mutex<PlainPage>>);

impl ApicPage for SharedPage {
    fn read(&self, offset: u16) -> u32 {
        assert!(offset < spec::END && offset.is_multiple_of(16), "offset {offset:#x} is no register's");
        self.0.lock().unwrap().read(offset)
    }

    fn write(&mut self, offset: u16, value: u32) {
        assert!(offset < spec::END && offset.is_multiple_of(16), "offset {offset:#x} is no register's");
        self.0.lock().unwrap().write(offset, value);
    }
}

/// A local APIC after a reset.
fn apic(id: u32) -> LocalApic {
    LocalApic::new(Box::new(SharedPage::default()), id, 39)
}

/// A software-enabled local APIC.
fn enabled(id: u32) -> LocalApic {
    let mut apic = apic(id);
    apic.mmio_write(spec::SVR, 0x1ff, 0);
    apic
}

/// A software-enabled local APIC in x2APIC mode.
fn x2apic(id: u32) -> LocalApic {
    let mut apic = enabled(id);
    apic.set_base_msr(apic.base_msr() | 0xc00).unwrap();
    apic
}

fn fixed(vector: u8, level: bool) -> ApicMessage {
    ApicMessage::from_device(0, false, DeliveryMode::Fixed, vector, level)
}
