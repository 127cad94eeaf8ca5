//! Job pipes of wire 0.2 outlive the stream that carries them.
//!
//! [`Pipe`] is what a module holds. While its stream breaks and another takes its place, the module
//! sees a pause. Each side remembers the last bytes that it sent ([`replay`]) and how many it has
//! received, so that the other can say where to go on. The consumer joins again by itself
//! ([`Broken`]); the provider's node finds the session by its number ([`registry`]).
//!
//! Invariants: a byte is handed to the module at most once and in order, because a session has one
//! link at a time and `received` stands still while it has none; nothing is sent on a new link before
//! what the other side lacks; a session that is over never has a link again.

pub(crate) mod registry;
mod replay;

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use derouter_sdk::JobStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::replay::Replay;
pub(crate) use self::replay::ReplayBudget;

/// What is called when a link breaks: the consumer's side joins again.
pub(crate) type Broken = Box<dyn Fn(Arc<Session>) + Send + Sync>;

/// One pipe of a job, over as many streams as it takes.
pub(crate) struct Session {
    inner: Mutex<Inner>,
    broken: Option<Broken>,
}

struct Inner {
    /// The stream that carries the pipe now.
    link: Option<JobStream>,
    /// Since when there is none, by the clock of [`Session::expire`]; set there.
    down_since: Option<Duration>,
    /// Rises with each link.
    generation: u64,
    /// How far both directions were when the latest link began: what was received, and what the other
    /// side had.
    link_began: (u64, u64),
    /// Links in a row over which nothing went.
    fruitless: usize,
    sent: Replay,
    /// The next byte of `sent` that goes onto the link; behind it when it has all.
    next: u64,
    received: u64,
    /// The module closed its direction.
    shut: bool,
    /// The module dropped its end.
    abandoned: bool,
    /// Why it is over.
    over: Option<io::ErrorKind>,
    /// A task sends what the other side lacks; the module does not write meanwhile.
    catching_up: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    catcher: Option<Waker>,
}

/// Why a session can't go on where the other side wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotResumable {
    /// It is over.
    Over,
    /// What the other side lacks is not kept any more, or was never sent.
    Forgotten,
}

impl Inner {
    /// The link, for the module to write to.
    fn link_to_write(&mut self) -> Option<Pin<&mut JobStream>> {
        if self.catching_up {
            return None;
        }
        self.link.as_mut().map(Pin::new)
    }

    fn end(&mut self, kind: io::ErrorKind) {
        self.link = None;
        self.over.get_or_insert(kind);
        self.wake();
    }

    fn wake(&mut self) {
        let wakers = [&mut self.reader, &mut self.writer, &mut self.catcher];
        for waker in wakers.into_iter().filter_map(Option::take) {
            waker.wake();
        }
    }
}

impl Session {
    /// A session that begins on this link.
    pub(crate) fn new(link: JobStream, budget: &ReplayBudget, broken: Option<Broken>) -> Arc<Self> {
        let inner = Inner {
            link: Some(link),
            down_since: None,
            generation: 0,
            link_began: (0, 0),
            fruitless: 0,
            sent: Replay::new(budget.clone()),
            next: 0,
            received: 0,
            shut: false,
            abandoned: false,
            over: None,
            catching_up: false,
            reader: None,
            writer: None,
            catcher: None,
        };
        Arc::new(Self {
            inner: Mutex::new(inner),
            broken,
        })
    }

