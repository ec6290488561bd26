//! Raw binaries: copied to an address and entered there in 16-, 32- or 64-bit mode.
//!
//! All data registers are zero at entry, RSP too: the guest brings its stack. In 64-bit mode the first 4 GiB and all
//! RAM are mapped onto themselves.

use super::layout::HIGH_MEMORY;
use super::space::{FOUR_GIB, GuestSpace};
use super::{EntryState, KERNEL, LoadError, LoadRequest, tables};
use crate::memory::GuestPhysAddr;

/// The mode in which a flat binary is entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    Real16,
    Protected32,
    Long64,
}

impl Mode {
    const fn format(self) -> &'static str {
        match self {
            Self::Real16 => "flat16",
            Self::Protected32 => "flat32",
            Self::Long64 => "flat64",
        }
    }

    /// Where the binary goes when the configuration names no address: where a BIOS puts a boot sector, or at 1 MiB.
    const fn default_load_address(self) -> u64 {
        match self {
            Self::Real16 => 0x7c00,
            Self::Protected32 | Self::Long64 => HIGH_MEMORY,
        }
    }

    /// The end of what the mode addresses.
    const fn limit(self) -> u64 {
        match self {
            Self::Real16 => HIGH_MEMORY,
            Self::Protected32 | Self::Long64 => FOUR_GIB,
        }
    }
}

pub(super) fn load(request: &LoadRequest<'_>, mode: Mode, space: &mut GuestSpace<'_>) -> Result<EntryState, LoadError> {
    let format = mode.format();
    for (given, option) in [
        (!request.cmdline.is_empty(), "command line"),
        (request.initrd.is_some(), "initrd"),
        (!request.modules.is_empty(), "modules"),
    ] {
        if given {
            return Err(LoadError::NotTaken { format, option });
        }
    }
    let address = request.load_address.unwrap_or(mode.default_load_address());
    let entry = request.entry.unwrap_or(address);
    space.write(KERNEL, address, request.image)?;
    let reach =
        |what| LoadError::OutOfReach { what, gpa: GuestPhysAddr(entry), format, limit: GuestPhysAddr(mode.limit()) };
    if entry >= mode.limit() || !space.ram().is_ram(GuestPhysAddr(entry)) {
        return Err(reach("entry"));
    }
    match mode {
        Mode::Real16 => {
            // CS:IP with the 64 KiB block in CS: 0x7c00 is 0000:7c00 as a BIOS does it, 0x20000 is 2000:0000.
            let [low, high, block, _] = u32::try_from(entry).map_err(|_| reach("entry"))?.to_le_bytes();
            Ok(EntryState::real_mode(u16::from(block) << 12, u16::from_le_bytes([low, high])))
        }
        Mode::Protected32 => {
            let entry = u32::try_from(entry).map_err(|_| reach("entry"))?;
            Ok(EntryState::protected_mode(entry, tables::place_gdt(space, false)?))
        }
        Mode::Long64 => {
            let gdtr = tables::place_gdt(space, true)?;
            Ok(EntryState::long_mode(entry, tables::place_identity_map(space)?, gdtr))
        }
    }
}
