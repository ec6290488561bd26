//! A guest out of its configuration: RAM with the image in it, devices at power-on, a vCPU at its first instruction.

use super::{Activity, Guest, Machine};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use lamina_core::boot::ramdisk::Ramdisk;
use lamina_core::config::VmConfig;
use lamina_core::device::board::{Board, BoardConfig};
use lamina_core::device::lapic::LocalApic;
use lamina_core::ept::PageSize;
use lamina_core::exit::replay::Setting;
use lamina_core::loader::{EntryState, LoadRequest, Module, RamLayout, load};
use lamina_core::memory::{FrameKind, GuestMemory};
use lamina_core::time::TickClock;
use lamina_core::vmx::controls::SecondaryProcBased;
use lamina_core::x86::CpuState;
use lamina_core::x86::cpuid::CpuidConfig;
use lamina_hw::mem::{GuestRam, HostBuffer, Owner};
use lamina_hw::vmx::{Vcpu, VirtualApicPage, VmxRoot};
use lamina_hw::{cpu, time};

/// VMs with at least this much memory get it in 2 MiB pages; smaller ones would waste more than they gain.
const LARGE_PAGES_FROM_BYTES: u64 = 32 << 20;
/// The IOAPIC's ID in the MADT: behind the APIC IDs of the vCPUs.
const IOAPIC_ID: u8 = 1;

impl Guest {
    /// Builds the VM in `slot` and loads its image.
    ///
    /// # Errors
    /// One line for the operator: what is wrong with an image, or that memory is short. Nothing is left behind.
    pub(crate) fn new(
        root: &mut VmxRoot,
        slot: u16,
        config: &VmConfig,
        ramdisk: Option<&Ramdisk<'_>>,
        clock: TickClock,
        boot_time_unix_s: u64,
    ) -> Result<Self, String> {
        let layout = RamLayout::new(config.memory_bytes);
        let largest = if config.memory_bytes >= LARGE_PAGES_FROM_BYTES { PageSize::Size2M } else { PageSize::Size4K };
        let features = root.capabilities().ept_features();
        let mut ram = GuestRam::new(slot, layout, features, largest).map_err(|error| error.to_string())?;
        let entry = load_image(config, ramdisk, &mut ram)?;

        let owner = Owner::vm(slot, FrameKind::Vcpu);
        let page = VirtualApicPage::new(owner).map_err(|error| error.to_string())?;
        let has = |control| root.plan().has(control);
        let cpuid_config = CpuidConfig {
            tsc_hz: clock.tsc_hz(),
            vcpu_count: 1,
            apic_id: 0,
            rdtscp: has(SecondaryProcBased::ENABLE_RDTSCP),
            invpcid: has(SecondaryProcBased::ENABLE_INVPCID),
        };
        let cpu = CpuState::new(&cpu::cpuid, cpuid_config, 0);
        let setting = Setting {
            tsc_hz: clock.tsc_hz(),
            memory_bytes: config.memory_bytes,
            boot_time_unix_s,
            rdtscp: cpuid_config.rdtscp,
            invpcid: cpuid_config.invpcid,
            host: Vec::new(),
        };
        let mut apic = LocalApic::new(Box::new(page.clone()), 0, cpu.cpuid.physical_bits());
        apic.set_virtual_interrupt_delivery(root.plan().apicv);
        apic.enter_virtual_wire_mode();
        let board = Board::new(&BoardConfig {
            clock,
            ram_len_bytes: config.memory_bytes,
            boot_time_unix_s,
            ioapic_id: IOAPIC_ID,
            balloon: false,
        });
        let vcpu = Vcpu::new(root, slot, &ram, page, &entry).map_err(|error| error.to_string())?;
        let machine = Machine {
            ram,
            board,
            apic,
            cpu,
            gprs: entry.gprs,
            origin: time::now(),
            activity: Activity::Active,
            pending: None,
            deferred: None,
            traced_exits: 0,
            interrupt_status_stale: true,
        };
        Ok(Self { machine, vcpu, setting, cpuid_config })
    }
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
        memory_len_bytes: config.memory_bytes,
        vcpus: 1,
        balloon: false,
    };
    load(&request, memory).map_err(|error| error.to_string())
}
