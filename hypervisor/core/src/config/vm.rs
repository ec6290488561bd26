//! A `[[vm]]` table: one VM, as the file or the console's `vm create` describes it.

use super::host::flag;
use super::units::{parse_address, parse_number};
use super::value::{
    ACCESS_LOOP, NAME_LEN_MAX, REPLICAS_MAX, access_loop, cap, file, format, grace, in_range, memory, name, on_fault,
    one_line, percent, priority, quantum, restart_limit, vcpus, watchdog,
};
use super::{ValueError, keys};
use crate::fault::{OnFault, RestartLimit};
use crate::loader::Format;
use crate::sched::{CpuSet, PRIORITY_DEFAULT, WEIGHT_DEFAULT, WEIGHT_MAX};
use alloc::string::String;
use alloc::vec::Vec;

/// A file handed to the guest beside its kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModuleConfig {
    /// The file in the ramdisk.
    pub file: String,
    /// Its command line.
    pub cmdline: String,
}

/// One VM's description, every value of it checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VmConfig {
    /// The VM's name: unique, 1 to 31 of `a-z 0-9 -`.
    pub name: String,
    /// The kernel: a file of the ramdisk.
    pub image: String,
    /// The initial RAM disk: a file of the ramdisk.
    pub initrd: Option<String>,
    /// The kernel's command line.
    pub cmdline: String,
    /// Further files, in order.
    pub modules: Vec<ModuleConfig>,
    /// Memory in bytes, a multiple of 4 KiB.
    pub memory_bytes: u64,
    /// What the VM keeps when memory is taken back, as given; [`VmConfig::memory_min`] has the default.
    pub memory_min_bytes: Option<u64>,
    /// What it can be given while it runs, as given; [`VmConfig::memory_max`] has the default.
    pub memory_max_bytes: Option<u64>,
    /// Whether the VM has a balloon device.
    pub balloon: bool,
    /// Whether it is told how much time others took from it; see [`crate::x86::cpuid`].
    pub steal_time: bool,
    /// How many vCPUs, 1 to [`VCPUS_MAX`](super::VCPUS_MAX).
    pub vcpus: u16,
    /// The time slice in microseconds.
    pub quantum_us: u64,
    /// The weight of its share of the CPUs, 1 to [`WEIGHT_MAX`].
    pub weight: u32,
    /// The most that its vCPUs get together, in percent of one CPU; `None` is no limit.
    pub cap_percent: Option<u32>,
    /// What they get at least, in percent of one CPU.
    pub reservation_percent: u32,
    /// 0 to [`PRIORITY_MAX`](crate::sched::PRIORITY_MAX); higher is more urgent.
    pub priority: u8,
    /// The CPUs that it may run on; never empty.
    pub affinity: CpuSet,
    /// Where in the order of starting; lower is earlier.
    pub order: u32,
    /// Whether to start it at boot.
    pub autostart: bool,
    /// VMs or groups that are started before it.
    pub after: Vec<String>,
    /// The name that it shares with other VMs.
    pub group: Option<String>,
    /// How many VMs this describes, 1 to [`REPLICAS_MAX`]; see [`VmConfig::expand`].
    pub replicas: u32,
    /// How long `vm stop` waits for it, in microseconds; `None` is the host's default.
    pub stop_grace_us: Option<u64>,
    /// What follows a fault of it.
    pub on_fault: OnFault,
    /// How many restarts within which time are the most.
    pub restart_limit: RestartLimit,
    /// How many accesses in a row to memory that is not there are a fault; `None` is any number.
    pub access_loop: Option<u64>,
    /// For how long of its own time it may show no sign of life, in microseconds; `None` is for ever. See
    /// [`crate::vm::heartbeat`].
    pub watchdog_us: Option<u64>,
    /// What the image is.
    pub format: Format,
    /// Where a flat image goes; the loader's default if not given.
    pub load_address: Option<u64>,
    /// Where a flat image is entered; its load address if not given.
    pub entry: Option<u64>,
}

