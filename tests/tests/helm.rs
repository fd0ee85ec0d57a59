//! The chart from its first installation to its removal, by the real helm, with an agent that runs all the while.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use context_manager_crds::ContextManager;
use context_manager_protocol::names;
use context_manager_tests::{
    cluster::{self, Namespace, eventually, kubectl},
    helm::Release,
    operator::{provision, wait_within},
    plugin, pods,
};
use k8s_openapi::{
    api::core::v1::{Pod, Secret},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::{Value, json};

const RELEASE: &str = "suite-helm";
/// A right that the controller has only where it upgrades sidecars.
const PATCHES_PODS: &str = r#""resources":["pods"],"verbs":["patch"]"#;
const DEFINITION: &str = "contextmanagers.contextmanager.dev";
/// How long something takes that only has to be noticed.
const SOON: Duration = Duration::from_secs(30);
/// How helm waits.
const WAIT: &[&str] = &["--wait", "--timeout", "3m"];
/// One replica of each part, because the agent needs room too.
const SMALL: &[&str] = &["--set", "controller.replicas=1", "--set", "webhook.replicas=1", "--hide-notes"];
/// Where the definition has what an earlier version had not.
const NEWER: &str = "/schema/openAPIV3Schema/properties/spec/properties/sidecar/properties/upgrade";

fn chart() -> String {
    format!("{}/../charts/context-manager", env!("CARGO_MANIFEST_DIR"))
}

/// The chart as it was before sidecars could be upgraded: an earlier version, and a definition that has less.
fn older(folder: &Path) -> Result<String> {
    let older = folder.join("older");
    copy(Path::new(&chart()), &older)?;
    let about = older.join("Chart.yaml");
    let text = fs::read_to_string(&about)?;
    let version = text.lines().find(|line| line.starts_with("version: ")).context("the chart has a version")?;
    fs::write(&about, text.replace(&format!("\n{version}\n"), "\nversion: 0.0.1\n"))?;
    let path = older.join(format!("files/crds/{DEFINITION}.yaml"));
    let mut definition: Value = serde_saphyr::from_str(&fs::read_to_string(&path)?)?;
    for version in definition["spec"]["versions"].as_array_mut().context("versions")? {
        let (parent, field) = NEWER.rsplit_once('/').context("a path")?;
        let parent = version.pointer_mut(parent).and_then(Value::as_object_mut).context("the sidecar's schema")?;
        parent.remove(field).context("the definition has no such field")?;
    }
    fs::write(&path, definition.to_string())?;
    older.to_str().map(str::to_owned).context("a path in UTF-8")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (entry, to) = (entry?.path(), to.to_owned());
        let to = to.join(entry.file_name().context("a name")?);
        if entry.is_dir() { copy(&entry, &to)? } else { fs::copy(&entry, &to).map(drop)? }
    }
    Ok(())
}

async fn definition(client: &Client) -> Result<Option<Value>> {
    let found = Api::<CustomResourceDefinition>::all(client.clone()).get_opt(DEFINITION).await?;
    Ok(found.map(|found| json!(found)))
}

/// Whether the definition has the newer field.
fn is_newer(definition: &Value) -> bool {
    definition["spec"]["versions"][0].pointer(NEWER).is_some()
}

/// What tells whether anybody wrote an object of the release. Of those whose status a controller writes it is the generation.
async fn versions(release: &Release) -> Result<Vec<String>> {
    let path = release.folder().join("manifest.yaml");
    fs::write(&path, release.helm(&["get", "manifest"], &[]).await?)?;
    let file = path.to_str().context("a path")?;
    let list: Value = serde_json::from_str(&kubectl(&["get", "-f", file, "-o", "json"]).await?)?;
    let items = list["items"].as_array().context("a list")?;
    let line = |item: &Value| {
        let kind = item["kind"].as_str().unwrap_or_default();
        let (metadata, counted) = (&item["metadata"], ["Deployment", "PodDisruptionBudget"].contains(&kind));
        format!("{kind} {} {}", metadata["name"], metadata[if counted { "generation" } else { "resourceVersion" }])
    };
    let mut lines: Vec<_> = items.iter().map(line).collect();
    lines.sort();
    Ok(lines)
}

/// The resource with what it had before, and the agent with all that it remembers.
async fn goes_on(agents: &Namespace, key: &str, pod: &Pod) -> Result<()> {
    let resource = wait_within(SOON, agents, "memory", "Ready", |said| said.status == "True").await?;
    let now = resource.status.and_then(|status| status.keys).context("keys")?.active;
    ensure!(now == key, "the key was {key}, and is {now}");
    remembers(agents, pod).await
}

