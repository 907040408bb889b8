/*
 * For tests of the engine: graphs of text with random weights.
 */
#ifndef QUAD_TESTS_UNIT_ENGINE_HELP_H
#define QUAD_TESTS_UNIT_ENGINE_HELP_H

#include "lib/ir/ir.h"
#include "lib/math/math.h"

/*
 * A small UNet of N images with everything that has a step of its own: a residual block with an embedding per channel, a transformer
 * with attention, a LoRA branch and a gated feed-forward, downsampling, upsampling, a skip connection; weights in F16 and BF16 among
 * them.
 */
extern const char *const engine_net;

/* The graph of a text that must parse, in which $<number> stands for that number times `images`. */
void engine_parse(struct qd_graph *g, const char *text, int images, struct qd_random *random);

#endif
