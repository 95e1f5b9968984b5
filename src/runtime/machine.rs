//! What this machine has to run environments with.

use std::{fs, io, path::Path};

use rustix::fs::statvfs;
use serde::{Deserialize, Serialize};
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use super::fit::{Given, Thing};

/// What a machine has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Processor cores that this process may use.
    pub cpus: f64,
    /// Memory, in bytes: the machine's, or what this process may have of it.
    pub memory: u64,
    /// How much of it is free, or can be made free.
    pub memory_free: u64,
    /// Free space where the cache and the changes are, in bytes.
    pub disk_free: u64,
    /// Graphics processors that programs can compute with.
    pub gpus: Vec<Gpu>,
}

/// A graphics processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// What its driver calls it.
    pub name: String,
    /// Its memory, in bytes, where the driver tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
}

impl Machine {
    /// Looks at this machine; `state` is a folder on the disk that environments write to.
    pub fn look(state: &Path) -> io::Result<Self> {
        let memory = MemoryRefreshKind::nothing().with_ram();
        let system = System::new_with_specifics(RefreshKind::nothing().with_memory(memory))
            .map_err(io::Error::other)?;
        let (mut total, mut free) = (system.total_memory(), system.available_memory());
        if let Some(limits) = system.cgroup_limits() {
            total = total.min(limits.total_memory);
            free = free.min(limits.free_memory);
        }
        let disk = statvfs(state)?;
        #[expect(clippy::cast_precision_loss, reason = "machines have few cores")]
        let cpus = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
        Ok(Self {
            cpus,
            memory: total,
            memory_free: free,
            disk_free: disk.f_bavail.saturating_mul(disk.f_frsize),
            gpus: gpus(Path::new("/")),
        })
    }

    /// What is left of it when so much has been given away. Free memory is what it is, or what nobody was given, if that's
    /// less: those who have it may not have used it yet.
    #[must_use]
    pub fn without(&self, taken: &[Given]) -> Self {
        let mut left = self.clone();
        let (mut memory, mut gpus) = (0.0, 0.0);
        for given in taken {
            match given.what {
                Thing::Cpu => left.cpus = (left.cpus - given.amount).max(0.0),
                Thing::Memory => memory += given.amount,
                Thing::Gpu => gpus += given.amount,
                // What was written shows as used, and the rest may never be.
                Thing::Disk => {}
            }
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "they are positive, and small"
        )]
        let (memory, gpus) = (memory as u64, gpus as usize);
        left.memory_free = left.memory_free.min(left.memory.saturating_sub(memory));
        left.gpus.truncate(left.gpus.len().saturating_sub(gpus));
        left
    }
}

/// The graphics processors whose drivers let programs compute, below `root`: NVIDIA's, and AMD's with its compute driver.
fn gpus(root: &Path) -> Vec<Gpu> {
    let mut found = Vec::new();
    for folder in folders(&root.join("proc/driver/nvidia/gpus")) {
        let about = fs::read_to_string(folder.join("information")).unwrap_or_default();
        let name =
            about.lines().find_map(|line| line.strip_prefix("Model:")).unwrap_or("NVIDIA").trim().to_owned();
        found.push(Gpu { name, memory: None });
    }
    if root.join("dev/kfd").exists() {
        for card in folders(&root.join("sys/class/drm")) {
            let is_card = card.file_name().is_some_and(|name| !name.to_string_lossy().contains('-'));
            let device = card.join("device");
            let read =
                |name: &str| fs::read_to_string(device.join(name)).ok().map(|text| text.trim().to_owned());
            if is_card && read("vendor").as_deref() == Some("0x1002") {
                let memory = read("mem_info_vram_total").and_then(|bytes| bytes.parse().ok());
                found.push(Gpu { name: read("product_name").unwrap_or_else(|| "AMD".to_owned()), memory });
            }
        }
    }
    found
}

fn folders(path: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut folders: Vec<_> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_something() {
        let machine = Machine::look(&std::env::temp_dir()).unwrap();
        assert!(machine.cpus >= 1.0 && machine.memory > 64 << 20 && machine.memory_free <= machine.memory);
        assert!(machine.disk_free > 0);
    }

    #[test]
    fn graphics_processors_are_found_by_their_drivers() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert!(gpus(root.path()).is_empty());
        write("proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t\t NVIDIA L4\nIRQ: 5\n");
        write("sys/class/drm/card0/device/vendor", "0x1002\n");
        write("sys/class/drm/card0/device/mem_info_vram_total", "17163091968\n");
        write("sys/class/drm/card1/device/vendor", "0x8086\n");
        write("sys/class/drm/card0-DP-1/device/vendor", "0x1002\n");
        assert_eq!(gpus(root.path()).len(), 1, "without its compute driver AMD's only shows pictures");
        write("dev/kfd", "");
        let found = gpus(root.path());
        assert_eq!(found[0], Gpu { name: "NVIDIA L4".to_owned(), memory: None });
        assert_eq!(found[1], Gpu { name: "AMD".to_owned(), memory: Some(17_163_091_968) });
        assert_eq!(found.len(), 2);
    }
}
