//! ELF executables as the PVH and multiboot loaders need them: [`ElfImage`] loads segments by physical address and
//! finds notes. Section headers are never looked at, so that a stripped or oddly linked kernel loads too.

use super::space::GuestSpace;
use super::{KERNEL, LoadError};
use elf::abi::{EM_386, EM_X86_64, ET_DYN, ET_EXEC, PF_X, PT_LOAD, PT_NOTE};
use elf::endian::LittleEndian;
use elf::file::{Class, FileHeader, parse_ident};
use elf::note::{Note, NoteIterator};
use elf::segment::{ProgramHeader, SegmentTable};
use thiserror::Error;

/// More program headers than any kernel has; every one of them costs a look at all others.
const MAX_PROGRAM_HEADERS: u16 = 512;

/// Why an ELF file cannot be loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ElfError {
    /// Not an ELF file, or cut off in its header.
    #[error("the image is no ELF file for x86: its header must be complete, little-endian and of class ELF32 or ELF64")]
    Header,
    /// For another processor.
    #[error("the ELF file is for machine {machine}, not for i386 ({EM_386}) or x86-64 ({EM_X86_64}): build it for x86")]
    Machine {
        /// `e_machine`.
        machine: u16,
    },
    /// An object file, a core dump or the like.
    #[error("the ELF file has type {kind}, not EXEC ({ET_EXEC}) or DYN ({ET_DYN}): give the linked kernel")]
    Kind {
        /// `e_type`.
        kind: u16,
    },
    /// The program header table is missing, too long, or not in the file.
    #[error(
        "the ELF file's program headers cannot be read ({count} at file offset {offset:#x}): 1 to {MAX_PROGRAM_HEADERS} \
         are allowed, all within the file"
    )]
    ProgramHeaders {
        /// `e_phnum`.
        count: u16,
        /// `e_phoff`.
        offset: u64,
    },
    /// A segment's bytes are not all in the file.
    #[error(
        "ELF segment {index} is {file_len_bytes:#x} bytes at file offset {offset:#x}, past the end of the file: it is cut \
         short, get a complete one"
    )]
    SegmentOutsideFile {
        /// Which program header.
        index: usize,
        /// `p_offset`.
        offset: u64,
        /// `p_filesz`.
        file_len_bytes: u64,
    },
    /// More bytes in the file than in memory.
    #[error("ELF segment {index} has more bytes in the file ({file_len_bytes:#x}) than in memory ({len_bytes:#x})")]
    SegmentSizes {
        /// Which program header.
        index: usize,
        /// `p_filesz`.
        file_len_bytes: u64,
        /// `p_memsz`.
        len_bytes: u64,
    },
    /// Nothing to load.
    #[error("the ELF file has no loadable segment (PT_LOAD)")]
    NothingToLoad,
    /// The kernel has no such entry.
    #[error("the ELF file has no PVH entry: a note of type XEN_ELFNOTE_PHYS32_ENTRY (18) by `Xen` (Linux: CONFIG_PVH)")]
    NoPvhNote,
    /// The entry is not in what was loaded.
    #[error("the kernel's entry {entry:#x} is not within its loaded segments below 4 GiB")]
    Entry {
        /// The physical address to enter at.
        entry: u64,
    },
}

/// An ELF file whose header is sound.
pub(super) struct ElfImage<'a> {
    header: FileHeader<LittleEndian>,
    segments: SegmentTable<'a, LittleEndian>,
    image: &'a [u8],
}

