//! A circuit breaker: a neighbour that failed several times in a row is left alone for a while, then tried by a few calls.
//!
//! After Michael Nygard, *Release It!* (2nd edition, 2018), chapter 5. Closed: calls pass, and `failure_threshold` failures in a
//! row open it. Open: calls are refused at once for `open_for`. Half-open: at most `success_threshold` calls at a time pass as
//! probes; that many successes close it, one failure opens it again. A call that is neither (dropped, or refused for its own
//! fault) changes nothing. A neighbour that asks to be left alone is, at once and for as long as it asks.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use context_manager_protocol::config;
use tracing::{info, warn};

use crate::metrics::{Label as _, Metrics, Neighbour};

/// Longest time for which a neighbour is left alone because it asks for it: a wrong number must not cut it off for good.
const LONGEST_PATIENCE: Duration = Duration::from_mins(5);

/// The breaker before one neighbour.
#[derive(Debug)]
pub struct Breaker {
    neighbour: Neighbour,
    failure_threshold: u32,
    success_threshold: u32,
    open_for: Duration,
    state: Mutex<State>,
    metrics: Arc<Metrics>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant },
    HalfOpen { successes: u32, probes: u32 },
}

/// The neighbour is left alone for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {} failed several times in a row, or asked for patience, and is left alone for {retry_after:?}", .neighbour.as_str())]
pub struct Open {
    /// Which one.
    pub neighbour: Neighbour,
    /// When it is tried again.
    pub retry_after: Duration,
}

