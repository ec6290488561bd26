//! The guest's linear address space: its own page tables, walked in software.

use super::{Bus, Fault, privilege_level};
use crate::bus::Width;
use crate::exit::Event;
use crate::memory::{GuestLinearAddr, GuestMemory, GuestPhysAddr, MemoryError, PAGE_SIZE};
use crate::vmx::GuestField;
use crate::x86::VcpuState;
use crate::x86::paging::{AccessKind, LinearAccess, Paging, WalkFault};

/// RFLAGS: alignment check, which lifts SMAP.
const AC: u64 = 1 << 18;

/// A translation that is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Known {
    linear_page: u64,
    gpa_page: u64,
    writable: bool,
}

/// The linear address space of a vCPU at the time of an exit. It lives for one exit: what it remembers is what the CPU
/// could have had in its TLB.
#[derive(Clone, Debug)]
pub struct AddressSpace {
    paging: Paging,
    user: bool,
    alignment_check: bool,
    known: [Option<Known>; 2],
    /// Which of `known` the next translation replaces.
    next: usize,
}

impl AddressSpace {
    /// The vCPU's address space, at its privilege level. `physical_bits` is its MAXPHYADDR.
    #[must_use]
    pub fn of(state: &dyn VcpuState, physical_bits: u8) -> Self {
        Self {
            paging: Paging::of(state, u32::from(physical_bits)),
            user: privilege_level(state) == 3,
            alignment_check: state.read(GuestField::Rflags) & AC != 0,
            known: [None; 2],
            next: 0,
        }
    }

    /// Notes a translation that the CPU reported itself: the page of `linear` is the page of `gpa`.
    pub fn remember(&mut self, linear: u64, gpa: GuestPhysAddr, writable: bool) {
        if let Some(slot) = self.known.get_mut(self.next) {
            *slot = Some(Known { linear_page: linear / PAGE_SIZE, gpa_page: gpa.0 / PAGE_SIZE, writable });
        }
        self.next = (self.next + 1) % self.known.len();
    }

    /// Translates a linear address.
    ///
    /// # Errors
    /// [`Fault::PageFault`].
    pub fn translate(
        &mut self,
        memory: &dyn GuestMemory,
        linear: u64,
        access: AccessKind,
    ) -> Result<GuestPhysAddr, Fault> {
        if access != AccessKind::Fetch {
            let page = linear / PAGE_SIZE;
            let fits = |known: &&Known| known.linear_page == page && (known.writable || access == AccessKind::Read);
            if let Some(known) = self.known.iter().flatten().find(fits) {
                return Ok(GuestPhysAddr(known.gpa_page * PAGE_SIZE + linear % PAGE_SIZE));
            }
        }
        let walk = LinearAccess { kind: access, user: self.user, alignment_check: self.alignment_check };
        let gpa = self.paging.walk(memory, GuestLinearAddr(linear), walk).map_err(|fault| match fault {
            WalkFault::PageFault { gla, error_code } => Fault::PageFault { linear: gla.0, error_code },
            WalkFault::NotCanonical { .. } => Fault::Exception(Event::GENERAL_PROTECTION),
            WalkFault::Memory(_) => Fault::NoPageTable(GuestLinearAddr(linear)),
        })?;
        if access != AccessKind::Fetch {
            self.remember(linear, gpa, access == AccessKind::Write);
        }
        Ok(gpa)
    }

    /// Translates the `width` bytes at `linear`: the address of the first, and of the next page's first byte if they
    /// cross into it.
    ///
    /// # Errors
    /// [`Fault::PageFault`], with nothing accessed.
    pub fn translate_span(
        &mut self,
        memory: &dyn GuestMemory,
        linear: u64,
        width: Width,
        access: AccessKind,
    ) -> Result<Span, Fault> {
        let first = self.translate(memory, linear, access)?;
        let in_first = PAGE_SIZE - linear % PAGE_SIZE;
        let second = if in_first < width.bytes() {
            Some((in_first, self.translate(memory, linear.wrapping_add(in_first), access)?))
        } else {
            None
        };
        Ok(Span { first, second, width })
    }
}

/// Where the bytes of one access are: in one page, or in two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    first: GuestPhysAddr,
    /// How many bytes are in the first page, and where the others begin.
    second: Option<(u64, GuestPhysAddr)>,
    width: Width,
}

impl Span {
    /// The guest-physical address of byte `index`.
    const fn byte(&self, index: u64) -> GuestPhysAddr {
        match self.second {
            Some((in_first, second)) if index >= in_first => GuestPhysAddr(second.0.wrapping_add(index - in_first)),
            _ => GuestPhysAddr(self.first.0.wrapping_add(index)),
        }
    }

    /// The pieces of it that are in one page each: where they are, and which bytes of the access.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (GuestPhysAddr, core::ops::Range<usize>)> + use<> {
        let len = usize::from(self.width as u8);
        let split = self.second.map_or(len, |(in_first, _)| usize::try_from(in_first).unwrap_or(len).min(len));
        let second = self.second.map(|(_, gpa)| (gpa, split..len));
        core::iter::once((self.first, 0..split)).chain(second)
    }

    /// Reads it; byte by byte where it crosses a page, as the CPU splits such an access.
    pub(crate) fn read(&self, bus: &mut dyn Bus) -> u64 {
        if self.second.is_none() {
            return bus.read(self.first, self.width);
        }
        (0..self.width.bytes())
            .rev()
            .fold(0, |value, index| value << 8 | bus.read(self.byte(index), Width::Byte) & 0xff)
    }

    /// Writes it.
    pub(crate) fn write(&self, bus: &mut dyn Bus, value: u64) -> Result<(), Fault> {
        // A device can want another page than the one written to: its driver's rings.
        let unbacked = |gpa: GuestPhysAddr| {
            move |error: MemoryError| match error {
                MemoryError::OutOfFrames { gpa } => Fault::Unbacked(gpa),
                MemoryError::OutsideRam { .. } => Fault::Unbacked(gpa),
            }
        };
        if self.second.is_none() {
            return bus.write(self.first, self.width, value & self.width.mask()).map_err(unbacked(self.first));
        }
        (0..self.width.bytes()).try_for_each(|index| {
            let gpa = self.byte(index);
            bus.write(gpa, Width::Byte, value >> (8 * index) & 0xff).map_err(unbacked(gpa))
        })
    }
}
