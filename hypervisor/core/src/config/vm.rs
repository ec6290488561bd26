//! A `[[vm]]` table: one VM, as the file or the console's `vm create` describes it.

use super::host::flag;
use super::units::{parse_address, parse_duration_us, parse_number, parse_size};
use super::{ValueError, keys};
use crate::loader::Format;
use crate::memory::PAGE_SIZE;
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
    /// The time slice in microseconds.
    pub quantum_us: u64,
    /// Where in the order of starting; lower is earlier.
    pub order: u32,
    /// Whether to start it at boot.
    pub autostart: bool,
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
        Quantum = "quantum" Time,
        Order = "order" Number,
        Autostart = "autostart" Flag,
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
            quantum_us: 10_000,
            order: 100,
            autostart: true,
            format: Format::Auto,
            load_address: None,
            entry: None,
        }
    }

    /// Sets one key from its text; [`VmKey::Modules`] adds one module, its file and command line parted by a space.
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
            VmKey::Quantum => self.quantum_us = quantum(text)?,
            VmKey::Order => self.order = parse_number(text)?,
            VmKey::Autostart => self.autostart = flag(text)?,
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
        Ok(())
    }

    /// The files of the ramdisk that the VM needs, each with the key that names it.
    pub fn files(&self) -> impl Iterator<Item = (VmKey, &str)> {
        let modules = self.modules.iter().map(|module| (VmKey::Modules, module.file.as_str()));
        core::iter::once((VmKey::Image, self.image.as_str()))
            .chain(self.initrd.as_deref().map(|file| (VmKey::Initrd, file)))
            .chain(modules)
    }
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
