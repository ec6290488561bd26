//! The ramdisk: a tar archive with `lamina.toml` first and then every file that it names.
//!
//! [`Config`] is the configuration as text that options may edit; [`Files`] knows where a named file is looked for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use lamina_core::config::{self, CONFIG_FILE, VmConfig};
use toml_edit::{DocumentMut, Item, Table, value};

use crate::workspace::Workspace;

/// Members from this size on are worth compressing.
const COMPRESS_FROM: usize = 64 << 10;

/// A configuration on its way into a ramdisk.
#[derive(Debug, Clone)]
pub struct Config {
    /// What messages call it: the path of the file, or how it came to be.
    pub origin: String,
    /// The folder that file names are relative to.
    pub folder: PathBuf,
    document: DocumentMut,
}

impl Config {
    /// Reads a configuration file.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read the configuration {}", path.display()))?;
        let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
        Self::parse(&text, path.display().to_string(), folder)
    }

    /// Takes a configuration from text; `origin` is what messages call it.
    pub fn parse(text: &str, origin: String, folder: PathBuf) -> Result<Self> {
        let document = text.parse().with_context(|| format!("{origin} is no valid TOML"))?;
        Ok(Self { origin, folder, document })
    }

    /// Sets a key of the `[host]` table.
    pub fn set_host(&mut self, key: &str, setting: impl Into<toml_edit::Value>) {
        let host = self.document.entry("host").or_insert_with(|| Item::Table(Table::new()));
        if let Some(table) = host.as_table_like_mut() {
            table.insert(key, value(setting));
        }
    }

    /// The text as the kernel will see it.
    #[must_use]
    pub fn text(&self) -> String {
        self.document.to_string()
    }

    /// What the kernel will make of it, by the kernel's own code.
    pub fn check(&self) -> Result<config::Config> {
        config::Config::parse(&self.text())
            .map_err(|error| anyhow!("{}:{}: {}", self.origin, error.line, error.message))
    }
}

/// The places where a file that a configuration names may lie.
#[derive(Debug, Clone)]
pub struct Files {
    given: BTreeMap<String, PathBuf>,
    guests: BTreeMap<String, PathBuf>,
    assets: PathBuf,
}

impl Files {
    /// Looks in the configuration's folder, among the built guest images and among the files that `setup` makes.
    #[must_use]
    pub fn new(workspace: &Workspace, guests: BTreeMap<String, PathBuf>) -> Self {
        Self { given: BTreeMap::new(), guests, assets: workspace.assets() }
    }

    /// Makes this name stand for this file, wherever else one of that name may lie.
    pub fn give(&mut self, name: &str, path: PathBuf) {
        self.given.insert(name.to_owned(), path);
    }

    /// The path of the file that the configuration calls `name`.
    pub fn resolve(&self, config: &Config, name: &str) -> Result<PathBuf> {
        if let Some(path) = self.given.get(name) {
            return Ok(path.clone());
        }
        let beside = config.folder.join(name);
        if beside.is_file() {
            return Ok(beside);
        }
        if let Some(path) = self.guests.get(name) {
            return Ok(path.clone());
        }
        let asset = self.assets.join(name);
        if asset.is_file() {
            return Ok(asset);
        }
        let guests = self.guests.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        bail!(
            "{} names the file `{name}`, which is neither in {}, nor a guest image ({guests}), nor made by `cargo xtask \
             setup` ({})",
            config.origin,
            if config.folder.as_os_str().is_empty() { Path::new(".") } else { &config.folder }.display(),
            self.list_assets().join(", "),
        )
    }

    fn list_assets(&self) -> Vec<String> {
        let mut names = Vec::new();
        for folder in fs::read_dir(&self.assets).into_iter().flatten().flatten() {
            for file in fs::read_dir(folder.path()).into_iter().flatten().flatten() {
                names.push(format!("{}/{}", folder.file_name().display(), file.file_name().display()));
            }
        }
        names.sort();
        names
    }
}

