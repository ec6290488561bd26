//! The root file system of the Linux guest: busybox, an `/init` that gives the verdict, a shell, and a few kernel modules.

use std::io::Write;

use anyhow::{Context, Result};
use cpio::newc::{Builder, ModeFileType, trailer};

use super::modules::Module;

/// The guest's first program.
const INIT: &str = include_str!("../../data/linux-init.sh");

/// The busybox commands that get a name in `/bin`. Any other is reached by `busybox NAME`.
const COMMANDS: [&str; 43] = [
    "awk", "basename", "cat", "chmod", "clear", "cp", "cut", "date", "dd", "df", "dmesg", "echo", "env", "false",
    "free", "grep", "head", "hexdump", "insmod", "kill", "ln", "ls", "lsmod", "mkdir", "mount", "mv", "poweroff", "ps",
    "reboot", "rm", "rmmod", "sed", "seq", "setsid", "sh", "sleep", "sort", "tail", "true", "umount", "uname",
    "uptime", "wc",
];

/// The archive as a kernel unpacks it: cpio "newc" in gzip.
pub(super) fn build(busybox: &[u8], modules: &[Module], on_demand: &[Module]) -> Result<Vec<u8>> {
    let mut archive = Archive { output: Vec::new(), inode: 0 };
    for folder in ["bin", "dev", "lib", "lib/modules", "proc", "root", "sys", "tmp"] {
        archive.add(folder, ModeFileType::Directory, 0o755, &[])?;
    }
    // The kernel opens it for `/init` before anything is mounted.
    archive.device("dev/console", 5, 1)?;
    archive.add("bin/busybox", ModeFileType::Regular, 0o755, busybox)?;
    for command in COMMANDS {
        archive.add(&format!("bin/{command}"), ModeFileType::Symlink, 0o777, b"busybox")?;
    }
    for Module { name, bytes } in modules.iter().chain(on_demand) {
        archive.add(&format!("lib/modules/{name}.ko"), ModeFileType::Regular, 0o644, bytes)?;
    }
    // `/init` loads those of the first list, in this order.
    for (list, modules) in [("order", modules), ("on-demand", on_demand)] {
        let names: String = modules.iter().map(|module| format!("{}\n", module.name)).collect();
        archive.add(&format!("lib/modules/{list}"), ModeFileType::Regular, 0o644, names.as_bytes())?;
    }
    archive.add("init", ModeFileType::Regular, 0o755, INIT.as_bytes())?;
    let output = trailer(archive.output).context("cannot finish the initramfs")?;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&output)?;
    gzip.finish().context("cannot compress the initramfs")
}

struct Archive {
    output: Vec<u8>,
    inode: u32,
}

impl Archive {
    fn add(&mut self, name: &str, kind: ModeFileType, permissions: u32, content: &[u8]) -> Result<()> {
        let builder = self.entry(name, permissions).set_mode_file_type(kind);
        self.write(name, builder, content)
    }

    fn device(&mut self, name: &str, major: u32, minor: u32) -> Result<()> {
        let builder =
            self.entry(name, 0o600).set_mode_file_type(ModeFileType::Char).rdev_major(major).rdev_minor(minor);
        self.write(name, builder, &[])
    }

    fn entry(&mut self, name: &str, permissions: u32) -> Builder {
        self.inode += 1;
        Builder::new(name).ino(self.inode).nlink(1).mode(permissions)
    }

    fn write(&mut self, name: &str, builder: Builder, content: &[u8]) -> Result<()> {
        let mut writer = builder.write(&mut self.output, u32::try_from(content.len())?);
        writer.write_all(content).with_context(|| format!("cannot store {name} in the initramfs"))?;
        writer.finish().with_context(|| format!("cannot store {name} in the initramfs"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::io::Read;

    #[test]
    fn the_archive_holds_what_a_boot_needs() {
        let module = |name: &str| Module { name: name.to_owned(), bytes: format!("module {name}").into_bytes() };
        let packed = build(b"the shell", &[module("virtio"), module("virtio_mmio")], &[module("watchdog")]).unwrap();
        let mut archive = Vec::new();
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut archive).unwrap();
        let mut entries = BTreeMap::new();
        let mut rest = archive.as_slice();
        loop {
            let mut reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let mut content = Vec::new();
            reader.read_to_end(&mut content).unwrap();
            entries.insert(reader.entry().name().to_owned(), (reader.entry().mode(), content));
            rest = reader.finish().unwrap();
        }
        assert_eq!(entries["init"], (0o100_755, INIT.as_bytes().to_vec()));
        assert_eq!(entries["bin/busybox"], (0o100_755, b"the shell".to_vec()));
        assert_eq!(entries["bin/sh"], (0o120_777, b"busybox".to_vec()));
        assert_eq!(entries["dev/console"].0, 0o020_600);
        assert_eq!(entries["lib/modules"].0, 0o040_755);
        assert_eq!(entries["lib/modules/virtio_mmio.ko"], (0o100_644, b"module virtio_mmio".to_vec()));
        assert_eq!(entries["lib/modules/order"].1, b"virtio\nvirtio_mmio\n");
        assert_eq!(entries["lib/modules/on-demand"].1, b"watchdog\n");
        assert_eq!(entries["lib/modules/watchdog.ko"].1, b"module watchdog");
        assert_eq!(entries["proc"].0, 0o040_755);
    }
}
