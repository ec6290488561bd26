//! A started VM: its RAM, its devices, its vCPU, and how they run.
//!
//! [`Guest::run`] is the path of every VM exit: deliver what is due, enter, decide ([`exit::handle`]), apply. It allocates
//! and formats nothing but a crash report.

use crate::flight;
use crate::serial_port::SerialPort;
use crate::trace;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use lamina_core::boot::ramdisk::Ramdisk;
use lamina_core::config::VmConfig;
use lamina_core::device::board::{Board, BoardConfig};
use lamina_core::device::lapic::{ApicMode, LocalApic};
use lamina_core::ept::PageSize;
use lamina_core::exit::replay::Setting;
use lamina_core::exit::{self, Event, EventKind, ExitCounters, Merged, Outcome, RawExit, StopReason};
use lamina_core::loader::{LoadRequest, Module, RamLayout, load};
use lamina_core::memory::{FrameKind, GuestMemory, GuestPhysAddr};
use lamina_core::time::TickClock;
use lamina_core::vmx::controls::{ApicAccess, SecondaryProcBased};
use lamina_core::vmx::{ExitReason, GuestField};
use lamina_core::x86::cpuid::CpuidConfig;
use lamina_core::x86::{CpuChanges, CpuState, Gprs, VcpuState};
use lamina_hw::cpu;
use lamina_hw::mem::{GuestRam, HostBuffer, Owner, PopulateError};
use lamina_hw::vmx::{CurrentVmcs, EntryFailure, Vcpu, VirtualApicPage, VmxRoot};
use lamina_hw::{serial, time};

/// VMs with at least this much memory get it in 2 MiB pages; smaller ones would waste more than they gain.
const LARGE_PAGES_FROM_BYTES: u64 = 32 << 20;
/// The IOAPIC's ID in the MADT: behind the APIC IDs of the vCPUs.
const IOAPIC_ID: u8 = 1;

/// Why [`Guest::run`] came back.
#[derive(Debug)]
pub(crate) enum SliceEnd {
    /// Its time was up.
    Preempted,
    /// The host has something to do; the rest of the slice is still the guest's.
    HostWork,
    /// The guest gave the rest of its slice away.
    Yielded,
    /// The guest waits for an interrupt.
    Halted,
    /// The VM is over.
    Stopped(StopReason),
}

/// What the vCPU is doing between its instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Activity {
    Active,
    /// It executed HLT; with RFLAGS.IF clear only an NMI ends that.
    Halted {
        interruptible: bool,
    },
}

/// A VM that was started.
pub(crate) struct Guest {
    machine: Machine,
    vcpu: Vcpu,
    /// What a recording of it begins with.
    setting: Setting,
    cpuid_config: CpuidConfig,
}

/// All of the VM but the vCPU's hardware part, which is lent out while it runs.
struct Machine {
    ram: GuestRam,
    board: Board,
    apic: LocalApic,
    cpu: CpuState,
    gprs: Gprs,
    /// Host TSC at which the guest's clock stood at 0.
    origin: u64,
    activity: Activity,
    /// To be delivered before anything else: an exception, or an event whose delivery an exit cut short.
    pending: Option<Event>,
    /// An interrupt whose delivery raised an exception, which goes first.
    deferred: Option<Event>,
    /// Exits that are yet to be printed as records.
    traced_exits: u32,
    /// The page's IRR or ISR may differ from the VMCS's guest interrupt status.
    interrupt_status_stale: bool,
}

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

    /// Has the first `exits` exits printed as records. To be called before the guest runs.
    pub(crate) fn trace(&mut self, exits: u32) {
        self.machine.traced_exits = exits;
        if exits != 0 {
            trace::print_setting(&self.setting, self.cpuid_config);
        }
    }

    /// Runs the vCPU until the host TSC reaches `until`, or something else ends its turn.
    pub(crate) fn run(
        &mut self,
        root: &mut VmxRoot,
        until: u64,
        port: &mut SerialPort,
        counters: &mut ExitCounters,
    ) -> SliceEnd {
        let mut vmcs = root.load(&mut self.vcpu);
        let machine = &mut self.machine;
        loop {
            let host_now = time::now();
            if host_now >= until {
                return SliceEnd::Preempted;
            }
            let now = host_now.wrapping_sub(machine.origin);
            machine.service(now);
            if machine.activity != Activity::Active && !machine.wakes() {
                return SliceEnd::Halted;
            }
            machine.activity = Activity::Active;
            if machine.apic.take_init() {
                return SliceEnd::Stopped(StopReason::Reset);
            }
            if let Err(reason) = machine.apply_changes(&mut vmcs) {
                return SliceEnd::Stopped(reason);
            }
            machine.deliver(&mut vmcs);

            // The timer starts anew at each entry, with what is left.
            let due = machine.next_deadline().map_or(until, |deadline| until.min(deadline));
            vmcs.set_preemption_timer(due.saturating_sub(host_now));
            let exit = match vmcs.run(&machine.ram, &mut machine.gprs) {
                Ok(exit) => exit,
                Err(failure) => return SliceEnd::Stopped(StopReason::Crashed(explain_entry_failure(failure))),
            };
            flight::exit(exit.reason);
            if let Some(end) = machine.handle(&exit, &mut vmcs, port, counters) {
                return end;
            }
        }
    }

    /// Lets the timers that are due at host time `host_now` fire; whether the vCPU has something to do then.
    pub(crate) fn wake_if_due(&mut self, host_now: u64) -> bool {
        self.machine.service(host_now.wrapping_sub(self.machine.origin));
        self.machine.activity == Activity::Active || self.machine.wakes()
    }

    /// The host TSC at which the next timer of the VM is due.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.machine.next_deadline()
    }

    /// Gives the guest's serial port as many of `bytes` as it has room for; answers with how many.
    pub(crate) fn type_bytes(&mut self, bytes: &[u8]) -> usize {
        self.machine.board.serial_input(bytes)
    }

    /// Presses the ACPI power button.
    pub(crate) fn press_power_button(&mut self) {
        let now = time::now().wrapping_sub(self.machine.origin);
        self.machine.board.power_button(now);
    }

    /// The guest's clock stood still for so many ticks.
    pub(crate) fn skip_time(&mut self, ticks: u64) {
        self.machine.origin = self.machine.origin.wrapping_add(ticks);
        self.machine.cpu.set_tsc_adjust(self.machine.cpu.tsc_adjust());
    }

    /// Takes the vCPU's registers out of this CPU, if they are in it.
    pub(crate) fn unload(&mut self, root: &mut VmxRoot) {
        root.unload(&mut self.vcpu);
    }
}

