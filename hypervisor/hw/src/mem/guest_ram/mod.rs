//! A guest's RAM: its EPT and the frames behind it.
//!
//! Pages are backed on the first touch, with scrubbed frames. Where a page goes is decided in `lamina-core` ([`Ept`]); before
//! an entry is written here, the table of owners must say that the table and every frame that it would show to the guest
//! belong to this VM. So no error of the core can give a guest a frame that is not its own.
//!
//! Several CPUs run vCPUs in the same RAM. A CPU remembers translations while it is in a guest and afterwards, so a page that
//! was taken away is given to nobody else before every CPU has forgotten it: the RAM has a *generation*, which is raised
//! whenever an entry loses rights. A CPU that enters the guest invalidates what it remembers of an older one
//! ([`GuestRam::enter`]); one that is in the guest meanwhile is kicked out and waited for (`shoot_down`).

mod access;
mod tables;

use self::tables::Tables;
use super::frames::{alloc_zeroed, free, with_frames};
use super::{HostFrame, OutOfFrames, Owner};
use crate::vmx::invept;
use crate::{apic, cpu};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use lamina_core::ept::{Access, Ept, EptFeatures, MapError, MemoryType, PageSize};
use lamina_core::loader::RamLayout;
use lamina_core::memory::{Frame, FrameKind, GuestPhysAddr, HostPhysAddr};
use lamina_core::sched::CpuId;
use lamina_core::x86::speculation::Mitigation;
use spin::Mutex;
use thiserror::Error;

/// Guest-physical address of the local APIC's registers.
const LOCAL_APIC_BASE: GuestPhysAddr = GuestPhysAddr(0xfee0_0000);

/// Why a page was not backed with memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum PopulateError {
    /// The address is not RAM of this guest.
    #[error("guest-physical {0} is not RAM of this VM")]
    OutsideRam(GuestPhysAddr),
    /// The VM has as much memory as it may have.
    #[error("the VM has all the {0} frames of memory that it may have")]
    AtLimit(u64),
    /// The host's memory is used up.
    #[error("host memory is used up: {0}")]
    OutOfFrames(OutOfFrames),
}

/// Tells a [`GuestRam`] from every other one, past ones too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RamId(u64);

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// Frames that may wait to be freed together, after one shoot-down.
const DISCARDED_MAX: usize = 64;

/// The RAM of one VM. Dropping it takes the EPT down and gives every frame back.
#[derive(Debug)]
pub struct GuestRam {
    id: RamId,
    slot: u16,
    /// What the CPU takes for the local APIC's registers where it virtualises accesses to them. The guest never reaches its
    /// content.
    apic_access: HostFrame,
    layout: RamLayout,
    largest_page: PageSize,
    /// What a guest may do with a page larger than 4 KiB.
    large_access: Access,
    eptp: u64,
    mapping: Mutex<Mapping>,
    /// Frames that back the RAM.
    populated: AtomicU64,
    /// The most frames that may.
    limit: AtomicU64,
    /// Raised when an entry has lost rights.
    generation: AtomicU64,
    /// What each CPU knows of this RAM.
    views: Box<[View]>,
    /// Frames are waiting in `Mapping::discarded`.
    has_discarded: AtomicBool,
}

/// The tables, and frames that they no longer show.
#[derive(Debug)]
struct Mapping {
    tables: Tables,
    ept: Option<Ept>,
    /// Taken from the guest, but perhaps still remembered by a CPU.
    discarded: Vec<Frame>,
}

/// What one CPU knows of a RAM.
#[derive(Debug)]
struct View {
    /// It is in the guest, or about to enter it.
    in_guest: AtomicBool,
    /// The generation that its translations are of, at least. 0 is none: a new RAM may have the EPT root of one that is gone.
    seen: AtomicU64,
}

/// A CPU's stay in the guest.
#[derive(Debug)]
pub(crate) struct Presence<'a>(&'a View);

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        self.0.in_guest.store(false, Ordering::Release);
    }
}

