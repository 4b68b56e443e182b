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
const volatile be16 PORT = cpu_to_be16(862);
const volatile u8 HAND_OVER = HAND_OVER_NOTHING;
/* Octets of the shortest test packet: 112 where all must be authenticated (RFC 8762, section 4.2.2). */
const volatile u16 LEAST = sizeof(struct stamp_request);
/* For test vectors: T2 and T3 as 64-bit NTP timestamps, instead of the clock. */
const volatile u8 FIXED_CLOCK = 0;
const volatile u64 FIXED_T2 = 0;
const volatile u64 FIXED_T3 = 0;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct reflector_counters);
} COUNTERS SEC(".maps");

/* As SLOTS: read in place, and written by user space. */
struct reflector_clock CLOCK SEC(".data.clock") = { 0 };

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
	if (*(const u8 *)source == 0xff)
		return REFLECTOR_SOURCE_MULTICAST;
	if (halves(source)->upper)
		return REFLECTOR_REPLIED;
	if (halves(source)->lower == cpu_to_be64(1))
		return REFLECTOR_SOURCE_LOOPBACK;
	if (halves(source)->lower == 0)
		return REFLECTOR_SOURCE_UNSPECIFIED;
	return REFLECTOR_REPLIED;
}

/* The rules of the reflector: REPLIED, or the reason for no reply. */
static INLINE enum reflector_counter judge(const struct datagram *d)
{
	enum reflector_counter verdict;
	u32 known;

	if (d->payload_length < LEAST)
		return d->payload_length < sizeof(struct stamp_request) ? REFLECTOR_SHORT : REFLECTOR_UNAUTHENTICATED;
	if (d->udp->source == PORT)
		return REFLECTOR_SOURCE_PORT_OURS;
	if (d->udp->source == 0)
		return REFLECTOR_SOURCE_PORT_ZERO;
	if (d->ethernet->source[0] & MAC_GROUP)
		return REFLECTOR_SOURCE_MAC_GROUP;
	verdict = d->v4 ? judge_source_v4(d->v4->source) : judge_source_v6(&d->v6->source);
	if (verdict != REFLECTOR_REPLIED)
		return verdict;
	known = d->v4 ? role_v4(d->v4->source) : role_v6(&d->v6->source);
	if (known == ADDRESS_OURS)
		return REFLECTOR_SOURCE_OURS;
	if (known == ADDRESS_BROADCAST)
		return REFLECTOR_SOURCE_BROADCAST;
	return allowed(d) ? REFLECTOR_REPLIED : REFLECTOR_NOT_ALLOWED;
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
		struct address_halves source = *halves(&d->v6->source);

		*halves(&d->v6->source) = *halves(&d->v6->destination);
		*halves(&d->v6->destination) = source;
	}
}

/* A fresh packet starts at 255. Returns what is left of the sender's. */
static INLINE u8 renew_ttl(const struct datagram *d)
{
	u8 ttl;

	if (d->v4) {
		u32 sum;

		ttl = d->v4->ttl;
		d->v4->ttl = 255;
		/* TTL is the upper octet of its word, and grows: one's complement, so that a carry comes round */
		sum = (u16)~d->v4->check + cpu_to_be16((255 - ttl) << 8);
		d->v4->check = ~(sum + (sum >> 16));
	} else {
		ttl = d->v6->hop_limit;
		d->v6->hop_limit = 255;
	}
	return ttl;
}

/* The request's own octets become the reply: each field is read before it is written over. */
static INLINE void write_reply(const struct datagram *d, void *packet, u64 t2, u64 t3)
{
	struct stamp_request *request = packet;
	struct stamp_reply *reply = packet;
	struct ntp_time t1 = request->timestamp;
	be16 sender_error_estimate = request->error_estimate;
	be16 error_estimate = CLOCK.error_estimate;
	u8 ttl = renew_ttl(d);

	t2 = cpu_to_be64(t2);
	t3 = cpu_to_be64(t3);
	if (d->udp->check) {
		/*
		 * T1 and its Error Estimate move by whole 16-bit words and the first
		 * sequence number and SSID stay, which no sum notices. What was zero
		 * in the request, or should have been, goes (as the sum of the words'
		 * complements); all else comes.
		 */
		u64 gone = 0, sum = (u16)~d->udp->check;

#pragma unroll
		for (int i = 0; i < 7; i++)
			gone += request->zero[i];
		sum += 7 * 0xffffffffULL - gone;
		sum += (u32)t2 + (t2 >> 32) + (u32)t3 + (t3 >> 32);
		sum += (u64)request->sequence + error_estimate + cpu_to_be16(ttl << 8);
		d->udp->check = csum_finish_udp(sum);
	}
	*(u64 *)&reply->timestamp = t3;
	reply->error_estimate = error_estimate;
	*(u64 *)&reply->receive_timestamp = t2;
	reply->sender_sequence = reply->sequence;	/* stateless: both are the sender's own */
	reply->sender_timestamp = t1;
	reply->sender_error_estimate = sender_error_estimate;
	reply->zero = 0;
	*(u32 *)&reply->sender_ttl = cpu_to_be32((u32)ttl << 24); /* and the three octets of zero after it */
}

