//! Decisions of the marketplace: job states, the offer index, credit. Pure: no I/O, no clock.
