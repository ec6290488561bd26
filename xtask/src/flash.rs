//! `cargo xtask flash`: writes a disk image to a USB stick, after looking twice.
//!
//! [`Device`] is what the kernel tells of a block device; [`Device::objections`] decides. Both take the folders to look
//! in, so the tests hand them trees of their own.

use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal, Read, Write, stdin};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::setup::confirm;
use crate::workspace::Workspace;

/// The unit of `/sys/block/*/size`, whatever the device's own block size.
const SECTOR_BYTES: u64 = 512;

/// How much is written between two lines of progress.
const CHUNK_BYTES: usize = 4 << 20;

/// Options of `cargo xtask flash`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask image && sudo -E env PATH=$PATH cargo xtask flash --device /dev/sdb")]
pub struct Options {
    /// The whole disk to overwrite, as in /dev/sdb
    #[arg(long, value_name = "DEVICE")]
    device: PathBuf,
    /// The image [default: target/image/lamina-uefi.img]
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Write although the device is not removable, or is mounted, or is not a whole disk
    #[arg(long)]
    force: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Shows what would be overwritten, refuses or asks, and writes.
pub fn execute(workspace: &Workspace, options: &Options) -> Result<()> {
    let image = options.image.clone().unwrap_or_else(|| workspace.target().join("image/lamina-uefi.img"));
    let image_bytes = fs::metadata(&image)
        .with_context(|| format!("there is no image {}: `cargo xtask image` makes it", image.display()))?
        .len();
    let path =
        fs::canonicalize(&options.device).with_context(|| format!("there is no {}", options.device.display()))?;
    let device = Device::look(&path, Path::new("/sys"), &fs::read_to_string("/proc/self/mounts")?)?;
    println!("{device}");
    let objections = device.objections(image_bytes);
    for objection in &objections {
        println!("  ! {}", objection.text);
    }
    if let Some(fatal) = objections.iter().find(|objection| objection.fatal) {
        bail!("not written, and --force does not help: {}", fatal.text);
    }
    ensure!(objections.is_empty() || options.force, "not written; --force overrules this");
    if !options.yes {
        ensure!(stdin().is_terminal(), "not written: there is no terminal to ask at (--yes answers)");
        let question = format!("overwrite all of {} with {}?", path.display(), image.display());
        ensure!(confirm(&question)?, "not written");
    }
    write(&image, image_bytes, &path)
}

/// A block device as the kernel describes it.
#[derive(Debug, PartialEq, Eq)]
struct Device {
    path: PathBuf,
    model: String,
    size_bytes: u64,
    whole: bool,
    removable: bool,
    read_only: bool,
    partitions: Vec<String>,
    /// The device or partition, and where it is mounted.
    mounts: Vec<(String, String)>,
}

/// A reason not to write.
#[derive(Debug, PartialEq, Eq)]
struct Objection {
    text: String,
    /// Nothing overrules it.
    fatal: bool,
}

impl Device {
    /// Reads what `sys` (mounted at `/sys`) and the mount table say about the device.
    fn look(path: &Path, sys: &Path, mount_table: &str) -> Result<Self> {
        let name = path.file_name().context("the device has no name")?.to_string_lossy().into_owned();
        let whole = sys.join("block").join(&name).is_dir();
        let folder = if whole { sys.join("block").join(&name) } else { sys.join("class/block").join(&name) };
        ensure!(folder.is_dir(), "{} is no block device", path.display());
        let read = |file: &str| fs::read_to_string(folder.join(file)).map(|text| text.trim().to_owned());
        let sectors: u64 = read("size").ok().and_then(|text| text.parse().ok()).context("the device has no size")?;
        let mut partitions: Vec<String> = fs::read_dir(&folder)?
            .flatten()
            .filter(|entry| entry.path().join("partition").is_file())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        partitions.sort();
        let names: Vec<&String> = std::iter::once(&name).chain(&partitions).collect();
        let mounts = mount_table
            .lines()
            .filter_map(|line| {
                let mut words = line.split(' ');
                let device = words.next()?.strip_prefix("/dev/")?;
                let place = words.next()?;
                names.iter().any(|name| name.as_str() == device).then(|| (device.to_owned(), place.to_owned()))
            })
            .collect();
        Ok(Self {
            path: path.to_path_buf(),
            model: read("device/model").unwrap_or_else(|_| "unknown model".to_owned()),
            size_bytes: sectors.saturating_mul(SECTOR_BYTES),
            whole,
            removable: read("removable").is_ok_and(|text| text == "1"),
            read_only: read("ro").is_ok_and(|text| text == "1"),
            partitions,
            mounts,
        })
    }

