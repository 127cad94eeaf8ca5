//! The process that sells, and that echoes plain TCP.

use std::path::Path;
use std::sync::Arc;

use derouter_sdk::{
    ConnectionRefusal, JobKey, JobRefusal, JobStream, OfferSpec, ProvideOptions,
    ProviderCompletion, ProviderDesk, ProviderJob, ProviderService, UnixSeconds, Wei, async_trait,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{BYTES, PRICE, node, offer, protocol};

/// Where it is reached.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Selling {
    /// Its node, with its peer id.
    pub address: String,
    /// The plain echo.
    pub echo_port: u16,
    /// Its process.
    pub pid: u32,
}

struct Echo;

#[async_trait]
impl ProviderService for Echo {
    async fn accept(&self, _job: ProviderJob) -> Result<(), JobRefusal> {
        Ok(())
    }

    async fn prepare(&self, _job: &JobKey) -> Result<(), ConnectionRefusal> {
        Ok(())
    }

    async fn serve(&self, job: JobKey, desk: Arc<dyn ProviderDesk>, mut stream: JobStream) {
        let mut request = [0; BYTES];
        if stream.read_exact(&mut request).await.is_err() {
            return;
        }
        let completion = ProviderCompletion {
            balance_delta: Some(Wei::from_wei(PRICE)),
            public_payload: "{}".into(),
            private_payload: None,
        };
        let Ok(UnixSeconds(at)) = desk.complete(&job, completion).await else {
            return;
        };
        request[..8].copy_from_slice(&at.to_be_bytes());
        let _ = stream.write_all(&request).await;
        let _ = stream.shutdown().await;
    }
}

async fn echo(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut request = [0; BYTES];
    while stream.read_exact(&mut request).await.is_ok() {
        if stream.write_all(&request).await.is_err() {
            return;
        }
    }
}

/// Sells until the process is killed. Says where on the standard output.
pub async fn sell(directory: &Path, say: impl Fn(&Selling)) {
    let node = node(directory, &[]).await;
    let offer = OfferSpec {
        protocol_id: protocol(),
        offer_id: offer(),
        protocol_payload: "{}".into(),
    };
    let (options, service) = (ProvideOptions::default(), Arc::new(Echo));
    let provided = node.handle().provide(vec![offer], options, service).await;
    let _provision = provided.expect("the node takes the offer");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addresses = node.listen_addresses().await;
    let address = addresses.first().expect("the node listens");
    say(&Selling {
        address: format!("{address}/p2p/{}", node.peer_id()),
        echo_port: listener.local_addr().expect("it is bound").port(),
        pid: std::process::id(),
    });
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(echo(stream));
    }
}
