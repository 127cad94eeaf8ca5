//! The OpenAI protocol (`openai:0.2`, and `openai:0.1` for those who have no other): a provider module in front of any OpenAI-compatible server,
//! and a consumer module that is an OpenAI-compatible endpoint on this machine. Both are written
//! against [`derouter_sdk::Node`] alone and run in process or over the RPC.

mod choices;
pub mod consumer;
mod estimate;
mod files;
mod form;
pub mod frames;
#[doc(hidden)]
pub mod fuzz;
mod meter;
pub mod protocol;
pub mod provider;
pub mod record;
mod sse;
pub mod terms;
mod transcript;
