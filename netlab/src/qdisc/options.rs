//! What each qdisc is told, as the bytes of its `TCA_OPTIONS` (linux/pkt_sched.h).

use std::time::Duration;

use netlink_packet_core::DefaultNla;

use super::{Netem, Qdisc};
use crate::{
    netlink::nest,
    queue::{CodelParameters, FqCodelParameters},
};

const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const LINKLAYER_ETHERNET: u8 = 1;
const TCA_CODEL_TARGET: u16 = 1;
const TCA_CODEL_LIMIT: u16 = 2;
const TCA_CODEL_INTERVAL: u16 = 3;
const TCA_CODEL_ECN: u16 = 4;
const TCA_FQ_CODEL_TARGET: u16 = 1;
const TCA_FQ_CODEL_LIMIT: u16 = 2;
const TCA_FQ_CODEL_INTERVAL: u16 = 3;
const TCA_FQ_CODEL_ECN: u16 = 4;
const TCA_FQ_CODEL_FLOWS: u16 = 5;
const TCA_FQ_CODEL_QUANTUM: u16 = 6;
const TCA_FQ_CODEL_DROP_BATCH_SIZE: u16 = 8;
const TCA_NETEM_LATENCY64: u16 = 10;

pub(super) fn of(qdisc: &Qdisc) -> Vec<u8> {
    match *qdisc {
        Qdisc::Tbf { rate, burst, limit } => tbf(rate, burst, limit),
        // `struct tc_fifo_qopt`
        Qdisc::Pfifo(packets) => packets.to_ne_bytes().to_vec(),
        Qdisc::Codel(CodelParameters { target, interval, mtu: _, limit, ecn }) => attributes(&[
            (TCA_CODEL_TARGET, microseconds(target)),
            (TCA_CODEL_LIMIT, u32::try_from(limit).unwrap_or(u32::MAX)),
            (TCA_CODEL_INTERVAL, microseconds(interval)),
            (TCA_CODEL_ECN, u32::from(ecn)),
        ]),
        Qdisc::FqCodel(FqCodelParameters { codel, flows, quantum, drop_batch }) => attributes(&[
            (TCA_FQ_CODEL_TARGET, microseconds(codel.target)),
            (TCA_FQ_CODEL_LIMIT, u32::try_from(codel.limit).unwrap_or(u32::MAX)),
            (TCA_FQ_CODEL_INTERVAL, microseconds(codel.interval)),
            (TCA_FQ_CODEL_ECN, u32::from(codel.ecn)),
            (TCA_FQ_CODEL_FLOWS, flows),
            (TCA_FQ_CODEL_QUANTUM, quantum),
            (TCA_FQ_CODEL_DROP_BATCH_SIZE, drop_batch),
        ]),
        Qdisc::Netem(netem) => of_netem(netem),
    }
}

fn attributes(values: &[(u16, u32)]) -> Vec<u8> {
    let attribute = |(kind, value): &(u16, u32)| DefaultNla::new(*kind, value.to_ne_bytes().to_vec());
    nest(&values.iter().map(attribute).collect::<Vec<_>>())
}

fn microseconds(span: Duration) -> u32 {
    u32::try_from(span.as_micros()).unwrap_or(u32::MAX)
}

/// `struct tc_tbf_qopt` with 64-bit rate and the burst in bytes. The link layer is named, so that the kernel computes times
/// itself and wants no rate table from us (net/sched/sch_tbf.c, tbf_change).
fn tbf(rate: u64, burst: u32, limit: u32) -> Vec<u8> {
    let bytes_per_second = (rate / 8).max(1);
    let mut parameters = Vec::with_capacity(36);
    parameters.extend([0, LINKLAYER_ETHERNET]);
    parameters.extend([0; 6]);
    parameters.extend(u32::try_from(bytes_per_second).unwrap_or(u32::MAX).to_ne_bytes());
    // No peak rate.
    parameters.extend([0; 12]);
    parameters.extend(limit.to_ne_bytes());
    // Buffer and MTU in ticks: superseded by TCA_TBF_BURST.
    parameters.extend([0; 8]);
    nest(&[
        DefaultNla::new(TCA_TBF_PARMS, parameters),
        DefaultNla::new(TCA_TBF_RATE64, bytes_per_second.to_ne_bytes().to_vec()),
        DefaultNla::new(TCA_TBF_BURST, burst.to_ne_bytes().to_vec()),
    ])
}

