//! The OpenAI protocol: provider and consumer modules.
