/*
 * Random weights, as PyTorch initializes the same layers: weight and bias of a linear or convolution uniform in +-1/sqrt(fan in),
 * norms 1 and 0. Every tensor has its own stream of random numbers, from the seed and the tensor's name, and every CHUNK elements
 * of it their own again: the same bytes come out whatever the order, the sharding or the number of threads.
 */
#include "lib/adapter/adapter.h"
#include "lib/math/math.h"
#include "lib/network/component_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 1 << 16 };

/* How one tensor is filled: uniform in [-bound, bound), or the constant when the bound is 0. */
struct rule {
	uint64_t stream;
	float bound, constant;
};

struct filler {
	const struct qd_tensor *tensors;
	const struct rule *rules;
	uint64_t seed;
};

/* FNV-1a, 64 bits. */
static uint64_t name_hash(const char *name)
{
	uint64_t hash = 0xcbf29ce484222325U;
	for (; *name; name++)
		hash = (hash ^ (unsigned char)*name) * 0x100000001b3U;
	return hash;
}

static void fill_chunk(const struct rule *rule, uint64_t seed, uint64_t chunk, size_t n, float *out)
{
	struct qd_random random;
	qd_random_init(&random, seed, rule->stream + chunk * 0x9e3779b97f4a7c15U);
	for (size_t i = 0; i < n; i++) {
		/* 24 bits are exact in float32 */
		float u = (float)(int32_t)(qd_random_u64(&random) >> 40) * 0x1p-23F - 1;
		out[i] = rule->bound > 0 ? u * rule->bound : rule->constant;
	}
}

/* Elements [first, first + n) of a tensor, in its type. `scratch` holds n floats. */
static enum qd_status fill_part(
	const struct filler *f, size_t tensor, size_t first, size_t n, unsigned char *buffer, float *scratch)
{
	enum qd_dtype dtype = f->tensors[tensor].dtype;
	size_t width = qd_dtype_bits(dtype) / 8;
	struct qd_tensor part = qd_tensor_view("part", dtype, QD_SHAPE((int64_t)n), buffer + first * width);
	fill_chunk(&f->rules[tensor], f->seed, first / CHUNK, n, scratch);
	return qd_tensor_from_f32(&part, scratch);
}

static enum qd_status fill_randomly(void *context, size_t i, void *buffer)
{
	const struct filler *f = context;
	int64_t total = qd_shape_elements(&f->tensors[i].shape);
	enum qd_status st = QD_OK;
#pragma omp parallel
	{
		float *scratch = malloc(CHUNK * sizeof(*scratch));
#pragma omp for schedule(static)
		for (int64_t first = 0; first < total; first += CHUNK) {
			size_t n = (size_t)(total - first < CHUNK ? total - first : CHUNK);
			enum qd_status own = scratch ? fill_part(f, i, (size_t)first, n, buffer, scratch) : QD_ENOMEM;
			if (own != QD_OK) {
#pragma omp critical
				st = own;
			}
		}
		free(scratch);
	}
	return st == QD_OK ? QD_OK : qd_fail(st, "cannot fill tensor '%s'", f->tensors[i].name);
}

/* The rule of "<path>.weight" or "<path>.bias": both follow the shape of the weight. */
static struct rule rule_of(const struct qd_graph *g, const struct qd_value *value)
{
	struct rule rule = { .stream = name_hash(value->name) };
	bool bias = qd_ends_with(value->name, ".bias");
	char name[512];
	int stem = (int)(strrchr(value->name, '.') - value->name);
	snprintf(name, sizeof(name), "%.*s.weight", stem, value->name);
	qd_id id = qd_graph_find(g, name);
	const struct qd_shape *shape = id == QD_NONE ? &value->shape : &g->values[id].shape;
	if (shape->rank < 2) {
		rule.constant = bias ? 0 : 1;
		return rule;
	}
	int64_t fan_in = 1;
	for (int d = 1; d < shape->rank; d++)
		fan_in *= shape->dim[d];
	rule.bound = (float)(1 / sqrt((double)fan_in));
	return rule;
}

/* Weights of a graph built without bytes: the constants that have none. */
static bool is_parameter(const struct qd_value *value)
{
	return value->kind == QD_WEIGHT && !value->data.data;
}

/* What is written: the parameters of all graphs, with their rules. */
struct parameters {
	struct qd_tensor *tensors;
	struct rule *rules;
	size_t n, cap_tensors, cap_rules;
};

static enum qd_status collect(struct parameters *p, const struct qd_graph *g, enum qd_dtype dtype)
{
	enum qd_status st = QD_OK;
	for (size_t i = 0; i < g->n_values; i++) {
		if (!is_parameter(&g->values[i]))
			continue;
		QD_TRY(st, qd_grow(&p->rules, &p->cap_rules, p->n + 1, sizeof(*p->rules)));
		QD_TRY(st, qd_grow(&p->tensors, &p->cap_tensors, p->n + 1, sizeof(*p->tensors)));
		p->rules[p->n] = rule_of(g, &g->values[i]);
		p->tensors[p->n++] = qd_tensor_view(g->values[i].name, dtype, g->values[i].shape, NULL);
	}
out:
	return st;
}

