/*
 * Any bytes as what a command line says of an adapter, beside files whose names hold what separates: refused with a message, or an
 * adapter of whole layers.
 */
#include <assert.h>
#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/adapter/adapter.h"
#include "tests/unit/scratch.h"

enum { LONGEST = 512 };

static struct qd_module item = { .path = "mid_block.attentions.0.proj_in", .out = 3, .in = 2, .kh = 1, .kw = 1 };

/* The model's modules, and the files, in the working folder; `*back` is where that was before. */
static const struct qd_modules *set_up(int *back)
{
	static const char *const files[] = { "a", "a+b", "c.safetensors", "d@2", "e=f", "+", "@1" };
	static struct qd_modules modules;
	const struct qd_module *list[] = { &item };
	struct qd_adapter adapter = { 0 };

	*back = open(".", O_RDONLY | O_DIRECTORY);
	if (*back < 0 || chdir(scratch_dir()) != 0)
		abort();
	if (modules.n > 0)
		return &modules;
	modules = (struct qd_modules){ .items = &item, .n = 1 };
	if (qd_strmap_put(&modules.by_path, item.path, 0) != QD_OK || qd_adapter_new(&adapter, "a", list, 1, 2, 0.5f) != QD_OK)
		abort();
	for (int i = 0; i < 4; i++)
		adapter.loras[0].down[i] = (float)(i + 1);
	for (int i = 0; i < 6; i++)
		adapter.loras[0].up[i] = (float)(i - 2);
	for (size_t i = 0; i < QD_COUNT(files); i++)
		if (qd_adapter_write(&adapter, files[i], QD_F32, false, true) != QD_OK)
			abort();
	qd_adapter_release(&adapter);
	return &modules;
}

static enum qd_status count(void *context, const char *path)
{
	assert(path != NULL && *path != '\0');
	++*(size_t *)context;
	return QD_OK;
}

static void check(const struct qd_adapter *adapter, size_t files)
{
	const struct qd_lora *lora = &adapter->loras[0];

	assert(adapter->n == 1 && lora->rank == 2 * (int64_t)files && *adapter->name != '\0');
	for (int64_t k = 0; k < 2 * lora->rank; k++)
		assert(isfinite(lora->down[k]));
	for (int64_t k = 0; k < 3 * lora->rank; k++)
		assert(isfinite(lora->up[k]));
	for (int64_t k = 0; k < lora->rank; k++)
		assert(isfinite(lora->gain[k]));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct qd_modules *modules;
	struct qd_adapter adapter;
	char text[LONGEST + 1] = "";
	size_t files = 0;
	int back;

	memcpy(text, data, size < LONGEST ? size : LONGEST);
	if (strchr(text, '/') != NULL) /* nothing but what was put there */
		return 0;
	modules = set_up(&back);
	if (qd_adapter_spec_each(text, count, &files) != QD_OK)
		assert(*qd_message() != '\0');
	if (qd_adapter_open_spec(&adapter, text, modules) == QD_OK)
		check(&adapter, files);
	else
		assert(*qd_message() != '\0');
	qd_adapter_release(&adapter);
	if (fchdir(back) != 0 || close(back) != 0)
		abort();
	return 0;
}
