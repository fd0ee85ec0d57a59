//! What a person needs when a step failed: which one, what was seen, what the cluster says, and what to try.

use super::kube::Kube;
use super::screen::Screen;
use super::{AGENTS, SYSTEM};
use crate::command;

/// What is looked at, and how many of the last lines are shown.
const LOOKS: [(&[&str], usize); 8] = [
    (&["-n", SYSTEM, "get", "pods"], 20),
    (&["-n", AGENTS, "get", "contextmanagers,pods,persistentvolumeclaims"], 20),
    (&["-n", AGENTS, "describe", "contextmanagers"], 25),
    (&["-n", AGENTS, "describe", "pods"], 40),
    (&["-n", SYSTEM, "logs", "-l", "app.kubernetes.io/component=controller", "--tail=12"], 24),
    (&["-n", SYSTEM, "logs", "-l", "app.kubernetes.io/component=webhook", "--tail=12"], 24),
    (&["-n", AGENTS, "logs", "deployment/agent", "-c", "agent", "--tail=15"], 15),
    (&["-n", AGENTS, "logs", "deployment/agent", "-c", "context-manager", "--tail=15"], 15),
];

/// Prints it all to standard error.
pub fn report(kube: &Kube, screen: &Screen, error: &anyhow::Error) {
    eprintln!("\nerror: {error:#}\n\nWhat the cluster says now:");
    for (arguments, lines) in LOOKS {
        eprintln!("$ kubectl {}", arguments.join(" "));
        let said = kube.ask(arguments).unwrap_or_else(|error| format!("{error:#}"));
        for line in command::tail(&said, lines).lines() {
            eprintln!("  {line}");
        }
    }
    eprintln!(
        "\nThe demo stopped at the step {:?}, and everything is left as it is. {}\n  \
         cargo xtask cluster status         # is every part of the cluster up?\n  \
         cargo xtask cluster kubectl -- -n {AGENTS} get events --sort-by=.lastTimestamp\n  \
         cargo xtask demo --clean           # removes what this run left; the next run does it by itself",
        screen.current(),
        advice(&format!("{error:#}")),
    );
}

/// The likely cause of what was seen.
fn advice(error: &str) -> &'static str {
    let known = [
        ("ErrImage", "A node lacks an image: `cargo xtask images --load`."),
        ("failed calling webhook", "The webhook does not answer: look at its pods and their log above."),
        ("the release build failed", "The programs do not compile: `cargo build --workspace --release` shows why."),
        ("violates PodSecurity", "A pod asks for more than Pod Security \"restricted\" allows."),
        ("ownership", "Something in the cluster belongs to another release; see the names above."),
    ];
    known.iter().find(|(sign, _)| error.contains(sign)).map_or("What to try:", |(_, advice)| advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_sign_gives_its_remedy() {
        assert!(advice("step 5 failed: pod has ErrImageNeverPull").contains("images --load"));
        assert_eq!(advice("something else"), "What to try:");
    }
}
