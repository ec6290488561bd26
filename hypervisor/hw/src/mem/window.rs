//! The window: all physical memory, mapped writable and never executable at one offset by the boot loader.
//!
//! Only this crate looks through it, and only at frames that it owns by [`super::HostFrame`] or that a guest's EPT maps.

use core::arch::asm;
use lamina_core::memory::{Frame, HostPhysAddr, PAGE_SIZE};
use spin::Once;

/// Where the window lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// Linear address of physical address 0.
    pub(crate) offset: u64,
    /// Bytes of physical memory it shows, from 0 on.
    pub(crate) len_bytes: u64,
}

static WINDOW: Once<Window> = Once::new();

/// Says where the boot loader put the window.
///
/// # Safety
/// All physical memory below `len_bytes` must be mapped writable at `offset`, for good.
pub(crate) unsafe fn set_window(window: Window) {
    WINDOW.call_once(|| window);
}

/// The window's place; before [`set_window`] an empty one.
pub(crate) fn window() -> Window {
    WINDOW.get().copied().unwrap_or(Window { offset: 0, len_bytes: 0 })
}

/// A pointer to `hpa` in the window, if all of `len_bytes` bytes from there on are in it. To use it is another matter:
/// the frame must be the caller's.
pub(crate) fn ptr_to(hpa: HostPhysAddr, len_bytes: u64) -> Option<*mut u8> {
    let window = window();
    let end = hpa.0.checked_add(len_bytes)?;
    (end <= window.len_bytes).then(|| (window.offset + hpa.0) as *mut u8)
}

/// Fills `count` frames from `frame` on with zeros, by the widest string store.
///
/// # Safety
/// The frames must be the caller's alone: in use by nobody, mapped in no guest.
pub(crate) unsafe fn zero_frame(frame: Frame, count: u64) {
    let Some(start) = ptr_to(frame.base(), count * PAGE_SIZE) else { return };
    // SAFETY: the range lies in the window and is the caller's.
    unsafe {
        asm!("rep stosq", inout("rcx") count * PAGE_SIZE / 8 => _, inout("rdi") start => _, in("rax") 0u64,
             options(nostack, preserves_flags));
    }
}

/// Copies `len` bytes between ordinary memory and guest memory, eight at a time. String instructions are no Rust
/// accesses, so the guest side may change meanwhile (it is guest RAM: its content is arbitrary anyway).
///
/// # Safety
/// `from` must be readable and `to` writable for `len` bytes; the ranges must not overlap.
pub(crate) unsafe fn copy_words(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: forwarded to the caller. The direction flag is clear by the ABI.
    unsafe {
        asm!("rep movsq", "mov ecx, {tail:e}", "rep movsb",
             tail = in(reg) len % 8,
             inout("rcx") len / 8 => _, inout("rsi") from => _, inout("rdi") to => _,
             options(nostack, preserves_flags));
    }
}
