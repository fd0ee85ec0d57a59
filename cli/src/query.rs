//! `query`: searches the memory of a running pod, by the protocol that its agent speaks.

mod answer;

use context_manager_protocol::{
    codec::Format,
    message::{ContextRequest, ContextResponse, Filter, Scope},
};

use crate::{
    answer::{Answer, Exit, Output},
    cluster::Cluster,
    error::Error,
    sidecar::{Request, Sidecar},
};

const PATH: &str = "/v1/contexts/search";

/// Arguments of `query`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// What to look for, in natural language
    query: String,
    /// The pod whose sidecar is asked, as NAME or pod/NAME; any ready one with a sidecar when absent
    #[arg(long, value_name = "POD")]
    pod: Option<String>,
    /// Most tokens of the answer; the configured default when absent
    #[arg(long, value_name = "TOKENS")]
    token_budget: Option<i64>,
    /// Most contexts of the answer
    #[arg(long, value_name = "NUMBER", default_value_t = 10)]
    limit: i64,
    /// Only contexts of this session
    #[arg(long, value_name = "NAME")]
    session: Option<String>,
    /// Search this shared space instead of the agent's own memory, if its access rules permit
    #[arg(long, value_name = "NAME")]
    space: Option<String>,
    /// Show the parts of each score
    #[arg(long)]
    explain: bool,
}

/// Searches.
pub(crate) async fn run(cluster: &Cluster, args: &Args, output: Output) -> Result<Answer, Error> {
    let sidecar = Sidecar::find(cluster, args.pod.as_deref()).await?;
    let message = Format::Json.encode(&request(args));
    let content_type = Format::Json.media_type();
    let request = Request { method: "POST", path: PATH, query: None, content_type, body: &message };
    let found: ContextResponse = sidecar.ask(request).await?;
    let text = output.write(&found, |found| answer::page(found, &sidecar.name))?;
    Ok(Answer::new(text, Exit::Fine))
}

fn request(args: &Args) -> ContextRequest {
    let Args { query, pod: _, token_budget, limit, session, space, explain } = args;
    ContextRequest {
        query: query.clone(),
        token_budget: *token_budget,
        limit: Some(*limit),
        levels: None,
        session: session.clone(),
        filter: Filter::default(),
        min_score: None,
        as_of: None,
        scope: space.clone().map(|space| Scope { space: Some(space), ..Scope::default() }),
        scopes: Vec::new(),
        explain: *explain,
    }
}
