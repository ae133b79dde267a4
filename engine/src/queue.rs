//! Bounded admission: how many requests and prompt tokens may wait. Counted before any work is done for them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use crate::RequestError;

/// A number that is never raised above its limit.
#[derive(Debug)]
struct Gauge {
    waiting: AtomicUsize,
    limit: usize,
    unit: &'static str,
}

impl Gauge {
    fn new(limit: usize, unit: &'static str) -> Gauge {
        Gauge { waiting: AtomicUsize::new(0), limit, unit }
    }

    /// Adds `count`, if `allowed` says that the old number and `count` go together.
    fn add(&self, count: usize, allowed: impl Fn(usize) -> bool) -> Result<(), RequestError> {
        let add = |waiting| allowed(waiting).then_some(waiting + count);
        match self.waiting.fetch_update(Relaxed, Relaxed, add) {
            Ok(_) => Ok(()),
            Err(waiting) => Err(RequestError::Overloaded { waiting, limit: self.limit, unit: self.unit }),
        }
    }

    fn subtract(&self, count: usize) {
        self.waiting.fetch_sub(count, Relaxed);
    }
}

/// What waits, in requests (each choice of a request counts as one) and in prompt tokens.
#[derive(Debug)]
pub(crate) struct Queue {
    requests: Gauge,
    tokens: Gauge,
}

impl Queue {
    /// An empty queue for at most `max_requests`, which together have at most `max_tokens`.
    pub fn new(max_requests: usize, max_tokens: usize) -> Arc<Queue> {
        Arc::new(Queue {
            requests: Gauge::new(max_requests, "requests"),
            tokens: Gauge::new(max_tokens, "tokens"),
        })
    }

    /// Requests and tokens that wait.
    #[cfg(test)]
    pub fn waiting(&self) -> (usize, usize) {
        (self.requests.waiting.load(Relaxed), self.tokens.waiting.load(Relaxed))
    }

    /// Takes a permit for one request of yet unknown length.
    ///
    /// # Errors
    /// [`RequestError::Overloaded`] when none is left.
    pub fn enter(self: &Arc<Queue>) -> Result<Permit, RequestError> {
        let mut permit = Permit { queue: Arc::clone(self), requests: 0, tokens: 0 };
        permit.add_requests(1)?;
        Ok(permit)
    }
}

/// A request's permit in the queue. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Permit {
    queue: Arc<Queue>,
    requests: usize,
    tokens: usize,
}

impl Permit {
    /// Makes the permit one of `choices`, at least 1, each with a prompt of `prompt_tokens`. Whatever their length,
    /// they may wait when no tokens do.
    ///
    /// # Errors
    /// [`RequestError::Overloaded`] when the queue has no room for that.
    pub fn widen(&mut self, choices: usize, prompt_tokens: usize) -> Result<(), RequestError> {
        self.add_requests(choices.saturating_sub(1))?;
        let (gauge, count) = (&self.queue.tokens, choices.saturating_mul(prompt_tokens));
        gauge.add(count, |waiting| waiting == 0 || waiting.saturating_add(count) <= gauge.limit)?;
        self.tokens += count;
        Ok(())
    }

    fn add_requests(&mut self, count: usize) -> Result<(), RequestError> {
        let gauge = &self.queue.requests;
        gauge.add(count, |waiting| waiting + count <= gauge.limit)?;
        self.requests += count;
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.queue.requests.subtract(self.requests);
        self.queue.tokens.subtract(self.tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(waiting: usize, limit: usize, unit: &'static str) -> RequestError {
        RequestError::Overloaded { waiting, limit, unit }
    }

    #[test]
    fn refuses_when_full_and_admits_when_a_place_is_given_back() {
        let queue = Queue::new(2, 100);
        let first = queue.enter().unwrap();
        let _second = queue.enter().unwrap();
        assert_eq!(queue.enter().unwrap_err(), refused(2, 2, "requests"));
        drop(first);
        assert!(queue.enter().is_ok());
    }

    #[test]
    fn counts_tokens_and_every_choice() {
        let queue = Queue::new(4, 100);
        let mut first = queue.enter().unwrap();
        first.widen(3, 20).unwrap();
        let mut second = queue.enter().unwrap();
        assert_eq!(second.widen(2, 1).unwrap_err(), refused(4, 4, "requests"));
        assert_eq!(second.widen(1, 41).unwrap_err(), refused(60, 100, "tokens"));
        second.widen(1, 40).unwrap();
        drop((first, second));
        assert_eq!(queue.waiting(), (0, 0));
    }

    #[test]
    fn one_long_prompt_may_always_wait() {
        let queue = Queue::new(4, 100);
        let mut long = queue.enter().unwrap();
        long.widen(1, 1000).unwrap();
        let mut other = queue.enter().unwrap();
        assert_eq!(other.widen(1, 1).unwrap_err(), refused(1000, 100, "tokens"));
    }

    /// Threads race for places; the count never passes the limit and ends at zero.
    #[test]
    fn the_limit_holds_among_threads() {
        let queue = Queue::new(3, 1000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let permit = queue.enter();
                        assert!(queue.waiting().0 <= 3);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(queue.waiting(), (0, 0));
    }
}
