//! The program of an image that shows itself well and then crashes, as one with a leak or a bad timer does: the sidecar, which is killed
//! some seconds after it is ready.

use std::{
    env,
    process::{Command, ExitCode, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use context_manager_protocol::names;

/// How long it shows itself well: for longer than a kubelet needs to see it.
const WELL: Duration = Duration::from_secs(6);

fn main() -> Result<ExitCode> {
    let mut sidecar = Command::new(names::PROGRAM).args(env::args_os().skip(1)).spawn().context("no sidecar")?;
    let ready = Command::new(names::PROGRAM).args(["ask", "--wait", "1m"]).stdout(Stdio::null()).status()?;
    ensure!(ready.success(), "the sidecar is not ready in time");
    thread::sleep(WELL);
    sidecar.kill()?;
    sidecar.wait()?;
    eprintln!("this image ends {WELL:?} after it is ready");
    Ok(ExitCode::FAILURE)
}
