//! The decisions as a table and as properties, and the patches as golden files.

use std::{collections::BTreeSet, fs, path::Path};

use context_manager_crds::context_manager::sidecar::Mode;
use proptest::prelude::*;
use serde_json::json;

use super::*;

mod pod_level;

const IMAGE: &str = "localhost/context-manager-sidecar:1";

fn settings() -> Settings {
    Settings {
        sidecar_image: IMAGE.to_owned(),
        on_missing: OnMissing::Skip,
        class: Some(names::DEFAULT_CLASS.to_owned()),
    }
}

fn namespace(labels: &[(&str, &str)]) -> NamespaceFacts {
    let labels = labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    NamespaceFacts { name: "team-a".to_owned(), labels }
}

fn resource(name: &str) -> Resource {
    Resource {
        namespace: "team-a".to_owned(),
        name: name.to_owned(),
        allowed_namespaces: Vec::new(),
        granted: false,
        class: names::DEFAULT_CLASS.to_owned(),
        image: None,
        mode: Mode::Native,
        protocol_port: names::DEFAULT_PROTOCOL_PORT,
        socket: false,
        admin_port: names::DEFAULT_ADMIN_PORT,
        resources: None,
        storage: Storage::EmptyDir { size_limit: Some("1Gi".to_owned()) },
        config_map: names::config_map(name),
        keys_secret: names::keys_secret(name),
        tls_secret: names::tls_secret(name),
        embedding_key: None,
        store_secret: None,
        otlp_headers: None,
        otlp_ca: None,
        containers: Vec::new(),
        on_missing: OnMissing::Skip,
    }
}

fn pod(annotations: &[(&str, &str)]) -> Value {
    let annotations: BTreeMap<_, _> = annotations.iter().copied().collect();
    json!({
        "metadata": {"name": "agent", "annotations": annotations},
        "spec": {"containers": [{"name": "agent", "image": "agent:1"}]},
    })
}

fn asking(more: &[(&str, &str)]) -> Value {
    pod(&[&[(names::INJECT, "true")], more].concat())
}

fn decide_one(pod: &Value) -> Decision {
    decide(pod, &namespace(&[]), &[resource("memory")], &settings())
}

fn injection(decision: Decision) -> Injection {
    match decision {
        Decision::Inject(injection) => *injection,
        other @ (Decision::Skip(_) | Decision::Deny(_)) => unreachable!("not injected: {other:?}"),
    }
}

fn denial(decision: Decision) -> (Reason, String) {
    match decision {
        Decision::Deny(Denial { reason, message }) => (reason, message),
        other @ (Decision::Skip(_) | Decision::Inject(_)) => unreachable!("not denied: {other:?}"),
    }
}

fn applied(pod: &Value, injection: &Injection) -> Value {
    let mut patched = pod.clone();
    json_patch::patch(&mut patched, &patch(pod, injection)).expect("the patch fits the pod it was made for");
    patched
}

// The truth table.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Absent,
    True,
    False,
    Other(&'static str),
}

impl Word {
    const ALL: [Self; 7] = [
        Self::Absent,
        Self::True,
        Self::False,
        Self::Other(""),
        Self::Other("True"),
        Self::Other("enabled"),
        Self::Other("1"),
    ];

    const fn text(self) -> Option<&'static str> {
        match self {
            Self::Absent => None,
            Self::True => Some("true"),
            Self::False => Some("false"),
            Self::Other(text) => Some(text),
        }
    }
}

/// The table of docs/injection.md, written a second time and in another way than the code under test.
fn expected(annotation: Word, label: Word, namespace: Word) -> (&'static str, Reason) {
    let on_pod = if annotation == Word::Absent { label } else { annotation };
    match (on_pod, namespace) {
        (Word::True, _) | (Word::Absent, Word::True) => ("inject", Reason::Injected),
        (Word::False, _) => ("skip", Reason::OptedOutByPod),
        (Word::Other(_), _) => ("deny", Reason::InvalidInjectValue),
        (Word::Absent, Word::False) => ("skip", Reason::OptedOutByNamespace),
        (Word::Absent, Word::Other(_)) => ("skip", Reason::InvalidNamespaceValue),
        (Word::Absent, Word::Absent) => ("skip", Reason::NotRequested),
    }
}

fn seen(decision: &Decision) -> (&'static str, Reason) {
    match decision {
        Decision::Inject(_) => ("inject", Reason::Injected),
        Decision::Skip(skip) => ("skip", skip.reason),
        Decision::Deny(denial) => ("deny", denial.reason),
    }
}

#[test]
fn every_row_of_the_truth_table_holds() {
    let mut reasons = BTreeSet::new();
    for annotation in Word::ALL {
        for label in Word::ALL {
            for on_namespace in Word::ALL {
                let mut pod = pod(&[]);
                if let Some(text) = annotation.text() {
                    pod["metadata"]["annotations"][names::INJECT] = json!(text);
                }
                if let Some(text) = label.text() {
                    pod["metadata"]["labels"] = json!({ names::INJECT: text });
                }
                let labels: Vec<_> = on_namespace.text().map(|text| (names::INJECT, text)).into_iter().collect();
                let decision = decide(&pod, &namespace(&labels), &[resource("memory")], &settings());
                let row = (annotation, label, on_namespace);
                assert_eq!(seen(&decision), expected(annotation, label, on_namespace), "{row:?}");
                reasons.insert(seen(&decision).1);
            }
        }
    }
    assert_eq!(reasons.len(), 6, "the table reaches all its outcomes");
}

#[test]
fn who_never_asked_is_never_told_anything() {
    for (on_pod, labels) in [(pod(&[]), vec![]), (pod(&[(names::INJECT, "false")]), vec![(names::INJECT, "true")])] {
        let Decision::Skip(skip) = decide(&on_pod, &namespace(&labels), &[], &settings()) else { unreachable!() };
        assert_eq!(skip.warning, None);
    }
}

#[test]
fn a_mirror_pod_is_left_alone() {
    let pod = asking(&[("kubernetes.io/config.mirror", "abc")]);
    assert_eq!(seen(&decide_one(&pod)), ("skip", Reason::MirrorPod));
}

// The choice of the resource.

#[test]
fn a_pod_that_asks_without_any_resource_is_denied() {
    let (reason, message) = denial(decide(&asking(&[]), &namespace(&[]), &[], &settings()));
    assert_eq!(reason, Reason::NoResource);
    assert!(message.contains("\"team-a\" has no ContextManager"), "{message}");
}

