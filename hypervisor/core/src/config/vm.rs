//! A `[[vm]]` table: one VM, as the file or the console's `vm create` describes it.

use super::host::flag;
use super::units::{parse_address, parse_duration_us, parse_number, parse_size};
use super::{ValueError, keys};
use crate::loader::Format;
use crate::memory::PAGE_SIZE;
use crate::sched::{CpuSet, PRIORITY_DEFAULT, PRIORITY_MAX, WEIGHT_DEFAULT, WEIGHT_MAX};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// The longest name of a VM, in bytes.
pub(super) const NAME_LEN_MAX: usize = 31;
/// The longest path of a file in the ramdisk: what a ustar header holds.
const PATH_LEN_MAX: usize = 255;
/// The least memory of a VM: everything below 1 MiB has its fixed place on a PC.
pub(super) const MEMORY_MIN_BYTES: u64 = 1 << 20;
/// The most memory of a VM. Far above any host's, and far below what 4-level EPT reaches.
pub(super) const MEMORY_MAX_BYTES: u64 = 1 << 40;
/// The shortest time slice: a switch must stay a small part of it.
pub(super) const QUANTUM_MIN_US: u64 = 100;
/// The longest time slice: the others wait that long.
pub(super) const QUANTUM_MAX_US: u64 = 1_000_000;

/// The most vCPUs of a VM.
pub const VCPUS_MAX: u16 = 64;
/// The most replicas of a description.
pub const REPLICAS_MAX: u32 = 1000;
/// The longest grace time of a stop.
pub(super) const GRACE_MAX_US: u64 = 3_600_000_000;
/// The highest cap and reservation: all vCPUs that a VM can have, in percent of a CPU.
const PERCENT_MAX: u32 = VCPUS_MAX as u32 * 100;

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
    /// How many vCPUs, 1 to [`VCPUS_MAX`].
    pub vcpus: u16,
    /// The time slice in microseconds.
    pub quantum_us: u64,
    /// The weight of its share of the CPUs, 1 to [`WEIGHT_MAX`].
    pub weight: u32,
    /// The most that its vCPUs get together, in percent of one CPU; `None` is no limit.
    pub cap_percent: Option<u32>,
    /// What they get at least, in percent of one CPU.
    pub reservation_percent: u32,
    /// 0 to [`PRIORITY_MAX`]; higher is more urgent.
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

pub(super) fn in_range(number: u32, what: &'static str, min: u32, max: u32) -> Result<u32, ValueError> {
    if (min..=max).contains(&number) { Ok(number) } else { Err(ValueError::Range { what, min, max }) }
}

fn vcpus(text: &str) -> Result<u16, ValueError> {
    let number = in_range(parse_number(text)?, "the number of vCPUs", 1, VCPUS_MAX.into())?;
    Ok(u16::try_from(number).unwrap_or(VCPUS_MAX))
}

fn priority(text: &str) -> Result<u8, ValueError> {
    let number = in_range(parse_number(text)?, "a priority", 0, PRIORITY_MAX.into())?;
    Ok(u8::try_from(number).unwrap_or(PRIORITY_MAX))
}

fn cap(text: &str) -> Result<Option<u32>, ValueError> {
    if text == "none" { Ok(None) } else { percent(text, "a cap", 1).map(Some) }
}

/// Percent of a CPU, with or without the sign.
fn percent(text: &str, what: &'static str, min: u32) -> Result<u32, ValueError> {
    in_range(parse_number(text.strip_suffix('%').unwrap_or(text))?, what, min, PERCENT_MAX)
}

/// A grace time of a stop, in microseconds.
///
/// # Errors
/// What is wrong with it.
pub fn grace(text: &str) -> Result<u64, ValueError> {
    let us = parse_duration_us(text)?;
    if us <= GRACE_MAX_US { Ok(us) } else { Err(ValueError::GraceRange) }
}

fn name(text: &str) -> Result<String, ValueError> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if text.is_empty() || text.len() > NAME_LEN_MAX || text.starts_with('-') || !text.bytes().all(allowed) {
        return Err(ValueError::NotAName);
    }
    Ok(text.to_string())
}

/// A path in the ramdisk has no spaces: in `modules` a space ends it.
fn file(text: &str) -> Result<String, ValueError> {
    let bad = |c: char| c.is_control() || c.is_whitespace() || c == '\\';
    let part_ok = |part: &str| !part.is_empty() && part != "." && part != "..";
    if text.len() > PATH_LEN_MAX || text.contains(bad) || !text.split('/').all(part_ok) {
        return Err(ValueError::NotAFile);
    }
    Ok(text.to_string())
}

fn one_line(text: &str) -> Result<String, ValueError> {
    if text.contains(char::is_control) { Err(ValueError::NotOneLine) } else { Ok(text.to_string()) }
}

fn memory(text: &str) -> Result<u64, ValueError> {
    let bytes = parse_size(text)?;
    if !(MEMORY_MIN_BYTES..=MEMORY_MAX_BYTES).contains(&bytes) {
        return Err(ValueError::MemoryRange);
    }
    if !bytes.is_multiple_of(PAGE_SIZE) {
        return Err(ValueError::MemoryNotPages);
    }
    Ok(bytes)
}

/// Whether a VM can have this much memory while it runs.
pub(super) fn memory_between(bytes: u64, min_bytes: u64, max_bytes: u64) -> Result<(), ValueError> {
    if (min_bytes..=max_bytes).contains(&bytes) {
        Ok(())
    } else {
        Err(ValueError::MemoryBounds { min_bytes, max_bytes })
    }
}

fn quantum(text: &str) -> Result<u64, ValueError> {
    let us = parse_duration_us(text)?;
    if (QUANTUM_MIN_US..=QUANTUM_MAX_US).contains(&us) { Ok(us) } else { Err(ValueError::QuantumRange) }
}

fn format(text: &str) -> Result<Format, ValueError> {
    Ok(match text {
        "auto" => Format::Auto,
        "linux" => Format::Linux,
        "pvh" => Format::Pvh,
        "multiboot" => Format::Multiboot,
        "flat16" => Format::Flat16,
        "flat32" => Format::Flat32,
        "flat64" => Format::Flat64,
        _ => return Err(ValueError::NotOneOf { allowed: "auto, linux, pvh, multiboot, flat16, flat32, flat64" }),
    })
}
