//! `import`: sends an export to a sidecar, piece by piece. Sent again, nothing is doubled, so an import that broke off is begun anew.

mod pieces;

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use context_manager_protocol::message::{Imported, RefusedLine};

use self::pieces::Pieces;
use crate::{
    answer::{Answer, Exit, Health, Output},
    cluster::Cluster,
    error::Error,
    sidecar::{Failure, Request, Sidecar},
};

/// Attempts in a row at the same piece.
const ATTEMPTS: u32 = 10;
/// Pause before another attempt.
const PAUSE: Duration = Duration::from_secs(2);
/// The sidecar takes no more bytes at once than it is configured to.
const TOO_LARGE: u16 = 413;
/// What the sidecar says of a store that is away, of too many requests, and of a request that took too long.
const PASSING: [u16; 2] = [503, 504];

/// Arguments of `import`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The file that `export` wrote
    file: PathBuf,
    /// The pod whose sidecar is asked, as NAME or pod/NAME; any ready one with a sidecar when absent. Its agent needs an access rule for
    /// the tenant
    #[arg(long, value_name = "POD")]
    pod: Option<String>,
    /// Into the memory of the pod's own agent, which takes no access rule; for a file of `export --own`
    #[arg(long)]
    own: bool,
    /// Import a file whose export is not whole
    #[arg(long)]
    partial: bool,
}

/// Imports.
pub(crate) async fn run(cluster: &Cluster, args: &Args, output: Output) -> Result<Answer, Error> {
    let Args { file, pod, own, partial } = args;
    let mut pieces = Pieces::open(file)?;
    if !partial && !pieces.is_whole()? {
        return Err(Error::Input {
            file: file.display().to_string(),
            what:
                "the export is not whole; run `kubectl context export` again, which goes on with it, or pass --partial"
                    .to_owned(),
        });
    }
    let sidecar = Sidecar::find(cluster, pod.as_deref()).await?;
    let path = if *own { "/v1/contexts/import" } else { "/v1/tenant/import" };
    let mut total = Imported::default();
    let mut attempts = 0;
    while let Some(piece) = pieces.next()? {
        let request =
            Request { method: "POST", path, query: None, content_type: "application/jsonl", body: &piece.text };
        match sidecar.ask::<Imported>(request).await {
            Ok(imported) => {
                attempts = 0;
                // One that says nothing of it, of an earlier version, took all.
                let taken = if imported.lines_taken == 0 { piece.lines } else { imported.lines_taken.min(piece.lines) };
                pieces.took(&piece, taken);
                total = total.and(moved(imported, piece.after));
                total.lines_taken = piece.after + taken;
            }
            Err(Failure::Refused(TOO_LARGE, error)) => pieces.make_smaller(&piece, &error)?,
            Err(Failure::Broken(error)) => again(&mut attempts, error, &total).await?,
            Err(Failure::Refused(status, error)) if PASSING.contains(&status) => {
                again(&mut attempts, error, &total).await?;
            }
            Err(failure) => return Err(failure.into()),
        }
    }
    let text = output.write(&total, |total| page(total, &sidecar.name))?;
    Ok(Answer::new(text, Exit::unless(Health::all([total.refused_total == 0].into_iter()))))
}

/// Waits before another attempt, if there is to be one.
async fn again(attempts: &mut u32, error: Error, total: &Imported) -> Result<(), Error> {
    *attempts += 1;
    if *attempts >= ATTEMPTS {
        let taken = total.lines_taken;
        return Err(Error::Refused(format!(
            "{error}; {taken} lines were taken, and the same command may be given again"
        )));
    }
    tokio::time::sleep(PAUSE).await;
    Ok(())
}

/// The answer to a piece that begins after so many lines, in terms of the file.
fn moved(imported: Imported, after: usize) -> Imported {
    let at = |refused: RefusedLine| RefusedLine { line: refused.line + after, ..refused };
    Imported { refused: imported.refused.into_iter().map(at).collect(), ..imported }
}

fn page(total: &Imported, pod: &str) -> String {
    let Imported { lines_taken, imported, unchanged, expired, refused, refused_total } = total;
    let mut text = format!(
        "{imported} contexts are new, {unchanged} were there, {expired} have expired, {refused_total} were refused; {lines_taken} lines, by pod {pod}\n"
    );
    for RefusedLine { line, code, detail } in refused {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "line {line}: {detail} ({})", code.as_str());
    }
    text
}

#[cfg(test)]
mod tests {
    use context_manager_protocol::problem::Code;

    use super::*;

    #[test]
    fn refused_lines_are_those_of_the_file() {
        let refused = |line| RefusedLine { line, code: Code::FieldInvalid, detail: "text is blank".to_owned() };
        let piece = Imported { imported: 2, refused: vec![refused(3)], refused_total: 1, ..Imported::default() };
        let total = Imported::default().and(moved(piece.clone(), 0)).and(moved(piece, 100));
        assert_eq!((total.imported, total.refused_total), (4, 2));
        let text = page(&total, "mover");
        for part in ["4 contexts are new", "2 were refused", "line 3: text is blank (field-invalid)", "line 103: "] {
            assert!(text.contains(part), "{text} lacks {part}");
        }
    }
}
