//! The machine: what it is, what its disk does, who else uses its processors.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::time::Instant;

use crate::Run;

/// Linux counts processor time in these, whatever the kernel's own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

/// Writes for one median.
const SYNCS: usize = 31;

/// Processor time spent while something ran.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    /// By this process and all its descendants, seconds.
    pub own_s: f64,
    /// By everything else, cores.
    pub foreign_cores: f64,
}

/// A span of time and the counters at its beginning.
pub struct CpuSpan {
    started: Instant,
    machine: f64,
    own: f64,
}

impl CpuSpan {
    /// Reads the counters.
    pub fn begin() -> Self {
        Self {
            started: Instant::now(),
            machine: machine_ticks(),
            own: own_ticks(),
        }
    }

    /// Reads them again.
    pub fn end(self) -> Cpu {
        let own = (own_ticks() - self.own).max(0.0);
        let foreign = (machine_ticks() - self.machine - own).max(0.0);
        Cpu {
            own_s: own / TICKS_PER_SECOND,
            foreign_cores: foreign / TICKS_PER_SECOND / self.started.elapsed().as_secs_f64(),
        }
    }
}

/// Busy ticks of all processors: user, nice, system, irq, softirq.
fn machine_ticks() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let numbers: Vec<f64> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|word| word.parse().ok())
        .collect();
    [0, 1, 2, 5, 6].iter().filter_map(|index| numbers.get(*index)).sum()
}

/// Ticks of this process, of every descendant, and of those that have ended and were waited for.
fn own_ticks() -> f64 {
    let mut parents = BTreeMap::new();
    let mut ticks = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let text = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // After the name, which may contain anything: state, parent, ...; 11 to 14 are utime, stime, cutime, cstime.
        let Some((_, rest)) = text.rsplit_once(')') else {
            continue;
        };
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |index: usize| {
            fields
                .get(index)
                .and_then(|field| field.parse::<f64>().ok())
                .unwrap_or(0.0)
        };
        parents.insert(pid, number(1) as u32);
        ticks.insert(pid, (11..=14).map(number).sum::<f64>());
    }
    let own = std::process::id();
    let descends = |pid: u32| {
        let mut at = pid;
        while at != own {
            match parents.get(&at) {
                Some(parent) if *parent != 0 => at = *parent,
                _ => return false,
            }
        }
        true
    };
    ticks
        .iter()
        .filter(|(pid, _)| descends(**pid))
        .map(|(_, spent)| spent)
        .sum()
}

/// Median time of an 8 kB write and its fdatasync, where the servers' directories are.
pub fn fdatasync_us() -> f64 {
    let path = Run::current().new_directory("sync").join("probe");
    let Ok(mut file) = fs::File::create(&path) else {
        return 0.0;
    };
    let mut times: Vec<f64> = (0..SYNCS)
        .filter_map(|_| {
            let started = Instant::now();
            file.write_all(&[7; 8192]).and_then(|()| file.sync_data()).ok()?;
            Some(started.elapsed().as_secs_f64() * 1e6)
        })
        .collect();
    times.sort_unstable_by(f64::total_cmp);
    if let Some(directory) = path.parent() {
        let _ = fs::remove_dir_all(directory);
    }
    times.get(times.len() / 2).copied().unwrap_or(0.0)
}

/// Lines that say what was measured on.
pub fn description() -> Vec<(String, String)> {
    let value = |path: &str, key: &str| {
        fs::read_to_string(path)
            .unwrap_or_default()
            .lines()
            .find_map(|line| Some(line.strip_prefix(key)?.split_once(':')?.1.trim().to_owned()))
            .unwrap_or_else(|| "unknown".into())
    };
    let memory_kb: u64 = value("/proc/meminfo", "MemTotal")
        .split(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let server = Run::current().program("postgres", &["--version"]).unwrap_or_default();
    vec![
        (
            "processor".into(),
            format!("{}, {cores} cores", value("/proc/cpuinfo", "model name")),
        ),
        ("memory".into(), format!("{} GiB", memory_kb >> 20)),
        ("kernel".into(), kernel.trim().into()),
        ("server".into(), server.trim().into()),
    ]
}
