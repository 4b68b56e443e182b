/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/*
 * Whose packet it is, and on which arm that session was put.
 *
 * The arm is worked out from the packet alone, by the function that the packet
 * filter's rule has (rules.rs) and the analysis (assignment.rs), written a third
 * time: what is compared must not come from what it is compared with.
 */
#ifndef PATHLAB_SESSION_H
#define PATHLAB_SESSION_H

#include "skb.h"

enum key_from {
	KEY_CLIENT_ADDR_PORT,
	KEY_CLIENT_ADDR,
	KEY_PAYLOAD,
};

enum {
	BUCKETS = 10000,
	LONGEST_KEY = 32,
	/* Words of the longest key, and what the last round reads past it. */
	KEY_WORDS = 12,
	UDP_HEADER = 8,
	PROTOCOL_UDP = 17,
};

volatile const u32 SEED = 0;
volatile const u32 KEY_FROM = KEY_CLIENT_ADDR_PORT;
/* Of a payload key, after the UDP header. */
volatile const u32 KEY_OFFSET = 0;
volatile const u32 KEY_LENGTH = 0;
/* 0: every port. */
volatile const u32 SERVER_PORT = 0;
/* Packets that this host passes on, and not its own. */
volatile const u32 ROUTER = 0;
volatile const u32 HAS_INCLUDE = 0;
volatile const u32 HAS_EXCLUDE = 0;

/* An IPv4 address is its IPv4-mapped IPv6 address. */
struct address {
	u8 bytes[16];
};

struct prefix {
	/* Bits of what follows. */
	u32 length;
	/* 4 or 6, so that ::/0 holds no IPv4 address; then zeroes. */
	u8 family[4];
	struct address address;
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix);
	__type(value, u32);
} INCLUDE SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix);
	__type(value, u32);
} EXCLUDE SEC(".maps");

/* Buckets of the canary arm; a ramp changes it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} SHARE SEC(".maps");

struct datagram {
	struct address source;
	struct address destination;
	u16 source_port;
	u16 destination_port;
	/* From the network header. */
	u32 payload;
	bool is_ipv6;
};

/* Reads a UDP datagram, or the first fragment of one. */
static INLINE bool read_datagram(const struct __sk_buff *skb, struct datagram *to)
{
	be16 ports[2];
	u32 transport;

	/* With the ports in one go, as each call of a helper counts: no datagram is shorter. */
	if (skb->protocol == cpu_to_be16(0x0800)) {
		u8 head[24];

		if (bpf_skb_load_bytes_relative(skb, 0, head, sizeof(head), BPF_HDR_START_NET))
			return false;
		/* A later fragment has no ports. */
		if (head[9] != PROTOCOL_UDP || head[6] & 0x1f || head[7])
			return false;
		transport = (head[0] & 0x0f) * 4;
		__builtin_memcpy(ports, head + 20, sizeof(ports));
		to->is_ipv6 = false;
		__builtin_memset(&to->source, 0, 32);
		to->source.bytes[10] = to->source.bytes[11] = 0xff;
		to->destination.bytes[10] = to->destination.bytes[11] = 0xff;
		__builtin_memcpy(to->source.bytes + 12, head + 12, 4);
		__builtin_memcpy(to->destination.bytes + 12, head + 16, 4);
	} else if (skb->protocol == cpu_to_be16(0x86dd)) {
		u8 head[44];

		if (bpf_skb_load_bytes_relative(skb, 0, head, sizeof(head), BPF_HDR_START_NET))
			return false;
		if (head[6] != PROTOCOL_UDP)
			return false;
		transport = 40;
		__builtin_memcpy(ports, head + 40, sizeof(ports));
		to->is_ipv6 = true;
		__builtin_memcpy(&to->source, head + 8, 16);
		__builtin_memcpy(&to->destination, head + 24, 16);
	} else {
		return false;
	}
	/* Behind options of IPv4. */
	if (transport != (to->is_ipv6 ? 40 : 20) &&
	    bpf_skb_load_bytes_relative(skb, transport, ports, sizeof(ports), BPF_HDR_START_NET))
		return false;
	to->source_port = be16_to_cpu(ports[0]);
	to->destination_port = be16_to_cpu(ports[1]);
	to->payload = transport + UDP_HEADER;
	return true;
}

