//! Every loader against images made here: what they place where, what they refuse, and that no image however broken
//! makes them panic or write outside the guest's RAM.
#![expect(clippy::cast_possible_truncation, reason = "sizes of images made here, on a 64-bit host")]

use super::layout::{ACPI_START, RamLayout};
use super::*;
use crate::memory::{GuestPhysAddr, MemoryError};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

const MIB: u64 = 1 << 20;

/// Guest memory that holds the touched pages only, has RAM exactly where the layout says, and refuses the rest.
struct SparseMemory {
    ram: RamLayout,
    pages: BTreeMap<u64, [u8; 4096]>,
    refused: usize,
}

impl SparseMemory {
    fn new(memory_len_bytes: u64) -> Self {
        Self { ram: RamLayout::new(memory_len_bytes), pages: BTreeMap::new(), refused: 0 }
    }

    fn bytes(&self, gpa: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read(GuestPhysAddr(gpa), &mut bytes).unwrap();
        bytes
    }

    fn u32(&self, gpa: u64) -> u32 {
        self.read_u32(GuestPhysAddr(gpa)).unwrap()
    }

    fn u64(&self, gpa: u64) -> u64 {
        self.read_u64(GuestPhysAddr(gpa)).unwrap()
    }

    fn text(&self, gpa: u64) -> String {
        let bytes = (gpa..).map(|gpa| self.bytes(gpa, 1)[0]).take_while(|&byte| byte != 0).collect();
        String::from_utf8(bytes).unwrap()
    }
}

impl GuestMemory for SparseMemory {
    fn read(&self, gpa: GuestPhysAddr, bytes: &mut [u8]) -> Result<(), MemoryError> {
        let len_bytes = bytes.len() as u64;
        if !self.ram.contains(gpa, len_bytes) {
            return Err(MemoryError::OutsideRam { gpa, len_bytes });
        }
        for (at, byte) in (gpa.0..).zip(bytes) {
            *byte = self.pages.get(&(at / 4096)).map_or(0, |page| page[(at % 4096) as usize]);
        }
        Ok(())
    }

    fn write(&mut self, gpa: GuestPhysAddr, bytes: &[u8]) -> Result<(), MemoryError> {
        let len_bytes = bytes.len() as u64;
        if !self.ram.contains(gpa, len_bytes) {
            self.refused += 1;
            return Err(MemoryError::OutsideRam { gpa, len_bytes });
        }
        for (at, byte) in (gpa.0..).zip(bytes) {
            self.pages.entry(at / 4096).or_insert([0; 4096])[(at % 4096) as usize] = *byte;
        }
        Ok(())
    }
}

/// A request for a VM with 64 MiB and one vCPU.
fn request(image: &[u8]) -> LoadRequest<'_> {
    LoadRequest { name: "kernel", image, memory_len_bytes: 64 * MIB, vcpus: 1, ..LoadRequest::default() }
}

fn loaded(request: &LoadRequest<'_>) -> (EntryState, SparseMemory) {
    let mut memory = SparseMemory::new(request.memory_len_bytes);
    let state = load(request, &mut memory).unwrap();
    (state, memory)
}

/// The error of a load, checked to be one line.
fn refused(request: &LoadRequest<'_>) -> LoadError {
    let mut memory = SparseMemory::new(request.memory_len_bytes);
    let error = load(request, &mut memory).unwrap_err();
    assert_eq!(memory.refused, 0, "the loader must see itself where RAM ends: {error}");
    let line = error.to_string();
    assert!(!line.contains('\n') && line.len() > 30, "{line}");
    error
}

/// Follows the guest's page tables from `cr3` to the physical address of `linear`.
fn walk(memory: &SparseMemory, cr3: u64, linear: u64) -> Option<u64> {
    let mut table = cr3;
    for shift in [39, 30, 21] {
        let entry = memory.u64(table + (linear >> shift & 511) * 8);
        if entry & 1 == 0 {
            return None;
        }
        if entry & 0x80 != 0 {
            return Some((entry & !0xfff & !(1 << 63)) + (linear & ((1 << shift) - 1)));
        }
        table = entry & 0x000f_ffff_ffff_f000;
    }
    None
}

/// What every entry state must be for VM entry to accept it, and what 32- and 64-bit entries promise.
fn check_flat_state(state: &EntryState, memory: &SparseMemory) {
    assert_eq!(state.rflags, 2, "interrupts off, no flag set");
    let [cs, ss] = [state.segments.cs, state.segments.ss];
    for (segment, long) in [(cs, state.efer & 0x400 != 0), (ss, false)] {
        // The descriptor in the boot GDT must say what the hidden part says.
        let descriptor = memory.u64(state.gdtr.base + u64::from(segment.selector));
        assert!(u64::from(segment.selector) + 7 <= u64::from(state.gdtr.limit));
        let rights = u32::try_from(descriptor >> 40 & 0xf0ff).unwrap();
        assert_eq!(rights, segment.access_rights);
        assert_eq!(segment.access_rights & (1 << 13) != 0, long, "L");
        assert_eq!((segment.base, segment.limit), (0, u32::MAX));
    }
    assert_eq!(state.segments.tr.access_rights, 0x8b);
}

