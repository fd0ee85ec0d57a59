//! What a process takes of the machine.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};

/// In mebibytes: all that is resident, and what of it is not mapped from a file and so cannot be dropped by the kernel.
pub struct Memory {
    /// All that is resident.
    pub resident: f64,
    /// What of it is not mapped from a file.
    pub anonymous: f64,
}

impl Memory {
    /// What a process takes now.
    pub fn of(process: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        Ok(Self { resident: field(&status, "VmRSS:")?, anonymous: field(&status, "RssAnon:")? })
    }
}

/// A line of the kernel's words about memory, in mebibytes.
fn field(words: &str, name: &str) -> Result<f64> {
    let line = words.lines().find_map(|line| line.strip_prefix(name)).context("the kernel tells memory")?;
    let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes / 1_024.0)
}

/// Forgets which pages of a process were touched. Only root may.
pub fn forget_touched(process: u32) -> Result<()> {
    fs::write(format!("/proc/{process}/clear_refs"), "1").context("failed to have the kernel forget; is this root?")
}

/// What was touched since, in mebibytes. The kernel maps more of a file than a process asks for, as much as lies in one piece in the page
/// cache: that is resident, but nobody misses it when it is gone.
pub fn touched(process: u32) -> Result<f64> {
    field(&fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?, "Referenced:")
}

/// What all processors together have spent on a process.
pub fn cpu_time(process: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The fields after the program's name, which may have blanks in it: the 12th and 13th are user and system time.
    let fields = stat.rsplit_once(')').context("the kernel's words have a name in them")?.1;
    let ticks: Vec<u64> =
        fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>().context("ticks")?;
    let a_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("ticks a second")?;
    #[expect(clippy::cast_precision_loss, reason = "ticks of a short run")]
    let seconds = ticks.iter().sum::<u64>() as f64 / a_second as f64;
    Ok(Duration::from_secs_f64(seconds))
}