impl Machine {
    /// Runs the timers that are due and routes what the interrupt controllers say to each other.
    fn service(&mut self, now: u64) {
        if self.apic.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.apic.expire(now);
            self.interrupt_status_stale = true;
        }
        if self.board.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.board.expire(now);
        }
        while let Some(vector) = self.apic.take_eoi() {
            self.board.ioapic_eoi(vector);
        }
        while let Some(message) = self.board.take_message().or_else(|| self.apic.take_ipi()) {
            if self.apic.matches(&message) {
                self.apic.accept(&message);
                self.interrupt_status_stale = true;
            }
        }
    }

    /// Whether something ends the vCPU's HLT.
    fn wakes(&self) -> bool {
        let interruptible = self.activity == Activity::Halted { interruptible: true };
        self.pending.is_some()
            || self.apic.nmi_pending()
            || interruptible && (self.apic.pending_vector().is_some() || self.external_interrupt_pending())
    }

    /// Whether the PIC's output reaches the CPU: through LINT0 in ExtINT mode.
    fn external_interrupt_pending(&self) -> bool {
        self.board.pic_pending() && self.apic.accepts_extint()
    }

    /// The host TSC of the next timer.
    fn next_deadline(&self) -> Option<u64> {
        let deadlines = [self.apic.next_deadline(), self.board.next_deadline()];
        deadlines.into_iter().flatten().min().map(|deadline| deadline.saturating_add(self.origin))
    }

    /// Brings to the hardware what exit handlers changed in the processor's state.
    fn apply_changes(&mut self, vmcs: &mut CurrentVmcs<'_>) -> Result<(), StopReason> {
        let changes = self.cpu.take_changes();
        if changes.is_empty() {
            return Ok(());
        }
        if changes.contains(CpuChanges::XCR0) {
            vmcs.set_xcr0(self.cpu.xcr0());
        }
        if changes.contains(CpuChanges::TSC_AUX) {
            vmcs.set_tsc_aux(self.cpu.tsc_aux());
        }
        if changes.contains(CpuChanges::TSC_OFFSET) {
            vmcs.set_tsc_offset(self.cpu.tsc_adjust().wrapping_sub(self.origin));
        }
        if changes.contains(CpuChanges::FLUSH_TLB) {
            vmcs.flush_tlb();
        }
        if changes.contains(CpuChanges::APIC_MODE) {
            let access = match self.apic.mode() {
                ApicMode::Disabled => ApicAccess::Disabled,
                ApicMode::XApic => ApicAccess::Memory,
                ApicMode::X2Apic => ApicAccess::Msrs,
            };
            self.interrupt_status_stale = true;
            vmcs.set_apic_access(&mut self.ram, access)
                .map_err(|error| StopReason::Crashed(format!("no memory to map the APIC-access page: {error}")))?;
        }
        Ok(())
    }

    /// Has the next VM entry deliver the most urgent event, and the guest exit when it can take the next one.
    fn deliver(&mut self, vmcs: &mut CurrentVmcs<'_>) {
        let virtual_delivery = vmcs.has_apicv() && self.apic.mode() != ApicMode::Disabled;
        if vmcs.has_apicv() && self.interrupt_status_stale {
            // A disabled APIC delivers nothing, but the CPU goes by this status alone: its registers are clear then.
            let vector = |vector: Option<u8>| u64::from(vector.unwrap_or(0));
            let status = vector(self.apic.highest_isr()) << 8 | vector(self.apic.highest_irr());
            vmcs.write(GuestField::InterruptStatus, status);
            self.interrupt_status_stale = false;
        }
        if virtual_delivery && self.apic.take_eoi_exit_bitmap_changed() {
            vmcs.set_eoi_exit_bitmap(self.apic.eoi_exit_bitmap());
        }

        let mut taken = false;
        if let Some(event) = self.pending.take() {
            vmcs.inject(event);
            taken = true;
        }
        if self.apic.nmi_pending() {
            const BLOCKING_NMI: u64 = 0b1011;
            if !taken && vmcs.read(GuestField::InterruptibilityState) & BLOCKING_NMI == 0 {
                self.apic.take_nmi();
                vmcs.inject(Event::NMI);
                taken = true;
            }
            vmcs.set_nmi_window_exiting(self.apic.nmi_pending());
        } else {
            vmcs.set_nmi_window_exiting(false);
        }

        let external = self.external_interrupt_pending();
        let vector = if external || virtual_delivery { None } else { self.apic.pending_vector() };
        let mut waiting = external || vector.is_some() || self.deferred.is_some();
        if waiting && !taken && can_take_interrupt(vmcs) {
            if let Some(event) = self.deferred.take() {
                vmcs.inject(event);
                vmcs.set_interrupt_window_exiting(external || vector.is_some());
                return;
            }
            let vector = match vector {
                Some(vector) => {
                    self.apic.acknowledge(vector);
                    vector
                }
                None => {
                    self.apic.acknowledge_extint();
                    self.board.pic_acknowledge()
                }
            };
            let kind = EventKind::ExternalInterrupt;
            vmcs.inject(Event { kind, vector, error_code: None, instruction_len: 0 });
            waiting = self.external_interrupt_pending() || (!virtual_delivery && self.apic.pending_vector().is_some());
        }
        vmcs.set_interrupt_window_exiting(waiting);
        if !virtual_delivery {
            vmcs.set_tpr_threshold(self.apic.tpr_threshold());
        }
    }

    /// Decides about an exit and applies what follows. `Some` ends the vCPU's turn.
    fn handle(
        &mut self,
        exit: &RawExit,
        vmcs: &mut CurrentVmcs<'_>,
        port: &mut SerialPort,
        counters: &mut ExitCounters,
    ) -> Option<SliceEnd> {
        let reason = ExitReason::of(exit.reason);
        let mut host_work = false;
        match reason {
            Some(ExitReason::ExternalInterrupt) => {
                let [vector, ..] = exit.interruption_info.to_le_bytes();
                cpu::acknowledge(vector);
                host_work = serial::has_input();
            }
            Some(ExitReason::ExceptionOrNmi) if is_debug_exception(exit) => vmcs.set_debug_status(exit.qualification),
            Some(ExitReason::InvalidGuestState) => {
                let reason = explain_invalid_state(vmcs);
                return Some(SliceEnd::Stopped(StopReason::Crashed(reason)));
            }
            _ => {}
        }
        if exit::nmi_unblocked_by_iret(exit) {
            vmcs.set_nmi_blocking(true);
        }
        let now = time::now().wrapping_sub(self.origin);
        let mut cr2 = vmcs.cr2();
        let old_cr2 = cr2;
        let layout = *self.ram.layout();
        let mut ctx = exit::Context {
            state: vmcs,
            gprs: &mut self.gprs,
            cr2: &mut cr2,
            memory: &mut self.ram,
            ram: &layout,
            board: &mut self.board,
            apic: &mut self.apic,
            cpu: &mut self.cpu,
            now,
            counters,
        };
        let outcome = if self.traced_exits == 0 {
            exit::handle(exit, &mut ctx)
        } else {
            trace::handle(exit, &mut ctx, &mut self.traced_exits)
        };
        if cr2 != old_cr2 {
            vmcs.set_cr2(cr2);
        }
        match reason {
            Some(ExitReason::Cpuid | ExitReason::ExternalInterrupt | ExitReason::PreemptionTimer) => {}
            Some(ExitReason::IoInstruction) => {
                self.interrupt_status_stale = true;
                self.board.serial_output(|bytes| port.guest_wrote(bytes));
            }
            _ => self.interrupt_status_stale = true,
        }
        let end = self.apply(outcome, exit, vmcs);
        if end.is_none() && host_work { Some(SliceEnd::HostWork) } else { end }
    }

    /// Applies the outcome of an exit: the one place where consequences happen.
    fn apply(&mut self, outcome: Outcome, exit: &RawExit, vmcs: &mut CurrentVmcs<'_>) -> Option<SliceEnd> {
        match outcome {
            Outcome::Resume => {
                self.pending = exit::interrupted_event(exit);
                None
            }
            Outcome::Advance => {
                exit::advance(vmcs, exit.instruction_len);
                None
            }
            Outcome::Inject(event) => self.inject(event, exit::interrupted_event(exit), vmcs),
            Outcome::Populate(gpa) => {
                self.pending = exit::interrupted_event(exit);
                self.populate(gpa)
            }
            Outcome::Yield => Some(SliceEnd::Yielded),
            Outcome::Halt => {
                exit::advance(vmcs, exit.instruction_len);
                const INTERRUPT_FLAG: u64 = 1 << 9;
                let interruptible = vmcs.read(GuestField::Rflags) & INTERRUPT_FLAG != 0;
                self.activity = Activity::Halted { interruptible };
                None
            }
            Outcome::Stop(reason) => Some(SliceEnd::Stopped(reason)),
        }
    }

    /// Has `event` delivered next. It may have come up while `interrupted` was being delivered.
    fn inject(&mut self, event: Event, interrupted: Option<Event>, vmcs: &mut CurrentVmcs<'_>) -> Option<SliceEnd> {
        match interrupted.map_or(Merged::Inject(event), |interrupted| exit::merge(interrupted, event)) {
            Merged::Inject(event) => {
                self.pending = Some(event);
                // An interrupt or NMI was acknowledged already: it must not be lost when an exception goes first.
                match interrupted.map(|event| event.kind) {
                    Some(EventKind::ExternalInterrupt) => self.deferred = interrupted,
                    Some(EventKind::Nmi) => {
                        self.apic.return_nmi();
                        vmcs.set_nmi_blocking(false);
                    }
                    _ => {}
                }
                None
            }
            Merged::TripleFault => {
                let rip = vmcs.read(GuestField::Rip);
                let report = format!("triple fault: vector {} on top of a double fault; RIP {rip:#x}", event.vector);
                Some(SliceEnd::Stopped(StopReason::Crashed(report)))
            }
        }
    }

    fn populate(&mut self, gpa: GuestPhysAddr) -> Option<SliceEnd> {
        let report = match self.ram.populate(gpa) {
            Ok(()) => return None,
            Err(error @ PopulateError::OutOfFrames(_)) => {
                format!("{error}; the page at guest-physical {gpa} could not be backed")
            }
            Err(error) => error.to_string(),
        };
        Some(SliceEnd::Stopped(StopReason::Crashed(report)))
    }
}

