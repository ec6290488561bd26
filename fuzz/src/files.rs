//! What comes as a file: images of every format, the configuration, the ramdisk.

use arbitrary::{Result, Unstructured};
use lamina_core::boot::ramdisk::Ramdisk;
use lamina_core::config::Config;
use lamina_core::loader::{Format, LoadRequest, Module, RamLayout, load};
use lamina_core::memory::{FlatMemory, GuestMemory, GuestPhysAddr, MemoryError};

/// Memory of the VM that images are loaded into.
const MEMORY_BYTES: u64 = 4 << 20;

/// A guest's memory that takes nothing outside its RAM.
struct Ram {
    layout: RamLayout,
    bytes: FlatMemory,
}

impl GuestMemory for Ram {
    fn read(&self, gpa: GuestPhysAddr, bytes: &mut [u8]) -> std::result::Result<(), MemoryError> {
        self.bytes.read(gpa, bytes)
    }

    fn write(&mut self, gpa: GuestPhysAddr, bytes: &[u8]) -> std::result::Result<(), MemoryError> {
        assert!(
            self.layout.contains(gpa, bytes.len() as u64),
            "a write to {gpa}, {} bytes, is not in RAM",
            bytes.len()
        );
        self.bytes.write(gpa, bytes)
    }
}

/// An image, and how it is to be loaded.
pub fn loader(bytes: &[u8]) {
    let _ = try_loader(&mut Unstructured::new(bytes));
}

fn try_loader(bytes: &mut Unstructured<'_>) -> Result<()> {
    const FORMATS: [Format; 7] =
        [Format::Auto, Format::Linux, Format::Pvh, Format::Multiboot, Format::Flat16, Format::Flat32, Format::Flat64];
    let format = *bytes.choose(&FORMATS)?;
    let (load_address, entry) = (bytes.arbitrary()?, bytes.arbitrary()?);
    let module = [Module { name: "module", cmdline: "x", bytes: &[5; 5000] }];
    let modules = if bytes.arbitrary()? { &module[..] } else { &[] };
    let cmdline = bytes.arbitrary::<&str>()?.chars().filter(|c| !c.is_control()).collect::<String>();
    let request = LoadRequest {
        name: "image",
        image: bytes.peek_bytes(bytes.len()).unwrap_or_default(),
        format,
        load_address,
        entry,
        cmdline: &cmdline,
        initrd: None,
        modules,
        memory_len_bytes: MEMORY_BYTES,
        vcpus: 2,
        balloon: true,
    };
    let layout = RamLayout::new(MEMORY_BYTES);
    let mut memory = Ram { layout, bytes: FlatMemory::new(MEMORY_BYTES as usize) };
    match load(&request, &mut memory) {
        Ok(state) => assert!(layout.is_ram(GuestPhysAddr(state.segments.cs.base + state.rip)), "no entry in RAM"),
        Err(error) => assert_one_line(&error),
    }
    Ok(())
}

/// A `lamina.toml`.
pub fn config(bytes: &[u8]) {
    match Config::parse(&String::from_utf8_lossy(bytes)) {
        Ok(config) => {
            let saved = config.to_toml();
            let read =
                Config::parse(&saved).unwrap_or_else(|error| panic!("what is saved is refused: {error}\n{saved}"));
            assert_eq!(read, config, "what is saved is another configuration: {saved}");
        }
        Err(error) => assert_one_line(&error),
    }
}

/// A ramdisk: all its files are unpacked.
pub fn ramdisk(bytes: &[u8]) {
    match Ramdisk::new(bytes) {
        Ok(ramdisk) => {
            for name in ramdisk.names() {
                let no_memory = |len: usize| (len <= 16 << 20).then(|| vec![0_u8; len].into_boxed_slice());
                if let Err(error) = ramdisk.file_in(&name, no_memory) {
                    assert_one_line(&error);
                }
            }
        }
        Err(error) => assert_one_line(&error),
    }
}

/// An error is for a person, on one line.
pub(crate) fn assert_one_line(error: &dyn std::fmt::Display) {
    let text = error.to_string();
    assert!(!text.is_empty() && !text.contains('\n'), "not one line: {text:?}");
}
