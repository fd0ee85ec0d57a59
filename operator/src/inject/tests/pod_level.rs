//! Pods that have resources as a whole.

use context_manager_crds::quantity::Amount;

use super::*;

fn given(pod: &Value) -> Value {
    injection(decide_one(pod)).sidecar["resources"].clone()
}

fn with(resources: &Value, of_agent: &Value) -> Value {
    let mut pod = asking(&[]);
    pod["spec"]["resources"] = resources.clone();
    pod["spec"]["containers"][0]["resources"] = of_agent.clone();
    pod
}

#[test]
fn what_nobody_demanded_gives_way_to_what_the_pod_has() {
    let roomy = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}});
    let defaults = json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}});
    assert_eq!(given(&with(&roomy, &json!({}))), defaults);
    let small = json!({"limits": {"memory": "128Mi"}});
    let expected = json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}});
    assert_eq!(given(&with(&small, &json!({}))), expected);
    // The API server has given the pod what its containers requested: nothing is left.
    let full = json!({"requests": {"cpu": "100m", "memory": "100Mi"}, "limits": {"memory": "1Gi", "cpu": "1"}});
    let agent = json!({"requests": {"cpu": "0.1", "memory": "100Mi"}});
    let expected = json!({"requests": {"cpu": "0m", "memory": "0"}, "limits": {"memory": "256Mi"}});
    assert_eq!(given(&with(&full, &agent)), expected);
    let some = json!({"requests": {"cpu": "105m", "memory": "101Mi"}});
    let expected = json!({"requests": {"cpu": "5m", "memory": "1048576"}, "limits": {"memory": "256Mi"}});
    let pod = with(&some, &agent);
    assert_eq!(given(&pod), expected);
    assert_eq!(given(&applied(&pod, &injection(decide_one(&pod)))), expected, "the sidecar does not take its own room");
    // What the ContextManager says is for pods of any size.
    let large = Resource {
        resources: Some(json!({"requests": {"memory": "64Mi"}, "limits": {"memory": "1Gi", "cpu": "3"}})),
        ..resource("memory")
    };
    let capped = injection(decide(&with(&roomy, &json!({})), &namespace(&[]), &[large], &settings()));
    assert_eq!(capped.sidecar["resources"]["limits"], json!({"memory": "1Gi", "cpu": "2"}));
    let plain = injection(decide_one(&asking(&[])));
    assert_eq!(injection(decide_one(&pod)).template, plain.template, "it is the pod's own, and makes none outdated");
}

#[test]
fn what_the_others_leave_is_exact_to_the_byte_and_the_thousandth() {
    let whole = json!({"requests": {"cpu": "0.3", "memory": "9007199254740993"}});
    let agent = json!({"requests": {"cpu": "200m", "memory": "9007199254740992"}});
    let mut pod = with(&whole, &agent);
    pod["metadata"]["annotations"][names::SIDECAR_CPU_REQUEST] = json!("0.1");
    pod["metadata"]["annotations"][names::SIDECAR_MEMORY_REQUEST] = json!("1");
    assert_eq!(given(&pod)["requests"], json!({"cpu": "0.1", "memory": "1"}));
    pod["metadata"]["annotations"] = json!({names::INJECT: "true"});
    assert_eq!(given(&pod)["requests"], json!({"cpu": "10m", "memory": "1"}));
    pod["spec"]["resources"]["requests"]["cpu"] = json!("0.2019");
    assert_eq!(given(&pod)["requests"]["cpu"], "1m");
}

#[test]
fn what_an_annotation_demands_is_refused_where_it_does_not_fit() {
    let whole = json!({"requests": {"cpu": "100m", "memory": "100Mi"}, "limits": {"cpu": "200m", "memory": "200Mi"}});
    let agent = json!({"requests": {"cpu": "50m", "memory": "50Mi"}});
    for (key, fits, too_much, named) in [
        (names::SIDECAR_CPU_REQUEST, "50m", "51m", "leave of spec.resources.requests.cpu"),
        (names::SIDECAR_MEMORY_REQUEST, "50Mi", "51Mi", "leave of spec.resources.requests.memory"),
        (names::SIDECAR_CPU_LIMIT, "200m", "201m", "spec.resources.limits.cpu"),
        (names::SIDECAR_MEMORY_LIMIT, "200Mi", "201Mi", "spec.resources.limits.memory"),
    ] {
        let mut pod = with(&whole, &agent);
        pod["metadata"]["annotations"][key] = json!(fits);
        assert_eq!(seen(&decide_one(&pod)).0, "inject", "{key}={fits}");
        pod["metadata"]["annotations"][key] = json!(too_much);
        let (reason, message) = denial(decide_one(&pod));
        assert_eq!(reason, Reason::InvalidAnnotation, "{message}");
        assert!(message.contains(key) && message.contains(named), "{message}");
    }
}