#[test]
fn an_ambiguous_or_wrong_name_is_denied_with_the_candidates_in_order() {
    let resources = [resource("beta"), resource("alpha"), resource("gamma")];
    let (reason, message) = denial(decide(&asking(&[]), &namespace(&[]), &resources, &settings()));
    assert_eq!(reason, Reason::AmbiguousResource);
    assert!(message.contains("\"alpha\", \"beta\" or \"gamma\""), "{message}");

    let pod = asking(&[(names::NAME, "delta")]);
    let (reason, message) = denial(decide(&pod, &namespace(&[]), &resources, &settings()));
    assert_eq!(reason, Reason::UnknownResource);
    assert!(message.contains("\"delta\"") && message.contains("\"alpha\", \"beta\" or \"gamma\""), "{message}");
}

#[test]
fn the_annotation_names_the_resource_before_the_namespaces_label() {
    let resources = [resource("alpha"), resource("beta")];
    let labelled = namespace(&[(names::NAME, "alpha")]);
    let chosen = |pod: &Value| injection(decide(pod, &labelled, &resources, &settings())).resource;
    assert_eq!(chosen(&asking(&[])), "alpha");
    assert_eq!(chosen(&asking(&[(names::NAME, "beta")])), "beta");
}

#[test]
fn of_two_operators_one_injects_and_both_choose_alike() {
    let resources = [resource("alpha"), Resource { class: "blue".to_owned(), ..resource("beta") }];
    let blue = Settings { class: Some("blue".to_owned()), ..settings() };
    let labelled = namespace(&[(names::INJECT, "true")]);
    let decide = |pod: &Value, settings: &Settings| seen(&super::decide(pod, &labelled, &resources, settings));
    for (name, ours, theirs) in [
        ("alpha", ("inject", Reason::Injected), ("skip", Reason::OtherClass)),
        ("beta", ("skip", Reason::OtherClass), ("inject", Reason::Injected)),
        ("gamma", ("deny", Reason::UnknownResource), ("deny", Reason::UnknownResource)),
    ] {
        let pod = asking(&[(names::NAME, name)]);
        assert_eq!((decide(&pod, &settings()), decide(&pod, &blue)), (ours, theirs), "{name}");
    }
    // Each has only one of its own, and yet neither takes it for the only one there is.
    for settings in [settings(), blue] {
        assert_eq!(decide(&asking(&[]), &settings), ("deny", Reason::AmbiguousResource));
    }
    // Nobody is told anything by the operator that it does not concern.
    let Decision::Skip(skip) = super::decide(&pod(&[]), &labelled, &resources[1..], &settings()) else {
        unreachable!()
    };
    assert_eq!((skip.reason, skip.warning), (Reason::OtherClass, None));
}

/// A resource of another namespace that allows these.
fn shared(allowed: &[&str]) -> Resource {
    let allowed_namespaces = allowed.iter().map(|&name| name.to_owned()).collect();
    Resource { namespace: "platform".to_owned(), allowed_namespaces, ..resource("memory") }
}

#[test]
fn a_resource_of_another_namespace_is_used_only_if_it_says_so_and_the_pod_names_it() {
    let named = asking(&[(names::NAME, "platform/memory")]);
    let decided = |pod: &Value, resources: &[Resource]| decide(pod, &namespace(&[]), resources, &settings());
    let made = injection(decided(&named, &[shared(&["team-b", "team-a"]), resource("memory")]));
    assert_eq!((made.resource_name().as_str(), made.from.as_deref()), ("platform/memory", Some("platform")));
    let refused = denial(decided(&named, &[shared(&["team-b"]), resource("memory")]));
    assert_eq!(refused, denial(decided(&named, &[])), "who may not use it does not learn whether it is there");
    assert!(refused.0 == Reason::NotGranted && refused.1.contains("spec.allowedNamespaces"), "{refused:?}");
    assert!(refused.1.contains("\"platform/memory\"") && refused.1.contains("\"team-a\""), "{refused:?}");
    // A pod that names none means its own namespace, whatever others allow.
    assert_eq!(denial(decided(&asking(&[]), &[shared(&["team-a"])])).0, Reason::NoResource);
    let own = injection(decided(&asking(&[]), &[shared(&["team-a"]), resource("memory")]));
    assert_eq!((own.resource_name().as_str(), own.from), ("memory", None));
    let unnamed = asking(&[(names::NAME, "memory")]);
    assert_eq!(injection(decided(&unnamed, &[shared(&["team-a"]), resource("memory")])).from, None);
    // The own namespace may be named as well.
    let full = asking(&[(names::NAME, "team-a/memory")]);
    assert_eq!(injection(decided(&full, &[resource("memory")])).hash, own.hash);
    assert_eq!(denial(decided(&asking(&[(names::NAME, "platform/")]), &[shared(&["team-a"])])).0, Reason::NotGranted);
}

#[test]
fn pods_of_other_namespaces_mount_copies_and_are_their_own_tenant() {
    let secret = SecretKey { secret: "provider".to_owned(), key: "token".to_owned() };
    let resources = [Resource { embedding_key: Some(secret), ..shared(&["team-a"]) }];
    let pod = asking(&[(names::NAME, "platform/memory")]);
    let made = injection(decide(&pod, &namespace(&[]), &resources, &settings()));
    let copy = names::granted("platform", "memory");
    let text = serde_json::to_string(&made.volumes).expect("volumes are JSON");
    for other in ["memory-context-keys", "memory-context-tls", "memory-context-config", "provider"] {
        assert!(!text.contains(other), "{other} is not in this namespace: {text}");
    }
    let sources = &made.volumes[0]["projected"]["sources"];
    assert_eq!(sources.as_array().map(Vec::len), Some(2), "{sources}");
    assert_eq!((&sources[0]["configMap"]["name"], &sources[1]["secret"]), (&json!(copy), &json!({"name": copy})));
    let keys = made.volumes.iter().find(|volume| volume["name"] == names::VOLUME_KEYS).expect("the agent's keys");
    assert_eq!(keys["secret"]["secretName"], copy);
    assert_eq!(keys["secret"]["items"], json!([{"key": "keys.json", "path": "keys.json"}]), "and nothing else of it");
    assert_eq!(made.sidecar["env"][0], json!({"name": names::ENV_TENANT, "value": "team-a"}));
    let patched = applied(&pod, &made);
    assert_eq!(patched["metadata"]["labels"][names::INJECTED], "memory");
    assert_eq!(patched["metadata"]["labels"][names::INJECTED_FROM], "platform");
    assert_eq!(applied(&patched, &made), patched, "the patch is idempotent");
    assert_eq!(made.template, template(&resources[0].granted(), IMAGE));
    assert_ne!(made.template, template(&resources[0], IMAGE), "its own pods mount something else");
}