// --- the request itself

#[test]
fn what_is_wrong_with_any_request_is_said_first() {
    let image = [0; 16];
    let flat = LoadRequest { format: Format::Flat32, ..request(&image) };
    let small = LoadRequest { memory_len_bytes: MIB - 1, ..flat };
    assert_eq!(refused(&small), LoadError::MemoryTooSmall { memory_len_bytes: MIB - 1 });
    for vcpus in [0, 256, u32::MAX] {
        assert_eq!(refused(&LoadRequest { vcpus, ..flat }), LoadError::VcpuCount { vcpus });
    }
    let nul = LoadRequest { cmdline: "a\0b", ..flat };
    assert_eq!(refused(&nul), LoadError::NulInText { what: "command line" });
    let module = [Module { name: "m\0", cmdline: "", bytes: &[] }];
    assert_eq!(refused(&LoadRequest { modules: &module, ..flat }), LoadError::NulInText { what: "module name" });
    assert_eq!(refused(&request(&image)), LoadError::Undetected);
    let placed = LoadRequest { load_address: Some(1), ..request(&image) };
    assert!(matches!(refused(&placed), LoadError::NotTaken { option: "load address", .. }));
}

#[test]
fn every_guest_finds_acpi_tables() {
    let (_, memory) = loaded(&LoadRequest { format: Format::Flat16, ..request(&[0xf4]) });
    assert_eq!(memory.bytes(ACPI_START, 8), b"RSD PTR ");
}

// --- flat binaries

#[test]
fn a_flat16_image_starts_where_a_bios_would_start_it() {
    let (state, memory) = loaded(&LoadRequest { format: Format::Flat16, ..request(&[0xeb, 0xfe]) });
    assert_eq!(memory.bytes(0x7c00, 2), [0xeb, 0xfe]);
    assert_eq!((state.segments.cs.selector, state.segments.cs.base, state.rip), (0, 0, 0x7c00));
    assert_eq!((state.cr0 & 1, state.segments.cs.limit, state.idtr.limit), (0, 0xffff, 0x3ff));
    let high = LoadRequest {
        format: Format::Flat16,
        load_address: Some(0x2_0000),
        entry: Some(0x2_1234),
        ..request(&[0; 0x2000])
    };
    let (state, _) = loaded(&high);
    assert_eq!((state.segments.cs.base + state.rip, state.rip), (0x2_1234, 0x1234));
    assert_eq!(state.segments.cs.base, u64::from(state.segments.cs.selector) << 4);
    let beyond = LoadRequest { entry: Some(MIB), ..high };
    assert!(matches!(refused(&beyond), LoadError::OutOfReach { what: "entry", .. }));
}

#[test]
fn a_flat32_image_starts_in_protected_mode() {
    let image = LoadRequest {
        format: Format::Flat32,
        load_address: Some(0x20_0003),
        entry: Some(0x20_0005),
        ..request(b"code")
    };
    let (state, memory) = loaded(&image);
    assert_eq!(memory.bytes(0x20_0003, 4), b"code");
    assert_eq!((state.rip, state.cr0 & (1 << 31 | 1), state.efer), (0x20_0005, 1, 0));
    check_flat_state(&state, &memory);
}

#[test]
fn a_flat64_image_starts_with_all_memory_mapped_onto_itself() {
    let image = LoadRequest { format: Format::Flat64, memory_len_bytes: 6 << 30, ..request(b"code") };
    let (state, memory) = loaded(&image);
    assert_eq!((state.rip, state.cr0 & (1 << 31 | 1), state.cr4, state.efer), (MIB, 1 << 31 | 1, 0x20, 0x500));
    check_flat_state(&state, &memory);
    for linear in [0, 0x12_3456, MIB, 0xfee0_0020, 0xffff_ffff, 1 << 32, (7 << 30) - 1] {
        assert_eq!(walk(&memory, state.cr3, linear), Some(linear), "{linear:#x}");
    }
    assert_eq!(walk(&memory, state.cr3, 7 << 30), None);
}

#[test]
fn an_empty_flat_image_writes_nowhere() {
    let empty = LoadRequest { format: Format::Flat32, load_address: Some(MIB << 30), entry: Some(MIB), ..request(&[]) };
    assert_eq!(loaded(&empty).0.rip, MIB);
}

#[test]
fn a_flat_image_outside_ram_or_on_the_tables_is_refused() {
    let flat =
        |load_address| LoadRequest { format: Format::Flat32, load_address: Some(load_address), ..request(&[1; 8]) };
    for address in [0xa_0000, 0x9_fffc, 64 * MIB - 4, u64::MAX - 3, u64::MAX - 100] {
        assert!(matches!(refused(&flat(address)), LoadError::OutsideRam { .. }), "{address:#x}");
    }
    assert!(matches!(refused(&flat(ACPI_START - 4)), LoadError::Overlap { other: "ACPI tables", .. }));
    assert!(matches!(refused(&LoadRequest { cmdline: "x", ..flat(MIB) }), LoadError::NotTaken { .. }));
}

// --- ELF, for PVH and multiboot

