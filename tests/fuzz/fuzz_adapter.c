/*
 * Any bytes as an adapter file for a model of seven small layers. Whatever reads must hold together: every layer is the model's,
 * every number finite.
 */
#include <assert.h>
#include <math.h>
#include <stdint.h>

#include "lib/adapter/internal.h"

static struct qd_module items[] = {
	{ .path = "conv_in", .conv = true, .out = 2, .in = 2, .kh = 3, .kw = 3 },
	{ .path = "down_blocks.0.resnets.0.conv1", .conv = true, .out = 2, .in = 2, .kh = 3, .kw = 3 },
	{ .path = "down_blocks.0.attentions.0.proj_in", .conv = true, .out = 2, .in = 2, .kh = 1, .kw = 1 },
	{ .path = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", .out = 2, .in = 2, .kh = 1, .kw = 1 },
	{ .path = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", .out = 2, .in = 3, .kh = 1, .kw = 1 },
	{ .path = "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj", .out = 4, .in = 2, .kh = 1, .kw = 1 },
	{ .path = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0", .out = 2, .in = 2, .kh = 1, .kw = 1 },
};

static const struct qd_modules *modules(void)
{
	static struct qd_modules all;

	while (all.n < QD_COUNT(items)) {
		all.items = items;
		if (qd_strmap_put(&all.by_path, items[all.n].path, (uint32_t)all.n) != QD_OK)
			break;
		all.n++;
	}
	return &all;
}

static void check(const struct qd_adapter *adapter)
{
	assert(adapter->n > 0);
	for (size_t i = 0; i < adapter->n; i++) {
		const struct qd_lora *lora = &adapter->loras[i];
		const struct qd_module *module = qd_modules_find(modules(), lora->path);
		assert(module != NULL && lora->rank > 0 && lora->out == module->out && lora->in == module->in);
		for (int64_t k = 0; k < lora->rank * lora->in * lora->kh * lora->kw; k++)
			assert(isfinite(lora->down[k]));
		for (int64_t k = 0; k < lora->out * lora->rank; k++)
			assert(isfinite(lora->up[k]));
		for (int64_t k = 0; k < lora->rank; k++)
			assert(isfinite(lora->gain[k]));
		for (int64_t k = 0; lora->bias != NULL && k < lora->out; k++)
			assert(isfinite(lora->bias[k]));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct qd_adapter adapter = { 0 };
	struct qd_reading r = { .adapter = &adapter, .modules = modules() };

	if (qd_safetensors_parse(&r.file, "input", data, size) == QD_OK && qd_reading_run(&r, 1) == QD_OK &&
		qd_pieces_load(&adapter, r.pieces) == QD_OK)
		check(&adapter);
	qd_reading_release(&r);
	qd_adapter_release(&adapter);
	return 0;
}