impl GuestRam {
    /// RAM of this layout for the VM in `slot`, with nothing backed yet, on a machine whose `cpu_count` CPUs run guests.
    /// `largest_page` is what a first touch backs at most; see [`Mitigation::NxHugePages`] for what is executed from.
    ///
    /// # Errors
    /// [`OutOfFrames`] when there is no frame for the EPT's root.
    pub fn new(
        slot: u16,
        layout: RamLayout,
        features: EptFeatures,
        largest_page: PageSize,
        cpu_count: usize,
    ) -> Result<Self, OutOfFrames> {
        let apic_access = HostFrame::new(Owner::vm(slot, FrameKind::Vcpu))?;
        let mut tables = Tables { slot, apic_access: Frame::containing(apic_access.address()) };
        let ept = Ept::new(&mut tables, features)?;
        let largest_page = ept.supported_size(largest_page);
        let view = || View { in_guest: AtomicBool::new(false), seen: AtomicU64::new(0) };
        Ok(Self {
            id: RamId(NEXT_ID.fetch_add(1, Ordering::Relaxed)),
            slot,
            apic_access,
            layout,
            largest_page,
            large_access: if cpu::mitigations().is_on(Mitigation::NxHugePages) {
                Access::ReadWrite
            } else {
                Access::ReadWriteExecute
            },
            eptp: ept.eptp(),
            mapping: Mutex::new(Mapping { tables, ept: Some(ept), discarded: Vec::with_capacity(DISCARDED_MAX) }),
            populated: AtomicU64::new(0),
            limit: AtomicU64::new(u64::MAX),
            generation: AtomicU64::new(1),
            views: (0..cpu_count).map(|_| view()).collect(),
            has_discarded: AtomicBool::new(false),
        })
    }

    /// Tells this RAM from every other one.
    pub(crate) const fn id(&self) -> RamId {
        self.id
    }

    /// The APIC-access page's address, for the VMCS.
    pub(crate) fn apic_access_page(&self) -> HostPhysAddr {
        self.apic_access.address()
    }

    /// Which guest-physical addresses are RAM.
    #[must_use]
    pub const fn layout(&self) -> &RamLayout {
        &self.layout
    }

    /// The extended-page-table pointer of this RAM.
    #[must_use]
    pub const fn eptp(&self) -> u64 {
        self.eptp
    }

    /// Frames that back it.
    #[must_use]
    pub fn populated(&self) -> u64 {
        self.populated.load(Ordering::Relaxed)
    }

    /// How many frames may back it.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Sets how many frames may back it. What backs it already stays.
    pub fn set_limit(&self, frame_count: u64) {
        self.limit.store(frame_count, Ordering::Relaxed);
    }

