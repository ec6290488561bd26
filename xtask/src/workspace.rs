//! Where things lie in the repository: [`Workspace`].

use std::path::{Path, PathBuf};

/// The repository this program was built from.
#[derive(Debug, Clone)]
pub struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The repository that holds this very `xtask`.
    #[must_use]
    pub fn find() -> Self {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self { root: manifest.parent().unwrap_or(manifest).to_path_buf() }
    }

    /// The folder with the workspace's `Cargo.toml`.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What is slow to make and survives `cargo clean`: downloads, boot stages.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.root.join(".cache")
    }

    /// What `cargo clean` removes.
    #[must_use]
    pub fn target(&self) -> PathBuf {
        self.root.join("target")
    }

    /// The files that `setup` makes for guests: `linux/vmlinuz` and the like.
    #[must_use]
    pub fn assets(&self) -> PathBuf {
        self.cache().join("assets")
    }

    /// The configuration that `run` and `image` take when none is named.
    #[must_use]
    pub fn demo_config(&self) -> PathBuf {
        self.root.join("boot/demo.toml")
    }

    /// Where the run with this name keeps its image, settings and logs.
    #[must_use]
    pub fn run_dir(&self, name: &str) -> PathBuf {
        self.target().join("runs").join(name)
    }
}
