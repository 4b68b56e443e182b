// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * A stateless STAMP Session-Reflector in the driver: a request to our port is
 * turned round in its own buffer and leaves by the port on which it came.
 *
 *   not ours -> XDP_PASS, untouched    ours, no reply due -> XDP_DROP, counted
 *                                      ours               -> XDP_TX
 */
#include "abi.h"
#include "addresses.h"
#include "csum.h"
#include "parse.h"
#include "stamp.h"

/* Set before loading, read-only after. */
const volatile u16 PORT = 862;
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

static INLINE struct ntp_time now(const struct reflector_clock *clock, u64 fixed)
{
	struct ntp_time time;

	if (!fixed)
		return ntp_time(bpf_ktime_get_tai_ns() - clock->tai_minus_utc);
	time.seconds = cpu_to_be32((u32)(fixed >> 32));
	time.fraction = cpu_to_be32((u32)fixed);
	return time;
}

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
	struct address source = source_of(d);
	enum reflector_counter verdict;

	if (d->payload_length < sizeof(struct stamp_request))
		return REFLECTOR_SHORT;
	if (d->udp->source == cpu_to_be16(PORT))
		return REFLECTOR_SOURCE_PORT_OURS;
	if (d->udp->source == 0)
		return REFLECTOR_SOURCE_PORT_ZERO;
	if (d->ethernet->source[0] & MAC_GROUP)
		return REFLECTOR_SOURCE_MAC_GROUP;
	verdict = d->v4 ? judge_source_v4(source.word[3]) : judge_source_v6(&source);
	if (verdict != REFLECTOR_REPLIED)
		return verdict;
	switch (role(&source)) {
	case ADDRESS_OURS:
		return REFLECTOR_SOURCE_OURS;
	case ADDRESS_BROADCAST:
		return REFLECTOR_SOURCE_BROADCAST;
	}
	return REFLECTOR_REPLIED;
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

static INLINE void write_reply(const struct datagram *d, struct stamp_request *request,
			       const struct reflector_clock *clock, struct ntp_time t2)
{
	struct stamp_reply reply = {
		.sequence = request->sequence,	/* stateless: the sender's own */
		.error_estimate = cpu_to_be16(clock->error_estimate),
		.ssid = request->ssid,
		.receive_timestamp = t2,
		.sender_sequence = request->sequence,
		.sender_timestamp = request->timestamp,
		.sender_error_estimate = request->error_estimate,
		.sender_ttl = renew_ttl(d),
		.timestamp = now(clock, FIXED_T3),
	};

	if (d->udp->check)
		d->udp->check = csum_finish_udp(csum_replace((u16)~d->udp->check, (const u32 *)request,
							     (const u32 *)&reply, STAMP_WORDS));
	__builtin_memcpy(request, &reply, sizeof(reply));
}

/* The whole reflector, shared by every program that answers in the driver. */
static INLINE enum xdp_action reflect(struct xdp_md *context)
{
	struct cursor cursor = { (void *)(long)context->data, (void *)(long)context->data_end };
	struct reflector_counters *counters;
	struct reflector_clock *clock;
	enum reflector_counter verdict;
	struct stamp_request *request;
	struct datagram d;
	struct ntp_time t2;
	u32 zero = 0;

	counters = bpf_map_lookup_elem(&COUNTERS, &zero);
	clock = bpf_map_lookup_elem(&CLOCK, &zero);
	if (!counters || !clock)
		return XDP_PASS; /* cannot be: both have entry 0 */

	if (!parse_datagram(&cursor, &d) || d.udp->destination != cpu_to_be16(PORT))
		goto pass;
	t2 = now(clock, FIXED_T2);
	if (!addressed_to_us(&d))
		goto pass;
	/* What comes after the datagram (a card's own stamp) must not be echoed. */
	request = take(&cursor, sizeof(*request));
	verdict = judge(&d);
	if (verdict == REFLECTOR_REPLIED && (!request || d.trailer))
		goto pass;

	counters->count[REFLECTOR_RECEIVED]++;
	counters->count[verdict]++;
	if (verdict != REFLECTOR_REPLIED || !request)
		return XDP_DROP;
	turn_round(&d);
	write_reply(&d, request, clock, t2);
	return XDP_TX;

pass:
	counters->count[REFLECTOR_PASSED]++;
	return XDP_PASS;
}

SEC("xdp")
int reflector(struct xdp_md *context)
{
	return reflect(context);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
