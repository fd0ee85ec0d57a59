//! `export`: writes a memory, or all memories of a namespace, to a file, and goes on where an earlier attempt broke off.

mod copy;

use std::{path::PathBuf, time::Duration};

use serde::Serialize;

use self::copy::Copy;
use crate::{
    answer::{Answer, Exit, Output},
    cluster::Cluster,
    error::Error,
    sidecar::{Failure, Request, Sidecar},
};

/// Attempts in a row that bring nothing.
const ATTEMPTS: u32 = 5;
/// Pause before another attempt.
const PAUSE: Duration = Duration::from_secs(2);

/// Arguments of `export`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The file that is written, in JSON Lines. One that an earlier attempt has begun goes on
    file: PathBuf,
    /// The pod whose sidecar is asked, as NAME or pod/NAME; any ready one with a sidecar when absent. Its agent needs an access rule for
    /// the tenant
    #[arg(long, value_name = "POD")]
    pod: Option<String>,
    /// Only the memory of the pod's own agent, which takes no access rule
    #[arg(long)]
    own: bool,
}

/// What was written.
#[derive(Serialize)]
struct Exported {
    file: PathBuf,
    contexts: usize,
}

/// Exports.
pub(crate) async fn run(cluster: &Cluster, args: &Args, output: Output) -> Result<Answer, Error> {
    let Args { file, pod, own } = args;
    let sidecar = Sidecar::find(cluster, pod.as_deref()).await?;
    let mut copy = Copy::open(file)?;
    let path = if *own { "/v1/contexts/export" } else { "/v1/tenant/export" };
    let mut attempts = 0;
    loop {
        let before = copy.contexts();
        match pull(&sidecar, path, &mut copy).await {
            Ok(()) => break,
            Err(Failure::Broken(error)) => {
                attempts = if copy.contexts() > before { 1 } else { attempts + 1 };
                if attempts >= ATTEMPTS {
                    copy.keep()?;
                    return Err(Error::Refused(format!(
                        "{error}; the file has {} contexts, and the same command goes on after them",
                        copy.contexts()
                    )));
                }
                tokio::time::sleep(PAUSE).await;
            }
            Err(failure) => {
                copy.keep()?;
                return Err(failure.into());
            }
        }
    }
    let exported = Exported { file: file.clone(), contexts: copy.contexts() };
    let text = output.write(&exported, |Exported { file, contexts }| {
        format!("{contexts} contexts are in {}, asked in pod {}\n", file.display(), sidecar.name)
    })?;
    Ok(Answer::new(text, Exit::Fine))
}

/// Takes what follows the last context of the copy.
async fn pull(sidecar: &Sidecar<'_>, path: &'static str, copy: &mut Copy) -> Result<(), Failure> {
    let query = copy.last().map(|last| format!("after={last}"));
    let request =
        Request { method: "GET", path, query: query.as_deref(), content_type: "application/jsonl", body: b"" };
    let mut answer = sidecar.send(request).await?;
    copy.begin();
    while let Some(part) = answer.part().await? {
        copy.add(&part).map_err(Failure::Impossible)?;
    }
    if copy.is_whole() {
        return Ok(());
    }
    Err(Failure::Broken(Error::Refused("the export ended before its last line; the sidecar's log says why".to_owned())))
}
