//! Whole nodes in networks with NATs: who reaches whom, how, and what breaks it.

mod events;
mod matrix;
mod relay;
mod world;
