/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/*
 * A stateless STAMP Session-Reflector in the driver: a request to our port is
 * turned round in its own buffer and leaves by the port on which it came.
 *
 *   not ours -> XDP_PASS, untouched    ours, no reply due -> XDP_DROP, counted
 *                                      ours, handed over  -> XDP_REDIRECT to the
 *                                          AF_XDP socket of its queue, or XDP_PASS
 *                                      ours               -> XDP_TX
 *
 * One reading of the clock is both T2 and T3. What lies between them here is some
 * fifty nanoseconds; the driver, which sends when its whole batch of packets is
 * done, adds microseconds after any reading that a program can take. So a second
 * reading would cost a third of the reply and tell nothing: the residence of this
 * plane is below its resolution, and is stated as zero.
 */
#ifndef PATHLAB_REFLECT_H
#define PATHLAB_REFLECT_H

#include "abi.h"
#include "addresses.h"
#include "allow.h"
#include "csum.h"
#include "parse.h"
#include "quirks.h"
#include "rates.h"
#include "redirect.h"
#include "stamp.h"

/* Set before loading, read-only after. */
const volatile u16 PORT = 862;
const volatile u8 HAND_OVER = HAND_OVER_NOTHING;
/* For test vectors: T2 and T3 as 64-bit NTP timestamps; 0 reads the clock. */
const volatile u64 FIXED_T2 = 0;
const volatile u64 FIXED_T3 = 0;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct reflector_counters);
} COUNTERS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct reflector_clock);
} CLOCK SEC(".maps");

/* Why a source must not be answered, or REPLIED. */
static INLINE enum reflector_counter judge_source_v4(be32 source)
{
	u32 address = be32_to_cpu(source);

	if (address == 0xffffffff)
		return REFLECTOR_SOURCE_BROADCAST;
	if (address >> 28 == 0xe)
		return REFLECTOR_SOURCE_MULTICAST;
	if (address >> 24 == 127)
		return REFLECTOR_SOURCE_LOOPBACK;
	if (address >> 24 == 0)
		return REFLECTOR_SOURCE_UNSPECIFIED;
	return REFLECTOR_REPLIED;
}

static INLINE enum reflector_counter judge_source_v6(const struct address *source)
{
	if ((be32_to_cpu(source->word[0]) >> 24) == 0xff)
		return REFLECTOR_SOURCE_MULTICAST;
	if (source->word[0] | source->word[1] | source->word[2])
		return REFLECTOR_REPLIED;
	if (source->word[3] == cpu_to_be32(1))
		return REFLECTOR_SOURCE_LOOPBACK;
	if (source->word[3] == 0)
		return REFLECTOR_SOURCE_UNSPECIFIED;
	return REFLECTOR_REPLIED;
}

/* The rules of the reflector: REPLIED, or the reason for no reply. */
static INLINE enum reflector_counter judge(const struct datagram *d)
{
	enum reflector_counter verdict = REFLECTOR_REPLIED;
	u32 known = 0;

	if (d->payload_length < sizeof(struct stamp_request))
		return REFLECTOR_SHORT;
	if (d->udp->source == cpu_to_be16(PORT))
		return REFLECTOR_SOURCE_PORT_OURS;
	if (d->udp->source == 0)
		return REFLECTOR_SOURCE_PORT_ZERO;
	if (d->ethernet->source[0] & MAC_GROUP)
		return REFLECTOR_SOURCE_MAC_GROUP;
	if (d->v4) {
		verdict = judge_source_v4(d->v4->source);
		known = role_v4(d->v4->source);
	} else if (d->v6) {
		verdict = judge_source_v6(&d->v6->source);
		known = role_v6(&d->v6->source);
	}
	if (verdict == REFLECTOR_REPLIED && known == ADDRESS_OURS)
		return REFLECTOR_SOURCE_OURS;
	if (verdict == REFLECTOR_REPLIED && known == ADDRESS_BROADCAST)
		return REFLECTOR_SOURCE_BROADCAST;
	if (verdict == REFLECTOR_REPLIED && !allowed(d))
		return REFLECTOR_NOT_ALLOWED;
	return verdict;
}

/* Both ends change places; a sum over both stays what it was. */
static INLINE void turn_round(const struct datagram *d)
{
	be16 port = d->udp->source;
	u8 mac[6];

	__builtin_memcpy(mac, d->ethernet->source, 6);
	__builtin_memcpy(d->ethernet->source, d->ethernet->destination, 6);
	__builtin_memcpy(d->ethernet->destination, mac, 6);

	d->udp->source = d->udp->destination;
	d->udp->destination = port;

	if (d->v4) {
		be32 source = d->v4->source;

		d->v4->source = d->v4->destination;
		d->v4->destination = source;
	} else if (d->v6) {
		struct address source = d->v6->source;

		d->v6->source = d->v6->destination;
		d->v6->destination = source;
	}
}

/* A fresh packet starts at 255. Returns what is left of the sender's. */
static INLINE u8 renew_ttl(const struct datagram *d)
{
	u8 ttl = 0;

	if (d->v4) {
		u16 *check = &d->v4->check;

		ttl = d->v4->ttl;
		d->v4->ttl = 255;
		/* TTL is the upper octet of its word */
		*check = ~csum_fold((u64)(u16)~*check + (u16)~cpu_to_be16(ttl << 8) + cpu_to_be16(255 << 8));
	} else if (d->v6) {
		ttl = d->v6->hop_limit;
		d->v6->hop_limit = 255;
	}
	return ttl;
}

