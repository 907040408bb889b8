#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/network/component_internal.h"
#include "tests/unit/component_help.h"
#include "tests/unit/scratch.h"

enum { MAX_TENSORS = 1024 };

void component_ok(enum qd_status st)
{
	if (st != QD_OK)
		fail_msg("%s", qd_message());
}

void component_golden_values(const char *name, const struct qd_shape *shape, float *out)
{
	uint32_t state = 2166136261U;
	int64_t n = qd_shape_elements(shape), fan_in = shape->rank ? n / shape->dim[0] : 1;
	float scale = (float)sqrt(3.0 / (double)fan_in);
	bool norm = strstr(name, "norm") != NULL && qd_ends_with(name, ".weight");
	for (const char *c = name; *c; c++)
		state = (state ^ (unsigned char)*c) * 16777619U;
	for (int64_t i = 0; i < n; i++) {
		state = state * 1664525U + 1013904223U;
		float v = (float)(state >> 8) / 8388608.0F - 1;
		out[i] = shape->rank >= 2 ? v * scale : norm ? 1 + 0.2F * v : 0.1F * v;
	}
}

void component_each_weight(const struct qd_component *component,
	void (*visit)(void *context, const char *name, const struct qd_shape *shape), void *context)
{
	bool vae = component->kind == QD_COMPONENT_VAE || component->kind == QD_COMPONENT_TINY_VAE;
	for (int part = 0; part < (vae ? 2 : 1); part++) {
		struct qd_component_sizes sizes = {
			.part = (enum qd_vae_part)part, .batch = 1, .height = 128, .width = 128, .tokens = 1
		};
		struct qd_component shapes = *component;
		struct qd_graph g = { 0 };
		memset(&shapes.weights, 0, sizeof(shapes.weights));
		if (component->kind == QD_COMPONENT_UNET)
			component_ok(qd_unet_graph(&g, &shapes.unet, NULL, &(struct qd_sizes){ 1, 128, 128, 1 }));
		else
			component_ok(component->kind == QD_COMPONENT_TEXT ? qd_text_graph(&g, &shapes.text, NULL, &sizes)
									  : qd_vae_graph(&g, &shapes.vae, NULL, &sizes));
		for (size_t i = 0; i < g.n_values; i++)
			if (g.values[i].kind == QD_WEIGHT && g.values[i].data.data == NULL)
				visit(context, g.values[i].name, &g.values[i].shape);
		qd_graph_release(&g);
	}
}

struct maker {
	component_fill fill;
	const char *(*rename)(const char *name, struct qd_shape *shape);
	struct qd_tensor tensors[MAX_TENSORS];
	char *names[MAX_TENSORS];
	size_t n;
};

static void make_tensor(void *context, const char *name, const struct qd_shape *shape)
{
	struct maker *m = context;
	struct qd_shape stored = *shape;
	const char *as = m->rename != NULL ? m->rename(name, &stored) : name;
	if (as == NULL)
		return;
	assert_true(m->n < MAX_TENSORS);
	m->names[m->n] = strdup(as);
	component_ok(qd_tensor_new(&m->tensors[m->n], m->names[m->n], QD_F32, &stored));
	m->fill(name, shape, m->tensors[m->n].data);
	m->n++;
}

const char *component_folder(
	const char *name, const char *config, component_fill fill, const char *(*rename)(const char *name, struct qd_shape *shape))
{
	static struct maker m;
	struct qd_component component = { 0 };
	json_t *json = NULL;
	char path[256];
	mkdir(scratch_path(name), 0777);
	snprintf(path, sizeof(path), "%s/config.json", name);
	scratch_file(path, config, strlen(config));
	component_ok(qd_json_parse(name, config, strlen(config), &json));
	component_ok(qd_component_config_parse(&component, name, json));
	m = (struct maker){ .fill = fill, .rename = rename };
	component_each_weight(&component, make_tensor, &m);
	snprintf(path, sizeof(path), "%s/%s.safetensors", name,
		component.kind == QD_COMPONENT_TEXT ? "model" : "diffusion_pytorch_model");
	component_ok(qd_safetensors_write(scratch_path(path), m.tensors, m.n, NULL, 0, true, NULL, NULL));
	for (size_t i = 0; i < m.n; i++) {
		qd_tensor_release(&m.tensors[i]);
		free(m.names[i]);
	}
	json_decref(json);
	return scratch_path(name);
}