keys! {
    /// A key of a `[[vm]]` table.
    VmKey {
        Name = "name" Text,
        Image = "image" Text,
        Initrd = "initrd" Text,
        Cmdline = "cmdline" Text,
        Modules = "modules" List,
        Memory = "memory" Size,
        MemoryMin = "memory_min" Size,
        MemoryMax = "memory_max" Size,
        Balloon = "balloon" Flag,
        StealTime = "steal_time" Flag,
        Vcpus = "vcpus" Number,
        Quantum = "quantum" Time,
        Weight = "weight" Number,
        Cap = "cap" NumberOr("none or a number, the percent of a CPU"),
        Reservation = "reservation" Number,
        Priority = "priority" Number,
        Affinity = "affinity" NumberOr("CPUs in quotes, such as \"0-3,5\" or \"all\""),
        Order = "order" Number,
        Autostart = "autostart" Flag,
        After = "after" List,
        Group = "group" Text,
        Replicas = "replicas" Number,
        StopGrace = "stop_grace" Time,
        OnFault = "on_fault" Text,
        RestartLimit = "restart_limit" Text,
        AccessLoop = "access_loop" NumberOr("none or a number of accesses"),
        Watchdog = "watchdog" Time,
        Format = "format" Text,
        LoadAddress = "load_address" Number,
        Entry = "entry" Number,
    }
}

impl VmConfig {
    /// A VM with this name and image, all else as if not given.
    ///
    /// # Errors
    /// If either is not what it should be.
    pub fn new(name: &str, image: &str) -> Result<Self, ValueError> {
        let mut vm = Self::blank();
        vm.set(VmKey::Name, name)?;
        vm.set(VmKey::Image, image)?;
        Ok(vm)
    }

    /// The defaults, with no name and no image yet.
    pub(super) const fn blank() -> Self {
        Self {
            name: String::new(),
            image: String::new(),
            initrd: None,
            cmdline: String::new(),
            modules: Vec::new(),
            memory_bytes: 64 << 20,
            memory_min_bytes: None,
            memory_max_bytes: None,
            balloon: true,
            steal_time: true,
            vcpus: 1,
            quantum_us: 10_000,
            weight: WEIGHT_DEFAULT,
            cap_percent: None,
            reservation_percent: 0,
            priority: PRIORITY_DEFAULT,
            affinity: CpuSet::ALL,
            order: 100,
            autostart: true,
            after: Vec::new(),
            group: None,
            replicas: 1,
            stop_grace_us: None,
            on_fault: OnFault::Stop,
            restart_limit: RestartLimit::DEFAULT,
            access_loop: Some(ACCESS_LOOP),
            watchdog_us: None,
            format: Format::Auto,
            load_address: None,
            entry: None,
        }
    }

    /// Sets one key from its text; [`VmKey::Modules`] adds one module, its file and command line parted by a space, and
    /// [`VmKey::After`] adds one name.
    ///
    /// # Errors
    /// What is wrong with the text; nothing was changed.
    pub fn set(&mut self, key: VmKey, text: &str) -> Result<(), ValueError> {
        match key {
            VmKey::Name => self.name = name(text)?,
            VmKey::Image => self.image = file(text)?,
            VmKey::Initrd => self.initrd = Some(file(text)?),
            VmKey::Cmdline => self.cmdline = one_line(text)?,
            VmKey::Modules => {
                let (path, cmdline) = text.split_once(' ').unwrap_or((text, ""));
                self.modules.push(ModuleConfig { file: file(path)?, cmdline: one_line(cmdline)? });
            }
            VmKey::Memory => self.memory_bytes = memory(text)?,
            VmKey::MemoryMin => self.memory_min_bytes = Some(memory(text)?),
            VmKey::MemoryMax => self.memory_max_bytes = Some(memory(text)?),
            VmKey::Balloon => self.balloon = flag(text)?,
            VmKey::StealTime => self.steal_time = flag(text)?,
            VmKey::Vcpus => self.vcpus = vcpus(text)?,
            VmKey::Quantum => self.quantum_us = quantum(text)?,
            VmKey::Weight => self.weight = in_range(parse_number(text)?, "a weight", 1, WEIGHT_MAX)?,
            VmKey::Cap => self.cap_percent = cap(text)?,
            VmKey::Reservation => self.reservation_percent = percent(text, "a reservation", 0)?,
            VmKey::Priority => self.priority = priority(text)?,
            VmKey::Affinity => self.affinity = text.parse()?,
            VmKey::Order => self.order = parse_number(text)?,
            VmKey::Autostart => self.autostart = flag(text)?,
            VmKey::After => self.after.push(name(text)?),
            VmKey::Group => self.group = Some(name(text)?),
            VmKey::Replicas => {
                self.replicas = in_range(parse_number(text)?, "the number of replicas", 1, REPLICAS_MAX)?
            }
            VmKey::StopGrace => self.stop_grace_us = Some(grace(text)?),
            VmKey::OnFault => self.on_fault = on_fault(text)?,
            VmKey::RestartLimit => self.restart_limit = restart_limit(text)?,
            VmKey::AccessLoop => self.access_loop = access_loop(text)?,
            VmKey::Watchdog => self.watchdog_us = watchdog(text)?,
            VmKey::Format => self.format = format(text)?,
            VmKey::LoadAddress => self.load_address = Some(parse_address(text)?),
            VmKey::Entry => self.entry = Some(parse_address(text)?),
        }
        Ok(())
    }