impl<'a> ElfImage<'a> {
    pub(super) fn parse(image: &'a [u8]) -> Result<Self, ElfError> {
        let ident = image.get(..16).ok_or(ElfError::Header)?;
        let ident = parse_ident::<LittleEndian>(ident).map_err(|_| ElfError::Header)?;
        let tail = image.get(16..).ok_or(ElfError::Header)?;
        let header = FileHeader::parse_tail(ident, tail).map_err(|_| ElfError::Header)?;
        if ![EM_386, EM_X86_64].contains(&header.e_machine) {
            return Err(ElfError::Machine { machine: header.e_machine });
        }
        if ![ET_EXEC, ET_DYN].contains(&header.e_type) {
            return Err(ElfError::Kind { kind: header.e_type });
        }
        let (count, offset) = (header.e_phnum, header.e_phoff);
        let entry_len: u16 = if header.class == Class::ELF32 { 32 } else { 56 };
        let table_len = u64::from(entry_len) * u64::from(count);
        if !(1..=MAX_PROGRAM_HEADERS).contains(&count) || header.e_phentsize != entry_len {
            return Err(ElfError::ProgramHeaders { count, offset });
        }
        let table = bytes_at(image, offset, table_len).ok_or(ElfError::ProgramHeaders { count, offset })?;
        Ok(Self { segments: SegmentTable::new(header.endianness, header.class, table), header, image })
    }

    fn loadable(&self) -> impl Iterator<Item = (usize, ProgramHeader)> {
        self.segments.iter().enumerate().filter(|(_, segment)| segment.p_type == PT_LOAD && segment.p_memsz > 0)
    }

    /// Copies every PT_LOAD segment to its physical address and zeroes what the file does not hold of it.
    pub(super) fn load_segments(&self, space: &mut GuestSpace<'_>) -> Result<(), LoadError> {
        let mut loaded = false;
        for (index, segment) in self.loadable() {
            let ProgramHeader { p_offset: offset, p_filesz: file_len_bytes, p_memsz: len_bytes, p_paddr, .. } = segment;
            let bss_len = len_bytes.checked_sub(file_len_bytes);
            let bss_len = bss_len.ok_or(ElfError::SegmentSizes { index, file_len_bytes, len_bytes })?;
            let bytes = bytes_at(self.image, offset, file_len_bytes);
            let bytes = bytes.ok_or(ElfError::SegmentOutsideFile { index, offset, file_len_bytes })?;
            // The whole range first: what does not fit is refused before a byte of it is written.
            space.check(KERNEL, p_paddr, len_bytes)?;
            space.write(KERNEL, p_paddr, bytes)?;
            space.zero(KERNEL, p_paddr.saturating_add(file_len_bytes), bss_len)?;
            loaded = true;
        }
        if loaded { Ok(()) } else { Err(ElfError::NothingToLoad.into()) }
    }

    /// `e_entry` as a physical address: where a segment holds it as a virtual address, its place in that segment, as
    /// GRUB does; executable segments are asked first. Else the number is physical already.
    pub(super) fn physical_entry(&self) -> u64 {
        let entry = self.header.e_entry;
        let holds = |segment: &ProgramHeader| entry.checked_sub(segment.p_vaddr).is_some_and(|n| n < segment.p_memsz);
        let mut holders = self.loadable().map(|(_, segment)| segment).filter(holds);
        let first = holders.next();
        let executable = first.into_iter().chain(holders).find(|segment| segment.p_flags & PF_X != 0);
        executable
            .or(first)
            .map_or(entry, |segment| (entry.wrapping_sub(segment.p_vaddr)).wrapping_add(segment.p_paddr))
    }

    /// The descriptor of the first note of this name and type in a PT_NOTE segment.
    pub(super) fn note(&self, name: &str, kind: u64) -> Option<&'a [u8]> {
        self.segments.iter().filter(|segment| segment.p_type == PT_NOTE).find_map(|segment| {
            let bytes = bytes_at(self.image, segment.p_offset, segment.p_filesz)?;
            let align = if segment.p_align == 8 { 8 } else { 4 };
            let mut notes = NoteIterator::new(self.header.endianness, self.header.class, align, bytes);
            notes.find_map(|note| match note {
                Note::Unknown(note) if note.n_type == kind && note.name_str().is_ok_and(|found| found == name) => {
                    Some(note.desc)
                }
                _ => None,
            })
        })
    }
}

/// `len` bytes of `image` from `offset` on, or `None` past its end.
fn bytes_at(image: &[u8], offset: u64, len: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(len).ok()?)?;
    image.get(start..end)
}
