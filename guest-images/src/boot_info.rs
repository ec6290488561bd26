//! What the loader told us: the command line and the memory map, from PVH's `hvm_start_info` ("x86/HVM direct
//! boot ABI" in Xen's public headers) or from the multiboot 1 information.

use core::ffi::CStr;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// What multiboot 1 leaves in EAX.
const MULTIBOOT_MAGIC: u32 = 0x2BAD_B002;
/// `hvm_start_info.magic`: "xEn3" with bit 7 of the first byte set.
const PVH_MAGIC: u32 = 0x336E_C578;

static MAGIC: AtomicU32 = AtomicU32::new(0);
static INFO: AtomicU32 = AtomicU32::new(0);

/// Who loaded us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loader {
    /// PVH direct boot.
    Pvh,
    /// Multiboot 1.
    Multiboot,
}

/// A piece of the memory map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// Guest-physical address.
    pub start: u64,
    /// Length in bytes.
    pub len_bytes: u64,
    /// The E820 type; 1 is RAM.
    pub kind: u32,
}

impl Region {
    /// The E820 type of usable RAM.
    pub const RAM: u32 = 1;
}

pub(crate) fn init(magic: u32, info: u32) {
    MAGIC.store(magic, Relaxed);
    INFO.store(info, Relaxed);
}

/// Which of the two protocols started this guest.
#[must_use]
pub fn loader() -> Loader {
    // PVH first: it leaves EAX undefined, and what a firmware has there may be the other's magic number. As the flags of
    // multiboot information, PVH's magic number would have reserved bits set.
    let magic = read_u32(INFO.load(Relaxed), 0);
    if magic == PVH_MAGIC {
        return Loader::Pvh;
    }
    if MAGIC.load(Relaxed) != MULTIBOOT_MAGIC {
        crate::fail!("started neither by multiboot nor by PVH: magic {magic:#x} at {:#x}", INFO.load(Relaxed));
    }
    Loader::Multiboot
}

/// The physical address of the information structure.
#[must_use]
pub fn info_address() -> u32 {
    INFO.load(Relaxed)
}

/// A double word of a structure of the loader.
fn read_u32(address: u32, offset: u32) -> u32 {
    let pointer = (address as usize + offset as usize) as *const u32;
    // SAFETY: the loader put the structure there; memory below 4 GiB is identity mapped, and the kernel does not
    // write to it while it runs.
    unsafe { pointer.read_unaligned() }
}

/// A quad word of a structure of the loader.
fn read_u64(address: u32, offset: u32) -> u64 {
    u64::from(read_u32(address, offset)) | u64::from(read_u32(address, offset + 4)) << 32
}

/// Physical address of the command line; 0 if there is none.
#[must_use]
pub fn command_line_address() -> u32 {
    let info = INFO.load(Relaxed);
    match loader() {
        Loader::Pvh => read_u32(info, 24),
        Loader::Multiboot if read_u32(info, 0) & 1 << 2 != 0 => read_u32(info, 16),
        Loader::Multiboot => 0,
    }
}

/// The command line, empty if there is none.
#[must_use]
pub fn command_line() -> &'static str {
    let address = command_line_address();
    if address == 0 {
        return "";
    }
    // SAFETY: both protocols promise a string that ends with a zero byte.
    let text = unsafe { CStr::from_ptr(address as usize as *const core::ffi::c_char) };
    text.to_str().unwrap_or("")
}

/// Physical address of the ACPI RSDP as PVH tells it; `None` where the loader names none.
#[must_use]
pub fn rsdp_address() -> Option<u64> {
    match loader() {
        Loader::Pvh => Some(read_u64(INFO.load(Relaxed), 32)).filter(|&address| address != 0),
        Loader::Multiboot => None,
    }
}

/// The number in `name=NUMBER` on the command line, decimal or `0x` hexadecimal.
#[must_use]
pub fn option(name: &str) -> Option<u64> {
    let value = command_line().split_ascii_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?;
    let number = match value.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => value.parse(),
    };
    match number {
        Ok(number) => Some(number),
        Err(error) => crate::fail!("command line: {name}={value}: {error}"),
    }
}

/// Physical address and length in bytes of the loader's memory map.
#[must_use]
pub fn memory_map_address() -> (u32, u32) {
    let info = INFO.load(Relaxed);
    match loader() {
        Loader::Pvh if read_u32(info, 4) >= 1 => (read_u64(info, 40) as u32, read_u32(info, 48) * 24),
        Loader::Pvh => (0, 0),
        Loader::Multiboot if read_u32(info, 0) & 1 << 6 != 0 => (read_u32(info, 48), read_u32(info, 44)),
        Loader::Multiboot => (0, 0),
    }
}

/// The memory map, in the loader's order.
pub fn memory_map() -> impl Iterator<Item = Region> {
    let (address, len_bytes) = memory_map_address();
    let multiboot = loader() == Loader::Multiboot;
    let mut offset = 0;
    core::iter::from_fn(move || {
        if offset >= len_bytes {
            return None;
        }
        // A multiboot entry is preceded by its size, which does not count itself.
        let (entry, next) =
            if multiboot { (offset + 4, offset + 4 + read_u32(address, offset)) } else { (offset, offset + 24) };
        offset = next;
        Some(Region {
            start: read_u64(address, entry),
            len_bytes: read_u64(address, entry + 8),
            kind: read_u32(address, entry + 16),
        })
    })
}

/// `mem_lower` and `mem_upper` of the multiboot information, in KiB; zero where the loader did not fill them in.
#[must_use]
pub fn multiboot_memory_kib() -> (u32, u32) {
    let info = INFO.load(Relaxed);
    if loader() != Loader::Multiboot || read_u32(info, 0) & 1 == 0 {
        return (0, 0);
    }
    (read_u32(info, 4), read_u32(info, 8))
}
