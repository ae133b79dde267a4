//! The thread pool that ops share their work with.

use std::{
    any::Any,
    cell::{Cell, UnsafeCell},
    fmt,
    marker::PhantomData,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How long an idle worker looks for the next job before it sleeps: longer than the gap between two ops of a step.
const SPIN: Duration = Duration::from_micros(40);

/// Workers inside the current job, in [`Shared::state`].
const INSIDE: u64 = (1 << 16) - 1;
/// The current job may be entered.
const OPEN: u64 = 1 << 16;
/// One job further.
const JOB: u64 = 1 << 17;

/// A fixed number of threads, the caller's included, that run the tasks of one job at a time.
pub(crate) struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held during a job; callers on several threads take turns.
    turn: Mutex<()>,
}

/// What the caller and the workers share.
struct Shared {
    /// Number of the job, whether it is open, and how many workers are inside. A worker enters by raising the
    /// last part while the job is open; the caller closes the job and waits until nobody is inside.
    state: Line<AtomicU64>,
    /// Per thread: the next task to claim of those that are meant for it.
    next: Vec<Line<AtomicUsize>>,
    /// The current job. Written by the caller while closed and empty; read by those inside.
    job: UnsafeCell<Job>,
    /// Per worker: it sleeps, or is about to.
    asleep: Vec<AtomicBool>,
    stop: AtomicBool,
    /// What the first task to panic in the current job left.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// A value with cache lines of its own (two, since processors fetch them in pairs).
#[repr(align(128))]
struct Line<T>(T);

/// A closure of the caller's, without its type and lifetime.
#[derive(Clone, Copy)]
struct Job {
    closure: *const (),
    /// Calls the closure with a task's index.
    call: unsafe fn(*const (), usize),
    tasks: usize,
}

// SAFETY: `job` is the only part that is not Sync. It is written only while no worker is inside and read only
// by workers inside, with `state` ordering the two; its closure is Sync (see `ThreadPool::run`).
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in `job` is followed only while the caller waits in `ThreadPool::run`.
unsafe impl Send for Shared {}

thread_local! {
    /// This thread is inside a task: a job that it starts runs on it alone.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

impl ThreadPool {
    /// A pool of `threads >= 1` threads: the caller's and `threads - 1` workers, fewer if the system refuses.
    pub(crate) fn new(threads: usize) -> ThreadPool {
        let count = threads.saturating_sub(1).min(INSIDE as usize);
        let shared = Arc::new(Shared {
            state: Line(AtomicU64::new(0)),
            next: (0..=count).map(|_| Line(AtomicUsize::new(0))).collect(),
            job: UnsafeCell::new(Job { closure: std::ptr::null(), call: |_, _| {}, tasks: 0 }),
            asleep: (0..count).map(|_| AtomicBool::new(false)).collect(),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let start = |index| {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(format!("mosu-cpu-{}", index + 1)).spawn(move || shared.worker(index))
        };
        let workers = (0..count).map_while(|index| start(index).ok()).collect();
        ThreadPool { shared, workers, turn: Mutex::new(()) }
    }

    /// Threads that share a job.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task` with every index below `tasks`, on all threads. Returns when all are done. If a task panics, those
    /// not yet begun are left out and the panic goes on in the caller.
    ///
    /// Each thread runs a range of tasks in ascending order, so that it reads memory in one stream, and then helps
    /// the others with what is left of theirs.
    pub(crate) fn run<F: Fn(usize) + Sync>(&self, tasks: usize, task: F) {
        /// # Safety
        /// `closure` points to a living `F`.
        unsafe fn call<F: Fn(usize)>(closure: *const (), index: usize) {
            // SAFETY: as promised by the caller.
            unsafe { (*closure.cast::<F>())(index) }
        }

        if tasks <= 1 || self.workers.is_empty() || IN_TASK.get() {
            (0..tasks).for_each(task);
            return;
        }
        let turn = lock(&self.turn);
        let shared = &*self.shared;
        let job = Job { closure: (&raw const task).cast(), call: call::<F>, tasks };
        // SAFETY: the last job is closed and empty, so no worker reads this; `turn` keeps other callers out.
        unsafe { *shared.job.get() = job };
        for (thread, next) in shared.next.iter().enumerate() {
            next.0.store(shared.range(thread, tasks).start, Ordering::Relaxed);
        }
        let closed = shared.state.0.load(Ordering::Relaxed);
        shared.state.0.store(closed + JOB + OPEN, Ordering::SeqCst);
        for (worker, asleep) in self.workers.iter().zip(&shared.asleep) {
            if asleep.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        shared.work(job, 0);
        shared.close();
        let panic = lock(&shared.panic).take();
        drop(turn);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Calls `task` with the number of the first row and the rows, for every `rows` rows of `out`.
    pub(crate) fn run_rows<T: Send>(
        &self,
        out: &mut [T],
        row_elements: usize,
        rows: usize,
        task: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let all = out.len().checked_div(row_elements).unwrap_or(0);
        let parts = Parts::new(out);
        self.run(all.div_ceil(rows), |index| {
            let (start, end) = (index * rows, all.min((index + 1) * rows));
            // SAFETY: tasks have different indices, so their rows do not overlap.
            task(start, unsafe { parts.get(start * row_elements..end * row_elements) });
        });
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // Workers catch the panics of tasks, so there is nothing to report.
            let _ = worker.join();
        }
    }
}

impl fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ThreadPool({} threads)", self.threads())
    }
}

impl Shared {
    /// The life of a worker.
    fn worker(&self, index: usize) {
        let mut last_job = 0;
        while let Some(state) = self.next_job(index, last_job) {
            last_job = state / JOB;
            if let Some(job) = self.enter(state) {
                self.work(job, index + 1);
                self.state.0.fetch_sub(1, Ordering::Release);
            }
        }
    }

    /// Waits for another job than `last_job`; `None` when the pool ends.
    fn next_job(&self, index: usize, last_job: u64) -> Option<u64> {
        let begin = Instant::now();
        loop {
            for _ in 0..64 {
                let state = self.state.0.load(Ordering::Acquire);
                if state / JOB != last_job {
                    return Some(state);
                }
                std::hint::spin_loop();
            }
            if begin.elapsed() < SPIN {
                continue;
            }
            let asleep = &self.asleep[index];
            asleep.store(true, Ordering::SeqCst);
            // After the store: a caller that missed it has published its job before this load.
            while self.state.0.load(Ordering::SeqCst) / JOB == last_job {
                if self.stop.load(Ordering::SeqCst) {
                    return None;
                }
                thread::park();
            }
            asleep.store(false, Ordering::SeqCst);
        }
    }

    /// Enters the job of `state`, unless it has been closed.
    fn enter(&self, mut state: u64) -> Option<Job> {
        let number = state / JOB;
        while state & OPEN != 0 && state / JOB == number {
            match self.state.0.compare_exchange_weak(state, state + 1, Ordering::Acquire, Ordering::Acquire) {
                // SAFETY: inside an open job: the caller wrote it before opening and waits for us to leave.
                Ok(_) => return Some(unsafe { *self.job.get() }),
                Err(now) => state = now,
            }
        }
        None
    }

    /// The tasks that are meant for a thread.
    fn range(&self, thread: usize, tasks: usize) -> Range<usize> {
        let threads = self.next.len();
        tasks * thread / threads..tasks * (thread + 1) / threads
    }

    /// Claims and runs tasks until none is left, this thread's own first.
    fn work(&self, job: Job, thread: usize) {
        let threads = self.next.len();
        let run_all = || {
            for owner in (thread..threads).chain(0..thread) {
                let end = self.range(owner, job.tasks).end;
                loop {
                    let index = self.next[owner].0.fetch_add(1, Ordering::Relaxed);
                    if index >= end {
                        break;
                    }
                    // SAFETY: the closure lives: its owner stays in `ThreadPool::run` until we have left the job.
                    unsafe { (job.call)(job.closure, index) };
                }
            }
        };
        IN_TASK.set(true);
        let result = catch_unwind(AssertUnwindSafe(run_all));
        IN_TASK.set(false);
        if let Err(panic) = result {
            for next in &self.next {
                next.0.store(job.tasks, Ordering::Relaxed);
            }
            lock(&self.panic).get_or_insert(panic);
        }
    }

    /// Lets no more workers in and waits for those inside.
    fn close(&self) {
        self.state.0.fetch_and(!OPEN, Ordering::AcqRel);
        let mut turns = 0u32;
        while self.state.0.load(Ordering::Acquire) & INSIDE != 0 {
            // A worker that has lost its core needs it back more than we need ours.
            if turns < 2000 {
                turns += 1;
                std::hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
    }
}

/// Nothing that these mutexes guard is left half done by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A slice of which the tasks of a job write different parts.
pub(crate) struct Parts<'a, T> {
    data: *mut T,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for a `&mut [T]` whose parts go to different threads.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub(crate) fn new(data: &'a mut [T]) -> Parts<'a, T> {
        Parts { data: data.as_mut_ptr(), len: data.len(), lifetime: PhantomData }
    }

    /// One part. Panics when it is out of bounds.
    ///
    /// # Safety
    /// No element of it is in another part that is still in use.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn get(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "part out of bounds");
        // SAFETY: in bounds of the slice that `self` borrows; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in 1..=4 {
            let pool = ThreadPool::new(threads);
            for tasks in [0, 1, 2, 7, 100, 1000] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, |i| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn many_short_jobs_with_pauses() {
        let pool = ThreadPool::new(3);
        let sum = AtomicUsize::new(0);
        for job in 0..5000 {
            pool.run(3, |i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            if job % 1000 == 0 {
                thread::sleep(2 * SPIN);
            }
        }
        assert_eq!(sum.into_inner(), 5000 * 3);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = ThreadPool::new(3);
        for bad in [0, 5, 99] {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(100, |i| assert_ne!(i, bad, "task {i}"));
            }));
            let message = *result.unwrap_err().downcast::<String>().unwrap();
            assert!(message.contains(&format!("task {bad}")), "{message}");
        }
        let count = AtomicUsize::new(0);
        pool.run(10, |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 10);
    }

    #[test]
    fn callers_take_turns_and_tasks_may_start_jobs() {
        let pool = ThreadPool::new(2);
        let count = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        pool.run(4, |_| {
                            pool.run(2, |_| {
                                count.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(count.into_inner(), 4 * 100 * 4 * 2);
    }

    #[test]
    fn rows_are_shared_out_whole() {
        let pool = ThreadPool::new(2);
        let mut out = vec![0usize; 7 * 3];
        pool.run_rows(&mut out, 3, 2, |first, rows| {
            for (i, row) in rows.chunks_mut(3).enumerate() {
                row.fill(first + i + 1);
            }
        });
        assert_eq!(out, (1..=7).flat_map(|row| [row; 3]).collect::<Vec<_>>());
    }
}
