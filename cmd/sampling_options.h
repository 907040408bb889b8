/* Options of the commands that sample: what samples are told, and how many at once. */
#ifndef QUAD_CMD_SAMPLING_OPTIONS_H
#define QUAD_CMD_SAMPLING_OPTIONS_H

#include "cmd/cmd.h"
#include "export/runtime/runtime.h"

enum {
	QD_KEY_INPUTS = 0x500,
	QD_KEY_GUIDANCE,
	QD_KEY_LIMIT,
	QD_KEY_BATCH,
	QD_KEY_HEIGHT,
	QD_KEY_WIDTH,
};
/* Their rows in a command's list. */
#define QD_SAMPLING_OPTIONS                                                                                                        \
	{ "inputs", QD_KEY_INPUTS, "FILE", 0,                                                                                      \
		"safetensors, .npz or folder of .npy: condition [N,Cc,H,W], encoder_hidden_states [N,L,D], noise [N,Cl,H,W] "      \
		"(else drawn)",                                                                                                    \
		1 },                                                                                                               \
		{ "guidance", QD_KEY_GUIDANCE, "G", 0,                                                                             \
			"classifier-free guidance towards negative_hidden_states [N,L,D] (default 1: none)", 1 },                  \
		{ "limit", QD_KEY_LIMIT, "N", 0, "only the first N samples", 1 },                                                  \
		{ "batch", QD_KEY_BATCH, "N", 0, "samples per call (default: at most 8; an export has its own)", 1 },              \
		{ "height", QD_KEY_HEIGHT, "N", 0, "of the latents, where the inputs do not tell", 1 },                            \
	{                                                                                                                          \
		"width", QD_KEY_WIDTH, "N", 0, "of the latents", 1                                                                 \
	}
/* ARGP_ERR_UNKNOWN for other keys. */
error_t qd_sampling_parse(int key, char *arg, struct argp_state *state, struct qd_sampling_options *options);
/* Takes base, seed, threads and adapter from the shared options. QD_EINPUT: more than one adapter. */
QD_CHECK enum qd_status qd_sampling_take(struct qd_sampling_options *options, const struct qd_common *common);

#endif
