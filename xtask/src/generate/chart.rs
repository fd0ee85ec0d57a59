//! The chart as the real helm renders it, compared with files that are reviewed: a change of a template or of a default
//! shows in the objects it changes. `UPDATE_GOLDEN=1 cargo xtask test chart` writes them anew.
//!
//! The definition of the resource is left out of them, because it is compared on its own.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::cluster;
use crate::command;
use crate::generate::{DEFINITIONS, difference};
use crate::paths::{self, Home};

const CHART: &str = "charts/context-manager";

/// A file of golden output, and the values it is rendered with. The first one is what kustomize starts from.
const CASES: [(&str, &[&str]); 7] = [
    ("deploy/kustomize/base/context-manager.yaml", &[]),
    (
        "tests/golden/chart/monitoring.yaml",
        &[
            "monitoring.podMonitor.enabled=true",
            "monitoring.serviceMonitor.enabled=true",
            "monitoring.prometheusRule.enabled=true",
            "monitoring.namespace=monitoring",
            "monitoring.labels.release=prometheus",
            "networkPolicy.enabled=true",
            "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.team=monitoring",
            "webhook.autoscaling.enabled=true",
            "priorityClass.create=true",
        ],
    ),
    (
        "tests/golden/chart/cert-manager.yaml",
        &["webhook.certificates.issuer=CertManager", "webhook.serverNames={hook.example.com,192.0.2.7}"],
    ),
    (
        "tests/golden/chart/one-node.yaml",
        &[
            "controller.replicas=1",
            "webhook.replicas=1",
            "controller.podDisruptionBudget=false",
            "webhook.podDisruptionBudget=false",
        ],
    ),
    (
        "tests/golden/chart/namespaced.yaml",
        &[
            "scope=Namespaced",
            "watchNamespaces={team-a,team-b}",
            "controllerClass=blue",
            "fullnameOverride=blue",
            "monitoring.podMonitor.enabled=true",
        ],
    ),
    ("tests/golden/chart/least-rights.yaml", &["controller.managedQdrant=false"]),
    (
        "tests/golden/chart/every-option.yaml",
        &[
            "image.registry=registry.example.com/team",
            "image.tag=1.2.3",
            "image.pullPolicy=Always",
            "imagePullSecrets[0].name=regcred",
            "fullnameOverride=memory",
            "logLevel=debug",
            "controller.image.tag=1.2.4",
            "controller.priorityClassName=system-cluster-critical",
            "controller.nodeSelector.disk=fast",
            "controller.tolerations[0].operator=Exists",
            "controller.extraEnv[0].name=HTTPS_PROXY",
            "controller.extraEnv[0].value=http://proxy.example.com:3128",
            "controller.sweeper.mode=dry-run",
            "controller.sweeper.interval=1h",
            "controller.rotation.patience=10m",
            "controller.upgradeSidecars=true",
            "controller.certManager=true",
            "controller.watchdog=evict",
            "controller.podLabels.team=platform",
            "controller.podAnnotations.note=hello",
            "controller.serviceAccount.annotations.role=controller",
            "webhook.port=10443",
            "webhook.hostNetwork=true",
            "webhook.failurePolicy=Ignore",
            "webhook.timeoutSeconds=3",
            "webhook.onMissing=Deny",
            "webhook.excludedNamespaces={monitoring,ingress}",
            "webhook.serverNames={hook.example.com,192.0.2.7}",
            "webhook.certificates.leafLifetime=12h",
            "webhook.connectionAge=1m",
            "webhook.apiServerCA.configMap=api-server-ca",
            "webhook.certificates.issuer=Existing",
            "webhook.certificates.existingSecret=webhook-certificate",
            "sidecar.image.repository=memory-sidecar",
            "sidecar.image.digest=sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        ],
    ),
];

fn helm() -> Command {
    let home = Home::find().expect("the cache has a folder");
    let mut helm = Command::new(cluster::helm_program(&home).expect("helm is built"));
    helm.current_dir(paths::repository()).env("HELM_CACHE_HOME", home.tools().join("helm-cache"));
    helm
}

fn render(values: &[&str]) -> anyhow::Result<String> {
    let mut template = helm();
    template.args(["template", "context-manager", CHART, "--namespace", "context-manager-system"]);
    template.args(["--kube-version", cluster::KUBERNETES]);
    for value in values {
        template.args(["--set", value]);
    }
    command::output(&mut template)
}

fn compare(path: &Path, rendered: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().expect("golden files lie in a folder")).expect("folder");
        fs::write(path, rendered).expect("written");
    }
    // A missing file differs from everything, and the message below says what to do.
    let wanted = fs::read_to_string(path).unwrap_or_default();
    assert!(
        wanted == rendered,
        "the chart renders something else than {}; if that is meant, run `UPDATE_GOLDEN=1 cargo xtask test chart`\n{}",
        path.display(),
        difference(&wanted, rendered)
    );
}