    /// The end that a module holds. There is one.
    pub(crate) fn pipe(self: &Arc<Self>) -> Pipe {
        Pipe(Arc::clone(self))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes of the other side the module has been given.
    pub(crate) fn received(&self) -> u64 {
        self.inner().received
    }

    /// Whether a new link is wanted: there is none, and somebody would use it.
    pub(crate) fn wants_link(&self) -> bool {
        let inner = self.inner();
        inner.link.is_none() && inner.over.is_none() && !inner.abandoned
    }

    /// How many links in a row took the place of one over which nothing had gone.
    pub(crate) fn fruitless(&self) -> usize {
        self.inner().fruitless
    }

    /// Takes the old link away, so that another can take its place: the other side has `has` of our
    /// bytes. Gives how many we have of its.
    pub(crate) fn suspend(&self, has: u64) -> Result<Suspended, NotResumable> {
        let mut inner = self.inner();
        if inner.over.is_some() {
            return Err(NotResumable::Over);
        }
        if !inner.sent.holds_from(has) {
            return Err(NotResumable::Forgotten);
        }
        inner.link = None;
        inner.generation += 1;
        inner.catching_up = false;
        inner.wake();
        Ok(Suspended {
            generation: inner.generation,
            received: inner.received,
            next: has,
        })
    }

    /// Goes on over `link`. False when another link came first, or the session is over.
    pub(crate) fn resume(self: &Arc<Self>, suspended: Suspended, link: JobStream) -> bool {
        let backlog = {
            let mut inner = self.inner();
            if inner.generation != suspended.generation || inner.over.is_some() {
                return false;
            }
            inner.link = Some(link);
            inner.down_since = None;
            let begins = (inner.received, suspended.next);
            inner.fruitless = match inner.link_began == begins {
                true => inner.fruitless.saturating_add(1),
                false => 0,
            };
            inner.link_began = begins;
            inner.next = suspended.next;
            inner.catching_up = inner.shut || inner.next < inner.sent.end();
            inner.wake();
            inner.catching_up
        };
        if backlog {
            tokio::spawn(Arc::clone(self).send_backlog(suspended.generation));
        }
        true
    }

    /// Sends what the other side lacks, and the end if the module has ended its direction.
    async fn send_backlog(self: Arc<Self>, generation: u64) {
        std::future::poll_fn(|cx| self.poll_backlog(cx, generation)).await;
    }

    fn poll_backlog(self: &Arc<Self>, cx: &mut Context<'_>, generation: u64) -> Poll<()> {
        let mut inner = self.inner();
        loop {
            if inner.generation != generation {
                return Poll::Ready(());
            }
            let Inner {
                link: Some(link),
                sent,
                next,
                shut,
                ..
            } = &mut *inner
            else {
                return Poll::Ready(());
            };
            let link = Pin::new(link);
            let rest = sent.from(*next);
            let step = match (rest.is_empty(), *shut) {
                (false, _) => link.poll_write(cx, rest),
                (true, true) => link.poll_shutdown(cx).map_ok(|()| 0),
                // The module may have flushed before, and does not again.
                (true, false) => link.poll_flush(cx).map_ok(|()| 0),
            };
            match step {
                Poll::Ready(Ok(0)) if rest.is_empty() => {
                    inner.catching_up = false;
                    inner.wake();
                    if inner.abandoned {
                        inner.link = None;
                    }
                    return Poll::Ready(());
                }
                Poll::Ready(Ok(0) | Err(_)) => {
                    drop(self.link_broke(inner, cx));
                    return Poll::Ready(());
                }
                Poll::Ready(Ok(written)) => *next = next.saturating_add(to_u64(written)),
                Poll::Pending => {
                    inner.catcher = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
    }

    /// Ends it: nothing more can come.
    pub(crate) fn end(&self, kind: io::ErrorKind) {
        self.inner().end(kind);
    }

    /// Ends it when it has had no link for `patience`. True when it is over.
    pub(crate) fn expire(&self, now: Duration, patience: Duration) -> bool {
        let mut inner = self.inner();
        if inner.over.is_some() {
            return true;
        }
        if inner.link.is_some() {
            return false;
        }
        let since = *inner.down_since.get_or_insert(now);
        if now.saturating_sub(since) < patience {
            return false;
        }
        inner.end(io::ErrorKind::TimedOut);
        true
    }

    /// Whether its module has left, and it is kept only for a consumer that may lack its end.
    fn is_kept_for_its_end(&self) -> bool {
        let inner = self.inner();
        inner.link.is_none() && inner.abandoned
    }

    /// The link is of no use any more.
    fn link_broke<'a>(
        self: &'a Arc<Self>,
        mut inner: MutexGuard<'a, Inner>,
        cx: &Context<'_>,
    ) -> MutexGuard<'a, Inner> {
        inner.link = None;
        inner.catching_up = false;
        let wanted = inner.over.is_none() && !inner.abandoned;
        let Some(broken) = self.broken.as_ref().filter(|_| wanted) else {
            return inner;
        };
        drop(inner);
        broken(Arc::clone(self));
        let inner = self.inner();
        if inner.link.is_some() {
            // Another link came before the caller could leave its waker.
            cx.waker().wake_by_ref();
        }
        inner
    }
}

/// A session between two links.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Suspended {
    generation: u64,
    /// How many bytes of the other side are here.
    pub(crate) received: u64,
    next: u64,
}

/// The module's end of a session.
pub(crate) struct Pipe(Arc<Session>);

impl Drop for Pipe {
    fn drop(&mut self) {
        let mut inner = self.0.inner();
        inner.abandoned = true;
        // What the other side may still lack stays for a while, if it is a whole answer.
        if !inner.shut {
            inner.end(io::ErrorKind::ConnectionReset);
        } else if !inner.catching_up {
            inner.link = None;
        }
    }
}

fn over(kind: io::ErrorKind) -> io::Error {
    io::Error::new(kind, "the job's stream broke and could not be joined again")
}

/// Keeps the waker of whoever waits, for when the link changes.
fn wait<T>(slot: &mut Option<Waker>, cx: &Context<'_>) -> Poll<T> {
    if !slot
        .as_ref()
        .is_some_and(|waker| waker.will_wake(cx.waker()))
    {
        *slot = Some(cx.waker().clone());
    }
    Poll::Pending
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = self.0.inner();
        let before = buffer.filled().len();
        if let Some(link) = inner.link.as_mut() {
            match Pin::new(link).poll_read(cx, buffer) {
                Poll::Ready(Ok(())) => {
                    let read = buffer.filled().len().saturating_sub(before);
                    inner.received = inner.received.saturating_add(to_u64(read));
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Err(_)) => inner = self.0.link_broke(inner, cx),
                Poll::Pending => {}
            }
        }
        match inner.over {
            Some(kind) => Poll::Ready(Err(over(kind))),
            None => wait(&mut inner.reader, cx),
        }
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.0.inner();
        if let Some(link) = inner.link_to_write() {
            match link.poll_write(cx, bytes) {
                Poll::Ready(Ok(written)) => {
                    inner.sent.push(bytes.get(..written).unwrap_or_default());
                    inner.next = inner.sent.end();
                    return Poll::Ready(Ok(written));
                }
                Poll::Ready(Err(_)) => inner = self.0.link_broke(inner, cx),
                Poll::Pending => {}
            }
        }
        match inner.over {
            Some(kind) => Poll::Ready(Err(over(kind))),
            None => wait(&mut inner.writer, cx),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.inner();
        if let Some(link) = inner.link_to_write() {
            match link.poll_flush(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(_)) => inner = self.0.link_broke(inner, cx),
                Poll::Pending => return wait(&mut inner.writer, cx),
            }
        }
        // Without a link it goes out with the next one.
        Poll::Ready(inner.over.map_or(Ok(()), |kind| Err(over(kind))))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.inner();
        inner.shut = true;
        if let Some(link) = inner.link_to_write() {
            match link.poll_shutdown(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(_)) => inner = self.0.link_broke(inner, cx),
                Poll::Pending => return wait(&mut inner.writer, cx),
            }
        }
        // Without a link the end goes out with the next one, behind what is sent before it.
        Poll::Ready(inner.over.map_or(Ok(()), |kind| Err(over(kind))))
    }
}

fn to_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
