//! Nodes that end in the middle of jobs, and whether both ledgers fit together afterwards.
//!
//! A run ([`run::run`]) follows from its seed ([`plan::Plan`]): two real nodes with data of their own
//! trade ([`trade`]), one of them ends at a named point ([`points`]) or at a random time, comes back,
//! and the modules finish what they can. Then both databases are read ([`ledgers`]) and each job's two
//! rows compared ([`explain`]). [`disk`] does the same with disks that fail, [`network`] with networks
//! that lose, double, reorder and cut, and with clocks that are hours apart.

pub mod disk;
pub mod explain;
pub mod ledgers;
pub mod network;
pub mod node;
pub mod plan;
pub mod points;
pub mod report;
pub mod run;
pub mod trade;
