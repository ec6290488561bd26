//! A machine out of its configuration: RAM with the image in it, devices at power-on, vCPU 0 at its first instruction, the
//! others waiting for their start-up IPI.

use super::vcpu::{Context, VcpuTask};
use super::{Machine, NOWHERE, Shared, Slot};
use crate::hypervisor::Hypervisor;
use crate::serial_port::SerialPort;
use crate::trace;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32};
use lamina_core::boot::ramdisk::Ramdisk;
use lamina_core::config::VmConfig;
use lamina_core::device::board::spec::ioapic_id;
use lamina_core::device::board::{Board, BoardConfig};
use lamina_core::device::lapic::{ApicBus, LocalApic};
use lamina_core::ept::PageSize;
use lamina_core::exit::ExitCounters;
use lamina_core::exit::local::LocalExits;
use lamina_core::exit::replay::Setting;
use lamina_core::fault::ExitTrail;
use lamina_core::loader::{EntryState, LoadRequest, Module, RamLayout, load};
use lamina_core::memory::{FrameKind, GuestMemory};
use lamina_core::vm::Activity;
use lamina_core::vmx::controls::SecondaryProcBased;
use lamina_core::x86::CpuState;
use lamina_core::x86::cpuid::CpuidConfig;
use lamina_hw::mem::{GuestRam, HostBuffer, Owner};
use lamina_hw::vmx::{Vcpu, VirtualApicPage, VmxRoot};
use lamina_hw::{cpu, time};
use spin::Mutex;

/// VMs with at least this much memory get it in 2 MiB pages; smaller ones would waste more than they gain.
const LARGE_PAGES_FROM_BYTES: u64 = 32 << 20;

/// Microseconds in which a serial line at 115,200 baud takes some dozen characters.
const LINE_WAIT_US: u64 = 5_000;
/// How much later than it is due a guest's time may end that exits all the while, in microseconds.
const TIMER_SLACK_US: u64 = 20;

/// What a machine is built of.
pub(crate) struct BuildRequest<'a> {
    /// The VM's number.
    pub(crate) vm: u32,
    /// Its place in the accounting of frames.
    pub(crate) slot: u16,
    pub(crate) config: &'a VmConfig,
    pub(crate) port: Arc<Mutex<SerialPort>>,
    /// How many frames its RAM may have at first.
    pub(crate) limit_frames: u64,
    /// How many of vCPU 0's exits are printed as records.
    pub(crate) traced_exits: u32,
    /// Its watchdog ended its life before this one.
    pub(crate) watchdog_fired: bool,
}

impl Machine {
    /// Builds the VM's machine and loads its image.
    ///
    /// # Errors
    /// One line for the operator: what is wrong with an image, or that memory is short. Nothing is left behind.
    pub(crate) fn new(hypervisor: &Hypervisor, root: &mut VmxRoot, request: &BuildRequest<'_>) -> Result<Self, String> {
        let BuildRequest { vm, slot, config, limit_frames, .. } = *request;
        // The guest sees all that it may ever have; what it has less at present is its balloon's to hold.
        let memory_bytes = config.memory_max();
        let layout = RamLayout::new(memory_bytes);
        let largest = if memory_bytes >= LARGE_PAGES_FROM_BYTES { PageSize::Size2M } else { PageSize::Size4K };
        let features = root.capabilities().ept_features();
        let ram = GuestRam::new(slot, layout, features, largest, hypervisor.cpu_count).map_err(|e| e.to_string())?;
        ram.set_limit(limit_frames);
        let entry = load_image(config, hypervisor.ramdisk.as_ref(), &mut &ram)?;

        let boot_time_unix_s = hypervisor.boot_time_unix_s + hypervisor.uptime_us() / 1_000_000;
        let mut apics = Vec::new();
        let mut slots = Vec::new();
        for index in 0..config.vcpus {
            let (task, apic) = new_vcpu(hypervisor, root, request, &ram, &entry, index, boot_time_unix_s)?;
            apics.push(apic);
            slots.push(Slot {
                task: Mutex::new(task),
                notified: AtomicBool::new(false),
                clock_changed: AtomicBool::new(false),
                running_on: AtomicU32::new(NOWHERE),
            });
        }
        let board = Board::new(&BoardConfig {
            clock: hypervisor.clock,
            ram_len_bytes: memory_bytes,
            boot_time_unix_s,
            ioapic_id: ioapic_id(u32::from(config.vcpus)),
            balloon: config.balloon,
            watchdog_fired: request.watchdog_fired,
        });
        let mut counters = ExitCounters::new();
        counters.missed.limit = config.access_loop.unwrap_or(u64::MAX);
        let shared = Shared {
            board,
            counters: alloc::vec![counters; apics.len()],
            apics: ApicBus::new(apics),
            port: Arc::clone(&request.port),
            origin: time::now(),
            pic_told: false,
            board_wait: u64::MAX,
            injected: None,
        };
        let line_wait = hypervisor.us_to_ticks(LINE_WAIT_US);
        let timer_slack = hypervisor.us_to_ticks(TIMER_SLACK_US);
        let (heartbeat, watch) = (Mutex::new(None), Mutex::default());
        let machine = Self { vm, ram, shared: Mutex::new(shared), slots, heartbeat, watch, line_wait, timer_slack };
        machine.watch_heartbeat(hypervisor, config.watchdog_us);
        Ok(machine)
    }
}

