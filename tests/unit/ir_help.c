/* See ir_help.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/unit/ir_help.h"

double ir_uniform(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return (double)((*state * UINT64_C(2685821657736338717)) >> 11) / 0x1p53;
}

static enum qd_status draw_input(const struct qd_value *v, uint64_t seed, struct qd_tensor *out)
{
	uint64_t state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
	enum qd_status st = qd_tensor_new(out, v->name, v->dtype == QD_F32 ? QD_F32 : QD_I64, &v->shape);

	for (int64_t i = 0; st == QD_OK && i < qd_shape_elements(&v->shape); i++) {
		double u = ir_uniform(&state);
		if (out->dtype == QD_F32)
			((float *)out->data)[i] = (float)(4 * u - 2);
		else
			((int64_t *)out->data)[i] = u < 0.5;
	}
	return st;
}

static enum qd_status run_node(const struct qd_graph *g, const struct qd_node *node, struct ir_run *run)
{
	const struct qd_tensor **in = calloc(node->n_in + 1, sizeof(*in));
	struct qd_tensor *out = calloc(node->n_out + 1, sizeof(*out));
	enum qd_status st;

	for (size_t i = 0; i < node->n_in; i++)
		in[i] = node->in[i] != QD_NONE ? &run->value[node->in[i]] : NULL;
	st = qd_eval_node(g, node, in, out);
	for (size_t i = 0; st == QD_OK && i < node->n_out; i++)
		run->value[node->out[i]] = out[i];
	free(in);
	free(out);
	return st;
}

enum qd_status ir_run(const struct qd_graph *g, uint64_t seed, struct ir_run *run)
{
	enum qd_status st = QD_OK;

	run->n = g->n_values;
	run->value = calloc(g->n_values + 1, sizeof(*run->value));
	for (size_t i = 0; i < g->n_inputs; i++)
		QD_TRY(st, draw_input(&g->values[g->inputs[i]], seed + i, &run->value[g->inputs[i]]));
	for (qd_id id = 0; id < g->n_values; id++)
		if (!g->values[id].dead && g->values[id].kind == QD_WEIGHT)
			QD_TRY(st, qd_graph_constant(g, id, &run->value[id]));
	for (size_t i = 0; i < g->n_order; i++)
		QD_TRY(st, run_node(g, &g->nodes[g->order[i]], run));
out:
	return st;
}

void ir_run_release(struct ir_run *run)
{
	for (size_t i = 0; run->value != NULL && i < run->n; i++)
		qd_tensor_release(&run->value[i]);
	free(run->value);
	*run = (struct ir_run){ 0 };
}

char *ir_text(const struct qd_tensor *t)
{
	char shape[QD_SHAPE_TEXT], *text = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);

	fprintf(f, "%s %s {", qd_dtype_name(t->dtype), qd_shape_text(&t->shape, shape));
	for (int64_t i = 0; i < qd_shape_elements(&t->shape); i++) {
		fputs(i > 0 ? ", " : "", f);
		if (t->dtype == QD_F32)
			fprintf(f, "%.6g", (double)((float *)t->data)[i]);
		else
			fprintf(f, "%" PRId64, ((int64_t *)t->data)[i]);
	}
	fputc('}', f);
	fclose(f);
	return text;
}

void ir_parse(struct qd_graph *g, const char *text)
{
	if (qd_graph_parse(g, "test", text) != QD_OK)
		fail_msg("%s", qd_message());
}