async fn remembers(agents: &Namespace, before: &Pod) -> Result<()> {
    let pod = pods::ready(agents, "agent").await?;
    ensure!(pod.uid() == before.uid() && pods::restarts(agents, "agent").await? == 0, "the pod is another one");
    let kept: usize = pods::stats(agents, "agent").await?.contexts.values().sum();
    ensure!(kept == 3, "the agent remembers {kept} contexts");
    Ok(())
}

/// A resource that only the operator lets go, in a namespace of its own.
async fn hold(client: &Client, guest: &Namespace) -> Result<Namespace> {
    let held = Namespace::create(client, "helm-held", &[]).await?;
    held.make_resource("memory", json!({"allowedNamespaces": [guest.name]})).await?;
    wait_within(SOON, &held, "memory", "GrantsReady", |said| said.status == "True").await?;
    Ok(held)
}

/// What the command line says before an uninstallation of a resource that is held, with this exit code: its level and the remedy.
async fn said_of(held: &Namespace, code: i32) -> Result<Option<(String, String)>> {
    let arguments = ["check", "--before-uninstall", "-n", &held.name, "-o", "json"];
    let said = plugin::run(&arguments).await?.expect(code)?.json()?;
    let of_held = |found: &&Value| {
        found["check"] == "held-resources" && found["message"].to_string().contains(&format!("{}/memory", held.name))
    };
    let found = said.as_array().into_iter().flatten().find(of_held);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(found.map(|found| (text(&found["level"]), text(&found["remedy"]))))
}

/// Does what the command line says, while there is an operator.
async fn remedy(held: &Namespace, remedy: &str) -> Result<()> {
    let (_, command) = remedy.split_once("kubectl ").with_context(|| format!("no command in {remedy:?}"))?;
    let command = command.replace('\'', "");
    kubectl(&command.split_whitespace().collect::<Vec<_>>()).await?;
    eventually("the operator to let it go", SOON, || async {
        let finalizers = held.api::<ContextManager>().get("memory").await?.finalizers().to_vec();
        ensure!(finalizers.is_empty(), "{finalizers:?}");
        Ok::<_, anyhow::Error>(())
    })
    .await
}

/// Ends it by what the page about releases tells who has uninstalled the operator already.
async fn let_go(held: &Namespace, guest: &Namespace) -> Result<()> {
    let resources = held.api::<ContextManager>();
    resources.delete("memory", &DeleteParams::default()).await?;
    ensure!(resources.get_opt("memory").await?.is_some(), "nobody had to let it go");
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/releases.md"))?;
    let written =
        page.lines().filter_map(|line| line.strip_prefix("$ kubectl ")).filter(|line| line.contains("team-a"));
    let commands: Vec<String> = written.map(|line| line.replace("team-a", &held.name).replace('\'', "")).collect();
    ensure!(commands.len() == 2, "{commands:?}");
    for command in commands {
        kubectl(&command.split_whitespace().collect::<Vec<_>>()).await?;
    }
    // With the last resource the definition goes as well, and then nobody knows what is asked for.
    let is_gone = match resources.get_opt("memory").await {
        Err(kube::Error::Api(status)) if status.code == 404 => true,
        found => found?.is_none(),
    };
    ensure!(is_gone, "it is still there");
    let copy = names::granted(&held.name, "memory");
    ensure!(guest.api::<Secret>().get_opt(&copy).await?.is_none(), "its copies are still there");
    Ok(())
}

/// The rights of the controller in the whole cluster, and the arguments of its program.
async fn controller(home: &Namespace) -> Result<(String, String)> {
    let name = format!("{RELEASE}-context-manager-controller");
    let rules = kubectl(&["get", "clusterrole", &name, "-o", "jsonpath={.rules}"]).await?;
    let path = "jsonpath={.spec.template.spec.containers[0]}";
    Ok((rules, kubectl(&["-n", &home.name, "get", "deployment", &name, "-o", path]).await?))
}