/// vCPU `index`, and its local APIC.
fn new_vcpu(
    hypervisor: &Hypervisor,
    root: &mut VmxRoot,
    request: &BuildRequest<'_>,
    ram: &GuestRam,
    entry: &EntryState,
    index: u16,
    boot_time_unix_s: u64,
) -> Result<(VcpuTask, LocalApic), String> {
    let has = |control| root.plan().has(control);
    let (bootstrap, id) = (index == 0, u32::from(index));
    let tsc_hz = hypervisor.clock.tsc_hz();
    let cpuid_config = CpuidConfig {
        tsc_hz,
        vcpu_count: u32::from(request.config.vcpus),
        apic_id: id,
        rdtscp: has(SecondaryProcBased::ENABLE_RDTSCP),
        invpcid: has(SecondaryProcBased::ENABLE_INVPCID),
        steal_time: request.config.steal_time,
    };
    let cpu = CpuState::new(&cpu::cpuid, cpuid_config, 0);
    let setting = Setting {
        tsc_hz,
        memory_bytes: request.config.memory_max(),
        boot_time_unix_s,
        rdtscp: cpuid_config.rdtscp,
        invpcid: cpuid_config.invpcid,
        steal_time: cpuid_config.steal_time,
        host: Vec::new(),
    };
    let page = VirtualApicPage::new(Owner::vm(request.slot, FrameKind::Vcpu)).map_err(|error| error.to_string())?;
    let mut apic = LocalApic::new(Box::new(page.clone()), id, cpu.cpuid.physical_bits());
    apic.set_virtual_interrupt_delivery(root.plan().apicv);
    if bootstrap {
        apic.enter_virtual_wire_mode();
    }
    let state = if bootstrap { *entry } else { EntryState::reset() };
    let hw = Vcpu::new(root, request.slot, ram, page, &state).map_err(|error| error.to_string())?;
    let traced_exits = if bootstrap { request.traced_exits } else { 0 };
    if traced_exits != 0 {
        trace::print_setting(&setting, cpuid_config);
    }
    let context = Context {
        index,
        cpu,
        gprs: state.gprs,
        activity: Activity::at_power_on(bootstrap),
        pending: None,
        deferred: None,
        trail: ExitTrail::new(),
        local_exits: LocalExits::default(),
        apic_base: 0,
        origin: 0,
        traced_exits,
        interrupt_status_stale: true,
        steal_before: None,
        steal_ns: 0,
        sign: false,
    };
    Ok((VcpuTask { hw, context }, apic))
}

fn load_image(
    config: &VmConfig,
    ramdisk: Option<&Ramdisk<'_>>,
    memory: &mut dyn GuestMemory,
) -> Result<EntryState, String> {
    let ramdisk = ramdisk.ok_or_else(|| {
        format!(
            "the boot image has no ramdisk, so there is no image \"{}\"; make one with `cargo xtask image`",
            config.image
        )
    })?;
    let in_frames = |len_bytes| HostBuffer::new(len_bytes).ok();
    let file = |name: &str| ramdisk.file_in(name, in_frames).map_err(|error| error.to_string());
    let image = file(&config.image)?;
    let initrd = config.initrd.as_deref().map(file).transpose()?;
    let files = config.modules.iter().map(|module| file(&module.file)).collect::<Result<Vec<_>, _>>()?;
    let modules: Vec<Module<'_>> = config
        .modules
        .iter()
        .zip(&files)
        .map(|(module, bytes)| Module { name: &module.file, cmdline: &module.cmdline, bytes })
        .collect();
    let request = LoadRequest {
        name: &config.image,
        image: &image,
        format: config.format,
        load_address: config.load_address,
        entry: config.entry,
        cmdline: &config.cmdline,
        initrd: initrd.as_deref(),
        modules: &modules,
        memory_len_bytes: config.memory_max(),
        balloon: config.balloon,
        vcpus: u32::from(config.vcpus),
    };
    load(&request, memory).map_err(|error| error.to_string())
}
