//! `upgrade-sidecars`: which pods that run have another sidecar than a new one would get, and what becomes of them; asks the operator
//! for an upgrade, and follows it.
//!
//! Nothing is upgraded here. Where the resource has a strategy, the operator goes by it without being asked; an annotation asks for
//! another one, this once (`docs/upgrades.md`).

#![expect(clippy::doc_markdown, reason = "texts of arguments become help, which is shown as plain text")]

mod look;
mod page;
mod plan;

use std::{collections::BTreeMap, time::Duration};

use context_manager_crds::context_manager::sidecar::UpgradeStrategy;
use context_manager_operator::upgrade::Request;
use context_manager_protocol::names;
use kube::{
    ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    answer::{Answer, Exit, Health, Output},
    cluster::{Cluster, call},
    error::Error,
};
use look::Looker;
use plan::{Plan, State, Upgrade, Wanted};

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// How long what the operator said before it was asked is not taken for its answer.
const STALE: Duration = Duration::from_secs(10);

/// Arguments of `upgrade-sidecars`.
#[derive(Clone, Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct Args {
    /// The ContextManager whose pods are meant; all of the namespace when absent
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// All namespaces instead of the one
    #[arg(short = 'A', long, conflicts_with_all = ["namespace", "name"])]
    all_namespaces: bool,
    /// What is done with outdated pods, this once; what the ContextManager says when absent
    #[arg(long, value_enum, value_name = "STRATEGY")]
    strategy: Option<Strategy>,
    /// Try an image again that failed before
    #[arg(long)]
    retry: bool,
    /// Only say what would be done
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Follow the upgrade until every pod is up to date
    #[arg(long, visible_alias = "watch")]
    wait: bool,
    /// How long to follow it, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
    /// Image of the sidecar, for ContextManagers that name none; that of the installed webhook when absent
    #[arg(long, value_name = "IMAGE")]
    sidecar_image: Option<String>,
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Strategy {
    /// The sidecar's image is replaced in the running pod
    #[value(alias = "InPlace")]
    InPlace,
    /// Pods are evicted, within their PodDisruptionBudgets; memory on an emptyDir ends with them
    #[value(alias = "RollingRestart")]
    RollingRestart,
}

impl From<Strategy> for UpgradeStrategy {
    fn from(strategy: Strategy) -> Self {
        match strategy {
            Strategy::InPlace => Self::InPlace,
            Strategy::RollingRestart => Self::RollingRestart,
        }
    }
}

/// Shows, asks, and follows if asked to.
pub(crate) async fn run(cluster: &Cluster, args: &Args, output: Output) -> Result<Answer, Error> {
    let mut notes = Vec::new();
    let found = match &args.name {
        Some(name) => vec![cluster.resource(name).await?],
        None if args.all_namespaces => {
            let visible = cluster.visible().await?;
            notes.extend(visible.note());
            visible.found
        }
        None => cluster.resources(Some(&cluster.namespace)).await?,
    };
    if found.is_empty() {
        notes.push("there is no ContextManager here; -A looks at all namespaces".to_owned());
    }
    let looker = Looker::new(cluster, args.sidecar_image.clone()).await;
    let asked = Wanted { strategy: args.strategy.map(UpgradeStrategy::from), retry: args.retry };
    let mut upgrades = Vec::new();
    for resource in &found {
        // All there are may be those of several operators; of the others nothing is said but that.
        if let (true, Some(why)) = (args.all_namespaces, looker.is_of_another(resource)) {
            let place = format!("{}/{}", resource.namespace().unwrap_or_default(), resource.name_any());
            notes.push(format!("{place} is left out: {why}; ask again with --operator-namespace"));
            continue;
        }
        // One that is being deleted gives no pod anything.
        let Some(mut plan) = looker.plan(resource, asked).await? else { continue };
        // Before it is asked for: what an eviction ends cannot be brought back.
        if let Some(warning) = plan.warning() {
            eprintln!("{warning}");
        }
        if !args.dry_run && plan.needs_request() {
            request(cluster, &plan).await?;
            plan.upgrade.state = State::Requested;
        }
        upgrades.push(plan);
    }
    if args.wait {
        notes.extend(follow(cluster, &looker, &mut upgrades, args).await?);
    }
    let mut upgrades: Vec<_> = upgrades.into_iter().map(|plan| plan.upgrade).collect();
    upgrades.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let well = |upgrade: &Upgrade| if args.wait { upgrade.state == State::UpToDate } else { upgrade.leaves_nothing() };
    let exit = Exit::unless(Health::all(upgrades.iter().map(well)));
    Ok(Answer::new(output.write(&upgrades, |upgrades| page::page(upgrades))?, exit).noting(notes))
}

/// Asks the operator. The same request again changes nothing.
async fn request(cluster: &Cluster, plan: &Plan) -> Result<(), Error> {
    let Plan { upgrade, generation, .. } = plan;
    let Upgrade { namespace, name, image, strategy, .. } = upgrade;
    let again = plan.forgives();
    let request = Request { strategy: *strategy, image: image.clone(), generation: *generation, again };
    let annotate =
        Patch::Merge(json!({"metadata": {"annotations": {names::UPGRADE_SIDECARS: json!(request).to_string()}}}));
    let action = format!("ask for an upgrade of the sidecars of {namespace}/{name}");
    let api = cluster.resources_of(namespace);
    let (params, right) = (PatchParams::default(), "patch contextmanagers.contextmanager.dev");
    call(&action, right, api.patch(name, &params, &annotate)).await.map(drop)
}

/// Looks at all of them until each is up to date, or goes no further, or the time is over.
async fn follow(cluster: &Cluster, looker: &Looker<'_>, plans: &mut [Plan], args: &Args) -> Result<Vec<String>, Error> {
    let patience = Duration::from_secs(args.timeout);
    // What was asked for is in force by now.
    let asked = Wanted { strategy: args.strategy.map(UpgradeStrategy::from), retry: false };
    let (started, mut said) = (Instant::now(), BTreeMap::new());
    let before: Vec<_> = plans.iter().map(|plan| plan.said.clone()).collect();
    let mut ended = vec![false; plans.len()];
    loop {
        for ((plan, before), ended) in plans.iter_mut().zip(&before).zip(&mut ended) {
            if *ended {
                continue;
            }
            let key = format!("{}/{}", plan.upgrade.namespace, plan.upgrade.name);
            let resource = cluster.resource_of(&plan.upgrade.namespace, &plan.upgrade.name).await?;
            let Some(mut now) = looker.plan(&resource, asked).await? else {
                *ended = true;
                continue;
            };
            let answered = now.said != *before || started.elapsed() > STALE;
            now.settle(answered);
            let line = now.words();
            if said.insert(key.clone(), line.clone()).as_ref() != Some(&line) {
                eprintln!("{key}: {line}");
            }
            *ended = now.upgrade.state.is_final();
            *plan = now;
        }
        if ended.iter().all(|ended| *ended) {
            return Ok(Vec::new());
        }
        if started.elapsed() > patience {
            let note =
                "it goes on, and the operator needs nobody who waits; `kubectl context status` shows how far it is";
            return Ok(vec![note.to_owned()]);
        }
        sleep(LOOK).await;
    }
}
