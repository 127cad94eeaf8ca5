//! Errors of RPC 0.2: one form for all of them, and the table of their codes.
//!
//! An answer that is an error has the data `{tag: "Error", content: {code, message,
//! retry_after_ms?, details?}}`. Codes are the tags of 0.1 (but for one that is misspelt there), and
//! `details` is what 0.1 has as the content of that tag, so that both are made from one another.

use serde::{Deserialize, Serialize};

use super::Call;
use crate::cbor::{self, DecodeError, RawMap, lenient_unsigned};

macro_rules! codes {
    ($($name:ident: $meaning:literal,)*) => {
        /// What went wrong, for programs. docs/rpc.md has the table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $(#[doc = $meaning] $name,)*
        }

        impl ErrorCode {
            /// All codes.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code on the wire.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// What it means, for people.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => $meaning,)*
                }
            }
        }
    };
}

codes! {
    // About any request.
    UnknownRequest: "The node knows no request of this type.",
    BadRequest: "The request's data is not what its type needs, or over a limit.",
    InternalError: "The node failed; nothing is wrong with the request. Its log says more.",
    ShuttingDown: "The node is on its way down. Connect again later.",
    DeadlineExceeded: "The request's deadline has passed. A step on a job may have been taken.",
    Cancelled: "The module cancelled the request, and it had no effect.",
    Forbidden: "The request needs a capability that the connection did not ask for.",
    InvalidCursor: "The cursor is not one of this list.",
    // About the greeting. The connection ends, but for `HelloTooLate`.
    HelloRequired: "The connection did not begin with Hello, and 0.1 modules are not admitted here.",
    HelloTooLate: "Hello comes once, and before everything else.",
    VersionMismatch: "No RPC version is spoken by both sides.",
    Unauthorized: "The token is missing or wrong. The node's cookie file holds it.",
    // About queries and subscriptions.
    InvalidPeerId: "A text or byte string is no peer id. `details` holds it.",
    Length: "Over 100 ids.",
    InvalidLimit: "The limit is not 1 to 100.",
    InvalidSubscriptionId: "The connection has no subscription of this id.",
    // About offers and jobs.
    DuplicateOffer: "An offer of that name is already provided. `details` names it.",
    LocalOfferNotFound: "This node knows no such snapshot.",
    ProviderUnreachable: "The provider can't be reached.",
    ProviderInvalidResponse: "The provider's answer makes no sense.",
    ProviderOfferNotFound: "The provider does not provide this offer any more.",
    ProviderOfferPayloadMismatch: "The provider changed the offer.",
    InvalidJobArgs: "The provider refuses the arguments. `details` holds why.",
    ProviderBusy: "The provider has no room now.",
    LocalJobNotFound: "This node knows no such job.",
    ProviderJobNotFound: "The provider knows no such job of this consumer.",
    ProviderJobExpired: "The job can't be connected to any more.",
    OtherRemoteError: "Another error at the provider. `details` holds it.",
    OtherLocalError: "Another error at this node. `details` holds it.",
    JobNotFound: "The provider knows no such job of this consumer.",
    InvalidJobId: "This node has no such job.",
    InvalidConsumerPeerId: "The job's consumer is another peer.",
    AlreadyCompleted: "The job was completed before. `details` may say when.",
    AlreadyFailed: "The job was failed before. `details` says why.",
    InvalidBalanceDelta: "Not decimal wei text.",
    // About peers.
    Unreachable: "The peer can't be reached. `details` holds why.",
    Timeout: "The peer did not answer in time.",
    InvalidAddress: "Not a multiaddr. `details` holds it.",
    InvalidTimeout: "The timeout is not 1 to 60,000 ms.",
}

/// The one tag of 0.1 that is misspelt.
const MISSPELT: &str = "ProviderUnreacheable";

impl ErrorCode {
    /// The code of a text on the wire.
    pub fn of(text: &str) -> Option<Self> {
        let found = |code: &&Self| code.as_str() == text;
        Self::ALL.iter().find(found).copied()
    }

