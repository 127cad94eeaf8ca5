//! Memory of the node: SQLite on its own thread.