#[test]
fn rendered_chart_is_the_reviewed_one() {
    for (file, values) in CASES {
        let with: Vec<&str> = values.iter().copied().chain(["crds.install=false"]).collect();
        compare(&paths::repository().join(file), &render(&with).expect("the chart renders"));
    }
}

#[test]
fn chart_contains_the_generated_definition_and_keeps_it_when_uninstalled() {
    let definition = fs::read_to_string(paths::repository().join(DEFINITIONS[0])).expect("generated");
    let kept = render(&[]).expect("the chart renders");
    assert!(kept.contains("helm.sh/resource-policy: keep"), "the definition would be deleted with the release");
    assert!(!render(&["crds.keep=false"]).expect("it renders").contains("helm.sh/resource-policy"));
    // helm writes YAML in its own style, so the rules are compared by their number.
    let rules = |text: &str| text.matches(" rule: ").count() + text.matches(" rule: |").count();
    assert!(rules(&definition) > 20, "the definition has {} rules", rules(&definition));
    assert_eq!(rules(&kept), rules(&definition));
}

/// The paths of all values that a schema has and that have no values below them.
fn leaves(schema: &serde_json::Value, path: &str, found: &mut Vec<String>) {
    let Some(properties) = schema["properties"].as_object() else {
        found.push(path.to_owned());
        return;
    };
    for (name, schema) in properties {
        leaves(schema, &format!("{path}/{name}"), found);
    }
}

#[test]
fn every_value_is_in_the_readme_with_its_default() {
    let read = |file: &str| fs::read_to_string(paths::repository().join(CHART).join(file)).expect(file);
    let schema: serde_json::Value = serde_json::from_str(&read("values.schema.json")).expect("JSON");
    let defaults: serde_json::Value = serde_saphyr::from_str(&read("values.yaml")).expect("YAML");
    let readme = read("README.md");
    let shown = command::output(helm().args(["show", "readme", CHART])).expect("helm shows it");
    assert!(shown.contains(readme.trim()), "a packaged chart has no README.md, or another one: {shown}");
    // Lists and maps with something in them are in the page as people write them.
    let is_filled = |value: &serde_json::Value| {
        let is_filled_list = value.as_array().is_some_and(|items| !items.is_empty());
        is_filled_list || value.as_object().is_some_and(|items| !items.is_empty())
    };
    let mut values = Vec::new();
    leaves(&schema, "", &mut values);
    assert!(values.len() > 80, "only these values were found: {values:?}");
    for path in values {
        let name = path.trim_start_matches('/').replace('/', ".");
        let default = match defaults.pointer(&path) {
            Some(serde_json::Value::String(text)) if !text.is_empty() => format!("`{text}` |"),
            Some(value) if !is_filled(value) => format!("`{value}` |"),
            Some(_) | None => String::new(),
        };
        let row = format!("\n| `{name}` | {default}");
        assert!(readme.contains(&row), "the chart's README.md has no row {row:?}");
    }
}

#[test]
fn helm_finds_nothing_wrong_with_the_chart() {
    let said = command::output(helm().args(["lint", CHART, "--strict"])).expect("helm lint succeeds");
    assert!(said.contains("1 chart(s) linted, 0 chart(s) failed"), "{said}");
}