#[test]
fn a_pod_without_room_for_a_sidecar_is_left_alone_unless_it_asks() {
    let mut wanted = with(&json!({"limits": {"memory": "31Mi"}}), &json!({}));
    let (reason, message) = denial(decide_one(&wanted));
    assert_eq!(reason, Reason::PodTooSmall);
    assert!(message.contains("32Mi") && message.contains("spec.resources.limits.memory"), "{message}");
    assert!(message.contains(names::SIDECAR_MEMORY_REQUEST), "{message}");
    let labelled = namespace(&[(names::INJECT, "true")]);
    wanted["metadata"]["annotations"] = json!({});
    let Decision::Skip(skip) = decide(&wanted, &labelled, &[resource("memory")], &settings()) else { unreachable!() };
    assert!(skip.reason == Reason::PodTooSmall && skip.warning.is_some_and(|said| said.contains("31Mi")));
    wanted["metadata"]["annotations"] = json!({names::INJECT: "true", names::SIDECAR_MEMORY_REQUEST: "16Mi"});
    assert_eq!(given(&wanted)["limits"]["memory"], "31Mi", "the remedy of the message");
}

fn amount_of(resources: &Value, bound: &str, unit: &str) -> Option<Amount> {
    resources[bound][unit].as_str()?.parse().ok()
}

fn sum(amounts: impl Iterator<Item = Amount>) -> Amount {
    amounts.fold(Amount::default(), Amount::plus)
}

/// What the containers of a pod request together, by the words of the Kubernetes documentation: the sum of those that stay, or what one that
/// ends needs beside those that started before it.
fn together(pod: &Value, unit: &str) -> Amount {
    let of = |container: &Value| amount_of(&container["resources"], "requests", unit).unwrap_or_default();
    let stays = |container: &&Value| container["restartPolicy"] == "Always";
    let init = pod["spec"]["initContainers"].as_array().cloned().unwrap_or_default();
    let main = sum(pod["spec"]["containers"].as_array().into_iter().flatten().map(of));
    let staying = |until: usize| sum(init[..until].iter().filter(stays).map(of));
    let ending = (0..init.len()).filter(|&index| !stays(&&init[index]));
    let alone = ending.map(|index| staying(index).plus(of(&init[index])));
    alone.fold(main.plus(staying(init.len())), Amount::max)
}

/// What the API server asks of a pod with resources as a whole.
fn is_admitted(pod: &Value) -> bool {
    let whole = &pod["spec"]["resources"];
    ["cpu", "memory"].into_iter().all(|unit| {
        let lists =
            ["initContainers", "containers"].map(|list| pod["spec"][list].as_array().cloned().unwrap_or_default());
        let [request, limit] =
            ["requests", "limits"].map(|bound| amount_of(whole, bound, unit).unwrap_or(Amount::of(u64::MAX)));
        let of_one = |container: &Value| {
            let [request, most] = ["requests", "limits"].map(|bound| amount_of(&container["resources"], bound, unit));
            most.is_none_or(|most| most <= limit && request.unwrap_or_default() <= most)
        };
        lists.concat().iter().all(of_one) && together(pod, unit) <= request
    })
}

prop_compose! {
    fn any_container()(cpu in 0_u32..50, memory in 0_u32..200, stays in any::<bool>()) -> Value {
        let mut container = json!({"resources": {"requests": {"cpu": format!("{cpu}m"), "memory": format!("{memory}Mi")}}});
        if stays { container["restartPolicy"] = json!("Always"); }
        container
    }
}

prop_compose! {
    fn any_pod()(
        init in prop::collection::vec(any_container(), 0..4),
        main in prop::collection::vec(any_container(), 1..4),
        (cpu, memory) in (0_u64..40, 0_u64..300),
        has_requests in any::<bool>(),
        has_limits in any::<bool>(),
        mode in prop_oneof![Just("Native"), Just("Classic")],
    ) -> Value {
        let named = |list: Vec<Value>, of: &str| -> Vec<Value> {
            list.into_iter().enumerate().map(|(index, mut container)| {
                container["name"] = json!(format!("{of}{index}"));
                container
            }).collect()
        };
        let mut pod = json!({
            "metadata": {"generateName": "agent-", "annotations": {names::INJECT: "true", names::MODE: mode}},
            "spec": {"initContainers": named(init, "i"), "containers": named(main, "m")},
        });
        for container in pod["spec"]["containers"].as_array_mut().into_iter().flatten() {
            if let Some(container) = container.as_object_mut() {
                container.remove("restartPolicy");
            }
        }
        let [requested, allowed] = [1_u64, 2].map(|times| json!({
            "cpu": format!("{}m", together(&pod, "cpu").milli_rounded_down() + cpu * times),
            "memory": (together(&pod, "memory").rounded_down() + (memory << 20) * times).to_string(),
        }));
        // A pod with limits alone has the requests of its containers by the time that it is seen.
        if has_requests || has_limits { pod["spec"]["resources"]["requests"] = requested; }
        if has_limits { pod["spec"]["resources"]["limits"] = allowed; }
        pod
    }
}

proptest! {
    #[test]
    fn a_pod_that_the_api_server_would_admit_is_admitted_with_its_sidecar(pod in any_pod()) {
        prop_assert!(is_admitted(&pod), "the test makes only such");
        match decide_one(&pod) {
            Decision::Inject(injection) => prop_assert!(is_admitted(&applied(&pod, &injection)), "{}", injection.sidecar["resources"]),
            Decision::Deny(denial) => {
                prop_assert_eq!(denial.reason, Reason::PodTooSmall);
                let most = amount_of(&pod["spec"]["resources"], "limits", "memory");
                prop_assert!(most.is_some_and(|most| most < Amount::of(32 << 20)));
            }
            Decision::Skip(skip) => return Err(TestCaseError::fail(format!("{skip:?}"))),
        }
    }
}