/// Checks the configuration and packs it with all files that it names; with `compress`, large members that shrink are
/// stored as `NAME.lz4`.
pub fn pack(config: &Config, files: &Files, compress: bool) -> Result<Vec<u8>> {
    let checked = config.check()?;
    let names: BTreeSet<&str> = checked.vms.iter().flat_map(VmConfig::files).map(|(_, name)| name).collect();
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, CONFIG_FILE, config.text().as_bytes())?;
    for name in names {
        let path = files.resolve(config, name)?;
        let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let compressed = (compress && content.len() >= COMPRESS_FROM)
            .then(|| lz4_flex::compress_prepend_size(&content))
            .filter(|compressed| compressed.len() < content.len() / 10 * 9);
        match compressed {
            Some(compressed) => append(&mut archive, &format!("{name}.lz4"), &compressed)?,
            None => append(&mut archive, name, &content)?,
        }
    }
    archive.into_inner().context("cannot finish the ramdisk")
}

/// Packs a configuration as it is and nothing else, to see the kernel refuse it.
pub fn pack_unchecked(config: &str) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, CONFIG_FILE, config.as_bytes())?;
    archive.into_inner().context("cannot finish the ramdisk")
}

fn append(archive: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(u64::try_from(content.len())?);
    header.set_mode(0o644);
    archive.append_data(&mut header, name, content).with_context(|| format!("cannot store `{name}` in the ramdisk"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn config(text: &str, folder: &Path) -> Config {
        Config::parse(text, "test.toml".to_owned(), folder.to_path_buf()).unwrap()
    }

    fn members(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap();
        entries
            .map(|entry| {
                let mut entry = entry.unwrap();
                let name = entry.path().unwrap().display().to_string();
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                (name, content)
            })
            .collect()
    }

    fn files(folder: &Path) -> Files {
        Files { given: BTreeMap::new(), guests: BTreeMap::new(), assets: folder.join("assets") }
    }

    #[test]
    fn the_configuration_comes_first_and_each_file_once() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["kernel", "initrd", "module"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let text = "[[vm]]\nname = \"a\"\nimage = \"kernel\"\ninitrd = \"initrd\"\n\
                    [[vm]]\nname = \"b\"\nimage = \"kernel\"\nmodules = [\"module with arguments\"]\n";
        let config = config(text, folder.path());
        let packed = members(&pack(&config, &files(folder.path()), false).unwrap());
        assert_eq!(packed[0], (CONFIG_FILE.to_owned(), text.as_bytes().to_vec()));
        let names: Vec<&str> = packed[1..].iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["initrd", "kernel", "module"]);
    }

    #[test]
    fn large_members_that_shrink_are_compressed() {
        let folder = tempfile::tempdir().unwrap();
        let zeros = vec![0; COMPRESS_FROM];
        fs::write(folder.path().join("zeros"), &zeros).unwrap();
        let config = config("[[vm]]\nname = \"a\"\nimage = \"zeros\"\n", folder.path());
        let packed = members(&pack(&config, &files(folder.path()), true).unwrap());
        assert_eq!(packed[1].0, "zeros.lz4");
        assert_eq!(lz4_flex::decompress_size_prepended(&packed[1].1).unwrap(), zeros);
    }

    #[test]
    fn a_missing_file_names_all_places() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("assets/linux")).unwrap();
        fs::write(folder.path().join("assets/linux/vmlinuz"), "").unwrap();
        let mut files = files(folder.path());
        files.guests.insert("hello".to_owned(), PathBuf::from("hello"));
        let config = config("[[vm]]\nname = \"a\"\nimage = \"helo\"\n", folder.path());
        let message = pack(&config, &files, false).unwrap_err().to_string();
        for part in ["test.toml", "`helo`", "hello", "linux/vmlinuz", &folder.path().display().to_string()] {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
    }

    #[test]
    fn a_mistake_is_found_by_the_kernels_own_check() {
        let config = config(
            "[host]\nlog_level = \"info\"\n[[vm]]\nname = \"a\"\nimage = \"x\"\nmemry = \"1M\"\n",
            Path::new(""),
        );
        let message = pack(&config, &files(Path::new("")), false).unwrap_err().to_string();
        assert!(message.starts_with("test.toml:6: ") && message.contains("memry"), "{message}");
    }

    #[test]
    fn host_settings_are_added_or_replaced() {
        let mut config = config("[host]\nlog_level = \"info\" # loud\n", Path::new(""));
        config.set_host("log_level", "debug");
        config.set_host("tee_serial", true);
        assert_eq!(config.text(), "[host]\nlog_level = \"debug\"\ntee_serial = true\n");
    }
}
