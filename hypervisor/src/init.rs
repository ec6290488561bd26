//! From the boot loader's hand-over to the run loop, in the order that each step needs the one before.

use crate::console_task::ConsoleTask;
use crate::cpus::BOOT_CPU;
use crate::hypervisor::Hypervisor;
use crate::manager::Manager;
use crate::vmm::{self, Vmm};
use crate::{logger, panic, run_loop};
use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;
use core::fmt::Display;
use lamina_core::boot::ramdisk::Ramdisk;
use lamina_core::config::{CONFIG_FILE, Config, VmConfig};
use lamina_core::sched::{CpuId, Scheduler};
use lamina_core::time::TickClock;
use lamina_hw::boot::{self, BootInfo, Handover};
use lamina_hw::cpu::{self, Cpu, Protection};
use lamina_hw::smp::{self, Started};
use lamina_hw::vmx::VmxRoot;
use lamina_hw::{acpi, apic, power, serial, time};
use spin::{Mutex, Once};

/// Where the other CPUs find what all have in common, once it is there.
static HYPERVISOR: Once<&'static Hypervisor> = Once::new();

/// The entry point.
pub(crate) fn start(info: &'static mut BootInfo) -> ! {
    let boot_tsc = time::now();
    let handover = boot::take_over(info).unwrap_or_else(|error| refuse(&error));
    logger::init();
    log::info!("Lamina {} on {}, {} MiB of RAM", env!("CARGO_PKG_VERSION"), cpu::brand(), handover.usable_bytes >> 20);
    let cpu = Cpu::take_over().unwrap_or_else(|error| refuse(&error));
    cpu::set_exception_hook(panic::exception);
    if cpu::hides_xsavec() {
        log::warn!("this CPU's XSAVEC overwrites its own header: guests do not see it");
    }
    seal();

    let platform = acpi::read(handover.rsdp);
    let tsc = time::tsc_frequency(&platform).unwrap_or_else(|error| refuse(&error));
    logger::set_clock(boot_tsc, tsc.hz);
    log::info!("TSC: {tsc}");
    if let Err(error) = apic::init(&platform) {
        refuse(&error);
    }
    let mut root = VmxRoot::enter(&cpu).unwrap_or_else(|error| refuse(&error));
    log::info!("VMX on; APIC virtualisation: {}", if root.plan().apicv { "yes" } else { "no" });
    if !lamina_core::insn::warm_up() {
        log::warn!("the instruction decoder does not decode; devices in guests' memory will not work");
    }

    let (config, ramdisk) = read_config(&handover);
    log::set_max_level(config.host.log_level);
    panic::set_policy(config.host.on_panic, &platform);
    cpu::decide_mitigations(config.host.mitigations_off);
    cpu::apply_mitigations();
    let started = start_other_cpus(&platform, &config);
    let cpu_count = started.online;
    let scheduler = Scheduler::new(config.host.sched_policy, cpu_count, tsc.hz);
    let allocator = vmm::allocator(&config.host, ramdisk.as_ref(), cpu_count);
    let hypervisor: &'static Hypervisor = Box::leak(Box::new(Hypervisor {
        host: config.host.clone(),
        ramdisk,
        platform,
        clock: TickClock::new(tsc.hz),
        tsc,
        boot_tsc,
        boot_time_unix_s: time::wall_clock_unix_s(),
        firmware: handover.firmware,
        cpu_count,
        cpus_found: started.present,
        manager: Mutex::new(Manager::new(scheduler, allocator)),
    }));
    HYPERVISOR.call_once(|| hypervisor);
    serial::start_interrupts();
    define_and_start(&mut Vmm { hypervisor, root: &mut root }, &config);
    run_loop::run(hypervisor, BOOT_CPU, root, Some(ConsoleTask::start()))
}

/// Brings the machine's other CPUs up, as far as they can be used and are wanted. All that are online run guests.
fn start_other_cpus(platform: &acpi::Platform, config: &Config) -> Started {
    let limit = config.host.cpus.map(|cpus| cpus as usize);
    let started = smp::start(platform, limit, other_cpu);
    for (apic_id, why) in &started.failed {
        log::warn!("the CPU with local APIC ID {apic_id} is not used: {why}");
    }
    let unknown = if platform.names_cpus() { "" } else { " (the firmware's tables name no others)" };
    log::info!("CPUs: {} of {} online{unknown}", started.online, started.present);
    started
}

/// What a CPU other than the boot CPU does, once it is online.
fn other_cpu(id: CpuId, root: VmxRoot) -> ! {
    cpu::apply_mitigations();
    run_loop::run(HYPERVISOR.wait(), id, root, None)
}

/// Checks the hypervisor's own mappings and says which protections are on.
fn seal() {
    let faults = boot::seal().unwrap_or_else(|error| refuse(&error));
    for fault in &faults {
        log::error!("the page at {:#x} is writable and executable at once", fault.linear);
    }
    let on = Cpu::protections().into_iter().filter(|(.., protection)| *protection == Protection::On);
    log::info!("protections: {}", on.map(|(name, ..)| name).collect::<Vec<_>>().join(", "));
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
fn define_and_start(vmm: &mut Vmm<'_>, config: &Config) {
    let order = match config.boot_order() {
        Ok(order) => order,
        Err(error) => {
            log::error!("{error}");
            return;
        }
    };
    define(vmm, config);
    for vm in order {
        let defined = vmm.find(&vm.name).is_ok();
        if let Some(Err(error)) = defined.then(|| vmm.start_one(&vm.name)) {
            log::error!("{error}");
        }
    }
}

/// Defines every VM, those of later places in the file first where others come after them.
fn define(vmm: &mut Vmm<'_>, config: &Config) {
    let mut left: Vec<&VmConfig> = config.vms.iter().collect();
    while !left.is_empty() {
        let waits = |vm: &VmConfig| left.iter().any(|other| other.expand().iter().any(|other| vm.comes_after(other)));
        let (mut later, mut now): (Vec<_>, Vec<_>) = left.iter().copied().partition(|vm| waits(vm));
        if now.is_empty() {
            // A circle, of which there is none in a configuration that was read: each is told what is wrong.
            now = core::mem::take(&mut later);
        }
        for description in now {
            if let Err(error) = vmm.create(description) {
                log::error!("{error}");
            }
        }
        left = later;
    }
}

/// The machine cannot: one clear line, then halt.
fn refuse(error: &dyn Display) -> ! {
    logger::print(&format!("lamina: cannot start: {error}\n"));
    logger::print("lamina: halted\n");
    serial::flush();
    power::halt()
}
