//! Real nodes for tests, fault injection. Only for tests.
