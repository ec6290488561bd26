//! From the boot loader's hand-over to the run loop.

use crate::{logger, panic};
use lamina_hw::boot::{self, BootInfo};
use lamina_hw::cpu::{self, Cpu};
use lamina_hw::{acpi, apic, power, serial, time};

/// The entry point.
pub(crate) fn start(info: &'static mut BootInfo) -> ! {
    let boot_tsc = time::now();
    let handover = match boot::take_over(info) {
        Ok(handover) => handover,
        Err(error) => refuse(&error),
    };
    logger::init();
    log::info!("Lamina {}: {} MiB of RAM", env!("CARGO_PKG_VERSION"), handover.usable_bytes >> 20);
    let cpu = match Cpu::take_over() {
        Ok(cpu) => cpu,
        Err(error) => refuse(&error),
    };
    cpu::set_exception_hook(panic::exception);
    let faults = boot::seal();
    log::info!("protections: {:?}, W^X violations: {}", Cpu::protections(), faults.len());
    let platform = acpi::read(handover.rsdp);
    log::info!("{platform:?}");
    let frequency = time::tsc_frequency(&platform);
    log::info!("{frequency:?}");
    if let Err(error) = apic::init(&platform) {
        refuse(&error);
    }
    serial::start_interrupts();
    log::info!("ramdisk {:?}", handover.ramdisk.map(<[u8]>::len));
    let start = time::now();
    apic::set_clock_event(start + 1_000_000);
    cpu::wait_for_interrupt();
    log::info!("woke after {} {}", time::now() - start, boot_tsc);
    loop {
        cpu::wait_for_interrupt();
        while let Some(byte) = serial::read() {
            log::info!("typed {byte:#x}");
            if byte == b'q' {
                power::power_off(&platform);
            }
        }
    }
}

/// The machine cannot: one clear line, then halt.
fn refuse(error: &dyn core::fmt::Display) -> ! {
    logger::print(&alloc::format!("lamina: cannot start: {error}\n"));
    serial::flush();
    power::halt()
}
