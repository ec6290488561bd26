//! What each CPU has of its own: a block that its GS base points to, in the hypervisor and after every VM exit.
//!
//! The boot CPU's block is there from the start; every other CPU gets one before it starts, and is listed once it is online.

use super::gdt::Tables;
use super::msr;
use alloc::boxed::Box;
use core::arch::asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use lamina_core::sched::{CpuId, MAX_CPUS};
use spin::Once;

/// A CPU's own block.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct CpuBlock {
    /// The block's own address: what `gs:[0]` is.
    this: AtomicPtr<CpuBlock>,
    id: CpuId,
    apic_id: AtomicU32,
    /// The CPU has stopped for another one's panic.
    stopped: AtomicBool,
    /// GDT and TSS.
    pub(super) tables: Once<Tables>,
}

static BOOT_BLOCK: CpuBlock = CpuBlock::new(CpuId(0));
/// The blocks of the CPUs that are online, by their numbers.
static ONLINE: [Once<&'static CpuBlock>; MAX_CPUS] = [const { Once::new() }; MAX_CPUS];

impl CpuBlock {
    const fn new(id: CpuId) -> Self {
        Self {
            this: AtomicPtr::new(core::ptr::null_mut()),
            id,
            apic_id: AtomicU32::new(0),
            stopped: AtomicBool::new(false),
            tables: Once::new(),
        }
    }

    /// The CPU's number.
    pub(crate) const fn id(&self) -> CpuId {
        self.id
    }

    /// Its local APIC ID.
    pub(crate) fn apic_id(&self) -> u32 {
        self.apic_id.load(Ordering::Relaxed)
    }

    pub(crate) fn set_apic_id(&self, id: u32) {
        self.apic_id.store(id, Ordering::Relaxed);
    }

    /// Whether it has stopped for another CPU's panic.
    pub(crate) fn has_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    pub(super) fn set_stopped(&self) {
        self.stopped.store(true, Ordering::Release);
    }
}

/// A block for a CPU that is to start; it is the CPU's for good.
pub(crate) fn new_block(id: CpuId) -> &'static CpuBlock {
    Box::leak(Box::new(CpuBlock::new(id)))
}

/// Gives the boot CPU its block. To be called before anything asks for [`this`].
pub(crate) fn adopt_boot_block() {
    adopt(&BOOT_BLOCK);
    set_online(&BOOT_BLOCK);
}

/// Makes this block the one of the CPU that calls.
pub(crate) fn adopt(block: &'static CpuBlock) {
    block.this.store(core::ptr::from_ref(block).cast_mut(), Ordering::Release);
    load_gs_base(block);
}

/// Loads GS base anew: to load the GS selector clears it.
pub(super) fn load_gs_base(block: &'static CpuBlock) {
    // SAFETY: GS base is used by `this` and `this_block` alone, which want exactly this: the address of a block that stays.
    unsafe { msr::write(msr::GS_BASE, core::ptr::from_ref(block) as u64) };
}

/// Lists the CPU with this block among those that are online.
pub(crate) fn set_online(block: &'static CpuBlock) {
    if let Some(place) = ONLINE.get(usize::from(block.id.0)) {
        place.call_once(|| block);
    }
}

/// The number of the CPU that calls.
#[inline]
#[must_use]
pub fn this() -> CpuId {
    let id: u16;
    // SAFETY: GS base is the CPU's block from its first instructions in Rust on.
    unsafe {
        asm!("mov {:x}, gs:[{}]", out(reg) id, const offset_of!(CpuBlock, id), options(nostack, readonly, preserves_flags));
    }
    CpuId(id)
}

/// The block of the CPU that calls.
pub(crate) fn this_block() -> &'static CpuBlock {
    let this: *const CpuBlock;
    // SAFETY: as in `this`; the block says where it is itself, and is there for good.
    unsafe {
        asm!("mov {}, gs:[{}]", out(reg) this, const offset_of!(CpuBlock, this), options(nostack, readonly, preserves_flags));
        &*this
    }
}

/// The block of this CPU, if it is online.
pub(crate) fn online(cpu: CpuId) -> Option<&'static CpuBlock> {
    ONLINE.get(usize::from(cpu.0))?.get().copied()
}

/// The blocks of all CPUs that are online. They are numbered without gaps.
pub(crate) fn online_cpus() -> impl Iterator<Item = &'static CpuBlock> {
    ONLINE.iter().map_while(|place| place.get().copied())
}

/// How many CPUs are online: the boot CPU and those that [`crate::smp::start`] started.
#[must_use]
pub fn online_count() -> usize {
    online_cpus().count()
}

/// How many CPUs have stopped for another one's panic.
#[must_use]
pub fn stopped_count() -> usize {
    online_cpus().filter(|block| block.has_stopped()).count()
}
