//! Guest images: from the bytes of a file to guest memory and the boot vCPU's first state.
//!
//! [`load`] takes a [`LoadRequest`] and gives an [`EntryState`]. One file per format: `linux` (bzImage), `pvh`,
//! `multiboot`, `flat`; `elf` reads program headers for the two before the last. `layout` says where RAM is,
//! `space` keeps what was placed where, `acpi` makes the guest's tables. Everything in an image is the operator's
//! or the guest's word and is checked before use.

mod acpi;
mod elf;
mod entry;
mod error;
mod flat;
pub mod layout;
mod linux;
mod multiboot;
mod pvh;
mod space;
mod tables;
#[cfg(test)]
mod tests;

pub use elf::ElfError;
pub use entry::EntryState;
pub use error::LoadError;
pub use layout::RamLayout;
pub use linux::LinuxError;
pub use multiboot::MultibootError;

use crate::memory::GuestMemory;
use core::fmt;
use layout::HIGH_MEMORY;
use space::GuestSpace;

/// The most vCPUs that the MADT's 8-bit APIC IDs can name (255 is the broadcast ID).
pub const MAX_VCPUS: u32 = 255;

/// The name under which the image's own memory is claimed and spoken of.
const KERNEL: &str = "kernel image";

/// What an image is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// Found out from the image: Linux, then PVH, then multiboot.
    #[default]
    Auto,
    /// A Linux bzImage.
    Linux,
    /// An ELF file with a Xen PVH entry note.
    Pvh,
    /// A multiboot 1 kernel.
    Multiboot,
    /// A raw binary entered in real-address mode.
    Flat16,
    /// A raw binary entered in 32-bit protected mode.
    Flat32,
    /// A raw binary entered in 64-bit mode.
    Flat64,
}

impl fmt::Display for Format {
    /// The name that the configuration gives it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Linux => "linux",
            Self::Pvh => "pvh",
            Self::Multiboot => "multiboot",
            Self::Flat16 => "flat16",
            Self::Flat32 => "flat32",
            Self::Flat64 => "flat64",
        })
    }
}

/// A file handed to the guest beside its kernel.
#[derive(Clone, Copy, Debug)]
pub struct Module<'a> {
    /// The file's name: the first word of a multiboot module's string.
    pub name: &'a str,
    /// What follows the name; the whole command line of a PVH module.
    pub cmdline: &'a str,
    /// The file.
    pub bytes: &'a [u8],
}

/// What is to be loaded, and for what VM.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadRequest<'a> {
    /// The image's name: the first word of a multiboot command line.
    pub name: &'a str,
    /// The image file.
    pub image: &'a [u8],
    /// What it is.
    pub format: Format,
    /// Where a flat image goes; 0x7c00 (16-bit) or 1 MiB if not given.
    pub load_address: Option<u64>,
    /// Where a flat image is entered; its load address if not given.
    pub entry: Option<u64>,
    /// The command line, without the program's name.
    pub cmdline: &'a str,
    /// Linux's initial RAM disk; the first module of a PVH or multiboot kernel.
    pub initrd: Option<&'a [u8]>,
    /// Further files for a PVH or multiboot kernel.
    pub modules: &'a [Module<'a>],
    /// The VM's memory.
    pub memory_len_bytes: u64,
    /// The VM's vCPUs, 1 to [`MAX_VCPUS`]; vCPU n has APIC ID n.
    pub vcpus: u32,
    /// Whether the VM has a memory balloon, which the ACPI tables then describe.
    pub balloon: bool,
}

/// Loads an image and all that goes with it (modules, command line, memory map, ACPI tables) into `memory`, which
/// must be untouched, so that it reads as zero.
///
/// # Errors
/// [`LoadError`], in the words for the operator. `memory` may be partly written then and is to be thrown away.
pub fn load(request: &LoadRequest<'_>, memory: &mut dyn GuestMemory) -> Result<EntryState, LoadError> {
    check(request)?;
    let mut space = GuestSpace::new(RamLayout::new(request.memory_len_bytes), memory);
    let rsdp = acpi::place(&mut space, request.vcpus, request.balloon)?;
    match request.format {
        Format::Auto if linux::is_bzimage(request.image) => linux::load(request, rsdp, &mut space),
        Format::Auto if pvh::has_note(request.image) => pvh::load(request, rsdp, &mut space),
        Format::Auto if multiboot::has_header(request.image) => multiboot::load(request, &mut space),
        Format::Auto => Err(LoadError::Undetected),
        Format::Linux => linux::load(request, rsdp, &mut space),
        Format::Pvh => pvh::load(request, rsdp, &mut space),
        Format::Multiboot => multiboot::load(request, &mut space),
        Format::Flat16 => flat::load(request, flat::Mode::Real16, &mut space),
        Format::Flat32 => flat::load(request, flat::Mode::Protected32, &mut space),
        Format::Flat64 => flat::load(request, flat::Mode::Long64, &mut space),
    }
}

/// What is wrong with a request whatever its image is.
fn check(request: &LoadRequest<'_>) -> Result<(), LoadError> {
    if request.memory_len_bytes < HIGH_MEMORY {
        return Err(LoadError::MemoryTooSmall { memory_len_bytes: request.memory_len_bytes });
    }
    if !(1..=MAX_VCPUS).contains(&request.vcpus) {
        return Err(LoadError::VcpuCount { vcpus: request.vcpus });
    }
    let module_texts =
        request.modules.iter().flat_map(|m| [("module name", m.name), ("module command line", m.cmdline)]);
    for (what, text) in module_texts.chain([("image name", request.name), ("command line", request.cmdline)]) {
        if text.contains('\0') {
            return Err(LoadError::NulInText { what });
        }
    }
    if matches!(request.format, Format::Auto | Format::Linux | Format::Pvh | Format::Multiboot) {
        for (given, option) in [(request.load_address.is_some(), "load address"), (request.entry.is_some(), "entry")] {
            if given {
                return Err(LoadError::NotTaken { format: "self-describing (not flat)", option });
            }
        }
    }
    Ok(())
}
