/*
 * How to quantize, as options: one for each field of struct qd_quant_options.
 */
#include "cmd/cmd.h"

#include <string.h>

enum {
	KEY_WEIGHT_BITS = 0x300,
	KEY_LORA_BITS,
	KEY_ACT_BITS,
	KEY_WEIGHT_SCHEME,
	KEY_SHARE,
	KEY_ALIGN,
	KEY_METHOD,
	KEY_ANCHOR,
	KEY_EQUAL_LEVEL,
	KEY_OBSERVER,
	KEY_PERCENTILE,
	KEY_DIVERGENCE,
	KEY_SCOPE,
	KEY_SLOTS,
	KEY_RANK,
	GROUP_QUANT = 5,
	MAX_RANK = 65536,
};

const struct argp_option qd_quant_argp_options[] = {
	{ "weight-bits", KEY_WEIGHT_BITS, "4|8|16", 0, "bits of base weights (8)", GROUP_QUANT },
	{ "lora-bits", KEY_LORA_BITS, "8|16", 0, "bits of LoRA tensors (8)", GROUP_QUANT },
	{ "act-bits", KEY_ACT_BITS, "0|8|16", 0, "bits of activations, 0 leaves them float (16)", GROUP_QUANT },
	{ "weight-scheme", KEY_WEIGHT_SCHEME, "per-channel|per-tensor", 0, "scales of base weights (per-channel)", GROUP_QUANT },
	{ "share", KEY_SHARE, "slot|layer", 0, "what adapters share: one encoding per tensor position, or one per layer (slot)",
		GROUP_QUANT },
	{ "align", KEY_ALIGN, "none|gauge|gain", 0, "rescale adapters to fill the shared ranges (gain)", GROUP_QUANT },
	{ "method", KEY_METHOD, "auto|anchor|unified", 0, "whose encodings are shared (auto)", GROUP_QUANT },
	{ "anchor", KEY_ANCHOR, "NAME", 0, "take this adapter's encodings", GROUP_QUANT },
	{ "equal-level", KEY_EQUAL_LEVEL, "P", 0, "significance below which adapters count as equally sensitive (0.05)",
		GROUP_QUANT },
	{ "observer", KEY_OBSERVER, "minmax|percentile|mse", 0, "ranges of activations (minmax)", GROUP_QUANT },
	{ "percentile", KEY_PERCENTILE, "P", 0, "what the percentile observer keeps (99.99)", GROUP_QUANT },
	{ "divergence", KEY_DIVERGENCE, "js|kl|mse|cosine", 0, "distance that QSS measures (js)", GROUP_QUANT },
	{ "scope", KEY_SCOPE, "adapter|model", 0, "what QSS quantizes (adapter)", GROUP_QUANT },
	{ "slots", KEY_SLOTS, "union|attention|transformer|all|FILE", 0, "layers that get a slot (union of the adapters)",
		GROUP_QUANT },
	{ "rank", KEY_RANK, "N", 0, "rank of every slot (the largest adapter's)", GROUP_QUANT },
	{ 0 },
};

static const char *const schemes[] = { "per-channel", "per-tensor", NULL };

static int parse_bits(struct argp_state *state, const char *option, const char *arg, const char *const *names)
{
	qd_parse_choice(state, option, arg, names);
	return (int)qd_parse_int(state, option, arg, 0, 32);
}

static error_t parse_numbers(int key, char *arg, struct argp_state *state, struct qd_quant_options *options)
{
	static const char *const weight_bits[] = { "4", "8", "16", NULL }, *const lora_bits[] = { "8", "16", NULL },
				 *const act_bits[] = { "0", "8", "16", NULL };
	switch (key) {
	case KEY_WEIGHT_BITS:
		options->weight_bits = parse_bits(state, "weight-bits", arg, weight_bits);
		return 0;
	case KEY_LORA_BITS:
		options->lora_bits = parse_bits(state, "lora-bits", arg, lora_bits);
		return 0;
	case KEY_ACT_BITS:
		options->act_bits = parse_bits(state, "act-bits", arg, act_bits);
		return 0;
	case KEY_EQUAL_LEVEL:
		options->equal_level = qd_parse_number(state, "equal-level", arg, 0, 1);
		return 0;
	case KEY_PERCENTILE:
		options->percentile = qd_parse_number(state, "percentile", arg, 50, 100);
		return 0;
	case KEY_RANK:
		options->rank = qd_parse_int(state, "rank", arg, 1, MAX_RANK);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

error_t qd_quant_parse(int key, char *arg, struct argp_state *state, struct qd_quant_options *options)
{
	switch (key) {
	case KEY_WEIGHT_SCHEME:
		options->weight_per_channel = qd_parse_choice(state, "weight-scheme", arg, schemes) == 0;
		return 0;
	case KEY_SHARE:
		options->share = (enum qd_share)qd_parse_choice(state, "share", arg, qd_share_names);
		return 0;
	case KEY_ALIGN:
		options->align = (enum qd_align)qd_parse_choice(state, "align", arg, qd_align_names);
		return 0;
	case KEY_METHOD:
		options->method = (enum qd_method)qd_parse_choice(state, "method", arg, qd_method_names);
		return 0;
	case KEY_ANCHOR:
		options->anchor = arg;
		return 0;
	case KEY_OBSERVER:
		options->observer = (enum qd_observer_kind)qd_parse_choice(state, "observer", arg, qd_observer_names);
		return 0;
	case KEY_DIVERGENCE:
		options->divergence = (enum qd_divergence)qd_parse_choice(state, "divergence", arg, qd_divergence_names);
		return 0;
	case KEY_SCOPE:
		options->scope = (enum qd_scope)qd_parse_choice(state, "scope", arg, qd_scope_names);
		return 0;
	case KEY_SLOTS:
		options->slots = arg;
		return 0;
	default:
		return parse_numbers(key, arg, state, options);
	}
}
