// SPDX-License-Identifier: GPL-2.0
/* /sys/class/net/DEVICE/testnic/: one file a knob, a number each. */
#include <linux/rtnetlink.h>

#include "testnic.h"

struct knob {
	struct device_attribute attribute;
	enum testnic_knob number;
};

static const struct knob *knob_of(struct device_attribute *attribute)
{
	return container_of(attribute, struct knob, attribute);
}

static ssize_t show(struct device *dev, struct device_attribute *attribute, char *text)
{
	struct testnic_port *port = netdev_priv(to_net_dev(dev));

	return sysfs_emit(text, "%lld\n", port->knobs[knob_of(attribute)->number]);
}

static ssize_t store(struct device *dev, struct device_attribute *attribute, const char *text, size_t length)
{
	struct net_device *netdev = to_net_dev(dev);
	struct testnic_port *port = netdev_priv(netdev);
	enum testnic_knob number = knob_of(attribute)->number;
	s64 value;
	int error = kstrtos64(text, 10, &value);

	if (error)
		return error;
	if (value < 0 && number != KNOB_OSCILLATOR_PPB)
		return -ERANGE;
	rtnl_lock();
	port->knobs[number] = value;
	if (number == KNOB_OSCILLATOR_PPB)
		testnic_clock_oscillator(&port->clock, value);
	/* As drivers without it: the kernel refuses programs that would ask. */
	if (number == KNOB_KFUNC)
		netdev->xdp_metadata_ops = value ? &testnic_xdp_metadata_ops : NULL;
	rtnl_unlock();
	return length;
}

#define KNOB(name, number) static struct knob name = { __ATTR(name, 0644, show, store), number }

KNOB(wire_delay_ns, KNOB_WIRE_DELAY_NS);
KNOB(oscillator_ppb, KNOB_OSCILLATOR_PPB);
KNOB(receive_all, KNOB_RECEIVE_ALL);
KNOB(transmit_all, KNOB_TRANSMIT_ALL);
KNOB(kfunc, KNOB_KFUNC);
KNOB(tail, KNOB_TAIL);
KNOB(latches, KNOB_LATCHES);
KNOB(slots, KNOB_SLOTS);
KNOB(stamp_latency_ns, KNOB_STAMP_LATENCY_NS);
KNOB(lose_transmit, KNOB_LOSE_TRANSMIT);
KNOB(lose_receive, KNOB_LOSE_RECEIVE);

static struct attribute *attributes[] = {
	&wire_delay_ns.attribute.attr,
	&oscillator_ppb.attribute.attr,
	&receive_all.attribute.attr,
	&transmit_all.attribute.attr,
	&kfunc.attribute.attr,
	&tail.attribute.attr,
	&latches.attribute.attr,
	&slots.attribute.attr,
	&stamp_latency_ns.attribute.attr,
	&lose_transmit.attribute.attr,
	&lose_receive.attribute.attr,
	NULL
};

const struct attribute_group testnic_knobs_group = { .name = "testnic", .attrs = attributes };
