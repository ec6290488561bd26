//! From the boot loader's hand-over to the run loop, in the order that each step needs the one before.

use crate::console_task::ConsoleTask;
use crate::vmm::{Parts, Vmm};
use crate::{logger, panic, run_loop};
use alloc::boxed::Box;
use alloc::format;
use core::fmt::Display;
use lamina_core::boot::ramdisk::Ramdisk;
use lamina_core::config::{CONFIG_FILE, Config};
use lamina_core::sched::{CpuId, RoundRobin};
use lamina_core::vm::Verb;
use lamina_hw::boot::{self, BootInfo, Handover};
use lamina_hw::cpu::{self, Cpu};
use lamina_hw::vmx::VmxRoot;
use lamina_hw::{acpi, apic, power, serial, smp, time};

/// The entry point.
pub(crate) fn start(info: &'static mut BootInfo) -> ! {
    let boot_tsc = time::now();
    let handover = boot::take_over(info).unwrap_or_else(|error| refuse(&error));
    logger::init();
    log::info!("Lamina {} on {}, {} MiB of RAM", env!("CARGO_PKG_VERSION"), cpu::brand(), handover.usable_bytes >> 20);
    let cpu = Cpu::take_over().unwrap_or_else(|error| refuse(&error));
    cpu::set_exception_hook(panic::exception);
    seal();

    let platform = acpi::read(handover.rsdp);
    let tsc = time::tsc_frequency(&platform).unwrap_or_else(|error| refuse(&error));
    logger::set_clock(boot_tsc, tsc.hz);
    log::info!("TSC: {tsc}");
    if let Err(error) = apic::init(&platform) {
        refuse(&error);
    }
    let root = VmxRoot::enter(&cpu).unwrap_or_else(|error| refuse(&error));
    log::info!("VMX on; APIC virtualisation: {}", if root.plan().apicv { "yes" } else { "no" });
    start_other_cpus(&platform);
    if !lamina_core::insn::warm_up() {
        log::warn!("the instruction decoder does not decode; devices in guests' memory will not work");
    }

    let (config, ramdisk) = read_config(&handover);
    log::set_max_level(config.host.log_level);
    panic::set_policy(config.host.on_panic, &platform);
    let mut vmm = Vmm::new(Parts {
        root,
        policy: Box::new(RoundRobin::new()),
        host: config.host.clone(),
        ramdisk,
        platform,
        tsc,
        boot_tsc,
        boot_time_unix_s: time::wall_clock_unix_s(),
        firmware: handover.firmware,
    });
    serial::start_interrupts();
    define_and_start(&mut vmm, &config);
    run_loop::run(vmm, ConsoleTask::start())
}

/// Brings the machine's other CPUs up, as far as they can be used.
fn start_other_cpus(platform: &acpi::Platform) {
    let started = smp::start(platform, None, other_cpu);
    for (apic_id, why) in &started.failed {
        log::warn!("the CPU with local APIC ID {apic_id} is not used: {why}");
    }
    let unknown = if platform.names_cpus() { "" } else { " (the firmware's tables name no others)" };
    log::info!("CPUs: {} of {} online{unknown}", started.online, started.present);
}

/// What a CPU other than the boot CPU does: it waits for what may come.
fn other_cpu(_cpu: CpuId, _root: VmxRoot) -> ! {
    loop {
        cpu::wait_for_interrupt();
    }
}

/// Checks the hypervisor's own mappings and says which protections are on.
fn seal() {
    let faults = boot::seal().unwrap_or_else(|error| refuse(&error));
    for fault in &faults {
        log::error!("the page at {:#x} is writable and executable at once", fault.linear);
    }
    log::info!("protections: {}", Cpu::protections().join(", "));
}

/// The configuration in the ramdisk. Without a good one the hypervisor runs without VMs: the console can still tell.
fn read_config(handover: &Handover) -> (Config, Option<Ramdisk<'static>>) {
    let Some(bytes) = handover.ramdisk else {
        log::error!("no ramdisk: no configuration and no guests; make an image with `cargo xtask image --config FILE`");
        return (Config::default(), None);
    };
    let ramdisk = match Ramdisk::new(bytes) {
        Ok(ramdisk) => ramdisk,
        Err(error) => {
            log::error!("{error}");
            return (Config::default(), None);
        }
    };
    let config = ramdisk.file(CONFIG_FILE).map_err(|error| format!("{error}")).and_then(|bytes| {
        let text = core::str::from_utf8(&bytes).map_err(|_| format!("{CONFIG_FILE} is not UTF-8 text"))?;
        Config::parse(text).map_err(|error| format!("{error}"))
    });
    match config {
        Ok(config) => (config, Some(ramdisk)),
        Err(error) => {
            log::error!("{error}");
            log::error!("no VM is defined: the configuration is refused as a whole");
            (Config::default(), Some(ramdisk))
        }
    }
}

/// Defines every VM of the configuration and starts those that are to start by themselves. One that cannot is said so; the
/// others go on.
fn define_and_start(vmm: &mut Vmm, config: &Config) {
    for vm in &config.vms {
        if let Err(error) = vmm.create(vm.clone()) {
            log::error!("{error}");
        }
    }
    for vm in config.autostart_order() {
        let defined = vmm.vms.iter().any(|there| there.config.name == vm.name);
        if let Some(Err(error)) = defined.then(|| vmm.verb(&vm.name, Verb::Start)) {
            log::error!("{error}");
        }
    }
}

/// The machine cannot: one clear line, then halt.
fn refuse(error: &dyn Display) -> ! {
    logger::print(&format!("lamina: cannot start: {error}\n"));
    logger::print("lamina: halted\n");
    serial::flush();
    power::halt()
}