    /// The tag that 0.1 has for it.
    pub fn tag(self) -> &'static str {
        match self {
            Self::ProviderUnreachable => MISSPELT,
            other => other.as_str(),
        }
    }

    /// When to try again, where the node knows nothing better.
    pub fn retry_after_ms(self) -> Option<u64> {
        match self {
            Self::ShuttingDown | Self::ProviderBusy => Some(1000),
            _ => None,
        }
    }
}

/// An error as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorBody {
    /// An [`ErrorCode`], or one of a later version.
    pub code: String,
    /// In words, for people.
    pub message: String,
    /// When to try again, if that may help.
    pub retry_after_ms: Option<u64>,
    /// What 0.1 has as the content of this tag, encoded.
    pub details: Option<Vec<u8>>,
}

/// The data of an answer that is an error, encoded. `details` are encoded already.
pub fn encode_error(
    code: &str,
    message: &str,
    retry_after_ms: Option<u64>,
    details: Option<&[u8]>,
) -> Vec<u8> {
    /// A map of no entries; its entries are added.
    const MAP: u8 = 0xa0;
    let entries = 2 + u8::from(retry_after_ms.is_some()) + u8::from(details.is_some());
    let mut data = vec![MAP + 2];
    data = cbor::append(cbor::append(data, "tag"), "Error");
    data = cbor::append(data, "content");
    data.push(MAP + entries);
    data = cbor::append(cbor::append(data, "code"), code);
    data = cbor::append(cbor::append(data, "message"), message);
    if let Some(wait) = retry_after_ms {
        data = cbor::append(cbor::append(data, "retry_after_ms"), &wait);
    }
    if let Some(details) = details {
        data = cbor::append(data, "details");
        data.extend_from_slice(details);
    }
    data
}

/// Turns an answer of 0.1, encoded, into one of 0.2: anything but `Ok` becomes an error.
pub fn from_tagged(data: Vec<u8>) -> Vec<u8> {
    /// `"tag": "Ok"`, as we write it: spares a look through megabytes.
    const OK: &[u8] = b"\x63tag\x62Ok";
    if data.get(1..).is_some_and(|rest| rest.starts_with(OK)) {
        return data;
    }
    let Ok(map) = RawMap::parse(&data) else {
        return data;
    };
    let Ok(Some(tag)) = map.get::<String>("tag") else {
        return data;
    };
    if tag == "Ok" {
        return data;
    }
    let tag = if tag == MISSPELT {
        "ProviderUnreachable"
    } else {
        &tag
    };
    let content = map.raw("content");
    let code = ErrorCode::of(tag);
    let meaning = code.map_or("", ErrorCode::meaning);
    let text: Option<String> = content.and_then(|text| cbor::from_slice(text).ok());
    let message = text.map_or_else(|| meaning.to_owned(), |text| format!("{meaning} ({text})"));
    let retry = content
        .and_then(retry_in)
        .or_else(|| code.and_then(ErrorCode::retry_after_ms));
    encode_error(tag, &message, retry, content)
}

/// `retry_after_ms` of a content that has one.
fn retry_in(content: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Hint {
        #[serde(deserialize_with = "lenient_unsigned")]
        retry_after_ms: u64,
    }
    let hint: Hint = cbor::from_slice(content).ok()?;
    Some(hint.retry_after_ms)
}

/// Reads an answer of 0.2: the reply, or the error in its place. An error that the request's type
/// has a reply for in 0.1 is read as that reply.
pub fn decode_answer<C: Call>(data: &[u8]) -> Result<Result<C::Reply, ErrorBody>, DecodeError> {
    let is_error =
        |map: &RawMap<'_>| matches!(map.get::<String>("tag"), Ok(Some(tag)) if tag == "Error");
    let Some(map) = RawMap::parse(data).ok().filter(is_error) else {
        return cbor::from_slice(data).map(Ok);
    };
    let content = map.raw("content");
    let content = content.ok_or_else(|| DecodeError::new("an error without content"))?;
    let body = decode_body(content)?;
    let known = ErrorCode::of(&body.code);
    let tag = known.map_or(body.code.as_str(), |code| code.tag());
    let as_0_1 = tagged(tag, body.details.as_deref());
    match cbor::from_slice(&as_0_1) {
        Ok(reply) => Ok(Ok(reply)),
        Err(_) => Ok(Err(body)),
    }
}