#[test]
fn values_that_mean_nothing_are_refused_with_their_name() {
    for (value, named) in [
        ("webhok.replicas=3", "webhok"),
        ("webhook.failurePolicy=Never", "failurePolicy"),
        ("webhook.timeoutSeconds=60", "timeoutSeconds"),
        ("webhook.port=80", "port"),
        ("controller.replicas=-1", "replicas"),
        ("sidecar.image.digest=sha256:abc", "digest"),
        ("controller.sweeper.mode=perhaps", "mode"),
        ("webhook.certificates.caGrace=soon", "caGrace"),
        ("webhook.connectionAge=forever", "connectionAge"),
        ("webhook.certificates.issuer=Nobody", "issuer"),
        ("webhook.certificates.issuer=Existing", "existingSecret"),
        ("webhook.hostNetwork=true", "webhook.port than 10250, which is that of the kubelet"),
        ("webhook.hostNetwork=true,webhook.port=10257", "webhook.port than 10257"),
        ("webhook.port=8081", "webhook.port 8081 is that of the webhook's probes and metrics"),
        ("controllerClass=Blue", "controllerClass"),
        ("scope=Everywhere", "scope"),
        ("scope=Namespaced", "watchNamespaces"),
        ("watchNamespaces={team-a}", "scope: Namespaced"),
        ("monitoring.interval=often", "interval"),
        ("monitoring.podMonitors.enabled=true", "podMonitors"),
        ("monitoring.prometheusRule.runbooks=docs/metrics.md", "runbooks"),
        // What the API server, or the program at its start, would refuse later and with fewer words.
        ("nameOverride=Foo_Bar", "nameOverride"),
        ("fullnameOverride=-memory", "fullnameOverride"),
        ("monitoring.namespace=Monitoring", "namespace"),
        ("webhook.excludedNamespaces={Ingress}", "excludedNamespaces"),
        ("image.registry=https://registry.example.com", "registry"),
        ("image.registry=registry.example.com/", "registry"),
        ("image.tag=a b", "tag"),
        ("sidecar.image.repository=Memory Sidecar", "repository"),
        ("controller.sweeper.interval=0s", "interval"),
        ("controller.rotation.settle=500ms", "settle"),
        ("webhook.connectionAge=0s", "connectionAge"),
        ("controller.managedQdrant=perhaps", "managedQdrant"),
        ("webhook.autoscaling.cpuRequest=much", "cpuRequest"),
        ("webhook.apiServerCA.configMap=Mine", "configMap"),
        ("webhook.certificates.poll=0m", "poll"),
        // Two of a key in one object.
        (r"controller.podLabels.app\.kubernetes\.io/name=mine", "podLabels"),
        (r"monitoring.labels.helm\.sh/chart=mine", "labels"),
        // A null takes the defaults away.
        ("controller=null", "controller"),
        ("webhook.certificates=null", "certificates"),
        ("sidecar.image=null", "image"),
    ] {
        let error = render(&[value]).expect_err(value).to_string();
        assert!(error.contains(named), "{value}: {error}");
        assert!(!error.contains("nil pointer"), "{value}: {error}");
    }
}

/// The program would refuse them at its start, after an installation that waits for it in vain.
#[test]
fn lifetimes_that_contradict_each_other_are_refused_with_both_values() {
    let of = |issuer: &str, times: &[&str]| {
        let issuer = format!("webhook.certificates.issuer={issuer}");
        let times: Vec<_> = times.iter().map(|time| format!("webhook.certificates.{time}")).collect();
        let more = ["webhook.certificates.existingSecret=mine", issuer.as_str()];
        let values: Vec<_> = times.iter().map(String::as_str).chain(more).collect();
        render(&values).map(drop)
    };
    for (times, named) in [
        (&["caLifetime=10d"][..], "caRenewBefore (60d) must be shorter than caLifetime (10d)"),
        (&["caLifetime=8w4d"], "caRenewBefore (60d) must be shorter than caLifetime (8w4d)"),
        (&["leafLifetime=59d23h57m"], "leafLifetime (59d23h57m) and caGrace (3m)"),
        (&["caGrace=010d", "caRenewBefore=10d"], "caGrace (010d)"),
        (&["poll=8h1ms"], "poll (8h1ms) must be at most a third of leafLifetime (1d)"),
    ] {
        let error = of("SelfManaged", times).expect_err(named).to_string();
        assert!(error.contains(named) && error.contains("horten"), "{times:?}: {error}");
    }
    let error = of("Existing", &["poll=3m1s"]).expect_err("a look too late").to_string();
    assert!(error.contains("poll (3m1s) must be at most caGrace (3m)"), "{error}");
    for times in [
        &["caLifetime=8w4d1ms"][..],
        &["leafLifetime=59d23h56m59s999ms"],
        &["caGrace=009d", "leafLifetime=8h", "caRenewBefore=10d"],
        &["poll=8h"],
        &["caLifetime=30s", "caRenewBefore=10s", "leafLifetime=6s", "caGrace=3s", "poll=2s"],
    ] {
        let rendered = of("SelfManaged", times);
        assert!(rendered.is_ok(), "{times:?}: {rendered:?}");
    }
    of("Existing", &["poll=3m", "leafLifetime=90d"]).expect("lifetimes are those of the certificate that is given");
    let error = of("SelfManaged", &["caLifetime=1234567890d"]).expect_err("too large to be counted").to_string();
    assert!(error.contains("caLifetime"), "{error}");
}