static INLINE void count(enum reflector_counter counter)
{
	struct reflector_counters *counters;
	u32 zero = 0;

	counters = bpf_map_lookup_elem(&COUNTERS, &zero);
	if (counters)
		counters->count[counter]++;
}

static NOINLINE enum xdp_action refuse(u32 reason)
{
	struct reflector_counters *counters;
	u32 zero = 0;

	counters = bpf_map_lookup_elem(&COUNTERS, &zero);
	if (counters && reason < REFLECTOR_COUNTERS) {
		counters->count[REFLECTOR_RECEIVED]++;
		counters->count[reason]++;
	}
	return XDP_DROP;
}

static INLINE enum xdp_action hand_over(struct xdp_md *context, bool bound, bool tail)
{
	struct xsk_record record = { .xdp = bpf_ktime_get_tai_ns() };
	u32 queue = context->rx_queue_index;

	if (!has_socket(queue)) {
		count(REFLECTOR_HANDED_TO_STACK);
		return XDP_PASS;
	}
	count(REFLECTOR_HANDED_TO_XSK);
	ask_the_card(context, &record, bound, tail);
	write_record(context, &record); /* without room for it the socket does without */
	return to_socket(queue, tail);
}

/* What is due a reply gets it. */
static INLINE enum xdp_action reply(struct cursor *cursor, const struct datagram *d)
{
	struct reflector_counters *counters;
	void *request = take(cursor, sizeof(struct stamp_request));
	u32 zero = 0;

	if (!request)
		return XDP_ABORTED; /* cannot be: it has been judged to be that long */
	turn_round(d);
	if (FIXED_CLOCK) {
		write_reply(d, request, FIXED_T2, FIXED_T3);
	} else {
		u64 time = ntp_time(bpf_ktime_get_tai_ns() - CLOCK.tai_minus_utc);

		write_reply(d, request, time, time);
	}
	counters = bpf_map_lookup_elem(&COUNTERS, &zero);
	if (counters) {
		counters->count[REFLECTOR_RECEIVED]++;
		counters->count[REFLECTOR_REPLIED]++;
	}
	return XDP_TX;
}

/* Takes the card's stamp off the frame, and replies to what is left of it. */
static NOINLINE enum xdp_action reply_without_tail(struct xdp_md *context)
{
	struct cursor cursor;
	struct datagram d;
	be16 type;

	if (!take_tail(context))
		return XDP_ABORTED;
	cursor = (struct cursor){ (void *)(long)context->data, (void *)(long)context->data_end };
	type = parse_ethernet(&cursor, &d);
	if (type == cpu_to_be16(ETHERTYPE_IPV4) && parse_ipv4(&cursor, &d))
		return reply(&cursor, &d);
	if (type == cpu_to_be16(ETHERTYPE_IPV6) && parse_ipv6(&cursor, &d))
		return reply(&cursor, &d);
	return XDP_DROP; /* cannot be: it is the same datagram */
}

/*
 * All that follows parsing. XDP_ABORTED: not ours after all. Inlined for each family
 * by itself, so that nothing is asked twice.
 */
static INLINE enum xdp_action answer(struct xdp_md *context, struct cursor *cursor, const struct datagram *d,
				     bool bound)
{
	bool longer, tail = false;
	u32 verdict;

	if (d->udp->destination != PORT || must_stay_with_the_stack(d) || !addressed_to_us(d))
		return XDP_ABORTED;
	verdict = judge(d);
	if (verdict != REFLECTOR_REPLIED)
		return refuse(verdict);

	/* User space limits what is all its own; what is shared is limited here, for both. */
	if (HAND_OVER == HAND_OVER_ALL)
		return hand_over(context, bound, has_tail(context, d));
	longer = d->payload_length > sizeof(struct stamp_request);
	/* What comes after the datagram must not be echoed; a card's own stamp is cut off. */
	if (d->trailer) {
		tail = has_tail(context, d);
		if (!tail && HAND_OVER != HAND_OVER_LONGER)
			return XDP_ABORTED;
		longer |= !tail;
	}
	verdict = admit(d);
	if (verdict != REFLECTOR_REPLIED)
		return refuse(verdict);
	if (longer && HAND_OVER == HAND_OVER_LONGER)
		return hand_over(context, bound, tail);
	if (tail)
		return reply_without_tail(context);
	return reply(cursor, d);
}

/* The whole reflector. `bound`: on a device whose driver can be asked for the card's stamp. */
static INLINE enum xdp_action reflect(struct xdp_md *context, bool bound)
{
	struct cursor cursor = { (void *)(long)context->data, (void *)(long)context->data_end };
	enum xdp_action action = XDP_ABORTED;
	struct datagram d;
	be16 type;

	type = parse_ethernet(&cursor, &d);
	if (type == cpu_to_be16(ETHERTYPE_IPV4)) {
		if (parse_ipv4(&cursor, &d))
			action = answer(context, &cursor, &d, bound);
	} else if (type == cpu_to_be16(ETHERTYPE_IPV6)) {
		if (parse_ipv6(&cursor, &d))
			action = answer(context, &cursor, &d, bound);
	}
	if (action != XDP_ABORTED)
		return action;
	count(REFLECTOR_PASSED);
	return XDP_PASS;
}

#endif