fn decode_body(content: &[u8]) -> Result<ErrorBody, DecodeError> {
    #[derive(Deserialize)]
    struct Wait(#[serde(deserialize_with = "lenient_unsigned")] u64);
    let map = RawMap::parse(content)?;
    let wait: Option<Wait> = map.get("retry_after_ms")?;
    Ok(ErrorBody {
        code: map.require("code")?,
        message: map.get("message")?.unwrap_or_default(),
        retry_after_ms: wait.map(|Wait(ms)| ms),
        details: map.raw("details").map(<[u8]>::to_vec),
    })
}

/// `{tag, content?}`, encoded.
fn tagged(tag: &str, content: Option<&[u8]>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Tag<'a> {
        tag: &'a str,
    }
    let Some(content) = content else {
        return cbor::to_vec(&Tag { tag });
    };
    let mut data = vec![0xa2];
    data = cbor::append(cbor::append(data, "tag"), tag);
    data = cbor::append(data, "content");
    data.extend_from_slice(content);
    data
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::record::FailureReason;
    use crate::rpc::request::*;

    fn there_and_back<C: Call>(reply: &C::Reply) -> C::Reply {
        let data = from_tagged(cbor::to_vec(reply));
        decode_answer::<C>(&data).unwrap().unwrap()
    }

    #[test]
    fn errors_of_0_1_keep_what_they_say() {
        let failed = FailJobReply::AlreadyFailed(FailureReason {
            reason: "r".into(),
            reason_class: Some(-1),
        });
        assert_eq!(there_and_back::<FailJob>(&failed), failed);
        let unreachable = CreateJobReply::ProviderUnreachable;
        assert_eq!(
            there_and_back::<ConsumerCreateJob>(&unreachable),
            unreachable
        );
        let refused = CreateJobReply::InvalidJobArgs("no".into());
        assert_eq!(there_and_back::<ConsumerCreateJob>(&refused), refused);
        let ok = CancelSubscriptionReply::Ok;
        assert_eq!(there_and_back::<CancelSubscription>(&ok), ok);
        assert_eq!(from_tagged(cbor::to_vec(&ok)), cbor::to_vec(&ok));
    }

    #[test]
    fn errors_of_0_2_have_code_message_and_when_to_try_again() {
        let busy = from_tagged(cbor::to_vec(&CreateJobReply::ProviderBusy));
        let body = decode_answer::<QuerySystem>(&busy).unwrap().unwrap_err();
        assert_eq!(
            (body.code.as_str(), body.retry_after_ms),
            ("ProviderBusy", Some(1000))
        );
        assert_eq!(body.message, ErrorCode::ProviderBusy.meaning());
        let unreachable = from_tagged(cbor::to_vec(&CreateJobReply::ProviderUnreachable));
        let body = decode_answer::<QuerySystem>(&unreachable)
            .unwrap()
            .unwrap_err();
        assert_eq!(body.code, "ProviderUnreachable");
    }

    #[test]
    fn codes_of_a_later_version_are_read_as_text() {
        let data = encode_error("Curious", "how odd", Some(5), None);
        let body = decode_answer::<QuerySystem>(&data).unwrap().unwrap_err();
        assert_eq!(
            (body.code.as_str(), body.retry_after_ms),
            ("Curious", Some(5))
        );
        assert_eq!(ErrorCode::of(&body.code), None);
    }

    #[test]
    fn the_documentation_has_every_code_with_its_meaning() {
        let text = include_str!("../../../../docs/rpc.md");
        for code in ErrorCode::ALL {
            let row = format!("| `{}` | {} |", code.as_str(), code.meaning());
            assert!(text.contains(&row), "docs/rpc.md lacks: {row}");
        }
    }
}
