//! Plain HTTP requests, for tests that look at what a client package would hide.

use std::time::Duration;

use reqwest::header::HeaderMap;
use serde_json::Value;

/// The longest that a whole answer may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; `null` when it is not.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// GET.
pub async fn get(url: &str) -> Result<Answer, reqwest::Error> {
    finish(reqwest::Client::new().get(url)).await
}

/// POST of a JSON body with more headers.
pub async fn post(
    url: &str,
    body: &Value,
    headers: &[(&'static str, &str)],
) -> Result<Answer, reqwest::Error> {
    let mut request = reqwest::Client::new().post(url).body(body.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    finish(request).await
}

/// POST of a JSON body as JSON.
pub async fn post_json(url: &str, body: &Value) -> Result<Answer, reqwest::Error> {
    post(url, body, &[("content-type", "application/json")]).await
}

async fn finish(request: reqwest::RequestBuilder) -> Result<Answer, reqwest::Error> {
    let response = request.timeout(ANSWER_DEADLINE).send().await?;
    Ok(Answer {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: response.bytes().await?.to_vec(),
    })
}

/// An answer that is read piece by piece.
#[derive(Debug)]
pub struct Streaming {
    response: reqwest::Response,
}

/// POST of a JSON body; the answer is read as it comes.
pub async fn stream(url: &str, body: &Value) -> Result<Streaming, reqwest::Error> {
    let request = reqwest::Client::new().post(url).body(body.to_string());
    let request = request.header("content-type", "application/json");
    let response = request.send().await?;
    Ok(Streaming { response })
}

impl Streaming {
    /// The status.
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// The next piece; `None` at the end; an error when the connection breaks or nothing comes
    /// for 60 s.
    pub async fn next(&mut self) -> Result<Option<String>, String> {
        let piece = tokio::time::timeout(ANSWER_DEADLINE, self.response.chunk()).await;
        let piece = piece.map_err(|_| format!("nothing came for {ANSWER_DEADLINE:?}"))?;
        let piece = piece.map_err(|error| error.to_string())?;
        Ok(piece.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// All that still comes, and how it ended.
    pub async fn rest(&mut self) -> (String, Result<(), String>) {
        let mut text = String::new();
        loop {
            match self.next().await {
                Ok(Some(piece)) => text.push_str(&piece),
                Ok(None) => return (text, Ok(())),
                Err(error) => return (text, Err(error)),
            }
        }
    }
}