    /// Every reason not to write an image of this size to it.
    fn objections(&self, image_bytes: u64) -> Vec<Objection> {
        let path = self.path.display();
        let mut objections = Vec::new();
        let mut object = |fatal, text| objections.push(Objection { text, fatal });
        if self.size_bytes < image_bytes {
            object(true, format!("{path} holds {} bytes, the image has {image_bytes}", self.size_bytes));
        }
        if self.read_only {
            object(true, format!("{path} is write-protected"));
        }
        if !self.whole {
            object(false, format!("{path} is a partition, not a whole disk: no firmware boots from it"));
        } else if !self.removable {
            object(false, format!("{path} is not removable: it may be a disk of this computer"));
        }
        for (device, place) in &self.mounts {
            object(false, format!("/dev/{device} is mounted at {place}"));
        }
        objections
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mebibytes = self.size_bytes >> 20;
        write!(f, "{}: {}, {mebibytes} MiB", self.path.display(), self.model)?;
        if self.partitions.is_empty() { Ok(()) } else { write!(f, ", partitions {}", self.partitions.join(", ")) }
    }
}

fn write(image: &Path, image_bytes: u64, device: &Path) -> Result<()> {
    let mut from = fs::File::open(image).with_context(|| format!("cannot read {}", image.display()))?;
    let mut to = OpenOptions::new()
        .write(true)
        .open(device)
        .with_context(|| format!("cannot write to {} (are you root?)", device.display()))?;
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut written = 0_u64;
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        to.write_all(buffer.get(..length).unwrap_or_default())
            .with_context(|| format!("{} does not take the image", device.display()))?;
        written += u64::try_from(length)?;
        print!("\r{} of {} MiB", written >> 20, image_bytes >> 20);
        io::stdout().flush()?;
    }
    println!("; waiting until it has arrived");
    to.sync_all().with_context(|| format!("{} did not keep the image", device.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fake `/sys` with a stick `sdb` (8 MiB, one partition) and a partition entry of its own.
    fn sys(removable: &str, read_only: &str) -> tempfile::TempDir {
        let sys = tempfile::tempdir().unwrap();
        let disk = sys.path().join("block/sdb");
        fs::create_dir_all(disk.join("device")).unwrap();
        fs::create_dir_all(disk.join("sdb1")).unwrap();
        fs::create_dir_all(disk.join("queue")).unwrap();
        fs::write(disk.join("size"), "16384\n").unwrap();
        fs::write(disk.join("removable"), removable).unwrap();
        fs::write(disk.join("ro"), read_only).unwrap();
        fs::write(disk.join("device/model"), "Stick 3000  \n").unwrap();
        fs::write(disk.join("sdb1/partition"), "1\n").unwrap();
        let partition = sys.path().join("class/block/sdb1");
        fs::create_dir_all(&partition).unwrap();
        fs::write(partition.join("size"), "8192\n").unwrap();
        sys
    }

    fn look(sys: &tempfile::TempDir, path: &str, mounts: &str) -> Device {
        Device::look(Path::new(path), sys.path(), mounts).unwrap()
    }

    fn texts(device: &Device, image_bytes: u64) -> Vec<(bool, String)> {
        device.objections(image_bytes).into_iter().map(|objection| (objection.fatal, objection.text)).collect()
    }

    const OTHER_MOUNTS: &str = "/dev/sda1 / ext4 rw 0 0\n/dev/sdb10 /elsewhere ext4 rw 0 0\nproc /proc proc rw 0 0\n";

    #[test]
    fn a_removable_unmounted_whole_disk_is_taken() {
        let device = look(&sys("1\n", "0\n"), "/dev/sdb", OTHER_MOUNTS);
        assert_eq!(texts(&device, 8 << 20), []);
        assert_eq!(device.to_string(), "/dev/sdb: Stick 3000, 8 MiB, partitions sdb1");
    }

    #[test]
    fn a_fixed_disk_is_refused() {
        let objections = texts(&look(&sys("0\n", "0\n"), "/dev/sdb", ""), 1);
        assert_eq!(objections.len(), 1);
        assert!(!objections[0].0 && objections[0].1.contains("not removable"));
    }

    #[test]
    fn a_mounted_partition_on_it_is_refused() {
        let objections = texts(&look(&sys("1\n", "0\n"), "/dev/sdb", "/dev/sdb1 /media/stick vfat rw 0 0\n"), 1);
        assert_eq!(objections, [(false, "/dev/sdb1 is mounted at /media/stick".to_owned())]);
    }

    #[test]
    fn a_partition_is_refused() {
        let objections = texts(&look(&sys("1\n", "0\n"), "/dev/sdb1", ""), 1);
        assert_eq!(objections.len(), 1);
        assert!(!objections[0].0 && objections[0].1.contains("partition"));
    }

    #[test]
    fn what_cannot_hold_the_image_is_refused_for_good() {
        let objections = texts(&look(&sys("1\n", "0\n"), "/dev/sdb", ""), (8 << 20) + 1);
        assert_eq!(objections.len(), 1);
        assert!(objections[0].0 && objections[0].1.contains("8388608"));
    }

    #[test]
    fn write_protection_is_refused_for_good() {
        let objections = texts(&look(&sys("1\n", "1\n"), "/dev/sdb", ""), 1);
        assert_eq!(objections, [(true, "/dev/sdb is write-protected".to_owned())]);
    }

    #[test]
    fn what_is_no_block_device_is_an_error() {
        let message = Device::look(Path::new("/dev/null"), sys("1", "0").path(), "").unwrap_err().to_string();
        assert!(message.contains("no block device"));
    }
}