#[tokio::test]
async fn a_release_is_installed_upgraded_rolled_back_and_removed_while_an_agent_runs() -> Result<()> {
    let client = cluster::client().await?;
    cluster::remove_definition(&client).await?;
    let enforce = [("pod-security.kubernetes.io/enforce", "restricted")];
    let home = Namespace::create(&client, "helm", &enforce).await?;
    let agents = Namespace::create(&client, "helm-agents", &enforce).await?;
    let release = Release::new(RELEASE, &home.name)?;
    let (chart, older) = (chart(), older(release.folder())?);

    release.helm(&["install"], &[&[older.as_str()], SMALL, WAIT].concat()).await?;
    ensure!(
        !is_newer(&definition(&client).await?.context("a definition")?),
        "the older chart has the newer definition"
    );
    let resource = provision(&agents, "memory", json!({})).await?;
    let key = resource.status.and_then(|status| status.keys).context("keys")?.active;
    pods::make_document(&agents).await?;
    let pod = pods::start(&agents, "agent").await?;

    // The definition comes along with an upgrade.
    release.helm(&["upgrade"], &[&[chart.as_str()], SMALL, WAIT].concat()).await?;
    ensure!(is_newer(&definition(&client).await?.context("a definition")?), "the definition is still the older one");
    goes_on(&agents, &key, &pod).await?;

    // The same once more writes nothing.
    let before = versions(&release).await?;
    ensure!(before.len() > 12, "only these objects are there: {before:?}");
    release.helm(&["upgrade"], &[&[chart.as_str()], SMALL, WAIT].concat()).await?;
    ensure!(versions(&release).await? == before, "{before:?} became {:?}", versions(&release).await?);

    let changed = ["--set", "logLevel=debug", "--set", "controller.upgradeSidecars=true"];
    release.helm(&["upgrade"], &[&[chart.as_str()], SMALL, WAIT, &changed].concat()).await?;
    let (rules, program) = controller(&home).await?;
    ensure!(rules.contains(PATCHES_PODS) && program.contains("debug"), "{rules} {program}");
    release.helm(&["rollback"], &[&["3"], WAIT].concat()).await?;
    let (rules, program) = controller(&home).await?;
    ensure!(!rules.contains(PATCHES_PODS) && !program.contains("debug"), "{rules} {program}");
    goes_on(&agents, &key, &pod).await?;

    // Without the operator agents go on, and nothing waits for it but what was said to.
    let held = hold(&client, &agents).await?;
    let (level, _) = said_of(&held, 0).await?.context("nothing is said of what is held")?;
    ensure!(level == "Warning", "{level}");
    release.helm(&["uninstall"], WAIT).await?;
    let mine = format!("app.kubernetes.io/instance={RELEASE}");
    let kinds = "clusterroles,clusterrolebindings,mutatingwebhookconfigurations";
    let left = kubectl(&["get", kinds, "-l", &mine, "-o", "name"]).await?;
    let kinds = "deployments,services,serviceaccounts,roles,rolebindings,poddisruptionbudgets";
    let left = left + &kubectl(&["-n", &home.name, "get", kinds, "-l", &mine, "-o", "name"]).await?;
    ensure!(left.is_empty(), "these are left: {left}");
    ensure!(definition(&client).await?.is_some(), "the definition is gone, and with it every resource");
    remembers(&agents, &pod).await?;
    let_go(&held, &agents).await?;
    agents.make_resource("second", json!({})).await?;
    agents.api::<ContextManager>().delete("second", &DeleteParams::default()).await?;
    ensure!(agents.api::<ContextManager>().get_opt("second").await?.is_none(), "it waits for somebody");
    agents.make::<Pod>(&context_manager_tests::objects::asking("plain")).await?;
    let plain = agents.api::<Pod>().get("plain").await?;
    ensure!(!plain.annotations().contains_key(names::INJECTED_HASH), "somebody still injects");

    // What was kept is taken over by the next installation, which takes it along if it is told to.
    let take = ["--take-ownership", "--set", "crds.keep=false"];
    release.helm(&["install"], &[&[chart.as_str()], SMALL, WAIT, &take].concat()).await?;
    goes_on(&agents, &key, &pod).await?;
    let [told, untold] = [hold(&client, &agents).await?, hold(&client, &agents).await?];
    for held in [&told, &untold] {
        let (level, with) = said_of(held, 3).await?.context("nothing is said of what is held")?;
        ensure!(level == "Problem", "{level}");
        if held.name == told.name {
            remedy(held, &with).await?;
            let more = said_of(held, 0).await?;
            ensure!(more.is_none(), "it is still said to be held: {more:?}");
        }
    }
    release.helm(&["uninstall"], &[]).await?;
    eventually("the end of what nobody holds", SOON, || async {
        let left = Api::<ContextManager>::all(client.clone()).list(&ListParams::default()).await?;
        let left: Vec<_> = left.iter().filter_map(ResourceExt::namespace).collect();
        ensure!(left == [untold.name.clone()], "{left:?}");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    let ending = definition(&client).await?.context("the definition is gone while a resource of it is held")?;
    ensure!(ending["metadata"]["deletionTimestamp"].is_string(), "{}", ending["metadata"]);
    let_go(&untold, &agents).await?;
    cluster::definition_gone(&client).await?;
    remembers(&agents, &pod).await
}