#[test]
fn a_pod_of_an_opted_in_namespace_without_resource_is_admitted_with_a_warning_unless_the_policy_denies() {
    let labelled = namespace(&[(names::INJECT, "true")]);
    let Decision::Skip(skip) = decide(&pod(&[]), &labelled, &[], &settings()) else { unreachable!() };
    assert_eq!(skip.reason, Reason::NoResource);
    assert!(skip.warning.is_some_and(|warning| warning.contains("no sidecar injected")));

    let strict = Settings { on_missing: OnMissing::Deny, ..settings() };
    assert_eq!(denial(decide(&pod(&[]), &labelled, &[], &strict)).0, Reason::NoResource);

    let resources = [resource("a"), Resource { on_missing: OnMissing::Deny, ..resource("b") }];
    assert_eq!(denial(decide(&pod(&[]), &labelled, &resources, &settings())).0, Reason::AmbiguousResource);
}

// The node's network.

#[test]
fn a_host_network_pod_gets_a_sidecar_without_ports_that_is_reached_by_sockets() {
    let mut pod = asking(&[]);
    pod["spec"]["hostNetwork"] = json!(true);
    pod["spec"]["securityContext"] = json!({"fsGroup": 2_000});
    // The node's ports are no business of the sidecar's.
    pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 7419, "hostPort": 7419}]);
    for mode in [Mode::Native, Mode::Classic] {
        let resources = [Resource { mode, ..resource("memory") }];
        let given = injection(decide(&pod, &namespace(&[]), &resources, &settings()));
        assert_eq!((given.ports, &given.warnings), (None, &Vec::new()));
        let text = given.sidecar.to_string();
        assert!(!text.contains("7419") && !text.contains("7420") && given.sidecar.get("ports").is_none(), "{text}");
        assert_eq!(given.sidecar["readinessProbe"]["exec"]["command"], json!([names::PROGRAM, "ask"]));
        for variable in [names::ENV_SOCKET_ONLY, names::ENV_SOCKET, names::ENV_ADMIN_SOCKET] {
            assert!(text.contains(variable), "no {variable} in {text}");
        }
        let patched = applied(&pod, &given);
        let agent = patched["spec"]["containers"].as_array().and_then(|list| list.last()).expect("an agent");
        assert_eq!(agent["env"][0], json!({"name": names::ENV_URL, "value": names::SOCKET_URL}));
        assert_eq!(agent["env"][2], json!({"name": names::ENV_SOCKET, "value": names::SOCKET_FILE}));
        let again = injection(decide(&patched, &namespace(&[]), &resources, &settings()));
        assert_eq!((patch(&patched, &again).0, &again.hash), (Vec::new(), &given.hash));
        // What any pod gets is the same, so an upgrade in place knows what only its image differs in.
        let mut plain = pod.clone();
        plain["spec"]["hostNetwork"] = json!(false);
        let plain = injection(decide(&plain, &namespace(&[]), &resources, &settings()));
        assert_eq!(plain.template, given.template);
        assert_ne!(plain.hash, given.hash);
    }
    assert_eq!(names::SOCKET_URL.strip_prefix("unix://"), Some(names::SOCKET_FILE));
    assert!(names::ADMIN_SOCKET_FILE.starts_with(names::SOCKET_DIRECTORY));
}

#[test]
fn the_author_of_a_host_network_pod_is_told_what_is_missing() {
    let mut pod = asking(&[(names::ADMIN_PORT, "9000")]);
    pod["spec"]["hostNetwork"] = json!(true);
    let resources = [Resource { store_secret: Some("store".to_owned()), ..resource("memory") }];
    let warned = |pod: &Value| injection(decide(pod, &namespace(&[]), &resources, &settings())).warnings;
    let said = warned(&pod).join("; ");
    assert!(said.contains(names::ADMIN_PORT) && said.contains("fsGroup") && said.contains("dnsPolicy"), "{said}");
    pod["metadata"]["annotations"] = json!({names::INJECT: "true"});
    pod["spec"]["securityContext"] = json!({"fsGroup": 2_000});
    pod["spec"]["dnsPolicy"] = json!("ClusterFirstWithHostNet");
    assert_eq!(warned(&pod), Vec::<String>::new());
}

// The user.

/// The user that the kubelet starts the sidecar as, and what the sidecar itself is told of it.
fn user(pod: &Value) -> (Value, Value) {
    let given = injection(decide_one(pod));
    let told = given.sidecar["securityContext"]["runAsUser"].clone();
    let of_pod = pod["spec"]["securityContext"]["runAsUser"].clone();
    let effective = [&told, &of_pod].into_iter().find(|user| !user.is_null()).cloned().unwrap_or(json!(65_532));
    (effective, told)
}

#[test]
fn in_a_pod_of_root_the_sidecar_is_told_the_user_of_its_image_and_elsewhere_none() {
    let containerfile = include_str!("../../../Containerfile");
    assert!(containerfile.contains("USER 65532:65532"), "another user than the image's");
    let mut pod = asking(&[]);
    let plain = injection(decide_one(&pod));
    pod["spec"]["securityContext"] = json!({"runAsUser": 0, "runAsGroup": 0, "supplementalGroups": [0]});
    assert_eq!(user(&pod), (json!(65_532), json!(65_532)));
    let root = injection(decide_one(&pod));
    assert_eq!(root.sidecar["securityContext"]["runAsNonRoot"], true);
    assert_eq!(root.sidecar["securityContext"].get("runAsGroup"), None, "groups are the pod's");
    assert_eq!(root.template, plain.template, "it is the pod's own, and makes none outdated");
    let patched = applied(&pod, &root);
    assert_eq!(injection(decide_one(&patched)), root);
    // A range of users that a namespace permits has not this one in it.
    pod["spec"]["securityContext"] = json!({"runAsUser": 1_000_680_000, "fsGroup": 1_000_680_000});
    assert_eq!(user(&pod), (json!(1_000_680_000), Value::Null));
    assert_eq!(injection(decide_one(&pod)).sidecar, plain.sidecar);
    // Root in one container is that container's.
    pod["spec"]["securityContext"] = json!({"runAsNonRoot": false});
    pod["spec"]["containers"][0]["securityContext"] = json!({"runAsUser": 0});
    assert_eq!(user(&pod), (json!(65_532), Value::Null));
}

