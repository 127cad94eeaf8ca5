//! A module as bytes.

use derouter_sdk::tcp::link::{Mux, MuxStream, Side, drive};
use derouter_sdk::wire::cbor;
use derouter_sdk::wire::rpc::error::{ErrorBody, decode_answer};
use derouter_sdk::wire::rpc::hello::{Hello, HelloReply, ModuleInfo, Name, SPOKEN, Welcome};
use derouter_sdk::wire::rpc::request::*;
use derouter_sdk::wire::rpc::{
    Call, Frame, FrameKind, encode_cancel, encode_frame, encode_request,
};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::DropGuard;

use crate::rpc_support::*;

/// A module that writes what it likes.
pub struct Raw {
    pub mux: Mux,
    pub frames: MuxStream,
    pub closed: tokio_util::sync::CancellationToken,
    _guard: DropGuard,
}

impl Raw {
    pub async fn connect(served: &Served) -> Self {
        Self::over(TcpStream::connect(served.address).await.unwrap()).await
    }

    pub async fn over<S>(socket: S) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mux, opens) = Mux::new();
        let closed = tokio_util::sync::CancellationToken::new();
        let (ended, guard) = (closed.clone(), closed.clone().drop_guard());
        tokio::spawn(async move {
            let _ = ended
                .run_until_cancelled(drive(socket, Side::Module, opens, drop))
                .await;
            ended.cancel();
        });
        let frames = mux.open().await.unwrap();
        Self {
            mux,
            frames,
            closed,
            _guard: guard,
        }
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        self.frames.write_all(bytes).await.unwrap();
        self.frames.flush().await.unwrap();
    }

    pub async fn request<T: Serialize>(&mut self, id: u32, type_name: &str, data: &T) {
        self.write(&encode_frame(FrameKind::Request, id, type_name, data))
            .await;
    }

    pub async fn read(&mut self) -> Vec<u8> {
        let length = soon(self.frames.read_u32()).await.unwrap();
        let mut body = vec![0; length as usize];
        soon(self.frames.read_exact(&mut body)).await.unwrap();
        body
    }

    /// Reads a response and decodes its data.
    pub async fn response<T: for<'de> serde::Deserialize<'de>>(
        &mut self,
        id: u32,
        name: &str,
    ) -> T {
        let body = self.read().await;
        let frame = Frame::decode(&body).unwrap();
        assert_eq!(
            (frame.kind, frame.id, frame.type_name.as_ref()),
            (FrameKind::Response, id, name)
        );
        cbor::from_slice(frame.data).unwrap()
    }

    pub async fn is_alive(&mut self) {
        self.request(77, QuerySystem::TYPE, &NULL).await;
        let QuerySystemReply::Ok { peer_id } = self.response(77, QuerySystem::TYPE).await;
        assert_eq!(peer_id, peer());
    }
}

pub const NULL: Option<u8> = None;

/// A Hello with this token.
pub fn hello(token: Option<&str>) -> Hello {
    Hello {
        versions: SPOKEN,
        module: ModuleInfo {
            name: Name::cut("test"),
            version: None,
        },
        token: token.map(Name::cut),
        features: None,
        capabilities: None,
    }
}

impl Raw {
    /// A module of 0.2.
    pub async fn greet(served: &Served) -> Self {
        let mut raw = Self::connect(served).await;
        raw.welcome(&hello(Some(&served.token()))).await;
        raw
    }

    /// Says Hello, and is welcome.
    pub async fn welcome(&mut self, hello: &Hello) -> Box<Welcome> {
        let HelloReply::Ok(welcome) = self.ask(0, hello).await.expect("welcome");
        welcome
    }

    /// Sends a request of 0.2.
    pub async fn send<C: Call>(&mut self, id: u32, request: &C, deadline_ms: u64) {
        self.write(&encode_request(id, C::TYPE, request, deadline_ms))
            .await;
    }

    pub async fn cancel(&mut self, id: u32) {
        self.write(&encode_cancel(id)).await;
    }

    /// The answer of 0.2 to a request.
    pub async fn reply<C: Call>(&mut self, id: u32) -> Result<C::Reply, ErrorBody> {
        let body = self.read().await;
        let frame = Frame::decode(&body).unwrap();
        let got = (frame.kind, frame.id, frame.type_name.as_ref());
        assert_eq!(got, (FrameKind::Response, id, C::TYPE));
        decode_answer::<C>(frame.data).unwrap()
    }

    pub async fn ask<C: Call>(&mut self, id: u32, request: &C) -> Result<C::Reply, ErrorBody> {
        self.send(id, request, 60_000).await;
        self.reply::<C>(id).await
    }

    /// The next event, which must be of this type.
    pub async fn event<C: Call>(&mut self) -> C {
        let body = self.read().await;
        let frame = Frame::decode(&body).unwrap();
        let got = (frame.kind, frame.type_name.as_ref());
        assert_eq!(got, (FrameKind::Request, C::TYPE));
        cbor::from_slice(frame.data).unwrap()
    }
}