/// The permission for one call. Dropped without a verdict, it says nothing about the neighbour.
#[derive(Debug)]
#[must_use = "the outcome of the call belongs to the permit"]
pub struct Permit<'a> {
    breaker: &'a Breaker,
    is_probe: bool,
}

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub fn new(neighbour: Neighbour, settings: &config::CircuitBreaker, metrics: Arc<Metrics>) -> Self {
        let config::CircuitBreaker { failure_threshold, success_threshold, open_for } = settings;
        let breaker = Self {
            neighbour,
            failure_threshold: *failure_threshold,
            success_threshold: *success_threshold,
            open_for: open_for.get(),
            state: Mutex::new(State::Closed { failures: 0 }),
            metrics,
        };
        breaker.show(State::Closed { failures: 0 });
        breaker
    }

    /// How long the neighbour is left alone.
    pub const fn open_for(&self) -> Duration {
        self.open_for
    }

    /// Asks for the permission to call.
    ///
    /// # Errors
    /// When the breaker is open, or half-open with enough probes under way.
    pub fn admit(&self) -> Result<Permit<'_>, Open> {
        let mut state = self.state();
        if let State::Open { until } = *state {
            let retry_after = until.saturating_duration_since(Instant::now());
            if !retry_after.is_zero() {
                return Err(Open { neighbour: self.neighbour, retry_after });
            }
            self.enter(&mut state, State::HalfOpen { successes: 0, probes: 0 });
        }
        match &mut *state {
            State::HalfOpen { probes, .. } if *probes >= self.success_threshold => {
                Err(Open { neighbour: self.neighbour, retry_after: Duration::from_millis(100) })
            }
            State::HalfOpen { probes, .. } => {
                *probes += 1;
                Ok(Permit { breaker: self, is_probe: true })
            }
            State::Closed { .. } | State::Open { .. } => Ok(Permit { breaker: self, is_probe: false }),
        }
    }

    /// Asks whether a call that was admitted may still be made: others may have been told since that the neighbour is to be left alone.
    ///
    /// # Errors
    /// While the breaker is open.
    pub fn patience(&self) -> Result<(), Open> {
        let State::Open { until } = *self.state() else { return Ok(()) };
        let retry_after = until.saturating_duration_since(Instant::now());
        if retry_after.is_zero() { Ok(()) } else { Err(Open { neighbour: self.neighbour, retry_after }) }
    }

    /// The neighbour asked to be left alone for a while.
    pub fn told_to_wait(&self, patience: Duration) {
        let until = Instant::now() + patience.min(LONGEST_PATIENCE);
        let mut state = self.state();
        match &mut *state {
            // Others have been told already; the longest time counts.
            State::Open { until: known } => *known = (*known).max(until),
            State::Closed { .. } | State::HalfOpen { .. } => self.enter(&mut state, State::Open { until }),
        }
    }

    fn enter(&self, state: &mut State, new: State) {
        *state = new;
        self.show(new);
        let neighbour = self.neighbour.as_str();
        match new {
            State::Open { until } => {
                self.metrics.breakers.opened.add(self.neighbour, 1);
                warn!(
                    neighbour,
                    open_for_ms = until.saturating_duration_since(Instant::now()).as_millis(),
                    "The breaker opened: the neighbour is left alone"
                );
            }
            State::HalfOpen { .. } => info!(neighbour, "The breaker is half-open: the neighbour is tried"),
            State::Closed { .. } => info!(neighbour, "The breaker closed: the neighbour is back"),
        }
    }

    fn show(&self, state: State) {
        let value = match state {
            State::Closed { .. } => 0,
            State::HalfOpen { .. } => 1,
            State::Open { .. } => 2,
        };
        self.metrics.breakers.state.set(self.neighbour, value);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit<'_> {
    /// The neighbour answered.
    pub fn succeeded(self) {
        let mut state = self.breaker.state();
        match &mut *state {
            State::Closed { failures } => *failures = 0,
            State::HalfOpen { successes, .. } if self.is_probe => {
                *successes += 1;
                if *successes >= self.breaker.success_threshold {
                    self.breaker.enter(&mut state, State::Closed { failures: 0 });
                }
            }
            // A call that waited as it was told, and is the first that is answered again.
            State::Open { until } if *until <= Instant::now() => {
                let is_enough = self.breaker.success_threshold <= 1;
                let half = State::HalfOpen { successes: 1, probes: 0 };
                let next = if is_enough { State::Closed { failures: 0 } } else { half };
                self.breaker.enter(&mut state, next);
            }
            // A call from before it opened.
            State::HalfOpen { .. } | State::Open { .. } => {}
        }
    }

    /// The neighbour failed.
    pub fn failed(self) {
        let mut state = self.breaker.state();
        match &mut *state {
            State::Closed { failures } => {
                *failures += 1;
                if *failures >= self.breaker.failure_threshold {
                    self.breaker.enter(&mut state, State::Open { until: Instant::now() + self.breaker.open_for });
                }
            }
            State::HalfOpen { .. } if self.is_probe => {
                self.breaker.enter(&mut state, State::Open { until: Instant::now() + self.breaker.open_for });
            }
            State::HalfOpen { .. } | State::Open { .. } => {}
        }
    }

    /// The neighbour asked to be left alone for a while.
    pub fn told_to_wait(self, patience: Duration) {
        self.breaker.told_to_wait(patience);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.is_probe
            && let State::HalfOpen { probes, .. } = &mut *self.breaker.state()
        {
            *probes = probes.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use context_manager_protocol::duration::HumanDuration;

    use super::*;

    fn breaker() -> Breaker {
        let settings = config::CircuitBreaker {
            failure_threshold: 3,
            success_threshold: 2,
            open_for: HumanDuration::from_millis(20),
        };
        Breaker::new(Neighbour::Store, &settings, Arc::new(Metrics::new()))
    }

    fn fail(breaker: &Breaker, times: u32) {
        for _ in 0..times {
            breaker.admit().expect("admitted").failed();
        }
    }

    fn state(breaker: &Breaker) -> &'static str {
        match *breaker.state() {
            State::Closed { .. } => "closed",
            State::HalfOpen { .. } => "half-open",
            State::Open { .. } => "open",
        }
    }

    #[test]
    fn failures_in_a_row_open_it_and_others_do_not() {
        let breaker = breaker();
        fail(&breaker, 2);
        breaker.admit().expect("admitted").succeeded();
        fail(&breaker, 2);
        drop(breaker.admit().expect("a call without a verdict"));
        assert_eq!(state(&breaker), "closed");
        fail(&breaker, 1);
        let refused = breaker.admit().expect_err("open");
        assert!(refused.retry_after <= Duration::from_millis(20), "{refused}");
        assert_eq!(breaker.metrics.breakers.opened.get(Neighbour::Store), 1);
    }

    #[test]
    fn a_bounded_number_of_probes_closes_it_or_opens_it_again() {
        let breaker = breaker();
        fail(&breaker, 3);
        std::thread::sleep(Duration::from_millis(25));
        let probes = [breaker.admit().expect("a probe"), breaker.admit().expect("a second one")];
        assert!(breaker.admit().is_err(), "a third probe at once");
        let [first, second] = probes;
        first.succeeded();
        drop(second);
        assert_eq!(state(&breaker), "half-open");
        breaker.admit().expect("another probe").failed();
        assert_eq!(state(&breaker), "open");
        std::thread::sleep(Duration::from_millis(25));
        for _ in 0..2 {
            breaker.admit().expect("a probe").succeeded();
        }
        assert_eq!(state(&breaker), "closed");
    }

    #[test]
    fn a_neighbour_that_asks_for_patience_is_left_alone_as_long_as_it_asks() {
        let breaker = breaker();
        let others = [breaker.admit().expect("admitted"), breaker.admit().expect("admitted")];
        breaker.admit().expect("admitted").told_to_wait(Duration::from_secs(2));
        let refused = breaker.admit().expect_err("open after one call");
        assert!(refused.retry_after > Duration::from_secs(1), "longer than open_for: {refused}");
        let [shorter, endless] = others;
        shorter.told_to_wait(Duration::from_millis(1));
        assert!(breaker.admit().expect_err("open").retry_after > Duration::from_secs(1), "the longest time counts");
        endless.told_to_wait(Duration::MAX);
        assert!(breaker.admit().expect_err("open").retry_after <= LONGEST_PATIENCE);
        assert_eq!(breaker.metrics.breakers.opened.get(Neighbour::Store), 1);
    }

    #[test]
    fn a_call_that_waits_as_it_was_told_is_the_first_of_those_that_close_it() {
        let breaker = breaker();
        let waiting = breaker.admit().expect("admitted");
        assert_eq!(breaker.patience(), Ok(()));
        breaker.told_to_wait(Duration::from_millis(300));
        let asked = breaker.patience().expect_err("the neighbour is left alone");
        assert!(breaker.admit().is_err(), "by others as well");
        std::thread::sleep(asked.retry_after);
        assert_eq!(breaker.patience(), Ok(()));
        waiting.succeeded();
        assert_eq!(state(&breaker), "half-open");
        breaker.admit().expect("a probe").succeeded();
        assert_eq!(state(&breaker), "closed");
    }

    #[test]
    fn a_late_failure_from_before_it_opened_changes_nothing() {
        let breaker = breaker();
        let late = breaker.admit().expect("admitted");
        fail(&breaker, 3);
        std::thread::sleep(Duration::from_millis(25));
        let probe = breaker.admit().expect("a probe");
        late.failed();
        assert_eq!(state(&breaker), "half-open");
        drop(probe);
    }
}