/// A PT_LOAD segment of an ELF file under construction.
#[derive(Clone, Debug)]
struct Load {
    paddr: u64,
    vaddr: u64,
    bytes: Vec<u8>,
    bss: u64,
}

impl Load {
    fn at(paddr: u64, bytes: &[u8], bss: u64) -> Self {
        Self { paddr, vaddr: paddr, bytes: bytes.to_vec(), bss }
    }
}

/// An ELF file: header, program headers, notes, and each segment's bytes at an unaligned file offset.
fn elf(wide: bool, entry: u64, loads: &[Load], note: Option<&[u8]>) -> Vec<u8> {
    fn word(out: &mut Vec<u8>, wide: bool, value: u64) {
        out.extend_from_slice(&value.to_le_bytes()[..if wide { 8 } else { 4 }]);
    }
    let (header_len, entry_len) = if wide { (64, 56) } else { (52, 32) };
    let count = loads.len() + usize::from(note.is_some());
    let mut out = vec![0x7f, b'E', b'L', b'F', if wide { 2 } else { 1 }, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    out.extend_from_slice(&2u16.to_le_bytes());
    out.extend_from_slice(&(if wide { 62u16 } else { 3 }).to_le_bytes());
    out.extend_from_slice(&1u32.to_le_bytes());
    word(&mut out, wide, entry);
    word(&mut out, wide, header_len);
    word(&mut out, wide, 0);
    out.extend_from_slice(&[0; 4]);
    for half in [header_len as u16, entry_len, count as u16, 0, 0, 0] {
        out.extend_from_slice(&half.to_le_bytes());
    }
    let mut data = Vec::new();
    let data_at = header_len + u64::from(entry_len) * count as u64;
    let notes = note.map(|bytes| (4u32, Load::at(0, bytes, 0)));
    for (kind, load) in notes.into_iter().chain(loads.iter().map(|load| (1, load.clone()))) {
        let flags = 7u32;
        let len = load.bytes.len() as u64;
        out.extend_from_slice(&kind.to_le_bytes());
        if wide {
            out.extend_from_slice(&flags.to_le_bytes());
        }
        for value in [data_at + data.len() as u64, load.vaddr, load.paddr, len, len + load.bss] {
            word(&mut out, wide, value);
        }
        if !wide {
            out.extend_from_slice(&flags.to_le_bytes());
        }
        word(&mut out, wide, 4);
        data.extend_from_slice(&load.bytes);
    }
    out.extend_from_slice(&data);
    out
}

/// A note as the assembler makes it.
fn note(name: &[u8], kind: u32, descriptor: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for value in [name.len() as u32, descriptor.len() as u32, kind] {
        out.extend_from_slice(&value.to_le_bytes());
    }
    for part in [name, descriptor] {
        out.extend_from_slice(part);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}

/// A note nobody asked for, then the PVH entry.
fn pvh_note(entry: u64, wide: bool) -> Vec<u8> {
    let descriptor = &entry.to_le_bytes()[..if wide { 8 } else { 4 }];
    [note(b"GNU\0", 3, &[7; 20]), note(b"Xen\0", 18, descriptor)].concat()
}

fn pvh_kernel(wide: bool) -> Vec<u8> {
    let code = vec![0x90; 0x1003];
    elf(wide, 0xffff_8000, &[Load::at(0x20_0010, &code, 3 * MIB)], Some(&pvh_note(0x20_0020, wide)))
}

#[test]
fn a_pvh_kernel_gets_the_start_info() {
    for wide in [false, true] {
        let image = pvh_kernel(wide);
        let modules = [Module { name: "second", cmdline: "of two", bytes: &[2; 5000] }];
        let request =
            LoadRequest { cmdline: "console=ttyS0", initrd: Some(&[1; 10]), modules: &modules, ..request(&image) };
        let (state, memory) = loaded(&request);
        assert_eq!((state.rip, state.cr0 & (1 << 31 | 1), state.cr4), (0x20_0020, 1, 0));
        check_flat_state(&state, &memory);
        assert_eq!(memory.bytes(0x20_0010, 0x1003), vec![0x90; 0x1003]);
        assert_eq!(memory.bytes(0x20_1013, 16), [0; 16]);
        let info = state.gprs.rbx;
        assert_eq!((memory.u32(info), memory.u32(info + 4), memory.u32(info + 12)), (0x336e_c578, 1, 2));
        assert_eq!(memory.text(memory.u64(info + 24)), "console=ttyS0");
        assert_eq!(memory.bytes(memory.u64(info + 32), 8), b"RSD PTR ");
        let list = memory.u64(info + 16);
        let [first, second] = [list, list + 32].map(|at| (memory.u64(at), memory.u64(at + 8), memory.u64(at + 16)));
        assert_eq!((memory.bytes(first.0, 10), first.1, first.2), (vec![1; 10], 10, 0));
        assert_eq!(
            (memory.bytes(second.0, 5000), second.1, memory.text(second.2)),
            (vec![2; 5000], 5000, "of two".into())
        );
        assert!(first.0 % 4096 == 0 && second.0 % 4096 == 0);
        let map = memory.u64(info + 40);
        let entries: Vec<_> = (0..u64::from(memory.u32(info + 48))).map(|n| map + n * 24).collect();
        let told: Vec<_> =
            entries.iter().map(|&at| (memory.u64(at), memory.u64(at + 8), memory.u32(at + 16))).collect();
        let expected: Vec<_> = memory.ram.e820().iter().map(|e| (e.start, e.len_bytes, e.kind as u32)).collect();
        assert_eq!(told, expected);
    }
}

#[test]
fn a_large_bss_costs_no_memory_unless_something_was_there() {
    let (_, memory) = loaded(&request(&pvh_kernel(true)));
    assert!(memory.pages.len() < 16, "{} pages touched", memory.pages.len());
    // A BSS over bytes that an earlier segment brought is zeroed all the same.
    let loads = [Load::at(0x20_0000, &[0xff; 0x3000], 0), Load::at(0x20_0800, &[1], 0x1fff)];
    let (_, memory) = loaded(&request(&elf(true, 0, &loads, Some(&pvh_note(0x20_0000, true)))));
    assert_eq!(memory.bytes(0x20_07fe, 4), [0xff, 0xff, 1, 0]);
    assert_eq!(memory.bytes(0x20_27fe, 4), [0, 0, 0xff, 0xff]);
    assert!(memory.bytes(0x20_0801, 0x1fff).iter().all(|&byte| byte == 0));
}

#[test]
fn broken_elf_files_are_refused_in_words() {
    fn forced(image: &[u8]) -> LoadRequest<'_> {
        LoadRequest { format: Format::Pvh, ..request(image) }
    }
    let good = pvh_kernel(true);
    let with = |at: usize, bytes: &[u8]| {
        let mut image = good.clone();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        image
    };
    let elf_error = |image: &[u8]| match refused(&forced(image)) {
        LoadError::Elf(error) => error,
        other => panic!("{other}"),
    };
    assert_eq!(elf_error(&[]), ElfError::Header);
    assert_eq!(elf_error(&good[..40]), ElfError::Header);
    assert_eq!(elf_error(&with(5, &[2])), ElfError::Header, "big-endian");
    assert_eq!(elf_error(&with(18, &[183, 0])), ElfError::Machine { machine: 183 });
    assert_eq!(elf_error(&with(16, &[1, 0])), ElfError::Kind { kind: 1 });
    assert!(matches!(elf_error(&with(32, &[0xff; 8])), ElfError::ProgramHeaders { .. }));
    assert!(matches!(elf_error(&with(56, &[0xff; 2])), ElfError::ProgramHeaders { .. }));
    assert!(matches!(elf_error(&good[..good.len() - 1]), ElfError::SegmentOutsideFile { .. }));
    // The second program header, a PT_LOAD: p_filesz, p_memsz, p_paddr.
    let load = 64 + 56;
    assert!(matches!(elf_error(&with(load + 40, &[1, 0, 0, 0, 0, 0, 0, 0])), ElfError::SegmentSizes { .. }));
    assert!(matches!(refused(&forced(&with(load + 40, &[0xff; 8]))), LoadError::OutsideRam { .. }));
    assert!(matches!(refused(&forced(&with(load + 24, &[0xff; 8]))), LoadError::OutsideRam { .. }));
    assert_eq!(elf_error(&with(load, &[0; 4])), ElfError::NothingToLoad);
    let bare = elf(true, 0, &[Load::at(MIB, &[0], 0)], None);
    assert_eq!(elf_error(&bare), ElfError::NoPvhNote);
    assert_eq!(refused(&request(&bare)), LoadError::Undetected);
    let odd = elf(true, 0, &[Load::at(MIB, &[0], 0)], Some(&note(b"Xen\0", 18, &[0; 5])));
    assert_eq!(elf_error(&odd), ElfError::NoPvhNote);
    let elsewhere = elf(true, 0, &[Load::at(MIB, &[0], 0)], Some(&pvh_note(MIB + 1, true)));
    assert_eq!(elf_error(&elsewhere), ElfError::Entry { entry: MIB + 1 });
}

// --- multiboot

/// A multiboot header with these flags and, after them, `addresses`.
fn multiboot_header(flags: u32, addresses: &[u32]) -> Vec<u8> {
    let magic = 0x1bad_b002u32;
    let words = [magic, flags, 0u32.wrapping_sub(magic).wrapping_sub(flags)];
    words.iter().chain(addresses).flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn a_multiboot_kernel_gets_the_information_structure() {
    for (wide, flags) in [(false, 0), (false, 3), (true, 3), (false, 7)] {
        let code = [multiboot_header(flags, &[]), vec![0x90; 0x111]].concat();
        let image =
            elf(wide, 0x40_00bc, &[Load::at(0x40_00b0, &code, 12 * MIB), Load::at(0x8000, &[0xaa; 0x2345], 0)], None);
        let modules = [
            Module { name: "one", cmdline: "", bytes: &[1; 4097] },
            Module { name: "two", cmdline: "a b", bytes: &[] },
            Module { name: "three", cmdline: "c", bytes: &[3] },
        ];
        let (state, memory) = loaded(&LoadRequest { cmdline: "-x", modules: &modules, ..request(&image) });
        assert_eq!((state.rip, state.gprs.rax), (0x40_00bc, 0x2bad_b002));
        check_flat_state(&state, &memory);
        assert_eq!(memory.bytes(0x40_00b0, code.len()), code);
        assert_eq!(memory.bytes(0x8000, 0x2345), [0xaa; 0x2345]);
        assert!(memory.pages.len() < 32, "the BSS is untouched");
        let info = state.gprs.rbx;
        let field = |offset| memory.u32(info + offset);
        assert_eq!(field(0), 0b10_0100_1101);
        assert_eq!((field(4), field(8)), (640, 63 * 1024));
        assert_eq!(memory.bytes(0x413, 2), 640u16.to_le_bytes(), "the BIOS data area says the same");
        assert_eq!(memory.text(field(16).into()), "kernel -x");
        assert_eq!(memory.text(field(64).into()), "Lamina");
        assert_eq!(field(20), 3);
        let mut end = 0x40_00b0 + code.len() as u32 + 12 * MIB as u32;
        for (n, (module, string)) in modules.iter().zip(["one", "two a b", "three c"]).enumerate() {
            let at = u64::from(field(24)) + 16 * n as u64;
            let (start, stop) = (memory.u32(at), memory.u32(at + 4));
            assert!(start % 4096 == 0 && start >= end, "{start:#x}");
            assert_eq!(memory.bytes(start.into(), (stop - start) as usize), module.bytes);
            assert_eq!(memory.text(memory.u32(at + 8).into()), string);
            end = stop;
        }
        // The map, walked by its own size fields.
        let (mut at, map_end) = (u64::from(field(48)), u64::from(field(48) + field(44)));
        let mut map = Vec::new();
        while at < map_end {
            map.push((memory.u64(at + 4), memory.u64(at + 12), memory.u32(at + 20)));
            at += u64::from(memory.u32(at)) + 4;
        }
        let expected: Vec<_> = memory.ram.e820().iter().map(|e| (e.start, e.len_bytes, e.kind as u32)).collect();
        assert_eq!(map, expected);
    }
}

#[test]
fn the_information_structure_avoids_a_kernel_that_fills_low_memory() {
    let code = [multiboot_header(0, &[]), vec![0x90; 0x9_0000 - 12]].concat();
    let (state, memory) = loaded(&request(&elf(false, 0x1_000c, &[Load::at(0x1_0000, &code, 0)], None)));
    assert_eq!(memory.bytes(0x1_0000, code.len()), code);
    assert!((0x1000..0x1_0000).contains(&state.gprs.rbx), "{:#x}", state.gprs.rbx);
    let all = [multiboot_header(0, &[]), vec![0x90; 0x9_f000 - 12]].concat();
    let (state, memory) = loaded(&request(&elf(false, 0x100c, &[Load::at(0x1000, &all, 0)], None)));
    assert_eq!(memory.bytes(0x1000, all.len()), all);
    assert!(state.gprs.rbx >= MIB);
    let first = [multiboot_header(0, &[]), vec![0x90; 0x800]].concat();
    let (_, memory) = loaded(&request(&elf(false, 0xc, &[Load::at(0, &first, 0)], None)));
    assert_eq!(memory.bytes(0, first.len()), first, "a kernel over the BIOS data area stays whole");
}

#[test]
fn an_entry_given_as_a_virtual_address_is_found_in_its_segment() {
    let code = [multiboot_header(0, &[]), vec![0x90; 64]].concat();
    let load = Load { vaddr: 0xc010_0000, ..Load::at(MIB, &code, 0) };
    let (state, _) = loaded(&request(&elf(false, 0xc010_0010, core::slice::from_ref(&load), None)));
    assert_eq!(state.rip, MIB + 0x10);
    let high = Load { vaddr: 0xffff_ffff_8010_0000, ..load };
    let (state, _) = loaded(&request(&elf(true, 0xffff_ffff_8010_0010, core::slice::from_ref(&high), None)));
    assert_eq!(state.rip, MIB + 0x10);
    // And one that is physical already.
    let (state, _) = loaded(&request(&elf(true, MIB + 0x20, &[high], None)));
    assert_eq!(state.rip, MIB + 0x20);
}

/// A file with 32 bytes of something, a header with address fields, and code; loaded from 16 bytes on.
fn aout(load_end: u32, bss_end: u32) -> Vec<u8> {
    let header = multiboot_header(1 << 16, &[0x10_0010, 0x10_0000, load_end, bss_end, 0x10_0030]);
    [vec![0x11; 32], header, vec![0x90; 100]].concat()
}

#[test]
fn address_fields_place_the_image_without_elf() {
    for (load_end, len) in [(0, 16 + 32 + 100), (0x10_0040, 0x40)] {
        let image = aout(load_end, 0x20_0000);
        let (state, memory) = loaded(&request(&image));
        assert_eq!(state.rip, 0x10_0030);
        assert_eq!(memory.bytes(MIB, len), image[16..16 + len]);
        assert_eq!(memory.bytes(MIB + len as u64, 8), [0; 8]);
        assert!(memory.pages.len() < 16);
    }
}

#[test]
fn contradicting_address_fields_are_refused() {
    let rule = |fields: [u32; 5]| {
        let image = [vec![0; 32], multiboot_header(1 << 16, &fields), vec![0; 100]].concat();
        refused(&request(&image)).to_string()
    };
    assert!(rule([0x10_0000, 0x10_0001, 0, 0, 0x10_0000]).contains("load_addr must not be above"));
    assert!(rule([0x10_0021, 0x10_0000, 0, 0, 0x10_0000]).contains("must not exceed the header's offset"));
    assert!(rule([0x10_0000, 0x10_0000, 0xf_ffff, 0, 0x10_0000]).contains("load_end_addr"));
    assert!(rule([0x10_0000, 0x10_0000, 0x10_0200, 0, 0x10_0000]).contains("cut short"));
    assert!(rule([0x10_0000, 0x10_0000, 0x10_0010, 0x10_000f, 0x10_0000]).contains("bss_end_addr"));
    assert!(rule([0x10_0000, 0x10_0000, 0x10_0010, 0, 0x10_0010]).contains("entry"));
    assert!(rule([0xa_0000, 0xa_0000, 0, 0, 0xa_0000]).contains("not all RAM"));
    assert!(rule([0xffff_ff00, 0xffff_ff00, 0, 0xffff_ffff, 0xffff_ff00]).contains("not all RAM"));
}

#[test]
fn a_multiboot_header_is_found_where_the_specification_allows_it() {
    let file = |at: usize| {
        let mut image = vec![0; at];
        let base = u32::try_from(MIB).unwrap();
        let fields = [base + u32::try_from(at).unwrap(), base, 0, 0, base];
        image.extend_from_slice(&multiboot_header(1 << 16, &fields));
        image.resize(image.len() + 0x3000, 0);
        image
    };
    loaded(&request(&file(8192 - 32)));
    assert_eq!(refused(&request(&file(8192))), LoadError::Undetected);
    assert_eq!(refused(&request(&file(42))), LoadError::Undetected, "unaligned");
    assert!(matches!(refused(&request(&file(8192 - 12))), LoadError::Multiboot(MultibootError::Addresses { .. })));
    let unknown = LoadRequest { format: Format::Multiboot, ..request(&[0; 100]) };
    assert_eq!(refused(&unknown), LoadError::Multiboot(MultibootError::NoHeader));
    let required = multiboot_header(1 << 5, &[]);
    assert_eq!(refused(&request(&required)), LoadError::Multiboot(MultibootError::Requirements { flags: 1 << 5 }));
}

#[test]
fn pvh_is_preferred_to_multiboot() {
    let code = [multiboot_header(0, &[]), vec![0x90; 64]].concat();
    let image = elf(false, MIB + 12, &[Load::at(MIB, &code, 0)], Some(&pvh_note(MIB + 16, false)));
    assert_eq!(loaded(&request(&image)).0.rip, MIB + 16);
    assert_eq!(loaded(&LoadRequest { format: Format::Multiboot, ..request(&image) }).0.rip, MIB + 12);
}

// --- Linux

/// A bzImage with one setup sector, 0x300 bytes of code and this header.
#[derive(Clone, Copy)]
struct BzImage {
    version: u16,
    loadflags: u8,
    relocatable: u8,
    alignment: u32,
    xloadflags: u16,
    cmdline_size: u32,
    pref_address: u64,
    init_size: u32,
    initrd_addr_max: u32,
}

const MODERN: BzImage = BzImage {
    version: 0x20f,
    loadflags: 1,
    relocatable: 1,
    alignment: 0x20_0000,
    xloadflags: 1,
    cmdline_size: 2047,
    pref_address: 0x100_0000,
    init_size: 0x180_0000,
    initrd_addr_max: 0x7fff_ffff,
};

impl BzImage {
    fn bytes(&self) -> Vec<u8> {
        let mut image = vec![0; 1024 + 0x300];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x1f1, &[1]);
        put(0x1f4, &0x30u32.to_le_bytes());
        put(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
        put(0x202, b"HdrS");
        put(0x206, &self.version.to_le_bytes());
        put(0x211, &[self.loadflags]);
        put(0x22c, &self.initrd_addr_max.to_le_bytes());
        put(0x230, &self.alignment.to_le_bytes());
        put(0x234, &[self.relocatable]);
        put(0x236, &self.xloadflags.to_le_bytes());
        put(0x238, &self.cmdline_size.to_le_bytes());
        put(0x258, &self.pref_address.to_le_bytes());
        put(0x260, &self.init_size.to_le_bytes());
        image[1024..].fill(0x90);
        // What follows the code by `syssize` is a signature.
        image.extend_from_slice(b"signature");
        image
    }
}

#[test]
fn linux_is_entered_by_the_64_bit_protocol() {
    let image = MODERN.bytes();
    let initrd = [7; 5000];
    let (state, memory) = loaded(&LoadRequest { cmdline: "quiet", initrd: Some(&initrd), ..request(&image) });
    assert_eq!((state.rip, state.efer), (0x100_0200, 0x500));
    check_flat_state(&state, &memory);
    let page = state.gprs.rsi;
    for gpa in [state.rip, page, u64::from(memory.u32(page + 0x228)), u64::from(memory.u32(page + 0x218))] {
        assert_eq!(walk(&memory, state.cr3, gpa), Some(gpa));
    }
    assert_eq!(memory.bytes(0x100_0000, 0x309), [vec![0x90; 0x300], vec![0; 9]].concat());
    assert_eq!(memory.bytes(page + 0x1fe, 8), [0x55, 0xaa, 0xeb, 0x6a, b'H', b'd', b'r', b'S']);
    assert_eq!(memory.bytes(page + 0x210, 1), [0xff]);
    assert_eq!(memory.u32(page + 0x214), 0x100_0000, "code32_start");
    assert_eq!(memory.text(memory.u32(page + 0x228).into()), "quiet");
    let (ramdisk, size) = (memory.u32(page + 0x218), memory.u32(page + 0x21c));
    assert_eq!((u64::from(ramdisk), size), (64 * MIB - 0x2000, 5000));
    assert_eq!(memory.bytes(ramdisk.into(), 5000), initrd);
    assert_eq!(memory.bytes(memory.u64(page + 0x70), 8), b"RSD PTR ");
    let count = memory.bytes(page + 0x1e8, 1)[0];
    let map: Vec<_> = (0..u64::from(count))
        .map(|n| page + 0x2d0 + 20 * n)
        .map(|at| (memory.u64(at), memory.u64(at + 8), memory.u32(at + 16)))
        .collect();
    let expected: Vec<_> = memory.ram.e820().iter().map(|e| (e.start, e.len_bytes, e.kind as u32)).collect();
    assert_eq!(map, expected);
    assert_eq!(memory.bytes(page + 0x1ef, 1), [0], "sentinel");
    assert_eq!(memory.bytes(page, 0x70), [0; 0x70], "no screen");
}

#[test]
fn older_linux_is_entered_by_the_32_bit_protocol() {
    let image = BzImage { xloadflags: 0, ..MODERN }.bytes();
    let (state, memory) = loaded(&request(&image));
    assert_eq!((state.rip, state.efer, state.cr0 & (1 << 31 | 1)), (0x100_0000, 0, 1));
    check_flat_state(&state, &memory);
    // 2.06: nothing but the load address and the command line's limit is told.
    let image = BzImage { version: 0x206, relocatable: 0, ..MODERN }.bytes();
    let (state, memory) = loaded(&LoadRequest { initrd: Some(&[1; 4096]), ..request(&image) });
    assert_eq!(state.rip, MIB);
    assert_eq!(memory.u32(state.gprs.rsi + 0x218), 0x3ff_f000);
    // Not relocatable: loaded at 1 MiB, and its place at pref_address is kept free of the initrd.
    let image = BzImage { relocatable: 0, xloadflags: 0, init_size: 0x2ff_f000, ..MODERN }.bytes();
    let (state, memory) = loaded(&LoadRequest { initrd: Some(&[1; 4097]), ..request(&image) });
    assert_eq!(state.rip, MIB);
    assert_eq!(memory.u32(state.gprs.rsi + 0x218), 0xff_e000);
}

#[test]
fn linux_is_placed_by_its_header() {
    // An odd preference is rounded up to the alignment.
    let image = BzImage { pref_address: 0x100_0001, ..MODERN }.bytes();
    assert_eq!(loaded(&request(&image)).0.rip, 0x120_0200);
    // The initrd stays below initrd_addr_max (the address of the last byte it may have).
    let image = BzImage { initrd_addr_max: 0x2ff_ffff, ..MODERN }.bytes();
    let (state, memory) = loaded(&LoadRequest { initrd: Some(&[1; 4096]), ..request(&image) });
    assert_eq!(memory.u32(state.gprs.rsi + 0x218), 0x2ff_f000);
    // Too little memory for init_size, said with what is needed.
    let image = BzImage { init_size: 0x300_0001, ..MODERN }.bytes();
    let error = refused(&request(&image));
    assert!(
        matches!(error, LoadError::Linux(LinuxError::NoRoom { .. })) && error.to_string().contains("65 MiB"),
        "{error}"
    );
    let image = MODERN.bytes();
    let initrd = vec![1; 40 * MIB as usize];
    assert!(matches!(
        refused(&LoadRequest { initrd: Some(&initrd), ..request(&image) }),
        LoadError::NoRoom { what: "initrd", .. }
    ));
}

#[test]
fn the_command_line_has_the_kernels_limit() {
    let image = BzImage { cmdline_size: 16, ..MODERN }.bytes();
    loaded(&LoadRequest { cmdline: "0123456789abcdef", ..request(&image) });
    let error = refused(&LoadRequest { cmdline: "0123456789abcdefg", ..request(&image) });
    assert_eq!(error, LoadError::Linux(LinuxError::CommandLineTooLong { len: 17, max: 16 }));
}

#[test]
fn what_is_no_bzimage_is_refused_in_words() {
    let error = |image: &[u8]| refused(&LoadRequest { format: Format::Linux, ..request(image) });
    assert_eq!(error(&[]), LoadError::Linux(LinuxError::NoHeader));
    assert_eq!(error(&[0; 4096]), LoadError::Linux(LinuxError::NoHeader));
    let old = BzImage { version: 0x205, ..MODERN }.bytes();
    assert!(error(&old).to_string().contains("protocol 2.05"));
    assert_eq!(error(&BzImage { loadflags: 0, ..MODERN }.bytes()), LoadError::Linux(LinuxError::ZImage));
    assert!(matches!(
        error(&BzImage { alignment: 3, ..MODERN }.bytes()),
        LoadError::Linux(LinuxError::Header { field: "kernel_alignment", .. })
    ));
    assert!(matches!(error(&MODERN.bytes()[..1500]), LoadError::Truncated { .. }));
    let module = [Module { name: "m", cmdline: "", bytes: &[] }];
    let image = MODERN.bytes();
    assert!(matches!(refused(&LoadRequest { modules: &module, ..request(&image) }), LoadError::NotTaken { .. }));
}

// --- reset and start-up states

#[test]
fn the_reset_state_is_the_manuals() {
    let state = EntryState::reset();
    assert_eq!(
        (state.cr0, state.rip, state.rflags, state.cr3, state.cr4, state.efer),
        (0x6000_0010, 0xfff0, 2, 0, 0, 0)
    );
    let cs = state.segments.cs;
    assert_eq!((cs.selector, cs.base, cs.limit), (0xf000, 0xffff_0000, 0xffff));
    assert_eq!((state.gdtr.limit, state.idtr.limit, state.segments.ldtr.limit), (0xffff, 0xffff, 0xffff));
    let started = EntryState::startup_ipi(0x9a);
    assert_eq!((started.segments.cs.selector, started.segments.cs.base, started.rip), (0x9a00, 0x9_a000, 0));
}

// --- whatever bytes there are

/// Images of every format, to be mutated.
fn seeds() -> Vec<Vec<u8>> {
    let code = [multiboot_header(3, &[]), vec![0x90; 64]].concat();
    let mut seeds =
        vec![MODERN.bytes(), BzImage { relocatable: 0, xloadflags: 0, ..MODERN }.bytes(), aout(0, 0x20_0000)];
    for wide in [false, true] {
        seeds.push(elf(wide, MIB + 12, &[Load::at(MIB, &code, 0x5000), Load::at(0x8000, &[1; 100], 1)], None));
        seeds.push(pvh_kernel(wide));
    }
    seeds
}

fn formats() -> impl Strategy<Value = Format> {
    prop::sample::select(vec![
        Format::Auto,
        Format::Linux,
        Format::Pvh,
        Format::Multiboot,
        Format::Flat16,
        Format::Flat32,
        Format::Flat64,
    ])
}

/// Values that break arithmetic.
fn edges() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0u64..64,
        prop::sample::select(vec![
            u64::MAX,
            u64::from(u32::MAX),
            0x8000_0000,
            0xa_0000,
            0xe_0000,
            MIB,
            64 * MIB,
            3 << 30,
            1 << 63
        ]),
    ]
}

