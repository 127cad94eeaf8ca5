//! Request bodies that come on pipes, and the memory for them: bounded in all, and for each consumer, so that one alone does not
//! keep the others out by sending slowly.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use derouter_sdk::{JobStream, PeerId};
use tokio::io::{AsyncReadExt, ReadHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::provider::admission::Consumer;
use crate::provider::backend::Failure;

/// Over all jobs, in KiB.
const ALL_KIB: usize = 256 * 1024;

/// Of one consumer, in KiB: two of the largest. Those without a name (nodes of 0.1 do not tell it) are not
/// held to it, as they may be many.
const CONSUMER_KIB: usize = 64 * 1024;

/// How long it waits for memory.
const PLACE_LIMIT: Duration = Duration::from_secs(5);

/// The memory. At its limits requests wait.
#[derive(Debug)]
pub(super) struct Bodies {
    all: Arc<Semaphore>,
    /// Of consumers that have some of it; bounded by the jobs that run.
    each: Mutex<HashMap<PeerId, Arc<Semaphore>>>,
}

impl Default for Bodies {
    fn default() -> Self {
        Self {
            all: Arc::new(Semaphore::new(ALL_KIB)),
            each: Mutex::default(),
        }
    }
}

/// Room for one body, until it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    bodies: Arc<Bodies>,
    of: Option<(PeerId, Option<OwnedSemaphorePermit>)>,
    all: Option<OwnedSemaphorePermit>,
}

impl Bodies {
    /// Waits for room for so many bytes. May be dropped meanwhile.
    pub(super) async fn room(self: &Arc<Self>, consumer: Consumer, bytes: u64) -> Room {
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX);
        // What it has is given back with it, also when this wait is given up.
        let mut room = Room {
            bodies: Arc::clone(self),
            of: consumer.map(|peer| (peer, None)),
            all: None,
        };
        if let Some((peer, permit)) = &mut room.of {
            let own = self.of(*peer);
            // Neither is ever closed.
            *permit = own.acquire_many_owned(kib).await.ok();
        }
        let all = Arc::clone(&self.all);
        room.all = all.acquire_many_owned(kib).await.ok();
        room
    }

    fn of(&self, peer: PeerId) -> Arc<Semaphore> {
        let mut each = self.lock();
        let own = each.entry(peer);
        let own = own.or_insert_with(|| Arc::new(Semaphore::new(CONSUMER_KIB)));
        Arc::clone(own)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PeerId, Arc<Semaphore>>> {
        self.each.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        drop(self.all.take());
        let Some((peer, permit)) = self.of.take() else {
            return;
        };
        drop(permit);
        let mut each = self.bodies.lock();
        // Nobody else has or awaits some of it.
        if each
            .get(&peer)
            .is_some_and(|own| Arc::strong_count(own) == 1)
        {
            each.remove(&peer);
        }
    }
}

/// Reads a body that comes on the pipe.
pub(super) async fn read_body(
    reader: &mut ReadHalf<JobStream>,
    length: u64,
    (bodies, consumer): (&Arc<Bodies>, Consumer),
) -> Result<(Bytes, Room), Failure> {
    let room = bodies.room(consumer, length);
    let Ok(room) = timeout(PLACE_LIMIT, room).await else {
        return Err(Failure {
            // Busy, to its consumer.
            status: Some(429),
            ..Failure::plain("there is no room for so large a request now")
        });
    };
    let mut body = BytesMut::new();
    let mut rest = reader.take(length);
    while rest.limit() > 0 {
        match rest.read_buf(&mut body).await {
            Ok(0) | Err(_) => return Err(Failure::plain("the request ended early")),
            Ok(_) => {}
        }
    }
    Ok((body.freeze(), room))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::protocol::v0_2::MAX_BODY_BYTES;

    #[tokio::test]
    async fn one_consumer_has_room_for_two_of_the_largest_and_others_for_theirs() {
        let bodies = Arc::new(Bodies::default());
        let (one, other) = (Some(PeerId::random()), Some(PeerId::random()));
        let most = MAX_BODY_BYTES - 1;
        let first = bodies.room(one, most).now_or_never().unwrap();
        let second = bodies.room(one, most).now_or_never().unwrap();
        assert!(bodies.room(one, most).now_or_never().is_none());
        let third = bodies.room(other, most).now_or_never().unwrap();
        drop(first);
        let fourth = bodies.room(one, most).now_or_never().unwrap();
        drop((second, third, fourth));
        assert!(bodies.lock().is_empty(), "nothing is remembered");
        assert_eq!(bodies.all.available_permits(), ALL_KIB);
    }

    #[tokio::test]
    async fn all_together_are_bounded() {
        let bodies = Arc::new(Bodies::default());
        let most = MAX_BODY_BYTES - 1;
        let nameless = |_| bodies.room(None, most).now_or_never();
        let rooms: Vec<_> = (0..9).map(nameless).collect();
        assert_eq!(rooms.iter().flatten().count(), 8);
        assert!(
            bodies
                .room(Some(PeerId::random()), 1)
                .now_or_never()
                .is_none()
        );
        assert!(
            bodies.lock().is_empty(),
            "a wait that is given up leaves nothing"
        );
    }
}
