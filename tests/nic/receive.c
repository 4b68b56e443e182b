// SPDX-License-Identifier: GPL-2.0
/* What has come: its stamp, the XDP program, and the stack. */
#include <linux/bpf_trace.h>
#include <linux/filter.h>

#include "testnic.h"

/* What the metadata kfuncs find around the buff of a program. */
struct testnic_buff {
	struct xdp_buff xdp;
	u64 stamp;
};

/*
 * Stamps a frame as it arrives. Where the stamp of PTP goes into a register, it is taken
 * until the driver's socket path has read it: what comes meanwhile has none.
 */
void testnic_stamp_arrival(struct testnic_port *port, struct page *page)
{
	struct testnic_frame *frame = page_address(page);
	bool all = port->stamping.rx_filter == HWTSTAMP_FILTER_ALL;

	frame->stamp = 0;
	frame->latched = false;
	if (port->stamping.rx_filter == HWTSTAMP_FILTER_NONE)
		return;
	if (!all && !testnic_is_ptp_event(testnic_data(page), frame->length))
		return;
	if (port->knobs[KNOB_LATCHES] && !all) {
		if (atomic_read(&port->latches_taken) >= port->knobs[KNOB_LATCHES]) {
			testnic_count(port, COUNT_RX_STAMPS_LATCHED_OUT);
			return;
		}
		atomic_inc(&port->latches_taken);
		frame->latched = true;
	}
	frame->stamp = testnic_clock_at(&port->clock, frame->sent);
	if (testnic_loses(port, KNOB_LOSE_RECEIVE, COUNT_RX_STAMPS))
		frame->stamp = 0;
	testnic_count(port, COUNT_RX_STAMPS);
}

/* The card's own form: seconds in the upper word, nanoseconds in the lower. */
static u64 tail_of(u64 stamp)
{
	u32 nanoseconds;
	u64 seconds = div_u64_rem(stamp, NSEC_PER_SEC, &nanoseconds);

	return seconds << 32 | nanoseconds;
}

static bool has_tail(const struct testnic_port *port)
{
	return port->knobs[KNOB_TAIL] && port->stamping.rx_filter == HWTSTAMP_FILTER_ALL;
}

static int xmo_rx_timestamp(const struct xdp_md *context, u64 *timestamp)
{
	const struct testnic_buff *buff = (const void *)context;

	if (!buff->stamp)
		return -ENODATA;
	*timestamp = buff->stamp;
	return 0;
}

const struct xdp_metadata_ops testnic_xdp_metadata_ops = {
	.xmo_rx_timestamp = xmo_rx_timestamp,
};

/* The driver's socket path; what XDP left of the frame lies between data and data_end. */
static void to_stack(struct testnic_queue *queue, const struct testnic_buff *buff, struct page *page, bool latched)
{
	struct testnic_port *port = queue->port;
	const struct xdp_buff *xdp = &buff->xdp;
	u64 stamp = buff->stamp;
	struct sk_buff *skb = napi_build_skb(page_address(page), PAGE_SIZE);

	if (!skb) {
		put_page(page);
		return;
	}
	skb_reserve(skb, xdp->data - xdp->data_hard_start);
	skb_put(skb, xdp->data_end - xdp->data);
	if (xdp->data > xdp->data_meta)
		skb_metadata_set(skb, xdp->data - xdp->data_meta);
	if (has_tail(port) && skb->len > TESTNIC_TAIL) {
		/* Whatever is there: the driver cannot know that a program has cut it. */
		__le64 tail;

		skb_copy_bits(skb, skb->len - TESTNIC_TAIL, &tail, TESTNIC_TAIL);
		skb_trim(skb, skb->len - TESTNIC_TAIL);
		stamp = (le64_to_cpu(tail) >> 32) * NSEC_PER_SEC + (u32)le64_to_cpu(tail);
	}
	if (stamp)
		skb_hwtstamps(skb)->hwtstamp = ns_to_ktime(stamp);
	if (latched)
		atomic_dec(&port->latches_taken);
	skb_record_rx_queue(skb, queue - port->queues);
	DEV_STATS_INC(port->dev, rx_packets);
	DEV_STATS_ADD(port->dev, rx_bytes, skb->len);
	skb->protocol = eth_type_trans(skb, port->dev);
	napi_gro_receive(&queue->napi, skb);
}

/* Sends a frame back from where it came, in the page in which it came. */
static void turn_round(struct testnic_port *port, const struct xdp_buff *xdp, struct page *page)
{
	u32 length = xdp->data_end - xdp->data;

	memmove(testnic_data(page), xdp->data, length);
	testnic_count(port, COUNT_XDP_TX);
	testnic_send(port, page, length, ktime_get_raw_ns());
}

/* True when frames were redirected, which the caller has to flush. */
static bool receive(struct testnic_queue *queue, struct testnic_frame *frame)
{
	struct testnic_port *port = queue->port;
	struct page *page = virt_to_page(frame);
	struct testnic_buff buff = { .stamp = frame->stamp };
	bool latched = frame->latched;
	u32 length = frame->length;
	struct bpf_prog *program;
	u32 action = XDP_PASS;

	if (has_tail(port)) {
		__le64 tail = cpu_to_le64(tail_of(frame->stamp));

		memcpy(testnic_data(page) + length, &tail, TESTNIC_TAIL);
		length += TESTNIC_TAIL;
	}
	xdp_init_buff(&buff.xdp, PAGE_SIZE, &queue->xdp);
	xdp_prepare_buff(&buff.xdp, page_address(page), XDP_PACKET_HEADROOM, length, true);
	program = rcu_dereference(port->program);
	if (program)
		action = bpf_prog_run_xdp(program, &buff.xdp);
	switch (action) {
	case XDP_PASS:
		to_stack(queue, &buff, page, latched);
		return false;
	case XDP_TX:
		turn_round(port, &buff.xdp, page);
		return false;
	case XDP_REDIRECT:
		if (!xdp_do_redirect(port->dev, &buff.xdp, program)) {
			testnic_count(port, COUNT_XDP_REDIRECT);
			return true;
		}
		break;
	case XDP_DROP:
		break;
	default:
		bpf_warn_invalid_xdp_action(port->dev, program, action);
		fallthrough;
	case XDP_ABORTED:
		trace_xdp_exception(port->dev, program, action);
	}
	testnic_count(port, COUNT_XDP_DROP);
	put_page(page);
	return false;
}

int testnic_poll(struct napi_struct *napi, int budget)
{
	struct testnic_queue *queue = container_of(napi, struct testnic_queue, napi);
	bool redirected = false, more;
	int done = 0;

	while (done < budget) {
		struct testnic_frame *frame;
		unsigned long flags;

		spin_lock_irqsave(&queue->lock, flags);
		frame = list_first_entry_or_null(&queue->ring, struct testnic_frame, list);
		if (frame) {
			list_del(&frame->list);
			queue->ringed--;
		}
		spin_unlock_irqrestore(&queue->lock, flags);
		if (!frame)
			break;
		redirected |= receive(queue, frame);
		done++;
	}
	if (redirected)
		xdp_do_flush();
	if (done < budget && napi_complete_done(napi, done)) {
		spin_lock_irq(&queue->lock);
		more = !list_empty(&queue->ring);
		spin_unlock_irq(&queue->lock);
		if (more)
			napi_schedule(napi);
	}
	return done;
}