#[test]
fn values_that_are_unusual_and_right_are_taken() {
    for value in [
        "image.registry=localhost:5000",
        "image.registry=registry.example.com/team/memory_v1",
        "image.tag=1.2.3-rc.1",
        "controller.sweeper.interval=1h30m",
        "controller.sweeper.grace=100h0m",
        "webhook.certificates.leafLifetime=1d12h",
        "webhook.connectionAge=500ms",
        "webhook.port=10257",
        "webhook.hostNetwork=true,webhook.port=9443,webhook.replicas=1",
        "webhook.resources=null",
        "webhook.autoscaling.cpuRequest=0.25",
        // As values of a release have it that was made before there was such a one.
        "controller.managedQdrant=null",
        "webhook.apiServerCA=null",
        "controller.podLabels.team=platform",
    ] {
        render(&[value]).expect(value);
    }
}

/// Where each node of a cluster has a replica, one that came before another went would wait for a free port for ever.
#[test]
fn replicas_in_the_nodes_network_make_way_before_the_next_comes() {
    for (values, expected) in [
        (&["crds.install=false", "webhook.port=9443"][..], ["maxUnavailable: 0", "maxSurge: 1"]),
        (
            &["crds.install=false", "webhook.port=9443", "webhook.hostNetwork=true"],
            ["maxUnavailable: 1", "maxSurge: 0"],
        ),
    ] {
        let rendered = render(values).expect("the chart renders");
        let (_, strategy) = rendered.split_once("  strategy:\n").expect("the webhook has a strategy");
        let strategy: Vec<_> = strategy.lines().map(str::trim).filter(|line| line.starts_with("max")).take(2).collect();
        assert_eq!(strategy, expected, "{values:?}");
    }
}

/// What renders differently each time, or looks at the cluster, is a difference without end for GitOps.
#[test]
fn rendering_depends_on_the_values_alone() {
    for (file, values) in CASES {
        let [first, second] = [values, values].map(|values| render(values).expect("the chart renders"));
        assert!(first == second, "{file} differs from one rendering to the next");
    }
    for file in fs::read_dir(paths::repository().join(CHART).join("templates")).expect("the chart has templates") {
        let path = file.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("readable");
        for function in ["lookup", "genCA", "genSelfSignedCert", "genSignedCert", "rand", "uuidv4", "now", "htpasswd"] {
            let used = text.split("{{").skip(1).filter_map(|part| part.split_once("}}")).any(|(code, _)| {
                !code.starts_with("/*")
                    && !code.starts_with("- /*")
                    && code.split(|c: char| !c.is_alphanumeric()).any(|word| word.starts_with(function))
            });
            assert!(!used, "{} calls {function}", path.display());
        }
    }
}

#[test]
fn alerts_link_to_runbooks_where_it_is_said_where_these_are() {
    let with = |more: &[&str]| {
        let values = [&["crds.install=false", "monitoring.prometheusRule.enabled=true"][..], more].concat();
        render(&values).expect("the chart renders")
    };
    assert!(!with(&[]).contains("runbook_url"));
    let rendered = with(&["monitoring.prometheusRule.runbooks=https://docs.example.com/metrics"]);
    let alerts: Vec<_> = rendered.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 20, "{alerts:?}");
    for alert in alerts {
        let link = format!("https://docs.example.com/metrics#{}\n", alert.to_lowercase());
        assert!(rendered.contains(&link), "{alert} has no {link}");
    }
}

#[test]
fn the_dashboard_reaches_grafana_as_it_is() {
    let rendered = render(&["crds.install=false", "monitoring.dashboard.enabled=true"]).expect("the chart renders");
    let dashboard = fs::read_to_string(paths::repository().join(CHART).join("files/monitoring/dashboard.json"));
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard.expect("readable")).expect("JSON");
    let (_, block) = rendered.split_once("  context-manager.json: |\n").expect("the ConfigMap has the dashboard");
    let text: String = block.lines().take_while(|line| line.starts_with("    ")).collect();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&text).expect("JSON"), dashboard);
    let panels = dashboard["panels"].as_array().expect("panels");
    assert!(panels.iter().filter(|panel| panel["type"] != "row").all(|panel| panel["targets"][0]["expr"].is_string()));
}