/// Loads and checks that nothing was attempted outside RAM, and that a load is an entry in RAM.
fn survives(request: &LoadRequest<'_>) {
    let mut memory = SparseMemory::new(request.memory_len_bytes);
    let result = load(request, &mut memory);
    assert_eq!(memory.refused, 0);
    match result {
        Ok(state) => assert!(memory.ram.is_ram(GuestPhysAddr(state.segments.cs.base + state.rip))),
        Err(error) => assert!(!error.to_string().contains('\n')),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn mutated_images_never_harm(
        seed in prop::sample::select(seeds()),
        format in formats(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0usize..=8, edges()), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut image = seed;
        for (index, len, value) in changes {
            // Headers are where it hurts: half of the changes go into the first KiB.
            let at = if value & 1 == 0 { index.index(image.len()) } else { index.index(image.len().min(0x290)) };
            let end = (at + len).min(image.len());
            image[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
        }
        if let Some(cut) = cut {
            image.truncate(cut.index(image.len()));
        }
        let module = [Module { name: "module", cmdline: "x", bytes: &[5; 5000] }];
        let modules: &[Module<'_>] = if format == Format::Linux { &[] } else { &module };
        let flat = matches!(format, Format::Flat16 | Format::Flat32 | Format::Flat64);
        survives(&LoadRequest { format, modules: if flat { &[] } else { modules }, ..request(&image) });
    }

    #[test]
    fn random_bytes_never_harm(image in prop::collection::vec(any::<u8>(), 0..2000), format in formats()) {
        survives(&LoadRequest { format, ..request(&image) });
    }

    #[test]
    fn any_memory_size_and_address_is_survived(
        seed in prop::sample::select(seeds()),
        format in formats(),
        memory in prop_oneof![MIB..8 * MIB, 0u64..(8 << 30), edges().prop_filter("a layout", |size| *size < 1 << 40)],
        load_address in prop::option::of(edges()),
        entry in prop::option::of(edges()),
    ) {
        survives(&LoadRequest { format, memory_len_bytes: memory, load_address, entry, ..request(&seed) });
    }
}
