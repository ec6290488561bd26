//! The ramdisk: a tar archive with the configuration and the guests' files.
//!
//! A member `NAME.lz4` holds the file NAME, as one LZ4 block with its length (4 bytes, little-endian) in front;
//! [`Ramdisk::file`] unpacks it on the way. The archive is checked as a whole once, in [`Ramdisk::new`].

use alloc::borrow::Cow;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};
use tar_no_std::{ArchiveEntry, CorruptDataError, TarArchiveRef};
use thiserror::Error;

/// The largest file that is unpacked, in bytes. What claims to be larger is taken for damaged.
pub const MAX_UNPACKED_BYTES: usize = 1 << 30;
/// An LZ4 block grows by less than this factor: one byte says at most 255 more.
const MAX_LZ4_RATIO: usize = 255;
const PACKED_SUFFIX: &str = ".lz4";

/// What is wrong with the ramdisk, or with a file of it.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum RamdiskError {
    /// It is no tar archive, or a damaged one.
    #[error("the ramdisk is no good tar archive: {0}; build the image anew")]
    Archive(#[from] CorruptDataError),
    /// A member's name is not text.
    #[error("the ramdisk has a file whose name is not UTF-8 (member {index}, counted from 0); build the image anew")]
    Name {
        /// The member.
        index: usize,
    },
    /// There is no such file.
    #[error("the ramdisk has no file `{name}`; it has: {there}")]
    NotFound {
        /// The file.
        name: String,
        /// The files that are there.
        there: String,
    },
    /// A packed file is damaged.
    #[error("the file `{name}` of the ramdisk is damaged: {what}; build the image anew")]
    Damaged {
        /// The file.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
    /// There is no memory to unpack a packed file in.
    #[error("no memory to unpack the file `{name}` of the ramdisk: {len_bytes} bytes; give the machine more memory")]
    OutOfMemory {
        /// The file.
        name: String,
        /// Its length, unpacked.
        len_bytes: usize,
    },
}

/// A file of the ramdisk.
#[derive(Debug)]
pub enum File<'a, B> {
    /// As it lies there.
    Plain(&'a [u8]),
    /// Unpacked in a buffer.
    Unpacked(B),
}

impl<B: Deref<Target = [u8]>> Deref for File<'_, B> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Plain(content) => content,
            Self::Unpacked(content) => content,
        }
    }
}

/// The files that came with the boot image.
#[derive(Clone, Debug)]
pub struct Ramdisk<'a> {
    archive: TarArchiveRef<'a>,
}

impl<'a> Ramdisk<'a> {
    /// Takes over a tar archive (POSIX 1003.1, as `tar --format=ustar` writes it).
    ///
    /// # Errors
    /// [`RamdiskError::Archive`] when it is damaged anywhere, [`RamdiskError::Name`].
    pub fn new(bytes: &'a [u8]) -> Result<Self, RamdiskError> {
        let archive = TarArchiveRef::new(bytes)?;
        match archive.entries().position(|entry| entry.filename().as_str().is_err()) {
            Some(index) => Err(RamdiskError::Name { index }),
            None => Ok(Self { archive }),
        }
    }

