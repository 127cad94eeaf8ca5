//! The process that measures.

use std::io;
use std::time::{Duration, Instant};

use derouter_net::{Net, NetEvents, PeerId};
use derouter_wire::JobId;
use futures::future::join_all;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::opens::cpu_time;
use super::transfer::{Window, Wrapping, drain, pour};
use super::{
    Direction, HELD_QUIC, HELD_TCP, Places, Route, SEALED, WORD, address, held_streams,
    node_config, peer,
};

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

/// What a transfer gave and took.
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    /// Bytes a second.
    pub rate: f64,
    /// What both processes computed for a byte, in seconds of one core. It hardly depends on what
    /// else the machine does.
    pub cost: f64,
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
            Route::Raw | Route::Sealed => {
                Box::new(self.open_raw(command).await.expect("a socket opens"))
            }
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

    /// Moves bytes over `streams` at the same time.
    pub async fn throughput(
        &self,
        route: Route,
        direction: Direction,
        streams: usize,
        window: Window,
    ) -> Moved {
        let wrapping = route.wrapping();
        let command = match direction {
            Direction::Down => "down".to_owned(),
            Direction::Up => format!("up:{}", window.encode()),
        };
        let command = match wrapping {
            Wrapping::Plain => command,
            Wrapping::Sealed => format!("{SEALED}{command}"),
        };
        let opening = (0..streams).map(|_| self.open(route, &command));
        let pipes = join_all(opening).await;
        let start = (Instant::now(), self.computed());
        let moving = pipes.into_iter().map(|pipe| {
            tokio::spawn(async move {
                match direction {
                    Direction::Down => down(pipe, wrapping, window).await,
                    Direction::Up => up(pipe, wrapping).await,
                }
            })
        });
        let mut total = 0;
        for moved in join_all(moving).await {
            let moved = moved.expect("a transfer does not panic");
            total += moved.expect("a transfer works");
        }
        let computed = (self.computed() - start.1) / start.0.elapsed().as_secs_f64();
        let kibibytes = u32::try_from(total >> 10).expect("under 4 TiB");
        let rate = f64::from(kibibytes) * 1_024.0 / window.measured.as_secs_f64();
        Moved {
            rate,
            // The warm-up computes as well, at the same rate.
            cost: computed / rate,
        }
    }

    /// What this process and the server's have computed, in seconds of one core.
    fn computed(&self) -> f64 {
        let processes = [std::process::id(), self.server_process()];
        let times = processes.map(|process| cpu_time(process).expect("both processes live"));
        times.iter().map(Duration::as_secs_f64).sum()
    }

    /// Opens a stream, has it carry a word both ways, and ends it in one of the ways there are.
    pub(super) async fn use_once(&self, route: Route, number: usize) -> io::Result<()> {
        let mut pipe = self.open(route, WORD).await;
        pipe.write_all(WORD.as_bytes()).await?;
        pipe.flush().await?;
        match number % 3 {
            // Both sides close.
            0 => {
                pipe.shutdown().await?;
                let mut answer = String::new();
                pipe.read_to_string(&mut answer).await?;
                answer_is_word(answer.as_bytes())
            }
            // The other closes, this one is dropped.
            1 => {
                let mut answer = [0; WORD.len()];
                pipe.read_exact(&mut answer).await?;
                answer_is_word(&answer)
            }
            // Dropped with its answer on the way.
            _ => Ok(()),
        }
    }

    /// The id of the server's process.
    pub(super) fn server_process(&self) -> u32 {
        self.places.process
    }

    /// Streams that this process and the server hold on a route.
    pub(super) async fn held(&self, route: Route) -> [u64; 2] {
        let (command, near) = match route {
            Route::Raw | Route::Sealed => return [0; 2],
            Route::Tcp => (HELD_TCP, held_streams(&self.tcp.net).await),
            Route::Quic => (HELD_QUIC, held_streams(&self.quic.net).await),
        };
        let asked = async { self.open_raw(command).await?.read_u64().await };
        [near, asked.await.expect("the server answers")]
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

fn answer_is_word(answer: &[u8]) -> io::Result<()> {
    match answer == WORD.as_bytes() {
        true => Ok(()),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

async fn down(mut pipe: Box<dyn Pipe>, wrapping: Wrapping, window: Window) -> io::Result<u64> {
    pipe.write_u8(0).await?;
    pipe.flush().await?;
    drain(&mut pipe, wrapping, window).await
}

async fn up(pipe: Box<dyn Pipe>, wrapping: Wrapping) -> io::Result<u64> {
    let (mut reader, mut writer) = split(pipe);
    tokio::select! {
        bytes = reader.read_u64() => bytes,
        // The server stops reading when it has its answer, so that this ends in nothing else.
        ended = pour(&mut writer, wrapping) => ended.map(|()| 0),
    }
}