    /// This CPU enters the guest: from here on it remembers no translation that is gone.
    ///
    /// # Panics
    /// If the CPU is none of those that the RAM was made for.
    pub(crate) fn enter(&self, cpu: CpuId) -> Presence<'_> {
        let Some(view) = self.views.get(usize::from(cpu.0)) else { panic!("CPU {} runs no guests", cpu.0) };
        // Who takes a page away raises the generation first and looks for CPUs in the guest then; here it is the other way
        // round. So either this CPU sees the new generation, or it is seen and kicked.
        view.in_guest.store(true, Ordering::SeqCst);
        let generation = self.generation.load(Ordering::SeqCst);
        if view.seen.load(Ordering::Relaxed) != generation {
            invept(self.eptp);
            view.seen.store(generation, Ordering::SeqCst);
        }
        Presence(view)
    }

    /// Has every CPU forget what it remembers of entries that were changed before this call.
    fn shoot_down(&self) {
        let target = self.generation.fetch_add(1, Ordering::SeqCst) + 1;
        let here = usize::from(cpu::this().0);
        let stale = |view: &View| view.in_guest.load(Ordering::SeqCst) && view.seen.load(Ordering::SeqCst) < target;
        let others = || (0_u16..).zip(&self.views).filter(|(number, _)| usize::from(*number) != here);
        for (number, _) in others().filter(|(_, view)| stale(view)) {
            apic::kick(CpuId(number));
        }
        // A CPU that was kicked leaves the guest at once and takes no lock before it is no longer seen here.
        for (_, view) in others() {
            while stale(view) {
                core::hint::spin_loop();
            }
        }
    }

    /// Backs the page at `gpa` with scrubbed memory: a large page where the whole of it is RAM, none of it is backed yet,
    /// the limit allows it and the host has such a run of frames. Where it is backed already by a page that a guest does not
    /// execute from, for it is too large, and `fetch` says that it is to, that page is split.
    ///
    /// # Errors
    /// [`PopulateError`]; nothing was changed.
    pub fn populate(&self, gpa: GuestPhysAddr, fetch: bool) -> Result<(), PopulateError> {
        if !self.layout.is_ram(gpa) {
            return Err(PopulateError::OutsideRam(gpa));
        }
        if let Mapping { tables, ept: Some(ept), .. } = &mut *self.mapping.lock()
            && let Some(found) = ept.translate(tables, gpa)
        {
            if fetch && found.size != PageSize::Size4K && self.large_access != Access::ReadWriteExecute {
                // No CPU is told: one that remembers the large page exits on a fetch, and forgets it then.
                let _ = ept.split(tables, gpa, PageSize::Size4K).map_err(PopulateError::OutOfFrames)?;
            }
            if fetch {
                ept.protect(tables, gpa, Access::ReadWriteExecute);
            }
            return Ok(());
        }
        let sizes = [PageSize::Size1G, PageSize::Size2M, PageSize::Size4K];
        for size in sizes.into_iter().filter(|size| size.bytes() <= self.largest_page.bytes()) {
            let base = GuestPhysAddr(gpa.0 & !(size.bytes() - 1));
            let smallest = size == PageSize::Size4K;
            if !smallest && !self.layout.contains(base, size.bytes()) {
                continue;
            }
            match self.back(base, size) {
                Ok(true) => return Ok(()),
                // Another vCPU was quicker.
                Ok(false) if smallest => return Ok(()),
                Err(error) if smallest => return Err(error),
                Ok(false) | Err(_) => {}
            }
        }
        Err(PopulateError::OutsideRam(gpa))
    }

    /// Backs one page of this size; whether it could be mapped, or something is mapped there.
    fn back(&self, base: GuestPhysAddr, size: PageSize) -> Result<bool, PopulateError> {
        let frame_count = size.frames();
        let limit = self.limit.load(Ordering::Relaxed);
        let counted = |populated: u64| populated.checked_add(frame_count).filter(|&populated| populated <= limit);
        if self.populated.fetch_update(Ordering::Relaxed, Ordering::Relaxed, counted).is_err() {
            return Err(PopulateError::AtLimit(limit));
        }
        let give_back = |error| {
            self.populated.fetch_sub(frame_count, Ordering::Relaxed);
            error
        };
        let owner = Owner::vm(self.slot, FrameKind::Ram);
        // Scrubbed before the lock is taken: that is what takes time.
        let frame = alloc_zeroed(frame_count as usize, owner).map_err(PopulateError::OutOfFrames).map_err(give_back)?;
        let access = if size == PageSize::Size4K { Access::ReadWriteExecute } else { self.large_access };
        let rights = (access, MemoryType::WriteBack);
        let mapped = match &mut *self.mapping.lock() {
            Mapping { tables, ept: Some(ept), .. } => ept.map(tables, base, frame, size, rights),
            Mapping { .. } => Err(MapError::AlreadyMapped { gpa: base }),
        };
        let Err(error) = mapped else { return Ok(true) };
        free(frame, frame_count as usize, owner);
        self.populated.fetch_sub(frame_count, Ordering::Relaxed);
        match error {
            MapError::OutOfFrames(error) => Err(PopulateError::OutOfFrames(error)),
            _ => Ok(false),
        }
    }

    /// Takes the page at `gpa` from the guest, with its content; a touch backs it anew. Its frame is free once
    /// [`GuestRam::free_discarded`] was called, or earlier, with others.
    fn discard_page(&self, gpa: GuestPhysAddr) {
        if !self.layout.is_ram(gpa) {
            return;
        }
        let mut mapping = self.mapping.lock();
        let Mapping { tables, ept: Some(ept), discarded } = &mut *mapping else { return };
        // Without memory for the tables of a large page that is split, the page stays: the guest has more than it needs.
        let Ok(Some(unmapped)) = ept.unmap(tables, gpa.page_base(), PageSize::Size4K) else { return };
        self.populated.fetch_sub(1, Ordering::Relaxed);
        discarded.push(unmapped.frame);
        self.has_discarded.store(true, Ordering::Relaxed);
        if discarded.len() >= DISCARDED_MAX {
            self.free_all(&mut mapping);
        }
    }

    /// Frees what was taken from the guest, once no CPU remembers it.
    fn free_discarded(&self) {
        if self.has_discarded.load(Ordering::Relaxed) {
            self.free_all(&mut self.mapping.lock());
        }
    }

    fn free_all(&self, mapping: &mut Mapping) {
        self.shoot_down();
        let owner = Owner::vm(self.slot, FrameKind::Ram);
        for frame in mapping.discarded.drain(..) {
            free(frame, 1, owner);
        }
        self.has_discarded.store(false, Ordering::Relaxed);
    }

    /// How many frames the guest has touched since this was last asked, by the accessed flags of its EPT. `None` where the
    /// CPU keeps none.
    pub fn take_accessed_frames(&self) -> Option<u64> {
        let frames = match &mut *self.mapping.lock() {
            Mapping { tables, ept: Some(ept), .. } if ept.features().accessed_dirty => ept.take_accessed(tables),
            Mapping { .. } => return None,
        };
        // A CPU that remembers a page as accessed does not set the flag again. It forgets when it next enters the guest: soon
        // enough, so nobody is kicked.
        self.generation.fetch_add(1, Ordering::SeqCst);
        Some(frames)
    }

    /// Shows the APIC-access page at the local APIC's address, or takes it away: with it, the CPU virtualises accesses there.
    ///
    /// # Errors
    /// [`OutOfFrames`] when there is no frame for a table.
    pub(crate) fn show_apic_access_page(&self, show: bool) -> Result<(), OutOfFrames> {
        let mut mapping = self.mapping.lock();
        let shown = mapping.translate(LOCAL_APIC_BASE).is_some();
        let Mapping { tables, ept: Some(ept), .. } = &mut *mapping else { return Ok(()) };
        if show && !shown {
            let rights = (Access::ReadWrite, MemoryType::WriteBack);
            let frame = tables.apic_access;
            let mapped = ept.map(tables, LOCAL_APIC_BASE, frame, PageSize::Size4K, rights);
            if let Err(MapError::OutOfFrames(error)) = mapped {
                return Err(error);
            }
        } else if !show && ept.unmap(tables, LOCAL_APIC_BASE, PageSize::Size4K)?.is_some() {
            self.shoot_down();
        }
        Ok(())
    }
}

impl Mapping {
    fn translate(&self, gpa: GuestPhysAddr) -> Option<HostPhysAddr> {
        Some(self.ept.as_ref()?.translate(&self.tables, gpa)?.hpa)
    }
}

impl Drop for GuestRam {
    /// No CPU is in the guest any more, for a CPU that runs it borrows it. What CPUs remember of it they forget before they use
    /// these tables' frames again: a new RAM begins with no CPU having seen it.
    fn drop(&mut self) {
        let mapping = self.mapping.get_mut();
        let Some(ept) = mapping.ept.take() else { return };
        let owner = Owner::vm(mapping.tables.slot, FrameKind::Ram);
        for frame in mapping.discarded.drain(..) {
            free(frame, 1, owner);
        }
        ept.destroy(&mut mapping.tables, |_, frame, size| {
            // The APIC-access page is a `HostFrame`, which frees itself.
            let is_ram = with_frames(|frames| frames.owner_of(frame)) == Some(owner);
            if is_ram {
                free(frame, size.frames() as usize, owner);
            }
        });
    }
}
