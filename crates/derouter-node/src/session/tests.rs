use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

const ROOM: usize = 1024;

/// A session with the far end of its first link.
fn session() -> (Arc<Session>, Pipe, DuplexStream) {
    let (near, far) = duplex(ROOM);
    let session = Session::new(Box::new(near), &ReplayBudget::default(), None);
    let pipe = session.pipe();
    (session, pipe, far)
}

/// Puts another link in place of the old one; the other side has `has` bytes.
fn relink(session: &Arc<Session>, has: u64) -> (u64, DuplexStream) {
    let suspended = session.suspend(has).unwrap();
    let (near, far) = duplex(ROOM);
    assert!(session.resume(suspended, Box::new(near)));
    (suspended.received, far)
}

/// What breaks a link: neither end nor data, but an error.
struct Failing;

impl AsyncRead for Failing {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    }
}

impl AsyncWrite for Failing {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    }
}

#[tokio::test]
async fn what_was_lost_is_sent_again_and_nothing_twice() {
    let (session, mut pipe, mut far) = session();
    pipe.write_all(b"0123456789").await.unwrap();
    far.write_all(b"abc").await.unwrap();
    let mut three = [0; 3];
    pipe.read_exact(&mut three).await.unwrap();
    let mut four = [0; 4];
    far.read_exact(&mut four).await.unwrap();

    let (received, mut far) = relink(&session, 4);
    assert_eq!(received, 3);
    far.write_all(b"def").await.unwrap();
    pipe.write_all(b"x").await.unwrap();
    pipe.shutdown().await.unwrap();
    let mut rest = String::new();
    far.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "456789x");
    let mut more = [0; 3];
    pipe.read_exact(&mut more).await.unwrap();
    assert_eq!(&more, b"def");
}

#[tokio::test]
async fn a_whole_answer_waits_for_the_other_side_after_its_module_has_gone() {
    let (session, mut pipe, far) = session();
    drop(far);
    let (_, far) = relink(&session, 0);
    pipe.write_all(b"answer").await.unwrap();
    pipe.shutdown().await.unwrap();
    drop(pipe);
    drop(far);
    let (_, mut far) = relink(&session, 2);
    let mut rest = String::new();
    far.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "swer");
}

#[tokio::test]
async fn a_module_that_leaves_before_its_answer_is_whole_ends_the_session() {
    let (session, mut pipe, _far) = session();
    pipe.write_all(b"ans").await.unwrap();
    drop(pipe);
    assert_eq!(session.suspend(0).unwrap_err(), NotResumable::Over);
}

#[tokio::test]
async fn a_broken_link_is_a_pause_until_patience_ends() {
    let session = Session::new(Box::new(Failing), &ReplayBudget::default(), None);
    let mut pipe = session.pipe();
    let reading = tokio::spawn(async move {
        let mut byte = [0; 1];
        pipe.read_exact(&mut byte).await.map(|_| byte)
    });
    while session.inner().reader.is_none() {
        tokio::task::yield_now().await;
    }
    let secs = Duration::from_secs;
    assert!(!session.expire(secs(100), secs(60)), "it is down since now");
    assert!(!session.expire(secs(159), secs(60)));
    assert!(session.expire(secs(160), secs(60)));
    let error = reading.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(session.suspend(0).unwrap_err(), NotResumable::Over);
}

#[tokio::test]
async fn the_consumer_hears_once_that_its_link_broke() {
    let (told, mut tells) = tokio::sync::mpsc::channel(8);
    let broken: Broken = Box::new(move |session| told.try_send(session).unwrap());
    let session = Session::new(Box::new(Failing), &ReplayBudget::default(), Some(broken));
    let mut pipe = session.pipe();
    let writing = tokio::spawn(async move {
        pipe.write_all(b"hello").await.unwrap();
        pipe
    });
    let broken = tells.recv().await.unwrap();
    assert!(broken.wants_link());
    let (_, mut far) = relink(&broken, 0);
    let mut pipe = writing.await.unwrap();
    pipe.shutdown().await.unwrap();
    let mut all = String::new();
    far.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, "hello");
    assert!(tells.try_recv().is_err());
}

#[tokio::test]
async fn only_what_is_kept_can_be_asked_for_again() {
    let (session, mut pipe, mut far) = session();
    let reading = tokio::spawn(async move {
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.unwrap();
        all.len()
    });
    pipe.write_all(&vec![7; 300_000]).await.unwrap();
    assert_eq!(session.suspend(0).unwrap_err(), NotResumable::Forgotten);
    assert_eq!(
        session.suspend(300_001).unwrap_err(),
        NotResumable::Forgotten
    );
    assert!(session.suspend(300_000).is_ok());
    assert_eq!(reading.await.unwrap(), 300_000);
}

