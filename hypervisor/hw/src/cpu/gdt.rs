//! The hypervisor's GDT and TSS, with stacks of their own for the exceptions that must not trust the current one.

use crate::mem::{self, MapError};
use alloc::boxed::Box;
use x86_64::instructions::segmentation::{CS, DS, ES, FS, GS, SS, Segment};
use x86_64::instructions::tables::{load_tss, sgdt};
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;

/// IST index (0-based) of the NMI stack.
pub(super) const NMI_IST: u16 = 0;
/// IST index of the double-fault stack.
pub(super) const DOUBLE_FAULT_IST: u16 = 1;
/// IST index of the machine-check stack.
pub(super) const MACHINE_CHECK_IST: u16 = 2;
/// Pages of each IST stack.
const IST_STACK_PAGES: usize = 4;

/// The tables of one CPU.
#[derive(Debug)]
pub(super) struct Tables {
    gdt: &'static GlobalDescriptorTable,
    tss: &'static TaskStateSegment,
    code: SegmentSelector,
    data: SegmentSelector,
    tss_selector: SegmentSelector,
}

/// Builds and loads the tables of the CPU that calls. Its GS base stays what it was.
pub(super) fn load() -> Result<(), MapError> {
    let mut tss = TaskStateSegment::new();
    for index in [NMI_IST, DOUBLE_FAULT_IST, MACHINE_CHECK_IST] {
        tss.interrupt_stack_table[usize::from(index)] = mem::map_stack(IST_STACK_PAGES)?;
    }
    // The tables are the CPU's until power-off, so they are leaked on purpose.
    let tss: &'static TaskStateSegment = Box::leak(Box::new(tss));
    let gdt = Box::leak(Box::new(GlobalDescriptorTable::new()));
    let code = gdt.append(Descriptor::kernel_code_segment());
    let data = gdt.append(Descriptor::kernel_data_segment());
    let tss_selector = gdt.append(Descriptor::tss_segment(tss));
    let gdt: &'static GlobalDescriptorTable = gdt;
    gdt.load();
    let block = super::block::this_block();
    // SAFETY: `code` and `data` are flat 64-bit descriptors of the table just loaded, equal in effect to those the boot
    // loader had loaded; `tss_selector` is the available TSS of this CPU, which is never freed.
    unsafe {
        CS::set_reg(code);
        SS::set_reg(data);
        DS::set_reg(data);
        ES::set_reg(data);
        FS::set_reg(SegmentSelector(0));
        GS::set_reg(SegmentSelector(0));
        load_tss(tss_selector);
    }
    super::block::load_gs_base(block);
    block.tables.call_once(|| Tables { gdt, tss, code, data, tss_selector });
    Ok(())
}

fn tables() -> Option<&'static Tables> {
    super::block::this_block().tables.get()
}

/// (CS, SS/DS/ES, TR) for the host-state area of a VMCS.
pub(crate) fn host_selectors() -> (u16, u16, u16) {
    tables().map_or((0, 0, 0), |tables| (tables.code.0, tables.data.0, tables.tss_selector.0))
}

/// Linear address of the TSS, for the host-state area of a VMCS.
pub(crate) fn tss_base() -> u64 {
    tables().map_or(0, |tables| core::ptr::from_ref(tables.tss) as u64)
}

/// Linear address of the GDT, for the host-state area of a VMCS.
pub(crate) fn gdt_base() -> u64 {
    debug_assert!(tables().is_some_and(|tables| tables.gdt.limit() > 0));
    sgdt().base.as_u64()
}
