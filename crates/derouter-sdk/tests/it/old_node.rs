//! A 0.1 node, scripted: it answers with what was recorded of a real one, or in the same manner
//! (maps of unstated length, events without introductions).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use derouter_sdk::tcp::link::{Mux, MuxStream, ReadBudget, Side, drive, read_frame};
use derouter_sdk::wire::cbor;
use derouter_sdk::wire::rpc::{Frame, FrameKind};
use serde::Serialize;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};

const VECTORS: &str = include_str!("../../../../testdata/vectors/wire-0.1.json");

/// Every wait of these tests ends here, in failure.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.expect("in time")
}

/// A recorded frame's body.
fn recorded(name: &str) -> Vec<u8> {
    let all: Value = serde_json::from_str(VECTORS).unwrap();
    let frames = all["rpc_frames"].as_array().unwrap().iter();
    let hex = frames
        .filter(|frame| frame["name"] == name)
        .map(|frame| frame["cbor_hex"].as_str().unwrap())
        .next()
        .unwrap_or_else(|| panic!("{name} is not recorded"));
    let digits = hex.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// A frame as 0.1 nodes write it.
pub fn frame(kind: &str, id: u32, type_name: &str, data: &[u8]) -> Vec<u8> {
    let mut body = vec![0xbf];
    for (key, value) in [
        ("type", cbor::to_vec(type_name)),
        ("data", data.to_vec()),
        ("kind", cbor::to_vec(kind)),
        ("id", cbor::to_vec(&id)),
    ] {
        body.extend(cbor::to_vec(key));
        body.extend(value);
    }
    body.push(0xff);
    body
}

/// `{tag, content}`, as data.
pub fn tagged<T: Serialize>(tag: &str, content: &T) -> Vec<u8> {
    let mut data = vec![0xbf];
    data.extend([cbor::to_vec("tag"), cbor::to_vec(tag)].concat());
    data.extend([cbor::to_vec("content"), cbor::to_vec(content)].concat());
    data.push(0xff);
    data
}

/// A frame that the client sent: kind, id, type and data.
pub type Received = (FrameKind, u32, String, Vec<u8>);

/// One connection of a client.
pub struct Client {
    frames: Mutex<tokio::io::WriteHalf<MuxStream>>,
    received: Mutex<mpsc::Receiver<Received>>,
    pub streams: Mutex<mpsc::Receiver<MuxStream>>,
}

impl Client {
    /// The next frame.
    pub async fn next(&self) -> Received {
        soon(self.received.lock().await.recv())
            .await
            .expect("a frame")
    }

    /// The next frame, which must be a request of this type.
    pub async fn request(&self, type_name: &str) -> (u32, Vec<u8>) {
        let (kind, id, found, data) = self.next().await;
        assert_eq!((kind, found.as_str()), (FrameKind::Request, type_name));
        (id, data)
    }

    /// Ends the connection's stream of frames.
    pub async fn close(&self) {
        self.frames.lock().await.shutdown().await.unwrap();
    }

    pub async fn send(&self, body: &[u8]) {
        let length = u32::try_from(body.len()).unwrap();
        let framed = [&length.to_be_bytes(), body].concat();
        self.frames.lock().await.write_all(&framed).await.unwrap();
    }

    /// Answers a request with a recorded response; `id` takes the place of the recorded one.
    pub async fn answer_recorded(&self, type_name: &str, name: &str) {
        let (id, _) = self.request(type_name).await;
        let body = recorded(name);
        let answer = Frame::decode(&body).unwrap();
        self.send(&frame("Response", id, type_name, answer.data))
            .await;
    }

    pub async fn answer(&self, type_name: &str, data: &[u8]) -> Vec<u8> {
        let (id, asked) = self.request(type_name).await;
        self.send(&frame("Response", id, type_name, data)).await;
        asked
    }
}

pub struct OldNode {
    listener: TcpListener,
    pub address: SocketAddr,
}

impl OldNode {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    /// Takes a connection, and answers who this is.
    pub async fn accept(&self) -> Arc<Client> {
        let client = self.accept_silently().await;
        client
            .answer_recorded("QuerySystem", "query_system.ok")
            .await;
        client
    }

    /// Takes a connection.
    pub async fn accept_silently(&self) -> Arc<Client> {
        let (socket, _) = soon(self.listener.accept()).await.unwrap();
        let (streams, inbound) = mpsc::channel(64);
        let (_, opens) = Mux::new();
        tokio::spawn(drive(socket, Side::Node, opens, move |stream| {
            streams.try_send(stream).unwrap();
        }));
        let mut inbound = inbound;
        let first = soon(inbound.recv()).await.unwrap();
        let (mut reader, writer) = tokio::io::split(first);
        let (sender, received) = mpsc::channel(64);
        tokio::spawn(async move {
            let budget = ReadBudget::default();
            while let Ok(Some(frame)) = read_frame(&mut reader, &budget).await {
                let frame = Frame::decode(&frame.body).unwrap();
                let name = frame.type_name.to_string();
                let received = (frame.kind, frame.id, name, frame.data.to_vec());
                if sender.send(received).await.is_err() {
                    return;
                }
            }
        });
        let client = Client {
            frames: Mutex::new(writer),
            received: Mutex::new(received),
            streams: Mutex::new(inbound),
        };
        Arc::new(client)
    }
}
