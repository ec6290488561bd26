//! The host's accesses to a guest's RAM.

use super::super::window::{copy_words, ptr_to};
use super::{GuestRam, Mapping};
use lamina_core::memory::{GuestMemory, GuestPhysAddr, MemoryError, PAGE_SIZE};

/// Through a shared reference: the vCPUs of a VM have its RAM in common.
impl GuestMemory for &GuestRam {
    fn read(&self, gpa: GuestPhysAddr, bytes: &mut [u8]) -> Result<(), MemoryError> {
        let len_bytes = bytes.len() as u64;
        if !self.layout.contains(gpa, len_bytes) {
            return Err(MemoryError::OutsideRam { gpa, len_bytes });
        }
        for (at, offset, part) in parts(gpa, bytes.len()) {
            let target = &mut bytes[offset..offset + part];
            let mapping = self.mapping.lock();
            match mapping.backing(at) {
                // SAFETY: the page is this VM's as long as the lock is held, and lies in the window to its end; `target` is ordinary
                // memory of `part` bytes.
                Some(source) => unsafe { copy_words(source, target.as_mut_ptr(), part) },
                None => target.fill(0),
            }
        }
        Ok(())
    }

    fn write(&mut self, gpa: GuestPhysAddr, bytes: &[u8]) -> Result<(), MemoryError> {
        let len_bytes = bytes.len() as u64;
        if !self.layout.contains(gpa, len_bytes) {
            return Err(MemoryError::OutsideRam { gpa, len_bytes });
        }
        for (at, _, _) in parts(gpa, bytes.len()) {
            self.populate(at, false).map_err(|_| MemoryError::OutOfFrames { gpa: at })?;
        }
        for (at, offset, part) in parts(gpa, bytes.len()) {
            let mapping = self.mapping.lock();
            // A page that another vCPU has given away meanwhile takes no writes: its content is lost either way.
            if let Some(target) = mapping.backing(at) {
                // SAFETY: as in `read`, the other way round.
                unsafe { copy_words(bytes[offset..].as_ptr(), target, part) };
            }
        }
        Ok(())
    }

    fn discard(&mut self, gpa: GuestPhysAddr) {
        self.discard_page(gpa);
    }

    fn flush_discards(&mut self) {
        self.free_discarded();
    }
}

/// Splits `len` bytes from `gpa` on at page boundaries: (start of the part, its offset in the whole, its length).
fn parts(gpa: GuestPhysAddr, len: usize) -> impl Iterator<Item = (GuestPhysAddr, usize, usize)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let at = GuestPhysAddr(gpa.0 + done as u64);
        let part = ((PAGE_SIZE - at.page_offset()) as usize).min(len - done);
        let offset = done;
        done += part;
        (part > 0).then_some((at, offset, part))
    })
}

impl Mapping {
    /// The window pointer behind `gpa`, if it is backed. Valid as long as the lock is held.
    fn backing(&self, gpa: GuestPhysAddr) -> Option<*mut u8> {
        ptr_to(self.translate(gpa)?, PAGE_SIZE - gpa.page_offset())
    }
}