// Windows.

#[test]
fn a_pod_for_windows_is_left_alone_unless_it_asks() {
    let labelled = namespace(&[(names::INJECT, "true")]);
    let strict = Settings { on_missing: OnMissing::Deny, ..settings() };
    let blue = Resource { class: "blue".to_owned(), ..resource("memory") };
    for spec in [
        json!({"os": {"name": "windows"}}),
        json!({"nodeSelector": {"kubernetes.io/os": "windows"}}),
        json!({"os": {"name": "windows"}, "nodeSelector": {"kubernetes.io/os": "linux"}}),
    ] {
        let mut silent = pod(&[]);
        json_patch::merge(&mut silent["spec"], &spec);
        let decided = |pod: &Value, resources: &[Resource]| decide(pod, &labelled, resources, &strict);
        for resources in [&[][..], &[resource("memory")]] {
            let Decision::Skip(skip) = decided(&silent, resources) else { unreachable!() };
            assert!(skip.reason == Reason::WindowsPod && skip.warning.is_some_and(|said| said.contains("Windows")));
        }
        let other = decided(&silent, std::slice::from_ref(&blue));
        assert_eq!(seen(&other), ("skip", Reason::OtherClass), "the other operator says it");
        silent["metadata"]["annotations"] = json!({names::INJECT: "true"});
        let (reason, message) = denial(decided(&silent, &[resource("memory")]));
        assert!(reason == Reason::WindowsPod && message.contains("contextmanager.dev/inject: \"false\""), "{message}");
        assert!(!reason.may_be_stale(), "no resource helps");
    }
    let mut linux = asking(&[]);
    linux["spec"]["os"] = json!({"name": "linux"});
    linux["spec"]["nodeSelector"] = json!({"kubernetes.io/os": "windows"});
    assert_eq!(seen(&decide_one(&linux)).0, "inject", "what it says itself counts");
}

// Classic mode.

fn classic() -> [Resource; 1] {
    [Resource { mode: Mode::Classic, ..resource("memory") }]
}

#[test]
fn a_classic_sidecar_is_the_first_container_and_holds_the_others_back() {
    let pod = asking(&[]);
    let given = injection(decide(&pod, &namespace(&[]), &classic(), &settings()));
    let patched = applied(&pod, &given);
    let sidecar = &patched["spec"]["containers"][0];
    assert_eq!(sidecar["name"], names::CONTAINER);
    let command = json!([names::PROGRAM, "ask", "--wait", "5m"]);
    assert_eq!(sidecar["lifecycle"]["postStart"]["exec"]["command"], command);
    assert!(sidecar.get("restartPolicy").is_none() && sidecar.get("startupProbe").is_none(), "{sidecar}");
    assert_eq!(sidecar["readinessProbe"]["httpGet"]["port"], names::DEFAULT_ADMIN_PORT);
    assert_eq!(patched["spec"].get("initContainers"), None);
    assert_eq!(patched["spec"]["containers"][1]["env"][0]["name"], names::ENV_URL);
    assert_eq!(patched["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"], "agent");
    let again = injection(decide(&patched, &namespace(&[]), &classic(), &settings()));
    assert_eq!((patch(&patched, &again).0, &again.hash), (Vec::new(), &given.hash));
    let native = injection(decide_one(&pod));
    assert_ne!((&native.hash, &native.template), (&given.hash, &given.template));
}

#[test]
fn the_pods_own_mode_and_default_container_win() {
    let native = asking(&[(names::MODE, "Native"), ("kubectl.kubernetes.io/default-container", "other")]);
    let given = injection(decide(&native, &namespace(&[]), &classic(), &settings()));
    assert_eq!(applied(&native, &given)["spec"]["initContainers"][0]["restartPolicy"], "Always");
    let classic = asking(&[(names::MODE, "Classic"), ("kubectl.kubernetes.io/default-container", "other")]);
    let patched = applied(&classic, &injection(decide_one(&classic)));
    assert_eq!(patched["spec"]["containers"][0]["name"], names::CONTAINER);
    assert_eq!(patched["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"], "other");
}

#[test]
fn a_classic_sidecar_is_kept_from_jobs_and_init_containers_and_a_pod_that_completes_is_warned() {
    let decide = |pod: &Value| decide(pod, &namespace(&[(names::INJECT, "true")]), &classic(), &settings());
    let owner = json!([{"apiVersion": "batch/v1", "kind": "Job", "name": "import", "uid": "1", "controller": true}]);
    let mut job = asking(&[]);
    job["metadata"]["ownerReferences"] = owner.clone();
    let (reason, message) = denial(decide(&job));
    assert_eq!(reason, Reason::ClassicInJob);
    assert!(message.contains("contextmanager.dev/mode: \"Native\""), "{message}");
    let mut silent = pod(&[]);
    silent["metadata"]["ownerReferences"] = owner;
    let Decision::Skip(skip) = decide(&silent) else { unreachable!() };
    assert!(skip.reason == Reason::ClassicInJob && skip.warning.is_some());
    job["metadata"]["annotations"][names::MODE] = json!("Native");
    assert_eq!(injection(decide(&job)).warnings, Vec::<String>::new());

    let mut early = asking(&[(names::CONTAINERS, "setup")]);
    early["spec"]["initContainers"] = json!([{"name": "setup"}]);
    let (reason, message) = denial(decide(&early));
    assert!(reason == Reason::InvalidAnnotation && message.contains("\"setup\""), "{message}");

    let mut once = asking(&[]);
    once["spec"]["restartPolicy"] = json!("Never");
    let given = injection(decide(&once));
    assert!(given.warnings.iter().any(|warning| warning.contains("restartPolicy")), "{:?}", given.warnings);
}

// Annotations.

