//! One replica of our webhook beside two other projects' injectors, as fast as a client lets them: admissions a second, latencies,
//! processor time of an admission, memory.
//!
//! All are asked the same: an `AdmissionReview` of one pod that asks each of them for its sidecar, with what the API server has added
//! to it by then. They are asked in turns, and while one is asked the others are stopped, so that each has the machine, its client
//! and the API server apart, to itself.

mod collector;
mod load;
mod ours;
mod review;
mod server;
mod site;
mod vault;

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::{
    figure::{Figures, Latencies},
    process::{Memory, cpu_time, forget_touched, touched},
};
use load::Load;
use review::Review;
use server::Server;
use site::Site;

/// How many connections ask at a time; each asks again as soon as it is answered.
const CONNECTIONS: [usize; 2] = [1, 16];

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// How often each is asked in turn.
    pub rounds: usize,
    /// For how long each time.
    pub turn: Duration,
}

/// Who is asked, and what was seen of it.
struct Subject<'a> {
    name: &'static str,
    server: &'a Server,
    review: &'a Arc<Review>,
    /// One for each number of connections.
    seen: [Seen; CONNECTIONS.len()],
}

#[derive(Default)]
struct Seen {
    latencies: Vec<Duration>,
    time: Duration,
    processor: Duration,
}

/// What is compared.
struct Outcome {
    per_second: f64,
    latencies: Latencies,
    /// Microseconds of an admission.
    processor: f64,
}

/// Starts the three, asks them, and ends them.
pub async fn measure(figures: &mut Figures, extent: Extent) -> Result<()> {
    let site = Site::make().await?;
    let pod = site.pod().await?;
    let ours = ours::start(&site).await?;
    let vault = vault::start(&site)?;
    let (collector, _definitions) = collector::start(&site).await?;
    let review = Arc::new(Review::new(&pod, &site.namespace.name, true)?);
    for (server, adds) in [(&ours, ours::ADDS), (&vault, vault::ADDS), (&collector, collector::ADDS)] {
        review.check(server, adds).await?;
        memory(figures, server.name, "before the first round", server)?;
    }
    let told = Arc::new(Review::new(&pod, &site.namespace.name, false)?);
    let subject = |name, server, review| Subject { name, server, review, seen: Default::default() };
    let mut subjects = [
        subject(ours.name, &ours, &review),
        subject(vault.name, &vault, &review),
        subject(collector.name, &collector, &review),
        // A dry run is the one admission after which nothing is told by an event.
        subject("context-manager with its events", &ours, &told),
    ];
    for server in [&ours, &vault, &collector] {
        server.signal(Signal::SIGSTOP)?;
    }
    for round in 1..=extent.rounds {
        eprintln!("injectors, round {round} of {}", extent.rounds);
        for (place, connections) in CONNECTIONS.into_iter().enumerate() {
            for subject in &mut subjects {
                subject.server.signal(Signal::SIGCONT)?;
                ask(subject, place, connections, extent.turn).await?;
                subject.server.signal(Signal::SIGSTOP)?;
            }
        }
    }
    tell(figures, subjects);
    for server in [&ours, &vault, &collector] {
        memory(figures, server.name, "after the last round", server)?;
        server.signal(Signal::SIGCONT)?;
        let load = Load::connect(server, &review, CONNECTIONS[1]).await?;
        forget_touched(server.id())?;
        load.run(extent.turn).await?;
        figures.add(format!("{}, memory touched in a turn", server.name), touched(server.id())?, "MiB");
        server.signal(Signal::SIGSTOP)?;
    }
    Ok(())
}

async fn ask(subject: &mut Subject<'_>, place: usize, connections: usize, turn: Duration) -> Result<()> {
    // Its handshakes and what it has slept through are not measured.
    let load = Load::connect(subject.server, subject.review, connections).await?;
    let before = cpu_time(subject.server.id())?;
    let (mut latencies, time) = load.run(turn).await?;
    let seen = &mut subject.seen[place];
    seen.processor += cpu_time(subject.server.id())?.saturating_sub(before);
    seen.latencies.append(&mut latencies);
    seen.time += time;
    Ok(())
}

fn tell(figures: &mut Figures, subjects: [Subject<'_>; 4]) {
    let outcomes = subjects.map(|Subject { name, seen, .. }| (name, seen.map(outcome)));
    let (ours, others) = (&outcomes[0], &outcomes[1..3]);
    for (place, connections) in CONNECTIONS.into_iter().enumerate() {
        let load = if connections == 1 { "1 connection".to_owned() } else { format!("{connections} connections") };
        for (name, outcome) in &outcomes {
            let Outcome { per_second, latencies, processor } = &outcome[place];
            figures.add(format!("{name}, {load}, admissions"), *per_second, "1/s");
            figures.add(format!("{name}, {load}, p50"), latencies.at(0.5), "ms");
            figures.add(format!("{name}, {load}, p99"), latencies.at(0.99), "ms");
            figures.add(format!("{name}, {load}, processor time of an admission"), *processor, "us");
        }
        for (name, outcome) in others {
            let (ours, other) = (&ours.1[place], &outcome[place]);
            let name = |what: &str| format!("context-manager over {name}, {load}, {what}");
            figures.add(name("admissions"), ours.per_second / other.per_second, "x");
            figures.add(name("p50"), ours.latencies.at(0.5) / other.latencies.at(0.5), "x");
            figures.add(name("p99"), ours.latencies.at(0.99) / other.latencies.at(0.99), "x");
            figures.add(name("processor time"), ours.processor / other.processor, "x");
        }
    }
}

fn outcome(Seen { latencies, time, processor }: Seen) -> Outcome {
    #[expect(clippy::cast_precision_loss, reason = "a number of calls")]
    let calls = latencies.len() as f64;
    Outcome {
        per_second: calls / time.as_secs_f64(),
        latencies: Latencies::new(latencies),
        processor: processor.as_secs_f64() * 1_000_000.0 / calls,
    }
}

fn memory(figures: &mut Figures, name: &str, when: &str, server: &Server) -> Result<()> {
    let Memory { resident, anonymous } = Memory::of(server.id())?;
    figures.add(format!("{name}, resident memory {when}"), resident, "MiB");
    figures.add(format!("{name}, anonymous memory {when}"), anonymous, "MiB");
    Ok(())
}
