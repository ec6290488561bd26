//! The same guest on a CPU that virtualises the APIC and on one that does not: nobody can tell.

use super::*;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

/// One vCPU's APIC as the guest meets it.
struct World {
    apic: LocalApic,
    page: SharedPage,
    /// Whether the CPU virtualises the APIC; this struct then plays the CPU.
    virtualised: bool,
}

/// SDM, "Virtualizing Memory-Mapped APIC Accesses": what "APIC-register virtualization" reads from the page.
fn read_is_virtualised(offset: u16) -> bool {
    matches!(offset, 0x20 | 0x30 | 0x80 | 0xb0 | 0xd0 | 0xe0 | 0xf0 | 0x100..=0x280 | 0x300 | 0x310 | 0x320..=0x380 | 0x3e0)
}

/// And what it lets the guest store there.
fn write_is_virtualised(offset: u16) -> bool {
    matches!(offset, 0x20 | 0x80 | 0xb0 | 0xd0 | 0xe0 | 0xf0 | 0x280 | 0x300 | 0x310 | 0x320..=0x370 | 0x380 | 0x3e0)
}

impl World {
    fn new(virtualised: bool) -> Self {
        let page = SharedPage::default();
        let mut apic = LocalApic::new(Box::new(page.clone()), 0, 39);
        apic.set_virtual_interrupt_delivery(virtualised);
        Self { apic, page, virtualised }
    }

    fn read(&mut self, offset: u16, now: u64) -> u32 {
        if self.virtualised && read_is_virtualised(offset) {
            self.page.read(offset)
        } else {
            self.apic.mmio_read(offset, now)
        }
    }

    fn write(&mut self, offset: u16, value: u32, now: u64) {
        if !self.virtualised || !write_is_virtualised(offset) {
            self.apic.mmio_write(offset, value, now);
            return;
        }
        // "Self-IPI Virtualization": fixed, edge, to self, no reserved bit, a legal vector.
        let self_ipi = value & !0x48ff == 0x4_0000 && value & 0xf0 != 0;
        match offset {
            spec::TPR => self.page.write(offset, value & 0xff),
            spec::ICR_HIGH => self.page.write(offset, value & 0xff00_0000),
            spec::EOI => {
                self.page.write(offset, 0);
                self.virtualise_eoi();
            }
            spec::ICR_LOW if self_ipi && self.apic.software_enabled() => {
                self.page.write(offset, value);
                let [vector, ..] = value.to_le_bytes();
                if self.apic.eoi_exit_bitmap()[usize::from(vector / 64)] & 1 << (vector % 64) != 0 {
                    self.apic.after_write(offset, now);
                } else {
                    self.set(spec::IRR, vector, true);
                }
            }
            _ => {
                self.page.write(offset, value);
                self.apic.after_write(offset, now);
            }
        }
    }

    fn set(&mut self, register: u16, vector: u8, on: bool) {
        let (offset, bit) = (register + u16::from(vector / 32) * 16, 1 << (vector % 32));
        let old = self.page.read(offset);
        self.page.write(offset, if on { old | bit } else { old & !bit });
    }

    fn virtualise_eoi(&mut self) {
        let bitmap = self.apic.eoi_exit_bitmap();
        let Some(vector) = self.apic.highest_isr() else { return };
        self.set(spec::ISR, vector, false);
        if bitmap[usize::from(vector / 64)] & 1 << (vector % 64) != 0 {
            self.apic.eoi(vector);
        }
    }

    /// Delivers one interrupt, if the priorities let it.
    fn deliver(&mut self) -> Option<u8> {
        if !self.virtualised {
            let vector = self.apic.pending_vector()?;
            self.apic.acknowledge(vector);
            return Some(vector);
        }
        // Virtual-interrupt delivery, from RVI and SVI.
        let (rvi, svi) = (self.apic.highest_irr()?, self.apic.highest_isr().unwrap_or(0));
        let vtpr = self.page.read(spec::TPR).to_le_bytes()[0];
        let vppr = if vtpr >> 4 >= svi >> 4 { vtpr } else { svi & 0xf0 };
        if rvi >> 4 <= vppr >> 4 {
            return None;
        }
        self.set(spec::ISR, rvi, true);
        self.set(spec::IRR, rvi, false);
        Some(rvi)
    }
}

#[derive(Clone, Debug)]
enum Action {
    Write(u16, u32),
    Accept(u8, bool),
    Deliver,
    Lint(u8, bool),
    Tick(u64),
}