enum qd_status qd_init_weights(
	const struct qd_graph *const *graphs, size_t n, uint64_t seed, enum qd_dtype dtype, const char *path, bool force)
{
	static const char *const metadata[] = { "format", "pt" };
	struct parameters p = { 0 };
	enum qd_status st = QD_OK;
	for (size_t i = 0; i < n; i++)
		QD_TRY(st, collect(&p, graphs[i], dtype));
	struct filler filler = { p.tensors, p.rules, seed };
	QD_TRY(st, qd_safetensors_write(path, p.tensors, p.n, metadata, 1, force, fill_randomly, &filler));
out:
	free(p.tensors);
	free(p.rules);
	return st;
}

void qd_count_parameters(const struct qd_graph *g, uint64_t *parameters, uint64_t *tensors)
{
	for (size_t i = 0; i < g->n_values; i++) {
		if (!is_parameter(&g->values[i]))
			continue;
		*parameters += (uint64_t)qd_shape_elements(&g->values[i].shape);
		++*tensors;
	}
}

enum qd_status qd_unet_parameters(const struct qd_unet_config *config, struct qd_graph *g, uint64_t *parameters, uint64_t *tensors)
{
	int64_t side = (int64_t)1 << (config->blocks - 1);
	struct qd_sizes sizes = { .batch = 1, .height = side, .width = side, .tokens = 1 };
	enum qd_status st = qd_unet_graph(g, config, NULL, &sizes);
	*parameters = *tensors = 0;
	if (st == QD_OK)
		qd_count_parameters(g, parameters, tensors);
	return st;
}

enum qd_status qd_unet_init(const struct qd_unet_config *config, uint64_t seed, enum qd_dtype dtype, const char *path, bool force)
{
	struct qd_graph g = { 0 };
	const struct qd_graph *graph = &g;
	uint64_t parameters = 0, count = 0;
	enum qd_status st;
	QD_TRY(st, qd_unet_parameters(config, &g, &parameters, &count));
	QD_TRY(st, qd_init_weights(&graph, 1, seed, dtype, path, force));
out:
	qd_graph_release(&g);
	return st;
}

/* ---- adapters ---- */

/* `n` numbers uniform in +-1/sqrt(fan_in), from the stream of `name`. */
static void fill_matrix(float *out, size_t n, int64_t fan_in, const char *name, uint64_t seed)
{
	struct rule rule = { .stream = name_hash(name), .bound = (float)(1 / sqrt((double)fan_in)) };
	fill_chunk(&rule, seed, 0, n, out);
}

static void fill_lora(struct qd_lora *lora, uint64_t seed)
{
	char name[512];
	int64_t inputs = lora->in * lora->kh * lora->kw;
	snprintf(name, sizeof(name), "%s%s", lora->path, qd_lora_suffix(QD_LORA_DOWN));
	fill_matrix(lora->down, (size_t)(lora->rank * inputs), inputs, name, seed);
	snprintf(name, sizeof(name), "%s%s", lora->path, qd_lora_suffix(QD_LORA_UP));
	fill_matrix(lora->up, (size_t)(lora->out * lora->rank), lora->rank, name, seed);
}

enum qd_status qd_lora_init(
	const struct qd_unet_config *config, int64_t rank, uint64_t seed, enum qd_dtype dtype, const char *path, bool force)
{
	struct qd_graph g = { 0 };
	struct qd_modules modules = { 0 };
	struct qd_adapter adapter = { 0 };
	const struct qd_module **chosen = NULL;
	uint64_t parameters, tensors;
	size_t n = 0;
	enum qd_status st;
	QD_TRY(st, qd_unet_parameters(config, &g, &parameters, &tensors));
	QD_TRY(st, qd_modules_of(&modules, &g));
	chosen = calloc(modules.n + 1, sizeof(*chosen));
	if (!chosen)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	for (size_t i = 0; i < modules.n; i++) {
		if (strstr(modules.items[i].path, "attentions."))
			chosen[n++] = &modules.items[i];
	}
	if (n == 0)
		QD_TRY(st, qd_fail(QD_EINPUT, "the model has no transformers to adapt"));
	QD_TRY(st, qd_adapter_new(&adapter, "random", chosen, n, rank, 1));
	for (size_t i = 0; i < adapter.n; i++)
		fill_lora(&adapter.loras[i], seed);
	QD_TRY(st, qd_adapter_write(&adapter, path, dtype, false, force));
out:
	qd_adapter_release(&adapter);
	free(chosen);
	qd_modules_release(&modules);
	qd_graph_release(&g);
	return st;
}
