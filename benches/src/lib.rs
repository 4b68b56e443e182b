//! Benchmarks of pathlab beside its peers and plain baselines: what each figure is, how it is got, and what it is worth.
//!
//! ```text
//! scripts/bench reflector ─► bench reflector ─┬─ rate: no-loss search, overload   (generator, replies.bpf.c)
//!                                             ├─ round trips                      (probe, sockperf, irtt)
//!                                             └─ test runs                        (xdp.bpf.c)
//! scripts/bench probe ─────► bench probe ─────── slots: when packets came out of the wire (arrivals.bpf.c)
//!
//! scripts/bench steer ─────► bench steer ─────── cost of a packet, ways back, a million keys, watching programs (bench-s, -a, -b, -g)
//! scripts/bench judge ─────► bench judge ─────── a million sessions from file to verdict; the bootstrap beside plain ones
//! scripts/bench lab ───────► bench lab ───────── the wire engine: delay, rate, packets (lab)
//! scripts/bench watch ─────► bench watch ─────── what `host watch` costs a run of each program, and of the packet rate
//!
//! scripts/soak flood ──────► bench flood ─────── hostile packets beside an honest session
//!
//! every figure of every round ─► Table ─► text, JSON, the tables of docs/performance.md
//! ```
//!
//! All contestants of a table take their turn in every round, each round in another order, so that what disturbs one disturbs the
//! others; a ratio is taken within a round and only then its median. Both ends of the wire are namespaces of one host, so the figures compare programs; they are
//! not those of a network card. What runs on which CPU is the same for all: see [`wire`].

pub mod contestant;
pub mod counting;
pub mod echo;
pub mod figures;
pub mod flood;
pub mod generator;
pub mod host;
pub mod irtt;
pub mod judge;
pub mod lab;
pub mod pair;
pub mod rate;
pub mod render;
pub mod round_trips;
pub mod search;
pub mod slots;
pub mod sockperf;
pub mod steer;
pub mod sys;
pub mod table;
pub mod tables;
pub mod test_run;
pub mod turns;
pub mod watch;
pub mod whereabouts;
pub mod wire;