    /// The content of a file, unpacked in the heap where it is stored packed: for small files.
    ///
    /// # Errors
    /// As [`Ramdisk::file_in`].
    pub fn file(&self, name: &str) -> Result<Cow<'a, [u8]>, RamdiskError> {
        let in_heap = |len_bytes| {
            let mut content = Vec::new();
            content.try_reserve_exact(len_bytes).ok()?;
            content.resize(len_bytes, 0);
            Some(content)
        };
        Ok(match self.file_in(name, in_heap)? {
            File::Plain(content) => Cow::Borrowed(content),
            File::Unpacked(content) => Cow::Owned(content),
        })
    }

    /// The content of a file, unpacked in what `buffer` gives for a length in bytes. A plain member goes before a packed one.
    ///
    /// # Errors
    /// [`RamdiskError`] when there is none, or it cannot be unpacked.
    pub fn file_in<B: DerefMut<Target = [u8]>>(
        &self,
        name: &str,
        buffer: impl FnOnce(usize) -> Option<B>,
    ) -> Result<File<'a, B>, RamdiskError> {
        if let Some(content) = self.member(|member| member == name) {
            return Ok(File::Plain(content));
        }
        match self.member(|member| member.strip_suffix(PACKED_SUFFIX) == Some(name)) {
            Some(packed) => unpack(name, packed, buffer).map(File::Unpacked),
            None => Err(RamdiskError::NotFound { name: name.to_string(), there: self.names().join(", ") }),
        }
    }

    /// The names of the files, as [`Ramdisk::file`] takes them.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let plain = |entry: ArchiveEntry<'_>| {
            let name = entry.filename();
            let name = member_name(name.as_str().ok()?);
            Some(name.strip_suffix(PACKED_SUFFIX).unwrap_or(name).to_string())
        };
        self.archive.entries().filter_map(plain).collect()
    }

    /// How long each file is that is stored packed, unpacked, in bytes: what a buffer for it takes.
    #[must_use]
    pub fn unpacked_lens(&self) -> Vec<usize> {
        let packed = |entry: ArchiveEntry<'_>| {
            let name = entry.filename();
            name.as_str().ok()?.strip_suffix(PACKED_SUFFIX)?;
            let length = entry.data().first_chunk()?;
            Some((u32::from_le_bytes(*length) as usize).min(MAX_UNPACKED_BYTES))
        };
        self.archive.entries().filter_map(packed).collect()
    }

    fn member(&self, is_it: impl Fn(&str) -> bool) -> Option<&'a [u8]> {
        let found = |entry: &ArchiveEntry<'_>| entry.filename().as_str().is_ok_and(|name| is_it(member_name(name)));
        self.archive.entries().find(found).map(|entry| entry.data())
    }
}

/// `tar -C FOLDER .` writes the members as `./NAME`.
fn member_name(name: &str) -> &str {
    name.strip_prefix("./").unwrap_or(name)
}

