//! The certificate that the user gives: read by name, verified, and copied. One that cannot be used leaves the last good one in force.

use std::time::Duration;

use context_manager_protocol::names;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use super::{Wanted, before_end, take};
use crate::{
    controller::{
        context::Context,
        error::{Error, call},
        metrics::Due,
        plan::Plan,
        status::{Good, Trouble},
    },
    pki::client::{Facts, Given},
};

const FIELD: &str = "spec.tls.secretRef";

/// What the user's Secret holds, or, if that cannot be used, what sidecars have.
pub(super) async fn obtain(
    context: &Context,
    plan: &Plan,
    live: Option<&Secret>,
    (secret, replace_before): (&str, Option<Duration>),
) -> Result<Result<Wanted, Trouble>, Error> {
    let api = Api::<Secret>::namespaced(context.client.clone(), &plan.namespace);
    let found = call("read the Secret of spec.tls.secretRef", api.get_opt(secret)).await?;
    let wanted = choose(found.as_ref(), live, (secret, replace_before), Timestamp::now());
    if let (Err(_), Some(facts)) = (&wanted, live.and_then(facts_of)) {
        // It has ended, and that is still to be seen.
        context.metrics.certificates.set(plan, facts.not_after, due(&facts, replace_before));
    }
    Ok(wanted)
}

fn choose(
    found: Option<&Secret>,
    live: Option<&Secret>,
    (secret, replace_before): (&str, Option<Duration>),
    now: Timestamp,
) -> Result<Wanted, Trouble> {
    let given = match found.map(|found| Given::verify(found, now)) {
        Some(Ok(given)) => Ok(given),
        Some(Err(what)) => {
            let message = format!("{FIELD}: the Secret {secret:?} cannot be used: {what}");
            Err(Trouble::stalled("CertificateInvalid", message))
        }
        None => {
            let message =
                format!("{FIELD}: the Secret {secret:?} does not exist; create it with tls.crt, tls.key and ca.crt");
            Err(Trouble::stalled("SecretNotFound", message))
        }
    };
    let mut wanted = take(given, live, secret, |facts| due(facts, replace_before), now)?;
    if matches!(wanted.due, Due::Replacement(at) if at <= now) && wanted.finding.is_ok() {
        let ends = wanted.facts.not_after;
        let message = format!("valid until {ends}; write another one to the Secret {secret} before that");
        wanted.finding = Ok(Good("EndsSoon", message));
    }
    Ok(wanted)
}

fn due(facts: &Facts, replace_before: Option<Duration>) -> Due {
    Due::Replacement(before_end(facts, replace_before.unwrap_or(facts.lifetime / 3)))
}

fn facts_of(live: &Secret) -> Option<Facts> {
    Facts::read(std::str::from_utf8(&live.data.as_ref()?.get(names::CERTIFICATE_FILE)?.0).ok()?)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;
    use crate::pki::client::{Identity, Pair, Trust};

    const DAY: Duration = Duration::from_hours(24);

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    /// A Secret with a certificate of so many days, made now.
    fn given(days: u32) -> Secret {
        let trust = Trust::generate(now()).unwrap();
        let Pair { certificate, key } = trust.issue(&Identity::new("team", "memory"), now(), days * DAY).unwrap();
        let files = [("tls.crt", certificate), ("tls.key", key), ("ca.crt", trust.bundle())];
        let data = files.into_iter().map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes())));
        Secret { data: Some(data.collect()), ..Secret::default() }
    }

    fn certificate(secret: &Secret) -> &[u8] {
        &secret.data.as_ref().unwrap()["tls.crt"].0
    }

    #[test]
    fn a_given_certificate_is_copied_and_to_be_replaced_in_the_last_third_of_its_life_unless_told() {
        let mine = given(30);
        let at = |days: u32| now().checked_add(days * DAY).unwrap();
        let wanted = choose(Some(&mine), None, ("mine", None), now()).unwrap_or_else(|_| unreachable!());
        assert_eq!(wanted.pair.certificate.as_bytes(), certificate(&mine));
        assert_eq!((wanted.facts.not_after, wanted.due), (at(30), Due::Replacement(at(20))));
        assert!(wanted.news.unwrap().contains("of the Secret mine") && wanted.finding.unwrap().0 == "Provisioned");
        let again = choose(Some(&mine), Some(&mine), ("mine", Some(5 * DAY)), now()).unwrap_or_else(|_| unreachable!());
        assert_eq!((again.news, again.due), (None, Due::Replacement(at(25))));
        let late = choose(Some(&mine), Some(&mine), ("mine", None), at(21)).unwrap_or_else(|_| unreachable!());
        let Good(reason, message) = late.finding.unwrap();
        assert!(reason == "EndsSoon" && message.contains("write another one to the Secret mine"), "{message}");
    }

    #[test]
    fn what_cannot_be_used_leaves_the_last_good_one_until_it_has_ended() {
        let (good, mut bad) = (given(30), given(30));
        bad.data.as_mut().unwrap().remove("tls.key");
        for (found, reason, words) in [
            (
                Some(&bad),
                "CertificateInvalid",
                "spec.tls.secretRef: the Secret \"mine\" cannot be used: tls.key is missing",
            ),
            (None, "SecretNotFound", "spec.tls.secretRef: the Secret \"mine\" does not exist; create it with tls.crt"),
        ] {
            let kept = choose(found, Some(&good), ("mine", None), now()).unwrap_or_else(|_| unreachable!());
            assert_eq!(kept.pair.certificate.as_bytes(), certificate(&good));
            let said = kept.finding.unwrap_err();
            assert!(said.stalled && said.reason == reason && said.message.starts_with(words), "{}", said.message);
            assert!(said.message.contains("the last good one stays in force, until 2027-"), "{}", said.message);
            let after = now().checked_add(31 * DAY).unwrap();
            for live in [None, Some(&good)] {
                let Err(said) = choose(found, live, ("mine", None), after) else { unreachable!("it has ended") };
                assert!(said.message.starts_with(words) && !said.message.contains("stays"), "{}", said.message);
            }
        }
        assert_eq!(facts_of(&good).unwrap().not_after, now().checked_add(30 * DAY).unwrap());
    }
}