    /// Checks what no key can check alone.
    ///
    /// # Errors
    /// The key that does not go with the others, and why.
    pub fn check(&self) -> Result<(), (VmKey, ValueError)> {
        let flat = matches!(self.format, Format::Flat16 | Format::Flat32 | Format::Flat64);
        for (key, given) in [(VmKey::LoadAddress, self.load_address), (VmKey::Entry, self.entry)] {
            if given.is_some() && !flat {
                return Err((key, ValueError::NotFlat));
            }
        }
        let longest = replica_name(&self.name, self.replicas);
        if self.replicas > 1 && longest.len() > NAME_LEN_MAX {
            return Err((VmKey::Replicas, ValueError::ReplicaName { last: longest }));
        }
        self.check_memory()?;
        self.check_cpu()
    }

    /// Checks the bounds of the memory against it.
    fn check_memory(&self) -> Result<(), (VmKey, ValueError)> {
        let memory_bytes = self.memory_bytes;
        if self.memory_min() > memory_bytes {
            return Err((VmKey::MemoryMin, ValueError::MinAboveMemory { memory_bytes }));
        }
        if self.memory_max() < memory_bytes {
            return Err((VmKey::MemoryMax, ValueError::MaxBelowMemory { memory_bytes }));
        }
        Ok(())
    }

    fn check_cpu(&self) -> Result<(), (VmKey, ValueError)> {
        let most = u32::from(self.vcpus) * 100;
        if self.reservation_percent > most {
            return Err((VmKey::Reservation, ValueError::ReservationAboveVcpus { most }));
        }
        match self.cap_percent {
            Some(cap) if self.reservation_percent > cap => {
                Err((VmKey::Reservation, ValueError::ReservationAboveCap { cap }))
            }
            _ => Ok(()),
        }
    }

    /// What the VM keeps when memory is taken back from it, in bytes.
    #[must_use]
    pub fn memory_min(&self) -> u64 {
        self.memory_min_bytes.unwrap_or(self.memory_bytes)
    }

    /// What the VM can be given while it runs, in bytes: the size of its guest-physical memory.
    #[must_use]
    pub fn memory_max(&self) -> u64 {
        self.memory_max_bytes.unwrap_or(self.memory_bytes)
    }

    /// The VMs that this describes: itself, or its replicas `NAME-1` to `NAME-n`, which are a group called `NAME` unless
    /// another group is given.
    #[must_use]
    pub fn expand(&self) -> Vec<Self> {
        if self.replicas <= 1 {
            return Vec::from([self.clone()]);
        }
        let group = Some(self.group.clone().unwrap_or_else(|| self.name.clone()));
        let replica =
            |number| Self { name: replica_name(&self.name, number), group: group.clone(), replicas: 1, ..self.clone() };
        (1..=self.replicas).map(replica).collect()
    }

    /// Whether this VM names `other`, or its group, in its `after`.
    #[must_use]
    pub fn comes_after(&self, other: &Self) -> bool {
        self.after.iter().any(|name| *name == other.name || Some(name) == other.group.as_ref())
    }

    /// The files of the ramdisk that the VM needs, each with the key that names it.
    pub fn files(&self) -> impl Iterator<Item = (VmKey, &str)> {
        let modules = self.modules.iter().map(|module| (VmKey::Modules, module.file.as_str()));
        core::iter::once((VmKey::Image, self.image.as_str()))
            .chain(self.initrd.as_deref().map(|file| (VmKey::Initrd, file)))
            .chain(modules)
    }
}

fn replica_name(name: &str, number: u32) -> String {
    alloc::format!("{name}-{number}")
}