/// "An external interrupt [...] can be delivered if RFLAGS.IF is 1 and there is no blocking by STI or by MOV SS" (SDM volume 3,
/// "Maskable Hardware Interrupts", "Interruptibility State").
fn can_take_interrupt(vmcs: &CurrentVmcs<'_>) -> bool {
    const INTERRUPT_FLAG: u64 = 1 << 9;
    const BLOCKING_STI_OR_MOV_SS: u64 = 0b11;
    vmcs.read(GuestField::Rflags) & INTERRUPT_FLAG != 0
        && vmcs.read(GuestField::InterruptibilityState) & BLOCKING_STI_OR_MOV_SS == 0
}

/// Whether this exception exit is for a #DB, INT1's aside.
fn is_debug_exception(exit: &RawExit) -> bool {
    exit.interruption_info & 0x7ff == (EventKind::HardwareException as u32) << 8 | 1
}

#[cold]
fn explain_entry_failure(failure: EntryFailure) -> String {
    match failure {
        EntryFailure::Invalid => "VM entry failed: no current VMCS; this is a bug of the hypervisor's".to_string(),
        EntryFailure::InstructionError(number) => {
            let text = lamina_core::vmx::instruction_error(number).unwrap_or("not in the manual");
            format!("VM entry failed: VM-instruction error {number}: {text}; this is a bug of the hypervisor's")
        }
    }
}

#[cold]
fn explain_invalid_state(vmcs: &CurrentVmcs<'_>) -> String {
    let broken = vmcs.broken_rules();
    format!("VM entry failed, invalid guest state: {}", broken.join("; "))
}

fn load_image(
    config: &VmConfig,
    ramdisk: Option<&Ramdisk<'_>>,
    memory: &mut dyn GuestMemory,
) -> Result<lamina_core::loader::EntryState, String> {
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
    };
    load(&request, memory).map_err(|error| error.to_string())
}