fn unpack<B: DerefMut<Target = [u8]>>(
    name: &str,
    packed: &[u8],
    buffer: impl FnOnce(usize) -> Option<B>,
) -> Result<B, RamdiskError> {
    let damaged = |what| RamdiskError::Damaged { name: name.to_string(), what };
    let (length, block) = packed.split_first_chunk().ok_or_else(|| damaged("its length is missing"))?;
    let len_bytes = u32::from_le_bytes(*length) as usize;
    if len_bytes > MAX_UNPACKED_BYTES || len_bytes > block.len().saturating_mul(MAX_LZ4_RATIO) {
        return Err(damaged("it claims to be longer than it can be"));
    }
    let mut content =
        buffer(len_bytes).ok_or_else(|| RamdiskError::OutOfMemory { name: name.to_string(), len_bytes })?;
    match lz4_flex::block::decompress_into(block, &mut content) {
        Ok(written) if written == len_bytes => Ok(content),
        Ok(_) => Err(damaged("it is shorter than it says")),
        Err(_) => Err(damaged("it is no LZ4 block")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    /// A ustar archive, written from the format's description.
    fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, content) in members {
            let mut header = [0u8; 512];
            header[..name.len()].copy_from_slice(name.as_bytes());
            header[100..108].copy_from_slice(b"0000644\0");
            header[124..136].copy_from_slice(alloc::format!("{:011o}\0", content.len()).as_bytes());
            header[156] = b'0';
            header[257..265].copy_from_slice(b"ustar\x0000");
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
            header[148..156].copy_from_slice(alloc::format!("{sum:06o}\0 ").as_bytes());
            bytes.extend_from_slice(&header);
            bytes.extend_from_slice(content);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    /// 3 bytes `abc`, then 297 copied from 3 back: a block made by hand from the format's description.
    fn packed_abc() -> Vec<u8> {
        let mut packed = 305u32.to_le_bytes().to_vec();
        // Literals 3, match length 4 + 15 + 255 + 23 = 297; offset 3; then the last 5 literals, as the format asks.
        packed.extend_from_slice(&[0x3f, b'a', b'b', b'c', 3, 0, 255, 23, 0x50, b'1', b'2', b'3', b'4', b'5']);
        packed
    }

    #[test]
    fn files_are_found_plain_and_packed() {
        let bytes = archive(&[("lamina.toml", b"[vm]"), ("./empty", b""), ("vmlinux.lz4", &packed_abc())]);
        let ramdisk = Ramdisk::new(&bytes).unwrap();
        assert_eq!(ramdisk.names(), ["lamina.toml", "empty", "vmlinux"]);
        assert_eq!(ramdisk.unpacked_lens(), [305]);
        assert_eq!(ramdisk.file("lamina.toml"), Ok(Cow::Borrowed(&b"[vm]"[..])));
        assert_eq!(ramdisk.file("empty").unwrap().len(), 0);
        let unpacked = ramdisk.file("vmlinux").unwrap();
        assert_eq!(unpacked.len(), 305);
        assert!(unpacked[..300].chunks(3).all(|chunk| chunk == b"abc") && unpacked.ends_with(b"12345"));
        assert_eq!(ramdisk.file("vmlinux.lz4").unwrap(), packed_abc(), "as it is stored");
    }

    #[test]
    fn a_missing_file_lists_what_is_there() {
        let bytes = archive(&[("a", b"1"), ("b.lz4", b"2")]);
        let error = Ramdisk::new(&bytes).unwrap().file("c").unwrap_err();
        assert_eq!(error.to_string(), "the ramdisk has no file `c`; it has: a, b");
    }

    #[test]
    fn damaged_packed_files_are_told() {
        let mut too_long = packed_abc();
        too_long[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        let mut longer = packed_abc();
        longer[0] += 1;
        let mut shorter = packed_abc();
        shorter[0] -= 1;
        let cut = &packed_abc()[..7];
        for bad in [&too_long[..], &longer, &shorter, cut, b"abc"] {
            let bytes = archive(&[("f.lz4", bad)]);
            let result = Ramdisk::new(&bytes).unwrap().file("f");
            assert!(matches!(result, Err(RamdiskError::Damaged { .. })), "{result:?}");
        }
    }

    #[test]
    fn no_archive_is_an_error() {
        assert!(Ramdisk::new(&[]).is_err());
        assert!(Ramdisk::new(&[0x7f; 4096]).is_err());
        assert!(Ramdisk::new(&vec![0; 1024]).is_err());
        let good = archive(&[("a", b"1")]);
        assert!(Ramdisk::new(&good[..good.len() - 1024]).is_err(), "the end is missing");
    }

    /// A header whose checksum is right again after damage, so that the damage gets past the check.
    fn resum(header: &mut [u8]) {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(alloc::format!("{sum:06o}\0 ").as_bytes());
    }

    proptest! {
        /// Junk in headers (with good checksums) and in packed files never panics.
        #[test]
        fn junk_never_panics(
            damage in prop::collection::vec((0usize..512, any::<u8>()), 0..24),
            whole_prefix in any::<bool>(),
            packed in prop::collection::vec(any::<u8>(), 0..64),
            cut in 0usize..4,
        ) {
            let mut bytes = archive(&[("plain", b"content"), ("f.lz4", &packed)]);
            let header = &mut bytes[..512];
            if whole_prefix {
                header[..100].fill(b'n');
                header[345..500].fill(b'p');
            }
            for (offset, value) in damage {
                header[offset] = value;
            }
            resum(header);
            bytes.truncate(bytes.len() - cut * 512);
            if let Ok(ramdisk) = Ramdisk::new(&bytes) {
                for name in ramdisk.names() {
                    let _ = ramdisk.file(&name);
                }
                let _ = ramdisk.file("f");
            }
        }

        #[test]
        fn what_lz4_packs_is_unpacked(content in prop::collection::vec(0u8..4, 0..4096)) {
            // The literals-only block: what any packer may write.
            let mut packed = u32::try_from(content.len()).unwrap().to_le_bytes().to_vec();
            let literals = content.len();
            packed.push(u8::try_from(literals.min(15)).unwrap() << 4);
            if let Some(mut rest) = literals.checked_sub(15) {
                while rest >= 255 {
                    packed.push(255);
                    rest -= 255;
                }
                packed.push(u8::try_from(rest).unwrap());
            }
            packed.extend_from_slice(&content);
            let bytes = archive(&[("f.lz4", &packed)]);
            prop_assert_eq!(Ramdisk::new(&bytes).unwrap().file("f").unwrap().into_owned(), content);
        }
    }
}
