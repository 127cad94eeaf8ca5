//! The process that measures.

use std::io;
use std::time::{Duration, Instant};

use derouter_net::{Net, NetEvents, PeerId};
use derouter_wire::JobId;
use futures::future::join_all;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::transfer::{Window, drain, pour};
use super::{Direction, Places, Route, address, node_config, peer};

trait Pipe: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Pipe for T {}

/// Knows the server.
#[derive(Debug)]
pub struct Client {
    places: Places,
    tcp: Node,
    quic: Node,
}

#[derive(Debug)]
struct Node {
    net: Net,
    server: PeerId,
    _events: NetEvents,
}

impl Node {
    async fn start(place: &str) -> Self {
        let started = derouter_net::start(node_config(None), CancellationToken::new()).await;
        let (net, events) = started.expect("a node starts");
        let server = net.dial(address(place)).await.expect("the server is there");
        assert_eq!(server, peer(place), "the server is who it says");
        Self {
            net,
            server,
            _events: events,
        }
    }

    async fn open(&self, command: &str) -> Box<dyn Pipe> {
        let job = JobId::new(command).expect("a command fits");
        let opened = self.net.open_job_stream(self.server, job).await;
        Box::new(opened.expect("a job stream opens"))
    }
}

impl Client {
    /// Connects to the server's nodes.
    pub async fn start(places: Places) -> Self {
        Self {
            tcp: Node::start(&places.tcp).await,
            quic: Node::start(&places.quic).await,
            places,
        }
    }

    async fn open(&self, route: Route, command: &str) -> Box<dyn Pipe> {
        match route {
            Route::Raw => Box::new(self.open_raw(command).await.expect("a socket opens")),
            Route::Tcp => self.tcp.open(command).await,
            Route::Quic => self.quic.open(command).await,
        }
    }

    async fn open_raw(&self, command: &str) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.places.raw).await?;
        stream.set_nodelay(true)?;
        let length = u8::try_from(command.len()).map_err(io::Error::other)?;
        let head = [&[length], command.as_bytes()].concat();
        stream.write_all(&head).await?;
        stream.read_u8().await?;
        Ok(stream)
    }

    /// Bytes a second over `streams` at the same time.
    pub async fn throughput(
        &self,
        route: Route,
        direction: Direction,
        streams: usize,
        window: Window,
    ) -> f64 {
        let command = match direction {
            Direction::Down => "down".to_owned(),
            Direction::Up => format!("up:{}", window.encode()),
        };
        let opening = (0..streams).map(|_| self.open(route, &command));
        let moving = join_all(opening).await.into_iter().map(|pipe| {
            tokio::spawn(async move {
                match direction {
                    Direction::Down => down(pipe, window).await,
                    Direction::Up => up(pipe).await,
                }
            })
        });
        let mut total = 0;
        for moved in join_all(moving).await {
            let moved = moved.expect("a transfer does not panic");
            total += moved.expect("a transfer works");
        }
        let mebibytes = u32::try_from(total >> 10).expect("under 4 TiB");
        f64::from(mebibytes) * 1_024.0 / window.measured.as_secs_f64()
    }

    /// How long it takes until a stream is there, one after another.
    pub async fn open_times(&self, route: Route, count: usize) -> Vec<Duration> {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            let pipe = self.open(route, "open").await;
            times.push(start.elapsed());
            drop(pipe);
        }
        times
    }
}

async fn down(mut pipe: Box<dyn Pipe>, window: Window) -> io::Result<u64> {
    pipe.write_u8(0).await?;
    pipe.flush().await?;
    drain(&mut pipe, window).await
}

async fn up(pipe: Box<dyn Pipe>) -> io::Result<u64> {
    let (mut reader, mut writer) = split(pipe);
    tokio::select! {
        bytes = reader.read_u64() => bytes,
        // The server stops reading when it has its answer, so that this ends in nothing else.
        ended = pour(&mut writer) => ended.map(|()| 0),
    }
}