/* Whether the rules look at it: from the server, and of a client that takes part. */
static INLINE bool takes_part(const struct __sk_buff *skb, const struct datagram *datagram)
{
	struct prefix client = {
		.length = 8 * (sizeof(client.family) + sizeof(client.address)),
		.family = { datagram->is_ipv6 ? 6 : 4 },
		.address = datagram->destination,
	};

	if ((skb->ingress_ifindex != 0) != (ROUTER != 0))
		return false;
	if (SERVER_PORT && datagram->source_port != SERVER_PORT)
		return false;
	if (HAS_EXCLUDE && bpf_map_lookup_elem(&EXCLUDE, &client))
		return false;
	return !HAS_INCLUDE || bpf_map_lookup_elem(&INCLUDE, &client);
}

#define rotate_left(word, bits) ((word) << (bits) | (word) >> (32 - (bits)))

#define MIX_STEP(x, y, z, bits) \
	x -= z;                 \
	x ^= rotate_left(z, bits); \
	z += y

/* Jenkins' lookup3 as Linux has it; words past the end of the key are zero. */
static INLINE u32 jhash(const u32 *key, u32 length, u32 seed)
{
	u32 a, b, c;

	a = b = c = 0xdeadbeef + length + seed;
	/* Twice at most: no key is longer than 32 bytes. */
#pragma unroll
	for (int round = 0; round < 2; round++) {
		if (length <= 12)
			break;
		a += key[0];
		b += key[1];
		c += key[2];
		MIX_STEP(a, b, c, 4);
		MIX_STEP(b, c, a, 6);
		MIX_STEP(c, a, b, 8);
		MIX_STEP(a, b, c, 16);
		MIX_STEP(b, c, a, 19);
		MIX_STEP(c, a, b, 4);
		length -= 12;
		key += 3;
	}
	a += key[0];
	b += key[1];
	c += key[2];
	c ^= b; c -= rotate_left(b, 14);
	a ^= c; a -= rotate_left(c, 11);
	b ^= a; b -= rotate_left(a, 25);
	c ^= b; c -= rotate_left(b, 16);
	a ^= c; a -= rotate_left(c, 4);
	b ^= a; b -= rotate_left(a, 14);
	c ^= b; c -= rotate_left(b, 24);
	return c;
}

/* What is hashed, as the packet filter lays it out in its registers. */
struct session_key {
	u32 words[KEY_WORDS];
	u32 length;
};

/* The session's key; none where a payload ends before it. */
static INLINE bool read_key(const struct __sk_buff *skb, const struct datagram *datagram, struct session_key *key)
{
	const u8 *address = datagram->destination.bytes;
	be16 port = cpu_to_be16(datagram->destination_port);

	__builtin_memset(key, 0, sizeof(*key));
	/* Every field begins a 32-bit register of the packet filter. */
	if (KEY_FROM == KEY_PAYLOAD) {
		u32 length = KEY_LENGTH;

		if (length == 0 || length > LONGEST_KEY)
			return false;
		if (bpf_skb_load_bytes_relative(skb, datagram->payload + KEY_OFFSET, key->words, length,
						BPF_HDR_START_NET))
			return false;
		key->length = length;
	} else if (datagram->is_ipv6) {
		__builtin_memcpy(key->words, address, 16);
		key->length = 16;
		if (KEY_FROM == KEY_CLIENT_ADDR_PORT) {
			__builtin_memcpy(key->words + 4, &port, 2);
			key->length = 20;
		}
	} else {
		__builtin_memcpy(key->words, address + 12, 4);
		key->length = 4;
		if (KEY_FROM == KEY_CLIENT_ADDR_PORT) {
			__builtin_memcpy(key->words + 1, &port, 2);
			key->length = 8;
		}
	}
	return true;
}

/* 0 to 9,999. */
static INLINE u32 bucket_of(const struct session_key *key)
{
	return (u64)jhash(key->words, key->length, SEED) * BUCKETS >> 32;
}

/* Whether its session is on the canary arm; negative when it has no key. */
static INLINE int is_canary(const struct __sk_buff *skb, const struct datagram *datagram)
{
	struct session_key key;
	u32 zero = 0, *share;

	if (!read_key(skb, datagram, &key))
		return -1;
	share = bpf_map_lookup_elem(&SHARE, &zero);
	if (!share)
		return -1;
	return bucket_of(&key) < *share;
}

#endif