fn action() -> impl Strategy<Value = Action> {
    let svr = prop_oneof![4 => Just(0x1ff), 1 => Just(0x11ff), 1 => Just(0xff)];
    let icr = (any::<u8>(), 0u32..8, 0u32..4)
        .prop_map(|(vector, mode, to)| to << 18 | 0x4000 | mode << 8 | u32::from(vector));
    let self_ipi = any::<u8>().prop_map(|vector| 0x4_0000 | u32::from(vector));
    let lvt = (0u16..6, any::<u32>()).prop_map(|(at, value)| Action::Write(0x320 + at * 16, value & 0x7_ffff));
    prop_oneof![
        3 => (0u16..0x40, any::<u32>()).prop_map(|(register, value)| Action::Write(register * 16, value)),
        2 => svr.prop_map(|value| Action::Write(spec::SVR, value)),
        2 => icr.prop_map(|value| Action::Write(spec::ICR_LOW, value)),
        2 => self_ipi.prop_map(|value| Action::Write(spec::ICR_LOW, value)),
        3 => any::<u8>().prop_map(|value| Action::Write(spec::TPR, u32::from(value) >> 1)),
        4 => Just(Action::Write(spec::EOI, 0)),
        2 => lvt,
        2 => (0u32..1000).prop_map(|count| Action::Write(spec::INITIAL_COUNT, count)),
        4 => (any::<u8>(), any::<bool>()).prop_map(|(vector, level)| Action::Accept(vector, level)),
        4 => Just(Action::Deliver),
        1 => (0u8..2, any::<bool>()).prop_map(|(pin, level)| Action::Lint(pin, level)),
        2 => (0u64..2000).prop_map(Action::Tick),
    ]
}

#[test]
fn what_the_cpu_changed_in_the_page_is_seen() {
    let page = SharedPage::default();
    let mut world = World { apic: LocalApic::new(Box::new(page.clone()), 0, 39), page, virtualised: true };
    for vector in [0x10, 0x5f, 0xff] {
        world.set(spec::IRR, vector, true);
        assert_eq!(world.apic.highest_irr(), Some(vector));
        world.set(spec::ISR, vector, true);
        assert_eq!(world.apic.highest_isr(), Some(vector));
    }
    for (vector, below) in [(0xff, Some(0x5f)), (0x5f, Some(0x10)), (0x10, None)] {
        world.set(spec::IRR, vector, false);
        assert_eq!(world.apic.highest_irr(), below);
    }
    world.apic.set_virtual_interrupt_delivery(false);
    assert_eq!(world.apic.highest_isr(), Some(0xff), "and still when the CPU no longer takes part");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn nobody_can_tell(actions in proptest::collection::vec(action(), 1..120)) {
        let mut worlds = [World::new(false), World::new(true)];
        let mut now = 0;
        for (step, action) in actions.iter().enumerate() {
            if let Action::Tick(ticks) = action {
                now += ticks;
            }
            let [plain, virtualised] = worlds.each_mut().map(|world| {
                let delivered = match *action {
                    Action::Write(offset, value) => {
                        world.write(offset, value, now);
                        None
                    }
                    Action::Accept(vector, level) => {
                        world.apic.accept(&fixed(vector, level));
                        None
                    }
                    Action::Deliver => world.deliver(),
                    Action::Lint(pin, level) => {
                        world.apic.set_lint(pin, level);
                        None
                    }
                    Action::Tick(_) => {
                        world.apic.expire(now);
                        None
                    }
                };
                let apic = &mut world.apic;
                let events = (apic.take_nmi(), apic.take_init(), apic.take_sipi(), apic.accepts_extint());
                let left = (apic.take_ipi(), apic.take_eoi(), apic.next_deadline(), apic.take_eoi_exit_bitmap_changed());
                let sets = (apic.pending_vector(), apic.highest_irr(), apic.highest_isr(), apic.eoi_exit_bitmap());
                let legal = (0x20..0x3f0).step_by(16).filter(|offset| read_is_virtualised(*offset) || matches!(*offset, 0xa0 | 0x390));
                let registers: Vec<_> = legal.map(|offset| (offset, world.read(offset, now))).collect();
                (delivered, events, left, sets, registers)
            });
            prop_assert_eq!(plain, virtualised, "after step {} {:x?}", step, action);
        }
    }
}