#[test]
fn each_annotation_with_a_bad_value_is_denied_by_name() {
    for (key, value) in [
        (names::AGENT_ID, "-x"),
        (names::AGENT_ID, ""),
        (names::CONTAINERS, "agent,,other"),
        (names::PROTOCOL_PORT, "80"),
        (names::PROTOCOL_PORT, "seven"),
        (names::ADMIN_PORT, "65536"),
        (names::ADMIN_PORT, "-1"),
        (names::MODE, "classic"),
        (names::LOG_LEVEL, ""),
        (names::LOG_LEVEL, "info; rm"),
        (names::SIDECAR_CPU_REQUEST, "lots"),
        (names::SIDECAR_MEMORY_REQUEST, "0"),
        (names::SIDECAR_CPU_LIMIT, "-1"),
        (names::SIDECAR_MEMORY_LIMIT, "64MB"),
        (names::SIDECAR_MEMORY_LIMIT, "-1e9"),
    ] {
        let (reason, message) = denial(decide_one(&asking(&[(key, value)])));
        assert_eq!(reason, Reason::InvalidAnnotation, "{key}={value}");
        assert!(message.contains(key), "{message}");
    }
}

#[test]
fn an_unknown_annotation_of_our_group_is_a_warning() {
    let given = injection(decide_one(&asking(&[("contextmanager.dev/agentid", "x"), ("example.com/agent-id", "y")])));
    assert_eq!(given.warnings.len(), 1);
    assert!(given.warnings[0].contains("contextmanager.dev/agentid"), "{:?}", given.warnings);
}

#[test]
fn an_unknown_container_is_denied_with_the_candidates() {
    let mut pod = asking(&[(names::CONTAINERS, "agent,brain")]);
    pod["spec"]["initContainers"] = json!([{"name": "setup"}]);
    let (reason, message) = denial(decide_one(&pod));
    assert_eq!(reason, Reason::UnknownContainer);
    assert!(message.contains("\"brain\"") && message.contains("\"setup\" or \"agent\""), "{message}");
}

#[test]
fn only_chosen_containers_get_access() {
    let mut pod = asking(&[(names::CONTAINERS, " agent , setup,agent")]);
    pod["spec"]["containers"] = json!([{"name": "proxy"}, {"name": "agent"}]);
    pod["spec"]["initContainers"] = json!([{"name": "setup"}, {"name": "migrate"}]);
    let patched = applied(&pod, &injection(decide_one(&pod)));
    let with_access: Vec<_> = Pod::new(&patched)
        .others()
        .filter(|container| container.json.get("env").is_some())
        .map(|container| container.name.to_owned())
        .collect();
    assert_eq!(with_access, ["setup", "agent"]);
}

#[test]
fn the_resources_list_of_containers_applies_where_the_pod_says_nothing() {
    let restricted = [Resource { containers: vec!["brain".to_owned()], ..resource("memory") }];
    let labelled = namespace(&[(names::INJECT, "true")]);
    assert_eq!(denial(decide(&asking(&[]), &labelled, &restricted, &settings())).0, Reason::NoMatchingContainer);
    let skipped = decide(&pod(&[]), &labelled, &restricted, &settings());
    assert_eq!(seen(&skipped), ("skip", Reason::NoMatchingContainer));
    let named = asking(&[(names::CONTAINERS, "agent")]);
    assert_eq!(injection(decide(&named, &labelled, &restricted, &settings())).containers, ["agent"]);
}

#[test]
fn a_pod_of_more_containers_than_anybody_has_is_not_served_in_all_of_them() {
    let mut wanted = asking(&[]);
    let of = |count: usize| (0..count).map(|index| json!({"name": format!("c{index}")})).collect::<Value>();
    wanted["spec"]["containers"] = of(256);
    assert_eq!(injection(decide_one(&wanted)).containers.len(), 256);
    wanted["spec"]["containers"] = of(100_000);
    let (reason, message) = denial(decide_one(&wanted));
    assert!(reason == Reason::TooManyContainers && message.contains(names::CONTAINERS), "{message}");
    let labelled = namespace(&[(names::INJECT, "true")]);
    let mut silent = wanted.clone();
    silent["metadata"]["annotations"] = json!({});
    let skipped = decide(&silent, &labelled, &[resource("memory")], &settings());
    assert_eq!(seen(&skipped), ("skip", Reason::TooManyContainers));
    wanted["metadata"]["annotations"][names::CONTAINERS] = json!("c7,c99999");
    assert_eq!(injection(decide_one(&wanted)).containers, ["c7", "c99999"]);
    wanted["metadata"]["annotations"][names::CONTAINERS] = json!("a,".repeat(256) + "b");
    let (reason, message) = denial(decide_one(&wanted));
    assert!(reason == Reason::InvalidAnnotation && message.contains("more than 256 names"), "{message}");
}

#[test]
fn ports_move_in_url_probes_and_environment_together() {
    let given = injection(decide_one(&asking(&[(names::PROTOCOL_PORT, "9001"), (names::ADMIN_PORT, "9002")])));
    assert_eq!(given.env[0].1, "http://127.0.0.1:9001");
    assert_eq!(given.sidecar["startupProbe"]["httpGet"]["port"], 9002);
    assert_eq!(given.sidecar["readinessProbe"]["httpGet"]["port"], 9002);
    assert_eq!(given.sidecar["ports"][0]["containerPort"], 9002);
    let env = given.sidecar["env"].to_string();
    assert!(env.contains("\"9001\"") && env.contains("\"9002\""), "{env}");
}