#[tokio::test]
async fn of_two_that_join_again_the_later_wins() {
    let (session, mut pipe, _far) = session();
    let first = session.suspend(0).unwrap();
    let second = session.suspend(0).unwrap();
    let (near, _gone) = duplex(ROOM);
    assert!(!session.resume(first, Box::new(near)));
    let (near, mut far) = duplex(ROOM);
    assert!(session.resume(second, Box::new(near)));
    pipe.write_all(b"x").await.unwrap();
    let mut byte = [0; 1];
    far.read_exact(&mut byte).await.unwrap();
}

#[tokio::test]
async fn what_the_backlog_sends_is_flushed_also_when_the_module_only_waits() {
    let (near, far) = duplex(8 * ROOM);
    let session = Session::new(Box::new(near), &ReplayBudget::default(), None);
    let mut pipe = session.pipe();
    pipe.write_all(&[7; 4 * ROOM]).await.unwrap();
    drop(far);
    let suspended = session.suspend(0).unwrap();
    let (near, mut far) = duplex(ROOM);
    // Holds all of it until it is flushed, which the far end allows only bit by bit.
    let buffered = tokio::io::BufWriter::with_capacity(8 * ROOM, near);
    assert!(session.resume(suspended, Box::new(buffered)));
    let mut all = [0; 4 * ROOM];
    let reading = far.read_exact(&mut all);
    let read = tokio::time::timeout(Duration::from_secs(30), reading).await;
    assert_eq!(read.unwrap().unwrap(), 4 * ROOM);
}

#[tokio::test]
async fn a_link_that_comes_while_the_old_one_is_found_broken_is_used() {
    let (give, mut given) = tokio::sync::mpsc::channel(4);
    let broken: Broken = Box::new(move |session| {
        let (_, far) = relink(&session, 0);
        give.try_send(far).unwrap();
    });
    let session = Session::new(Box::new(Failing), &ReplayBudget::default(), Some(broken));
    let mut pipe = session.pipe();
    let reading = tokio::spawn(async move {
        let mut byte = [0; 1];
        pipe.read_exact(&mut byte).await.map(|_| byte)
    });
    let mut far = given.recv().await.unwrap();
    far.write_all(b"x").await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(30), reading).await;
    assert_eq!(&read.unwrap().unwrap().unwrap(), b"x");
}

#[tokio::test]
async fn links_over_which_nothing_goes_are_counted() {
    let (session, mut pipe, _far) = session();
    assert_eq!(session.fruitless(), 0);
    let (_, _far) = relink(&session, 0);
    assert_eq!(session.fruitless(), 1);
    let (_, mut far) = relink(&session, 0);
    assert_eq!(session.fruitless(), 2);
    far.write_all(b"x").await.unwrap();
    pipe.read_exact(&mut [0; 1]).await.unwrap();
    let (_, _far) = relink(&session, 0);
    assert_eq!(session.fruitless(), 0);
}

#[tokio::test]
async fn a_session_that_is_not_kept_ends_with_its_link() {
    let sessions = registry::Sessions::default();
    let provider = derouter_sdk::PeerId::random();
    let job = derouter_sdk::JobKey {
        provider,
        job_id: derouter_sdk::JobId::new("j").unwrap(),
    };
    for number in 0..registry::MOST {
        let link: JobStream = Box::new(tokio::io::empty());
        drop(sessions.begin(to_u64(number), provider, job.clone(), link));
    }
    let number = to_u64(registry::MOST);
    let mut pipe = sessions.begin(number, provider, job.clone(), Box::new(Failing));
    assert!(sessions.find(number, &provider, &job).is_none());
    let mut byte = [0; 1];
    let reading = pipe.read_exact(&mut byte);
    let read = tokio::time::timeout(Duration::from_secs(30), reading).await;
    let error = read.expect("nobody will join it again").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn an_answer_that_was_signed_for_is_kept_no_longer() {
    let sessions = registry::Sessions::default();
    let consumer = derouter_sdk::PeerId::random();
    let job = |number: u64| derouter_sdk::JobKey {
        provider: derouter_sdk::PeerId::random(),
        job_id: derouter_wire::JobId::new(number.to_string()).unwrap(),
    };
    let (served, under_way) = (job(1), job(2));
    let (near, mut far) = duplex(ROOM);
    let mut pipe = sessions.begin(1, consumer, served.clone(), Box::new(near));
    pipe.write_all(b"answer").await.unwrap();
    pipe.shutdown().await.unwrap();
    drop(pipe);
    let (near, _far) = duplex(ROOM);
    let _pipe = sessions.begin(2, consumer, under_way.clone(), Box::new(near));
    let mut answer = String::new();
    far.read_to_string(&mut answer).await.unwrap();
    let kept = |number, job| sessions.find(number, &consumer, job).is_some();
    assert!(kept(1, &served), "its end may be lacking");
    sessions.signed(&[served.clone(), under_way.clone()].into());
    assert!(!kept(1, &served));
    assert!(kept(2, &under_way), "its module has not left");
}
