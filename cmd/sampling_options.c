/* What quad run and quad olss have in common on the command line. */
#include "cmd/sampling_options.h"

#define FIELD(field) QD_FIELD(struct qd_sampling_options, field)
const struct qd_option qd_sampling_table[] = {
	{ "inputs", QD_OPT_TEXT, FIELD(inputs), .untold = true, .required = true, .arg = "FILE",
		.help = "safetensors, .npz or folder of .npy: condition [N,Cc,H,W], encoder_hidden_states [N,L,D], noise "
			"[N,Cl,H,W], which is drawn otherwise" },
	{ "guidance", QD_OPT_NUMBER, FIELD(guidance), .to = 1000, .arg = "G",
		.help = "classifier-free guidance towards negative_hidden_states [N,L,D]; 1 for none" },
	{ "limit", QD_OPT_INT, FIELD(limit), .low = 1, .high = INT32_MAX, .arg = "N", .help = "only the first N samples",
		.absent = "all" },
	{ "batch", QD_OPT_INT, FIELD(batch), .low = 1, .high = 4096, .arg = "N", .help = "samples per call",
		.absent = "at most 8; an export has its own" },
	{ "height", QD_OPT_INT, FIELD(height), .low = 1, .high = 16384, .arg = "N", .help = "of the latents",
		.absent = "as the inputs tell" },
	{ "width", QD_OPT_INT, FIELD(width), .low = 1, .high = 16384, .arg = "N", .help = "of the latents",
		.absent = "as the inputs tell" },
	{ 0 },
};

void qd_sampling_take(struct qd_sampling_options *o, const struct qd_common *common)
{
	if (common->adapters.n > 1)
		qd_usage("one sample has one adapter, %zu given: join files as NAME=PATH+PATH", common->adapters.n);
	o->seed = common->seed;
	o->engine.base = common->base;
	o->engine.threads = common->threads;
	o->engine.adapter = common->adapters.n > 0 ? common->adapters.items[0] : NULL;
}