#[test]
fn requests_and_limits_of_annotations_win_over_the_resource_and_defaults_give_way() {
    let given = |annotations: &[(&str, &str)], of_resource: Option<Value>| {
        let resources = [Resource { resources: of_resource, ..resource("memory") }];
        injection(decide(&asking(annotations), &namespace(&[]), &resources, &settings())).sidecar["resources"].clone()
    };
    let defaults = json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}});
    assert_eq!(given(&[], None), defaults);
    let small = json!({"limits": {"memory": "16Mi", "cpu": "1"}});
    let expected = json!({"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "16Mi", "cpu": "1"}});
    assert_eq!(given(&[], Some(small.clone())), expected);
    let annotated = given(&[(names::SIDECAR_MEMORY_LIMIT, "1Gi")], Some(small));
    assert_eq!(annotated["limits"]["memory"], "1Gi");
    assert_eq!(annotated["requests"]["memory"], "32Mi");
    assert_eq!(given(&[(names::SIDECAR_MEMORY_REQUEST, "512Mi")], None)["limits"]["memory"], "512Mi");
}

#[test]
fn a_request_above_the_limit_is_denied() {
    for (request, limit) in [("2Gi", "1Gi"), ("9007199254740993", "9007199254740992"), ("1Gi", "1e9"), ("9Ei", "9E")] {
        let pod = asking(&[(names::SIDECAR_MEMORY_REQUEST, request), (names::SIDECAR_MEMORY_LIMIT, limit)]);
        let (reason, message) = denial(decide_one(&pod));
        assert_eq!(reason, Reason::InvalidAnnotation);
        assert!(message.contains(request) && message.contains(names::SIDECAR_MEMORY_LIMIT), "{message}");
    }
    let equal = asking(&[(names::SIDECAR_MEMORY_REQUEST, "+1e9"), (names::SIDECAR_MEMORY_LIMIT, "1G")]);
    assert_eq!(seen(&decide_one(&equal)).0, "inject");
}

// Clashes.

#[test]
fn a_port_that_a_container_has_moves_the_sidecars_and_a_demanded_one_is_refused() {
    let ports = |pod: &Value| {
        let Ports { protocol, admin, moved } = injection(decide_one(pod)).ports.expect("ports");
        (protocol, admin, moved)
    };
    for (port, key, expected) in
        [(7419, names::PROTOCOL_PORT, (7421, 7420, true)), (7420, names::ADMIN_PORT, (7419, 7421, true))]
    {
        let mut pod = asking(&[]);
        pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": port, "protocol": "UDP"}]);
        assert_eq!(ports(&pod), (7419, 7420, false), "another protocol does not clash");
        pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80}, {"containerPort": port}]);
        assert_eq!(ports(&pod), expected);
        let warnings = injection(decide_one(&pod)).warnings;
        assert!(warnings.len() == 1 && warnings[0].contains(&format!("\"agent\" uses port {port}")), "{warnings:?}");
        pod["metadata"]["annotations"][key] = json!(port.to_string());
        let (reason, message) = denial(decide_one(&pod));
        assert_eq!(reason, Reason::PortTaken);
        assert!(message.contains(&port.to_string()) && message.contains(key), "{message}");
        pod["metadata"]["annotations"][key] = json!("9000");
        assert_eq!(seen(&decide_one(&pod)).0, "inject", "the annotation in the message helps");
    }
    assert_eq!(ports(&asking(&[(names::ADMIN_PORT, "7419")])), (7420, 7419, true), "a demand goes first");
    let same = asking(&[(names::ADMIN_PORT, "7000"), (names::PROTOCOL_PORT, "7000")]);
    assert_eq!(denial(decide_one(&same)).0, Reason::PortTaken);
    let mut full = asking(&[]);
    full["spec"]["containers"][0]["ports"] = (1_024..=32_767).map(|port| json!({"containerPort": port})).collect();
    assert!(denial(decide_one(&full)).1.contains("none is left"));
    full["metadata"]["annotations"][names::PROTOCOL_PORT] = json!("40000");
    full["metadata"]["annotations"][names::ADMIN_PORT] = json!("40001");
    assert_eq!(ports(&full), (40_000, 40_001, false));
}

#[test]
fn a_moved_port_is_in_url_probes_environment_and_annotation_and_stays_at_the_second_call() {
    let mut pod = asking(&[]);
    pod["spec"]["initContainers"] = json!([{"name": "first", "ports": [{"containerPort": 7_421}]}]);
    pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 7_419}, {"containerPort": 7_420}]);
    let given = injection(decide_one(&pod));
    let patched = applied(&pod, &given);
    assert_eq!(patched["metadata"]["annotations"][names::INJECTED_PORTS], "protocol=7422,admin=7423");
    let sidecar = &patched["spec"]["initContainers"][0];
    for probe in ["startupProbe", "readinessProbe"] {
        assert_eq!(sidecar[probe]["httpGet"]["port"], 7_423);
    }
    assert_eq!(sidecar["ports"][0]["containerPort"], 7_423);
    let env = sidecar["env"].to_string();
    assert!(env.contains("\"7422\"") && env.contains("\"7423\""), "{env}");
    assert_eq!(patched["spec"]["containers"][0]["env"][0]["value"], "http://127.0.0.1:7422");
    assert_eq!(injection(decide_one(&patched)), given);
    // What comes later cannot have the port any more.
    let mut late = patched;
    late["spec"]["containers"]
        .as_array_mut()
        .expect("a list")
        .push(json!({"name": "late", "ports": [{"containerPort": 7_422}]}));
    let (reason, message) = denial(decide_one(&late));
    assert_eq!(reason, Reason::PortTaken);
    assert!(message.contains("\"late\"") && message.contains(names::PROTOCOL_PORT), "{message}");
}

#[test]
fn a_volume_or_container_with_a_name_of_ours_is_denied() {
    for volume in sidecar::VOLUMES {
        let mut pod = asking(&[]);
        pod["spec"]["volumes"] = json!([{"name": volume, "emptyDir": {}}]);
        let (reason, message) = denial(decide_one(&pod));
        assert_eq!(reason, Reason::VolumeNameTaken);
        assert!(message.contains(volume), "{message}");
    }
    for list in ["containers", "initContainers"] {
        let mut pod = asking(&[]);
        pod["spec"][list] = json!([{"name": names::CONTAINER}]);
        assert_eq!(denial(decide_one(&pod)).0, Reason::ContainerNameTaken);
    }
}

// The patch.

#[test]
fn what_the_author_set_stays() {
    let mut pod = asking(&[]);
    pod["spec"]["containers"][0]["env"] = json!([{"name": names::ENV_URL, "value": "http://elsewhere"}]);
    let mounts = json!([{"name": "own", "mountPath": names::AGENT_KEYS_DIRECTORY}]);
    pod["spec"]["containers"][0]["volumeMounts"] = mounts.clone();
    let patched = applied(&pod, &injection(decide_one(&pod)));
    let agent = &patched["spec"]["containers"][0];
    assert_eq!(agent["env"][0]["value"], "http://elsewhere");
    assert_eq!(agent["env"].as_array().map(Vec::len), Some(2));
    assert_eq!(agent["volumeMounts"], mounts);
}