/* The request's own octets become the reply: each field is read before it is written over. */
static INLINE void write_reply(const struct datagram *d, void *packet, be16 error_estimate, struct ntp_time t2,
			       struct ntp_time t3)
{
	struct stamp_request *request = packet;
	struct stamp_reply *reply = packet;
	struct ntp_time t1 = request->timestamp;
	be16 sender_error_estimate = request->error_estimate;
	u8 ttl = renew_ttl(d);

	if (d->udp->check) {
		/*
		 * T1 and its Error Estimate move by whole 16-bit words and the first
		 * sequence number and SSID stay, which no sum notices. What was zero
		 * in the request, or should have been, goes; all else comes.
		 */
		u64 sum = (u16)~d->udp->check;

#pragma unroll
		for (int i = 0; i < 7; i++)
			sum += (u32)~request->zero[i];
		sum += (u64)t2.seconds + t2.fraction + t3.seconds + t3.fraction;
		sum += (u64)request->sequence + error_estimate + cpu_to_be16(ttl << 8);
		d->udp->check = csum_finish_udp(sum);
	}
	reply->timestamp = t3;
	reply->error_estimate = error_estimate;
	reply->receive_timestamp = t2;
	reply->sender_sequence = reply->sequence;	/* stateless: both are the sender's own */
	reply->sender_timestamp = t1;
	reply->sender_error_estimate = sender_error_estimate;
	reply->zero = 0;
	reply->sender_ttl = ttl;
	__builtin_memset(reply->zeros, 0, sizeof(reply->zeros));
}

static INLINE struct ntp_time fixed_time(u64 fixed)
{
	struct ntp_time time = { cpu_to_be32((u32)(fixed >> 32)), cpu_to_be32((u32)fixed) };

	return time;
}

static INLINE enum xdp_action hand_over(struct xdp_md *context, struct reflector_counters *counters, u64 tai,
					bool bound, bool tail)
{
	struct xsk_record record = { .xdp = tai };
	u32 queue = context->rx_queue_index;

	if (!has_socket(queue)) {
		counters->count[REFLECTOR_HANDED_TO_STACK]++;
		return XDP_PASS;
	}
	counters->count[REFLECTOR_HANDED_TO_XSK]++;
	ask_the_card(context, &record, bound, tail);
	write_record(context, &record); /* without room for it the socket does without */
	return to_socket(queue, tail);
}

/* The whole reflector. `bound`: on a device whose driver can be asked for the card's stamp. */
static INLINE enum xdp_action reflect(struct xdp_md *context, bool bound)
{
	struct cursor cursor = { (void *)(long)context->data, (void *)(long)context->data_end };
	struct reflector_counters *counters;
	struct reflector_clock *clock;
	enum reflector_counter verdict;
	struct ntp_time time;
	struct datagram d;
	void *request;
	u32 zero = 0;
	u64 tai;

	counters = bpf_map_lookup_elem(&COUNTERS, &zero);
	clock = bpf_map_lookup_elem(&CLOCK, &zero);
	if (!counters || !clock)
		return XDP_PASS; /* cannot be: both have entry 0 */

	if (!parse_datagram(&cursor, &d) || d.udp->destination != cpu_to_be16(PORT) || must_stay_with_the_stack(&d))
		goto pass;
	tai = bpf_ktime_get_tai_ns();
	if (!addressed_to_us(&d))
		goto pass;
	request = take(&cursor, sizeof(struct stamp_request));
	verdict = judge(&d);
	if (verdict == REFLECTOR_REPLIED) {
		/* What comes after the datagram must not be echoed; a card's own stamp is cut off. */
		bool tail = has_tail(context, &d);
		bool longer = (d.trailer && !tail) || d.payload_length > sizeof(struct stamp_request);

		/* User space limits what is all its own; what is shared is limited here, for both. */
		if (HAND_OVER == HAND_OVER_ALL)
			return hand_over(context, counters, tai, bound, tail);
		longer = HAND_OVER == HAND_OVER_LONGER && longer;
		if (!longer && (!request || (d.trailer && !tail)))
			goto pass;
		verdict = admit(&d);
		if (longer && verdict == REFLECTOR_REPLIED)
			return hand_over(context, counters, tai, bound, tail);
		if (tail && verdict == REFLECTOR_REPLIED) {
			if (!take_tail(context))
				goto pass;
			cursor = (struct cursor){ (void *)(long)context->data, (void *)(long)context->data_end };
			if (!parse_datagram(&cursor, &d))
				return XDP_DROP; /* cannot be: it is the same datagram */
			request = take(&cursor, sizeof(struct stamp_request));
		}
	}

	counters->count[REFLECTOR_RECEIVED]++;
	counters->count[verdict]++;
	if (verdict != REFLECTOR_REPLIED || !request)
		return XDP_DROP;
	time = ntp_time(tai - clock->tai_minus_utc);
	turn_round(&d);
	write_reply(&d, request, cpu_to_be16(clock->error_estimate), FIXED_T2 ? fixed_time(FIXED_T2) : time,
		    FIXED_T3 ? fixed_time(FIXED_T3) : time);
	return XDP_TX;

pass:
	counters->count[REFLECTOR_PASSED]++;
	return XDP_PASS;
}

#endif
