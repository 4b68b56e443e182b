/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A test instrument, never shipped: pairs of Ethernet devices joined back to back, each
 * with a clock of its own (PHC) that stamps what leaves and what comes. Knobs make them
 * behave like the cards of xdp/src/nic/rules.rs.
 *
 *	xmit -> stamp -> wire (a fixed delay) -> arrival: stamp, ring -> NAPI -> XDP -> stack
 *
 * All stamps are readings of one raw clock, told in the time of the PHC: that of arrival
 * is that of departure plus the wire's delay to the nanosecond, whenever the machine
 * gets round to handling the frame. What is true is therefore known.
 *
 * pairs.c   devices and what the kernel asks of them
 * wire.c    from one device to the other; transmit stamps
 * receive.c rings, NAPI, XDP, receive stamps
 * clock.c   the PHC
 * ethtool.c ethtool -T -G -L -S -i -x
 * knobs.c   /sys/class/net/DEVICE/testnic/
 */
#ifndef TESTNIC_H
#define TESTNIC_H

#include <linux/etherdevice.h>
#include <linux/hrtimer.h>
#include <linux/netdevice.h>
#include <linux/net_tstamp.h>
#include <linux/ptp_clock_kernel.h>
#include <net/xdp.h>

#define TESTNIC_QUEUES 8
#define TESTNIC_RING_MAX 4096
#define TESTNIC_TAIL 8

/* Each a signed number, by name under /sys/class/net/DEVICE/testnic/. */
enum testnic_knob {
	KNOB_WIRE_DELAY_NS,	/* from this device to the other */
	KNOB_OSCILLATOR_PPB,	/* how much too fast this device's clock runs before it is adjusted */
	KNOB_RECEIVE_ALL,	/* 1: can stamp every frame that comes; 0: PTP event messages alone */
	KNOB_TRANSMIT_ALL,	/* the same of what leaves */
	KNOB_KFUNC,		/* bpf_xdp_metadata_rx_timestamp */
	KNOB_TAIL,		/* the receive stamp follows the frame and is taken off after XDP */
	KNOB_LATCHES,		/* registers that hold the receive stamp of PTP until the socket path reads it; 0: none are needed */
	KNOB_SLOTS,		/* transmit stamps in flight; 0: any number */
	KNOB_STAMP_LATENCY_NS,	/* from departure until the driver has the transmit stamp */
	KNOB_LOSE_TRANSMIT,	/* every so many-th transmit stamp goes missing; 0: none */
	KNOB_LOSE_RECEIVE,	/* the same of receive stamps */
	KNOBS
};

/* ethtool -S */
enum testnic_counter {
	COUNT_RING_FULL,	/* frames that came when the receive ring was full */
	COUNT_TX_STAMPS,
	COUNT_TX_STAMPS_SKIPPED,	/* asked for while all slots were taken */
	COUNT_TX_STAMPS_LOST,
	COUNT_RX_STAMPS,
	COUNT_RX_STAMPS_LATCHED_OUT,	/* came while all latches were taken */
	COUNT_XDP_TX,
	COUNT_XDP_REDIRECT,
	COUNT_XDP_DROP,
	COUNTERS
};

/* Lies at the head of the page that holds the frame, until XDP gets it. */
struct testnic_frame {
	struct list_head list;
	ktime_t due;
	u64 sent;		/* raw */
	u64 stamp;		/* of the receiver's PHC; 0: none */
	u32 length;
	bool latched;
};

struct testnic_queue {
	struct testnic_port *port;
	spinlock_t lock;
	struct list_head wire;	/* frames under way, in order */
	struct list_head ring;	/* frames that have come */
	u32 ringed;
	struct hrtimer timer;	/* when the first of the wire is due */
	struct napi_struct napi;
	struct xdp_rxq_info xdp;
};

struct testnic_clock {
	spinlock_t lock;
	struct ptp_clock_info info;
	struct ptp_clock *ptp;
	u64 raw;		/* when it was last set, by the raw clock */
	u64 time;		/* what it was set to */
	s64 oscillator_ppb;
	s64 adjusted_ppb;
};

struct testnic_port {
	struct net_device *dev;
	struct testnic_port *peer;
	struct testnic_queue queues[TESTNIC_QUEUES];
	struct testnic_clock clock;
	struct kernel_hwtstamp_config stamping;
	struct bpf_prog __rcu *program;
	u32 ring_size;
	atomic_t latches_taken;

	spinlock_t slots_lock;
	struct list_head slots;		/* of testnic_slot, in order */
	u32 slots_taken;
	struct hrtimer slots_timer;

	s64 knobs[KNOBS];
	atomic64_t counters[COUNTERS];
};

static inline void testnic_count(struct testnic_port *port, enum testnic_counter counter)
{
	atomic64_inc(&port->counters[counter]);
}

/* Every so many-th, by a counter that tells how many there were. */
static inline bool testnic_loses(struct testnic_port *port, enum testnic_knob knob, enum testnic_counter of)
{
	s64 every = port->knobs[knob];

	return every > 0 && atomic64_read(&port->counters[of]) % every == every - 1;
}

/* clock.c */
int testnic_clock_register(struct testnic_port *port);
void testnic_clock_unregister(struct testnic_port *port);
u64 testnic_clock_at(struct testnic_clock *clock, u64 raw);
void testnic_clock_oscillator(struct testnic_clock *clock, s64 ppb);

/* wire.c */
netdev_tx_t testnic_xmit(struct sk_buff *skb, struct net_device *dev);
void testnic_send(struct testnic_port *port, struct page *page, u32 length, u64 sent);
void testnic_arrive(struct testnic_queue *queue);
enum hrtimer_restart testnic_wire_timer(struct hrtimer *timer);
enum hrtimer_restart testnic_slots_timer(struct hrtimer *timer);
void testnic_slots_purge(struct testnic_port *port);
void *testnic_data(struct page *page);
bool testnic_is_ptp_event(const void *frame, u32 length);

/* receive.c */
void testnic_stamp_arrival(struct testnic_port *port, struct page *page);
int testnic_poll(struct napi_struct *napi, int budget);
extern const struct xdp_metadata_ops testnic_xdp_metadata_ops;

/* ethtool.c, knobs.c */
extern const struct ethtool_ops testnic_ethtool_ops;
extern const struct attribute_group testnic_knobs_group;

#endif