#[test]
fn the_agent_never_gets_the_embedding_key_and_the_sidecar_does() {
    let key = SecretKey { secret: "provider".to_owned(), key: "token".to_owned() };
    let resources = [Resource { embedding_key: Some(key), ..resource("memory") }];
    let pod = asking(&[]);
    let patched = applied(&pod, &injection(decide(&pod, &namespace(&[]), &resources, &settings())));
    let mounts = patched["spec"]["containers"][0]["volumeMounts"].as_array().cloned().unwrap_or_default();
    assert_eq!(mounts.len(), 1);
    assert_eq!(mounts[0]["name"], names::VOLUME_KEYS);
    let with_key = patched["spec"]["volumes"].as_array().into_iter().flatten();
    let with_key: Vec<_> = with_key.filter(|volume| volume.to_string().contains("\"provider\"")).collect();
    assert_eq!(with_key.len(), 1);
    assert_eq!(with_key[0]["name"], names::VOLUME_CONFIG);
}

#[test]
fn what_a_server_is_shown_reaches_the_sidecar_alone_whatever_it_will_be() {
    let resources = [Resource { store_secret: Some(names::store_secret("memory")), ..resource("memory") }];
    let pod = asking(&[]);
    let patched = applied(&pod, &injection(decide(&pod, &namespace(&[]), &resources, &settings())));
    let volumes = patched["spec"]["volumes"].as_array().into_iter().flatten();
    let with_secret: Vec<_> = volumes.filter(|volume| volume.to_string().contains("memory-context-store")).collect();
    assert_eq!(with_secret.len(), 1);
    assert_eq!(with_secret[0]["name"], names::VOLUME_CONFIG, "a volume that the agent's containers do not mount");
    let sources = with_secret[0]["projected"]["sources"].as_array().expect("sources");
    assert_eq!(sources.last(), Some(&json!({"secret": {"name": "memory-context-store"}})), "every key of it is a file");
    let container = &patched["spec"]["initContainers"][0];
    let without = applied(&pod, &injection(decide_one(&pod)));
    assert_eq!(container, &without["spec"]["initContainers"][0], "the container itself does not depend on the store");
}

#[test]
fn what_a_collector_is_shown_reaches_the_sidecar_alone_and_keeps_no_pod_from_starting() {
    let headers = SecretKey { secret: "otel".to_owned(), key: "headers".to_owned() };
    let ca = ConfigMapKey { config_map: "otel-ca".to_owned(), key: "ca.pem".to_owned() };
    let resources = [Resource { otlp_headers: Some(headers), otlp_ca: Some(ca), ..resource("memory") }];
    let pod = asking(&[]);
    let patched = applied(&pod, &injection(decide(&pod, &namespace(&[]), &resources, &settings())));
    let volumes: Vec<_> = patched["spec"]["volumes"].as_array().into_iter().flatten().collect();
    let traced: Vec<_> = volumes.into_iter().filter(|volume| volume.to_string().contains("\"otel")).collect();
    assert_eq!(traced.len(), 1);
    assert_eq!(traced[0]["name"], names::VOLUME_CONFIG, "a volume that the agent's containers do not mount");
    let sources = traced[0]["projected"]["sources"].as_array().cloned().unwrap_or_default();
    let expected = [
        json!({"secret": {"name": "otel", "items": [{"key": "headers", "path": "otlp-headers"}], "optional": true}}),
        json!({"configMap": {"name": "otel-ca", "items": [{"key": "ca.pem", "path": "otlp-ca.crt"}], "optional": true}}),
    ];
    assert_eq!(sources[sources.len() - 2..], expected);
}

#[test]
fn a_socket_is_shared_by_the_sidecar_and_the_agents_containers_that_cannot_replace_it() {
    let resources = [Resource { socket: true, ..resource("memory") }];
    let mut pod = asking(&[]);
    pod["spec"]["securityContext"] = json!({"fsGroup": 2_000});
    pod["spec"]["containers"]
        .as_array_mut()
        .expect("a list")
        .push(json!({"name": "second", "env": [], "volumeMounts": []}));
    let given = injection(decide(&pod, &namespace(&[]), &resources, &settings()));
    assert_eq!(given.warnings, Vec::<String>::new());
    let patched = applied(&pod, &given);
    let named = |list: &Value, name: &str| {
        list.as_array().into_iter().flatten().find(|item| item["name"] == name).cloned().unwrap_or_default()
    };
    assert_eq!(named(&patched["spec"]["volumes"], names::VOLUME_SOCKET)["emptyDir"], json!({}));
    let sidecar = &patched["spec"]["initContainers"][0];
    assert_eq!(named(&sidecar["env"], names::ENV_SOCKET)["value"], names::SOCKET_FILE);
    let mount = named(&sidecar["volumeMounts"], names::VOLUME_SOCKET);
    assert_eq!((&mount["mountPath"], &mount["readOnly"]), (&json!(names::SOCKET_DIRECTORY), &Value::Null));
    for agent in patched["spec"]["containers"].as_array().expect("a list") {
        assert_eq!(named(&agent["env"], names::ENV_SOCKET)["value"], names::SOCKET_FILE, "{agent}");
        assert_eq!(named(&agent["env"], names::ENV_URL)["value"], "http://127.0.0.1:7419", "the port is there, too");
        let mount = named(&agent["volumeMounts"], names::VOLUME_SOCKET);
        assert_eq!(
            (&mount["mountPath"], &mount["readOnly"]),
            (&json!(names::SOCKET_DIRECTORY), &json!(true)),
            "{agent}"
        );
    }
    assert!(names::SOCKET_FILE.starts_with(names::SOCKET_DIRECTORY) && names::SOCKET_FILE.len() <= 100);
    let again = injection(decide(&patched, &namespace(&[]), &resources, &settings()));
    assert_eq!((patch(&patched, &again).0, &again.hash), (Vec::new(), &given.hash));
    let without = injection(decide_one(&pod));
    assert_ne!(without.hash, given.hash);
    assert!(!format!("{without:?}").contains("socket"), "who does not ask for one sees nothing of it");
}

#[test]
fn a_socket_that_the_agent_could_not_open_gives_a_warning() {
    let resources = [Resource { socket: true, ..resource("memory") }];
    let warnings = injection(decide(&asking(&[]), &namespace(&[]), &resources, &settings())).warnings;
    assert!(warnings.iter().any(|warning| warning.contains("securityContext.fsGroup")), "{warnings:?}");
}

