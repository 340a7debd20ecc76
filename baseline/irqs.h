/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * irqs.h: which interrupts are those of a device's queues: read out of /proc/interrupts, whose last column is the name that the
 * driver gave: "virtio1-input.0", "eth0-rxtx-1", "eth0-TxRx-3", "mlx5_comp2@pci:...", beside "virtio1-config", "eth0-event-2".
 */
#pragma once

#include "engine/base.h"

/*
 * The name of interrupt @irq in @text, the whole of /proc/interrupts: copied to @ret. -ENOENT: it is not there, or nobody has asked
 * for it yet.
 */
int irqs_name(const char *text, unsigned int irq, char *ret, size_t size);

/* The number of the queue that an interrupt of such a name serves; -1: it serves none (configuration, events, administration) */
int irqs_queue(const char *name);