/// `struct tc_netem_qopt`: latency in ticks, superseded by nanoseconds in an attribute; limit; loss as a share of 2^32 - 1; gap, duplicate and jitter,
/// none of them wanted. Attributes follow the struct as they are (net/sched/sch_netem.c, parse_attr).
fn of_netem(Netem { delay, loss, limit }: Netem) -> Vec<u8> {
    let loss = (loss.clamp(0.0, 1.0) * f64::from(u32::MAX)).round() as u32;
    let mut bytes: Vec<u8> = [0, limit, loss, 0, 0, 0].iter().flat_map(|field: &u32| field.to_ne_bytes()).collect();
    let delay = i64::try_from(delay.as_nanos()).unwrap_or(i64::MAX);
    bytes.extend(nest(&[DefaultNla::new(TCA_NETEM_LATENCY64, delay.to_ne_bytes().to_vec())]));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attributes of 32 bits each: length 8, type, value.
    fn words(bytes: &[u8]) -> Vec<(u16, u32)> {
        let word = |chunk: &[u8]| {
            assert_eq!(u16::from_ne_bytes([chunk[0], chunk[1]]), 8);
            (u16::from_ne_bytes([chunk[2], chunk[3]]), u32::from_ne_bytes(chunk[4..8].try_into().expect("four bytes")))
        };
        bytes.chunks(8).map(word).collect()
    }

    /// The numbers are those of linux/pkt_sched.h, written out: `tc` decodes what we send by them.
    #[test]
    fn codel_and_fq_codel_are_told_their_defaults_by_number() {
        let codel = of(&Qdisc::Codel(CodelParameters::default()));
        assert_eq!(words(&codel), [(1, 5_000), (2, 1_000), (3, 100_000), (4, 0)]);
        let fq_codel = of(&Qdisc::FqCodel(FqCodelParameters::default()));
        assert_eq!(words(&fq_codel), [(1, 5_000), (2, 10_240), (3, 100_000), (4, 1), (5, 1_024), (6, 1_514), (8, 64)]);
    }

    #[test]
    fn netem_is_a_struct_and_nanoseconds_behind_it() {
        let bytes = of(&Qdisc::Netem(Netem { delay: Duration::from_micros(12_345), loss: 0.25, limit: 7 }));
        let field = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        assert_eq!([field(0), field(4), field(8), field(12), field(16), field(20)], [0, 7, 0x4000_0000, 0, 0, 0]);
        assert_eq!(u16::from_ne_bytes([bytes[24], bytes[25]]), 12);
        assert_eq!(u16::from_ne_bytes([bytes[26], bytes[27]]), 10);
        assert_eq!(i64::from_ne_bytes(bytes[28..36].try_into().expect("eight bytes")), 12_345_000);
        assert_eq!(bytes.len(), 36);
        let all = of(&Qdisc::Netem(Netem { delay: Duration::ZERO, loss: 1.0, limit: 1 }));
        assert_eq!(all[8..12], [0xff; 4]);
    }

    #[test]
    fn tbf_has_its_rate_in_bytes_and_its_burst() {
        let bytes = of(&Qdisc::Tbf { rate: 10_000_000, burst: 3036, limit: 9000 });
        assert_eq!(bytes.len(), 4 + 36 + 4 + 8 + 4 + 4);
        assert_eq!(u32::from_ne_bytes(bytes[12..16].try_into().expect("four bytes")), 1_250_000);
        assert_eq!(u32::from_ne_bytes(bytes[28..32].try_into().expect("four bytes")), 9000);
        assert_eq!(u64::from_ne_bytes(bytes[44..52].try_into().expect("eight bytes")), 1_250_000);
        assert_eq!(u32::from_ne_bytes(bytes[56..60].try_into().expect("four bytes")), 3036);
    }
}
