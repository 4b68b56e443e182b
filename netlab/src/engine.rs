//! Plays a scenario; each way of playing has its own kind of truth.
//!
//! | engine | what it is | what its figures are |
//! |---|---|---|
//! | kernel | [`Lab`](crate::lab::Lab): namespaces, veth, tbf, real packets | those of this machine at this moment |
//! | virtual | [`discrete`]: events in a heap, no packet and no clock | exact: the same from the same file and seed, anywhere |

pub mod discrete;