#[test]
fn a_container_that_another_webhook_added_is_served_on_the_second_call() {
    let pod = asking(&[]);
    let mut patched = applied(&pod, &injection(decide_one(&pod)));
    patched["spec"]["containers"].as_array_mut().expect("a list").push(json!({"name": "late"}));
    let twice = applied(&patched, &injection(decide_one(&patched)));
    assert_eq!(twice["spec"]["containers"][1]["env"], patched["spec"]["containers"][0]["env"]);
    assert_eq!(twice["spec"]["initContainers"], patched["spec"]["initContainers"]);
    assert_eq!(twice["spec"]["volumes"], patched["spec"]["volumes"]);
}

/// Set `UPDATE_GOLDEN=1` to write the files anew, and read the difference.
#[test]
fn patches_are_those_of_the_golden_files() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases = 0;
    for entry in fs::read_dir(directory.join("pods")).expect("the folder of pods") {
        let path = entry.expect("an entry").path();
        let pod: Value = serde_json::from_slice(&fs::read(&path).expect("a file")).expect("JSON");
        let claimed = Resource { storage: Storage::Claim { name: names::data_claim("kept") }, ..resource("kept") };
        let classic = Resource { mode: Mode::Classic, ..resource("classic") };
        let resources = [resource("memory"), claimed, classic];
        let labelled = namespace(&[(names::NAME, "memory")]);
        let given = injection(decide(&pod, &labelled, &resources, &settings()));
        let mut made = serde_json::to_value(patch(&pod, &given)).expect("JSON");
        made.sort_all_objects();
        let made = serde_json::to_string_pretty(&made).expect("JSON") + "\n";
        let golden = directory.join("patches").join(path.file_name().expect("a name"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &made).expect("a writable file");
        }
        let wanted = fs::read_to_string(&golden).unwrap_or_default();
        assert_eq!(made, wanted, "{} differs", golden.display());
        let twice = applied(&pod, &given);
        assert_eq!(patch(&twice, &injection(decide(&twice, &labelled, &resources, &settings()))).0, []);
        cases += 1;
    }
    assert_eq!(cases, 7, "all pods were looked at");
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,5}", inner, 0..3).prop_map(|map| json!(map)),
        ]
    })
}

fn any_container(name: String) -> impl Strategy<Value = Value> {
    let env = prop::option::of(prop::collection::vec("[A-Z]{1,3}".prop_map(|name| json!({"name": name})), 0..3));
    let ports = prop::collection::vec((7_417_u16..7_425).prop_map(|port| json!({"containerPort": port})), 0..3);
    (env, ports, any_json()).prop_map(move |(env, ports, unknown)| {
        let mut container = json!({"name": name, "ports": ports, "fieldOfTomorrow": unknown});
        if let Some(env) = env {
            container["env"] = json!(env);
        }
        container
    })
}

prop_compose! {
    fn any_pod()(
        main in prop::collection::vec(any_container("m".to_owned()), 1..4),
        init in prop::option::of(prop::collection::vec(any_container("i".to_owned()), 0..3)),
        volumes in prop::option::of(prop::collection::vec(any_json(), 0..3)),
        mode in prop_oneof![Just("Native"), Just("Classic")],
        labels in prop::option::of(prop::collection::btree_map("[a-z]{1,4}", "[a-z]{0,4}", 0..3)),
        user in prop::option::of(prop_oneof![Just(0_i64), Just(1), 1_000_i64..100_000]),
        unknown in any_json(),
    ) -> Value {
        let numbered = |list: Vec<Value>| -> Vec<Value> {
            list.into_iter().enumerate().map(|(index, mut container)| {
                let name = format!("{}{index}", container["name"].as_str().unwrap_or_default());
                container["name"] = json!(name);
                container
            }).collect()
        };
        let mut pod = json!({
            "metadata": {"generateName": "agent-", "annotations": {names::INJECT: "true", names::MODE: mode}},
            "spec": {"containers": numbered(main), "fieldOfTomorrow": unknown},
        });
        if let Some(init) = init { pod["spec"]["initContainers"] = json!(numbered(init)); }
        if let Some(volumes) = volumes { pod["spec"]["volumes"] = json!(volumes); }
        if let Some(labels) = labels { pod["metadata"]["labels"] = json!(labels); }
        if let Some(user) = user { pod["spec"]["securityContext"] = json!({"runAsUser": user}); }
        pod
    }
}

/// Whether all of `before` is still in `after`: members and items may have come, none may have gone or changed. Items may
/// have moved, as init containers do behind the sidecar.
fn kept(before: &Value, after: &Value) -> bool {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            before.iter().all(|(key, value)| after.get(key).is_some_and(|found| kept(value, found)))
        }
        (Value::Array(before), Value::Array(after)) => {
            before.iter().all(|value| after.iter().any(|found| kept(value, found)))
        }
        _ => before == after,
    }
}

proptest! {
    #[test]
    fn a_patch_only_adds_and_is_idempotent_and_the_decision_stays(pod in any_pod()) {
        let given = injection(decide_one(&pod));
        let made = patch(&pod, &given);
        prop_assert!(made.0.iter().all(|operation| matches!(operation, json_patch::PatchOperation::Add(_))));
        let once = applied(&pod, &given);
        prop_assert!(kept(&pod, &once), "something of the pod got lost");
        let list = if given.mode == Mode::Native { "initContainers" } else { "containers" };
        prop_assert_eq!(once["spec"][list][0]["name"].as_str(), Some(names::CONTAINER));
        let again = injection(decide_one(&once));
        prop_assert_eq!(&again, &given);
        let others = Pod::new(&once).others().map(|container| container.json["ports"].to_string());
        let declared = others.collect::<String>();
        let ports = given.ports.expect("ports");
        for port in [ports.protocol, ports.admin] {
            prop_assert!(!declared.contains(&port.to_string()), "port {port} is taken: {declared}");
        }
        prop_assert_eq!(applied(&once, &again), once);
        let (effective, told) = user(&pod);
        prop_assert!(effective != json!(0), "a sidecar that must not be root would be");
        prop_assert_eq!(told.is_null(), pod["spec"]["securityContext"]["runAsUser"] != json!(0));
    }

    #[test]
    fn any_json_at_all_gets_a_decision(pod in any_json(), asked in any::<bool>()) {
        let mut pod = pod;
        if let (true, Some(object)) = (asked, pod.as_object_mut()) {
            object.insert("metadata".to_owned(), json!({"annotations": {names::INJECT: "true"}}));
        }
        let decision = decide(&pod, &namespace(&[]), &[resource("memory")], &settings());
        prop_assert!(asked || seen(&decision).0 == "skip");
    }
}
